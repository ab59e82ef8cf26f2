"""Clips of similar length side by side, so that little of a batch is padding."""

import numpy as np
from jaxtyping import Float

JITTER = 0.1  # share by which lengths are varied before sorting, so that buckets differ from epoch to epoch


def buckets(
    seconds: Float[np.ndarray, " clips"], batch_seconds: float, random: np.random.Generator | None = None
) -> list[list[int]]:
    """Group clips of similar length, each group within `batch_seconds`, padding included.

    Args:
        seconds: Durations.
        batch_seconds: Bound of a group; a longer clip is a group of its own.
        random: Varies who meets whom; None sorts strictly by length.
    """
    noise = 1.0 if random is None else random.uniform(1 - JITTER, 1 + JITTER, len(seconds))
    groups: list[list[int]] = []
    longest = 0.0
    for clip in np.argsort(seconds * noise, kind="stable").tolist():
        longest = max(longest, float(seconds[clip]))
        if groups and longest * (len(groups[-1]) + 1) <= batch_seconds:
            groups[-1].append(clip)
        else:
            groups.append([clip])
            longest = float(seconds[clip])
    return groups
