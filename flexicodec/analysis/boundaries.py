"""Where tokens start against where phones, syllables or words do: hits within a tolerance, and what chance would hit.

Conventions: times are seconds, in rising order. A boundary is an instant inside a clip; its beginning and its end are
left out on both sides. A found boundary hits a reference boundary if they lie no further apart than the tolerance, and
each takes part in one hit at most. Counts are pooled over clips before they are divided.

40 ms, half a frame of the 12.5 Hz grid, is the tolerance of arXiv 2609.36951; report 20 and 60 ms beside it. All scores
depend on how many boundaries there are: hold them against those of null tokens (`score_null`), which are as many.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from flexicodec.analysis.coded import Coded
from flexicodec.analysis.nulls import DRAWN, NULLS
from flexicodec.statistics import Interval, bootstrap

TOLERANCES = (0.02, 0.04, 0.06)  # seconds
EXACT = 1e-9  # seconds that float arithmetic may put between equal times

Times = Float[np.ndarray, " boundaries"]


@dataclass(frozen=True)
class BoundaryScores:
    """How found boundaries agree with a reference, over one clip or, added up, over many.

    Attributes:
        hits: Pairs of a reference and a found boundary.
        reference: Reference boundaries.
        found: Found boundaries.
        tolerance: Seconds that a hit may be off.
    """

    hits: int
    reference: int
    found: int
    tolerance: float

    def __post_init__(self) -> None:
        if not 0 <= self.hits <= min(self.reference, self.found):
            raise ValueError(f"{self.hits} hits among {self.reference} reference and {self.found} found boundaries")

    @property
    def precision(self) -> float:
        """Share of the found boundaries that hit; NaN where none was found."""
        return self.hits / self.found if self.found else math.nan

    @property
    def recall(self) -> float:
        """Share of the reference boundaries that were hit; NaN where there is none."""
        return self.hits / self.reference if self.reference else math.nan

    @property
    def f1(self) -> float:
        """Harmonic mean of the two; NaN where there is neither a reference nor a found boundary."""
        both = self.reference + self.found
        return 2 * self.hits / both if both else math.nan

    @property
    def over_segmentation(self) -> float:
        """Surplus of found boundaries, as a share of the reference: recall / precision - 1."""
        return self.found / self.reference - 1 if self.reference else math.nan

    @property
    def r_value(self) -> float:
        """R-value of O. Räsänen et al. (2009): 1 when perfect, and not to be raised by mere over-segmentation."""
        recall, surplus = self.recall, self.over_segmentation
        to_perfect = math.hypot(1 - recall, surplus)
        to_line = (recall - 1 - surplus) / math.sqrt(2)
        return 1 - (abs(to_perfect) + abs(to_line)) / 2

    def __add__(self, other: "BoundaryScores") -> "BoundaryScores":
        """Pool with the counts of other clips.

        Raises:
            ValueError: The two have different tolerances.
        """
        if self.tolerance != other.tolerance:
            raise ValueError(f"scores at {self.tolerance:g} s and {other.tolerance:g} s cannot be pooled")
        counts = (self.hits + other.hits, self.reference + other.reference, self.found + other.found)
        return BoundaryScores(*counts, self.tolerance)


def match(reference: Times, found: Times, tolerance: float) -> Int[np.ndarray, "hits 2"]:
    """Pair boundaries one to one and in order, as many as can be; len() of the result is the number of hits.

    Walks both lists once: what lies too early for the other list's next boundary can never be paired later. As all
    tolerances are equal, taking every pair as it comes loses none.

    Args:
        reference: Seconds, in rising order.
        found: Seconds, in rising order.
        tolerance: Seconds that a hit may be off, inclusive.

    Returns:
        Index into `reference` and index into `found` of each hit.

    Raises:
        ValueError: Times that are not in order or not finite, or a tolerance that is none.
    """
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance is {tolerance}; expected seconds of at least 0")
    left, right = check_times(reference, "reference"), check_times(found, "found")
    pairs, i, j = [], 0, 0
    while i < len(left) and j < len(right):
        if abs(left[i] - right[j]) <= tolerance + EXACT:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif left[i] < right[j]:
            i += 1
        else:
            j += 1
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def check_times(times: Times, name: str) -> list[float]:
    """List times; ValueError where they are not finite seconds in rising order."""
    array = np.asarray(times, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError(f"{name} boundaries have shape {array.shape} or are not finite; expected a list of seconds")
    if (np.diff(array) < 0).any():
        raise ValueError(f"{name} boundaries are not in rising order; were durations given in place of times?")
    if len(array) and array[-1] > 86_400:
        raise ValueError(f"a {name} boundary lies at {array[-1]:g} s, beyond a day; were samples or ms given?")
    return array.tolist()


def score(reference: Times, found: Times, tolerance: float) -> BoundaryScores:
    """Count the hits of one clip; see `match`."""
    return BoundaryScores(len(match(reference, found, tolerance)), len(reference), len(found), tolerance)


def pool(scores: Sequence[BoundaryScores], tolerance: float) -> BoundaryScores:
    """Add up the counts of clips; no clips have no hits."""
    return sum(scores, BoundaryScores(0, 0, 0, tolerance))


def score_clips(
    references: Sequence[Times], clips: Sequence[Coded], tolerance: float, offset: float = 0.0
) -> list[BoundaryScores]:
    """Score every clip, with its token boundaries moved by `offset` seconds.

    Raises:
        ValueError: Not one reference for each clip.
    """
    if len(references) != len(clips):
        raise ValueError(f"{len(references)} references for {len(clips)} clips; expected one for each")
    return [score(each, clip.boundaries(offset), tolerance) for each, clip in zip(references, clips, strict=True)]


def score_interval(
    scores: Sequence[BoundaryScores],
    measure: str = "f1",
    *,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Find the bootstrap interval of a pooled score.

    Args:
        scores: One per clip.
        measure: "precision", "recall", "f1", "over_segmentation" or "r_value".
        clusters: Speaker of each clip.
        resamples: How many to draw.
        level: Of confidence.
        seed: Of the drawing.
    """
    return bootstrap(
        lambda rows: _pooled(rows, measure),
        _counts(scores),
        clusters=clusters,
        resamples=resamples,
        level=level,
        seed=seed,
    )


