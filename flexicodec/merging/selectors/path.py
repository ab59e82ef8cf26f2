"""Path-length equalisation (PLE): tokens that each cover the same change of the features, by similarities alone.

The path of a clip is the running sum of d_t = 1 - cosine of frames t - 1 and t (arXiv 2606.29480, DTM-Codec).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flexicodec.merging.durations import durations_from_starts
from flexicodec.merging.policies import (
    Clips,
    FloatOrPerItem,
    RatePolicy,
    Seconds,
    Selector,
    as_floats,
    broadcast_per_item,
)
from flexicodec.merging.wished import fit_durations
from flexicodec.nn.streaming import register_state

SLACK = 1e-12  # relative, so that equal steps meet their levels in spite of rounding


def pad_durations(rows: list[list[int]], device: torch.device) -> Int[Tensor, "batch tokens"]:
    """Return lists of durations as a tensor, padded with 0."""
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True).to(device)


class PathLength(RatePolicy):
    """Start token k where the path reaches k / N of its length, moved as little as the count and the cap ask for.

    Every feasible count is reached exactly (`fit_durations`), in O(T + N). A clip without any change is split evenly.
    """

    def choose(self, clips: Clips) -> Int[Tensor, "batch tokens"]:
        """Choose durations; see `MergingPolicy`. `seconds` are needed."""
        counts = clips.target_tokens(self.frame_rate).tolist()
        similarities = clips.similarities.detach().to("cpu", torch.float64).numpy()
        rows = []
        for of_clip, count, length in zip(similarities, counts, clips.lengths.tolist(), strict=True):
            path = np.cumsum(np.append(0.0, np.maximum(1 - of_clip[: max(length - 1, 0)], 0.0)))
            steps = np.arange(1, max(count, 1))
            if path[-1] > 0:
                levels = steps * (path[-1] / max(count, 1)) * (1 - SLACK)
                wished = np.searchsorted(path, levels)
            else:
                wished = steps * length // max(count, 1)
            rows.append(fit_durations(wished.tolist(), count, length, clips.max_duration))
        return pad_durations(rows, clips.lengths.device)


@register_state
@dataclass(frozen=True)
class PathState:
    """State of a `PathThreshold`: frames of the open token, and the path that no boundary has paid for."""

    run: int
    debt: float


@register_state
@dataclass(frozen=True)
class PathThreshold(Selector):
    """Start a token whenever the path has grown by a threshold; the causal form of `PathLength`.

    A jump over several thresholds is paid for by starting tokens at the frames behind it. Boundaries that the cap
    forces pay nothing. Without a cap the count never rises with the threshold and takes every value up to its most;
    with a cap neither holds.

    Attributes:
        threshold: Above 0, in units of 1 - cosine; one number or one per item.
    """

    threshold: FloatOrPerItem

    def __post_init__(self) -> None:
        super().__post_init__()
        thresholds = as_floats(self.threshold, "threshold")
        if np.min(thresholds) <= 0:
            raise ValueError(f"threshold is {np.min(thresholds):g}; expected a length of the path, above 0")
        object.__setattr__(self, "threshold", thresholds)

    def choose(self, clips: Clips) -> Int[Tensor, "batch tokens"]:
        """Choose durations; see `MergingPolicy`."""
        thresholds = broadcast_per_item(self.threshold, "threshold", len(clips.lengths))
        starts = torch.ones(len(thresholds), clips.similarities.shape[1] + 1, dtype=torch.bool)
        for i, (of_clip, threshold) in enumerate(zip(clips.similarities.tolist(), thresholds, strict=True)):
            found, _, _ = self.scan(of_clip, self.initial_state(), threshold, clips.max_duration)
            starts[i, 1:] = torch.tensor(found, dtype=torch.bool)
        return durations_from_starts(starts.to(clips.lengths.device), clips.lengths)

    def margins(
        self,
        similarities: Float[Tensor, "batch pairs"],
        lengths: Int[Tensor, " batch"],
        *,
        seconds: Seconds | None = None,
        max_duration: int | None = None,
    ) -> Float[Tensor, "batch pairs"]:
        """See `boundary_margins`: the distance of the path from the threshold."""
        thresholds = broadcast_per_item(self.threshold, "threshold", len(lengths))
        limit = self.limit(max_duration)
        rows = [
            self.scan(of_clip, self.initial_state(), threshold, limit)[1]
            for of_clip, threshold in zip(similarities.tolist(), thresholds, strict=True)
        ]
        return torch.tensor(rows, dtype=similarities.dtype, device=similarities.device).view_as(similarities)

    def initial_state(self) -> PathState:
        """Return the state at the first frame; see `CausalPolicy`."""
        return PathState(1, 0.0)

    def step(
        self, similarities: Float[Tensor, " pairs"], state: PathState, max_duration: int | None
    ) -> tuple[Bool[Tensor, " pairs"], Float[Tensor, " pairs"], PathState]:
        """Decide on the next frames; see `CausalPolicy`."""
        (threshold,) = broadcast_per_item(self.threshold, "threshold", 1)
        starts, margins, state = self.scan(similarities.tolist(), state, threshold, self.limit(max_duration))
        device = similarities.device
        return (
            torch.tensor(starts, dtype=torch.bool, device=device),
            torch.tensor(margins, dtype=similarities.dtype, device=device),
            state,
        )

    def scan(
        self, similarities: list[float], state: PathState, threshold: float, max_duration: int | None
    ) -> tuple[list[bool], list[float], PathState]:
        """Decide frame by frame: which start a token, and how far the path was from the threshold."""
        run = state.run
        debt = state.debt
        starts = []
        margins = []
        for similarity in similarities:
            debt += max(1 - similarity, 0.0)
            margins.append(abs(debt - threshold))
            paid = debt >= threshold * (1 - SLACK)
            if paid:
                debt = max(debt - threshold, 0.0)
            starts.append(paid or run == max_duration)
            run = 1 if starts[-1] else run + 1
        return starts, margins, PathState(run, debt)
