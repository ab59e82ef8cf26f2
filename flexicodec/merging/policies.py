"""Merging policies: the exchangeable rule that decides where tokens start.

A policy is a frozen dataclass of settings (a threshold, a rate). Called on the similarities of a batch it returns
durations. No item's durations depend on the other items or on the padding. Rates and thresholds are one number for the
batch or one per item.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flexicodec.merging.durations import check_max_duration, chop_runs, durations_from_starts
from flexicodec.merging.min_variance import min_variance_durations
from flexicodec.nn.masking import length_mask
from flexicodec.nn.streaming import register_state

FloatOrPerItem = float | Sequence[float] | Float[Tensor, " batch"]
Seconds = Float[Tensor, " batch"] | Sequence[float]

# Two token counts whose distances from the rate differ by less than this (in tokens) are a tie: 6.25 Hz x 1.2 s is 7.5
# on paper, and has to be 7.5 whichever way a float64 rounded the seconds.
TIE = 1e-9


# ------------------------------------------------------------------------------------------ one number or one per item


def as_floats(value: FloatOrPerItem, name: str) -> float | tuple[float, ...]:
    """Turn a number, or one number per item, into a float or a tuple of floats, which can be compared and hashed."""
    plain: Any = value.tolist() if hasattr(value, "tolist") else value  # tensors and numpy arrays
    per_item = isinstance(plain, (list, tuple))
    numbers: Sequence[Any] = plain if per_item else [plain]
    if not numbers:
        raise ValueError(f"{name} is {value!r}; expected a number, or a list or tensor with one number per item")
    for x in numbers:
        if isinstance(x, bool) or not isinstance(x, Real):
            raise ValueError(f"{name} is {value!r}; expected a number, or a list or tensor with one number per item")
        magnitude: Any = abs(x)
        if not magnitude <= sys.float_info.max:
            shown = x if isinstance(x, float) else f"a number of {len(str(x))} digits"
            raise ValueError(f"{name} is {shown}; expected a finite number")
    return tuple(map(float, numbers)) if per_item else float(plain)


def broadcast_per_item(value: FloatOrPerItem, name: str, batch: int) -> list[float]:
    """List the value of every item; ValueError unless there is one for all or one for each."""
    values = as_floats(value, name)
    if isinstance(values, float):
        return [values] * batch
    if len(values) != batch:
        raise ValueError(f"{name} has {len(values)} values for a batch of {batch}; give one number, or one per item")
    return list(values)


def check_frame_rate(
    frame_rate: FloatOrPerItem, base_frame_rate: float, max_duration: int | None
) -> float | tuple[float, ...]:
    """Return `frame_rate` as a float or a tuple of floats, if a codec can make so many tokens per second.

    Args:
        frame_rate: Tokens per second, one number or one per item.
        base_frame_rate: Frames per second of the grid: the most tokens per second.
        max_duration: Largest number of frames per token, which sets the fewest tokens per second; None for no limit.

    Raises:
        ValueError: A rate outside base_frame_rate / max_duration ... base_frame_rate.
    """
    rates = as_floats(frame_rate, "frame_rate")
    max_duration = check_max_duration(max_duration)
    # Bounds are widened by the rounding of rates such as 12.5 / 3.
    lowest = base_frame_rate / max_duration if max_duration else 0.0
    for rate in np.atleast_1d(rates):
        if lowest * (1 - 1e-9) <= rate <= base_frame_rate * (1 + 1e-9) and rate > 0:
            continue
        if rate > base_frame_rate:
            slip = "it counts tokens per second; was a sample rate or a bitrate passed?"
        elif 0 < rate <= 1:
            slip = "a similarity threshold goes to threshold="
        else:
            slip = "a lower rate needs a larger max_duration"
        cap = f"at most {max_duration} frames per token" if max_duration else "no cap on a token's frames"
        raise ValueError(
            f"frame_rate is {rate:g} Hz, but a grid of {base_frame_rate:g} Hz with {cap} allows "
            f"{lowest:g} to {base_frame_rate:g} Hz; {slip}"
        )
    return rates


def target_tokens(
    frame_rate: FloatOrPerItem, seconds: Seconds | None, lengths: Int[Tensor, " batch"], max_duration: int | None
) -> Int[Tensor, " batch"]:
    """Count the tokens that come nearest to a rate: the N of least |N - frame_rate * seconds|, the fewer on a tie.

    N stays feasible: at least ceil(frames / max_duration), at most one token per frame. The distance falls up to its
    minimum and rises after it, so clamping the unconstrained optimum keeps it optimal.

    Args:
        frame_rate: Tokens per second, one number or one per item.
        seconds: Of the clips, audio_lengths / sample_rate in float64. The last frame may be partly filled, so this is
            not lengths / base_frame_rate.
        lengths: Frames per item.
        max_duration: Largest number of frames per token; None for no limit.

    Returns:
        Tokens per item, int64, on the device of `lengths`.
    """
    if seconds is None:
        raise ValueError("a frame rate needs the clips' seconds= (audio_lengths / sample_rate) to become a count")
    max_duration = check_max_duration(max_duration)
    # On the CPU, because not every device has float64.
    clip_seconds = torch.as_tensor(seconds, dtype=torch.float64, device="cpu")
    if clip_seconds.shape != lengths.shape:
        raise ValueError(
            f"seconds have shape {tuple(clip_seconds.shape)}, but {len(lengths)} items need one value each"
        )
    rates = broadcast_per_item(frame_rate, "frame_rate", len(lengths))
    wanted = torch.tensor(rates, dtype=torch.float64, device="cpu") * clip_seconds
    # ceil(x - 1/2) rounds to nearest, and halves down: the fewer tokens on a tie.
    nearest = (wanted - 0.5 - TIE).ceil().long().to(lengths.device)
    fewest = (lengths > 0).long() if max_duration is None else -(-lengths // max_duration)
    return nearest.maximum(fewest).minimum(lengths)


# ------------------------------------------------------------------------------------------------------------ policies


class MergingPolicy(Protocol):
    """The interface of policies; each uses the arguments it needs and ignores the others."""

    def __call__(
        self,
        similarities: Float[Tensor, "batch pairs"],
        lengths: Int[Tensor, " batch"],
        *,
        seconds: Seconds | None = None,
        features: Float[Tensor, "batch dim frames"] | None = None,
        max_duration: int | None = None,
    ) -> Int[Tensor, "batch tokens"]:
        """Choose durations for a batch of clips.

        Args:
            similarities: Of each frame and the next one, see `cosine_similarities`.
            lengths: Frames per item.
            seconds: Of the clips, audio_lengths / sample_rate in float64, for policies with a rate.
            features: Semantic features, for policies that look beyond neighbours.
            max_duration: Largest number of frames per token; None for no limit.

        Returns:
            Durations, padded with 0 on the right, that sum to `lengths`.
        """
        ...


@register_state
@dataclass(frozen=True)
class Threshold:
    """Merge two neighbours iff their similarity exceeds a threshold, then chop runs at `max_duration`.

    This is FlexiCodec's rule as released: the paper (arXiv 2510.00981) merges at >= tau, upstream's code at > tau. A
    threshold of 1 never merges, not even equal frames; -1 merges all but opposite ones. As upstream, the comparison is
    made in the precision of the similarities.

    Attributes:
        threshold: In [-1, 1], one number or one per item.
    """

    threshold: FloatOrPerItem

    def __post_init__(self) -> None:
        values = as_floats(self.threshold, "threshold")
        for value in np.atleast_1d(values):
            if not -1 <= value <= 1:
                slip = "a rate in Hz goes to frame_rate=" if value > 1 else "a cosine is never below -1"
                raise ValueError(f"threshold is {value:g}, but similarities lie in [-1, 1]; {slip}")
        object.__setattr__(self, "threshold", values)

    def __call__(
        self,
        similarities: Float[Tensor, "batch pairs"],
        lengths: Int[Tensor, " batch"],
        *,
        seconds: Seconds | None = None,
        features: Float[Tensor, "batch dim frames"] | None = None,
        max_duration: int | None = None,
    ) -> Int[Tensor, "batch tokens"]:
        """Choose durations; see `MergingPolicy`."""
        threshold = self.thresholds(similarities)
        cuts = ~(similarities > threshold) | (threshold >= 1)
        starts = F.pad(cuts, (1, 0), value=True)
        return durations_from_starts(chop_runs(starts, check_max_duration(max_duration)), lengths)

    def initial_state(self) -> int:
        """Return the frames of the open token; see `CausalPolicy`."""
        return 1

    def step(
        self, similarities: Float[Tensor, " pairs"], state: int, max_duration: int | None
    ) -> tuple[Bool[Tensor, " pairs"], Float[Tensor, " pairs"], int]:
        """Decide on the next frames; see `CausalPolicy`."""
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


@dataclass(frozen=True)
class RatePolicy:
    """Base of policies that meet a frame rate; the count of tokens is `target_tokens`.

    Attributes:
        frame_rate: Tokens per second, one number or one per item.
    """

    frame_rate: FloatOrPerItem

    def __post_init__(self) -> None:
        rates = as_floats(self.frame_rate, "frame_rate")
        lowest = np.min(rates)
        if lowest <= 0:
            raise ValueError(f"frame_rate is {lowest:g} Hz, but a rate is positive")
        object.__setattr__(self, "frame_rate", rates)


class ExactRate(RatePolicy):
    """Cut at the lowest similarities, as many times as it takes to come as near to a rate as whole tokens allow.

    Boundaries are added in the order of rising similarity (ties: the earlier frame first), and `max_duration` chops
    what remains too long, as in `Threshold`; without ties the result is that of the highest threshold that keeps to the
    count.

    Every feasible count is reached exactly. Without a boundary there are ceil(T / m) tokens, with all of them T. One
    more boundary splits some run of a + b frames into a and b, and ceil(a / m) + ceil(b / m) is ceil((a + b) / m) or
    one more, so the count climbs in steps of 0 or 1; bisection over the number of boundaries finds it in O(T log T).
    """

    def __call__(
        self,
        similarities: Float[Tensor, "batch pairs"],
        lengths: Int[Tensor, " batch"],
        *,
        seconds: Seconds | None = None,
        features: Float[Tensor, "batch dim frames"] | None = None,
        max_duration: int | None = None,
    ) -> Int[Tensor, "batch tokens"]:
        """Choose durations; see `MergingPolicy`. `seconds` are needed."""
        rank, num_cuts = self.rank_pairs(similarities, lengths, seconds, max_duration)
        starts = F.pad(rank < num_cuts[:, None], (1, 0), value=True)
        return durations_from_starts(chop_runs(starts, max_duration), lengths)

    def rank_pairs(
        self,
        similarities: Float[Tensor, "batch pairs"],
        lengths: Int[Tensor, " batch"],
        seconds: Seconds | None,
        max_duration: int | None,
    ) -> tuple[Int[Tensor, "batch pairs"], Int[Tensor, " batch"]]:
        """Rank the pairs by rising similarity, and count how many of them become boundaries."""
        target = target_tokens(self.frame_rate, seconds, lengths, max_duration)
        pairs = torch.arange(similarities.shape[1], device=similarities.device)
        inside = pairs + 1 < lengths[:, None]
        # Padding sorts behind all pairs of the item; the stable sort breaks ties by time.
        order = similarities.detach().masked_fill(~inside, torch.inf).argsort(dim=-1, stable=True)
        rank = torch.empty_like(order).scatter_(1, order, pairs.expand_as(order))

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


class Uniform(RatePolicy):
    """Make durations as equal as whole frames allow, at the count of `ExactRate`: the fixed-rate ablation.

    Boundary i lies at frame floor(i * T / N). No duration exceeds ceil(T / N), so the limit holds wherever it can.
    """

    def __call__(
        self,
        similarities: Float[Tensor, "batch pairs"],
        lengths: Int[Tensor, " batch"],
        *,
        seconds: Seconds | None = None,
        features: Float[Tensor, "batch dim frames"] | None = None,
        max_duration: int | None = None,
    ) -> Int[Tensor, "batch tokens"]:
        """Choose durations; see `MergingPolicy`. `seconds` are needed."""
        # Boundaries beyond an item's own count repeat its last one, which gives durations of 0.
        target = target_tokens(self.frame_rate, seconds, lengths, max_duration)[:, None]
        boundary = torch.arange(int(target.max()) + 1, device=lengths.device).minimum(target)
        return (boundary * lengths[:, None] // target.clamp(min=1)).diff(dim=-1)


class MinimumVariance(RatePolicy):
    """Minimise the squared deviation of features from their token's mean, at the count of `ExactRate`."""

    def __call__(
        self,
        similarities: Float[Tensor, "batch pairs"],
        lengths: Int[Tensor, " batch"],
        *,
        seconds: Seconds | None = None,
        features: Float[Tensor, "batch dim frames"] | None = None,
        max_duration: int | None = None,
    ) -> Int[Tensor, "batch tokens"]:
        """Choose durations; see `MergingPolicy`. `seconds` and `features` are needed."""
        if features is None:
            raise ValueError("MinimumVariance compares frames with their token's mean: pass the semantic features=")
        assert features.shape[-1] == similarities.shape[-1] + 1, "features and similarities of different clips"
        target = target_tokens(self.frame_rate, seconds, lengths, max_duration)
        return min_variance_durations(features, target, lengths, max_duration)


