"""Token boundaries against boundaries of phones, syllables and words: hits within a tolerance, and mutual information.

A boundary is a time inside a clip, in seconds; the clip's beginning and end do not count. A found boundary hits a
reference boundary if they are no further apart than the tolerance, and each takes part in one hit at most. Counts are
pooled over clips before they are divided. All scores grow with the number of boundaries, so null codecs with as many
are scored beside the tokens.

Tokens lie at a constant offset from the audio, because of padding and strides. The clips are split in two halves
without a common speaker: the offset is fitted on one, once for all settings and for each null separately, and the
other half is scored with it.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float, Int

from flexicodec.analysis.null_codecs import NULLS, RANDOM_NULLS, null_timelines
from flexicodec.analysis.token_timeline import TokenTimeline
from flexicodec.corpus.alignments.alignment import Alignment
from flexicodec.corpus.alignments.phones import syllables, tier_boundaries
from flexicodec.statistics import Interval, Sampling, cluster_rows
from flexicodec.statistics.entropy import counts_entropy, table_information

TOLERANCES = (0.02, 0.04, 0.06)  # seconds
MAIN_TOLERANCE = 0.04  # half a frame of the 12.5 Hz grid, as in arXiv 2609.36951
AT_ALL_TOLERANCES = ("uniform", "random")  # nulls; the others are scored at the main tolerance only
MEASURES = ("precision", "recall", "f1", "r_value")
ROUNDING = 1e-9  # seconds by which float arithmetic may separate equal times
MAX_OFFSET = 0.08  # seconds either way: a frame of the 12.5 Hz grid
OFFSET_STEP = 0.005  # seconds
DISTANCE_BINS = (0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12)  # seconds, upper edges; one more bin for the rest
RESAMPLES = 2000

T = TypeVar("T")
Times = Float[np.ndarray, " boundaries"]
Counts = Int[np.ndarray, "clips 3"]  # of hits, reference boundaries and found ones
ReferenceBoundaries = Mapping[str, Sequence[Times]]
"""Boundaries of each clip, by tier: "phones", "syllables" and "words"."""


# ------------------------------------------------------------------------------------------------------------- hits


class BoundaryScores(NamedTuple):
    """Agreement of found boundaries with reference boundaries, over one clip or pooled over many."""

    hits: int
    reference: int  # number of reference boundaries
    found: int

    @property
    def precision(self) -> float:
        """Share of the found boundaries that hit; NaN without any."""
        return _divide(self.hits, self.found)

    @property
    def recall(self) -> float:
        """Share of the reference boundaries that were hit; NaN without any."""
        return _divide(self.hits, self.reference)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; NaN without any boundary."""
        return _divide(2 * self.hits, self.reference + self.found)

    @property
    def over_segmentation(self) -> float:
        """Surplus of found boundaries, as a share of the reference: recall / precision - 1."""
        return _divide(self.found, self.reference) - 1

    @property
    def r_value(self) -> float:
        """R-value (O. Räsänen et al., 2009, equations 3 to 5): 1 when perfect, not raised by over-segmentation."""
        to_perfect = math.hypot(1 - self.recall, self.over_segmentation)
        to_line = (self.recall - 1 - self.over_segmentation) / math.sqrt(2)
        return 1 - (abs(to_perfect) + abs(to_line)) / 2


