"""Hearing as a stream: samples in, the features of both encoders out, frame by frame, when all they see is there."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from flexicodec.blocks.chain import ChainState
from flexicodec.blocks.sanm import SanmEncoder
from flexicodec.blocks.sanm_stages import FrontEndStage, SanmStage
from flexicodec.blocks.stages import WindowState
from flexicodec.blocks.states import known
from flexicodec.models.flexicodec.resize_stage import ResizeStage
from flexicodec.models.flexicodec.rooms import FlexiCodecRooms
from flexicodec.models.flexicodec.semantic import SemanticEncoder
from flexicodec.models.streaming_encoder import Ending
from flexicodec.models.windows import Windows

CHUNK_FRAMES = 64  # that the convolutions take at once: enough to be fast, little enough to stay in the cache


class EncoderWindows:
    """Any encoder, samples [B, 1, S] in and features [B, dim, frames] out, on windows of the samples.

    Args:
        encoder: Hears each window as if it were a clip.
        context: Its frames before those that come out,
        ahead: behind them,
        stride: and that come out at a time.
        at_least: Samples that windows are a multiple of apart.
    """

    exact, apart, channels = False, False, 1

    def __init__(self, encoder: SemanticEncoder, context: int, ahead: int, stride: int, at_least: int) -> None:
        self.encoder, self.context = encoder, context
        hop = Fraction(FlexiCodecRooms.sample_rate) / Fraction(encoder.frame_rate).limit_denominator(10_000)
        if hop.denominator != 1:
            raise ValueError(
                f"windows need an encoder whose frames are a whole number of samples apart, and a rate of "
                f"{encoder.frame_rate:g} Hz at {FlexiCodecRooms.sample_rate} Hz is not; windows=None takes clips whole"
            )
        self.hop = int(hop)
        unit = max(1, at_least // self.hop)
        self.stride, self.ahead = -(-stride // unit) * unit, max(1, ahead)
        self.lookahead = (self.ahead + self.stride) * self.hop - 1

    def initial_state(self) -> WindowState:
        """See `Stage`."""
        return WindowState()

    def step(self, x: Tensor, state: WindowState, last: bool) -> tuple[Tensor, WindowState]:
        """See `Stage`."""
        kept = x if state.kept is None else torch.cat([state.kept, x], dim=-1)
        context, outputs = state.context, [x.new_zeros(len(x), self.encoder.dim, 0)]
        while kept.shape[-1] > context * self.hop:
            span = (context + self.stride + self.ahead) * self.hop
            ends = last and kept.shape[-1] <= span
            if not ends and kept.shape[-1] < span:
                break
            window = kept[:, 0, :span]
            heard, _ = self.encoder(window, torch.full((len(x),), window.shape[1], device=x.device))
            outputs.append(heard[..., context : None if ends else context + self.stride])
            answered = context + self.stride
            context = min(self.context, answered)
            kept = kept[..., kept.shape[-1] if ends else (answered - context) * self.hop :]
            if ends:
                break
        return torch.cat(outputs, dim=-1), WindowState(kept.clone(), context)


class SemanticStage:
    """Samples [B, 1, S] in, the frozen encoder's features on the codec's grid out.

    Args:
        codec: Whose encoder.
        windows: Where attention is global.
        ratio: Frames of the encoder per frame of the grid; None: their rates'.

    Attributes:
        exact: Whether all frames in a row are those of the whole clip.
    """

    def __init__(self, codec: FlexiCodecRooms, windows: Windows | None, ratio: Fraction | None = None) -> None:
        encoder = codec.semantic_encoder
        self.codec, steps = codec, (windows or Windows()).steps(encoder.frame_rate)
        self.stages: list[Any]
        if isinstance(encoder, SanmEncoder):
            self.stages = [FrontEndStage(encoder.front_end), SanmStage(encoder, *steps)]
        else:
            self.stages = [EncoderWindows(encoder, *steps, codec.frame_size)]
        self.exact = all(stage.exact for stage in self.stages)
        if ratio is None:
            ratio = Fraction(encoder.frame_rate / codec.base_frame_rate).limit_denominator(1000)
        self.resize = ResizeStage(ratio, encoder.dim)

    def needs(self, frames: int) -> int:
        """Count the samples that have to be there before so many frames are out."""
        heard = self.resize.needs(frames)
        if len(self.stages) == 2:
            return self.stages[0].needs(heard + self.stages[1].lookahead)
        return (heard - 1) * self.stages[0].hop + self.stages[0].lookahead + 1

    def initial_state(self) -> tuple[Any, ...]:
        """Stand before the first sample."""
        return (*(stage.initial_state() for stage in self.stages), self.resize.initial_state())

    def step(
        self, x: Float[Tensor, "batch 1 samples"], state: tuple[Any, ...], wanted: int | None
    ) -> tuple[Float[Tensor, "batch dim ready"], tuple[Any, ...]]:
        """Hear the next samples, any number; the last are followed by `wanted` more frames."""
        after = []
        for stage, before in zip(self.stages, state, strict=False):
            x, before = stage.step(x, before, wanted is not None)
            after.append(before)
        y, resized = self.resize.step(x, state[-1], wanted)
        return y, (*after, resized)


@known
@dataclass(frozen=True)
class HearingState:
    """Where both encoders stand in a stream.

    Attributes:
        semantic: Of the stages of the semantic one.
        acoustic: Of the convolutions.
        meaning: Semantic features of frames whose acoustic ones are not there yet.
        sound: The reverse.
    """

    semantic: tuple[Any, ...]
    acoustic: ChainState
    meaning: Float[Tensor, "batch semantic_dim waiting"] | None = None
    sound: Float[Tensor, "batch acoustic_dim waiting"] | None = None


class HearingStage:
    """Samples [B, 1, S] in; semantic and acoustic features side by side out, [B, both dims, frames].

    Args:
        codec: Whose encoders.
        windows: Where attention is global.
    """

    def __init__(self, codec: FlexiCodecRooms, windows: Windows) -> None:
        self.codec, self.semantic = codec, SemanticStage(codec, windows)
        self.exact = self.semantic.exact and codec.config.geometry == "whole"

    @property
    def lookahead_samples(self) -> int:
        """Samples behind a frame that it waits for, at most."""
        size, count = self.codec.frame_size, 3 * self.semantic.resize.ratio.denominator
        needed = (max(self.semantic.needs(t), self.codec.encoder.layers.needs(t)) - t * size for t in range(1, count))
        return max(0, *needed)

    def initial_state(self) -> HearingState:
        """Stand before the first sample."""
        return HearingState(self.semantic.initial_state(), self.codec.encoder.layers.initial_state(None))

    def step(
        self, x: Float[Tensor, "batch 1 samples"], state: HearingState, ending: Ending | None
    ) -> tuple[Float[Tensor, "batch both_dims ready"], HearingState]:
        """Hear the next samples, any number; `ending` says that nothing follows."""
        sound, acoustic = self._convolve(x, state.acoustic, ending)
        sound = _join(state.sound, sound)
        meaning, semantic = self._listen(x, state, ending)
        meaning = _join(state.meaning, meaning)
        ready = min(meaning.shape[-1], sound.shape[-1]) if ending is None else ending.frames
        assert ready <= min(meaning.shape[-1], sound.shape[-1])
        both = torch.cat([meaning[..., :ready], sound[..., :ready]], dim=1)
        return both, HearingState(semantic, acoustic, meaning[..., ready:].clone(), sound[..., ready:].clone())

    def _convolve(self, x: Tensor, state: ChainState, ending: Ending | None) -> tuple[Tensor, ChainState]:
        if ending is not None:
            samples = self.codec.whole_samples(torch.tensor([ending.samples]))
            x = F.pad(x, (0, int(samples) - ending.samples))
        outputs, pieces = [], x.split(CHUNK_FRAMES * self.codec.frame_size, dim=-1)
        for index, piece in enumerate(pieces):
            last = ending is not None and index == len(pieces) - 1
            y, state = self.codec.encoder.layers.step(piece, state, last)
            outputs.append(y)
        return torch.cat(outputs, dim=-1), state

    def _listen(self, x: Tensor, state: HearingState, ending: Ending | None) -> tuple[Tensor, Any]:
        wanted = None
        if ending is not None:
            samples = self.codec.audible_samples(torch.tensor([ending.samples]))
            x = F.pad(x, (0, int(samples) - ending.samples))
            wanted = ending.frames - (0 if state.meaning is None else state.meaning.shape[-1])
        return self.semantic.step(x, state.semantic, wanted)


def _join(before: Tensor | None, behind: Tensor) -> Tensor:
    return behind if before is None else torch.cat([before, behind], dim=-1)
