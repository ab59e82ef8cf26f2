"""Causal policies that compare each frame's features with those of the token that is open."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf, sqrt

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flexicodec.merging.durations import durations_from_starts
from flexicodec.merging.policies import (
    Clips,
    FloatOrPerItem,
    Seconds,
    Selector,
    as_floats,
    broadcast_per_item,
    check_positive,
    check_within,
)
from flexicodec.merging.rate_control import RateControl, RateController, RateControllerState
from flexicodec.merging.selectors.similarity import check_cosine
from flexicodec.nn.streaming import register_state


@register_state
@dataclass(frozen=True)
class TokenSums:
    """Sums over the frames x of one stream of features.

    Attributes:
        total: Sum of x over the open token, in float64.
        square: ||total||^2.
        energy: Sum of ||x||^2 over the open token.
        clip_energy: Sum of ||x||^2 over the clip so far.
    """

    total: Float[Tensor, "1 dim"]
    square: float = 0.0
    energy: float = 0.0
    clip_energy: float = 0.0


@register_state
@dataclass(frozen=True)
class OpenToken:
    """State of a `RunningPolicy`.

    Attributes:
        run: Frames of the open token; 0 before the first frame of a clip.
        frames: The clip's frames so far.
        streams: Sums over the semantic stream, and over the acoustic one if it is used.
        control: Where the controller stands of a policy that is held at a rate.
    """

    run: int
    frames: int
    streams: tuple[TokenSums, ...]
    control: RateControllerState | None = None


class RunningSums:
    """`TokenSums` that are updated frame by frame; x is the newest frame.

    Attributes:
        own: ||x||^2.
        product: x times the sum of the open token's frames before it.
    """

    def __init__(self, before: TokenSums) -> None:
        self.total: Float[np.ndarray, " dim"] = before.total[0].cpu().numpy()
        self.square = before.square
        self.energy = before.energy
        self.clip_energy = before.clip_energy
        self.own = 0.0
        self.product = 0.0

    def state(self) -> TokenSums:
        """Return the sums."""
        return TokenSums(torch.from_numpy(self.total.copy())[None], self.square, self.energy, self.clip_energy)

    def compare(self, frame: Float[np.ndarray, " dim"]) -> None:
        """Compare the next frame with the open token."""
        self.own = float(frame @ frame)
        self.product = float(self.total @ frame)
        self.clip_energy += self.own

    def add(self, frame: Float[np.ndarray, " dim"], joins: bool) -> None:
        """Add the frame to the open token, or begin one with it."""
        if joins:
            self.total = self.total + frame
            self.square += 2 * self.product + self.own
            self.energy += self.own
        else:
            self.total = frame
            self.square = self.energy = self.own


class RunningPolicy(Selector):
    """Base of policies by which a frame joins the open token while it is close enough and the cap allows.

    Sums are made in float64, frame by frame, so that streams in any pieces and whole clips get the same durations.
    Time is O(T D).
    """

    uses_features = True

    def closeness(self, sums: list[RunningSums], run: int, frames: int) -> float:
        """Compute what has to exceed `bound` for a frame to join a token of `run` frames.

        Args:
            sums: Of the semantic stream, and of the acoustic one if it is used.
            run: Frames of the open token.
            frames: Of the clip, up to the new one.
        """
        raise NotImplementedError

    def bounds(self, batch: int) -> list[float]:
        """Return each item's least closeness."""
        raise NotImplementedError

    def controller(self) -> RateController | None:
        """Return what moves the least closeness to hold a rate, for policies that have a rate in its place."""
        return None

    def choose(self, clips: Clips) -> Int[Tensor, "batch tokens"]:
        """Choose durations; see `MergingPolicy`. `features` are needed."""
        starts = torch.zeros(len(clips.lengths), clips.similarities.shape[1] + 1, dtype=torch.bool)
        for i, (found, _, _) in enumerate(self.scan_clips(clips)):
            starts[i, : len(found)] = torch.tensor(found, dtype=torch.bool)
        return durations_from_starts(starts.to(clips.lengths.device), clips.lengths)

    def scan_clips(self, clips: Clips) -> Iterator[tuple[list[bool], list[float], OpenToken]]:
        """Yield what `scan` finds in each clip."""
        streams = [clips.semantic_features(self)]
        if self.uses_acoustic and clips.acoustic is not None:
            streams.append(clips.acoustic)
        bounds = self.bounds(len(clips.lengths))
        for i, length in enumerate(clips.lengths.tolist()):
            frames = [as_frames(each[i, :, :length]) for each in streams]
            yield self.scan(frames, None, bounds[i], clips.max_duration)

    def margins(
        self,
        similarities: Float[Tensor, "batch pairs"],
        lengths: Int[Tensor, " batch"],
        *,
        features: Float[Tensor, "batch dim frames"],
        acoustic: Float[Tensor, "batch acoustic_dim frames"] | None = None,
        seconds: Seconds | None = None,
        max_duration: int | None = None,
    ) -> Float[Tensor, "batch pairs"]:
        """See `boundary_margins`: the distance of each frame's closeness from the threshold."""
        clips = Clips(similarities, lengths, seconds, features, acoustic, self.limit(max_duration))
        margins = torch.full_like(similarities, torch.inf)
        for i, (_, distances, _) in enumerate(self.scan_clips(clips)):
            margins[i, : len(distances) - 1] = torch.tensor(distances[1:], dtype=torch.float64).to(margins)
        return margins

    def initial_state(self) -> None:
        """Return the state before the first step; see `CausalPolicy`."""
        return

    def step(
        self,
        similarities: Float[Tensor, " pairs"],
        state: OpenToken | None,
        max_duration: int | None,
        *,
        features: Float[Tensor, "1 dim frames"],
        acoustic: Float[Tensor, "1 acoustic_dim frames"] | None = None,
    ) -> tuple[Bool[Tensor, " pairs"], Float[Tensor, " pairs"], OpenToken]:
        """Decide on the next frames; see `CausalPolicy`."""
        streams = [features]
        if self.uses_acoustic and acoustic is not None:
            streams.append(acoustic)
        known = 0 if state is None else 1  # the first frame was the last of the step before
        frames = [as_frames(each[0, :, known:]) for each in streams]
        (bound,) = self.bounds(1)
        starts, distances, state = self.scan(frames, state, bound, self.limit(max_duration))
        margins = torch.tensor(distances[1 - known :], dtype=torch.float64)
        device = similarities.device
        decided = torch.tensor(starts[1 - known :], dtype=torch.bool, device=device)
        return decided, margins.to(device, similarities.dtype), state

    def scan(
        self,
        streams: list[Float[np.ndarray, "frames dim"]],
        state: OpenToken | None,
        bound: float,
        max_duration: int | None,
    ) -> tuple[list[bool], list[float], OpenToken]:
        """Decide on the next frames of one clip: which start a token, and how far their closeness was from `bound`.

        With a `controller`, `bound` is the rate that it holds.
        """
        settings = self.controller()
        if settings is not None:
            settings = replace(settings, frame_rate=bound)
        if state is None:
            empty = [torch.zeros(1, each.shape[1], dtype=torch.float64) for each in streams]
            held = settings.initial_state() if settings else None
            state = OpenToken(0, 0, tuple(map(TokenSums, empty)), held)
        control = RateControl(settings, state.control) if settings and state.control else None
        run = state.run
        seen = state.frames
        sums = [RunningSums(each) for each in state.streams]
        starts = []
        distances = []
        for frames in zip(*streams, strict=True):
            seen += 1
            for each, frame in zip(sums, frames, strict=True):
                each.compare(frame)
            if control:
                bound = control.threshold()
            closeness = self.closeness(sums, run, seen) if run else 0.0
            joins = 0 < run and run != max_duration and closeness > bound
            if control and run:  # the first frame's token is part of the initial state
                control.update(not joins)
            for each, frame in zip(sums, frames, strict=True):
                each.add(frame, joins)
            starts.append(not joins)
            distances.append(abs(closeness - bound))
            run = run + 1 if joins else 1
        held = control.state(run) if control else None
        return starts, distances, OpenToken(run, seen, tuple(each.state() for each in sums), held)


