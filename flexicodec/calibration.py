"""From a wanted corpus rate to a threshold: tau for a folder of speech, with how much clips differ around it.

One similarity pass per clip serves every threshold that is tried.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from flexicodec.audio import read_audio
from flexicodec.merging import Threshold, check_frame_rate

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au")


@dataclass(frozen=True)
class Calibration:
    """A threshold and what it gives on the corpus it was fitted to.

    Attributes:
        threshold: tau; pass it to `encode(threshold=...)`.
        frame_rate: The corpus rate that was asked for, tokens per second.
        mean: Corpus rate at this threshold: all tokens over all seconds.
        std: Standard deviation of the clips' own rates.
        n: Clips that were read.
        seconds: Speech in all.
        skipped: Files that could not be read, with the reason.
    """

    threshold: float
    frame_rate: float
    mean: float
    std: float
    n: int
    seconds: float
    skipped: tuple[str, ...] = ()


def calibrate(
    codec: Any,
    speech: str | Path | Iterable[str | Path],
    frame_rate: float,
    *,
    max_duration: int | None = None,
    progress: bool = False,
) -> Calibration:
    """Find the threshold whose corpus rate comes nearest to `frame_rate`.

    Args:
        codec: A codec with `features` (see `FlexiCodec.features`).
        speech: A folder (searched through), or audio files.
        frame_rate: Tokens per second over the whole corpus.
        max_duration: Most frames per token; None takes the model's.
        progress: Show a bar.

    Raises:
        ValueError: No file could be read, or the rate is out of range.
    """
    paths = find_audio(speech)
    cap = codec.max_duration if max_duration is None else max_duration
    check_frame_rate(frame_rate, codec.base_frame_rate, cap)
    similarities, lengths, seconds, skipped = [], [], [], []
    for path in tqdm(paths, desc="calibrate", disable=not progress):
        try:
            audio = read_audio(path, sample_rate=codec.sample_rate)
            features = codec.features(audio)
        except (ValueError, OSError) as error:
            skipped.append(f"{path}: {error}")
            continue
        similarities.append(features.similarities[0].cpu())
        lengths.append(int(features.lengths[0]))
        seconds.append(audio.shape[1] / codec.sample_rate)
    if not lengths:
        raise ValueError(f"none of {len(paths)} files could be read; first: {skipped[0] if skipped else 'no files'}")
    return fit_threshold(similarities, lengths, seconds, frame_rate, cap, tuple(skipped))


def fit_threshold(
    similarities: list[torch.Tensor],
    lengths: list[int],
    seconds: list[float],
    frame_rate: float,
    max_duration: int | None,
    skipped: tuple[str, ...] = (),
) -> Calibration:
    """Bisect tau: the token count never falls as the threshold rises.

    Only thresholds at which some pair of frames changes sides matter, so the search runs over the sorted similarities.
    """
    padded = torch.nn.utils.rnn.pad_sequence(similarities, batch_first=True)
    counts = torch.tensor(lengths)

    def tokens(threshold: float) -> torch.Tensor:
        return (Threshold(threshold)(padded, counts, max_duration=max_duration) > 0).sum(1)

    candidates = torch.cat([torch.tensor([-1.0]), torch.cat(similarities).unique(), torch.tensor([1.0])]).tolist()
    target = frame_rate * sum(seconds)
    low, high = 0, len(candidates) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if int(tokens(candidates[middle]).sum()) <= target else (low, middle)
    best = min((candidates[low], candidates[high]), key=lambda tau: abs(int(tokens(tau).sum()) - target))
    found = tokens(best)
    rates = found / torch.tensor(seconds)
    return Calibration(
        threshold=best,
        frame_rate=float(frame_rate),
        mean=float(found.sum()) / sum(seconds),
        std=float(rates.std()) if len(rates) > 1 else 0.0,
        n=len(lengths),
        seconds=sum(seconds),
        skipped=skipped,
    )


def find_audio(speech: str | Path | Iterable[str | Path]) -> list[Path]:
    """List the audio files of a folder (and below), or of a list of files and folders.

    Raises:
        ValueError: There are none.
    """
    given = [speech] if isinstance(speech, (str, Path)) else list(speech)
    found: list[Path] = []
    for path in map(Path, given):
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
        else:
            found.append(path)
    if not found:
        raise ValueError(f"no audio files in {', '.join(map(str, given)) or 'an empty list'}")
    return found
