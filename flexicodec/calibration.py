"""`calibrate`: the threshold or price at which a corpus has a given frame rate, and the spread of its clips' rates.

Features are computed once per clip and serve every value that is tried.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from flexicodec.audio import read_audio
from flexicodec.corpus import Utterance, read_manifest, read_utterance
from flexicodec.corpus.layouts.scan import LIST_SUFFIXES
from flexicodec.io_utils import find
from flexicodec.merging import Threshold, check_frame_rate, make_policy
from flexicodec.merging.registry import fitted_setting
from flexicodec.models.codec import UNSET

BISECTIONS = 26  # of thresholds and prices, whose range spans twelve powers of ten


@dataclass(frozen=True)
class Calibration:
    """A threshold, or a price, and the rates of the corpus it was fitted to, in tokens per second."""

    threshold: float  # tau, for `encode(threshold=...)`; of another policy its threshold or price
    frame_rate: float  # the corpus rate asked for
    mean: float  # corpus rate at this threshold: all tokens over all seconds
    std: float  # standard deviation of the rates of clips
    n: int  # clips read
    seconds: float  # of speech in all
    skipped: tuple[str, ...] = ()  # files that could not be read, with the reason
    policy: str = "threshold"  # for `encode(policy=...)`, with the value that was found unless it is "threshold"


def calibrate(
    codec: Any,
    speech: str | Path | Iterable[str | Path],
    frame_rate: float,
    *,
    policy: str = "threshold",
    max_duration: int | None = UNSET,
    progress: bool = False,
) -> Calibration:
    """Find the threshold or price whose corpus rate is nearest to `frame_rate`.

    Args:
        codec: A codec with `features`, as FlexiCodec has.
        speech: Folders, searched with their subfolders, audio files, or JSONL manifests.
        frame_rate: Tokens per second over the whole corpus.
        policy: Name, and settings behind a colon, of what has a threshold, or else a price (`merging.registry`).
        max_duration: Most frames per token; None for no cap. The model's own by default.
        progress: Show a bar.
    """
    if codec.format.max_duration == 1:
        raise ValueError(f"this model has a fixed rate of {codec.base_frame_rate:g} Hz; there is no threshold to find")
    given = [speech] if isinstance(speech, str | Path) else speech
    clips = [clip for path in given for clip in _clips(Path(path))]
    cap = codec.max_duration if max_duration is UNSET else max_duration
    if isinstance(check_frame_rate(frame_rate, codec.base_frame_rate, cap), tuple):
        raise ValueError(f"frame_rate is {frame_rate!r}; expected one number, that of the corpus")
    setting = fitted_setting(policy)
    similarities = []
    kept = []
    lengths = []
    seconds = []
    skipped = []
    for clip in tqdm(clips, desc="calibrate", disable=not progress):
        try:
            audio = _read(clip, codec.sample_rate)
            features = codec.features(audio)
        except (ValueError, OSError) as error:
            skipped.append(f"{clip.id if isinstance(clip, Utterance) else clip}: {error}")
            continue
        if policy == "threshold":
            similarities.append(features.similarities[0].cpu())
        else:
            kept.append(features)
        lengths.append(int(features.lengths[0]))
        seconds.append(audio.shape[1] / codec.sample_rate)
    if not lengths:
        raise ValueError(f"none of {len(clips)} files could be read; first: {skipped[0] if skipped else 'no files'}")
    if policy == "threshold":
        return fit_threshold(similarities, lengths, seconds, frame_rate, cap, tuple(skipped))
    return fit_policy(policy, setting, kept, seconds, frame_rate, cap, tuple(skipped))


def _clips(path: Path) -> Sequence[Path | Utterance]:
    return read_manifest(path) if path.name.lower().endswith(LIST_SUFFIXES) else find(path)


def _read(clip: Path | Utterance, sample_rate: int) -> torch.Tensor:
    """Read a clip as mono, [1, samples]."""
    if isinstance(clip, Utterance):
        return torch.from_numpy(read_utterance(clip, sample_rate))[None]
    return read_audio(clip, sample_rate=sample_rate, channels="mix")


def fit_threshold(
    similarities: list[torch.Tensor],
    lengths: list[int],
    seconds: list[float],
    frame_rate: float,
    max_duration: int | None,
    skipped: tuple[str, ...] = (),
) -> Calibration:
    """Bisect tau over the sorted similarities: the token count never falls as the threshold rises.

    All thresholds between two neighbouring similarities give the same tokens. The middle of the interval is returned,
    so that neither float noise nor printing it with a few digits changes a token.
    """
    padded = torch.nn.utils.rnn.pad_sequence(similarities, batch_first=True)
    counts = torch.tensor(lengths, device=padded.device)

    def tokens_per_clip(threshold: float) -> torch.Tensor:
        return (Threshold(threshold)(padded, counts, max_duration=max_duration) > 0).sum(1)

    def distance(index: int) -> float:
        return int(tokens_per_clip(candidates[index]).sum()) - target

    # Invariant: at most `target` tokens at `low`, more at `high`.
    candidates = [-1.0, *torch.cat(similarities).unique().tolist(), 1.0]
    target = frame_rate * sum(seconds)
    low = 0
    high = len(candidates) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if distance(middle) <= 0:
            low = middle
        else:
            high = middle
    nearest = min((low, high), key=lambda index: abs(distance(index)))
    best = candidates[nearest]
    found = tokens_per_clip(best)
    # Move to the middle of the interval, unless its ends are neighbours in float32.
    between = (best + candidates[min(nearest + 1, len(candidates) - 1)]) / 2
    if torch.equal(tokens_per_clip(between), found):
        best = between
    return _calibration(best, frame_rate, found, seconds, skipped)


def fit_policy(
    policy: str,
    setting: str,
    features: Sequence[Any],
    seconds: list[float],
    frame_rate: float,
    max_duration: int | None,
    skipped: tuple[str, ...] = (),
) -> Calibration:
    """Bisect a policy's threshold or price, and keep the value whose count was nearest.

    Counts need not be monotone in a threshold, so that this may not be the nearest one of all.

    Args:
        policy: Name, and settings behind a colon.
        setting: To fit: "threshold" or "price".
        features: Of a clip each.
        seconds: Of the clips.
        frame_rate: Tokens per second over all clips.
        max_duration: Most frames per token; None for no cap.
        skipped: Passed on.
    """

    def text(value: float) -> str:
        separator = "," if ":" in policy else ":"
        return f"{policy}{separator}{setting}={value:.6g}"

    def tokens_per_clip(value: float) -> torch.Tensor:
        rule = make_policy(text(value))
        counts = []
        for clip in features:
            found = rule(clip.similarities, clip.lengths, max_duration=max_duration, **clip.for_policy(rule))
            counts.append(found.shape[1])
        return torch.tensor(counts)

    target = frame_rate * sum(seconds)
    start: Any = make_policy(text(0.5))
    low, high = start.setting_range
    falls = int(tokens_per_clip(low).sum()) > int(tokens_per_clip(high).sum())
    tried = []
    for _ in range(BISECTIONS):
        middle = (low * high) ** 0.5 if low > 0 else (low + high) / 2
        counts = tokens_per_clip(middle)
        tried.append((abs(int(counts.sum()) - target), middle, counts))
        if (int(counts.sum()) > target) == falls:
            low = middle
        else:
            high = middle
    _, best, counts = min(tried, key=lambda each: each[0])
    return _calibration(float(f"{best:.6g}"), frame_rate, counts, seconds, skipped, text(best))


def _calibration(
    value: float,
    frame_rate: float,
    counts: torch.Tensor,
    seconds: list[float],
    skipped: tuple[str, ...],
    policy: str = "threshold",
) -> Calibration:
    rates = counts / torch.tensor(seconds, dtype=torch.float32, device=counts.device)
    return Calibration(
        threshold=value,
        frame_rate=float(frame_rate),
        mean=float(counts.sum()) / sum(seconds),
        std=float(rates.std()) if len(rates) > 1 else 0.0,
        n=len(seconds),
        seconds=sum(seconds),
        skipped=skipped,
        policy=policy,
    )
