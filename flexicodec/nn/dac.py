"""Convolutional encoder and decoder of DAC (arXiv 2306.06546), and the stack class that every conv codec uses.

A `ConvStack` runs whole clips (`forward`), long clips in chunks (`chunked`) and streams (`step`). Chunks with carried
state equal the whole clip to float noise, and memory depends on the chunk and not on the clip.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from math import prod

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from flexicodec.nn.conv import Conv, ConvTranspose, PaddedLengths
from flexicodec.nn.sequential import TILE_VALUES, Residual, Sequential, SequentialState
from flexicodec.nn.snake import Snake
from flexicodec.nn.streaming import append, register_state, run_in_chunks

CHUNK_FRAMES = 128  # on the CPU
# Samples of a chunk elsewhere, items times time: in float32 the largest buffers, of 32 to 48 channels, take 1 to 1.6 GB
# each, and three or four exist at once. Every kernel launch is then large enough.
CHUNK_SAMPLES = 2**23


@register_state
@dataclass(frozen=True)
class ConvStackState:
    """State of a convolutional encoder or decoder in a stream.

    Attributes:
        layers: None until the input is long enough to be reflected at the clip's start.
        pending: Input received until then.
    """

    layers: SequentialState | None = None
    pending: Float[Tensor, "batch channels pending"] | None = None


class ConvStack(nn.Module):
    """Base of convolutional encoders and decoders, for whole clips, chunks and streams.

    Args:
        layers: In order.
        in_channels: Input channels.
        out_channels: Output channels.
        strides: Samples per frame, as factors.
        inputs_per_frame: Samples per frame for an encoder, 1 for a decoder.
    """

    exact = True
    per_item = False

    def __init__(
        self,
        layers: Iterable[nn.Module],
        in_channels: int,
        out_channels: int,
        strides: Sequence[int],
        inputs_per_frame: int,
    ) -> None:
        super().__init__()
        self.in_channels = self.channels = in_channels
        self.out_channels = out_channels
        self.frame_size = prod(strides)
        self.inputs_per_frame = inputs_per_frame
        self.outputs_per_frame = self.frame_size // inputs_per_frame
        self.layers = Sequential(layers)
        # Frames of the shortest clip: more than 1 where padding reflects the clip at its ends.
        self.min_frames = next(frames for frames in count(1) if self.layers.is_long_enough(frames * inputs_per_frame))

    def output_length(self, length: int) -> int:
        """Count the outputs (frames or samples) of a clip of `length` inputs (samples or frames)."""
        return self.layers.output_length(length)

    def forward(
        self,
        x: Float[Tensor, "batch in_channels time"],
        lengths: Int[Tensor, " batch"] | None = None,
        pad_at_item_ends: bool = True,
    ) -> Float[Tensor, "batch out_channels out_time"]:
        """Run whole clips, for training; `chunked` is for inference.

        Args:
            x: A whole number of frames: samples for an encoder, frames for a decoder.
            lengths: Valid samples (or frames) per item; None means all. Inputs past them do not matter, and outputs
                past them are zero. A frame that is partly valid counts as valid, filled up with zeros.
            pad_at_item_ends: Where padding other than zeros starts; see `PaddedLengths`.

        Raises:
            ValueError: A shape or length does not fit.
        """
        x, padded_lengths = self._prepare(x, lengths, pad_at_item_ends)
        return self.layers(x, padded_lengths)

    @torch.no_grad()
    def chunked(
        self,
        x: Float[Tensor, "batch in_channels time"],
        lengths: Int[Tensor, " batch"] | None = None,
        pad_at_item_ends: bool = True,
        chunk_frames: int | None = None,
    ) -> Float[Tensor, "batch out_channels out_time"]:
        """Run whole clips as `forward` does, chunk by chunk in bounded memory, without gradients.

        Args:
            x: As in `forward`.
            lengths: As in `forward`.
            pad_at_item_ends: As in `forward`.
            chunk_frames: Frames per chunk; changes the result by float noise at most. None: 128 on the CPU; elsewhere
                as many as make few, large kernel launches.

        Raises:
            ValueError: A shape, a length or `chunk_frames` does not fit.
        """
        on_cpu = x.device.type == "cpu"
        if chunk_frames is None:
            chunk_frames = CHUNK_FRAMES if on_cpu else max(1, CHUNK_SAMPLES // (len(x) * self.frame_size))
        if chunk_frames < 1:
            raise ValueError(f"chunk_frames must be at least 1, got {chunk_frames}")
        x, padded_lengths = self._prepare(x, lengths, pad_at_item_ends)
        size = chunk_frames * self.inputs_per_frame
        if not on_cpu and x.shape[-1] <= size:
            return self.layers(x, padded_lengths)  # without the copies that states need
        # One stream over the whole batch, whose state carries what chunks share.
        state = self.layers.initial_state(padded_lengths)
        output = x.new_empty(len(x), self.out_channels, x.shape[-1] // self.inputs_per_frame * self.outputs_per_frame)
        return run_in_chunks(self.layers.step, x, state, True, size, output)[0]

    @property
    def lookahead(self) -> int:
        """Inputs after its own that a frame depends on."""
        return self.layers.inputs_needed(self.outputs_per_frame) - self.inputs_per_frame

    def initial_state(self) -> ConvStackState:
        """Return the state before the first step of a stream."""
        return ConvStackState()

    @torch.no_grad()
    def step(
        self, x: Float[Tensor, "batch in_channels new"], state: ConvStackState, last: bool
    ) -> tuple[Float[Tensor, "batch out_channels ready"], ConvStackState]:
        """Run the next steps of a stream, any number; the stream ends with a whole frame."""
        layers = state.layers
        num_outputs = None
        if layers is None:
            # The start of the clip can be padded by reflection only when there is enough of it. A clip that ends before
            # is filled up with zeros, as a whole one is.
            x = append(state.pending, x)
            missing = self.min_frames * self.inputs_per_frame - x.shape[-1]
            if not x.shape[-1] or (missing > 0 and not last):
                return x.new_zeros(len(x), self.out_channels, 0), ConvStackState(pending=x)
            if missing > 0:
                num_outputs = x.shape[-1] // self.inputs_per_frame * self.outputs_per_frame
                x = F.pad(x, (0, missing))
            layers = self.layers.initial_state(None)
        y, layers = self.layers.step(x, layers, last)
        return y[..., :num_outputs], ConvStackState(layers)

    def _prepare(
        self, x: Tensor, lengths: Tensor | None, pad_at_item_ends: bool
    ) -> tuple[Tensor, PaddedLengths | None]:
        """Check clips, zero their padding, and round their lengths up to whole frames; None if nothing is padding."""
        # Shape, and a whole number of frames.
        if x.ndim != 3 or x.shape[1] != self.in_channels or not len(x):
            raise ValueError(
                f"{type(self).__name__} takes [batch, {self.in_channels}, time], got {list(x.shape)}; "
                "is an axis missing, or are time and channels swapped?"
            )
        time = x.shape[-1]
        if time < 1 or time % self.inputs_per_frame:
            raise ValueError(
                f"{type(self).__name__} takes a whole number of frames, one or more, of {self.inputs_per_frame} steps "
                f"each, got {time} steps; was the clip padded?"
            )
        # One length per clip, within the batch.
        shortest = time
        if lengths is not None:
            if lengths.ndim != 1 or lengths.is_floating_point() or len(lengths) != len(x):
                raise ValueError(f"lengths must be integers [{len(x)}], got {lengths.dtype} {list(lengths.shape)}")
            values = lengths.tolist()
            shortest = min(values)
            if shortest < 0 or max(values) > time:
                raise ValueError(
                    f"lengths must be at least 0 and at most the {time} steps of the input, got {values}; are they "
                    "in another unit?"
                )
        # Every clip is long enough to be reflected at its ends.
        frames = -(-shortest // self.inputs_per_frame)
        if self.min_frames > 1 and (frames if pad_at_item_ends else time // self.inputs_per_frame) < self.min_frames:
            raise ValueError(
                f"{type(self).__name__} reflects clips at their ends and takes {self.min_frames} frames or more, got "
                f"{frames}"
            )
        # Without padding the layers need no masks.
        if lengths is None or shortest == time:
            return x, None
        x = PaddedLengths(lengths, shortest).masked(x)
        whole = -(-lengths // self.inputs_per_frame) * self.inputs_per_frame
        return x, PaddedLengths(whole, frames * self.inputs_per_frame, pad_at_item_ends)


DILATIONS = (1, 3, 9)


class ResidualUnit(Residual):
    """Snake, a dilated convolution of width 7, Snake and a convolution of width 1, added to the input."""

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
        # channels   1 | width | 2 width | 4 width ...  | latent_dim      one block per stride
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
        # channels   latent_dim | width | width / 2 | width / 4 ... | 1      one block per stride
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
