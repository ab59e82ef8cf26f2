"""Resampling from the frozen encoder's frame rate to the codec's grid, for whole clips and for streams."""

from dataclasses import dataclass
from fractions import Fraction

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flexicodec.nn.masking import length_mask
from flexicodec.nn.streaming import append, register_state


def resample_frames(
    features: Float[Tensor, "batch dim source_frames"],
    source_lengths: Int[Tensor, " batch"],
    target_lengths: Int[Tensor, " batch"],
    ratio: float | None,
) -> Float[Tensor, "batch dim frames"]:
    """Resample features along time; zero past each item's end.

    Output j lies at (j + 1/2) * ratio - 1/2 of the source and is interpolated linearly between its neighbours there;
    the last frame is repeated beyond the end. Whole ratios above one average that many frames instead.

    Args:
        features: At the encoder's rate, zero past each item's end.
        source_lengths: Valid frames of each item.
        target_lengths: Output frames of each item.
        ratio: Source frames per output frame; None means each item's own source_length / target_length, which is
            upstream's clip-dependent resize.
    """
    num_frames = int(target_lengths.max())
    if ratio is not None and ratio > 1 and float(ratio).is_integer():
        resized = _average(features, source_lengths, int(ratio), num_frames)
    else:
        # Positions in the source, in float64, which not every device has.
        sources = source_lengths.cpu()
        targets = target_lengths.cpu()
        if ratio is None:
            scale = sources.double() / targets.clamp(min=1).double()
        else:
            scale = torch.full(targets.shape, ratio, dtype=torch.float64, device="cpu")
        centre = torch.arange(num_frames, dtype=torch.float64, device="cpu") + 0.5
        position = (scale[:, None] * centre - 0.5).clamp(min=0)
        last = (sources - 1)[:, None]
        # Both neighbours and the weight of the right one.
        left = torch.minimum(position.floor().long(), last)
        right = torch.minimum(left + 1, last)
        weight = (position - left).clamp(0, 1).to(features.device, features.dtype)
        resized = torch.lerp(
            torch.take_along_dim(features, left.to(features.device)[:, None], dim=2),
            torch.take_along_dim(features, right.to(features.device)[:, None], dim=2),
            weight[:, None],
        )
    return resized.masked_fill(~length_mask(target_lengths, num_frames)[:, None], 0.0)


def _average(
    features: Float[Tensor, "batch dim source_frames"],
    source_lengths: Int[Tensor, " batch"],
    ratio: int,
    num_frames: int,
) -> Float[Tensor, "batch dim frames"]:
    """Average `ratio` frames each; the last one is repeated beyond the end."""
    index = torch.arange(num_frames * ratio, device=features.device)
    index = torch.minimum(index, (source_lengths - 1)[:, None])
    picked = torch.take_along_dim(features, index[:, None], dim=2)
    return picked.unflatten(-1, (num_frames, ratio)).mean(-1)


@register_state
@dataclass(frozen=True)
class FrameResamplerState:
    """State of a `FrameResampler`.

    Attributes:
        position: Of the next output in the buffer, in `FrameResampler.unit`s of a frame.
        buffer: Inputs that coming outputs need, and at least the last one; None before the first.
    """

    position: int
    buffer: Float[Tensor, "batch dim buffered"] | None = None


class FrameResampler:
    """`resample_frames` on a stream.

    # inputs    0     1     2     3     4        ratio 4/3: outputs at 1/6, 9/6, 17/6, then the same again 4 frames on
    # outputs   :0      1      2     :

    Args:
        ratio: Inputs per output. Whole ratios above one average that many.
        channels: Width of the features.
    """

    def __init__(self, ratio: Fraction, channels: int) -> None:
        self.ratio = ratio
        self.channels = channels
        self.average = ratio > 1 and ratio.denominator == 1
        self.unit = 2 * ratio.denominator
        self.advance = 2 * ratio.numerator  # units from one output to the next
        self.first = 0 if self.average else ratio.numerator - ratio.denominator
        self.span = self.advance if self.average else self.unit + 1  # units from an output's position to its last input

    def inputs_needed(self, outputs: int) -> int:
        """Count the inputs needed for so many outputs."""
        return -(-(self.first + (outputs - 1) * self.advance + self.span) // self.unit)

    def initial_state(self) -> FrameResamplerState:
        """Return the state before the first input."""
        return FrameResamplerState(self.first)

    def step(
        self, x: Float[Tensor, "batch dim new"], state: FrameResamplerState, remaining: int | None
    ) -> tuple[Float[Tensor, "batch dim ready"], FrameResamplerState]:
        """Resample the next inputs, any number.

        Args:
            x: New inputs.
            state: From `initial_state` or the call before.
            remaining: Where `x` ends the clip, the outputs still to come; None: those whose inputs are complete.
        """
        buffer = append(state.buffer, x)
        available = buffer.shape[-1]
        ready = remaining
        if ready is None:
            ready = max(0, (available * self.unit - state.position - self.span) // self.advance + 1)
        if not ready:
            return x[..., :0], FrameResamplerState(state.position, buffer)

        positions = state.position + self.advance * torch.arange(ready, device=x.device)
        y = self._average(buffer, positions) if self.average else self._interpolate(buffer, positions)

        # Drop the inputs before the next output, but never all: the last one may be repeated at the end.
        position = state.position + self.advance * ready
        done = min(max(0, position // self.unit), available - 1)
        return y, FrameResamplerState(position - done * self.unit, buffer[..., done:].clone())

    def _average(self, buffer: Tensor, positions: Tensor) -> Tensor:
        # Beyond the clip's end its last frame is repeated.
        index = positions[:, None] // self.unit + torch.arange(self.ratio.numerator, device=buffer.device)
        return buffer[..., index.clamp(max=buffer.shape[-1] - 1)].mean(-1)

    def _interpolate(self, buffer: Tensor, positions: Tensor) -> Tensor:
        last = buffer.shape[-1] - 1
        positions = positions.clamp(min=0)
        left = (positions // self.unit).clamp(max=last)
        weight = ((positions - left * self.unit).clamp(max=self.unit).cpu().double() / self.unit).to(buffer)
        return torch.lerp(buffer[..., left], buffer[..., (left + 1).clamp(max=last)], weight)
