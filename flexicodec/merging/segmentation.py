"""Segmentation of least cost by dynamic programming, with any costs of tokens (`window_costs`).

With a number of tokens N it is exact under a cap: with best(n, t) the least cost of the first t frames in n tokens,

    best(n, t) = min over d <= longest of best(n - 1, t - d) + cost of frames t - d ... t - 1,

and since n tokens hold at least n frames it is enough to know it for the slack k = t - n, from 0 to T - N. With a price
per token instead of a number it is the same without n. Among equals the longest last token wins.
"""

import numpy as np
from jaxtyping import Float, Int

from flexicodec.merging.window_costs import CostTable


def durations_by_counts(
    costs: CostTable, counts: Int[np.ndarray, "rates batch"], lengths: Int[np.ndarray, " batch"]
) -> Int[np.ndarray, "rates batch tokens"]:
    """Split every clip into given numbers of tokens, each time with the least sum of costs.

    The table serves all counts, and so does one pass over it. Time is O(longest * N * (T - N)) with the largest N and
    T - N of all, memory a byte for each of N * (T - N) choices.

    Args:
        costs: Of all windows that may be tokens.
        counts: Tokens of every clip at every rate, feasible.
        lengths: Frames of every clip.
    """
    longest = len(costs)
    batch = len(lengths)
    all_slacks = lengths - counts
    most_tokens = int(counts.max())
    slacks = int(all_slacks.max()) + 1  # values of k
    costs = extend_ends(costs, most_tokens + slacks)

    best = np.full((batch, longest - 1 + slacks), np.inf)  # inf for k < 0, then for k = 0, 1, ...
    best[:, longest - 1] = 0.0
    shifted = np.lib.stride_tricks.as_strided(  # row `longest - d`: best at k - (d - 1)
        best, (longest, batch, slacks), (best.strides[1], *best.strides), writeable=False
    )
    kind = np.uint8 if longest <= 255 else np.int32
    durations = np.arange(longest, 0, -1, dtype=kind)[:, None, None]
    choices = np.zeros((most_tokens, batch, slacks), dtype=kind)
    lowest = _lowest_slacks(all_slacks, counts, longest)
    for n in range(1, most_tokens + 1):
        low = lowest[n - 1]
        high = min(slacks, n * (longest - 1) + 1)  # n tokens cannot have more
        candidates = shifted[:, :, low:high] + costs[:, :, n + low : n + high]
        least = candidates.min(axis=0)
        chosen = (candidates == least) * durations
        choices[n - 1, :, low:high] = chosen.max(axis=0)
        best[:, longest - 1 + low : longest - 1 + high] = least

    # From the last token to the first
    found = np.zeros((*counts.shape, most_tokens), dtype=np.int64)
    for rate, row in np.ndindex(*counts.shape):
        slack = int(all_slacks[rate, row])
        of_clip = choices[:, row]
        for n in range(int(counts[rate, row]), 0, -1):
            duration = int(of_clip[n - 1, slack])
            found[rate, row, n - 1] = duration
            slack -= duration - 1
    return found


def _lowest_slacks(
    slacks: Int[np.ndarray, "rates batch"], counts: Int[np.ndarray, "rates batch"], longest: int
) -> list[int]:
    """Return, for 1, 2, ... tokens, the least slack from which the tokens that are left can still take up the rest."""
    n = np.arange(1, int(counts.max()) + 1)[:, None]
    rest = (counts.reshape(-1) - n) * (longest - 1)
    needed = np.where(rest >= 0, slacks.reshape(-1) - rest, slacks.max())
    lowest: list[int] = np.maximum(needed.min(axis=1), 0).tolist()
    return lowest


def durations_by_price(
    costs: CostTable, prices: Float[np.ndarray, " batch"], lengths: Int[np.ndarray, " batch"]
) -> Int[np.ndarray, "batch tokens"]:
    """Split every clip with the least sum of costs plus a price for every token; time is O(longest * T)."""
    longest = len(costs)
    batch = len(lengths)
    num_frames = int(lengths.max())
    by_end = np.ascontiguousarray(costs.transpose(2, 0, 1)) + prices
    best = np.full((longest + num_frames + 1, batch), np.inf)  # inf before the clip, then for 0, 1, ... frames
    best[longest] = 0.0
    choices = np.zeros((num_frames + 1, batch), dtype=np.int64)
    for end in range(1, num_frames + 1):
        candidates = best[end : end + longest] + by_end[end]
        choices[end] = longest - candidates.argmin(axis=0)
        best[end + longest] = candidates.min(axis=0)

    # From the last token to the first
    rows = np.arange(batch)
    end = lengths.copy()
    backwards = []
    while end.any():
        backwards.append(choices[end, rows])
        end = end - backwards[-1]
    tokens = np.array(backwards, dtype=np.int64).reshape(-1, batch)[::-1].T
    # Clips with fewer tokens have their zeros in front.
    order = np.argsort(tokens == 0, axis=1, kind="stable")
    return np.take_along_axis(tokens, order, axis=1)


def extend_ends(costs: CostTable, num_ends: int) -> CostTable:
    """Add ends behind the last one, where no window ends."""
    missing = max(0, num_ends - costs.shape[2])
    return np.pad(costs, ((0, 0), (0, 0), (0, missing)), constant_values=np.inf)