def score_gain(
    scores: Sequence[BoundaryScores],
    nulls: Sequence[BoundaryScores],
    measure: str = "f1",
    *,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Find by how much a pooled score exceeds that of null tokens of the same clips; pairs stay together."""

    def gain(rows: np.ndarray, null_rows: np.ndarray) -> float:
        return _pooled(rows, measure) - _pooled(null_rows, measure)

    arrays = _counts(scores), _counts(nulls)
    return bootstrap(gain, *arrays, clusters=clusters, resamples=resamples, level=level, seed=seed)


def score_null(
    null: str,
    references: Sequence[Times],
    clips: Sequence[Coded],
    tolerance: float,
    *,
    offset: float = 0.0,
    draws: int = 10,
    seed: int = 0,
) -> list[BoundaryScores]:
    """Score the boundaries of a null codec with as many tokens in every clip, pooled over draws.

    Args:
        null: Its name in `nulls.NULLS`.
        references: Of each clip.
        clips: With the codec's tokens, and their audio where the null listens.
        tolerance: Seconds that a hit may be off.
        offset: Seconds by which its boundaries are moved.
        draws: Of nulls that are drawn; the others are made once.
        seed: Of the drawing.

    Raises:
        ValueError: A null that there is not.
    """
    if null not in NULLS:
        raise ValueError(f"null is {null!r}; expected one of {', '.join(NULLS)}")
    random = np.random.default_rng(seed)
    times = range(draws if null in DRAWN else 1)
    drawn = [[clip.with_durations(NULLS[null](clip, random)) for clip in clips] for _ in times]
    scored = [score_clips(references, each, tolerance, offset) for each in drawn]
    return [pool(of_clip, tolerance) for of_clip in zip(*scored, strict=True)]


def corrected(value: float, chance: float) -> float:
    """Return the share of the way from a score by chance to 1, as Cohen's kappa does; NaN where chance is perfect."""
    return (value - chance) / (1 - chance) if chance < 1 else math.nan


def _counts(scores: Sequence[BoundaryScores]) -> Int[np.ndarray, "clips 3"]:
    """Lay out the counts of clips; ValueError where these have different tolerances, or there are none."""
    if not scores:
        raise ValueError("there are no scores; expected one for each clip")
    pool(scores, scores[0].tolerance)
    return np.array([(s.hits, s.reference, s.found) for s in scores])


def _pooled(counts: Int[np.ndarray, "clips 3"], measure: str) -> float:
    hits, reference, found = counts.sum(0).tolist()
    return float(getattr(BoundaryScores(hits, reference, found, tolerance=0.0), measure))
