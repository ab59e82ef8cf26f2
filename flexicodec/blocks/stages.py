"""What a streaming decoder is a row of: stages, which take steps as they come and give those that are ready.

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

from flexicodec.blocks.chain import ChainState
from flexicodec.blocks.conv_stack import ConvStack
from flexicodec.blocks.transformer import LayerState, Transformer


class Stage(Protocol):
    """One part of a streaming decoder.

    Attributes:
        channels: That come in.
        lookahead: Steps of its input that its outputs see ahead of their own, and so have to wait for.
        exact: Whether all outputs in a row are those of the whole.
        apart: Items may come out with different lengths, so that each has to be computed alone.
    """

    channels: int
    lookahead: int
    exact: bool
    apart: bool

    def initial_state(self) -> Any:
        """Stand before the first step of a stream; see `states` for what a state may be."""

    def step(
        self, x: Float[Tensor, "batch channels new"], state: Any, last: bool
    ) -> tuple[Float[Tensor, "batch out_channels ready"], Any]:
        """Take any number of steps, also none; `last` says that nothing follows, and brings what is left."""


@dataclass(frozen=True)
class DecoderState:
    """Where a convolutional decoder stands in a stream.

    Attributes:
        layers: None before there is enough to begin with.
        held: What came until then.
    """

    layers: ChainState | None = None
    held: Float[Tensor, "batch channels held"] | None = None


class DecoderStage:
    """A convolutional decoder, frames in and samples [B, 1, S] out; causal ones give every frame's samples at once.

    A clip too short to be reflected at its ends is filled up with zeros, as it is when decoded whole.
    """

    exact, apart = True, False

    def __init__(self, decoder: ConvStack) -> None:
        self.decoder = decoder
        self.channels = decoder.in_channels
        self.lookahead = decoder.layers.needs(decoder.frame_size) - 1

    def initial_state(self) -> DecoderState:
        """See `Stage`."""
        return DecoderState()

    def step(self, x: Tensor, state: DecoderState, last: bool) -> tuple[Tensor, DecoderState]:
        """See `Stage`."""
        layers, samples = state.layers, None
        if layers is None:
            x = x if state.held is None else torch.cat([state.held, x], dim=-1)
            missing = self.decoder.min_frames - x.shape[-1]
            if not x.shape[-1] or (missing > 0 and not last):
                return x.new_zeros(len(x), 1, 0), DecoderState(held=x)
            if missing > 0:
                samples = x.shape[-1] * self.decoder.frame_size
                x = F.pad(x, (0, missing))
            layers = self.decoder.layers.initial_state(None)
        y, layers = self.decoder.layers.step(x, layers, last)
        return y[..., :samples], DecoderState(layers)


class TransformerStage:
    """A transformer with a window, frames in and frames out."""

    exact, apart = True, False

    def __init__(self, transformer: Transformer, channels: int) -> None:
        self.transformer, self.channels = transformer, channels
        self.lookahead = transformer.lookahead

    def initial_state(self) -> tuple[LayerState, ...]:
        """See `Stage`."""
        return self.transformer.initial_state()

    def step(self, x: Tensor, state: tuple[LayerState, ...], last: bool) -> tuple[Tensor, tuple[LayerState, ...]]:
        """See `Stage`."""
        return self.transformer.step(x, state, last)


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
        function: Maps [B, D, T] to [B, D, T].
        channels: D.
        context: Steps before those that come out.
        ahead: Steps behind them.
        stride: Steps that come out of a window.
    """

    exact, apart = False, False

    def __init__(
        self, function: Callable[[Tensor], Tensor], channels: int, context: int, ahead: int, stride: int
    ) -> None:
        self.function, self.channels = function, channels
        self.context, self.ahead, self.stride = context, ahead, stride
        self.lookahead = ahead + stride - 1

    def initial_state(self) -> WindowState:
        """See `Stage`."""
        return WindowState()

    def step(self, x: Tensor, state: WindowState, last: bool) -> tuple[Tensor, WindowState]:
        """See `Stage`."""
        kept = x if state.kept is None else torch.cat([state.kept, x], dim=-1)
        context, outputs = state.context, [x[..., :0]]
        while kept.shape[-1] > context and (last or kept.shape[-1] >= context + self.stride + self.ahead):
            window = self.function(kept[..., : context + self.stride + self.ahead])
            outputs.append(window[..., context : context + self.stride])
            answered = context + outputs[-1].shape[-1]
            context = min(self.context, answered)
            kept = kept[..., answered - context :]
        return torch.cat(outputs, dim=-1), WindowState(kept.clone(), context)
