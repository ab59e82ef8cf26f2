"""Contents of tokens: phones, syllables and words per token, durations by class of phone, and merge probabilities.

A segment belongs to the token that holds its midpoint, so that segments per token average to all segments over all
tokens. A token or frame is of the class of the phone at its middle. `offset` shifts tokens and frames in time, see
`boundary_scores.Offset`. Everything is counted by clip; the bootstrap resamples clips, or clusters of clips.
"""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Int

from flexicodec.analysis.acoustic_features import frame_energies_db
from flexicodec.analysis.token_timeline import TokenTimeline
from flexicodec.corpus.alignments.alignment import SAME_TIME, Segment, label_at
from flexicodec.corpus.alignments.phones import (
    CLASSES,
    alphabet_of,
    has_primary_stress,
    is_silence,
    phone_class,
    without_silence,
)
from flexicodec.statistics import FittedModel, Interval, bootstrap, logistic_model
from flexicodec.statistics.entropy import counts_entropy

MANY = 4  # segments per token from which on they are counted together
RESAMPLES = 2000
ALL = "all"  # beside the classes of phones
SPEECH = "speech"  # all classes but silence

Clusters = Sequence[Hashable] | None  # speaker of each clip
Tier = Sequence[Segment]


def _check_pairs(clips: Sequence[TokenTimeline], tiers: Sequence[Tier]) -> None:
    if not clips or len(clips) != len(tiers):
        raise ValueError(f"{len(clips)} clips and {len(tiers)} tiers of segments; expected one tier for each of some")


def ratio_of_sums(numerators: Float[np.ndarray, " clips"], denominators: Float[np.ndarray, " clips"]) -> float:
    """Divide the sums; NaN where the denominators add up to 0."""
    whole = denominators.sum()
    return float(numerators.sum() / whole) if whole else float("nan")


# ------------------------------------------------------------------------------------------------- segments per token


@dataclass(frozen=True)
class SegmentsPerToken:
    """Number of segments (phones, syllables, words, letters) in a token."""

    mean: Interval
    shares: tuple[Interval, ...]  # of tokens with 0, 1, 2, ... segments; the last entry is `MANY` or more
    entropy_bits: Interval  # of the number of segments in a token, up to `MANY`
    tokens: int
    segments: int
    outside: int  # segments past the end of the last token, which are counted in it


def count_per_token(clip: TokenTimeline, tier: Tier, offset: float = 0.0) -> Int[np.ndarray, " tokens"]:
    """Count the segments, silences left out, whose midpoint lies in each token of a clip."""
    ends = np.cumsum(clip.durations) * clip.frame_seconds + offset
    index = np.searchsorted(ends, [s.middle for s in without_silence(tier)], side="right")
    return np.bincount(np.minimum(index, clip.num_tokens - 1), minlength=clip.num_tokens)


def segments_per_token(
    clips: Sequence[TokenTimeline],
    tiers: Sequence[Tier],
    *,
    clusters: Clusters = None,
    offset: float = 0.0,
    resamples: int = RESAMPLES,
) -> SegmentsPerToken:
    """Count the segments of each clip's tier per token; silences do not count."""
    _check_pairs(clips, tiers)
    segments = np.zeros(len(clips), dtype=np.int64)
    histograms = np.zeros((len(clips), MANY + 1), dtype=np.int64)
    outside = 0
    for i, (clip, tier) in enumerate(zip(clips, tiers, strict=True)):
        counts = count_per_token(clip, tier, offset)
        segments[i] = counts.sum()
        histograms[i] = np.bincount(np.minimum(counts, MANY), minlength=MANY + 1)
        end = clip.num_frames * clip.frame_seconds + offset
        outside += sum(s.middle >= end for s in without_silence(tier))
    tokens = histograms.sum(1)
    interval = partial(bootstrap, clusters=clusters, resamples=resamples)
    return SegmentsPerToken(
        mean=interval(ratio_of_sums, segments, tokens),
        shares=tuple(interval(ratio_of_sums, column, tokens) for column in histograms.T),
        entropy_bits=interval(lambda rows: counts_entropy(rows.sum(0)), histograms),
        tokens=int(tokens.sum()),
        segments=int(segments.sum()),
        outside=outside,
    )


# -------------------------------------------------------------------------------------------------- durations by class


@dataclass(frozen=True)
class ClassDurations:
    """Durations of the tokens of one class."""

    name: str  # one of `CLASSES`, `ALL`, or `SPEECH`
    histogram: tuple[int, ...]  # tokens of 1, 2, ... frames
    mean: Interval  # frames per token
    capped: Interval | None  # share of tokens with as many frames as the cap allows; None without a cap

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return sum(self.histogram)


