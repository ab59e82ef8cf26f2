"""Shares of counts, with intervals that stay between 0 and 1."""

import math
from statistics import NormalDist

from flexicodec.statistics.bootstrap import Interval


def wilson(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Find the interval of a share of independent trials (E. Wilson, 1927).

    Args:
        successes: How many of the trials came out so.
        trials: In all; with none there is no share, and no ends.
        level: Of confidence.

    Raises:
        ValueError: More successes than trials, or fewer than none, or a level that is none.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials; expected 0 up to the number of trials")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; expected a share between 0 and 1 (not percent)")
    if trials == 0:
        return Interval(math.nan, math.nan, math.nan, level, 0, 0)
    share, z = successes / trials, NormalDist().inv_cdf((1 + level) / 2)
    shrink = 1 + z**2 / trials
    middle = (share + z**2 / (2 * trials)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return Interval(share, low if successes else 0.0, high if successes < trials else 1.0, level, trials, trials)
