"""Bucketing: batches of clips of similar length, so that little of a batch is padding."""

import numpy as np
from jaxtyping import Float

JITTER = 0.1  # lengths vary by this share before sorting, so that batches differ from epoch to epoch


def bucket_by_length(
    seconds: Float[np.ndarray, " clips"],
    batch_seconds: float,
    random: np.random.Generator | None = None,
    longest_first: bool = False,
) -> list[list[int]]:
    """Group the indices of clips into batches of at most `batch_seconds`, padding included.

    Args:
        seconds: Durations.
        batch_seconds: Limit of a batch; a longer clip is a batch of its own.
        random: Jitters the lengths before sorting; None sorts strictly by length.
        longest_first: Sort from the longest clip to the shortest.
    """
    sort_key = seconds
    if random is not None:
        sort_key = seconds * random.uniform(1 - JITTER, 1 + JITTER, len(seconds))
    if longest_first:
        sort_key = -sort_key
    # Greedy: a clip joins the last batch while that, padded to its longest clip, stays within the limit.
    batches: list[list[int]] = []
    longest = 0.0
    for clip in np.argsort(sort_key, kind="stable").tolist():
        longest = max(longest, float(seconds[clip]))
        if batches and longest * (len(batches[-1]) + 1) <= batch_seconds:
            batches[-1].append(clip)
        else:
            batches.append([clip])
            longest = float(seconds[clip])
    return batches
