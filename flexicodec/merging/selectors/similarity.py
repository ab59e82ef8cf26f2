"""Policies by the similarities of neighbouring frames, and even durations."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flexicodec.merging.durations import chop_runs, durations_from_starts
from flexicodec.merging.policies import (
    Clips,
    FloatOrPerItem,
    RatePolicy,
    Seconds,
    Selector,
    as_floats,
    broadcast_per_item,
    target_tokens,
)
from flexicodec.nn.masking import length_mask
from flexicodec.nn.streaming import register_state


@register_state
@dataclass(frozen=True)
class Threshold(Selector):
    """Merge two neighbours iff their similarity exceeds a threshold, then chop runs at `max_duration`.

    This is FlexiCodec's rule as released: the paper (arXiv 2510.00981) merges at >= tau, upstream's code at > tau. A
    threshold of 1 never merges, not even equal frames; -1 merges all but opposite ones. As upstream, the comparison is
    made in the precision of the similarities.

    Attributes:
        threshold: In [-1, 1], one number or one per item.
    """

    setting_range = (-1.0, 1.0)
    threshold: FloatOrPerItem

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "threshold", check_cosine(self.threshold))

    def choose(self, clips: Clips) -> Int[Tensor, "batch tokens"]:
        """Choose durations; see `MergingPolicy`."""
        threshold = self.thresholds(clips.similarities)
        cuts = ~(clips.similarities > threshold) | (threshold >= 1)
        starts = F.pad(cuts, (1, 0), value=True)
        return durations_from_starts(chop_runs(starts, clips.max_duration), clips.lengths)

    def initial_state(self) -> int:
        """Return the frames of the open token; see `CausalPolicy`."""
        return 1

    def step(
        self, similarities: Float[Tensor, " pairs"], state: int, max_duration: int | None
    ) -> tuple[Bool[Tensor, " pairs"], Float[Tensor, " pairs"], int]:
        """Decide on the next frames; see `CausalPolicy`."""
        max_duration = self.limit(max_duration)
        threshold = self.thresholds(similarities[None])[0]
        cuts = ~(similarities > threshold) | (threshold >= 1)
        starts = []
        for cut in cuts.tolist():
            starts.append(cut or state == max_duration)
            state = 1 if starts[-1] else state + 1
        margins = (similarities - threshold).abs().masked_fill(threshold >= 1, torch.inf)
        return torch.tensor(starts, dtype=torch.bool, device=similarities.device), margins, state

    def thresholds(self, similarities: Float[Tensor, "batch pairs"]) -> Float[Tensor, "batch 1"]:
        """Return the threshold of each item, in the precision of the similarities."""
        values = broadcast_per_item(self.threshold, "threshold", len(similarities))
        return torch.tensor(values, dtype=similarities.dtype, device=similarities.device)[:, None]


def check_cosine(threshold: FloatOrPerItem) -> float | tuple[float, ...]:
    """Return a threshold of cosines as a float or a tuple of floats; ValueError outside [-1, 1]."""
    values = as_floats(threshold, "threshold")
    for value in np.atleast_1d(values):
        if not -1 <= value <= 1:
            slip = "a rate in Hz goes to frame_rate=" if value > 1 else "a cosine is never below -1"
            raise ValueError(f"threshold is {value:g}, but similarities lie in [-1, 1]; {slip}")
    return values


class ExactRate(RatePolicy):
    """Cut at the lowest similarities, as many times as it takes to come as near to a rate as whole tokens allow.

    Boundaries are added in the order of rising similarity (ties: the earlier frame first), and `max_duration` chops
    what remains too long, as in `Threshold`; without ties the result is that of the highest threshold that keeps to the
    count.

    Every feasible count is reached exactly. Without a boundary there are ceil(T / m) tokens, with all of them T. One
    more boundary splits some run of a + b frames into a and b, and ceil(a / m) + ceil(b / m) is ceil((a + b) / m) or
    one more, so the count climbs in steps of 0 or 1; bisection over the number of boundaries finds it in O(T log T).
    """

    def choose(self, clips: Clips) -> Int[Tensor, "batch tokens"]:
        """Choose durations; see `MergingPolicy`. `seconds` are needed."""
        rank, num_cuts = self.rank_pairs(clips.similarities, clips.lengths, clips.seconds, clips.max_duration)
        starts = F.pad(rank < num_cuts[:, None], (1, 0), value=True)
        return durations_from_starts(chop_runs(starts, clips.max_duration), clips.lengths)

    def rank_pairs(
        self,
        similarities: Float[Tensor, "batch pairs"],
        lengths: Int[Tensor, " batch"],
        seconds: Seconds | None,
        max_duration: int | None,
    ) -> tuple[Int[Tensor, "batch pairs"], Int[Tensor, " batch"]]:
        """Rank the pairs by rising similarity, and count how many of them become boundaries."""
        max_duration = self.limit(max_duration)
        target = target_tokens(self.frame_rate, seconds, lengths, max_duration)
        rank = rank_pairs(similarities, lengths)
        # Bisection: the largest number of cuts that makes no more than `target` tokens lies in few ... many.
        few = torch.zeros_like(lengths)
        many = lengths - 1
        for _ in range(similarities.shape[1].bit_length()):
            middle = (few + many + 1) // 2
            starts = chop_runs(F.pad(rank < middle[:, None], (1, 0), value=True), max_duration)
            fits = (starts & length_mask(lengths, starts.shape[1])).sum(-1) <= target
            few = torch.where(fits, middle, few)
            many = torch.where(fits, many, middle - 1)
        return rank, few


def rank_pairs(
    similarities: Float[Tensor, "batch pairs"], lengths: Int[Tensor, " batch"]
) -> Int[Tensor, "batch pairs"]:
    """Rank each clip's pairs by rising similarity, the earlier first among equals; padding ranks last."""
    pairs = torch.arange(similarities.shape[1], device=similarities.device)
    inside = pairs + 1 < lengths[:, None]
    order = similarities.detach().masked_fill(~inside, torch.inf).argsort(dim=-1, stable=True)
    return torch.empty_like(order).scatter_(1, order, pairs.expand_as(order))


