"""Convolutional encoder and decoder of DAC (arXiv 2306.06546), and the stack class that every conv codec uses.

A `ConvStack` runs whole clips (`forward`), chunks of a long clip (`chunked`) and streams (`step`). Chunks with carried
state equal the whole clip to float noise, and memory depends on the chunk and not on the clip.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from math import prod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flexicodec.nn.conv import Conv, ConvTranspose, PaddedLengths
from flexicodec.nn.sequential import TILE_VALUES, Residual, Sequential, SequentialState
from flexicodec.nn.snake import Snake

CHUNK_FRAMES = 128  # on the CPU
# Samples of a chunk elsewhere, items times time: in float32 the largest buffers, 32 to 48 channels of them, take some
# 1 to 1.6 GB each, and three or four are there at once. Every launch has enough to do then.
CHUNK_SAMPLES = 2**23


@dataclass(frozen=True)
class ConvStackState:
    """Where an encoder or decoder stands in a stream; nothing in it is ever changed, so an old one may be resumed.

    Attributes:
        lengths: of the input, None when no item ends early.
        position: how many inputs have come (samples or frames).
        chain: where the layers stand.
    """

    lengths: PaddedLengths | None
    position: int
    chain: SequentialState


class ConvStack(nn.Module):
    """What encoder and decoder share: lengths in, whole clips, streams and chunks.

    Args:
        layers: in order.
        in_channels: channels that come in.
        out_channels: channels that go out.
        strides: samples per frame, as factors.
        inputs_per_frame: samples per frame for an encoder, 1 for a decoder.
    """

    def __init__(
        self,
        layers: Iterable[nn.Module],
        in_channels: int,
        out_channels: int,
        strides: Sequence[int],
        inputs_per_frame: int,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.frame_size, self.inputs_per_frame = prod(strides), inputs_per_frame
        self.layers = Sequential(layers)

    def output_length(self, length: int) -> int:
        """Count the outputs (frames or samples) of a clip of `length` inputs (samples or frames)."""
        return self.layers.output_length(length)

    @cached_property
    def min_frames(self) -> int:
        """Frames of the shortest clip: more than 1 where padding reflects the clip and needs enough of it."""
        return next(frames for frames in count(1) if self.layers.is_long_enough(frames * self.inputs_per_frame))

    def forward(
        self,
        x: Float[Tensor, "batch in_channels time"],
        lengths: Int[Tensor, " batch"] | None = None,
        pad_at_item_ends: bool = True,
    ) -> Float[Tensor, "batch out_channels out_time"]:
        """Run whole clips, for training; inference wants `chunked`.

        Args:
            x: a whole number of frames: samples for an encoder, frames for a decoder.
            lengths: valid samples (or frames) per item; anything may lie behind them, and outputs are zero there.
                None: all valid. An encoder takes a frame that is partly valid as filled up with zeros.
            pad_at_item_ends: what padding other than zeros reflects or repeats; see `PaddedLengths`.

        Raises:
            ValueError: a shape or length does not fit.
        """
        self._check_clips(x)
        ragged = self._ragged(lengths, x, pad_at_item_ends)
        if ragged is None:
            return self.layers(x)
        return self.layers(ragged.masked(x), ragged.map(self._fill_frames))

    def stream(self, lengths: Int[Tensor, " batch"] | None = None) -> ConvStackState:
        """Stand before the first chunk; `lengths` as in `forward`, for batches whose items end at different times."""
        return self._start(self._ragged(lengths))

    @torch.no_grad()
    def step(
        self, x: Float[Tensor, "batch in_channels time"], state: ConvStackState, last: bool = False
    ) -> tuple[Float[Tensor, "batch out_channels out_time"], ConvStackState]:
        """Run the next chunk of a stream; all its outputs in a row equal `forward` on all its inputs.

        Outputs come late, as every convolution waits for what it sees ahead; `last` brings the rest.

        Args:
            x: any number of samples (encoder) or frames (decoder), also 0.
            state: from `stream` or from the step before; it is not changed.
            last: whether the stream ends with this chunk.

        Raises:
            ValueError: the chunk has a wrong shape, or the stream ends inside a frame.
        """
        self._check_input(x)
        position = state.position + x.shape[-1]
        if last:
            self._check_whole_frames(position)
        if state.lengths is not None:
            x = state.lengths.masked(x, state.position)
        y, chain = self.layers.step(x, state.chain, last)
        return y, ConvStackState(state.lengths, position, chain)

    @torch.no_grad()
    def chunked(
        self,
        x: Float[Tensor, "batch in_channels time"],
        lengths: Int[Tensor, " batch"] | None = None,
        pad_at_item_ends: bool = True,
        chunk_frames: int | None = None,
    ) -> Float[Tensor, "batch out_channels out_time"]:
        """Run whole clips chunk by chunk, without gradients: what `forward` gives, in little memory that is reused.

        Args:
            x: as in `forward`.
            lengths: as in `forward`.
            pad_at_item_ends: as in `forward`.
            chunk_frames: frames per chunk; changes the result by no more than float noise. None: 128 on the CPU, and
                elsewhere what makes few and large launches.

        Raises:
            ValueError: a shape, a length or `chunk_frames` does not fit.
        """
        if chunk_frames is None:
            chunk_frames = self._chunk_frames(x)
        if chunk_frames < 1:
            raise ValueError(f"chunk_frames must be at least 1, got {chunk_frames}")
        self._check_clips(x)
        if x.device.type != "cpu" and x.shape[-1] <= chunk_frames * self.inputs_per_frame:
            return self(x, lengths, pad_at_item_ends)  # without the copies that streams need
        output = x.new_empty(x.shape[0], self.out_channels, self.output_length(x.shape[-1]))
        state, done = self._start(self._ragged(lengths, x, pad_at_item_ends)), 0
        chunks = x.split(chunk_frames * self.inputs_per_frame, dim=-1)
        for index, chunk in enumerate(chunks):
            y, state = self.step(chunk, state, last=index == len(chunks) - 1)
            output[..., done : done + y.shape[-1]] = y
            done += y.shape[-1]
        assert done == output.shape[-1]
        return output

    def _chunk_frames(self, x: Float[Tensor, "batch in_channels time"]) -> int:
        return CHUNK_FRAMES if x.device.type == "cpu" else max(1, CHUNK_SAMPLES // (len(x) * self.frame_size))

    def _start(self, ragged: PaddedLengths | None) -> ConvStackState:
        filled = None if ragged is None else ragged.map(self._fill_frames)
        return ConvStackState(ragged, 0, self.layers.initial_state(filled))

    def _fill_frames(self, length: Any) -> Any:
        return -(-length // self.inputs_per_frame) * self.inputs_per_frame

    def _ragged(
        self, lengths: Tensor | None, x: Tensor | None = None, pad_at_item_ends: bool = True
    ) -> PaddedLengths | None:
        if lengths is None:
            return None
        if lengths.ndim != 1 or lengths.is_floating_point() or (x is not None and len(lengths) != len(x)):
            shape = "[batch]" if x is None else f"[{len(x)}]"
            raise ValueError(f"lengths must be integers {shape}, got {lengths.dtype} {list(lengths.shape)}")
        values = lengths.tolist()
        if min(values) < 0 or (x is not None and max(values) > x.shape[-1]):
            limit = "" if x is None else f" and at most the {x.shape[-1]} steps of the input"
            raise ValueError(f"lengths must be at least 0{limit}, got {values}; are they in another unit?")
        least = self.min_frames * self.inputs_per_frame if pad_at_item_ends else 0
        if self._fill_frames(min(values)) < least and self.min_frames > 1:
            raise ValueError(
                f"{type(self).__name__} reflects clips at their ends and takes {self.min_frames} frames or more, which "
                f"is {least} steps; got lengths {values}"
            )
        return PaddedLengths(lengths, min(values), pad_at_item_ends)

    def _check_clips(self, x: Tensor) -> None:
        self._check_input(x)
        self._check_whole_frames(x.shape[-1])

    def _check_input(self, x: Tensor) -> None:
        if x.ndim != 3 or x.shape[1] != self.in_channels or not len(x):
            raise ValueError(
                f"{type(self).__name__} takes [batch, {self.in_channels}, time], got {list(x.shape)}; "
                "is an axis missing, or are time and channels swapped?"
            )

    def _check_whole_frames(self, length: int) -> None:
        if length < 1 or length % self.inputs_per_frame:
            raise ValueError(
                f"{type(self).__name__} takes a whole number of frames, one or more, of {self.inputs_per_frame} steps "
                f"each, got {length} steps; was the clip padded?"
            )
        if length < self.min_frames * self.inputs_per_frame:
            raise ValueError(
                f"{type(self).__name__} reflects clips at their ends and takes {self.min_frames} frames or more, got "
                f"{length // self.inputs_per_frame}"
            )


DILATIONS = (1, 3, 9)


class ResidualUnit(Residual):
    """Snake, a dilated convolution over 7 steps, Snake and a convolution over 1, added to the input."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__(
            [
                Snake(channels),
                Conv(channels, channels, 7, dilation=dilation),
                Snake(channels),
                Conv(channels, channels, 1),
            ]
        )