def as_frames(features: Float[Tensor, "dim frames"]) -> Float[np.ndarray, "frames dim"]:
    """Return features as rows of float64."""
    rows: Float[np.ndarray, "frames dim"] = features.detach().to("cpu", torch.float64).mT.contiguous().numpy()
    return rows


@register_state
@dataclass(frozen=True)
class Centroid(RunningPolicy):
    """Let a frame join its token while its cosine with the token's mean so far exceeds a threshold.

    Neighbours may chain through a slow change; the mean does not follow. A threshold of 1 never merges.

    Attributes:
        threshold: In [-1, 1], one number or one per item.
    """

    setting_range = (-1.0, 1.0)
    threshold: FloatOrPerItem

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "threshold", check_cosine(self.threshold))

    def bounds(self, batch: int) -> list[float]:
        """Return each item's threshold."""
        return broadcast_per_item(self.threshold, "threshold", batch)

    def closeness(self, sums: list[RunningSums], run: int, frames: int) -> float:
        """Compute the cosine of the frame and the token's mean; 0 where one of them is 0."""
        (semantic,) = sums
        norms = sqrt(max(semantic.square, 0.0) * semantic.own)
        return min(max(semantic.product / norms, -1.0), 1.0) if norms else 0.0


@register_state
@dataclass(frozen=True)
class RunningCost(RunningPolicy):
    """Let a frame join its token while that adds less than a threshold to the token's cost: causal `LeastCost`.

    The cost is "joint" of `LeastCost`, with energies relative to their mean over the clip's frames so far.

    Attributes:
        threshold: Of the added cost; one number or one per item. 0 never merges.
        acoustic: Share of the acoustic features; a call without them uses the semantic ones alone.
        length_power: The squared error counts times the token's duration to this power.
    """

    threshold: FloatOrPerItem
    acoustic: float = 0.0
    length_power: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        thresholds = as_floats(self.threshold, "threshold")
        if np.min(thresholds) < 0:
            raise ValueError(f"threshold is {np.min(thresholds):g}; expected a cost that a frame may add, 0 or more")
        object.__setattr__(self, "threshold", thresholds)
        check_within(self.acoustic, "acoustic", 0, 1)
        check_within(self.length_power, "length_power", 0, 4)

    @property
    def uses_acoustic(self) -> bool:  # type: ignore[override]
        """Whether the acoustic features count."""
        return self.acoustic > 0

    def bounds(self, batch: int) -> list[float]:
        """Return each item's threshold, negated as costs are; out of reach for 0, which rounding would not be."""
        return [-each if each else inf for each in broadcast_per_item(self.threshold, "threshold", batch)]

    def closeness(self, sums: list[RunningSums], run: int, frames: int) -> float:
        """Compute what the frame adds to the token's cost, negated."""
        return -added_cost(sums, run, frames, self.acoustic, self.length_power)


