"""Where tokens start against where phones, syllables and words do, beside null codecs, on clips that fitted nothing.

The clips are parted in two halves, which share no speaker where there are several. On one the offset between tokens
and sound is fitted (see `offset`), once for all settings, and for each null its own in the same way; on the other half,
with offsets frozen, everything is scored.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flexicodec.analysis.boundaries import (
    TOLERANCES,
    BoundaryScores,
    Times,
    corrected,
    pool,
    score_clips,
    score_gain,
    score_interval,
    score_null,
)
from flexicodec.analysis.coded import Coded
from flexicodec.analysis.information import BoundaryInformation, boundary_information
from flexicodec.analysis.nulls import NULLS
from flexicodec.analysis.offset import Offset, fit_offset, halves
from flexicodec.analysis.segments import Alignment, Segment, edges, syllables
from flexicodec.statistics import Interval

MAIN_TOLERANCE = 0.04  # seconds; half a frame of the 12.5 Hz grid, as in arXiv 2609.36951
AT_ALL_TOLERANCES = ("uniform", "random")  # the nulls; the others are scored at the main one
MEASURES = ("precision", "recall", "f1", "r_value")
RESAMPLES = 2000

References = Mapping[str, Sequence[Times]]
"""Boundaries of each clip by the name of their tier."""


@dataclass(frozen=True)
class BesideNull:
    """The scores of a null with as many tokens in every clip.

    Attributes:
        scores: Pooled.
        offset: Seconds by which it was moved.
        gain: F1 of the tokens minus its own.
        corrected: The tokens' F1 as the share of the way from the null's to 1.
    """

    scores: BoundaryScores
    offset: float
    gain: Interval
    corrected: float


@dataclass(frozen=True)
class Agreement:
    """Token boundaries of one setting against one tier.

    Attributes:
        tier: "phones", "syllables" or "words".
        tolerance: Seconds.
        scores: Pooled.
        measures: "precision", "recall", "f1" and "r_value" with intervals.
        nulls: By name.
    """

    tier: str
    tolerance: float
    scores: BoundaryScores
    measures: Mapping[str, Interval]
    nulls: Mapping[str, BesideNull]


@dataclass(frozen=True)
class Halves:
    """Which clips fitted the offset, which are scored, and what came of fitting.

    Attributes:
        fitted: Indices of clips.
        scored: Likewise.
        offset: Of the codec.
    """

    fitted: tuple[int, ...]
    scored: tuple[int, ...]
    offset: Offset


def references_of(alignments: Sequence[Alignment], seconds: Sequence[float]) -> dict[str, list[Times]]:
    """List the boundaries of phones, syllables and words; tiers that an alignment lacks are left out for all."""
    every: dict[str, Callable[[Alignment], Sequence[Segment]]] = {
        "phones": lambda a: a.phones,
        "syllables": lambda a: syllables(a.phones, a.words),
    }
    if all(alignment.words for alignment in alignments):
        every["words"] = lambda a: a.words
    return {
        name: [edges(tier(alignment), end) for alignment, end in zip(alignments, seconds, strict=True)]
        for name, tier in every.items()
    }


def fit_halves(
    references: Sequence[Times], settings: Sequence[Sequence[Coded]], clusters: Sequence[Hashable] | None
) -> Halves:
    """Part the clips, and fit one offset for all settings on one half.

    Args:
        references: Boundaries of the phones of each clip.
        settings: For each setting the tokens of each clip.
        clusters: Speaker of each clip.

    Raises:
        ValueError: Fewer than two clips.
    """
    if len(references) < 2:
        raise ValueError(f"{len(references)} clips with phones; two or more are needed to fit on one and score another")
    fitted, scored = halves(list(range(len(references))) if clusters is None else clusters)
    every = [(references[i], coded[i]) for coded in settings for i in fitted]
    offset = fit_offset([each for each, _ in every], [coded for _, coded in every], MAIN_TOLERANCE)
    return Halves(tuple(fitted), tuple(scored), offset)


def score_setting(
    references: References,
    coded: Sequence[Coded],
    parts: Halves,
    clusters: Sequence[Hashable] | None = None,
    *,
    draws: int = 10,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Agreement]:
    """Score the tokens of one setting against every tier at every tolerance.

    Args:
        references: By tier, of each clip.
        coded: Tokens of each clip.
        parts: From `fit_halves`.
        clusters: Speaker of each clip.
        draws: Of nulls that are drawn.
        resamples: For the intervals.
        seed: Of all drawing.
    """
    mine = [coded[i] for i in parts.scored]
    drawn = None if clusters is None else [clusters[i] for i in parts.scored]
    choices = {"clusters": drawn, "resamples": resamples, "seed": seed}
    offsets = {
        name: _null_offset(
            name, [references["phones"][i] for i in parts.fitted], [coded[i] for i in parts.fitted], seed
        )
        for name in NULLS
    }
    found = []
    for tier, every in references.items():
        theirs = [every[i] for i in parts.scored]
        for tolerance in TOLERANCES:
            scores = score_clips(theirs, mine, tolerance, parts.offset.seconds)
            pooled, nulls = pool(scores, tolerance), {}
            for name in NULLS if tolerance == MAIN_TOLERANCE else AT_ALL_TOLERANCES:
                beside = score_null(name, theirs, mine, tolerance, offset=offsets[name], draws=draws, seed=seed)
                null = pool(beside, tolerance)
                gain = score_gain(scores, beside, **choices)  # type: ignore[arg-type]
                nulls[name] = BesideNull(null, offsets[name], gain, corrected(pooled.f1, null.f1))
            measures = {name: score_interval(scores, name, **choices) for name in MEASURES}  # type: ignore[arg-type]
            found.append(Agreement(tier, tolerance, pooled, measures, nulls))
    return found


def inform(
    references: References, coded: Sequence[Coded], parts: Halves, *, draws: int = 10, seed: int = 0
) -> dict[str, BoundaryInformation]:
    """Measure what tokens of one setting tell about the boundaries of every tier, without a tolerance.

    Arguments are those of `score_setting`.
    """
    mine, offset = [coded[i] for i in parts.scored], parts.offset.seconds
    return {
        tier: boundary_information([every[i] for i in parts.scored], mine, offset=offset, draws=draws, seed=seed)
        for tier, every in references.items()
    }


def _null_offset(name: str, references: Sequence[Times], clips: Sequence[Coded], seed: int) -> float:
    """Fit a null's offset on one draw."""
    random = np.random.default_rng(seed)
    return fit_offset(references, [c.with_durations(NULLS[name](c, random)) for c in clips], MAIN_TOLERANCE).seconds