def durations_by_class(
    clips: Sequence[TokenTimeline],
    tiers: Sequence[Tier],
    *,
    clusters: Clusters = None,
    offset: float = 0.0,
    resamples: int = RESAMPLES,
) -> list[ClassDurations]:
    """Count durations of tokens by the class of the phone at their middle: all, speech, then classes that occur."""
    _check_pairs(clips, tiers)
    cap = clips[0].max_duration
    longest = cap or max(int(clip.durations.max()) for clip in clips)
    table = np.zeros((len(clips), len(CLASSES), longest), dtype=np.int64)
    for of_clip, clip, tier in zip(table, clips, tiers, strict=True):
        labels = label_at(tier, clip.middles(offset))
        alphabet = alphabet_of(s.label for s in tier)
        kinds = np.array([CLASSES.index(phone_class(label, alphabet)) for label in labels])
        np.add.at(of_clip, (kinds, clip.durations - 1), 1)

    histograms = {ALL: table.sum(1), SPEECH: table.sum(1) - table[:, CLASSES.index("silence")]}
    for i, name in enumerate(CLASSES):
        if table[:, i].any():
            histograms[name] = table[:, i]
    ratio = partial(bootstrap, ratio_of_sums, clusters=clusters, resamples=resamples)
    found = []
    for name, counts in histograms.items():
        tokens = counts.sum(1)
        mean = ratio(counts @ np.arange(1, longest + 1), tokens)
        capped = None
        if cap is not None:
            capped = ratio(counts[:, cap - 1], tokens)
        found.append(ClassDurations(name, tuple(counts.sum(0).tolist()), mean, capped))
    return found


# ------------------------------------------------------------------------------------------------- merge probabilities

KINDS = ("inside", "across", "beyond")
"""Pairs of neighbouring frames: inside one segment, across two that follow each other, or with at least one whole
segment between the two middles, since phones often last less than a frame of 80 ms."""


