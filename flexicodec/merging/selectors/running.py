"""Causal policies that compare each frame's features with those of the token that is open."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flexicodec.merging.durations import durations_from_starts
from flexicodec.merging.policies import Clips, FloatOrPerItem, Selector, as_floats, broadcast_per_item, check_within
from flexicodec.merging.selectors.similarity import check_cosine
from flexicodec.nn.streaming import register_state


@register_state
@dataclass(frozen=True)
class OpenToken:
    """State of a `RunningPolicy`: sums over the frames of the token that is open, for each stream of features.

    Attributes:
        run: Its frames; 0 before the first frame of a clip.
        total: Sum of its frames, the streams' vectors behind each other.
        square: ||total||^2 of each stream.
        energy: Sum of ||x||^2 of its frames.
        clip_energy: Sum of ||x||^2 of the clip's frames so far.
        frames: The clip's frames so far.
    """

    run: Float[Tensor, "batch 1"]
    total: Float[Tensor, "batch dims"]
    square: Float[Tensor, "batch streams"]
    energy: Float[Tensor, "batch streams"]
    clip_energy: Float[Tensor, "batch streams"]
    frames: int


@dataclass(frozen=True)
class Comparison:
    """A new frame beside the open token, for each item and stream; x is the frame, S the sum of the token's frames."""

    run: Float[np.ndarray, "batch 1"]  # the token's frames
    product: Float[np.ndarray, "batch streams"]  # S . x
    square: Float[np.ndarray, "batch streams"]  # ||S||^2
    energy: Float[np.ndarray, "batch streams"]  # sum of ||x||^2 over the token's frames
    own: Float[np.ndarray, "batch streams"]  # ||x||^2
    mean_energy: Float[np.ndarray, "batch streams"]  # mean of ||x||^2 over the clip's frames so far


class RunningPolicy(Selector):
    """Base of policies by which a frame joins the open token while it is close enough and the cap allows.

    Sums are made in float64, frame by frame in time, so that streams in any pieces and whole clips get the same
    durations. Time is O(T D) for a batch.
    """

    uses_features = True

    def closeness(self, new: Comparison) -> Float[np.ndarray, " batch"]:
        """Compute what has to exceed `bounds` for a frame to join."""
        raise NotImplementedError

    def bounds(self, batch: int) -> Float[np.ndarray, " batch"]:
        """Return each item's least closeness."""
        raise NotImplementedError

    def choose(self, clips: Clips) -> Int[Tensor, "batch tokens"]:
        """Choose durations; see `MergingPolicy`. `features` are needed."""
        starts, _ = self.scan_clips(clips)
        return durations_from_starts(torch.from_numpy(starts).to(clips.lengths.device), clips.lengths)

    def scan_clips(self, clips: Clips) -> tuple[Bool[np.ndarray, "batch frames"], Float[np.ndarray, "batch frames"]]:
        """Return which frames of whole clips start tokens, and their closeness to the token before."""
        streams = [clips.semantic_features(self)]
        if self.uses_acoustic and clips.acoustic is not None:
            streams.append(clips.acoustic)
        inside = torch.arange(int(clips.lengths.max())) < clips.lengths.cpu()[:, None]
        streams = [as_frames(each)[:, : inside.shape[1]].where(inside[..., None], 0.0) for each in streams]
        starts, closeness, _ = self.scan(streams, None, clips.max_duration)
        return starts, closeness

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
        first = 0 if state is None else 1  # the first frame is known from the step before, except at the clip's start
        frames = [as_frames(each[..., first:]) for each in streams]
        starts, closeness, state = self.scan(frames, state, self.limit(max_duration))
        starts = starts[0, 1 - first :]
        margins = np.abs(closeness[0, 1 - first :] - self.bounds(1))
        device = similarities.device
        return (
            torch.from_numpy(starts).to(device),
            torch.from_numpy(margins).to(device, similarities.dtype),
            state,
        )

    def scan(
        self, streams: list[Float[Tensor, "batch frames dim"]], state: OpenToken | None, max_duration: int | None
    ) -> tuple[Bool[np.ndarray, "batch frames"], Float[np.ndarray, "batch frames"], OpenToken]:
        """Decide on the next frames of a batch, one frame after the other."""
        batch, num_frames, _ = streams[0].shape
        frames = torch.cat(streams, dim=-1).numpy()
        offsets = np.cumsum([0, *(each.shape[-1] for each in streams)])[:-1]
        energies = np.add.reduceat(frames * frames, offsets, axis=-1)
        if state is None:
            none = np.zeros((batch, len(streams)))
            run, total = np.zeros((batch, 1)), np.zeros((batch, frames.shape[-1]))
            square, energy, clip_energy, seen = none, none, none, 0
        else:
            parts = (state.run, state.total, state.square, state.energy, state.clip_energy)
            run, total, square, energy, clip_energy = (each.cpu().numpy() for each in parts)
            seen = state.frames

        bounds = self.bounds(batch)
        longest = np.inf if max_duration is None else max_duration
        starts = np.zeros((batch, num_frames), dtype=bool)
        closeness = np.zeros((batch, num_frames))
        for t in range(num_frames):
            frame = frames[:, t]
            own = energies[:, t]
            seen += 1
            clip_energy = clip_energy + own
            product = np.add.reduceat(total * frame, offsets, axis=-1)
            new = Comparison(np.maximum(run, 1), product, square, energy, own, clip_energy / seen)
            closeness[:, t] = self.closeness(new)
            joins = (closeness[:, t] > bounds)[:, None] & (run < longest) & (run > 0)
            starts[:, t] = ~joins[:, 0]
            # The open token with the frame, or the frame alone
            total = np.where(joins, total, 0.0) + frame
            square = np.where(joins, square + 2 * product, 0.0) + own
            energy = np.where(joins, energy, 0.0) + own
            run = np.where(joins, run, 0.0) + 1
        sums = [torch.from_numpy(each) for each in (run, total, square, energy, clip_energy)]
        return starts, closeness, OpenToken(sums[0], sums[1], sums[2], sums[3], sums[4], seen)


