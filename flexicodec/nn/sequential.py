"""Layers in sequence, with a residual connection or in parallel, over whole clips and over streams.

All have the interface of the convolutions in `conv`, as have the layers in `windowed`: `forward` for whole clips,
`initial_state` and `step` for chunks, `output_length`, `inputs_needed` and `is_long_enough` for lengths.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flexicodec.nn import onednn
from flexicodec.nn.conv import Conv, ConvTranspose, PaddedLengths
from flexicodec.nn.streaming import register_state
from flexicodec.nn.windowed import WindowedLayer

# Activations that a block computes at once per thread, 2 MiB in float32: the fastest of 2^17 to 2^21 on a Zen 5 core (1
# MiB of L2), where half as many cost 4 % on the decoder; with two threads the same total costs 5 to 7 %.
TILE_VALUES = 2**19


@register_state
@dataclass(frozen=True)
class SequentialState:
    """State of a `Sequential` in a stream.

    Attributes:
        layers: One state per layer, None for those that map each value alone.
        skipped: Inputs that a `Residual` has yet to add to its output; None before the first chunk.
    """

    layers: tuple[Any, ...]
    skipped: Tensor | None = None


class Sequential(nn.ModuleList):
    """Layers in sequence: convolutions, other modules of this file, and modules that map each value alone and 0 to 0.

    Args:
        layers: In order.
        tile: On the CPU, values (batch times time) of a chunk that are computed at once per thread, so that the buffers
            between the layers stay in the processor's cache; None means the whole chunk.
    """

    def __init__(self, layers: Iterable[nn.Module], tile: int | None = None) -> None:
        super().__init__(layers)
        self.tile = tile

    def output_length(self, length: Any) -> Any:
        """Count the outputs of a clip of `length` inputs (an int, or a tensor of them)."""
        for layer in self:
            if isinstance(layer, TIME_LAYERS):
                length = layer.output_length(length)
        return length

    def inputs_needed(self, outputs: int) -> int:
        """Count the inputs that `step` needs before it has returned so many outputs."""
        for layer in reversed(self):
            if isinstance(layer, TIME_LAYERS):
                outputs = layer.inputs_needed(outputs)
        return outputs

    def is_long_enough(self, length: int) -> bool:
        """Return whether a clip of `length` inputs is long enough for every layer."""
        for layer in self:
            if isinstance(layer, TIME_LAYERS):
                if not layer.is_long_enough(length):
                    return False
                length = layer.output_length(length)
        return True

    def forward(
        self, x: Float[Tensor, "batch in_channels time"], lengths: PaddedLengths | None = None
    ) -> Float[Tensor, "batch out_channels out_time"]:
        """Run whole clips; `lengths` are the input's, whose padding is zero."""
        for layer in self:
            if isinstance(layer, TIME_LAYERS):
                x = layer(x, lengths)
                lengths = None if lengths is None else lengths.after(layer)
            else:
                x = layer(x)
        return x

    def initial_state(self, lengths: PaddedLengths | None) -> SequentialState:
        """Return the state before the first chunk of clips with these input lengths."""
        states: list[Any] = []
        for layer in self:
            if isinstance(layer, TIME_LAYERS):
                states.append(layer.initial_state(lengths))
                lengths = None if lengths is None else lengths.after(layer)
            else:
                states.append(None)
        return SequentialState(tuple(states))

    def step(
        self, x: Float[Tensor, "batch in_channels time"], state: SequentialState, last: bool
    ) -> tuple[Float[Tensor, "batch out_channels out_time"], SequentialState]:
        """Run the next chunk of any size, also 0; returns the outputs whose inputs are complete."""
        outputs, state = self._tiles(x, state, last)
        return onednn.cat_time(outputs), state

    def _tiles(self, x: Tensor, state: SequentialState, last: bool) -> tuple[list[Tensor], SequentialState]:
        """Run a chunk tile by tile; the outputs stay in pieces, which the next layer takes while they are cached."""
        size = x.numel()
        if self.tile and x.device.type == "cpu":
            size = self.tile * torch.get_num_threads()
        # `last` belongs to the last tile alone.
        tiles = x.split(max(1, size // x.shape[0]), dim=-1)
        outputs = []
        for index, tile in enumerate(tiles):
            y, state = self._step(tile, state, last and index == len(tiles) - 1)
            outputs.append(y)
        return outputs, state

    def _step(self, x: Tensor, state: SequentialState, last: bool) -> tuple[Tensor, SequentialState]:
        """Run one tile."""
        pieces = [x]
        states = []
        for layer, layer_state in zip(self, state.layers, strict=True):
            if isinstance(layer, Sequential):  # may split its input into tiles of its own
                pieces, layer_state = layer._tiles(onednn.cat_time(pieces), layer_state, last)
            elif isinstance(layer, TIME_LAYERS):
                for index, piece in enumerate(pieces):
                    is_last = last and index == len(pieces) - 1
                    pieces[index], layer_state = layer.step(piece, layer_state, is_last)
            else:
                pieces = [layer(piece) for piece in pieces]
            states.append(layer_state)
        return onednn.cat_time(pieces), replace(state, layers=tuple(states))


class Residual(Sequential):
    """A `Sequential` whose input is added to its output; it keeps channels and lengths."""

    def forward(
        self, x: Float[Tensor, "batch channels time"], lengths: PaddedLengths | None = None
    ) -> Float[Tensor, "batch channels time"]:
        """Run whole clips; `lengths` are the input's, whose padding is zero."""
        return super().forward(x, lengths).add_(x)  # in place: autograd needs no convolution's output

    def _step(self, x: Tensor, state: SequentialState, last: bool) -> tuple[Tensor, SequentialState]:
        # Outputs belong to earlier inputs than the new ones where a convolution looks ahead:
        # inputs     | skipped | x      |
        # outputs    | y           |              y begins with the output of the first skipped input
        y, state = super()._step(x, state, last)
        skipped = x[..., :0] if state.skipped is None else state.skipped
        count = y.shape[-1]
        num_skipped = skipped.shape[-1]

        # Add the inputs that have outputs by now, and keep the others.
        y[..., :num_skipped] += skipped[..., :count]
        y[..., num_skipped:] += x[..., : max(0, count - num_skipped)]
        left = onednn.cat_time([skipped[..., count:], x[..., max(0, count - num_skipped) :]])
        return y, SequentialState(state.layers, left.clone())


@register_state
@dataclass(frozen=True)
class ParallelMeanState:
    """State of a `ParallelMean` in a stream.

    Attributes:
        branches: One state per branch.
        pending: Outputs per branch whose counterparts in branches that look further ahead are still to come; None
            before the first chunk.
    """

    branches: tuple[SequentialState, ...]
    pending: tuple[Tensor, ...] | None = None


class ParallelMean(nn.ModuleList):
    """Branches on one input, whose outputs, equal in number, are averaged.

    Args:
        branches: One or more.
    """

    def __init__(self, branches: Iterable[Sequential]) -> None:
        super().__init__(branches)

    @property
    def branches(self) -> list[Sequential]:
        """The branches, with their type."""
        return cast(list[Sequential], list(self))

    def output_length(self, length: Any) -> Any:
        """Count the outputs of a clip of `length` inputs (an int, or a tensor of them)."""
        return self.branches[0].output_length(length)

    def inputs_needed(self, outputs: int) -> int:
        """Count the inputs that `step` needs before it has returned so many outputs."""
        return max(branch.inputs_needed(outputs) for branch in self.branches)

    def is_long_enough(self, length: int) -> bool:
        """Return whether a clip of `length` inputs is long enough for every branch."""
        return all(branch.is_long_enough(length) for branch in self.branches)

    def forward(
        self, x: Float[Tensor, "batch in_channels time"], lengths: PaddedLengths | None = None
    ) -> Float[Tensor, "batch out_channels out_time"]:
        """Run whole clips; `lengths` are the input's, whose padding is zero."""
        return _mean([branch(x, lengths) for branch in self.branches])

    def initial_state(self, lengths: PaddedLengths | None) -> ParallelMeanState:
        """Return the state before the first chunk of clips with these input lengths."""
        return ParallelMeanState(tuple(branch.initial_state(lengths) for branch in self.branches))

    def step(
        self, x: Float[Tensor, "batch in_channels time"], state: ParallelMeanState, last: bool
    ) -> tuple[Float[Tensor, "batch out_channels out_time"], ParallelMeanState]:
        """Run the next chunk of any size, also 0; returns the outputs whose inputs are complete."""
        # Outputs are averaged once every branch has them; those of branches with less lookahead stay pending.
        outputs = []
        states = []
        for index, branch in enumerate(self.branches):
            y, after = branch.step(x, state.branches[index], last)
            if state.pending is not None:
                y = onednn.cat_time([state.pending[index], y])
            outputs.append(y)
            states.append(after)
        ready = min(y.shape[-1] for y in outputs)
        pending = tuple(y[..., ready:].clone() for y in outputs)
        return _mean([y[..., :ready] for y in outputs]), ParallelMeanState(tuple(states), pending)


def _mean(outputs: Sequence[Tensor]) -> Tensor:
    total = outputs[0]
    for y in outputs[1:]:
        total = total + y
    return total / len(outputs)


TIME_LAYERS = (Conv, ConvTranspose, Sequential, ParallelMean, WindowedLayer)
