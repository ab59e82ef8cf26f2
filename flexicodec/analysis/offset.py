"""The constant by which token boundaries lie beside the sound: fitted on one half of the clips, frozen for the other.

A frame of features stands for sound around some instant, which padding and strides shift against the frame's place on
the grid. Scores with the best offset of the same clips would flatter; hence the halves.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from flexicodec.analysis.boundaries import Times, pool, score_clips
from flexicodec.analysis.coded import Coded
from flexicodec.statistics import cluster_rows

SEARCHED = 0.08  # seconds either way: a frame of the 12.5 Hz grid
STEP = 0.005  # seconds


@dataclass(frozen=True)
class Offset:
    """How far token boundaries are moved before they are scored.

    Attributes:
        seconds: Added to every token boundary.
        f1: Pooled F1 with it, on the clips it was fitted to.
        f1_without: Pooled F1 at an offset of 0, on the same clips.
        tolerance: Seconds that a hit may be off.
        clips: How many it was fitted to.
    """

    seconds: float
    f1: float
    f1_without: float
    tolerance: float
    clips: int


def fit_offset(references: Sequence[Times], clips: Sequence[Coded], tolerance: float = 0.04) -> Offset:
    """Find the offset within 80 ms either way, in steps of 5 ms, that gives the highest pooled F1.

    Of several as good the one nearest to 0 is taken.

    Raises:
        ValueError: No clips, or not one reference for each.
    """
    if not clips:
        raise ValueError("there are no clips to fit an offset to")
    steps = round(SEARCHED / STEP)
    tried = sorted((step * STEP for step in range(-steps, steps + 1)), key=lambda each: (abs(each), each))
    f1 = {each: pool(score_clips(references, clips, tolerance, each), tolerance).f1 for each in tried}
    best = max(tried, key=lambda each: np.nan_to_num(f1[each], nan=-1.0))
    return Offset(best, f1[best], f1[0.0], tolerance, len(clips))


def halves(clusters: Sequence[Hashable], seed: int = 0) -> tuple[list[int], list[int]]:
    """Part clips in two: where there are two clusters or more, no cluster (speaker) stands in both.

    Args:
        clusters: Of each clip.
        seed: Of the parting.

    Returns:
        Indices of the clips to fit on, and of those to score.
    """
    groups = cluster_rows(clusters if len(set(clusters)) > 1 else None, len(clusters))
    order = np.random.default_rng(seed).permutation(len(groups))
    sides: tuple[list[int], list[int]] = [], []
    for index in sorted(order, key=lambda i: -len(groups[i])):  # the largest first, so that the halves come out even
        min(sides, key=len).extend(groups[index].tolist())
    return sorted(sides[0]), sorted(sides[1])
