"""The way from the frozen encoder's frame rate to the codec's grid, as a stream."""

from dataclasses import dataclass
from fractions import Fraction

import torch
from jaxtyping import Float
from torch import Tensor

from flexicodec.nn.streaming import register_state


@register_state
@dataclass(frozen=True)
class FrameResamplerState:
    """Where resizing stands in a stream.

    Attributes:
        place: Of the next output in the kept inputs, in `ResizeStage.unit`s of a step.
        kept: Inputs that coming outputs need, and at least the last one; None before the first.
    """

    place: int
    kept: Float[Tensor, "batch dim kept"] | None = None


class FrameResampler:
    """What `resize` does to a whole clip, done to the next steps of a stream.

    # inputs    0     1     2     3     4        ratio 4/3: outputs at 1/6, 9/6, 17/6, then the same again 4 steps on
    # outputs   :0      1      2     :

    Args:
        ratio: Inputs per output. Whole ratios above one average that many.
        channels: Of the features.
    """

    def __init__(self, ratio: Fraction, channels: int) -> None:
        self.ratio, self.channels = ratio, channels
        self.average = ratio > 1 and ratio.denominator == 1
        self.unit = 2 * ratio.denominator
        self.advance = 2 * ratio.numerator  # units from one output to the next
        self.first = 0 if self.average else ratio.numerator - ratio.denominator
        self.span = self.advance if self.average else self.unit + 1  # until all that an output sees is there

    def inputs_needed(self, outputs: int) -> int:
        """Count the inputs that have to be there before so many outputs are out."""
        return -(-(self.first + (outputs - 1) * self.advance + self.span) // self.unit)

    def initial_state(self) -> FrameResamplerState:
        """Stand before the first input."""
        return FrameResamplerState(self.first)

    def step(self, x: Tensor, state: FrameResamplerState, wanted: int | None) -> tuple[Tensor, FrameResamplerState]:
        """Take the next inputs, any number; `wanted` outputs follow where these are the last, else those ready."""
        kept = x if state.kept is None else torch.cat([state.kept, x], dim=-1)
        available, place = kept.shape[-1], state.place
        ready = max(0, (available * self.unit - place - self.span) // self.advance + 1) if wanted is None else wanted
        if not ready:
            return x[..., :0], FrameResamplerState(place, kept)
        places = place + self.advance * torch.arange(ready, device=x.device)
        pick = self._average if self.average else self._interpolate
        y = pick(kept, places)
        place += self.advance * ready
        done = min(max(0, place // self.unit), available - 1)
        return y, FrameResamplerState(place - done * self.unit, kept[..., done:].clone())

    def _average(self, kept: Tensor, places: Tensor) -> Tensor:
        index = places[:, None] // self.unit + torch.arange(self.ratio.numerator, device=kept.device)
        return kept[..., index.clamp(max=kept.shape[-1] - 1)].mean(-1)

    def _interpolate(self, kept: Tensor, places: Tensor) -> Tensor:
        last, places = kept.shape[-1] - 1, places.clamp(min=0)
        left = (places // self.unit).clamp(max=last)
        weight = ((places - left * self.unit).clamp(max=self.unit).cpu().double() / self.unit).to(kept)
        return torch.lerp(kept[..., left], kept[..., (left + 1).clamp(max=last)], weight)
