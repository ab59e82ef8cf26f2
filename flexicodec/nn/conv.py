"""Convolutions over time that give the same numbers for a whole clip and for any stream of its chunks.

`forward` runs whole clips, in training; `step` runs chunks and returns the state for the next one. Both pad every clip
alike at both ends and in every layer, also inside a padded batch: with zeros, by reflection or with its last value.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from flexicodec.nn import onednn
from flexicodec.nn.masking import length_mask, mirror_ends, zero_padding
from flexicodec.nn.streaming import register_state

PaddingMode = Literal["zeros", "reflect", "replicate"]


@dataclass(frozen=True)
class PaddedLengths:
    """Valid lengths of a padded batch at one rate; the layers keep everything past them at zero.

    Attributes:
        values: Length of each item.
        shortest: The smallest of `values` as a plain number: before it nothing needs a mask.
        pad_at_item_ends: Padding by reflection or repetition starts at each item's own end, as it does for the item
            alone. False: at the end of the batch; items that end before it are followed by zeros.
    """

    values: Int[Tensor, " batch"]
    shortest: int
    pad_at_item_ends: bool = True

    def mask_(self, x: Float[Tensor, "batch dim time"], start: int = 0) -> Float[Tensor, "batch dim time"]:
        """Zero the padding of `x` in place, where it is finite; `x` begins at time `start` of the clip."""
        if self.shortest and start + x.shape[-1] <= self.shortest:
            return x
        # Ten times as fast as masked_fill_, and allowed by autograd: no convolution needs its output again.
        valid = length_mask(self.values.to(x.device), x.shape[-1], start)
        return x.mul_(valid[:, None].to(x.dtype))

    def masked(self, x: Float[Tensor, "batch dim time"]) -> Float[Tensor, "batch dim time"]:
        """Return `x` with zeros in its padding, also in place of NaN and Inf."""
        return zero_padding(x, length_mask(self.values.to(x.device), x.shape[-1]))

    def after(self, layer: Any) -> "PaddedLengths":
        """Convert input lengths of a layer to output lengths."""
        # 0 stays 0: exported graphs are good for any lengths, and mask at every layer.
        shortest = layer.output_length(self.shortest) if self.shortest else 0
        return PaddedLengths(layer.output_length(self.values), shortest, self.pad_at_item_ends)


@register_state
@dataclass(frozen=True)
class ConvState:
    """State of a convolution in a stream.

    Attributes:
        lengths: Output lengths, None without padding.
        input_lengths: Input lengths.
        buffer: The latest inputs, which coming outputs need; None before the first chunk.
        position: Outputs so far; counted only with `lengths`, so that other streams have equal states at any time.
        started: The buffer begins with the padding at the clip's start, which by reflection needs some inputs.
    """

    lengths: PaddedLengths | None
    input_lengths: PaddedLengths | None = None
    buffer: Tensor | None = None
    position: int = 0
    started: bool = False

    def extend(self, x: Tensor, left: int, right: int, last: bool) -> Tensor:
        """Prepend the buffered inputs, or `left` zeros at the first chunk, and append `right` zeros at the last."""
        parts = [x.new_zeros(*x.shape[:-1], left) if self.buffer is None else self.buffer, x]
        if last:
            parts.append(x.new_zeros(*x.shape[:-1], right))
        return onednn.cat_time(parts)

    def advance(self, y: Tensor, unused: Tensor) -> tuple[Tensor, "ConvState"]:
        """Mask the outputs `y`, and store the inputs that are needed again (a copy: they are a view of many more)."""
        position = self.position
        if self.lengths is not None:
            self.lengths.mask_(y, position)
            position += y.shape[-1]
        return y, replace(self, buffer=unused.clone(), position=position, started=True)


class Conv(nn.Conv1d):
    """Convolution over time, padded at both ends of a clip.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        kernel_size: Width, in steps `dilation` apart.
        stride: Inputs per output.
        dilation: Distance between the taps.
        padding: Steps at each end; default: as many outputs as inputs (odd kernels without stride).
        causal: An output depends on no later input than the last of its `stride` ones: all padding is at the start of
            the clip, and zero.
        padding_mode: "zeros", "reflect" (the clip backwards, without its last value; clips have to be longer than the
            padding) or "replicate" (its last value).

    Raises:
        ValueError: A causal convolution with a padding of its own.
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
        self.reach = reach  # distance from the first to the last input of an output

    def reset_parameters(self) -> None:
        """Start from a truncated normal of standard deviation 0.02, and no bias (arXiv 2306.06546)."""
        nn.init.trunc_normal_(self.weight, std=0.02)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def output_length(self, length: Any) -> Any:
        """Count the outputs of a clip of `length` inputs (an int, or a tensor of them)."""
        return (length + self.left + self.right - self.reach - 1) // self.stride[0] + 1

    def inputs_needed(self, outputs: int) -> int:
        """Count the inputs that `step` needs before it has returned so many outputs."""
        return (outputs - 1) * self.stride[0] + self.reach + 1 - self.left

    def is_long_enough(self, length: int) -> bool:
        """Return whether a clip of `length` inputs is long enough to be reflected."""
        return length > (max(self.left, self.right) if self.padding_mode == "reflect" else 0)

    def forward(
        self, x: Float[Tensor, "batch in_channels time"], lengths: PaddedLengths | None = None
    ) -> Float[Tensor, "batch out_channels out_time"]:
        """Convolve whole clips; `lengths` are the input's, whose padding is zero."""
        if self.padding_mode != "zeros":
            y = self._convolve(self._pad(x, lengths), 0)
        elif self.left == self.right:
            y = self._convolve(x, self.left)
        else:
            y = self._convolve(F.pad(x, (self.left, self.right)), 0)
        return y if lengths is None else lengths.after(self).mask_(y)

    def initial_state(self, lengths: PaddedLengths | None) -> ConvState:
        """Return the state before the first chunk of clips with these input lengths."""
        return ConvState(None if lengths is None else lengths.after(self), lengths)

    def step(
        self, x: Float[Tensor, "batch in_channels time"], state: ConvState, last: bool
    ) -> tuple[Float[Tensor, "batch out_channels out_time"], ConvState]:
        """Convolve the next chunk of any size, also 0; returns the outputs whose inputs are complete."""
        # Inputs that are still needed before the new ones, and the padding at the clip's ends.
        if self.padding_mode == "zeros":
            x = state.extend(x, self.left, self.right, last)
        else:
            x = state.extend(x, 0, 0, last)
            if not state.started and not last and not self.is_long_enough(x.shape[-1]):  # too short to be reflected
                return x.new_empty(x.shape[0], self.out_channels, 0), replace(state, buffer=x.clone())
            x = self._pad_chunk(x, state, last)

        # All outputs that can be computed.
        count = max(0, (x.shape[-1] - self.reach - 1) // self.stride[0] + 1)
        dtype = onednn.onednn_dtype(x)
        if not count:
            y = x.new_empty(x.shape[0], self.out_channels, 0)
        elif dtype is not None:
            y = onednn.conv1d(x.to(dtype), self.weight, self.bias, self.stride[0], self.dilation[0], self.groups)
        else:
            y = self._convolve(x, 0)
        return state.advance(y, x[..., count * self.stride[0] :])

    def _pad(self, x: Tensor, lengths: PaddedLengths | None) -> Tensor:
        """Pad whole clips by reflection or repetition."""
        time = x.shape[-1]
        x = F.pad(x, (self.left, self.right), mode=self.padding_mode)
        if lengths is None or not lengths.pad_at_item_ends or lengths.shortest >= time:
            return x
        return mirror_ends(x, self.left + lengths.values, self.right, repeat=self.padding_mode == "replicate")

    def _pad_chunk(self, x: Tensor, state: ConvState, last: bool) -> Tensor:
        """Pad a chunk that begins with the buffered inputs, as `_pad` does whole clips."""
        if not state.started:
            x = F.pad(x, (self.left, 0), mode=self.padding_mode)
        if last:
            x = F.pad(x, (0, self.right), mode=self.padding_mode)
        lengths = state.input_lengths
        first = state.position * self.stride[0] - self.left  # index in the clip of the first input of `x`
        if lengths is not None and lengths.pad_at_item_ends and lengths.shortest < first + x.shape[-1]:
            mirror_ends(x, lengths.values - first, self.right, repeat=self.padding_mode == "replicate")
        return x

    def _convolve(self, x: Tensor, padding: int) -> Tensor:
        dilation = self.dilation[0]
        if self.kernel_size[0] == 1 and x.device.type == "cpu" and not torch.compiler.is_compiling():
            # No effect on the result: on one thread PyTorch sends undilated 1x1 convolutions of a single clip to MKL,
            # which is half as fast as oneDNN on CPUs with AVX-512 that are not Intel's.
            dilation = 2
        return F.conv1d(x, self.weight, self.bias, self.stride, padding, dilation)


class ConvTranspose(nn.ConvTranspose1d):
    """Transposed convolution with a kernel of `2 * stride`.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        stride: Outputs per input, at least 2.
        exact_length: Exactly `stride` outputs per input. With False an odd stride loses its last sample, as in arXiv
            2306.06546.
        causal: An input affects its own `stride` outputs and the next ones, instead of half as many on either side.
        groups: Groups of channels; divides both counts.

    Raises:
        ValueError: A causal one without `exact_length`.
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
        margin = 0 if causal else (stride + 1) // 2
        output_padding = stride % 2 if exact_length and not causal else 0
        super().__init__(in_channels, out_channels, 2 * stride, stride, margin, output_padding, groups)
        self.margin = margin  # outputs of the first block that do not belong to the clip
        self.causal = causal

    def output_length(self, length: Any) -> Any:
        """Count the outputs of a clip of `length` inputs (an int, or a tensor of them)."""
        if self.causal:
            return length * self.stride[0]
        return (length + 1) * self.stride[0] - 2 * self.margin + self.output_padding[0]

    def inputs_needed(self, outputs: int) -> int:
        """Count the inputs that `step` needs before it has returned so many outputs."""
        return -(-(outputs + self.margin) // self.stride[0])

    def is_long_enough(self, length: int) -> bool:
        """Return whether a clip of `length` inputs is long enough."""
        return length > 0

    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "batch in_channels time"], lengths: PaddedLengths | None = None
    ) -> Float[Tensor, "batch out_channels out_time"]:
        """Convolve whole clips; `lengths` are the input's, whose padding is zero."""
        y = F.conv_transpose1d(
            x, self.weight, self.bias, self.stride, self.margin, self.output_padding, groups=self.groups
        )
        if self.causal:
            y = y[..., : self.output_length(x.shape[-1])]
        return y if lengths is None else lengths.after(self).mask_(y)

    def initial_state(self, lengths: PaddedLengths | None) -> ConvState:
        """Return the state before the first chunk of clips with these input lengths."""
        return ConvState(None if lengths is None else lengths.after(self))

    def step(
        self, x: Float[Tensor, "batch in_channels time"], state: ConvState, last: bool
    ) -> tuple[Float[Tensor, "batch out_channels out_time"], ConvState]:
        """Convolve the next chunk of any size, also 0; returns the outputs whose inputs are complete."""
        # inputs        0   a   b   c   0      each affects two blocks of `stride` outputs:
        # blocks          |0a |ab |bc |c0 |    with an input (or zero) on both sides, a block is complete.
        # `margin` outputs of the clip's first block and `margin - output_padding` of its last are dropped; a causal
        # layer keeps the first block and drops the last.
        if not x.shape[-1] and (self.causal or not last):
            return x.new_empty(x.shape[0], self.out_channels, 0), state
        x = state.extend(x, 1, 0 if self.causal else 1, last)
        dtype = onednn.onednn_dtype(x)
        if dtype is not None and self.groups == 1 and x.shape[-1] > 1:
            assert self.bias is not None
            y = onednn.conv_transpose1d(x.to(dtype), self.weight, self.bias, self.stride[0])
        else:
            y = F.conv_transpose1d(x, self.weight, self.bias, self.stride, padding=self.stride, groups=self.groups)
        # Drop what belongs to no sample of the clip, and keep the last input for the next block.
        begin = self.margin if state.buffer is None else 0
        end = y.shape[-1] - (self.margin - self.output_padding[0] if last else 0)
        return state.advance(y[..., begin:end], x[..., -1:])


def fold_weight_norm(
    weight_g: Float[Tensor, "dim0 1 1"], weight_v: Float[Tensor, "dim0 dim1 kernel"]
) -> Float[Tensor, "dim0 dim1 kernel"]:
    """Compute g v / |v|, the weight of a weight-normed convolution; |v| is over all axes but the first.

    In float32 and with PyTorch's own kernel, for the same bits as with the norm in place.
    """
    return torch._weight_norm(weight_v.float(), weight_g.float(), 0)


def apply_weight_norm(module: nn.Module) -> None:
    """Parametrise the weights of all convolutions by direction and norm (arXiv 1602.07868)."""
    for layer in _convolutions(module):
        if not parametrize.is_parametrized(layer, "weight"):
            parametrizations.weight_norm(layer, "weight", dim=0)


def remove_weight_norm(module: nn.Module) -> None:
    """Turn weights back into plain parameters of the same value, for inference and saving."""
    for layer in _convolutions(module):
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight")


def _convolutions(module: nn.Module) -> list[nn.Module]:
    return [layer for layer in module.modules() if isinstance(layer, (Conv, ConvTranspose))]
