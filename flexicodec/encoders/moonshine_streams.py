"""Moonshine's encoder on streams of samples, for encoders with windows: its convolutions, then its blocks."""

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from flexicodec.encoders.moonshine import KERNELS, STEPS_OF_FRAME, STEPS_PER_FRAME, STRIDES, MoonshineEncoder, norm_rows
from flexicodec.nn.streaming import append, register_state, run_in_chunks
from flexicodec.nn.transformer import STREAM_BLOCK, AttentionState


@register_state
@dataclass(frozen=True)
class MoonshineFrontEndState:
    """State of a `MoonshineFrontEnd`; None before the first chunk.

    Attributes:
        samples: That the next steps of the first convolution need.
        rows: `norm_rows` of the pending steps, and of those before them that their windows cover.
        pending: Outputs of the first convolution whose window for the norm is not complete.
        normed: Normalised steps that the next frames need.
    """

    samples: Float[Tensor, "batch 1 buffered"] | None = None
    rows: Float[Tensor, "batch 3 buffered"] | None = None
    pending: Float[Tensor, "batch dim pending"] | None = None
    normed: Float[Tensor, "batch dim buffered"] | None = None


class MoonshineFrontEnd:
    """The convolutions of an encoder with a window for its norm, on a stream: samples [B, 1, S] to [B, dim, frames]."""

    exact = True
    per_item = False
    channels = 1

    def __init__(self, encoder: MoonshineEncoder) -> None:
        assert encoder.norm_sides is not None
        self.encoder = encoder
        self.left, self.right = encoder.norm_sides

    @property
    def lookahead(self) -> int:
        """Samples after the first one of a frame's place that its features depend on."""
        return self.inputs_needed(1) - 1

    def inputs_needed(self, outputs: int) -> int:
        """Count the samples needed for so many frames."""
        steps = (outputs - 1) * STEPS_PER_FRAME + STEPS_OF_FRAME + self.right
        return (steps - 1) * STRIDES[0] + KERNELS[0] - self.encoder.config.left_padding

    def initial_state(self) -> MoonshineFrontEndState:
        """Return the state before the first sample."""
        return MoonshineFrontEndState()

    def step(
        self, x: Float[Tensor, "batch 1 samples"], state: MoonshineFrontEndState, last: bool
    ) -> tuple[Float[Tensor, "batch dim ready"], MoonshineFrontEndState]:
        """Compute the frames that are complete; at the end, all that are left."""
        encoder = self.encoder
        if state.samples is None:
            x = F.pad(x, (encoder.config.left_padding, 0))
        steps, samples = _windows_of(encoder.first_convolution, append(state.samples, x), KERNELS[0], STRIDES[0])

        # rows      | context | pending           |     steps are normalised when their window is complete
        # outputs             | ready   | right   |
        if steps is None:
            steps = x.new_zeros(len(x), encoder.dim, 0)
        rows = append(state.rows, norm_rows(steps))
        pending = append(state.pending, steps)
        context = rows.shape[-1] - pending.shape[-1]
        ready = pending.shape[-1] if last else max(0, pending.shape[-1] - self.right)
        normed = append(state.normed, encoder.normalise(pending[..., :ready], rows, context))
        done = max(0, context + ready - self.left)

        frames, normed = _windows_of(encoder.last_convolutions, normed, STEPS_OF_FRAME, STEPS_PER_FRAME)
        if frames is None:
            frames = x.new_zeros(len(x), encoder.dim, 0)
        kept = rows[..., done:].clone(), pending[..., ready:].clone()
        return frames, MoonshineFrontEndState(samples, *kept, normed)


def _windows_of(function: Any, x: Tensor, width: int, stride: int) -> tuple[Tensor | None, Tensor]:
    """Run a convolution over the complete windows, None without any; also return the inputs of the next one."""
    count = max(0, (x.shape[-1] - width) // stride + 1)
    y = function(x[..., : (count - 1) * stride + width]) if count else None
    return y, x[..., count * stride :].clone()


class StreamingMoonshine:
    """The blocks of an encoder with windows on a stream: [B, dim, frames] of the front end to features."""

    exact = True
    per_item = False

    def __init__(self, encoder: MoonshineEncoder) -> None:
        self.encoder = encoder
        self.channels = encoder.dim
        sides = [block.sides or (0, 0) for block in encoder.blocks]
        self.lookahead = sum(right for _, right in sides)
        self.chunk = max(STREAM_BLOCK, *map(max, sides))

    def initial_state(self) -> tuple[AttentionState, ...]:
        """Return the state before the first frame."""
        return (AttentionState(),) * self.encoder.config.num_layers

    def step(
        self, x: Tensor, state: tuple[AttentionState, ...], last: bool
    ) -> tuple[Tensor, tuple[AttentionState, ...]]:
        """Encode the next frames."""
        return run_in_chunks(self._run_blocks, x, state, last, self.chunk)

    def _run_blocks(
        self, x: Tensor, states: tuple[AttentionState, ...], last: bool
    ) -> tuple[Tensor, tuple[AttentionState, ...]]:
        x = x.mT
        after = []
        for block, state in zip(self.encoder.blocks, states, strict=True):
            x, state = block.step(x, state, last)
            after.append(state)
        return self.encoder.layer_norm(x).mT, tuple(after)
