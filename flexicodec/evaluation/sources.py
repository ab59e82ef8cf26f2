"""Models that measure, named "kind:source": where their weights come from, and what to say if they cannot be had."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np


def split_spec(spec: str, kinds: Sequence[str], what: str) -> tuple[str, str]:
    """Part a spec at its first colon.

    Raises:
        ValueError: No kind or no source, or a kind that there is not; `what` names what was to be opened.
    """
    kind, _, source = str(spec).partition(":")
    if kind not in kinds or not source:
        examples = ", ".join(f"{known}:SOURCE" for known in kinds)
        raise ValueError(f"{spec!r} is no {what}; expected {examples}, the source being a folder or a hub id")
    return kind, source


@contextmanager
def opening(what: str, source: str) -> Iterator[None]:
    """Turn whatever goes wrong while weights are fetched and read into one clear error.

    Raises:
        ValueError: Says what was wanted, from where, what went wrong, and how to get it.
        ImportError: A library is missing; passed on as it is.
    """
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise ValueError(
            f"cannot open {source!r} as {what} ({type(error).__name__}: {reason[0] if reason else 'no reason given'}). "
            "Expected a folder with its files, or a hub id that is in the local cache or can be downloaded; without a "
            f"network, run `hf download {source}` elsewhere, copy the folder here and pass its path"
        ) from error


def fetch(what: str, source: str, patterns: Sequence[str]) -> Path:
    """Give a local path as it is, or a folder with the matching files of a hub repository, fetched or from the cache.

    Raises:
        ValueError: See `opening`.
    """
    if Path(source).exists():
        return Path(source)
    with opening(what, source):
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(source, allow_patterns=list(patterns)))


def check_clips(clips: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the clips as float32 arrays [S].

    Raises:
        ValueError: A clip that is no 1-D float array, has no samples, or holds NaN or Inf.
    """
    if isinstance(clips, np.ndarray):
        raise ValueError(f"clips is one array of shape {list(clips.shape)}; expected a list with an array [S] per clip")
    for index, clip in enumerate(clips):
        if not isinstance(clip, np.ndarray) or clip.ndim != 1 or not clip.size or clip.dtype.kind != "f":
            got = f"{clip.dtype} {list(clip.shape)}" if isinstance(clip, np.ndarray) else type(clip).__name__
            raise ValueError(f"clip {index} is {got}; expected a float array [S] with at least 1 sample")
        if not np.isfinite(clip).all():
            raise ValueError(f"clip {index} holds NaN or Inf")
    return [np.asarray(clip, dtype=np.float32) for clip in clips]