class EncoderBlock(Sequential):
    """Three residual units, then a strided convolution that doubles the channels."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__(
            [
                *(ResidualUnit(channels, dilation) for dilation in DILATIONS),
                Snake(channels),
                Conv(channels, 2 * channels, 2 * stride, stride, padding=(stride + 1) // 2),
            ],
            tile=TILE_VALUES // channels,
        )


class DecoderBlock(Sequential):
    """A transposed convolution that halves the channels, then three residual units."""

    def __init__(self, channels: int, stride: int, exact_length: bool) -> None:
        half = channels // 2
        super().__init__(
            [
                Snake(channels),
                ConvTranspose(channels, half, stride, exact_length),
                *(ResidualUnit(half, dilation) for dilation in DILATIONS),
            ],
            tile=TILE_VALUES // (half * stride),
        )


class DACEncoder(ConvStack):
    """Audio [B, 1, S] to features [B, latent_dim, T], S = T * frame_size.

    Args:
        strides: downsampling of each block, at least 2; their product is the frame size in samples.
        width: channels of the first block, doubled by every block.
        latent_dim: channels of the features.

    Raises:
        ValueError: strides below 2, or none.
    """

    def __init__(self, strides: Sequence[int] = (4, 4, 5, 8, 2), width: int = 32, latent_dim: int = 512) -> None:
        _check_strides(strides)
        widths = [width * 2**i for i in range(len(strides) + 1)]
        layers = [
            Conv(1, width, 7),
            *(EncoderBlock(channels, stride) for channels, stride in zip(widths, strides, strict=False)),
            Snake(widths[-1]),
            Conv(widths[-1], latent_dim, 3),
        ]
        super().__init__(layers, 1, latent_dim, strides, inputs_per_frame=prod(strides))


class DACDecoder(ConvStack):
    """Latents [B, latent_dim, T] to audio [B, 1, S] in [-1, 1].

    Args:
        strides: upsampling of each block, at least 2; their product is the frame size in samples.
        width: channels of the first block, halved by every block; divisible by 2 once per block.
        latent_dim: channels of the latents.
        exact_length: S = T * frame_size. With False each odd stride loses its last sample, which the strides behind it
            make more of.

    Raises:
        ValueError: strides below 2, or none; a width that cannot be halved that often.
    """

    def __init__(
        self,
        strides: Sequence[int] = (2, 8, 5, 4, 4),
        width: int = 1536,
        latent_dim: int = 512,
        exact_length: bool = True,
    ) -> None:
        _check_strides(strides)
        if width < 1 or width % 2 ** len(strides):
            raise ValueError(f"decoder width must be divisible by {2 ** len(strides)}, 2 per block, got {width}")
        widths = [width // 2**i for i in range(len(strides) + 1)]
        layers = [
            Conv(latent_dim, width, 7),
            *(DecoderBlock(channels, stride, exact_length) for channels, stride in zip(widths, strides, strict=False)),
            Snake(widths[-1]),
            Conv(widths[-1], 1, 7),
            nn.Tanh(),
        ]
        super().__init__(layers, latent_dim, 1, strides, inputs_per_frame=1)


def _check_strides(strides: Sequence[int]) -> None:
    if not strides or min(strides) < 2:
        raise ValueError(f"strides must be at least 2 each, got {list(strides)}")
