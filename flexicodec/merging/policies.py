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

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flexicodec.merging.durations import check_max_duration, chop_runs, durations_from_starts, valid_frames
from flexicodec.merging.min_variance import min_variance_durations
from flexicodec.nn.streaming import register_state

FloatOrPerItem = float | Sequence[float] | Float[Tensor, " batch"]

# Two counts that miss the rate by amounts this close (in tokens) are a tie: 6.25 Hz x 1.2 s is 7.5 on paper, and has to
# be 7.5 whichever way a float64 rounded the seconds.
TIE = 1e-9


def as_floats(value: FloatOrPerItem, name: str) -> float | tuple[float, ...]:
    """Turn a number, or one number per item, into a float or a tuple of floats, which can be compared and hashed."""
    plain: Any = value.tolist() if hasattr(value, "tolist") else value  # tensors and numpy arrays
    numbers: Sequence[Any] = plain if isinstance(plain, (list, tuple)) else [plain]
    if not numbers or any(isinstance(x, bool) or not isinstance(x, Real) for x in numbers):
        raise ValueError(f"{name} is {value!r}; expected a number, or a list or tensor with one number per item")
    if bad := [x for x in numbers if not abs(x) <= sys.float_info.max]:
        shown = bad[0] if isinstance(bad[0], float) else f"a number of {len(str(bad[0]))} digits"
        raise ValueError(f"{name} is {shown}; expected a finite number")
    return tuple(map(float, numbers)) if isinstance(plain, (list, tuple)) else float(plain)


def broadcast_per_item(value: FloatOrPerItem, name: str, batch: int) -> list[float]:
    """List the value for every item; ValueError where there is neither one for all nor one for each."""
    settled = as_floats(value, name)
    values = list(settled) if isinstance(settled, tuple) else [settled] * batch
    if len(values) != batch:
        raise ValueError(f"{name} has {len(values)} values for a batch of {batch}; give one number, or one per item")
    return values


def check_frame_rate(
    frame_rate: FloatOrPerItem, base_frame_rate: float, max_duration: int | None
) -> float | tuple[float, ...]:
    """Return `frame_rate` as a float or a tuple of them, if a codec can make so many tokens per second.

    Args:
        frame_rate: tokens per second, one for all items or one for each.
        base_frame_rate: frames per second of the grid, hence the most tokens per second.
        max_duration: most frames per token, hence the fewest tokens per second; None for no cap.

    Raises:
        ValueError: a rate outside base_frame_rate / max_duration ... base_frame_rate.
    """
    max_duration = check_max_duration(max_duration)
    settled = as_floats(frame_rate, "frame_rate")
    lowest = base_frame_rate / max_duration if max_duration else 0.0
    for rate in settled if isinstance(settled, tuple) else (settled,):
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
    return settled


