"""Streaming encoder of FlexiCodec: audio chunks to features, features to tokens.

`StreamedEncoders` runs both encoders, a causal policy decides where tokens end, and `StreamedQuantizers` quantizes the
tokens that are complete. Long clips are quantized through the same classes, to bound memory.
"""

from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from flexicodec.code_margins import Margins
from flexicodec.encoders.base import SemanticEncoder
from flexicodec.merging import cosine_similarities
from flexicodec.merging.aggregators import AggregatorState, MeanAggregator, StreamingAggregator
from flexicodec.merging.policies import uses_acoustic
from flexicodec.models.codec import Precision, autocast
from flexicodec.models.flexicodec.frame_resampler import FrameResampler
from flexicodec.models.flexicodec.network import FlexiCodecNetwork, QuantizedTokens
from flexicodec.models.streaming.encoder import EncoderOptions, EndOfClip
from flexicodec.models.streaming.state import Windows
from flexicodec.nn.sequential import SequentialState
from flexicodec.nn.streaming import SlidingWindowState, append, register_state, run_in_chunks
from flexicodec.quantize import Quantized, Quantizer

CHUNK_FRAMES = 64  # that the convolutions compute at once: enough to be fast, few enough to stay in the cache


class WindowedEncoder:
    """Any semantic encoder, samples [B, 1, S] to features [B, dim, frames], on windows of the samples.

    Args:
        encoder: Runs on each window as on a clip.
        context: Frames of a window before those it outputs.
        ahead: Frames of a window after those it outputs.
        stride: Frames a window outputs.
        at_least: Samples of which the distance between windows is a multiple.
    """

    exact = False
    per_item = False
    channels = 1

    def __init__(self, encoder: SemanticEncoder, context: int, ahead: int, stride: int, at_least: int) -> None:
        self.encoder = encoder
        self.context = context
        hop = Fraction(FlexiCodecNetwork.sample_rate) / Fraction(encoder.frame_rate).limit_denominator(10_000)
        if hop.denominator != 1:
            raise ValueError(
                f"windows need an encoder whose frames are a whole number of samples apart, and a rate of "
                f"{encoder.frame_rate:g} Hz at {FlexiCodecNetwork.sample_rate} Hz is not; windows=None takes clips "
                "whole"
            )
        self.hop = int(hop)
        # A stride of whole codec frames, and at least one frame of look-ahead.
        unit = lcm(self.hop, at_least) // self.hop
        self.stride = -(-stride // unit) * unit
        self.ahead = max(1, ahead)
        self.lookahead = (self.ahead + self.stride) * self.hop - 1

    def initial_state(self) -> SlidingWindowState:
        """Return the state before the first sample."""
        return SlidingWindowState()

    def step(self, x: Tensor, state: SlidingWindowState, last: bool) -> tuple[Tensor, SlidingWindowState]:
        """Encode every window that is complete; at the end, the last window outputs all frames it has."""
        buffer = append(state.buffer, x)
        context = state.context
        outputs = [x.new_zeros(len(x), self.encoder.dim, 0)]
        while buffer.shape[-1] > context * self.hop:
            span = (context + self.stride + self.ahead) * self.hop
            is_last = last and buffer.shape[-1] <= span
            if not is_last and buffer.shape[-1] < span:
                break
            window = buffer[:, 0, :span]
            features, _ = self.encoder(window, torch.full((len(x),), window.shape[1], device=x.device))
            if is_last:
                outputs.append(features[..., context:])
                buffer = buffer[..., :0]
                context = min(self.context, context + self.stride)
                break

            # Outputs become context, of which the next window keeps at most `self.context` frames.
            done = context + self.stride
            outputs.append(features[..., context:done])
            context = min(self.context, done)
            buffer = buffer[..., (done - context) * self.hop :]
        return torch.cat(outputs, dim=-1), SlidingWindowState(buffer.clone(), context)


class StreamedSemanticEncoder:
    """Samples [B, 1, S] to features of the frozen encoder on the codec's frame grid.

    Args:
        codec: Its encoder is used.
        windows: For global attention.
        ratio: Frames of the encoder per frame of the grid; None means that of their rates.

    Attributes:
        exact: The concatenated outputs equal those for the whole clip.
    """

    def __init__(self, codec: FlexiCodecNetwork, windows: Windows | None, ratio: Fraction | None = None) -> None:
        # A model that only decodes needs no encoder.
        from flexicodec.encoders.moonshine import MoonshineEncoder
        from flexicodec.encoders.moonshine_streams import MoonshineFrontEnd, StreamingMoonshine
        from flexicodec.encoders.sanm import SanmEncoder, StreamingSanm

        encoder = codec.semantic_encoder
        steps = (windows or Windows()).steps(encoder.frame_rate)
        self.stages: list[Any]
        if isinstance(encoder, SanmEncoder):
            self.stages = [encoder.front_end, StreamingSanm(encoder, *steps)]
        elif isinstance(encoder, MoonshineEncoder) and encoder.reach is not None:
            self.stages = [MoonshineFrontEnd(encoder), StreamingMoonshine(encoder)]
        else:
            self.stages = [WindowedEncoder(encoder, *steps, codec.frame_size)]
        self.exact = all(stage.exact for stage in self.stages)
        if ratio is None:
            ratio = Fraction(encoder.frame_rate / codec.base_frame_rate).limit_denominator(1000)
        self.resampler = FrameResampler(ratio, encoder.dim)

    def inputs_needed(self, frames: int) -> int:
        """Count the samples needed for so many frames."""
        # From frames of the grid to the encoder's frames, and from these to samples.
        needed = self.resampler.inputs_needed(frames)
        if len(self.stages) == 2:
            return self.stages[0].inputs_needed(needed + self.stages[1].lookahead)
        return (needed - 1) * self.stages[0].hop + self.stages[0].lookahead + 1

    def initial_state(self) -> tuple[Any, ...]:
        """Return the state before the first sample."""
        return (*(stage.initial_state() for stage in self.stages), self.resampler.initial_state())

    def step(
        self, x: Float[Tensor, "batch 1 samples"], state: tuple[Any, ...], remaining: int | None
    ) -> tuple[Float[Tensor, "batch dim ready"], tuple[Any, ...]]:
        """Encode the next samples, any number; where `x` ends the clip, `remaining` frames are still to come."""
        after = []
        for stage, before in zip(self.stages, state, strict=False):
            x, before = stage.step(x, before, remaining is not None)
            after.append(before)
        y, resampled = self.resampler.step(x, state[-1], remaining)
        return y, (*after, resampled)


@register_state
@dataclass(frozen=True)
class EncodersState:
    """State of both encoders in a stream.

    Attributes:
        semantic: States of the semantic encoder's modules.
        acoustic: State of the acoustic encoder.
        semantic_features: Of frames whose acoustic features are still to come.
        acoustic_features: Of frames whose semantic features are still to come.
    """

    semantic: tuple[Any, ...]
    acoustic: SequentialState
    semantic_features: Float[Tensor, "batch semantic_dim pending"] | None = None
    acoustic_features: Float[Tensor, "batch acoustic_dim pending"] | None = None


class StreamedEncoders:
    """Samples [B, 1, S] to semantic and acoustic features side by side, [B, both dims, frames].

    Args:
        codec: Its encoders are used.
        windows: For global attention.
    """

    def __init__(self, codec: FlexiCodecNetwork, windows: Windows) -> None:
        self.codec = codec
        self.semantic = StreamedSemanticEncoder(codec, windows)
        self.exact = self.semantic.exact and codec.config.geometry == "whole"

    @property
    def lookahead_samples(self) -> int:
        """Samples behind a frame that its features depend on, at most."""
        longest = 0
        for frames in range(1, 3 * self.semantic.resampler.ratio.denominator):
            semantic = self.semantic.inputs_needed(frames)
            acoustic = self.codec.encoder.layers.inputs_needed(frames)
            longest = max(longest, max(semantic, acoustic) - frames * self.codec.frame_size)
        return longest

    def initial_state(self) -> EncodersState:
        """Return the state before the first sample."""
        return EncodersState(self.semantic.initial_state(), self.codec.encoder.layers.initial_state(None))

    def step(
        self, x: Float[Tensor, "batch 1 samples"], state: EncodersState, ending: EndOfClip | None
    ) -> tuple[Float[Tensor, "batch both_dims ready"], EncodersState]:
        """Encode the next samples, any number; `ending` says that the clip ends with them."""
        acoustic, acoustic_state = self._encode_acoustic(x, state.acoustic, ending)
        acoustic = append(state.acoustic_features, acoustic)
        semantic, semantic_state = self._encode_semantic(x, state, ending)
        semantic = append(state.semantic_features, semantic)

        ready = min(semantic.shape[-1], acoustic.shape[-1])
        if ending is not None:
            assert ending.frames <= ready
            ready = ending.frames
        both = torch.cat([semantic[..., :ready], acoustic[..., :ready]], dim=1)
        pending = semantic[..., ready:].clone(), acoustic[..., ready:].clone()
        return both, EncodersState(semantic_state, acoustic_state, *pending)

    def _encode_acoustic(
        self, x: Tensor, state: SequentialState, ending: EndOfClip | None
    ) -> tuple[Tensor, SequentialState]:
        if ending is not None:
            samples = torch.tensor([ending.samples], device="cpu")
            _, padded = self.codec.input_lengths(samples, self.codec.frame_counts(samples))
            x = F.pad(x, (0, int(padded) - ending.samples))
        size = CHUNK_FRAMES * self.codec.frame_size
        return run_in_chunks(self.codec.encoder.layers.step, x, state, ending is not None, size)

    def _encode_semantic(self, x: Tensor, state: EncodersState, ending: EndOfClip | None) -> tuple[Tensor, Any]:
        remaining = None
        if ending is not None:
            samples = torch.tensor([ending.samples], device="cpu")
            padded, _ = self.codec.input_lengths(samples, self.codec.frame_counts(samples))
            x = F.pad(x, (0, int(padded) - ending.samples))
            remaining = ending.frames
            if state.semantic_features is not None:
                remaining -= state.semantic_features.shape[-1]
        return self.semantic.step(x, state.semantic, remaining)


@register_state
@dataclass(frozen=True)
class QuantizersState:
    """State of a clip's tokens between policy and codes.

    The tensors are about the pending tokens, and shorter than these where they depend on later tokens.

    Attributes:
        aggregators: States of the semantic and of the acoustic aggregator.
        stacks: States of the ConvNeXt stacks before and after the semantic quantizer.
        durations: Frames per token.
        semantic: Semantic codes.
        semantic_inputs: Inputs of the semantic quantizer for these codes.
        semantic_latents: After the second ConvNeXt stack.
        acoustic_features: Aggregated.
    """

    aggregators: tuple[AggregatorState, AggregatorState]
    stacks: tuple[tuple[Tensor | None, ...], tuple[Tensor | None, ...]]
    durations: Int[Tensor, "1 pending"]
    semantic: Int[Tensor, "1 ready"]
    semantic_inputs: Float[Tensor, "1 semantic_dim ready"]
    semantic_latents: Float[Tensor, "1 dim ready"]
    acoustic_features: Float[Tensor, "1 dim ready"]


class StreamedQuantizers:
    """`FlexiCodecNetwork.quantize` on a stream of tokens of one clip.

    Args:
        codec: Its aggregators, stacks and quantizers are used.
        num_codebooks: Acoustic codebooks, 0 for none.
        windows: For aggregators with global attention: frames of a window before those it outputs, behind them, and
            output.
        precision: Of the aggregators.

    Attributes:
        exact: The concatenated codes equal those for the whole clip.
    """

    def __init__(
        self,
        codec: FlexiCodecNetwork,
        num_codebooks: int,
        windows: tuple[int, int, int],
        precision: Precision = "float32",
    ) -> None:
        self.codec = codec
        self.num_codebooks = num_codebooks
        self.precision = precision
        self.semantic_dim = codec.semantic_encoder.dim
        self.dim = codec.config.acoustic.latent_dim
        # Windows in steps of the aggregators.
        steps = [2 * frames for frames in windows]  # an aggregator's step is a frame, or the query behind a token
        acoustic = codec.acoustic_aggregator if num_codebooks else MeanAggregator()  # not run then
        self.semantic_aggregator = StreamingAggregator(codec.semantic_aggregator, self.semantic_dim, *steps)
        self.acoustic_aggregator = StreamingAggregator(acoustic, self.dim, *steps)
        self.exact = self.semantic_aggregator.exact and self.acoustic_aggregator.exact

    def lookahead_tokens(self, frames_per_token: float) -> float:
        """Count the tokens behind a token that its codes depend on, where tokens last so many frames."""
        steps_per_token = frames_per_token + 1
        semantic = -(-self.semantic_aggregator.lookahead // steps_per_token) + self.codec.semantic_encoder_stack.reach
        if not self.num_codebooks:
            return semantic
        acoustic = -(-self.acoustic_aggregator.lookahead // steps_per_token)
        return max(semantic + self.codec.semantic_decoder_stack.reach, acoustic)

    def initial_state(self) -> QuantizersState:
        """Return the state before the first token."""
        device = self.codec.device
        # Nothing is pending.
        empty = torch.zeros(1, 0, dtype=torch.float32, device=device)
        empty_inputs = torch.zeros(1, self.codec.semantic_quantizer.dim, 0, dtype=torch.float32, device=device)
        empty_latents = torch.zeros(1, self.dim, 0, dtype=torch.float32, device=device)
        after = self.codec.semantic_decoder_stack.initial_state() if self.num_codebooks else ()
        return QuantizersState(
            (self.semantic_aggregator.initial_state(device), self.acoustic_aggregator.initial_state(device)),
            (self.codec.semantic_encoder_stack.initial_state(), after),
            durations=empty.long(),
            semantic=empty.long(),
            semantic_inputs=empty_inputs,
            semantic_latents=empty_latents,
            acoustic_features=empty_latents,
        )

    def step(
        self,
        frames: Float[Tensor, "1 both_dims frames"],
        durations: Int[Tensor, "1 tokens"],
        state: QuantizersState,
        last: bool,
    ) -> tuple[QuantizedTokens, QuantizersState]:
        """Quantize the next tokens, any number, given semantic and acoustic features of their frames side by side."""
        codec = self.codec
        semantic_state, acoustic_state = state.aggregators
        stack_before, stack_after = state.stacks

        # Semantic codes, as far as the frames behind the tokens are known.
        with autocast(self.precision, frames.device):
            merged, semantic_state = self.semantic_aggregator.step(
                frames[:, : self.semantic_dim], durations, semantic_state, last
            )
        refined, stack_before = codec.semantic_encoder_stack.step(merged.float(), stack_before, last)
        coded = self._quantize(codec.semantic_quantizer, refined, 1)
        semantic = append(state.semantic, coded.codes[:, 0])
        semantic_inputs = append(state.semantic_inputs, refined)

        # What is left for the acoustic codes: aggregated acoustic features minus semantic latents.
        semantic_latents = state.semantic_latents
        acoustic_features = state.acoustic_features
        ready = semantic.shape[1]
        residual = acoustic_features.new_zeros(1, self.dim, ready)
        if self.num_codebooks:
            latents, stack_after = codec.semantic_decoder_stack.step(coded.latents, stack_after, last)
            semantic_latents = append(semantic_latents, latents)
            with autocast(self.precision, frames.device):
                merged, acoustic_state = self.acoustic_aggregator.step(
                    frames[:, self.semantic_dim :], durations, acoustic_state, last
                )
            acoustic_features = append(acoustic_features, merged.float())
            ready = min(semantic_latents.shape[-1], acoustic_features.shape[-1])
            residual = acoustic_features[..., :ready] - semantic_latents[..., :ready]
        acoustic = self._quantize(codec.acoustic_quantizer, residual, self.num_codebooks)

        # The tokens whose codes are all known are returned, the others are pending.
        durations = append(state.durations, durations)
        state = QuantizersState(
            (semantic_state, acoustic_state),
            (stack_before, stack_after),
            durations=durations[:, ready:].clone(),
            semantic=semantic[:, ready:].clone(),
            semantic_inputs=semantic_inputs[..., ready:].clone(),
            semantic_latents=semantic_latents[..., ready:].clone(),
            acoustic_features=acoustic_features[..., ready:].clone(),
        )
        tokens = QuantizedTokens(
            durations[:, :ready], semantic[:, :ready], acoustic.codes, semantic_inputs[..., :ready], residual
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
    """State of a `FlexiCodecStreamingTokenizer` behind the encoders.

    Attributes:
        policy: State of the policy; None before the first frame.
        open_token: Frames of the token that has not ended.
        boundaries: Margins of the frames that are not out yet, as far as they are known.
        quantizers: State of the quantizers.
    """

    policy: Any
    open_token: Float[Tensor, "1 dim frames"]
    boundaries: Float[Tensor, "1 frames"]
    quantizers: QuantizersState


class FlexiCodecStreamingTokenizer:
    """Encoders, policy and quantizers of a FlexiCodec on a stream; see `StreamingTokenizer`.

    A token ends when the frame behind it is known to start another. That holds for one of `max_duration` frames too, so
    that the last token of a clip always comes with the clip's end.

    Args:
        codec: Its modules are used.
        settings: How to encode; the policy is causal.
        info: For `Tokens.info`.
    """

    frames_behind = 1  # the first frame of the next token

    def __init__(self, codec: FlexiCodecNetwork, settings: EncoderOptions, info: dict[str, Any]) -> None:
        self.codec = codec
        self.settings = settings
        self.policy = settings.policy
        windows = settings.windows
        self.encoders = StreamedEncoders(codec, windows)
        steps = windows.steps(codec.base_frame_rate)
        self.quantizers = StreamedQuantizers(codec, settings.num_codebooks, steps)
        self.exact = self.encoders.exact and self.quantizers.exact
        self.info = dict(info)
        if not self.exact:
            self.info.update(window_seconds=windows.seconds, overlap_seconds=windows.overlap_seconds)

    def latency(self, frames_per_token: float) -> float:
        """Add up the token, those its codes depend on, the first frame of the next, and the encoders' look-ahead."""
        tokens = 1 + self.quantizers.lookahead_tokens(frames_per_token)
        frames = tokens * frames_per_token + 1
        return frames / self.codec.base_frame_rate + self.encoders.lookahead_samples / self.codec.sample_rate

    def initial_encoders_state(self) -> EncodersState:
        """Return the encoders' state before the first sample."""
        return self.encoders.initial_state()

    def initial_tokenizer_state(self) -> TokenizerState:
        """Return the state of policy and quantizers before the first frame."""
        width = self.codec.semantic_encoder.dim + self.quantizers.dim
        empty = torch.zeros(1, width, 0, dtype=torch.float32, device=self.codec.device)
        return TokenizerState(None, empty, empty[:, 0], self.quantizers.initial_state())

    def encode_features(
        self, audio: Float[Tensor, "batch 1 samples"], state: EncodersState, ending: EndOfClip | None
    ) -> tuple[Float[Tensor, "batch both_dims frames"], EncodersState]:
        """Run both encoders on the next samples."""
        return self.encoders.step(audio, state, ending)

    def emit_tokens(
        self, features: Float[Tensor, "1 both_dims frames"], state: TokenizerState, last: bool
    ) -> tuple[dict[str, Any] | None, TokenizerState]:
        """Merge and quantize the next frames; returns arguments of `Tokens`, None for no token."""
        frames = torch.cat([state.open_token, features], dim=-1)
        starts, boundaries, policy = self._decide(frames, state)

        # Tokens that end: from one start to the next. All starts lie among the new frames, as there is one open token.
        num_frames = frames.shape[-1]
        edges = [0, *(starts.nonzero()[:, 0] + num_frames - len(starts)).tolist()]
        if last:
            edges.append(num_frames)
        end = edges[-1]
        durations = torch.tensor([edges], device=frames.device).diff(dim=1)

        # Quantize these; tokens whose codes depend on later ones are returned by a later call.
        coded, quantizers = self.quantizers.step(frames[..., :end], durations, state.quantizers, last)
        ready = int(coded.durations.sum())
        after = TokenizerState(policy, frames[..., end:].clone(), boundaries[:, ready:].clone(), quantizers)
        if not ready:
            return None, after
        return self._tokens(coded, boundaries[:, :ready]), after

    def pending_tokens(self, state: TokenizerState) -> int:
        """Count the tokens whose codes wait for later tokens."""
        return state.quantizers.durations.shape[1]

    def _decide(
        self, frames: Float[Tensor, "1 both_dims frames"], state: TokenizerState
    ) -> tuple[Tensor, Float[Tensor, "1 frames"], Any]:
        """Compare the new frames with those before them; returns which of the new ones start a token."""
        old = state.open_token.shape[-1]
        compared = frames[..., max(0, old - 1) :]
        width = self.codec.semantic_encoder.dim
        semantic = compared[:, :width]
        similarities = cosine_similarities(semantic)[0] if semantic.shape[-1] else semantic.new_zeros(0)
        # The policy's state is made with the first frame.
        policy = self.policy.initial_state() if state.policy is None and frames.shape[-1] else state.policy
        if not len(similarities):
            return torch.zeros(0, dtype=torch.bool, device=frames.device), state.boundaries, policy
        features = {}
        if getattr(self.policy, "uses_features", False):
            features["features"] = semantic
        if uses_acoustic(self.policy):
            features["acoustic"] = compared[:, width:]
        starts, margins, policy = self.policy.step(similarities, policy, self.settings.max_duration, **features)
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
