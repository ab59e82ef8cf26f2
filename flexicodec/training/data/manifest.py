"""Manifests: JSONL files with a line for each clip, saying where its audio lies, who speaks and what is said.

A line holds `path` (relative to the manifest, or absolute), `start` (seconds into the file, 0 where absent), `duration`
(seconds) and, where known, `text`, `speaker` and `corpus`. Lines with `duration_s` and `text_norm`, as in the corpora
this project shares, are read too (`text_norm` before `text`), and so are lhotse cuts (see `cuts`).
"""

import gzip
import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexicodec.files import replacing

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Utterance:
    """One clip of speech: a file, or a stretch of one.

    Attributes:
        path: The audio file.
        duration: Seconds.
        start: Seconds into the file.
        text: What is said.
        speaker: Who says it.
        corpus: Where it is from.
    """

    path: Path
    duration: float
    start: float = 0.0
    text: str | None = None
    speaker: str | None = None
    corpus: str | None = None


Keep = Callable[[Utterance], bool]


def read_manifest(path: str | os.PathLike[str]) -> list[Utterance]:
    """Read a JSONL manifest (`.gz` too), or lhotse cuts, which are told by their first line.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: No lines, or one that is not JSON, lacks `path` or `duration`, or holds values that cannot be; the
            message names file and line.
        ImportError: The file holds cuts and lhotse is not installed.
    """
    path = Path(path)
    if _holds_cuts(path):
        from flexicodec.training.data.cuts import read_cuts

        return read_cuts(path)
    utterances = []
    for number, line in _lines(path):
        try:
            utterances.append(_utterance(json.loads(line), path.parent))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{path}:{number}: expected a JSON object with path and duration in seconds ({error!r})"
            ) from error
    if not utterances:
        raise ValueError(f"{path} lists no utterances")
    return utterances


def write_manifest(path: str | os.PathLike[str], utterances: Iterable[Utterance]) -> None:
    """Write a manifest, whole or not at all; audio below its folder is named relative to it, other audio absolutely."""
    folder = Path(os.path.abspath(path)).parent
    with replacing(path) as part, part.open("w", encoding="utf-8") as file:
        for utterance in utterances:
            audio = Path(os.path.abspath(utterance.path))
            name = audio.relative_to(folder) if audio.is_relative_to(folder) else audio
            row = {
                "path": name.as_posix(),
                "start": round(utterance.start, 6),
                "duration": round(utterance.duration, 6),
                **spoken(utterance),
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def spoken(utterance: Utterance) -> dict[str, str]:
    """What is known of an utterance besides its audio, as manifests and shards hold it."""
    known = {"text": utterance.text, "speaker": utterance.speaker, "corpus": utterance.corpus}
    return {name: value for name, value in known.items() if value is not None}


@dataclass(frozen=True)
class Filter:
    """Which utterances to train on.

    Attributes:
        shortest: Seconds.
        longest: Seconds.
        keep: Says what else is wanted; None for everything.
    """

    shortest: float = 0.0
    longest: float = math.inf
    keep: Keep | None = None

    def indices(self, utterances: Sequence[Utterance]) -> list[int]:
        """Return the indices of those that are wanted."""
        return [
            i
            for i, u in enumerate(utterances)
            if self.shortest <= u.duration <= self.longest and (self.keep is None or self.keep(u))
        ]

    def select(self, utterances: Sequence[Utterance], name: str) -> list[int]:
        """Do the same and log how many are left out, `name` being what they are."""
        kept = self.indices(utterances)
        short = sum(u.duration < self.shortest for u in utterances)
        long = sum(u.duration > self.longest for u in utterances)
        _log.info(
            "%s: %d utterances, %.2f hours; left out %d shorter than %g s, %d longer than %g s, %d not wanted",
            name,
            len(kept),
            sum(utterances[i].duration for i in kept) / 3600,
            short,
            self.shortest,
            long,
            self.longest,
            len(utterances) - len(kept) - short - long,
        )
        return kept


def locate(name: str, folder: Path) -> Path:
    """Find a file named in a list: absolute, else below the list's folder, else below the current one."""
    below = folder / name
    return below if Path(name).is_absolute() or below.exists() or not Path(name).exists() else Path(name).absolute()


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line


def _holds_cuts(path: Path) -> bool:
    """Tell lhotse's cuts by the first line."""
    try:
        row = json.loads(next(_lines(path))[1])
    except (StopIteration, ValueError):
        return False
    if not isinstance(row, Mapping):
        return False
    if "sources" in row and "sampling_rate" in row:
        raise ValueError(f"{path} holds lhotse recordings; make cuts of them with `lhotse cut simple`")
    return str(row.get("type", "")).endswith("Cut")


def _utterance(row: Mapping[str, Any], folder: Path) -> Utterance:
    duration = float(row["duration"] if "duration" in row else row["duration_s"])
    start = float(row.get("start", 0.0))
    if not (math.isfinite(duration) and duration > 0):
        raise ValueError(f"duration is {duration}; expected seconds above 0")
    if not (math.isfinite(start) and start >= 0):
        raise ValueError(f"start is {start}; expected seconds of at least 0")
    return Utterance(
        path=folder / row["path"],
        duration=duration,
        start=start,
        text=row.get("text_norm", row.get("text")),
        speaker=row.get("speaker"),
        corpus=row.get("corpus"),
    )
