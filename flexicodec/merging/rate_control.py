"""Causal merging at a rate: `RateController`, which moves the threshold to hold a frame rate.

A stream cannot rank the similarities of a clip that has not ended. The controller looks at its own recent output
instead: more tokens than asked for lower the threshold, fewer raise it, until what is missing is made up for.
"""

from dataclasses import dataclass, replace
from math import exp

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flexicodec.merging.durations import check_max_duration, durations_from_starts
from flexicodec.merging.policies import FloatOrPerItem, Seconds, as_floats, broadcast_per_item
from flexicodec.nn.streaming import register_state

OWED_SECONDS = 30.0  # at the asked rate, of tokens that are made up for: not those of a long silence


@register_state
@dataclass(frozen=True)
class RateControllerState:
    """Where a controller stands.

    Attributes:
        run: Frames of the token that is open.
        rate: Tokens per second of late, Hz.
        centre: The threshold, but for what the present error adds.
        owed: Tokens that the clip so far lacks for its rate.
    """

    run: int
    rate: float
    centre: float
    owed: float = 0.0


@register_state
@dataclass(frozen=True)
class RateController:
    """Merge above a threshold that a proportional-integral controller moves towards a rate.

    At every frame the rate of late is a mean over the frames before, each weighed by exp(-age / memory), `owed` counts
    the tokens that the clip so far lacks, and

        error = frame_rate + owed / payback - rate
        threshold = centre + proportional * error        centre += integral * error

    both held within `lowest` and `highest`. From the first frame on the rate is met on average, to a few tokens and
    wherever these bounds allow; over seconds it follows speech, as with a fixed threshold. Numbers are Python's, so
    that chunks change nothing.

    Attributes:
        frame_rate: Tokens per second, one for all items or one for each.
        threshold: To begin with.
        base_frame_rate: Frames per second of the grid.
        memory_seconds: Of the mean.
        payback_seconds: In which tokens that are missing are made up for.
        proportional: Of the threshold, per Hz of error.
        integral: Of the threshold, per Hz of error and second.
        lowest: Of the threshold.
        highest: Of the threshold; frames that are more alike are always merged.
    """

    frame_rate: FloatOrPerItem
    threshold: float = 0.9
    base_frame_rate: float = 12.5
    memory_seconds: float = 3.0
    payback_seconds: float = 3.0
    proportional: float = 0.03
    integral: float = 0.02
    lowest: float = -1.0
    highest: float = 0.999

    def __post_init__(self) -> None:
        settled = as_floats(self.frame_rate, "frame_rate")
        for rate in settled if isinstance(settled, tuple) else (settled,):
            if not 0 < rate <= self.base_frame_rate * (1 + 1e-9):
                raise ValueError(
                    f"frame_rate is {rate:g} Hz, but a grid of {self.base_frame_rate:g} Hz allows rates above 0 and up "
                    "to that"
                )
        object.__setattr__(self, "frame_rate", settled)
        # The bounds hold for the threshold from the first frame on.
        if not -1 <= self.lowest <= self.threshold <= self.highest <= 1:
            raise ValueError(
                f"lowest, threshold and highest are {self.lowest:g}, {self.threshold:g} and {self.highest:g}; expected "
                "them in this order within [-1, 1]"
            )
        for name in ("memory_seconds", "payback_seconds", "proportional", "integral"):
            if not getattr(self, name) >= 0 or (name.endswith("_seconds") and not getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected a positive number")

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
        # Item by item, since each one's threshold depends on its own tokens so far; a clip starts with a token.
        starts = torch.ones(len(similarities), similarities.shape[1] + 1, dtype=torch.bool, device=similarities.device)
        for i, policy in enumerate(self._each(len(similarities))):
            starts[i, 1:] = policy.step(similarities[i], policy.initial_state(), check_max_duration(max_duration))[0]
        return durations_from_starts(starts, lengths)

    def margins(
        self,
        similarities: Float[Tensor, "batch pairs"],
        lengths: Int[Tensor, " batch"],
        *,
        seconds: Seconds | None = None,
        max_duration: int | None = None,
    ) -> Float[Tensor, "batch pairs"]:
        """See `boundary_margins`: the distance from the threshold of the moment."""
        each = self._each(len(similarities))
        rows = [p.step(s, p.initial_state(), max_duration)[1] for p, s in zip(each, similarities, strict=True)]
        return torch.stack(rows)

    def initial_state(self) -> RateControllerState:
        """See `CausalPolicy`: one frame, which starts a token, and a rate as it should be."""
        rate = broadcast_per_item(self.frame_rate, "frame_rate", 1)[0]
        return RateControllerState(1, rate, self.threshold, rate / self.base_frame_rate - 1)

    def step(
        self, similarities: Float[Tensor, " pairs"], state: RateControllerState, max_duration: int | None
    ) -> tuple[Bool[Tensor, " pairs"], Float[Tensor, " pairs"], RateControllerState]:
        """See `CausalPolicy`."""
        control = RateControl(self, state)
        starts = []
        margins = []
        run = state.run
        for similarity in similarities.detach().tolist():
            threshold = control.threshold()
            start = not similarity > threshold or run == max_duration
            starts.append(start)
            margins.append(abs(similarity - threshold))
            run = 1 if start else run + 1
            control.update(start)
        device = similarities.device
        return (
            torch.tensor(starts, dtype=torch.bool, device=device),
            torch.tensor(margins, dtype=similarities.dtype, device=device),
            control.state(run),
        )

    def _each(self, batch: int) -> "list[RateController]":
        rates = broadcast_per_item(self.frame_rate, "frame_rate", batch)
        return [replace(self, frame_rate=rate) for rate in rates]


class RateControl:
    """A `RateController` at work on one clip: the threshold for the next frame, and what was decided on it."""

    def __init__(self, settings: RateController, state: RateControllerState) -> None:
        self.settings = settings
        self.wanted = broadcast_per_item(settings.frame_rate, "frame_rate", 1)[0]
        self.frame = 1 / settings.base_frame_rate  # seconds
        self.share = 1 - exp(-self.frame / settings.memory_seconds)  # weight of the newest frame in the mean
        self.rate = state.rate
        self.centre = state.centre
        self.owed = state.owed

    def state(self, run: int) -> RateControllerState:
        """Return where the controller stands, with `run` frames in the open token."""
        return RateControllerState(run, self.rate, self.centre, self.owed)

    def threshold(self) -> float:
        """Return the threshold for the next frame: the centre, and what the present error adds to it."""
        return self._hold(self.centre + self.settings.proportional * self._error())

    def update(self, start: bool) -> None:
        """Take note of whether the frame starts a token."""
        error = self._error()
        # Exponential mean of the rate: a frame has either no token start or one.
        self.rate += self.share * (start * self.settings.base_frame_rate - self.rate)
        most_owed = OWED_SECONDS * self.wanted
        self.owed = min(max(self.owed + self.wanted * self.frame - start, -most_owed), most_owed)
        # Integral part, held within the bounds so that it does not wind up
        self.centre = self._hold(self.centre + self.settings.integral * error * self.frame)

    def _error(self) -> float:
        return self.wanted + self.owed / self.settings.payback_seconds - self.rate

    def _hold(self, threshold: float) -> float:
        return min(max(threshold, self.settings.lowest), self.settings.highest)