# ------------------------------------------------------------------------------------------- from keywords to policies

# Names that `policy=` takes with `frame_rate=`; each class takes its setting as the only argument.
POLICIES: dict[str, type[Threshold] | type[ExactRate] | type[Uniform] | type[MinimumVariance]] = {
    "threshold": Threshold,
    "rate": ExactRate,
    "uniform": Uniform,
    "variance": MinimumVariance,
}
RUNNING = "running"  # rate_control.RateController, which builds on this module


def resolve_policy(
    default_threshold: float | None,
    base_frame_rate: float,
    max_duration: int | None,
    *,
    threshold: Any = None,
    frame_rate: Any = None,
    durations: Any = None,
    policy: str | MergingPolicy | None = None,
) -> tuple[MergingPolicy | None, dict[str, Any]]:
    """Turn the choice of rate of one call into a policy and a note on it for `Tokens.info`.

    Args:
        default_threshold: The model's own; None for a fixed-rate model.
        base_frame_rate: Frames per second of the grid.
        max_duration: Most frames per token; None for no cap.
        threshold: See `Codec.encode`, and so for the others.

    Returns:
        The policy, None where `durations` are given.

    Raises:
        ValueError: More than one choice, one that the model does not have, or a value outside its range.
    """
    from flexicodec.merging.rate_control import RateController

    name = None
    own = policy
    if isinstance(policy, str):
        name = policy
        own = None

    # One choice at most
    choices = {"threshold": threshold, "frame_rate": frame_rate, "durations": durations, "policy": own}
    given = [choice for choice, value in choices.items() if value is not None]
    if len(given) > 1:
        every = "both" if len(given) == 2 else "all"
        raise ValueError(f"{' and '.join(given)} were {every} given; choose one, each decides the rate by itself")

    # Fixed-rate models take the settings that merge nothing.
    if default_threshold is None and given not in ([], ["durations"]):
        if not _equals(threshold, 1.0) and not _equals(frame_rate, base_frame_rate):
            raise ValueError(
                f"{given[0]} was given, but this model has a fixed rate of {base_frame_rate:g} Hz: threshold=1, "
                f"frame_rate={base_frame_rate:g} or neither"
            )
        return Threshold(1.0), {"policy": "threshold", "threshold": 1.0}

    names = [each for each in (*POLICIES, RUNNING) if each != "threshold"]
    unknown = name is not None and (name not in names or frame_rate is None)
    if unknown or (own is not None and (not callable(own) or isinstance(own, type))):
        raise ValueError(
            f"policy is {policy!r}; expected one of {', '.join(names)} with frame_rate=, or a MergingPolicy"
        )

    # The policy, and its note
    if durations is not None:
        return None, {"policy": "durations"}
    if own is not None:
        kinds: dict[type, str] = {kind: each for each, kind in POLICIES.items()} | {RateController: RUNNING}
        info: dict[str, Any] = {"policy": kinds.get(type(own), type(own).__name__)}
        if hasattr(own, "frame_rate"):
            info["frame_rate"] = check_frame_rate(own.frame_rate, base_frame_rate, max_duration)
        if hasattr(own, "threshold"):
            info["threshold"] = own.threshold
    elif frame_rate is not None:
        rate = check_frame_rate(frame_rate, base_frame_rate, max_duration)
        info = {"policy": name or "rate", "frame_rate": rate}
        if name == RUNNING:
            assert default_threshold is not None
            own = RateController(rate, default_threshold, base_frame_rate)
        else:
            own = POLICIES[name or "rate"](rate)
    else:
        if threshold is None:
            threshold = 1.0 if default_threshold is None else default_threshold
        own = Threshold(threshold)
        info = {"policy": "threshold", "threshold": own.threshold}
    # `Tokens.info` holds what JSON has.
    return own, {key: list(value) if isinstance(value, tuple) else value for key, value in info.items()}


def _equals(value: Any, wanted: float) -> bool:
    return isinstance(value, (int, float)) and value == wanted
