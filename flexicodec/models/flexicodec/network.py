"""The rooms a clip walks through (arXiv 2510.00981): listen, hear, merge, quantise, and back to sound.

Nothing here checks its input or knows `Tokens`, and gradients flow wherever something is trained: training composes
these, and so does the public model on top of them.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flexicodec.audio import pad_or_trim
from flexicodec.encoders.base import SanmConfig, SemanticEncoder, SSLConfig
from flexicodec.merging import unmerge
from flexicodec.merging.aggregators import MeanAggregator, QueryAggregator
from flexicodec.models.codec import Codec
from flexicodec.models.flexicodec.config import FlexiCodecConfig
from flexicodec.models.flexicodec.frame_resampler import resample_frames
from flexicodec.models.precision import Precision, autocast
from flexicodec.models.streaming.state import Windows
from flexicodec.nn.convnext import ConvNeXtStack
from flexicodec.nn.dac import DACDecoder, DACEncoder
from flexicodec.nn.transformer import Transformer, TransformerConfig
from flexicodec.quantize import Quantized
from flexicodec.weights import UnloadedModule

if TYPE_CHECKING:
    from flexicodec.encoders.sanm import SanmEncoder

_MIN_RELEASED_SAMPLES = 1360  # upstream's resize gives no frame below this


@dataclass(frozen=True, eq=False)
class Features:
    """Both encoders' view of a batch of clips on the frame grid: from these, tokens at any rate.

    Attributes:
        semantic: Features of the frozen ASR encoder; zero past each item's frames.
        acoustic: Features of the convolutional encoder; zero past each item's frames. None where it was not asked.
        similarities: Cosine of each frame's semantic features with the next frame's, 0 at padding.
        lengths: Valid frames of each item.
        audio_lengths: Valid samples of each item, at the codec's rate.
        windows: How clips longer than one window were heard, and will be tokenized; None: whole.
        precision: In which transformers worked, and will.
    """

    semantic: Float[Tensor, "batch semantic_dim frames"]
    acoustic: Float[Tensor, "batch acoustic_dim frames"] | None
    similarities: Float[Tensor, "batch frames-1"]
    lengths: Int[Tensor, " batch"]
    audio_lengths: Int[Tensor, " batch"]
    windows: Windows | None = None
    precision: Precision = "float32"


class FlexiCodecNetwork(Codec):
    """The parts of a FlexiCodec and the steps between them.

    Args:
        config: What to build.
        semantic_encoder: Takes the place of the config's: another frozen encoder, or a fake.
        name: What to call the model in token files.

    Raises:
        ValueError: The encoder does not go with the config.
    """

    sample_rate = 16_000

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
        acoustic, semantic, merging = config.acoustic, config.semantic, config.merging
        dim = acoustic.latent_dim

        if semantic_encoder is None:
            semantic_encoder = config.semantic_encoder.build()
        _check_encoder(semantic_encoder, config)
        self.semantic_encoder = semantic_encoder
        if isinstance(semantic_encoder, nn.Module):
            semantic_encoder.requires_grad_(False).eval()
        # a model that only decodes is loaded without its encoder
        unloaded = isinstance(semantic_encoder, UnloadedModule)
        semantic_dim = config.semantic_encoder.dim if unloaded else self.semantic_encoder.dim
        self.encoder = DACEncoder(acoustic.strides, acoustic.width, dim)
        self.semantic_aggregator = _aggregator(semantic_dim, merging.semantic_aggregator if merging else None)
        self.acoustic_aggregator = _aggregator(dim, merging.acoustic_aggregator if merging else None)
        self.semantic_encoder_stack = ConvNeXtStack(
            semantic.dim, semantic.num_layers, input_dim=semantic_dim, hidden_dim=semantic.hidden_dim
        )
        self.semantic_decoder_stack = ConvNeXtStack(
            semantic.dim, semantic.num_layers, output_dim=dim, hidden_dim=semantic.hidden_dim
        )
        # Quantisers hold constants that no checkpoint brings, so they are never on the meta device. Drawing the weights
        # that a checkpoint does bring must not move the global random state then.
        loading = self.device.type == "meta"
        with torch.device("cpu"), torch.random.fork_rng(devices=[], enabled=loading):
            self.semantic_quantizer = semantic.quantizer.build(semantic.dim)
            self.acoustic_quantizer = config.acoustic_quantizer.build(dim)
        self.bottleneck = Transformer(config.bottleneck, dim) if config.bottleneck else None
        self.decoder = DACDecoder(
            acoustic.strides[::-1], acoustic.decoder_width, dim, exact_length=config.geometry == "whole"
        )

    @property
    def num_codebooks(self) -> int:
        """Acoustic codebooks; the semantic one is not counted."""
        return self.acoustic_quantizer.num_codebooks

    @property
    def max_duration(self) -> int | None:
        """Most frames a token holds unless a call says otherwise; None for no cap."""
        return self.config.merging.max_duration if self.config.merging else 1

    def train(self, mode: bool = True) -> "FlexiCodecNetwork":
        """Set train or eval mode of everything but the frozen encoder, which stays in eval mode (no dropout)."""
        super().train(mode)
        if isinstance(self.semantic_encoder, nn.Module):
            self.semantic_encoder.eval()
        return self

    def frame_counts(self, audio_lengths: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """Count frames per item, by the geometry of the config."""
        if self.config.geometry == "whole":
            return -(-audio_lengths // self.frame_size)
        encoder = cast("SanmEncoder", self.semantic_encoder)  # no other goes with this geometry
        heard = encoder.front_end.num_frames(self.semantic_input_lengths(audio_lengths))
        return (heard.cpu().double() / 1.33333).long().to(heard.device)  # not every device has float64

    @torch.no_grad()
    def encode_semantic(
        self,
        audio: Float[Tensor, "batch samples"],
        audio_lengths: Int[Tensor, " batch"],
        frames: Int[Tensor, " batch"],
        precision: Precision = "float32",
    ) -> Float[Tensor, "batch semantic_dim frames"]:
        """Hear what is said: the frozen encoder's features, resized to the grid, in float32 and without gradients."""
        released = self.config.geometry == "released"
        audible = self.semantic_input_lengths(audio_lengths)
        with torch.autocast(audio.device.type, enabled=False):
            with autocast(precision, audio.device):
                heard, heard_lengths = self.semantic_encoder(pad_or_trim(audio.float(), int(audible.max())), audible)
            ratio = None if released else self.semantic_encoder.frame_rate / self.base_frame_rate
            return resample_frames(heard.float(), heard_lengths, frames, ratio)

    def hear(
        self, audio: Float[Tensor, "batch samples"], audio_lengths: Int[Tensor, " batch"], frames: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch acoustic_dim frames"]:
        """Hear how it sounds: the convolutional encoder on whole frames, the tail padded with zeros."""
        whole = self.acoustic_input_lengths(audio_lengths)
        padded = pad_or_trim(audio, int(whole.max()))[:, None]
        encode = self.encoder if torch.is_grad_enabled() else self.encoder.chunked
        features = encode(padded, whole)[..., : int(frames.max())]
        valid = torch.arange(features.shape[-1], device=audio.device) < frames[:, None]
        return features.masked_fill(~valid[:, None], 0.0)

    def quantize(
        self,
        features: Features,
        durations: Int[Tensor, "batch tokens"],
        num_codebooks: int | Int[Tensor, " batch"] | None = None,
        keeps_semantic: Bool[Tensor, " batch"] | None = None,
        margins: bool = False,
    ) -> tuple[Quantized, Quantized]:
        """Merge both streams and quantise: the semantic one, then what the acoustic one has left over it.

        Args:
            features: From both encoders.
            durations: Frames per token.
            num_codebooks: See `Quantizer.forward`.
            keeps_semantic: Items whose acoustic stream codes the rest over the semantic one; the others' codes all
                (semantic dropout). None means every item.
            margins: Tell also how far each code was from being another.

        Returns:
            Semantic result, whose latents [B, acoustic_dim, N] have been through the second ConvNeXt stack (left out,
            [B, 0, N], where the number of codebooks is 0 for all), and acoustic result.
        """
        assert bool((features.lengths == durations.sum(dim=1)).all()), (features.lengths, durations)
        meaning_alone = isinstance(num_codebooks, int) and num_codebooks == 0
        semantic = self.quantize_semantic(
            features.semantic, durations, features.precision, margins, for_sound=not meaning_alone
        )
        if meaning_alone:
            nothing = semantic.latents.new_zeros(len(durations), self.config.acoustic.latent_dim, durations.shape[1])
            return semantic, self.acoustic_quantizer(nothing, (durations > 0).sum(dim=1), 0, margins=margins)
        meaning = semantic.latents
        heard = self.acoustic_features(features, num_codebooks)
        known = meaning if keeps_semantic is None else meaning * keeps_semantic[:, None, None]
        return semantic, self.quantize_acoustic(heard, known, durations, num_codebooks, features.precision, margins)

    def quantize_semantic(
        self,
        semantic: Float[Tensor, "batch semantic_dim frames"],
        durations: Int[Tensor, "batch tokens"],
        precision: Precision = "float32",
        margins: bool = False,
        for_sound: bool = True,
    ) -> Quantized:
        """Merge and quantise what is said; the latents [B, acoustic_dim, N] have been through the second stack.

        Without acoustic codes to follow (`for_sound`) nobody needs these: [B, 0, N].
        """
        lengths = (durations > 0).sum(dim=1)
        with autocast(precision, semantic.device):
            merged = self.semantic_aggregator(semantic, durations).float()
        refined = self.semantic_encoder_stack(merged, lengths)
        quantized = self.semantic_quantizer(refined, lengths, margins=margins)
        if not for_sound:
            return replace(quantized, latents=quantized.latents[:, :0])
        return replace(quantized, latents=self.semantic_decoder_stack(quantized.latents, lengths))

    def quantize_acoustic(
        self,
        acoustic: Float[Tensor, "batch acoustic_dim frames"],
        known: Float[Tensor, "batch acoustic_dim tokens"],
        durations: Int[Tensor, "batch tokens"],
        num_codebooks: int | Int[Tensor, " batch"] | None = None,
        precision: Precision = "float32",
        margins: bool = False,
    ) -> Quantized:
        """Merge how it sounds, and quantise what that has over what is known of it."""
        with autocast(precision, acoustic.device):
            sound = self.acoustic_aggregator(acoustic, durations).float()
        return self.acoustic_quantizer(sound - known, (durations > 0).sum(dim=1), num_codebooks, margins=margins)

    def acoustic_features(
        self, features: Features, num_codebooks: int | Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch acoustic_dim frames"]:
        """Give the acoustic features, zeros where there are none and semantic tokens do without.

        Raises:
            ValueError: There are none, and acoustic codes are asked for.
        """
        if features.acoustic is not None:
            return features.acoustic
        if not isinstance(num_codebooks, int) or num_codebooks:
            raise ValueError("these features were made with acoustic=False, which does for num_codebooks=0 only")
        semantic = features.semantic
        return semantic.new_zeros(len(semantic), self.config.acoustic.latent_dim, semantic.shape[-1])

    def dequantize(
        self,
        semantic: Int[Tensor, "batch tokens"],
        acoustic: Int[Tensor, "batch codebooks tokens"],
        lengths: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch dim tokens"]:
        """Map codes back to latents, both streams added; zero past the valid tokens."""
        meaning = self.semantic_decoder_stack(self.semantic_quantizer.dequantize(semantic[:, None], lengths), lengths)
        return meaning + self.acoustic_quantizer.dequantize(acoustic, lengths)

    def smooth(
        self, latents: Float[Tensor, "batch dim tokens"], durations: Int[Tensor, "batch tokens"]
    ) -> tuple[Float[Tensor, "batch dim frames"], Int[Tensor, " batch"]]:
        """Unmerge and smooth: one vector per frame, and how many frames of each item count."""
        frames, lengths = unmerge(latents, durations), durations.sum(dim=1)
        return (frames if self.bottleneck is None else self.bottleneck(frames, lengths)), lengths

    def sound(
        self, frames: Float[Tensor, "batch dim frames"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch samples"], Int[Tensor, " batch"]]:
        """Decode smoothed frames; also says how many samples of each item are sound."""
        decode = self.decoder if torch.is_grad_enabled() else self.decoder.chunked
        return decode(frames, lengths)[:, 0], self.decoder.layers.output_length(lengths)

    def decode_latents(
        self, latents: Float[Tensor, "batch dim tokens"], durations: Int[Tensor, "batch tokens"]
    ) -> tuple[Float[Tensor, "batch samples"], Int[Tensor, " batch"]]:
        """Unmerge, smooth and decode."""
        return self.sound(*self.smooth(latents, durations))

    def semantic_input_lengths(self, audio_lengths: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """Count the samples that the semantic encoder hears of each item, zeros behind its own."""
        if self.config.geometry == "whole":
            return self.frame_counts(audio_lengths) * self.frame_size
        return audio_lengths.clamp(min=_MIN_RELEASED_SAMPLES)

    def acoustic_input_lengths(self, audio_lengths: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """Count the samples that the acoustic encoder hears of each item: whole frames, zeros behind its own."""
        least = torch.maximum(audio_lengths, self.frame_counts(audio_lengths) * self.frame_size)
        return -(-least // self.frame_size) * self.frame_size


def _check_encoder(encoder: SemanticEncoder, config: FlexiCodecConfig) -> None:
    """Refuse an encoder that contradicts the config."""
    if isinstance(encoder, UnloadedModule):
        return
    built_from = getattr(encoder, "config", None)
    if config.geometry == "released" and not isinstance(built_from, SanmConfig):
        raise ValueError(
            f"geometry 'released' counts the frames of SAN-M and cannot go with a {type(encoder).__name__}; "
            "choose geometry 'whole'"
        )
    if isinstance(built_from, SanmConfig | SSLConfig) and built_from != config.semantic_encoder:
        raise ValueError(
            f"the encoder was built from {built_from}, but the config has semantic_encoder="
            f"{config.semantic_encoder}; make them the same"
        )


def _aggregator(dim: int, config: TransformerConfig | None) -> nn.Module:
    return QueryAggregator(dim, config) if config else MeanAggregator()
