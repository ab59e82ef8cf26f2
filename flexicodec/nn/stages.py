"""What streams are rows of: stages, which take steps as they come and give those that are ready.

The layers of this folder stream already, each in its own way; here they get one face, and what cannot stream exactly
gets windows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from flexicodec.nn.dac import ConvStack
from flexicodec.nn.sequential import SequentialState
from flexicodec.nn.streaming import register_state
from flexicodec.nn.transformer import LayerState, Transformer


class Stage(Protocol):
    """One part of a stream.

    Attributes:
        channels: That come in.
        lookahead: Steps of its input that its outputs see ahead of their own, and so have to wait for.
        exact: Whether all outputs in a row are those of the whole.
        apart: Items may come out with different lengths, so that each has to be computed alone.
    """

    channels: int
    lookahead: int
    exact: bool
    per_item: bool

    def initial_state(self) -> Any:
        """Stand before the first step of a stream; see `states` for what a state may be."""

    def step(
        self, x: Float[Tensor, "batch channels new"], state: Any, last: bool
    ) -> tuple[Float[Tensor, "batch out_channels ready"], Any]:
        """Take any number of steps, also none; `last` says that nothing follows, and brings what is left."""


@register_state
@dataclass(frozen=True)
class ConvStageState:
    """Where a convolutional encoder or decoder stands in a stream.

    Attributes:
        layers: None before there is enough to begin with.
        held: What came until then.
    """

    layers: SequentialState | None = None
    held: Float[Tensor, "batch channels held"] | None = None


class ConvStage:
    """A convolutional decoder, frames in and samples [B, 1, S] out, or an encoder, samples in and frames out.

    Causal decoders give every frame's samples at once. A clip too short to be reflected at its ends is filled up with
    zeros, as it is when it is taken whole.
    """

    exact, per_item = True, False

    def __init__(self, stack: ConvStack) -> None:
        self.stack, self.channels = stack, stack.in_channels
        self.frame_inputs, self.frame_outputs = stack.inputs_per_frame, stack.frame_size // stack.inputs_per_frame
        self.lookahead = stack.layers.inputs_needed(self.frame_outputs) - self.frame_inputs

    def initial_state(self) -> ConvStageState:
        """See `Stage`."""
        return ConvStageState()

    def step(self, x: Tensor, state: ConvStageState, last: bool) -> tuple[Tensor, ConvStageState]:
        """See `Stage`; the last step ends with a whole frame."""
        layers, outputs = state.layers, None
        if layers is None:
            x = x if state.held is None else torch.cat([state.held, x], dim=-1)
            missing = self.stack.min_frames * self.frame_inputs - x.shape[-1]
            if not x.shape[-1] or (missing > 0 and not last):
                return x.new_zeros(len(x), self.stack.out_channels, 0), ConvStageState(held=x)
            if missing > 0:
                outputs = x.shape[-1] // self.frame_inputs * self.frame_outputs
                x = F.pad(x, (0, missing))
            layers = self.stack.layers.initial_state(None)
        y, layers = self.stack.layers.step(x, layers, last)
        return y[..., :outputs], ConvStageState(layers)


class TransformerStage:
    """A transformer with a window, frames in and frames out."""

    exact, per_item = True, False

    def __init__(self, transformer: Transformer, channels: int) -> None:
        self.transformer, self.channels = transformer, channels
        self.lookahead = transformer.lookahead

    def initial_state(self) -> tuple[LayerState, ...]:
        """See `Stage`."""
        return self.transformer.initial_state()

    def step(self, x: Tensor, state: tuple[LayerState, ...], last: bool) -> tuple[Tensor, tuple[LayerState, ...]]:
        """See `Stage`."""
        return self.transformer.step(x, state, last)


@register_state
@dataclass(frozen=True)
class WindowState:
    """Where windows stand in a stream.

    Attributes:
        kept: The steps that wait, and the context before them.
        context: How many of these are context.
    """

    kept: Float[Tensor, "batch channels kept"] | None = None
    context: int = 0


class WindowStage:
    """What needs all of a clip, one output per input, on windows of it: near the whole, never equal to it.

    # kept     | context | stride | ahead |        a window; its outputs at `stride` come out, and it moves on by that
    # next          | context  | stride | ahead |

    Where windows lie does not depend on the chunks, so neither do outputs.

    Args:
        function: Maps [B, D, T] to as many steps.
        channels: D.
        context: Steps before those that come out.
        ahead: Steps behind them.
        stride: Steps that come out of a window.
        out_channels: Where they are not D.
    """

    exact, per_item = False, False

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        channels: int,
        context: int,
        ahead: int,
        stride: int,
        out_channels: int | None = None,
    ) -> None:
        self.function, self.channels = function, channels
        self.out_channels = channels if out_channels is None else out_channels
        self.context, self.ahead, self.stride = context, ahead, stride
        self.lookahead = ahead + stride - 1

    def initial_state(self) -> WindowState:
        """See `Stage`."""
        return WindowState()

    def step(self, x: Tensor, state: WindowState, last: bool) -> tuple[Tensor, WindowState]:
        """See `Stage`."""
        kept = x if state.kept is None else torch.cat([state.kept, x], dim=-1)
        context, outputs = state.context, [x.new_zeros(len(x), self.out_channels, 0)]
        while kept.shape[-1] > context and (last or kept.shape[-1] >= context + self.stride + self.ahead):
            window = self.function(kept[..., : context + self.stride + self.ahead])
            outputs.append(window[..., context : context + self.stride])
            answered = context + outputs[-1].shape[-1]
            context = min(self.context, answered)
            kept = kept[..., answered - context :]
        return torch.cat(outputs, dim=-1), WindowState(kept.clone(), context)
