"""The stack that encoders and decoders are: a chain of convolutions over whole clips, streams and chunks.

Chunks with carried state equal the whole clip to float noise; memory then depends on the chunk and not on the clip, and
the buffers stay in the processor's cache.
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

from flexicodec.blocks.chain import Chain, ChainState
from flexicodec.blocks.conv import RaggedLengths

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

    lengths: RaggedLengths | None
    position: int
    chain: ChainState


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
        self.layers = Chain(layers)

    def output_length(self, length: int) -> int:
        """Count the outputs (frames or samples) of a clip of `length` inputs (samples or frames)."""
        return self.layers.output_length(length)

    @cached_property
    def min_frames(self) -> int:
        """Frames of the shortest clip: more than 1 where padding reflects the clip and needs enough of it."""
        return next(frames for frames in count(1) if self.layers.accepts(frames * self.inputs_per_frame))

    def forward(
        self,
        x: Float[Tensor, "batch in_channels time"],
        lengths: Int[Tensor, " batch"] | None = None,
        own_ends: bool = True,
    ) -> Float[Tensor, "batch out_channels out_time"]:
        """Run whole clips, for training; inference wants `chunked`.

        Args:
            x: a whole number of frames: samples for an encoder, frames for a decoder.
            lengths: valid samples (or frames) per item; anything may lie behind them, and outputs are zero there.
                None: all valid. An encoder takes a frame that is partly valid as filled up with zeros.
            own_ends: what padding other than zeros reflects or repeats; see `RaggedLengths`.

        Raises:
            ValueError: a shape or length does not fit.
        """
        self._check_clips(x)
        ragged = self._ragged(lengths, x, own_ends)
        if ragged is None:
            return self.layers(x)
        return self.layers(ragged.cut(x), ragged.map(self._fill_frames))

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
            x = state.lengths.cut(x, state.position)
        y, chain = self.layers.step(x, state.chain, last)
        return y, ConvStackState(state.lengths, position, chain)

    @torch.no_grad()
    def chunked(
        self,
        x: Float[Tensor, "batch in_channels time"],
        lengths: Int[Tensor, " batch"] | None = None,
        own_ends: bool = True,
        chunk_frames: int | None = None,
    ) -> Float[Tensor, "batch out_channels out_time"]:
        """Run whole clips chunk by chunk, without gradients: what `forward` gives, in little memory that is reused.

        Args:
            x: as in `forward`.
            lengths: as in `forward`.
            own_ends: as in `forward`.
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
            return self(x, lengths, own_ends)  # without the copies that streams need
        output = x.new_empty(x.shape[0], self.out_channels, self.output_length(x.shape[-1]))
        state, done = self._start(self._ragged(lengths, x, own_ends)), 0
        chunks = x.split(chunk_frames * self.inputs_per_frame, dim=-1)
        for index, chunk in enumerate(chunks):
            y, state = self.step(chunk, state, last=index == len(chunks) - 1)
            output[..., done : done + y.shape[-1]] = y
            done += y.shape[-1]
        assert done == output.shape[-1]
        return output

    def _chunk_frames(self, x: Float[Tensor, "batch in_channels time"]) -> int:
        return CHUNK_FRAMES if x.device.type == "cpu" else max(1, CHUNK_SAMPLES // (len(x) * self.frame_size))

    def _start(self, ragged: RaggedLengths | None) -> ConvStackState:
        filled = None if ragged is None else ragged.map(self._fill_frames)
        return ConvStackState(ragged, 0, self.layers.initial_state(filled))

    def _fill_frames(self, length: Any) -> Any:
        return -(-length // self.inputs_per_frame) * self.inputs_per_frame

    def _ragged(self, lengths: Tensor | None, x: Tensor | None = None, own_ends: bool = True) -> RaggedLengths | None:
        if lengths is None:
            return None
        if lengths.ndim != 1 or lengths.is_floating_point() or (x is not None and len(lengths) != len(x)):
            shape = "[batch]" if x is None else f"[{len(x)}]"
            raise ValueError(f"lengths must be integers {shape}, got {lengths.dtype} {list(lengths.shape)}")
        values = lengths.tolist()
        if min(values) < 0 or (x is not None and max(values) > x.shape[-1]):
            limit = "" if x is None else f" and at most the {x.shape[-1]} steps of the input"
            raise ValueError(f"lengths must be at least 0{limit}, got {values}; are they in another unit?")
        least = self.min_frames * self.inputs_per_frame if own_ends else 0
        if self._fill_frames(min(values)) < least and self.min_frames > 1:
            raise ValueError(
                f"{type(self).__name__} reflects clips at their ends and takes {self.min_frames} frames or more, which "
                f"is {least} steps; got lengths {values}"
            )
        return RaggedLengths(lengths, min(values), own_ends)

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