def _divide(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan


def match(reference: Times, found: Times, tolerance: float) -> Int[np.ndarray, "hits 2"]:
    """Pair boundaries no further apart than the tolerance, one to one and in order, as many as possible.

    As all tolerances are equal, taking every pair at the first chance loses none: of two boundaries that are too far
    apart, the earlier one can match nothing later. Times are seconds in rising order.

    Returns:
        Index into `reference` and index into `found` of each hit.
    """
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance is {tolerance}; expected seconds of at least 0")
    left = _checked_times(reference, "reference")
    right = _checked_times(found, "found")
    pairs = []
    i = 0
    j = 0
    while i < len(left) and j < len(right):
        if abs(left[i] - right[j]) <= tolerance + ROUNDING:
            pairs.append((i, j))
            i += 1
            j += 1
        elif left[i] < right[j]:
            i += 1
        else:
            j += 1
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _checked_times(times: Times, name: str) -> list[float]:
    array = np.asarray(times, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError(f"{name} boundaries have shape {array.shape} or are not finite; expected a list of seconds")
    if (np.diff(array) < 0).any():
        raise ValueError(f"{name} boundaries are not in rising order; were durations given in place of times?")
    if len(array) and array[-1] > 86_400:
        raise ValueError(f"a {name} boundary lies at {array[-1]:g} s, beyond a day; were samples or ms given?")
    return array.tolist()


def score(reference: Times, found: Times, tolerance: float) -> BoundaryScores:
    """Score the boundaries of one clip."""
    return BoundaryScores(len(match(reference, found, tolerance)), len(reference), len(found))


def score_clips(
    references: Sequence[Times], clips: Sequence[TokenTimeline], tolerance: float, offset: float = 0.0
) -> list[BoundaryScores]:
    """Score every clip, with its token boundaries shifted by `offset` seconds."""
    if len(references) != len(clips):
        raise ValueError(f"{len(references)} references for {len(clips)} clips; expected one for each")
    return [score(each, clip.boundaries(offset), tolerance) for each, clip in zip(references, clips, strict=True)]


def score_null(
    null: str,
    references: Sequence[Times],
    clips: Sequence[TokenTimeline],
    tolerance: float,
    *,
    offset: float = 0.0,
    draws: int = 10,
    seed: int = 0,
) -> list[BoundaryScores]:
    """Score a null codec with as many tokens in every clip; scores of a clip are pooled over `draws` random nulls."""
    random = np.random.default_rng(seed)
    scores = []
    for _ in range(draws if null in RANDOM_NULLS else 1):
        scores.append(score_clips(references, null_timelines(null, clips, random), tolerance, offset))
    return list(map(pool, zip(*scores, strict=True)))


def pool(scores: Sequence[BoundaryScores]) -> BoundaryScores:
    """Add up the counts of clips."""
    return _pooled(_counts(scores))


def score_interval(
    scores: Sequence[BoundaryScores],
    measure: str = "f1",
    *,
    nulls: Sequence[BoundaryScores] | None = None,
    clusters: Sequence[Hashable] | None = None,
    sampling: Sampling | None = None,
) -> Interval:
    """Bootstrap a pooled score, or with `nulls` its gain over null tokens of the same clips.

    Args:
        scores: One per clip.
        measure: Name of a property of `BoundaryScores`.
        nulls: Scores of null tokens, one per clip; resamples keep both of a clip together.
        clusters: Speaker of each clip.
        sampling: Options of the bootstrap.
    """
    if not scores:
        raise ValueError("there are no scores; expected one for each clip")

    def pooled(counts: Counts) -> float:
        return getattr(_pooled(counts), measure)

    def gain(counts: Counts, null_counts: Counts) -> float:
        return pooled(counts) - pooled(null_counts)

    sampling = sampling or Sampling()
    if nulls is None:
        return sampling.interval(pooled, _counts(scores), clusters=clusters)
    return sampling.interval(gain, _counts(scores), _counts(nulls), clusters=clusters)


def _counts(scores: Sequence[BoundaryScores]) -> Counts:
    return np.array(scores, dtype=np.int64).reshape(-1, 3)


def _pooled(counts: Counts) -> BoundaryScores:
    return BoundaryScores(*counts.sum(0).tolist())


def corrected(value: float, chance: float) -> float:
    """Correct a score for chance, as Cohen's kappa does: 0 at chance, 1 when perfect; NaN where chance is perfect."""
    return _divide(value - chance, 1 - chance)


# ----------------------------------------------------------------------------------------------------------- offset


@dataclass(frozen=True)
class Offset:
    """Shift of token boundaries that agrees best with the references of some clips."""

    seconds: float  # added to every token boundary
    f1: float  # pooled, with the offset
    f1_without: float
    tolerance: float  # seconds
    clips: int


def fit_offset(references: Sequence[Times], clips: Sequence[TokenTimeline], tolerance: float = 0.04) -> Offset:
    """Find the offset within 80 ms either way, in steps of 5 ms, with the highest pooled F1; of equals the smallest."""
    if not clips:
        raise ValueError("there are no clips to fit an offset to")
    steps = round(MAX_OFFSET / OFFSET_STEP)
    offsets = sorted((step * OFFSET_STEP for step in range(-steps, steps + 1)), key=lambda each: (abs(each), each))
    f1 = {each: pool(score_clips(references, clips, tolerance, each)).f1 for each in offsets}
    best = max(offsets, key=lambda each: np.nan_to_num(f1[each], nan=-1.0))
    return Offset(best, f1[best], f1[0.0], tolerance, len(clips))


def split_by_speaker(clusters: Sequence[Hashable], seed: int = 0) -> tuple[list[int], list[int]]:
    """Split clips into indices to fit on and to score; with two clusters (speakers) or more, none is in both."""
    groups = cluster_rows(clusters if len(set(clusters)) > 1 else None, len(clusters))
    order = np.random.default_rng(seed).permutation(len(groups))
    halves: tuple[list[int], list[int]] = ([], [])
    for index in sorted(order, key=lambda i: -len(groups[i])):  # the largest first, so that the halves come out even
        min(halves, key=len).extend(groups[index].tolist())
    return sorted(halves[0]), sorted(halves[1])


# ------------------------------------------------------------------------------------------------------ information


@dataclass(frozen=True)
class BoundaryInformation:
    """Mutual information of token boundaries and the distance to the nearest reference boundary, bits per frame."""

    bits: float
    chance: float  # the same for shuffled tokens: what small counts alone give
    entropy: float  # of token boundaries, the upper limit
    instants: int  # between frames, that were counted

    @property
    def share(self) -> float:
        """Information beyond chance, as a share of the entropy."""
        return (self.bits - self.chance) / self.entropy if self.entropy > 0 else 0.0


def boundary_information(
    references: Sequence[Times], clips: Sequence[TokenTimeline], *, offset: float = 0.0, draws: int = 10, seed: int = 0
) -> BoundaryInformation:
    """Measure mutual information without a tolerance, from counts over every instant between two frames.

    Clips without any reference boundary do not count; `offset` shifts tokens by seconds.
    """
    counted = [i for i, (times, _) in enumerate(zip(references, clips, strict=True)) if len(times)]
    times = _select(references, counted)
    tokens = _select(clips, counted)
    table = _distance_counts(times, tokens, offset)
    random = np.random.default_rng(seed)
    chance = []
    for _ in range(draws):
        shuffled = null_timelines("shuffled", tokens, random)
        chance.append(table_information(_distance_counts(times, shuffled, offset)))
    bits = table_information(table)
    return BoundaryInformation(bits, float(np.mean(chance)), counts_entropy(table.sum(1)), int(table.sum()))


def _distance_counts(
    references: Sequence[Times], clips: Sequence[TokenTimeline], offset: float
) -> Int[np.ndarray, "2 bins"]:
    """Count the instants between frames by whether a token starts there, and by distance to the reference."""
    table = np.zeros((2, len(DISTANCE_BINS) + 1), dtype=np.int64)
    for reference, clip in zip(references, clips, strict=True):
        starts = np.zeros(clip.num_frames + 1, dtype=np.int64)
        starts[np.cumsum(clip.durations)] = 1
        instants = np.arange(1, clip.num_frames) * clip.frame_seconds + offset
        after = np.searchsorted(reference, instants)
        padded = np.concatenate([[-np.inf], reference, [np.inf]])
        distance = np.minimum(instants - padded[after], padded[after + 1] - instants)
        np.add.at(table, (starts[1:-1], np.searchsorted(DISTANCE_BINS, distance)), 1)
    return table


# ------------------------------------------------------------------------------------------ all tiers of one setting


@dataclass(frozen=True)
class NullScore:
    """Scores of a null codec with as many tokens in every clip."""

    scores: BoundaryScores
    offset: float  # seconds, fitted to the null
    gain: Interval  # F1 of the codec minus that of the null
    corrected: float  # the codec's F1 corrected for the null's


@dataclass(frozen=True)
class TierAgreement:
    """Token boundaries of one setting against one tier."""

    tier: str
    tolerance: float  # seconds
    scores: BoundaryScores
    measures: Mapping[str, Interval]  # by the names of `MEASURES`
    nulls: Mapping[str, NullScore]


@dataclass(frozen=True)
class FitTestSplit:
    """Indices of the clips that fitted the offset, and of those that are scored with it."""

    fitted: tuple[int, ...]
    scored: tuple[int, ...]
    offset: Offset


def reference_boundaries(alignments: Sequence[Alignment], seconds: Sequence[float]) -> dict[str, list[Times]]:
    """Return the boundaries of phones, syllables and words; words only where every alignment has them."""
    tiers = {
        "phones": [alignment.phones for alignment in alignments],
        "syllables": [syllables(alignment.phones, alignment.words) for alignment in alignments],
        "words": [alignment.words for alignment in alignments],
    }
    if not all(tiers["words"]):
        del tiers["words"]
    return {name: list(map(tier_boundaries, of_clips, seconds)) for name, of_clips in tiers.items()}


def split_and_fit_offset(
    references: Sequence[Times], settings: Sequence[Sequence[TokenTimeline]], clusters: Sequence[Hashable] | None
) -> FitTestSplit:
    """Split the clips, and fit one offset to the phone boundaries of one half, for the tokens of all settings."""
    if len(references) < 2:
        raise ValueError(f"{len(references)} clips with phones; two or more are needed to fit on one and score another")
    fitted, scored = split_by_speaker(list(range(len(references))) if clusters is None else clusters)
    tokens = [clips[i] for clips in settings for i in fitted]
    offset = fit_offset(_select(references, fitted) * len(settings), tokens, MAIN_TOLERANCE)
    return FitTestSplit(tuple(fitted), tuple(scored), offset)


def score_tiers(
    references: ReferenceBoundaries,
    clips: Sequence[TokenTimeline],
    split: FitTestSplit,
    clusters: Sequence[Hashable] | None = None,
    *,
    draws: int = 10,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[TierAgreement]:
    """Score the tokens of one setting and the null codecs against every tier at every tolerance.

    `clusters` names the speaker of each clip; random nulls are drawn `draws` times.
    """
    sampling = Sampling(resamples, seed=seed)
    scored = _select(clips, split.scored)
    speakers = None if clusters is None else _select(clusters, split.scored)

    # Each null gets an offset of its own, fitted like the codec's.
    offsets = {}
    for null in NULLS:
        tokens = null_timelines(null, _select(clips, split.fitted), np.random.default_rng(seed))
        offsets[null] = fit_offset(_select(references["phones"], split.fitted), tokens, MAIN_TOLERANCE).seconds

    agreements = []
    for tier, of_clips in references.items():
        reference = _select(of_clips, split.scored)
        for tolerance in TOLERANCES:
            scores = score_clips(reference, scored, tolerance, split.offset.seconds)
            pooled = pool(scores)
            nulls = {}
            for name in NULLS if tolerance == MAIN_TOLERANCE else AT_ALL_TOLERANCES:
                offset = offsets[name]
                by_clip = score_null(name, reference, scored, tolerance, offset=offset, draws=draws, seed=seed)
                gain = score_interval(scores, nulls=by_clip, clusters=speakers, sampling=sampling)
                of_null = pool(by_clip)
                nulls[name] = NullScore(of_null, offset, gain, corrected(pooled.f1, of_null.f1))
            measures = {}
            for name in MEASURES:
                measures[name] = score_interval(scores, name, clusters=speakers, sampling=sampling)
            agreements.append(TierAgreement(tier, tolerance, pooled, measures, nulls))
    return agreements


def tier_information(
    references: ReferenceBoundaries,
    clips: Sequence[TokenTimeline],
    split: FitTestSplit,
    *,
    draws: int = 10,
    seed: int = 0,
) -> dict[str, BoundaryInformation]:
    """Measure the boundary information of one setting for every tier; arguments as for `score_tiers`."""
    options: dict[str, Any] = {"offset": split.offset.seconds, "draws": draws, "seed": seed}
    scored = _select(clips, split.scored)
    found = {}
    for tier, of_clips in references.items():
        found[tier] = boundary_information(_select(of_clips, split.scored), scored, **options)
    return found


def _select(values: Sequence[T], rows: Sequence[int]) -> list[T]:
    return [values[i] for i in rows]
