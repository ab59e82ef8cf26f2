"""The parts of FlexiCodec (arXiv 2510.00981) and the differentiable steps between them.

    audio --encode_semantic--> frames --merge, quantize_semantic--> semantic codes and latents
    audio --encode_acoustic--> frames --merge, quantize_acoustic--> acoustic codes of the rest over the semantic latents
    codes --dequantize--> latents --unmerge--> frames --smooth--> frames --decode_frames--> audio

Nothing here validates its input or knows `Tokens`. Training composes these steps, and so does the public model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flexicodec.encoders.base import EncoderConfig, SanmConfig, SemanticEncoder
from flexicodec.merging.aggregators import MeanAggregator, QueryAggregator
from flexicodec.merging.durations import Repeater
from flexicodec.merging.policies import MergingPolicy, uses_acoustic
from flexicodec.merging.positions import PositionAggregator, PositionConfig, PositionUnmerger
from flexicodec.merging.registry import policy_text
from flexicodec.models.codec import Codec, Precision, autocast
from flexicodec.models.flexicodec.config import FlexiCodecConfig, MergingConfig
from flexicodec.models.flexicodec.frame_resampler import resample_frames
from flexicodec.models.streaming.state import Windows
from flexicodec.nn.convnext import ConvNeXtStack
from flexicodec.nn.dac import ConvStack
from flexicodec.nn.masking import valid_steps, zero_padding
from flexicodec.nn.spectral import SAMPLE_RATE
from flexicodec.nn.transformer import Transformer, TransformerConfig
from flexicodec.quantize import Quantized
from flexicodec.weights import UnloadedModule

if TYPE_CHECKING:
    from flexicodec.encoders.sanm import SanmEncoder

# Upstream's resampling gives no frame for clips of fewer samples.
_MIN_RELEASED_SAMPLES = 1360


@dataclass(frozen=True, eq=False)
class Features:
    """Features of both encoders for a batch of clips, on the frame grid: the input of `tokenize`, at any rate.

    Attributes:
        semantic: Of the frozen encoder; zero past each item's frames.
        acoustic: Of the convolutional encoder; zero past each item's frames. None with `acoustic=False`.
        similarities: Cosine similarity of each frame's semantic features and the next frame's; 0 at padding.
        lengths: Valid frames per item.
        audio_lengths: Valid samples per item, at the codec's rate.
        windows: How clips longer than one window were encoded, and will be tokenized; None: as a whole.
        precision: Of the transformers.
    """

    semantic: Float[Tensor, "batch semantic_dim frames"]
    acoustic: Float[Tensor, "batch acoustic_dim frames"] | None
    similarities: Float[Tensor, "batch frames-1"]
    lengths: Int[Tensor, " batch"]
    audio_lengths: Int[Tensor, " batch"]
    windows: Windows | None = None
    precision: Precision = "float32"

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> "Features":
        """Return one clip as a batch of one, without padding."""
        row = slice(i, i + 1)
        frames = int(self.lengths[i])
        return Features(
            semantic=self.semantic[row, :, :frames],
            acoustic=None if self.acoustic is None else self.acoustic[row, :, :frames],
            similarities=self.similarities[row, : frames - 1],
            lengths=self.lengths[row],
            audio_lengths=self.audio_lengths[row],
            windows=self.windows,
            precision=self.precision,
        )

    def for_policy(self, policy: MergingPolicy) -> dict[str, Tensor]:
        """Return the features that a policy compares, as arguments of its call.

        Raises:
            ValueError: It compares acoustic features too, and these were made with `acoustic=False`.
        """
        if not uses_acoustic(policy):
            return {"features": self.semantic}
        if self.acoustic is None:
            raise ValueError(
                f"policy {policy_text(policy)!r} compares acoustic features too, but these were made with "
                "acoustic=False; leave that out, or choose a policy that does without, such as 'variance'"
            )
        return {"features": self.semantic, "acoustic": self.acoustic}

    @staticmethod
    def cat(clips: "Sequence[Features]") -> "Features":
        """Join clips into one padded batch."""
        acoustic = [clip.acoustic for clip in clips if clip.acoustic is not None]
        return replace(
            clips[0],
            semantic=pad_and_cat([clip.semantic for clip in clips]),
            acoustic=pad_and_cat(acoustic) if acoustic else None,
            similarities=pad_and_cat([clip.similarities for clip in clips]),
            lengths=torch.cat([clip.lengths for clip in clips]),
            audio_lengths=torch.cat([clip.audio_lengths for clip in clips]),
        )


@dataclass(frozen=True, eq=False)
class QuantizedTokens:
    """Codes of some tokens, and what was quantized.

    Attributes:
        durations: Frames per token.
        semantic: Semantic codes.
        acoustic: Acoustic codes.
        semantic_inputs: Inputs of the semantic quantizer; None from exported graphs, and so for the acoustic ones.
        acoustic_inputs: Inputs of the acoustic quantizer: features less the semantic latents.
    """

    durations: Int[Tensor, "batch tokens"]
    semantic: Int[Tensor, "batch tokens"]
    acoustic: Int[Tensor, "batch codebooks tokens"]
    semantic_inputs: Float[Tensor, "batch semantic_dim tokens"] | None
    acoustic_inputs: Float[Tensor, "batch acoustic_dim tokens"] | None


def pad_and_cat(clips: Sequence[Tensor], value: float = 0.0) -> Tensor:
    """Join along the batch what differs in the length of its last axis, padded with a value."""
    longest = max(clip.shape[-1] for clip in clips)
    return torch.cat([F.pad(clip, (0, longest - clip.shape[-1]), value=value) for clip in clips])


class FlexiCodecNetwork(Codec):
    """The parts of a FlexiCodec and the steps between them.

    Args:
        config: What to build.
        semantic_encoder: Replaces the config's frozen encoder (a fake in tests, say).
        name: Name of the model in token files.

    Raises:
        ValueError: The encoder does not fit the config.
    """

    sample_rate = SAMPLE_RATE

    def __init__(
        self,
        config: FlexiCodecConfig | None = None,
        semantic_encoder: SemanticEncoder | None = None,
        name: str | None = None,
    ):
        super().__init__()
        self.config = config = config or FlexiCodecConfig()
        self.name = name
        self.frame_size = config.frame_size
        acoustic = config.acoustic
        semantic = config.semantic
        merging = config.merging
        dim = acoustic.latent_dim

        # Encoders
        if semantic_encoder is None:
            semantic_encoder = config.semantic_encoder.build()
        _check_encoder(semantic_encoder, config)
        self.semantic_encoder = semantic_encoder
        if isinstance(semantic_encoder, nn.Module):
            semantic_encoder.requires_grad_(False).eval()
        # a model that only decodes is loaded without its encoder
        unloaded = isinstance(semantic_encoder, UnloadedModule)
        semantic_dim = config.semantic_encoder.dim if unloaded else self.semantic_encoder.dim
        self.encoder: ConvStack = acoustic.build_encoder(self.sample_rate)

        # Merging and quantization
        self.semantic_aggregator = _aggregator(semantic_dim, merging.semantic_aggregator if merging else None)
        self.acoustic_aggregator = _aggregator(dim, merging.acoustic_aggregator if merging else None)
        self.semantic_encoder_stack = ConvNeXtStack(
            semantic.dim, semantic.num_layers, input_dim=semantic_dim, hidden_dim=semantic.hidden_dim
        )
        self.semantic_decoder_stack = ConvNeXtStack(
            semantic.dim, semantic.num_layers, output_dim=dim, hidden_dim=semantic.hidden_dim
        )
        # Quantizers hold constants that no checkpoint has, so they are never built on the meta device. Initialising
        # weights that a checkpoint replaces must not advance the global random state.
        loading = self.device.type == "meta"
        with torch.device("cpu"), torch.random.fork_rng(devices=[], enabled=loading):
            self.semantic_quantizer = semantic.quantizer.build(semantic.dim)
            self.acoustic_quantizer = config.acoustic_quantizer.build(dim)

        # Decoder
        self.unmerger = _unmerger(dim, merging)
        self.bottleneck = Transformer(config.bottleneck, dim) if config.bottleneck else None
        self.decoder: ConvStack = acoustic.build_decoder(exact_length=config.geometry == "whole")

    @property
    def output_sample_rate(self) -> int:
        """Hz of decoded audio."""
        return self.config.output_sample_rate

    @property
    def num_codebooks(self) -> int:
        """Acoustic codebooks; the semantic one is not counted."""
        return self.acoustic_quantizer.num_codebooks

    @property
    def max_duration(self) -> int | None:
        """Default limit on the frames of a token; None for no limit."""
        return self.config.merging.max_duration if self.config.merging else 1

    def train(self, mode: bool = True) -> "FlexiCodecNetwork":
        """Set train or eval mode of everything but the frozen encoder, which stays in eval mode (no dropout)."""
        super().train(mode)
        if isinstance(self.semantic_encoder, nn.Module):
            self.semantic_encoder.eval()
        return self

    # ---------------------------------------------------------------------------------------------------------- lengths

    def frame_counts(self, audio_lengths: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """Count the frames of clips of so many samples, by the geometry of the config."""
        if self.config.geometry == "whole":
            return -(-audio_lengths // self.frame_size)
        encoder = cast("SanmEncoder", self.semantic_encoder)  # the only one that goes with this geometry
        frames = encoder.front_end.num_frames(audio_lengths.clamp(min=_MIN_RELEASED_SAMPLES))
        return (frames.cpu().double() / 1.33333).long().to(frames.device)  # not every device has float64

    def input_lengths(
        self, audio_lengths: Int[Tensor, " batch"], frames: Int[Tensor, " batch"]
    ) -> tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]]:
        """Count the samples of each item that go into the semantic and the acoustic encoder, zeros behind it included.

        Args:
            audio_lengths: Samples of each item.
            frames: Their `frame_counts`.
        """
        # The acoustic encoder takes whole frames; those that the released geometry drops are computed all the same.
        covered = torch.maximum(audio_lengths, frames * self.frame_size)
        acoustic = -(-covered // self.frame_size) * self.frame_size
        semantic = acoustic if self.config.geometry == "whole" else audio_lengths.clamp(min=_MIN_RELEASED_SAMPLES)
        return semantic, acoustic

    # -------------------------------------------------------------------------------------------------------- encoding

    @torch.no_grad()
    def encode_semantic(
        self,
        audio: Float[Tensor, "batch samples"],
        audio_lengths: Int[Tensor, " batch"],
        frames: Int[Tensor, " batch"],
        precision: Precision = "float32",
    ) -> Float[Tensor, "batch semantic_dim frames"]:
        """Compute features of the frozen encoder, resampled to the frame grid, in float32 and without gradients."""
        lengths, _ = self.input_lengths(audio_lengths, frames)
        padded = F.pad(audio.float(), (0, int(lengths.max()) - audio.shape[-1]))  # a negative number cuts
        with torch.autocast(audio.device.type, enabled=False):
            with autocast(precision, audio.device):
                features, feature_lengths = self.semantic_encoder(padded, lengths)
            # The released model stretches each clip's features to its frame count, ours go by the two rates.
            ratio = None
            if self.config.geometry == "whole":
                ratio = self.semantic_encoder.frame_rate / self.base_frame_rate
            return resample_frames(features.float(), feature_lengths, frames, ratio)

    def encode_acoustic(
        self, audio: Float[Tensor, "batch samples"], audio_lengths: Int[Tensor, " batch"], frames: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch acoustic_dim frames"]:
        """Compute features of the acoustic encoder; the last frame is filled up with zeros."""
        _, lengths = self.input_lengths(audio_lengths, frames)
        padded = F.pad(audio, (0, int(lengths.max()) - audio.shape[-1]))[:, None]
        encode = self.encoder if torch.is_grad_enabled() else self.encoder.chunked
        features = encode(padded, lengths)[..., : int(frames.max())]
        return zero_padding(features, valid_steps(frames, features.shape[-1]))

    def quantize(
        self,
        features: Features,
        durations: Int[Tensor, "batch tokens"],
        num_codebooks: int | Int[Tensor, " batch"] | None = None,
        keeps_semantic: Bool[Tensor, " batch"] | None = None,
    ) -> tuple[Quantized, Quantized]:
        """Merge and quantize both streams: the semantic one, then what is left of the acoustic one.

        Args:
            features: Of both encoders.
            durations: Frames per token.
            num_codebooks: Acoustic ones; see `Quantizer.forward`.
            keeps_semantic: Items whose acoustic stream codes the rest over the semantic latents; the others' codes
                everything (semantic dropout). None: every item.

        Returns:
            Semantic result, with the latents [B, acoustic_dim, N] of the second ConvNeXt stack (left out, [B, 0, N], if
            `num_codebooks` is 0), and acoustic result.

        Raises:
            ValueError: Acoustic codes of features made with `acoustic=False`.
        """
        assert bool((features.lengths == durations.sum(dim=1)).all()), (features.lengths, durations)
        semantic_only = isinstance(num_codebooks, int) and num_codebooks == 0
        semantic = self.quantize_semantic(
            features.semantic, durations, features.precision, with_latents=not semantic_only
        )
        if semantic_only:
            empty = semantic.latents.new_zeros(len(durations), self.config.acoustic.latent_dim, durations.shape[1])
            return semantic, self.acoustic_quantizer(empty, (durations > 0).sum(dim=1), 0)
        if features.acoustic is None:
            raise ValueError("these features were made with acoustic=False; they only serve num_codebooks=0")
        # The acoustic codes are those of what the semantic latents leave over.
        known = semantic.latents
        if keeps_semantic is not None:
            known = known * keeps_semantic[:, None, None]
        acoustic = self.quantize_acoustic(features.acoustic, known, durations, num_codebooks, features.precision)
        return semantic, acoustic

    def quantize_semantic(
        self,
        semantic: Float[Tensor, "batch semantic_dim frames"],
        durations: Int[Tensor, "batch tokens"],
        precision: Precision = "float32",
        with_latents: bool = True,
    ) -> Quantized:
        """Merge and quantize the semantic stream.

        The latents [B, acoustic_dim, N] have been through the second ConvNeXt stack; [B, 0, N] without `with_latents`,
        since they only serve the acoustic stream.
        """
        # The transformer of the aggregator works in the precision asked for, codes are chosen in float32.
        lengths = (durations > 0).sum(dim=1)
        with autocast(precision, semantic.device):
            merged = self.semantic_aggregator(semantic, durations).float()
        refined = self.semantic_encoder_stack(merged, lengths)
        quantized = self.semantic_quantizer(refined, lengths)
        if with_latents:
            latents = self.semantic_decoder_stack(quantized.latents, lengths)
        else:
            latents = quantized.latents[:, :0]
        return replace(quantized, latents=latents)

    def quantize_acoustic(
        self,
        acoustic: Float[Tensor, "batch acoustic_dim frames"],
        semantic_latents: Float[Tensor, "batch acoustic_dim tokens"],
        durations: Int[Tensor, "batch tokens"],
        num_codebooks: int | Int[Tensor, " batch"] | None = None,
        precision: Precision = "float32",
    ) -> Quantized:
        """Merge the acoustic stream and quantize its difference from the semantic latents."""
        with autocast(precision, acoustic.device):
            merged = self.acoustic_aggregator(acoustic, durations).float()
        return self.acoustic_quantizer(merged - semantic_latents, (durations > 0).sum(dim=1), num_codebooks)

    def token_margins(
        self, tokens: QuantizedTokens
    ) -> tuple[Float[Tensor, "batch tokens"], Float[Tensor, "batch codebooks tokens"]]:
        """Compute how far semantic and acoustic codes were from being others; see `Margins`."""
        assert tokens.semantic_inputs is not None
        assert tokens.acoustic_inputs is not None
        lengths = (tokens.durations > 0).sum(dim=1)
        semantic = self.semantic_quantizer.margins(tokens.semantic_inputs, tokens.semantic[:, None], lengths)
        return semantic[:, 0], self.acoustic_quantizer.margins(tokens.acoustic_inputs, tokens.acoustic, lengths)

    # -------------------------------------------------------------------------------------------------------- decoding

    def dequantize(
        self,
        semantic: Int[Tensor, "batch tokens"],
        acoustic: Int[Tensor, "batch codebooks tokens"],
        lengths: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch dim tokens"]:
        """Map codes back to latents, the sum of both streams; zero past the valid tokens."""
        latents = self.semantic_quantizer.dequantize(semantic[:, None], lengths)
        return self.semantic_decoder_stack(latents, lengths) + self.acoustic_quantizer.dequantize(acoustic, lengths)

    def smooth(
        self, latents: Float[Tensor, "batch dim tokens"], durations: Int[Tensor, "batch tokens"]
    ) -> tuple[Float[Tensor, "batch dim frames"], Int[Tensor, " batch"]]:
        """Unmerge latents and run the bottleneck transformer; returns one vector per frame, and the valid frames."""
        return self.smooth_frames(self.unmerger(latents, durations), durations.sum(dim=1))

    def smooth_frames(
        self, frames: Float[Tensor, "batch dim frames"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch dim frames"], Int[Tensor, " batch"]]:
        """Run the bottleneck transformer on unmerged frames; returns also the valid frames."""
        return (frames if self.bottleneck is None else self.bottleneck(frames, lengths)), lengths

    def decode_frames(
        self, frames: Float[Tensor, "batch dim frames"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch samples"], Int[Tensor, " batch"]]:
        """Decode smoothed frames to audio; returns also the valid samples of each item."""
        # Gradients need the whole clip; without them, chunks need less memory.
        decode = self.decoder if torch.is_grad_enabled() else self.decoder.chunked
        return decode(frames, lengths)[:, 0], self.decoder.layers.output_length(lengths)

    def decode_latents(
        self, latents: Float[Tensor, "batch dim tokens"], durations: Int[Tensor, "batch tokens"]
    ) -> tuple[Float[Tensor, "batch samples"], Int[Tensor, " batch"]]:
        """Unmerge, smooth and decode."""
        return self.decode_frames(*self.smooth(latents, durations))


def _check_encoder(encoder: SemanticEncoder, config: FlexiCodecConfig) -> None:
    if isinstance(encoder, UnloadedModule):
        return
    built_from = getattr(encoder, "config", None)
    if config.geometry == "released" and not isinstance(built_from, SanmConfig):
        raise ValueError(
            f"geometry 'released' counts the frames of SAN-M and cannot go with a {type(encoder).__name__}; "
            "choose geometry 'whole'"
        )
    if isinstance(built_from, EncoderConfig) and built_from != config.semantic_encoder:
        raise ValueError(
            f"the encoder was built from {built_from}, but the config has semantic_encoder="
            f"{config.semantic_encoder}; make them the same"
        )


def _aggregator(dim: int, config: TransformerConfig | PositionConfig | None) -> nn.Module:
    if isinstance(config, PositionConfig):
        return PositionAggregator(dim, config)
    return QueryAggregator(dim, config) if config else MeanAggregator()


def _unmerger(dim: int, config: MergingConfig | None) -> nn.Module:
    if config is not None:
        for aggregator in (config.acoustic_aggregator, config.semantic_aggregator):
            if isinstance(aggregator, PositionConfig) and aggregator.unmerge_dim is not None:
                return PositionUnmerger(dim, aggregator.unmerge_dim, aggregator.positions)
    return Repeater()
