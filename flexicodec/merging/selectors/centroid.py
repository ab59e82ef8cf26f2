"""The centroid rule at a frame rate: `running.Centroid` with a threshold for each clip."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from flexicodec.merging.policies import Clips, RatePolicy
from flexicodec.merging.segmentation import durations_by_counts
from flexicodec.merging.window_costs import CostTable, centroid_cosines, cost_table, frame_products, round_costs

BISECTIONS = 20  # a millionth of the thresholds' range


class CentroidRate(RatePolicy):
    """Cut by cosines with the token's mean so far, as `Centroid` does, at the count of `ExactRate`.

    The threshold of each clip is found by bisection. It need not give the count: a higher threshold ends a token
    earlier, the next one then begins elsewhere, and its mean may reach further. So the count jumps, up and down
    (`tests/merging` has a clip of four frames). Where no threshold of the bisection gives the count, the cut of the
    nearest one is mended by dynamic programming: boundaries cost the cosine that the frame had with the token before
    it, and the cheapest ones at the exact count are taken.
    """

    def choose(self, clips: Clips) -> Int[Tensor, "batch tokens"]:
        """Choose durations; see `MergingPolicy`. `seconds` and `features` are needed."""
        counts = clips.target_tokens(self.frame_rate).cpu().numpy()
        lengths = clips.lengths.cpu().numpy()
        longest = int((lengths - counts).max()) + 1
        longest = min(clips.max_duration or longest, longest)
        products, _ = frame_products(clips.semantic_features(self), clips.lengths, longest + 1, centred=False)
        # By the token's first frame and the frames it has: the cosine of the frame behind them.
        cosines = np.full((longest, *products.shape[1:]), -np.inf)
        for index, of_windows in enumerate(centroid_cosines(products)[1:]):
            cosines[index, :, : of_windows.shape[1]] = of_windows
        found = np.zeros((len(counts), int(counts.max())), dtype=np.int64)
        for row, (count, length) in enumerate(zip(counts.tolist(), lengths.tolist(), strict=True)):
            if length:
                found[row, :count] = split(cosines[:, row, :length], count)
        return torch.from_numpy(found).to(clips.lengths.device)


def split(cosines: Float[np.ndarray, "longest frames"], count: int) -> list[int] | Int[np.ndarray, " tokens"]:
    """Split one clip into `count` tokens.

    Args:
        cosines: Entry d - 1, t: of frame t + d with the mean of the d frames before it.
        count: Tokens.
    """
    low, high = -1.0 - 1e-9, 1.0
    tokens = follow(cosines, high)
    for _ in range(BISECTIONS):
        if len(tokens) == count:
            return tokens
        middle = (low + high) / 2
        tokens = follow(cosines, middle)
        if len(tokens) > count:
            high = middle
        else:
            low = middle
    if len(tokens) == count:
        return tokens
    return mend(cosines, tokens, count)


def follow(cosines: Float[np.ndarray, "longest frames"], threshold: float) -> list[int]:
    """Return the durations that a threshold gives."""
    longest, num_frames = cosines.shape
    stays = cosines > threshold
    stays[-1] = False  # the cap
    durations = (~stays).argmax(axis=0) + 1
    ahead = durations.tolist()
    found = []
    frame = 0
    while frame < num_frames:
        duration = min(ahead[frame], num_frames - frame)
        found.append(duration)
        frame += duration
    return found


def mend(cosines: Float[np.ndarray, "longest frames"], tokens: list[int], count: int) -> Int[np.ndarray, " tokens"]:
    """Split into `count` tokens where frames differ most from the tokens of another count."""
    longest, num_frames = cosines.shape
    start_costs = np.ones(num_frames)
    start = 0
    for duration in tokens:
        for inside in range(1, duration + 1):
            if start + inside < num_frames:
                start_costs[start + inside] = cosines[inside - 1, start]
        start += duration
    windows = [start_costs[None, : num_frames - duration + 1] for duration in range(1, longest + 1)]
    table: CostTable = round_costs(cost_table(windows, num_frames), np.ones(1))
    return durations_by_counts(table, np.array([[count]]), np.array([num_frames]))[0, 0]
