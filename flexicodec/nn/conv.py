"""Convolutions over time that give the same numbers for a whole clip and for any stream of its chunks.

A whole clip goes through `forward`, which training uses; a stream goes through `step`, which hands back the state for
the next chunk. Both put the same beyond the two ends of every clip at every layer, also inside a padded batch: zeros,
or for convolutions that ask for it the clip itself, reflected or its last value repeated.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, overload

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from flexicodec.nn import onednn
from flexicodec.nn.masking import mirror_ends, zero_padding
from flexicodec.nn.streaming import register_state

PaddingMode = Literal["zeros", "reflect", "replicate"]


@dataclass(frozen=True)
class PaddedLengths:
    """How much of each item of a padded batch is real, at one rate; the layers keep everything behind it at zero.

    Attributes:
        values: lengths of the items.
        shortest: the smallest of `values` as a plain number: whatever ends before it needs no mask.
        pad_at_item_ends: padding that reflects or repeats starts at each item's own end, as it does for the item alone. False:
            at the end of the batch only; items that end before it see the zeros behind them.
    """

    values: Int[Tensor, " batch"]
    shortest: int
    pad_at_item_ends: bool = True

    def map(self, convert: Callable[[Any], Any]) -> "PaddedLengths":
        """Carry the lengths to another rate; `convert` must never fall as lengths grow."""
        return PaddedLengths(convert(self.values), convert(self.shortest), self.pad_at_item_ends)

    def mask_(self, x: Float[Tensor, "batch dim time"], start: int = 0) -> Float[Tensor, "batch dim time"]:
        """Zero the finite padding of `x` in place; it begins at time `start` of the clip."""
        if start + x.shape[-1] <= self.shortest:
            return x
        # ten times faster than masked_fill_, and autograd may look on: no convolution needs its output again
        return x.mul_(self._valid(x, start)[:, None].to(x.dtype))

    def masked(self, x: Float[Tensor, "batch dim time"], start: int = 0) -> Float[Tensor, "batch dim time"]:
        """Return `x` with zeros in its padding, whatever stood there."""
        return x if start + x.shape[-1] <= self.shortest else zero_padding(x, self._valid(x, start))

    def _valid(self, x: Tensor, start: int) -> Tensor:
        times = torch.arange(start, start + x.shape[-1], device=x.device)
        return times < self.values.to(x.device)[:, None]


@overload
def lengths_after(layer: Any, lengths: PaddedLengths) -> PaddedLengths: ...
@overload
def lengths_after(layer: Any, lengths: PaddedLengths | None) -> PaddedLengths | None: ...
def lengths_after(layer: Any, lengths: PaddedLengths | None) -> PaddedLengths | None:
    """Carry input lengths to the output of a layer."""
    return None if lengths is None else lengths.map(layer.output_length)


@register_state
@dataclass(frozen=True)
class ConvState:
    """Where a convolution stands in a stream.

    Attributes:
        lengths: of its output, None when no item ends early.
        input_lengths: of its input.
        buffer: the latest inputs, which coming outputs still need; None before the first chunk.
        position: how many outputs it has given.
        started: whether the buffer begins with the padding at the clip's start; a reflection waits for its inputs.
    """

    lengths: PaddedLengths | None
    input_lengths: PaddedLengths | None = None
    buffer: Tensor | None = None
    position: int = 0
    started: bool = False

    def extend(self, x: Tensor, left: int, right: int, last: bool) -> Tensor:
        """Put the buffered inputs before `x`: `left` zeros at the first chunk; and `right` behind it at the last."""
        before = x.new_zeros(*x.shape[:-1], left) if self.buffer is None else self.buffer
        parts = [before, x, *([x.new_zeros(*x.shape[:-1], right)] if last else [])]
        return onednn.cat_time([part for part in parts if part.shape[-1]] or [x])

    def advance(self, y: Tensor, unused: Tensor) -> tuple[Tensor, "ConvState"]:
        """Give out `y`, masked, and remember the inputs that are not used up (a copy: they are a view of many more)."""
        position = self.position
        if self.lengths is not None:  # for these alone it counts, and so streams without are alike wherever they stand
            self.lengths.mask_(y, position)
            position += y.shape[-1]
        return y, replace(self, buffer=unused.clone(), position=position, started=True)


class Conv(nn.Conv1d):
    """Convolution over time; what it sees beyond both ends of a clip is zero unless told otherwise.

    Args:
        in_channels: channels that come in.
        out_channels: channels that go out.
        kernel_size: steps it sees, `dilation` apart.
        stride: inputs per output.
        dilation: distance between the steps it sees.
        padding: steps beyond each end; default: as many outputs as inputs (odd kernels without stride).
        causal: see no later input than the last of the `stride` ones that an output stands for: all padding is at the
            start of the clip, and is zero.
        padding_mode: what lies beyond the ends: "zeros", "reflect" (the clip backwards, without its last value; clips
            have to be longer than the padding) or "replicate" (its last value).

    Raises:
        ValueError: a causal convolution with a padding of its own.
    """

    padding_mode: PaddingMode

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        padding: int | None = None,
        causal: bool = False,
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        if causal and (padding is not None or padding_mode != "zeros"):
            raise ValueError(
                f"a causal convolution pads with zeros at the start alone, got {padding=}, {padding_mode=}"
            )
        reach = dilation * (kernel_size - 1)
        padding = reach // 2 if padding is None else padding
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            0 if causal else padding,
            dilation,
            padding_mode=padding_mode,
        )
        self.left = reach + 1 - stride if causal else padding  # steps before the clip
        self.right = 0 if causal else padding  # steps behind it
        self.reach = reach  # inputs from the first to the last that one output sees

    def reset_parameters(self) -> None:
        """Start from a truncated normal of standard deviation 0.02, and no bias (arXiv 2306.06546)."""
        nn.init.trunc_normal_(self.weight, std=0.02)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def output_length(self, length: Any) -> Any:
        """Count the outputs of a clip of `length` inputs (an int, or a tensor of them)."""
        return (length + self.left + self.right - self.reach - 1) // self.stride[0] + 1

    def inputs_needed(self, outputs: int) -> int:
        """Count the inputs that have to be there before `step` gives so many outputs."""
        return (outputs - 1) * self.stride[0] + self.reach + 1 - self.left

    def is_long_enough(self, length: int) -> bool:
        """Tell whether a clip of `length` inputs is long enough to be padded with itself."""
        return length > (max(self.left, self.right) if self.padding_mode == "reflect" else 0)

    def forward(
        self, x: Float[Tensor, "batch in_channels time"], lengths: PaddedLengths | None = None
    ) -> Float[Tensor, "batch out_channels out_time"]:
        """Convolve whole clips; `lengths` are those of the input, whose padding is zero."""
        if self.padding_mode != "zeros":
            y = self._convolve(self._pad(x, lengths), 0)
        elif self.left == self.right:
            y = self._convolve(x, self.left)
        else:
            y = self._convolve(F.pad(x, (self.left, self.right)), 0)
        return y if lengths is None else lengths_after(self, lengths).mask_(y)

    def initial_state(self, lengths: PaddedLengths | None) -> ConvState:
        """Stand before the first chunk of clips with these input lengths."""
        return ConvState(lengths_after(self, lengths), lengths)

    def step(
        self, x: Float[Tensor, "batch in_channels time"], state: ConvState, last: bool
    ) -> tuple[Float[Tensor, "batch out_channels out_time"], ConvState]:
        """Convolve the next chunk of any size, also 0; gives the outputs whose inputs are all there."""
        if self.padding_mode == "zeros":
            x = state.extend(x, self.left, self.right, last)
        else:
            x = state.extend(x, 0, 0, last)
            if not state.started and not self.is_long_enough(x.shape[-1]) and not last:  # nothing yet to pad with
                return x.new_empty(x.shape[0], self.out_channels, 0), replace(state, buffer=x.clone())
            x = self._pad_chunk(x, state, last)
        count = max(0, (x.shape[-1] - self.reach - 1) // self.stride[0] + 1)
        if not count:
            y = x.new_empty(x.shape[0], self.out_channels, 0)
        elif onednn.can_use_onednn(x):
            y = onednn.conv1d(x, self.weight, self.bias, self.stride[0], self.dilation[0], self.groups)
        else:
            y = self._convolve(x, 0)
        return state.advance(y, x[..., count * self.stride[0] :])

    def _pad(self, x: Tensor, lengths: PaddedLengths | None) -> Tensor:
        """Reflect or repeat whole clips at their ends."""
        time = x.shape[-1]
        x = F.pad(x, (self.left, self.right), mode=self.padding_mode)
        if lengths is None or not lengths.pad_at_item_ends or lengths.shortest >= time:
            return x
        return mirror_ends(x, self.left + lengths.values, self.right, repeat=self.padding_mode == "replicate")

    def _pad_chunk(self, x: Tensor, state: ConvState, last: bool) -> Tensor:
        """Do to a chunk, with the buffered inputs before it, what `_pad` does to whole clips."""
        if not state.started:
            x = F.pad(x, (self.left, 0), mode=self.padding_mode)
        if last:
            x = F.pad(x, (0, self.right), mode=self.padding_mode)
        lengths, first = state.input_lengths, state.position * self.stride[0] - self.left  # input that x begins with
        if lengths is not None and lengths.pad_at_item_ends and lengths.shortest < first + x.shape[-1]:
            mirror_ends(x, lengths.values - first, self.right, repeat=self.padding_mode == "replicate")
        return x

    def _convolve(self, x: Tensor, padding: int) -> Tensor:
        dilation = self.dilation[0]
        if self.kernel_size[0] == 1 and x.device.type == "cpu" and not torch.compiler.is_compiling():
            # No effect on the result: on one thread PyTorch gives undilated 1x1 convolutions of a single clip to MKL,
            # which is half as fast as oneDNN on CPUs with AVX-512 that are not Intel's.
            dilation = 2
        return F.conv1d(x, self.weight, self.bias, self.stride, padding, dilation)


class ConvTranspose(nn.ConvTranspose1d):
    """Transposed convolution that spreads each input over `2 * stride` outputs.

    Args:
        in_channels: channels that come in.
        out_channels: channels that go out.
        stride: outputs per input, at least 2.
        exact_length: give exactly `stride` outputs per input. With False an odd stride loses its last sample, as in
            arXiv 2306.06546.
        causal: an input reaches over the `stride` outputs that it stands for and the next ones, instead of half as many
            on either side.
        groups: outputs of a group of channels come from as many inputs' channels alone; divides both counts.

    Raises:
        ValueError: a causal one that is not to keep its length.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        exact_length: bool = True,
        causal: bool = False,
        groups: int = 1,
    ) -> None:
        if causal and not exact_length:
            raise ValueError("a causal transposed convolution gives exactly `stride` outputs per input")
        margin, output_padding = (stride + 1) // 2, stride % 2 if exact_length else 0
        if causal:
            margin, output_padding = 0, 0
        super().__init__(in_channels, out_channels, 2 * stride, stride, margin, output_padding, groups)
        self.margin = margin  # outputs of the first block that do not belong to the clip
        self.causal = causal

    def output_length(self, length: Any) -> Any:
        """Count the outputs of a clip of `length` inputs (an int, or a tensor of them)."""
        if self.causal:
            return length * self.stride[0]
        return (length + 1) * self.stride[0] - 2 * self.margin + self.output_padding[0]

    def inputs_needed(self, outputs: int) -> int:
        """Count the inputs that have to be there before `step` gives so many outputs."""
        return -(-(outputs + self.margin) // self.stride[0])

    def is_long_enough(self, length: int) -> bool:
        """Tell whether a clip of `length` inputs is long enough."""
        return length > 0

    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "batch in_channels time"], lengths: PaddedLengths | None = None
    ) -> Float[Tensor, "batch out_channels out_time"]:
        """Convolve whole clips; `lengths` are those of the input, whose padding is zero."""
        y = F.conv_transpose1d(
            x, self.weight, self.bias, self.stride, self.margin, self.output_padding, groups=self.groups
        )
        if self.causal:
            y = y[..., : self.output_length(x.shape[-1])]
        return y if lengths is None else lengths_after(self, lengths).mask_(y)

    def initial_state(self, lengths: PaddedLengths | None) -> ConvState:
        """Stand before the first chunk of clips with these input lengths."""
        return ConvState(lengths_after(self, lengths))

    def step(
        self, x: Float[Tensor, "batch in_channels time"], state: ConvState, last: bool
    ) -> tuple[Float[Tensor, "batch out_channels out_time"], ConvState]:
        """Convolve the next chunk of any size, also 0; gives the outputs whose inputs are all there."""
        # inputs        0   a   b   c   0      each reaches over two blocks of `stride` outputs:
        # blocks          |ab0|ab |bc |c  |    with one input (or zeros) on each side, all blocks between are whole.
        # The clip gets neither `margin` outputs of its first block nor `margin - output_padding` of its last; a causal
        # one gets its first blocks whole, and not the last.
        if not x.shape[-1] and (self.causal or not last):
            return x.new_empty(x.shape[0], self.out_channels, 0), state
        x = state.extend(x, 1, 0 if self.causal else 1, last)
        if onednn.can_use_onednn(x) and self.groups == 1 and x.shape[-1] > 1:
            assert self.bias is not None
            y = onednn.conv_transpose1d(x, self.weight, self.bias, self.stride[0])
        else:
            y = F.conv_transpose1d(x, self.weight, self.bias, self.stride, padding=self.stride, groups=self.groups)
        begin = self.margin if state.buffer is None else 0
        end = y.shape[-1] - (self.margin - self.output_padding[0] if last else 0)
        return state.advance(y[..., begin:end], x[..., -1:])


def fold_weight_norm(
    weight_g: Float[Tensor, "dim0 1 1"], weight_v: Float[Tensor, "dim0 dim1 kernel"]
) -> Float[Tensor, "dim0 dim1 kernel"]:
    """Compute g v / |v|, the weight that a weight-normed convolution uses; |v| runs over all axes but the first.

    In float32 whatever comes in, and with PyTorch's own kernel: the same bits as a convolution that keeps its norm.
    """
    return torch._weight_norm(weight_v.float(), weight_g.float(), 0)


def apply_weight_norm(module: nn.Module) -> None:
    """Train direction and size of these convolutions' weights apart from here on (arXiv 1602.07868)."""
    for layer in _convolutions(module):
        if not parametrize.is_parametrized(layer, "weight"):
            parametrizations.weight_norm(layer, "weight", dim=0)


def remove_weight_norm(module: nn.Module) -> None:
    """Turn the weights back into plain parameters of the same value, for inference and saving."""
    for layer in _convolutions(module):
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight")


def _convolutions(module: nn.Module) -> list[nn.Module]:
    return [layer for layer in module.modules() if isinstance(layer, (Conv, ConvTranspose))]