class TopCuts(RatePolicy):
    """Cut at the N - 1 lowest similarities and then chop, as FlexiSLM does: a cap may give more tokens than N.

    The forced cuts are not taken out of the budget. 20 similarities of 0.9, then 0.1, 0.2 and 0.3, with N = 4 and a cap
    of 8 give 6 tokens, where `ExactRate` gives 4. Without a cap both are the same. Ties: the earlier frame is cut.
    """

    def choose(self, clips: Clips) -> Int[Tensor, "batch tokens"]:
        """Choose durations; see `MergingPolicy`. `seconds` are needed."""
        target = clips.target_tokens(self.frame_rate)
        rank = rank_pairs(clips.similarities, clips.lengths)
        starts = F.pad(rank < (target - 1)[:, None], (1, 0), value=True)
        return durations_from_starts(chop_runs(starts, clips.max_duration), clips.lengths)


class Uniform(RatePolicy):
    """Make durations as equal as whole frames allow, at the count of `ExactRate`: the fixed-rate ablation.

    Boundary i lies at frame floor(i * T / N). No duration exceeds ceil(T / N), so the limit holds wherever it can.
    """

    def choose(self, clips: Clips) -> Int[Tensor, "batch tokens"]:
        """Choose durations; see `MergingPolicy`. `seconds` are needed."""
        # Boundaries beyond an item's own count repeat its last one, which gives durations of 0.
        target = clips.target_tokens(self.frame_rate)[:, None]
        boundary = torch.arange(int(target.max()) + 1, device=clips.lengths.device).minimum(target)
        return (boundary * clips.lengths[:, None] // target.clamp(min=1)).diff(dim=-1)


@dataclass(frozen=True)
class Shuffled(ExactRate):
    """Put the durations of `ExactRate` into a random order: as varied, and in the wrong places.

    The control that tells whether places matter. A clip's order depends on its durations and the seed alone.

    Attributes:
        seed: Of the order.
    """

    seed: int = 0

    def choose(self, clips: Clips) -> Int[Tensor, "batch tokens"]:
        """Choose durations; see `MergingPolicy`. `seconds` are needed."""
        durations = super().choose(clips)
        shuffled = torch.zeros_like(durations)
        for row, item in enumerate(durations):
            own = item[item > 0].cpu().numpy()
            random = np.random.default_rng([self.seed, *own.tolist()])
            shuffled[row, : len(own)] = torch.from_numpy(random.permutation(own))
        return shuffled
