"""What tokens hold: phones, syllables or words per token, and how long tokens last by what sounds.

Conventions: a segment belongs to the token that holds its midpoint, so that segments per token average to exactly all
segments over all tokens; a token is of the class of the phone that sounds at its middle. `offset` moves tokens in time,
see `offset`. Everything is counted clip by clip, and intervals come from drawing clips, or clusters of clips.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from flexicodec.analysis.coded import Coded
from flexicodec.analysis.segments import CLASSES, Segment, label_at, phone_class, spoken
from flexicodec.statistics import Interval, bootstrap
from flexicodec.statistics.entropy import counts_entropy

MANY = 4  # phones per token from which on they are counted together
RESAMPLES = 2000
ALL, SPEECH = "all", "speech"  # beside the classes of phones

Clusters = Sequence[Hashable] | None
Tier = Sequence[Segment]


# ------------------------------------------------------------------------------------------------- segments per token


@dataclass(frozen=True)
class PerToken:
    """How many segments (phones, syllables, words, letters) tokens hold.

    Attributes:
        mean: Segments per token.
        shares: Of the tokens, how many hold 0, 1, 2, ... segments; the last entry is `MANY` or more.
        entropy_bits: Of the number of segments in a token, up to `MANY`.
        tokens: Counted.
        segments: Counted.
        outside: Of them, how many lie past the last token's end and were given to it.
    """

    mean: Interval
    shares: tuple[Interval, ...]
    entropy_bits: Interval
    tokens: int
    segments: int
    outside: int


def count_per_token(coded: Coded, tier: Tier, offset: float = 0.0) -> Int[np.ndarray, " tokens"]:
    """Count the segments, silences left out, whose midpoint lies in each token of a clip."""
    ends = np.cumsum(coded.durations) * coded.frame_seconds + offset
    index = np.searchsorted(ends, [s.middle for s in spoken(tier)], side="right")
    return np.bincount(np.minimum(index, coded.num_tokens - 1), minlength=coded.num_tokens)


def per_token(
    clips: Sequence[Coded],
    tiers: Sequence[Tier],
    *,
    clusters: Clusters = None,
    offset: float = 0.0,
    resamples: int = RESAMPLES,
) -> PerToken:
    """Count segments per token over clips.

    Args:
        clips: Their tokens.
        tiers: Segments of each clip; silences do not count.
        clusters: Speaker of each clip.
        offset: Seconds that tokens are moved by.
        resamples: For the intervals.

    Raises:
        ValueError: No clips, or not one tier for each.
    """
    check_pairs(clips, tiers)
    counts = [count_per_token(clip, tier, offset) for clip, tier in zip(clips, tiers, strict=True)]
    segments = np.array([each.sum() for each in counts])
    histograms = np.array([np.bincount(np.minimum(each, MANY), minlength=MANY + 1) for each in counts])

    def interval(statistic: Callable[..., float], *arrays: np.ndarray) -> Interval:
        return bootstrap(statistic, *arrays, clusters=clusters, resamples=resamples)

    ends = [clip.num_frames * clip.frame_seconds + offset for clip in clips]
    outside = sum(s.middle >= end for tier, end in zip(tiers, ends, strict=True) for s in spoken(tier))
    return PerToken(
        mean=interval(ratio, segments, histograms.sum(1)),
        shares=tuple(interval(ratio, histograms[:, n], histograms.sum(1)) for n in range(MANY + 1)),
        entropy_bits=interval(lambda rows: counts_entropy(rows.sum(0)), histograms),
        tokens=int(histograms.sum()),
        segments=int(segments.sum()),
        outside=outside,
    )


def ratio(numerators: Float[np.ndarray, " clips"], denominators: Float[np.ndarray, " clips"]) -> float:
    """Divide sums, not the average of quotients; NaN where there is nothing to divide by."""
    whole = denominators.sum()
    return float(numerators.sum() / whole) if whole else float("nan")


# -------------------------------------------------------------------------------------------------- durations by class


@dataclass(frozen=True)
class ClassDurations:
    """How long tokens last where one class of phone sounds.

    Attributes:
        name: One of `CLASSES`, `ALL`, or `SPEECH` for all but silence.
        histogram: Tokens of 1, 2, ... frames.
        mean: Frames per token.
        capped: Share of tokens with as many frames as the cap allows; None without a cap.
    """

    name: str
    histogram: tuple[int, ...]
    mean: Interval
    capped: Interval | None

    @property
    def tokens(self) -> int:
        """Counted."""
        return sum(self.histogram)


def durations_by_class(
    clips: Sequence[Coded],
    tiers: Sequence[Tier],
    *,
    clusters: Clusters = None,
    offset: float = 0.0,
    resamples: int = RESAMPLES,
) -> list[ClassDurations]:
    """Count durations of tokens by the class of the phone at their middle; all, speech, then classes that occur.

    Raises:
        ValueError: No clips, or not one tier for each.
    """
    check_pairs(clips, tiers)
    cap = clips[0].max_duration
    longest = cap or max(int(clip.durations.max()) for clip in clips)
    table = np.zeros((len(clips), len(CLASSES), longest), dtype=np.int64)
    for row, clip, tier in zip(table, clips, tiers, strict=True):
        kinds = np.array([CLASSES.index(phone_class(label)) for label in label_at(tier, clip.middles(offset))])
        row += np.bincount(kinds * longest + clip.durations - 1, minlength=row.size).reshape(row.shape)

    def summary(name: str, histograms: Int[np.ndarray, "clips durations"]) -> ClassDurations:
        tokens, frames = histograms.sum(1), histograms @ np.arange(1, longest + 1)
        share = None
        if cap is not None:
            share = bootstrap(ratio, histograms[:, cap - 1], tokens, clusters=clusters, resamples=resamples)
        mean = bootstrap(ratio, frames, tokens, clusters=clusters, resamples=resamples)
        return ClassDurations(name, tuple(histograms.sum(0).tolist()), mean, share)

    speech = [i for i, name in enumerate(CLASSES) if name != "silence"]
    found = [(ALL, table.sum(1)), (SPEECH, table[:, speech].sum(1))]
    found += [(name, table[:, i]) for i, name in enumerate(CLASSES) if table[:, i].any()]
    return [summary(name, histograms) for name, histograms in found]


def check_pairs(clips: Sequence[Coded], tiers: Sequence[Tier]) -> None:
    """Raise ValueError unless there are clips, with a tier for each."""
    if not clips or len(clips) != len(tiers):
        raise ValueError(f"{len(clips)} clips and {len(tiers)} tiers of segments; expected one tier for each of some")