@dataclass(frozen=True)
class MergeProbability:
    """How often two neighbouring frames share a token, given the phones at their middles."""

    kind: str  # one of `KINDS`
    first: str  # class of the earlier frame; `ALL` for every class
    second: str  # class of the later frame
    pairs: int
    share: Interval  # of pairs that share a token


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Every two neighbouring frames of a clip."""

    kinds: Int[np.ndarray, " pairs"]  # index into `KINDS`
    first: list[str]  # class at the earlier frame's middle
    second: list[str]
    merged: Bool[np.ndarray, " pairs"]  # whether they share a token
    position: Float[np.ndarray, " pairs"]  # of the edge between the frames in the first one's phone, 0 to 1
    stressed: Bool[np.ndarray, " pairs"]  # whether both lie in one vowel with primary stress


def neighbours(clip: TokenTimeline, tier: Tier, offset: float = 0.0) -> Neighbours:
    """Classify every two neighbouring frames of a clip."""
    middles = (np.arange(clip.num_frames) + 0.5) * clip.frame_seconds + offset
    segments = _fill_gaps(tier)
    index = np.maximum(np.searchsorted([s.start for s in segments], middles, side="right") - 1, 0)
    at_frame = [segments[i] for i in index]
    alphabet = alphabet_of(s.label for s in tier)
    classes = [phone_class(s.label, alphabet) for s in at_frame]
    kinds = np.minimum(np.diff(index), KINDS.index("beyond"))
    is_last = np.zeros(clip.num_frames, dtype=bool)
    is_last[np.cumsum(clip.durations) - 1] = True

    position = np.ones(len(kinds))
    stressed = np.zeros(len(kinds), dtype=bool)
    edges = (middles[:-1] + middles[1:]) / 2
    for i, segment in enumerate(at_frame[:-1]):
        stressed[i] = kinds[i] == 0 and has_primary_stress(segment.label)
        if segment.duration:
            position[i] = np.clip((edges[i] - segment.start) / segment.duration, 0, 1)
    return Neighbours(kinds, classes[:-1], classes[1:], ~is_last[:-1], position, stressed)


def _fill_gaps(tier: Tier) -> list[Segment]:
    """Fill gaps with silence and join neighbouring silences, so that each frame lies in one segment."""
    filled: list[Segment] = []
    end = 0.0
    for segment in [*tier, Segment(1e9, 1e9, "")]:
        if segment.start > end + SAME_TIME:
            filled.append(Segment(end, segment.start, ""))
        filled.append(segment)
        end = segment.end
    joined: list[Segment] = []
    for segment in filled:
        if joined and is_silence(segment.label) and is_silence(joined[-1].label):
            segment = Segment(joined.pop().start, segment.end, "")
        joined.append(segment)
    return joined


def merge_probabilities(
    clips: Sequence[TokenTimeline],
    tiers: Sequence[Tier],
    *,
    clusters: Clusters = None,
    offset: float = 0.0,
    resamples: int = RESAMPLES,
    fewest: int = 30,
) -> list[MergeProbability]:
    """Count which neighbouring frames are merged: over all classes, inside each class, and across each two classes.

    Gaps between segments are silence. Two classes with fewer than `fewest` pairs of frames are left out.
    """
    _check_pairs(clips, tiers)
    counts: dict[tuple[str, str, str], Int[np.ndarray, "clips 2"]]  # merged and all pairs, by kind and classes
    counts = defaultdict(lambda: np.zeros((len(clips), 2), dtype=np.int64))
    for number, (clip, tier) in enumerate(zip(clips, tiers, strict=True)):
        pairs = neighbours(clip, tier, offset)
        for code, first, second, merged in zip(pairs.kinds, pairs.first, pairs.second, pairs.merged, strict=True):
            kind = KINDS[code]
            counts[kind, ALL, ALL][number] += (merged, 1)
            if kind != "beyond":
                counts[kind, first, second][number] += (merged, 1)
            if kind == "inside" and first != "silence":
                counts[kind, SPEECH, SPEECH][number] += (merged, 1)
    found = []
    for (kind, first, second), rows in counts.items():
        total = int(rows[:, 1].sum())
        if first in (ALL, SPEECH) or total >= fewest:
            share = bootstrap(ratio_of_sums, rows[:, 0], rows[:, 1], clusters=clusters, resamples=resamples)
            found.append(MergeProbability(kind, first, second, total, share))
    order = [ALL, SPEECH, *CLASSES]
    return sorted(found, key=lambda m: (KINDS.index(m.kind), order.index(m.first), order.index(m.second)))


ODDS = {
    "across": "across two phones",
    "beyond": "a whole phone between",
    "silence": "both in silence",
    "into_silence": "one of them in silence",
    "position": "at a phone's end, not its start",
    "stressed": "in a stressed vowel",
    "energy_change": "10 dB more change of loudness",
    "energy": "10 dB louder",
}
"""Predictors of the odds of merging, relative to two frames early in one phone that is no stressed vowel."""


def merge_odds(
    clips: Sequence[TokenTimeline], tiers: Sequence[Tier], *, clusters: Clusters = None, offset: float = 0.0
) -> FittedModel:
    """Fit the log odds that neighbouring frames share a token, by phones and acoustic change together.

    Phones change where the energy changes, and silence merges whatever the phones; here each counts given the others.
    Clips need their audio. Errors are clustered by speaker, or by clip where `clusters` is None.

    Returns:
        Effects by the names of `ODDS`, without those that never differ.
    """
    import pandas

    _check_pairs(clips, tiers)
    tables = []
    for number, (clip, tier) in enumerate(zip(clips, tiers, strict=True)):
        pairs = neighbours(clip, tier, offset)
        table = pandas.DataFrame(_covariates(clip, pairs), dtype=float)
        tables.append(table.assign(merged=pairs.merged, unit=number if clusters is None else clusters[number]))
    table = pandas.concat(tables, ignore_index=True)
    merged = table.pop("merged")
    units = table.pop("unit").tolist()
    if merged.all() or not merged.any():
        raise ValueError(f"{int(merged.sum())} of {len(merged)} pairs of frames are merged; odds need both kinds")
    varying = table.loc[:, table.nunique() > 1]
    return logistic_model(merged.to_numpy(), dict(varying.items()), clusters=units)


def _covariates(clip: TokenTimeline, pairs: Neighbours) -> Mapping[str, np.ndarray]:
    """Return the predictors of each pair of frames, by the names of `ODDS`."""
    if clip.audio is None:
        raise ValueError("a clip has no audio, whose energy is needed; make it with TokenTimeline.of(tokens, audio)")
    energy = frame_energies_db(clip.audio, clip.sample_rate, clip.frame_seconds, clip.num_frames) / 10
    first_silent = np.array(pairs.first) == "silence"
    second_silent = np.array(pairs.second) == "silence"
    in_silence = first_silent & second_silent
    inside_phone = (pairs.kinds == KINDS.index("inside")) & ~in_silence
    return {
        "across": pairs.kinds == KINDS.index("across"),
        "beyond": pairs.kinds == KINDS.index("beyond"),
        "silence": in_silence,
        "into_silence": first_silent ^ second_silent,
        "position": np.where(inside_phone, pairs.position, 0.0),
        "stressed": pairs.stressed,
        "energy_change": np.abs(np.diff(energy)),
        "energy": (energy[:-1] + energy[1:]) / 2,
    }