def target_tokens(
    frame_rate: FloatOrPerItem,
    seconds: Float[Tensor, " batch"] | Sequence[float],
    lengths: Int[Tensor, " batch"],
    max_duration: int | None,
) -> Int[Tensor, " batch"]:
    """Count the tokens that come nearest to a rate: the N of least |N - frame_rate * seconds|, the fewer on a tie.

    N stays feasible: at least ceil(frames / max_duration), at most one token per frame. The distance falls up to its
    minimum and rises after it, so clamping the unconstrained optimum keeps it optimal.

    Args:
        frame_rate: tokens per second, one for all items or one for each.
        seconds: what the clips last, audio_lengths / sample_rate in float64 (the last frame may be partly filled, so
            this is not lengths / base_frame_rate).
        lengths: frames of every item.
        max_duration: most frames per token; None for no cap.

    Returns:
        Tokens of every item, int64, on the device of `lengths`.
    """
    max_duration = check_max_duration(max_duration)
    # On the CPU, because not every device has float64.
    clip_seconds = torch.as_tensor(seconds, dtype=torch.float64, device="cpu")
    if clip_seconds.shape != lengths.shape:
        raise ValueError(
            f"seconds have shape {tuple(clip_seconds.shape)}, but {len(lengths)} items need one value each"
        )
    rates = torch.tensor(broadcast_per_item(frame_rate, "frame_rate", len(lengths)), dtype=torch.float64)
    nearest = (rates * clip_seconds - 0.5 - TIE).ceil().long().to(lengths.device)
    fewest = (lengths > 0).long() if max_duration is None else -(-lengths // max_duration)
    return nearest.maximum(fewest).minimum(lengths)


Seconds = Float[Tensor, " batch"] | Sequence[float]


class MergingPolicy(Protocol):
    """What every policy answers to; each uses the arguments that it needs and ignores the others."""

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
            similarities: of each frame and the next one, see `cosine_similarities`.
            lengths: frames of every item.
            seconds: what every clip lasts, audio_lengths / sample_rate in float64; policies with a rate need it.
            features: semantic features; policies that look beyond neighbours need them.
            max_duration: most frames per token; None for no cap.

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
        threshold: in [-1, 1], one for all items or one for each.
    """

    threshold: FloatOrPerItem

    def __post_init__(self) -> None:
        settled = as_floats(self.threshold, "threshold")
        for value in settled if isinstance(settled, tuple) else (settled,):
            if not -1 <= value <= 1:
                slip = "a rate in Hz goes to frame_rate=" if value > 1 else "a cosine is never below -1"
                raise ValueError(f"threshold is {value:g}, but similarities lie in [-1, 1]; {slip}")
        object.__setattr__(self, "threshold", settled)

    def __call__(
        self,
        similarities: Float[Tensor, "batch pairs"],
        lengths: Int[Tensor, " batch"],
        *,
        seconds: Seconds | None = None,
        features: Float[Tensor, "batch dim frames"] | None = None,
        max_duration: int | None = None,
    ) -> Int[Tensor, "batch tokens"]:
        """See `MergingPolicy`."""
        threshold = self.thresholds(similarities)
        cuts = ~(similarities > threshold) | (threshold >= 1)
        return durations_from_starts(chop_runs(_starts(cuts), check_max_duration(max_duration)), lengths)

    def initial_state(self) -> int:
        """See `CausalPolicy`: the frames since the last cut, of which there is one."""
        return 1

    def step(
        self, similarities: Float[Tensor, " pairs"], state: int, max_duration: int | None
    ) -> tuple[Bool[Tensor, " pairs"], Float[Tensor, " pairs"], int]:
        """See `CausalPolicy`."""
        threshold = self.thresholds(similarities[None])[0]
        starts = []
        for cut in (~(similarities > threshold) | (threshold >= 1)).tolist():
            starts.append(cut or state == max_duration)
            state = 1 if starts[-1] else state + 1
        margins = (similarities - threshold).abs().masked_fill(threshold >= 1, torch.inf)
        return torch.tensor(starts, dtype=torch.bool, device=similarities.device), margins, state

    def thresholds(self, similarities: Float[Tensor, "batch pairs"]) -> Float[Tensor, "batch 1"]:
        """Return the threshold of each item, in the precision of the similarities."""
        values = broadcast_per_item(self.threshold, "threshold", len(similarities))
        return torch.tensor(values, dtype=similarities.dtype, device=similarities.device)[:, None]


@dataclass(frozen=True)
class ExactRate:
    """Cut at the lowest similarities, as many times as it takes to come as near to a rate as whole tokens allow.

    Boundaries are added in the order of rising similarity (ties: the earlier frame first), and `max_duration` chops
    what remains too long, as in `Threshold`; without ties the result is that of the highest threshold that keeps to the
    count.

    Every feasible count is reached exactly. Without a boundary there are ceil(T / m) tokens, with all of them T. One
    more boundary splits some run of a + b frames into a and b, and ceil(a / m) + ceil(b / m) is ceil((a + b) / m) or
    one more, so the count climbs in steps of 0 or 1; bisection over the number of boundaries finds it in O(T log T).

    Attributes:
        frame_rate: tokens per second, one for all items or one for each; the count is `target_tokens`.
    """

    frame_rate: FloatOrPerItem

    def __post_init__(self) -> None:
        _check_rate(self)

    def __call__(
        self,
        similarities: Float[Tensor, "batch pairs"],
        lengths: Int[Tensor, " batch"],
        *,
        seconds: Seconds | None = None,
        features: Float[Tensor, "batch dim frames"] | None = None,
        max_duration: int | None = None,
    ) -> Int[Tensor, "batch tokens"]:
        """See `MergingPolicy`; `seconds` are needed."""
        rank, num_cuts = self.rank_pairs(similarities, lengths, seconds, max_duration)
        return durations_from_starts(chop_runs(_starts(rank < num_cuts[:, None]), max_duration), lengths)

    def rank_pairs(
        self,
        similarities: Float[Tensor, "batch pairs"],
        lengths: Int[Tensor, " batch"],
        seconds: Seconds | None,
        max_duration: int | None,
    ) -> tuple[Int[Tensor, "batch pairs"], Int[Tensor, " batch"]]:
        """Rank the pairs by rising similarity, and count how many of them become boundaries."""
        target = _target(self.frame_rate, seconds, lengths, max_duration)
        pairs = torch.arange(similarities.shape[1], device=similarities.device)
        inside = pairs + 1 < lengths[:, None]
        order = similarities.detach().masked_fill(~inside, torch.inf).argsort(dim=-1, stable=True)
        rank = torch.empty_like(order).scatter_(1, order, pairs.expand_as(order))

        def starts(num_cuts: Int[Tensor, " batch"]) -> Bool[Tensor, "batch frames"]:
            return chop_runs(_starts(rank < num_cuts[:, None]), max_duration)

        # The largest number of cuts that makes no more than `target` tokens lies in few ... many.
        few, many = torch.zeros_like(lengths), lengths - 1
        for _ in range(similarities.shape[1].bit_length()):
            middle = (few + many + 1) // 2
            tokens = starts(middle)
            fits = (tokens & valid_frames(lengths, tokens)).sum(-1) <= target
            few, many = torch.where(fits, middle, few), torch.where(fits, many, middle - 1)
        return rank, few


@dataclass(frozen=True)
class Uniform:
    """Make durations as equal as whole frames allow, at the count `ExactRate` would have: the fixed-rate ablation.

    Boundary i lies at frame floor(i * T / N). No duration exceeds ceil(T / N), so the cap holds wherever it can.

    Attributes:
        frame_rate: tokens per second, one for all items or one for each.
    """

    frame_rate: FloatOrPerItem

    def __post_init__(self) -> None:
        _check_rate(self)

    def __call__(
        self,
        similarities: Float[Tensor, "batch pairs"],
        lengths: Int[Tensor, " batch"],
        *,
        seconds: Seconds | None = None,
        features: Float[Tensor, "batch dim frames"] | None = None,
        max_duration: int | None = None,
    ) -> Int[Tensor, "batch tokens"]:
        """See `MergingPolicy`; `seconds` are needed."""
        target = _target(self.frame_rate, seconds, lengths, max_duration)[:, None]
        boundary = torch.arange(int(target.max()) + 1, device=lengths.device).minimum(target)
        return (boundary * lengths[:, None] // target.clamp(min=1)).diff(dim=-1)


@dataclass(frozen=True)
class MinimumVariance:
    """Minimise the features' squared deviation from their token's mean, at the count `ExactRate` would have.

    Attributes:
        frame_rate: tokens per second, one for all items or one for each.
    """

    frame_rate: FloatOrPerItem

    def __post_init__(self) -> None:
        _check_rate(self)

    def __call__(
        self,
        similarities: Float[Tensor, "batch pairs"],
        lengths: Int[Tensor, " batch"],
        *,
        seconds: Seconds | None = None,
        features: Float[Tensor, "batch dim frames"] | None = None,
        max_duration: int | None = None,
    ) -> Int[Tensor, "batch tokens"]:
        """See `MergingPolicy`; `seconds` and `features` are needed."""
        if features is None:
            raise ValueError("MinimumVariance compares frames with their token's mean: pass the semantic features=")
        assert features.shape[-1] == similarities.shape[-1] + 1, "features and similarities of different clips"
        target = _target(self.frame_rate, seconds, lengths, max_duration)
        return min_variance_durations(features, target, lengths, max_duration)


# Names that `policy=` takes; each class takes its setting as the only argument.
POLICIES: dict[str, type[Threshold] | type[ExactRate] | type[Uniform] | type[MinimumVariance]] = {
    "threshold": Threshold,
    "rate": ExactRate,
    "uniform": Uniform,
    "variance": MinimumVariance,
}
RUNNING = "running"  # the name of rate_control.RateController, which builds on this module


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

    named = (*(each for each in POLICIES if each != "threshold"), RUNNING)
    name = policy if isinstance(policy, str) else None
    own = None if isinstance(policy, str) else policy
    chosen = {"threshold": threshold, "frame_rate": frame_rate, "durations": durations, "policy": own}
    given = [choice for choice, value in chosen.items() if value is not None]
    if len(given) > 1:
        every = "both" if len(given) == 2 else "all"
        raise ValueError(f"{' and '.join(given)} were {every} given; choose one, each decides the rate by itself")
    if default_threshold is None and given not in ([], ["durations"]):
        if not _means_unmerged(threshold, 1.0) and not _means_unmerged(frame_rate, base_frame_rate):
            raise ValueError(
                f"{given[0]} was given, but this model has a fixed rate of {base_frame_rate:g} Hz: threshold=1, "
                f"frame_rate={base_frame_rate:g} or neither"
            )
        threshold, frame_rate, name = 1.0, None, None
    fits = callable(own) and not isinstance(own, type)
    if (name is not None and (name not in named or frame_rate is None)) or (own is not None and not fits):
        names = ", ".join(named)
        raise ValueError(f"policy is {policy!r}; expected one of {names} with frame_rate=, or a MergingPolicy")
    if durations is not None:
        return None, {"policy": "durations"}
    if own is not None:
        return own, _describe(own, base_frame_rate, max_duration)
    if frame_rate is not None:
        rate = check_frame_rate(frame_rate, base_frame_rate, max_duration)
        if name == RUNNING:
            assert default_threshold is not None
            running = RateController(rate, default_threshold, base_frame_rate)
            return running, {"policy": name, "frame_rate": _plain(rate)}
        kind = POLICIES[name] if name else ExactRate
        return kind(rate), {"policy": name or "rate", "frame_rate": _plain(rate)}
    if threshold is None:
        threshold = 1.0 if default_threshold is None else default_threshold
    rule = Threshold(threshold)
    return rule, {"policy": "threshold", "threshold": _plain(rule.threshold)}


def _means_unmerged(value: Any, unmerged: float) -> bool:
    return isinstance(value, (int, float)) and value == unmerged


def _describe(policy: MergingPolicy, base_frame_rate: float, max_duration: int | None) -> dict[str, Any]:
    """Note a policy object as its name would be noted, and hold its rate to the same range."""
    from flexicodec.merging.rate_control import RateController

    names: dict[type, str] = {kind: name for name, kind in POLICIES.items()} | {RateController: RUNNING}
    info: dict[str, Any] = {"policy": names.get(type(policy), type(policy).__name__)}
    if hasattr(policy, "frame_rate"):
        info["frame_rate"] = _plain(check_frame_rate(policy.frame_rate, base_frame_rate, max_duration))
    if hasattr(policy, "threshold"):
        info["threshold"] = _plain(policy.threshold)
    return info


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _starts(cuts: Bool[Tensor, "batch pairs"]) -> Bool[Tensor, "batch frames"]:
    return F.pad(cuts, (1, 0), value=True)


def _check_rate(policy: ExactRate | Uniform | MinimumVariance) -> None:
    settled = as_floats(policy.frame_rate, "frame_rate")
    if (lowest := min(settled) if isinstance(settled, tuple) else settled) <= 0:
        raise ValueError(f"frame_rate is {lowest:g} Hz, but a rate is positive")
    object.__setattr__(policy, "frame_rate", settled)


def _target(
    frame_rate: FloatOrPerItem, seconds: Seconds | None, lengths: Int[Tensor, " batch"], max_duration: int | None
) -> Int[Tensor, " batch"]:
    if seconds is None:
        raise ValueError("a frame rate needs the clips' seconds= (audio_lengths / sample_rate) to become a count")
    return target_tokens(frame_rate, seconds, lengths, max_duration)
