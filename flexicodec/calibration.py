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
from flexicodec.io_utils import find
from flexicodec.merging import Threshold, check_frame_rate
from flexicodec.models.codec import UNSET


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
    max_duration: int | None = UNSET,
    progress: bool = False,
) -> Calibration:
    """Find the threshold whose corpus rate comes nearest to `frame_rate`.

    Args:
        codec: A codec with `features` (see `FlexiCodec.features`).
        speech: A folder (searched through), or audio files.
        frame_rate: Tokens per second over the whole corpus.
        max_duration: Most frames per token; None for no cap. The model's own by default.
        progress: Show a bar.

    Raises:
        ValueError: No file could be read, the rate is out of range, or the codec has one rate only.
    """
    if codec.format.max_duration == 1:
        raise ValueError(f"this model has a fixed rate of {codec.base_frame_rate:g} Hz; there is no threshold to find")
    given = [speech] if isinstance(speech, (str, Path)) else list(speech)
    paths = [file for path in given for file in find(Path(path))]
    cap = codec.max_duration if max_duration is UNSET else max_duration
    if isinstance(check_frame_rate(frame_rate, codec.base_frame_rate, cap), tuple):
        raise ValueError(f"frame_rate is {frame_rate!r}; expected one number, that of the corpus")
    similarities, lengths, seconds, skipped = [], [], [], []
    for path in tqdm(paths, desc="calibrate", disable=not progress):
        try:
            audio = read_audio(path, sample_rate=codec.sample_rate, channels="mix")
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
    Any threshold up to the next one gives the same tokens, and the one in the middle is found: float noise, or printing
    it with a few digits, then moves no pair across.
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
    nearest = min((low, high), key=lambda index: abs(int(tokens(candidates[index]).sum()) - target))
    best, found = candidates[nearest], tokens(candidates[nearest])
    between = (best + candidates[min(nearest + 1, len(candidates) - 1)]) / 2
    if torch.equal(tokens(between), found):  # unless the two are neighbours in float32
        best = between
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
