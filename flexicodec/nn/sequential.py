"""Layers one after the other, around one another and side by side, over whole clips and over streams.

Everything here has the interface of the convolutions in `conv`: `forward` for whole clips, `initial_state` and `step`
for their chunks, `output_length` and `accepts` for lengths.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flexicodec.nn import onednn
from flexicodec.nn.conv import Conv, ConvTranspose, PaddedLengths, lengths_after
from flexicodec.nn.streaming import register_state

# Activations that a block handles at once for each thread, 2 MiB in float32: of 2^17 to 2^21 the fastest on a Zen 5
# core (1 MiB of L2), where half as many cost 4 % on the decoder, and no more of them for two threads 5 to 7 %.
TILE_VALUES = 2**19


@register_state
@dataclass(frozen=True)
class SequentialState:
    """Where a chain of layers stands in a stream.

    Attributes:
        layers: a state per layer, None for those that work value by value.
        skipped: inputs that a residual unit has yet to add to its output; None before the first chunk.
    """

    layers: tuple[Any, ...]
    skipped: Tensor | None = None


class Sequential(nn.ModuleList):
    """Layers one after the other: convolutions, chains, averages, and modules that map each value alone and 0 to 0.

    Args:
        layers: in order.
        tile: a chunk's inputs are taken this many values (batch times time) for each thread at once, so that the
            buffers between the layers stay in the processor's cache; None: all at once, as everywhere but on the CPU.
    """

    def __init__(self, layers: Iterable[nn.Module], tile: int | None = None) -> None:
        super().__init__(layers)
        self.tile = tile

    def output_length(self, length: Any) -> Any:
        """Count the outputs of a clip of `length` inputs (an int, or a tensor of them)."""
        for layer in self:
            length = layer.output_length(length) if isinstance(layer, TIME_LAYERS) else length
        return length

    def inputs_needed(self, outputs: int) -> int:
        """Count the inputs that have to be there before `step` gives so many outputs."""
        for layer in reversed(self):
            outputs = layer.inputs_needed(outputs) if isinstance(layer, TIME_LAYERS) else outputs
        return outputs

    def is_long_enough(self, length: int) -> bool:
        """Tell whether a clip of `length` inputs is long enough for every layer."""
        for layer in self:
            if isinstance(layer, TIME_LAYERS):
                if not layer.is_long_enough(length):
                    return False
                length = layer.output_length(length)
        return True

    def forward(
        self, x: Float[Tensor, "batch in_channels time"], lengths: PaddedLengths | None = None
    ) -> Float[Tensor, "batch out_channels out_time"]:
        """Run whole clips; `lengths` are those of the input, whose padding is zero."""
        for layer in self:
            if isinstance(layer, TIME_LAYERS):
                x, lengths = layer(x, lengths), lengths_after(layer, lengths)
            else:
                x = layer(x)
        return x

    def initial_state(self, lengths: PaddedLengths | None) -> SequentialState:
        """Stand before the first chunk of clips with these input lengths."""
        states: list[Any] = []
        for layer in self:
            if isinstance(layer, TIME_LAYERS):
                states.append(layer.initial_state(lengths))
                lengths = lengths_after(layer, lengths)
            else:
                states.append(None)
        return SequentialState(tuple(states))

    def step(
        self, x: Float[Tensor, "batch in_channels time"], state: SequentialState, last: bool
    ) -> tuple[Float[Tensor, "batch out_channels out_time"], SequentialState]:
        """Run the next chunk of any size, also 0; gives the outputs whose inputs are all there."""
        outputs, state = self._tiles(x, state, last)
        return onednn.cat_time(outputs), state

    def _tiles(self, x: Tensor, state: SequentialState, last: bool) -> tuple[list[Tensor], SequentialState]:
        """Do the same tile by tile, and leave the outputs in pieces."""
        values = self.tile * torch.get_num_threads() if self.tile and x.device.type == "cpu" else x.numel()
        tiles = x.split(max(1, values // x.shape[0]), dim=-1)
        outputs = []
        for index, tile in enumerate(tiles):
            y, state = self._step(tile, state, last and index == len(tiles) - 1)
            outputs.append(y)
        return outputs, state

    def _step(self, x: Tensor, state: SequentialState, last: bool) -> tuple[Tensor, SequentialState]:
        pieces, states = [x], []
        for layer, layer_state in zip(self, state.layers, strict=True):
            if isinstance(layer, Sequential):
                pieces, layer_state = layer._tiles(onednn.cat_time(pieces), layer_state, last)
            elif isinstance(layer, TIME_LAYERS):
                for index, piece in enumerate(pieces):
                    ends = last and index == len(pieces) - 1
                    pieces[index], layer_state = layer.step(piece, layer_state, ends)
            else:
                pieces = [layer(piece) for piece in pieces]
            states.append(layer_state)
        return onednn.cat_time(pieces), replace(state, layers=tuple(states))


class Residual(Sequential):
    """A chain whose input is added to its output; it keeps channels and lengths."""

    def forward(
        self, x: Float[Tensor, "batch channels time"], lengths: PaddedLengths | None = None
    ) -> Float[Tensor, "batch channels time"]:
        """Run whole clips; `lengths` are those of the input, whose padding is zero."""
        return super().forward(x, lengths).add_(x)  # in place: autograd needs no convolution's output

    def _step(self, x: Tensor, state: SequentialState, last: bool) -> tuple[Tensor, SequentialState]:
        # A convolution that looks ahead gives outputs that belong to earlier inputs than those that just came: queue.
        y, state = super()._step(x, state, last)
        queue = x[..., :0] if state.skipped is None else state.skipped
        count, queued = y.shape[-1], queue.shape[-1]
        y[..., :queued] += queue[..., :count]
        y[..., queued:] += x[..., : max(0, count - queued)]
        left = onednn.cat_time([queue[..., count:], x[..., max(0, count - queued) :]])
        return y, SequentialState(state.layers, left.clone())


@register_state
@dataclass(frozen=True)
class ParallelMeanState:
    """Where an average of chains stands in a stream.

    Attributes:
        chains: a state per chain.
        queued: outputs per chain that wait for those of chains which look further ahead; None before the first chunk.
    """

    chains: tuple[SequentialState, ...]
    queued: tuple[Tensor, ...] | None = None


class ParallelMean(nn.ModuleList):
    """Chains side by side on one input, whose outputs, equally many, are averaged.

    Args:
        chains: one or more.
    """

    def __init__(self, chains: Iterable[Sequential]) -> None:
        super().__init__(chains)

    @property
    def chains(self) -> list[Sequential]:
        """The chains, with their type."""
        return cast(list[Sequential], list(self))

    def output_length(self, length: Any) -> Any:
        """Count the outputs of a clip of `length` inputs (an int, or a tensor of them)."""
        return self.chains[0].output_length(length)

    def inputs_needed(self, outputs: int) -> int:
        """Count the inputs that have to be there before `step` gives so many outputs."""
        return max(chain.inputs_needed(outputs) for chain in cast(list[Sequential], list(self)))

    def is_long_enough(self, length: int) -> bool:
        """Tell whether a clip of `length` inputs is long enough for every chain."""
        return all(chain.is_long_enough(length) for chain in self.chains)

    def forward(
        self, x: Float[Tensor, "batch in_channels time"], lengths: PaddedLengths | None = None
    ) -> Float[Tensor, "batch out_channels out_time"]:
        """Run whole clips; `lengths` are those of the input, whose padding is zero."""
        return _mean([chain(x, lengths) for chain in self.chains])

    def initial_state(self, lengths: PaddedLengths | None) -> ParallelMeanState:
        """Stand before the first chunk of clips with these input lengths."""
        return ParallelMeanState(tuple(chain.initial_state(lengths) for chain in self.chains))

    def step(
        self, x: Float[Tensor, "batch in_channels time"], state: ParallelMeanState, last: bool
    ) -> tuple[Float[Tensor, "batch out_channels out_time"], ParallelMeanState]:
        """Run the next chunk of any size, also 0; gives the outputs whose inputs are all there."""
        steps = [chain.step(x, before, last) for chain, before in zip(self.chains, state.chains, strict=True)]
        outputs = [y for y, _ in steps]
        if state.queued is not None:
            outputs = [onednn.cat_time(pair) for pair in zip(state.queued, outputs, strict=True)]
        ready = min(y.shape[-1] for y in outputs)
        queued = tuple(y[..., ready:].clone() for y in outputs)
        return _mean([y[..., :ready] for y in outputs]), ParallelMeanState(tuple(after for _, after in steps), queued)


def _mean(outputs: Sequence[Tensor]) -> Tensor:
    total = outputs[0]
    for y in outputs[1:]:
        total = total + y
    return total / len(outputs)


TIME_LAYERS = (Conv, ConvTranspose, Sequential, ParallelMean)
