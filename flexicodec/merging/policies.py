"""The interface of merging policies: the exchangeable rule that decides where tokens start.

A policy is a frozen dataclass of settings (a threshold, a rate). Called on the similarities and features of a batch it
returns durations. No item's durations depend on the other items or on the padding. Rates and thresholds are one number
for the batch or one per item. The rules themselves are in `selectors`, their names in `registry`.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flexicodec.merging.durations import check_max_duration

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


# ----------------------------------------------------------------------------------------------------------- interface


class MergingPolicy(Protocol):
    """The interface of policies; each uses the arguments it needs and ignores the others.

    A policy whose attribute `uses_acoustic` is true is given the acoustic features as well, as `acoustic=`.
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


class CausalPolicy(MergingPolicy, Protocol):
    """A policy that decides as frames come: whole clips and streams in any pieces get the same durations.

    One whose attribute `uses_features` is true is also given `features=` (and `acoustic=` if it uses them) by `step`:
    [1, D, pairs + 1], the frames that the similarities compare. The first of them is the last one of the step before.
    """

    def initial_state(self) -> Any:
        """Return the state at the first frame of a clip, which starts a token; see `nn.streaming.register_state`."""
        ...

    def step(
        self, similarities: Float[Tensor, " pairs"], state: Any, max_duration: int | None
    ) -> tuple[Bool[Tensor, " pairs"], Float[Tensor, " pairs"], Any]:
        """Decide on the next frames of one clip.

        Args:
            similarities: Of each frame with the one before it.
            state: From `initial_state` or the step before.
            max_duration: Most frames per token; None for no cap.

        Returns:
            Whether each frame starts a token, how far that was from being otherwise (see `boundary_margins`), and the
            state for the next step.
        """
        ...


@dataclass(frozen=True, eq=False)
class Clips:
    """The arguments of one call of a policy; see `MergingPolicy`."""

    similarities: Float[Tensor, "batch pairs"]
    lengths: Int[Tensor, " batch"]
    seconds: Seconds | None
    semantic: Float[Tensor, "batch semantic_dim frames"] | None
    acoustic: Float[Tensor, "batch acoustic_dim frames"] | None
    max_duration: int | None

    def semantic_features(self, policy: object) -> Float[Tensor, "batch semantic_dim frames"]:
        """Return the semantic features; ValueError where the call had none."""
        if self.semantic is None:
            raise ValueError(f"{type(policy).__name__} compares frames: pass the semantic features=")
        assert self.semantic.shape[-1] == self.similarities.shape[-1] + 1, "features and similarities of other clips"
        return self.semantic

    def target_tokens(self, frame_rate: FloatOrPerItem) -> Int[Tensor, " batch"]:
        """Count the tokens that come nearest to a rate; see `target_tokens`."""
        return target_tokens(frame_rate, self.seconds, self.lengths, self.max_duration)


@dataclass(frozen=True)
class Selector:
    """Base of the policies in `selectors`, which choose durations for `Clips`.

    Attributes:
        cap: Largest number of frames per token, where it is below the call's `max_duration`.
    """

    uses_features = False
    uses_acoustic = False
    setting_range = (1e-6, 1e6)  # in which `calibrate` looks for a threshold or price
    cap: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_max_duration(self.cap)

    def __call__(
        self,
        similarities: Float[Tensor, "batch pairs"],
        lengths: Int[Tensor, " batch"],
        *,
        seconds: Seconds | None = None,
        features: Float[Tensor, "batch dim frames"] | None = None,
        acoustic: Float[Tensor, "batch acoustic_dim frames"] | None = None,
        max_duration: int | None = None,
    ) -> Int[Tensor, "batch tokens"]:
        """Choose durations; see `MergingPolicy`."""
        limit = self.limit(max_duration)
        return self.choose(Clips(similarities, lengths, seconds, features, acoustic, limit))

    def limit(self, max_duration: int | None) -> int | None:
        """Return the lower one of two caps."""
        caps = [each for each in (check_max_duration(max_duration), self.cap) if each is not None]
        return min(caps, default=None)

    def choose(self, clips: Clips) -> Int[Tensor, "batch tokens"]:
        """Choose durations."""
        raise NotImplementedError


@dataclass(frozen=True)
class RatePolicy(Selector):
    """Base of policies that meet a frame rate; the count of tokens is `target_tokens`.

    Attributes:
        frame_rate: Tokens per second, one number or one per item.
    """

    frame_rate: FloatOrPerItem

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "frame_rate", check_positive(self.frame_rate, "frame_rate"))


def check_within(value: float, name: str, lowest: float, highest: float) -> None:
    """Raise a ValueError for a setting that is no number within bounds."""
    if isinstance(value, bool) or not isinstance(value, Real) or not lowest <= value <= highest:
        raise ValueError(f"{name} is {value!r}; expected a number from {lowest:g} to {highest:g}")


def uses_acoustic(policy: object) -> bool:
    """Tell whether a policy compares acoustic features; see `MergingPolicy`."""
    return bool(getattr(policy, "uses_acoustic", False))


def check_positive(value: FloatOrPerItem, name: str) -> float | tuple[float, ...]:
    """Return rates as a float or a tuple of floats; ValueError unless all are positive."""
    rates = as_floats(value, name)
    lowest = np.min(rates)
    if lowest <= 0:
        raise ValueError(f"{name} is {lowest:g} Hz, but a rate is positive")
    return rates