def as_frames(features: Float[Tensor, "batch dim frames"]) -> Float[Tensor, "batch frames dim"]:
    """Return features as rows of float64 on the CPU."""
    return features.detach().to("cpu", torch.float64).mT.contiguous()


@register_state
@dataclass(frozen=True)
class Centroid(RunningPolicy):
    """Let a frame join its token while its cosine with the token's mean so far exceeds a threshold.

    Neighbours may chain through a slow change; the mean does not follow. A threshold of 1 never merges.

    Attributes:
        threshold: In [-1, 1], one number or one per item.
    """

    threshold: FloatOrPerItem

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "threshold", check_cosine(self.threshold))

    def bounds(self, batch: int) -> Float[np.ndarray, " batch"]:
        """Return each item's threshold."""
        return np.array(broadcast_per_item(self.threshold, "threshold", batch))

    def closeness(self, new: Comparison) -> Float[np.ndarray, " batch"]:
        """Compute the cosine of the frame and the token's mean; 0 where one of them is 0."""
        norms = np.sqrt(new.square[:, 0].clip(min=0.0) * new.own[:, 0])
        cosines = new.product[:, 0] / np.maximum(norms, np.finfo(np.float64).tiny)
        return np.clip(cosines, -1.0, 1.0)


@register_state
@dataclass(frozen=True)
class RunningCost(RunningPolicy):
    """Let a frame join its token while that adds less than a threshold to the token's cost: causal `LeastCost`.

    The cost is "joint" of `LeastCost`, with energies relative to their mean over the clip's frames so far.

    Attributes:
        threshold: Of the added cost; above 0, one number or one per item.
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

    def bounds(self, batch: int) -> Float[np.ndarray, " batch"]:
        """Return each item's threshold, negated as costs are."""
        return -np.array(broadcast_per_item(self.threshold, "threshold", batch))

    def closeness(self, new: Comparison) -> Float[np.ndarray, " batch"]:
        """Compute what the frame adds to the token's cost, negated."""
        longer = new.run + 1
        before = new.energy - new.square / new.run
        after = new.energy + new.own - (new.square + 2 * new.product + new.own) / longer
        added = after * longer**self.length_power - before * new.run**self.length_power
        relative = added / np.maximum(new.mean_energy, np.finfo(np.float64).tiny)
        if relative.shape[1] == 1:
            return -relative[:, 0]
        return -(relative @ np.array([1 - self.acoustic, self.acoustic]))