def added_cost(sums: list[RunningSums], run: int, frames: int, acoustic: float, length_power: float) -> float:
    """Compute what the newest frame would add to the cost of the open token; see `RunningCost`."""
    shares = [1 - acoustic, acoustic] if len(sums) == 2 else [1.0]
    added = 0.0
    for each, share in zip(sums, shares, strict=True):
        before = each.energy - each.square / run
        after = each.energy + each.own - (each.square + 2 * each.product + each.own) / (run + 1)
        longer = after * (run + 1) ** length_power - before * run**length_power
        added += share * longer * frames / (each.clip_energy or 1.0)
    return added


@register_state
@dataclass(frozen=True)
class SteeredCost(RunningPolicy):
    """Let a frame join its token while that adds little to the token's cost: `RunningCost`, held at a rate.

    A `RateController` moves the threshold, on 1 / (1 + added cost): that is 1 for equal frames and never negative.

    Attributes:
        frame_rate: Tokens per second, one number or one per item.
        acoustic: See `RunningCost`, and so for `length_power`.
        threshold: To begin with.
        base_frame_rate: Frames per second of the grid.
    """

    frame_rate: FloatOrPerItem
    acoustic: float = 0.0
    length_power: float = 0.0
    threshold: float = 0.8
    base_frame_rate: float = 12.5

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "frame_rate", check_positive(self.frame_rate, "frame_rate"))
        check_within(self.acoustic, "acoustic", 0, 1)
        check_within(self.length_power, "length_power", 0, 4)
        self.controller()

    @property
    def uses_acoustic(self) -> bool:  # type: ignore[override]
        """Whether the acoustic features count."""
        return self.acoustic > 0

    def bounds(self, batch: int) -> list[float]:
        """Return each item's rate."""
        return broadcast_per_item(self.frame_rate, "frame_rate", batch)

    def controller(self) -> RateController:
        """Return what moves the threshold."""
        return RateController(
            self.frame_rate, self.threshold, self.base_frame_rate, proportional=0.1, integral=0.05, lowest=0.0
        )

    def closeness(self, sums: list[RunningSums], run: int, frames: int) -> float:
        """Compute 1 / (1 + what the frame adds to the token's cost)."""
        return 1 / (1 + max(0.0, added_cost(sums, run, frames, self.acoustic, self.length_power)))
