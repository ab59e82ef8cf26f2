"""Streaming encoder of FlexiCodec: audio chunks to features, features to tokens.

`StreamedEncoders` runs both encoders, a causal policy decides where tokens end, and `StreamedQuantizers` quantizes the
tokens that are complete. Long clips are quantized through the same classes, to bound memory.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from flexicodec.code_margins import Margins
from flexicodec.encoders.base import SemanticEncoder
from flexicodec.encoders.sanm import SanmEncoder
from flexicodec.encoders.sanm_stages import FrontEndStage, SanmStage
from flexicodec.merging import cosine_similarities
from flexicodec.merging.aggregate_stages import AggregateStage, AggregateState
from flexicodec.merging.aggregators import MeanAggregator
from flexicodec.models.flexicodec.network import FlexiCodecNetwork, QuantizedTokens
from flexicodec.models.flexicodec.resize_stage import FrameResampler
from flexicodec.models.precision import Precision, autocast
from flexicodec.models.streaming.encoder import EncoderOptions, EndOfClip
from flexicodec.models.streaming.state import Windows
from flexicodec.nn.sequential import SequentialState
from flexicodec.nn.stages import WindowState
from flexicodec.nn.streaming import register_state
from flexicodec.quantize import Quantized, Quantizer

CHUNK_FRAMES = 64  # that the convolutions take at once: enough to be fast, little enough to stay in the cache


class WindowedEncoder:
    """Any encoder, samples [B, 1, S] in and features [B, dim, frames] out, on windows of the samples.

    Args:
        encoder: Hears each window as if it were a clip.
        context: Its frames before those that come out,
        ahead: behind them,
        stride: and that come out at a time.
        at_least: Samples that windows are a multiple of apart.
    """

    exact, per_item, channels = False, False, 1

    def __init__(self, encoder: SemanticEncoder, context: int, ahead: int, stride: int, at_least: int) -> None:
        self.encoder, self.context = encoder, context
        hop = Fraction(FlexiCodecNetwork.sample_rate) / Fraction(encoder.frame_rate).limit_denominator(10_000)
        if hop.denominator != 1:
            raise ValueError(
                f"windows need an encoder whose frames are a whole number of samples apart, and a rate of "
                f"{encoder.frame_rate:g} Hz at {FlexiCodecNetwork.sample_rate} Hz is not; windows=None takes clips whole"
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


class StreamedSemanticEncoder:
    """Samples [B, 1, S] in, the frozen encoder's features on the codec's grid out.

    Args:
        codec: Whose encoder.
        windows: Where attention is global.
        ratio: Frames of the encoder per frame of the grid; None: their rates'.

    Attributes:
        exact: Whether all frames in a row are those of the whole clip.
    """

    def __init__(self, codec: FlexiCodecNetwork, windows: Windows | None, ratio: Fraction | None = None) -> None:
        encoder = codec.semantic_encoder
        self.codec, steps = codec, (windows or Windows()).steps(encoder.frame_rate)
        self.stages: list[Any]
        if isinstance(encoder, SanmEncoder):
            self.stages = [FrontEndStage(encoder.front_end), SanmStage(encoder, *steps)]
        else:
            self.stages = [WindowedEncoder(encoder, *steps, codec.frame_size)]
        self.exact = all(stage.exact for stage in self.stages)
        if ratio is None:
            ratio = Fraction(encoder.frame_rate / codec.base_frame_rate).limit_denominator(1000)
        self.resize = FrameResampler(ratio, encoder.dim)

    def inputs_needed(self, frames: int) -> int:
        """Count the samples that have to be there before so many frames are out."""
        heard = self.resize.inputs_needed(frames)
        if len(self.stages) == 2:
            return self.stages[0].inputs_needed(heard + self.stages[1].lookahead)
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


@register_state
@dataclass(frozen=True)
class EncodersState:
    """Where both encoders stand in a stream.

    Attributes:
        semantic: Of the stages of the semantic one.
        acoustic: Of the convolutions.
        meaning: Semantic features of frames whose acoustic ones are not there yet.
        sound: The reverse.
    """

    semantic: tuple[Any, ...]
    acoustic: SequentialState
    meaning: Float[Tensor, "batch semantic_dim waiting"] | None = None
    sound: Float[Tensor, "batch acoustic_dim waiting"] | None = None


class StreamedEncoders:
    """Samples [B, 1, S] in; semantic and acoustic features side by side out, [B, both dims, frames].

    Args:
        codec: Whose encoders.
        windows: Where attention is global.
    """

    def __init__(self, codec: FlexiCodecNetwork, windows: Windows) -> None:
        self.codec, self.semantic = codec, StreamedSemanticEncoder(codec, windows)
        self.exact = self.semantic.exact and codec.config.geometry == "whole"

    @property
    def lookahead_samples(self) -> int:
        """Samples behind a frame that it waits for, at most."""
        size, count = self.codec.frame_size, 3 * self.semantic.resize.ratio.denominator
        needed = (
            max(self.semantic.inputs_needed(t), self.codec.encoder.layers.inputs_needed(t)) - t * size
            for t in range(1, count)
        )
        return max(0, *needed)

    def initial_state(self) -> EncodersState:
        """Stand before the first sample."""
        return EncodersState(self.semantic.initial_state(), self.codec.encoder.layers.initial_state(None))

    def step(
        self, x: Float[Tensor, "batch 1 samples"], state: EncodersState, ending: EndOfClip | None
    ) -> tuple[Float[Tensor, "batch both_dims ready"], EncodersState]:
        """Hear the next samples, any number; `ending` says that nothing follows."""
        sound, acoustic = self._convolve(x, state.acoustic, ending)
        sound = _join(state.sound, sound)
        meaning, semantic = self._listen(x, state, ending)
        meaning = _join(state.meaning, meaning)
        ready = min(meaning.shape[-1], sound.shape[-1]) if ending is None else ending.frames
        assert ready <= min(meaning.shape[-1], sound.shape[-1])
        both = torch.cat([meaning[..., :ready], sound[..., :ready]], dim=1)
        return both, EncodersState(semantic, acoustic, meaning[..., ready:].clone(), sound[..., ready:].clone())

    def _convolve(self, x: Tensor, state: SequentialState, ending: EndOfClip | None) -> tuple[Tensor, SequentialState]:
        if ending is not None:
            samples = self.codec.acoustic_input_lengths(torch.tensor([ending.samples]))
            x = F.pad(x, (0, int(samples) - ending.samples))
        outputs, pieces = [], x.split(CHUNK_FRAMES * self.codec.frame_size, dim=-1)
        for index, piece in enumerate(pieces):
            last = ending is not None and index == len(pieces) - 1
            y, state = self.codec.encoder.layers.step(piece, state, last)
            outputs.append(y)
        return torch.cat(outputs, dim=-1), state

    def _listen(self, x: Tensor, state: EncodersState, ending: EndOfClip | None) -> tuple[Tensor, Any]:
        wanted = None
        if ending is not None:
            samples = self.codec.semantic_input_lengths(torch.tensor([ending.samples]))
            x = F.pad(x, (0, int(samples) - ending.samples))
            wanted = ending.frames - (0 if state.meaning is None else state.meaning.shape[-1])
        return self.semantic.step(x, state.semantic, wanted)


def _join(before: Tensor | None, behind: Tensor) -> Tensor:
    return behind if before is None else torch.cat([before, behind], dim=-1)


@register_state
@dataclass(frozen=True)
class QuantizersState:
    """Where a clip stands on its way to codes.

    Attributes:
        merging: Of the semantic and the acoustic aggregator.
        refining: Of the ConvNeXt stacks before and behind the semantic quantiser.
        durations: Of the tokens that wait.
        semantic: Semantic codes of the tokens that wait, as far as they are known.
        semantic_inputs: Inputs of the semantic quantizer for these codes.
        meaning: Semantic latents of the tokens that wait, as far as they are known.
        sound: Merged acoustic features of the tokens that wait, as far as they are known.
    """

    merging: tuple[AggregateState, AggregateState]
    refining: tuple[tuple[Tensor | None, ...], tuple[Tensor | None, ...]]
    durations: Int[Tensor, "1 waiting"]
    semantic: Int[Tensor, "1 ready"]
    semantic_inputs: Float[Tensor, "1 semantic_dim ready"]
    meaning: Float[Tensor, "1 dim ready"]
    sound: Float[Tensor, "1 dim ready"]


class StreamedQuantizers:
    """What `FlexiCodecNetwork.quantize` does to whole clips, done to the next tokens of one.

    Args:
        codec: Whose rooms.
        num_codebooks: Acoustic codebooks, 0 for none.
        windows: For aggregators with global attention: frames that they see before those that come out, behind them,
            and that come out at a time.
        precision: In which aggregators work.

    Attributes:
        exact: Whether all codes in a row are those of the whole clip.
    """

    def __init__(
        self,
        codec: FlexiCodecNetwork,
        num_codebooks: int,
        windows: tuple[int, int, int],
        precision: Precision = "float32",
    ) -> None:
        self.codec, self.num_codebooks, self.precision = codec, num_codebooks, precision
        self.semantic_dim, self.dim = codec.semantic_encoder.dim, codec.config.acoustic.latent_dim
        steps = [2 * frames for frames in windows]  # of the aggregators: a frame, or the query behind a token
        for_sound = codec.acoustic_aggregator if num_codebooks else MeanAggregator()  # not run then
        self.aggregators = (
            AggregateStage(codec.semantic_aggregator, self.semantic_dim, *steps),
            AggregateStage(for_sound, self.dim, *steps),
        )
        self.exact = all(each.exact for each in self.aggregators[: 2 if num_codebooks else 1])

    def lookahead_tokens(self, frames_per_token: float) -> float:
        """Count the tokens behind a token that its codes wait for, where tokens last so many frames."""
        meaning, sound = (-(-each.lookahead // (frames_per_token + 1)) for each in self.aggregators)
        meaning += self.codec.semantic_encoder_stack.reach
        if not self.num_codebooks:
            return meaning
        return max(meaning + self.codec.semantic_decoder_stack.reach, sound)

    def initial_state(self) -> QuantizersState:
        """Stand before the first token."""
        codec, device = self.codec, self.codec.device
        nothing, blank = torch.zeros(1, 0, device=device), torch.zeros(1, self.dim, 0, device=device)
        return QuantizersState(
            (self.aggregators[0].initial_state(device), self.aggregators[1].initial_state(device)),
            (
                codec.semantic_encoder_stack.initial_state(),
                codec.semantic_decoder_stack.initial_state() if self.num_codebooks else (),
            ),
            nothing.long(),
            nothing.long(),
            torch.zeros(1, codec.semantic_quantizer.dim, 0, device=device),
            blank,
            blank,
        )

    def step(
        self,
        frames: Float[Tensor, "1 both_dims frames"],
        durations: Int[Tensor, "1 tokens"],
        state: QuantizersState,
        last: bool,
    ) -> tuple[QuantizedTokens, QuantizersState]:
        """Quantise the next tokens, any number; both features of their frames come side by side."""
        codec, (for_meaning, for_sound) = self.codec, state.merging
        with autocast(self.precision, frames.device):
            merged, for_meaning = self.aggregators[0].step(frames[:, : self.semantic_dim], durations, for_meaning, last)
        refined, before = codec.semantic_encoder_stack.step(merged.float(), state.refining[0], last)
        coded = self._quantize(codec.semantic_quantizer, refined, 1)
        semantic = _join(state.semantic, coded.codes[:, 0])
        semantic_inputs = _join(state.semantic_inputs, refined)

        behind, meaning, sound, ready = state.refining[1], state.meaning, state.sound, semantic.shape[1]
        if self.num_codebooks:
            new, behind = codec.semantic_decoder_stack.step(coded.latents, behind, last)
            meaning = _join(meaning, new)
            with autocast(self.precision, frames.device):
                new, for_sound = self.aggregators[1].step(frames[:, self.semantic_dim :], durations, for_sound, last)
            sound = _join(sound, new.float())
            ready = min(meaning.shape[-1], sound.shape[-1])
            rest = sound[..., :ready] - meaning[..., :ready]
        else:
            rest = sound.new_zeros(1, self.dim, ready)
        fine = self._quantize(codec.acoustic_quantizer, rest, self.num_codebooks)

        durations = _join(state.durations, durations)
        queues = (durations, semantic, semantic_inputs, meaning, sound)
        state = QuantizersState(
            (for_meaning, for_sound),
            (before, behind),
            *(queue[..., ready:].clone() for queue in queues),
        )
        tokens = QuantizedTokens(
            durations[:, :ready], semantic[:, :ready], fine.codes, semantic_inputs[..., :ready], rest
        )
        return tokens, state

    def _quantize(self, quantizer: Quantizer, latents: Float[Tensor, "1 dim tokens"], rows: int) -> Quantized:
        if latents.shape[-1]:
            return quantizer(latents, None, rows)
        none = latents.new_zeros(1, rows, 0)
        return Quantized(latents.new_zeros(1, quantizer.dim, 0), none.long(), {})


@register_state
@dataclass(frozen=True)
class TokenizerState:
    """Where the hand stands in a stream.

    Attributes:
        policy: Of the policy; None before the first frame.
        unfinished: Frames of the token that is open.
        boundaries: Margins of the frames that are not out yet, as far as they are known.
        quantizing: Of the tokens that ended.
    """

    policy: Any
    unfinished: Float[Tensor, "1 dim frames"]
    boundaries: Float[Tensor, "1 frames"]
    quantizing: QuantizersState


class FlexiCodecStreamingTokenizer:
    """Ears and hand of a FlexiCodec's stream; see `StreamingTokenizer`.

    A token ends when the frame behind it is known to start another: also one that is as long as a token may be, so that
    the last token of a clip always comes with its end.

    Args:
        codec: Whose rooms.
        settings: How to encode; the policy is causal.
        info: How tokens will have been made.
    """

    def __init__(self, codec: FlexiCodecNetwork, settings: EncoderOptions, info: dict[str, Any]) -> None:
        self.codec, self.settings, self.policy = codec, settings, settings.policy
        self.hearing = StreamedEncoders(codec, settings.windows)
        steps = settings.windows.steps(codec.base_frame_rate)
        self.quantizing = StreamedQuantizers(codec, settings.num_codebooks, steps)
        self.exact = self.hearing.exact and self.quantizing.exact
        windows = settings.windows
        said = {} if self.exact else {"window_seconds": windows.seconds, "overlap_seconds": windows.overlap_seconds}
        self.info = {**info, **said}

    def latency(self, frames_per_token: float) -> float:
        """See `StreamingTokenizer`: the token, those that its codes wait for, the start of one more, and what these hear."""
        tokens = 1 + self.quantizing.lookahead_tokens(frames_per_token)
        frames = tokens * frames_per_token + 1
        return frames / self.codec.base_frame_rate + self.hearing.lookahead_samples / self.codec.sample_rate

    def initial_encoders_state(self) -> EncodersState:
        """See `StreamingTokenizer`."""
        return self.hearing.initial_state()

    def initial_tokenizer_state(self) -> TokenizerState:
        """See `StreamingTokenizer`."""
        blank = torch.zeros(1, self.codec.semantic_encoder.dim + self.quantizing.dim, 0, device=self.codec.device)
        return TokenizerState(None, blank, blank[:, 0], self.quantizing.initial_state())

    def hear(
        self, audio: Float[Tensor, "batch 1 samples"], state: EncodersState, ending: EndOfClip | None
    ) -> tuple[Float[Tensor, "batch both_dims frames"], EncodersState]:
        """See `StreamingTokenizer`."""
        return self.hearing.step(audio, state, ending)

    def write(
        self, features: Float[Tensor, "1 both_dims frames"], state: TokenizerState, last: bool
    ) -> tuple[dict[str, Any] | None, TokenizerState]:
        """See `StreamingTokenizer`."""
        frames = torch.cat([state.unfinished, features], dim=-1)
        starts, boundaries, policy = self._decide(frames, state)
        # `unfinished` holds one token at most, so that all starts lie among the new frames
        edges = [0, *(starts.nonzero()[:, 0] + frames.shape[-1] - len(starts)).tolist(), frames.shape[-1]]
        edges = edges if last else edges[:-1]
        durations = torch.tensor([[b - a for a, b in zip(edges, edges[1:], strict=False)]], device=frames.device).long()
        end = edges[-1]
        coded, quantizing = self.quantizing.step(frames[..., :end], durations, state.quantizing, last)
        ready = int(coded.durations.sum())
        after = TokenizerState(policy, frames[..., end:].clone(), boundaries[:, ready:].clone(), quantizing)
        if not ready:
            return None, after
        return self._tokens(coded, boundaries[:, :ready]), after

    def _decide(
        self, frames: Float[Tensor, "1 both_dims frames"], state: TokenizerState
    ) -> tuple[Tensor, Float[Tensor, "1 frames"], Any]:
        """Compare the new frames with those before them, and say which of them start a token."""
        old = state.unfinished.shape[-1]
        meaning = frames[:, : self.codec.semantic_encoder.dim, max(0, old - 1) :]
        similarities = cosine_similarities(meaning)[0] if meaning.shape[-1] else meaning.new_zeros(0)
        policy = self.policy.initial_state() if state.policy is None and frames.shape[-1] else state.policy
        if not len(similarities):
            return torch.zeros(0, dtype=torch.bool), state.boundaries, policy
        starts, margins, policy = self.policy.step(similarities, policy, self.settings.max_duration)
        return starts, torch.cat([state.boundaries, margins[None]], dim=1), policy

    def _tokens(self, coded: QuantizedTokens, boundaries: Float[Tensor, "1 frames"]) -> dict[str, Any]:
        margins = None
        if self.settings.margins:
            missing = int(coded.durations.sum()) - boundaries.shape[1]  # the last frame of a clip has no next one
            boundaries = F.pad(boundaries, (0, missing), value=torch.inf)
            semantic, acoustic = self.codec.token_margins(coded)
            margins = Margins(boundaries, acoustic, semantic)
        return {
            "semantic": coded.semantic,
            "acoustic": coded.acoustic,
            "durations": coded.durations,
            "margins": margins,
        }
