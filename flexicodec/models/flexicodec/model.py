"""FlexiCodec (arXiv 2510.00981): frames that mean the same share a token, coded by a semantic and an acoustic stream.

The upper half of the class is what users call; the rooms below it have no checks and build gradients, so that training
composes them.
"""

from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flexicodec.audio import Channels, as_batch
from flexicodec.blocks.conv_codec import ConvDecoder, ConvEncoder
from flexicodec.blocks.convnext import ConvNeXtStack
from flexicodec.blocks.transformer import Transformer, TransformerConfig
from flexicodec.config import to_dict
from flexicodec.merging import (
    POLICIES,
    ExactRate,
    MergingPolicy,
    Threshold,
    check_frame_rate,
    cosine_similarities,
    unmerge,
    validate_durations,
)
from flexicodec.merging.aggregate import MeanAggregator, QueryAggregator
from flexicodec.merging.durations import check_max_duration
from flexicodec.models.codec import Codec
from flexicodec.models.flexicodec.config import FlexiCodecConfig
from flexicodec.models.flexicodec.resize import resize
from flexicodec.models.flexicodec.semantic import SanmEncoder, SemanticEncoder
from flexicodec.quantize import Quantized
from flexicodec.tokens import TokenFormat, Tokens

MODEL_DEFAULT: Any = object()  # "what the model was trained with", where None already means something


@dataclass(frozen=True, eq=False)
class Features:
    """Both encoders' view of a batch of clips on the frame grid: from these, tokens at any rate.

    Attributes:
        semantic: Features of the frozen ASR encoder; zero past each item's frames.
        acoustic: Features of the convolutional encoder; zero past each item's frames.
        similarities: Cosine of each frame's semantic features with the next frame's, 0 at padding.
        lengths: Valid frames of each item.
        audio_lengths: Valid samples of each item, at the codec's rate.
    """

    semantic: Float[Tensor, "batch semantic_dim frames"]
    acoustic: Float[Tensor, "batch acoustic_dim frames"]
    similarities: Float[Tensor, "batch frames-1"]
    lengths: Int[Tensor, " batch"]
    audio_lengths: Int[Tensor, " batch"]


class FlexiCodec(Codec):
    """A dual-stream codec with a dynamic frame rate.

    Args:
        config: What to build; the default is the released architecture with random weights.
        semantic_encoder: Takes the place of the SAN-M encoder of the config: another frozen encoder, or a fake.
        name: What to call the model in token files.

    Raises:
        ValueError: The encoder does not go with the config.
    """

    model_type = "flexicodec"
    sample_rate = 16_000
    load_report: Any = None  # of a model that was converted: what was left out, see checkpoint.LoadReport
    token_modules = (
        "semantic_encoder",
        "encoder",
        "semantic_aggregator",
        "acoustic_aggregator",
        "semantic_encoder_stack",
        "semantic_quantizer",
        "semantic_decoder_stack",
        "acoustic_quantizer",
    )

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
            semantic_encoder = SanmEncoder(config.semantic_encoder)
        _check_encoder(semantic_encoder, config)
        self.semantic_encoder = semantic_encoder
        if isinstance(semantic_encoder, nn.Module):
            semantic_encoder.requires_grad_(False).eval()
        semantic_dim = self.semantic_encoder.dim
        self.encoder = ConvEncoder(acoustic.strides, acoustic.width, dim)
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
        self.decoder = ConvDecoder(
            acoustic.strides[::-1], acoustic.decoder_width, dim, exact_length=config.geometry == "whole"
        )

    # ------------------------------------------------------------------------------------------------------ public

    @property
    def num_codebooks(self) -> int:
        """Acoustic codebooks; the semantic one is not counted."""
        return self.acoustic_quantizer.num_codebooks

    @property
    def max_duration(self) -> int | None:
        """Most frames a token holds unless a call says otherwise; None for no cap."""
        return self.config.merging.max_duration if self.config.merging else 1

    @property
    def format(self) -> TokenFormat:
        """What this model's tokens look like."""
        return TokenFormat(
            sample_rate=self.sample_rate,
            frame_size=self.frame_size,
            semantic_codebook_size=self.semantic_quantizer.codebook_size,
            acoustic_codebook_size=self.acoustic_quantizer.codebook_size,
            max_duration=self.max_duration,
            fingerprint=self.fingerprint,
            model=self.name,
        )

    def config_dict(self) -> dict[str, Any]:
        """The resolved config as JSON-able values."""
        return to_dict(self.config)

    def train(self, mode: bool = True) -> "FlexiCodec":
        """Set train or eval mode of everything but the frozen encoder, which stays in eval mode (no dropout)."""
        super().train(mode)
        if isinstance(self.semantic_encoder, nn.Module):
            self.semantic_encoder.eval()
        return self

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> Path:
        """See `Codec.save_pretrained`.

        Raises:
            ValueError: The semantic encoder came from outside, so no config could build it again.
        """
        if not isinstance(self.semantic_encoder, SanmEncoder):
            raise ValueError(
                f"this model listens with a {type(self.semantic_encoder).__name__} that was passed in, which a config "
                "cannot describe; save its state_dict() instead"
            )
        return super().save_pretrained(folder, dtype)

    def token_settings(self) -> dict[str, Any]:
        """The config without what concerns decoding alone, and without the threshold that calls start from."""
        settings = self.config_dict()
        settings.pop("bottleneck")
        settings["acoustic"].pop("decoder_width")
        if settings["merging"]:
            settings["merging"] = {k: v for k, v in settings["merging"].items() if not k.startswith("threshold")}
        return settings

    def num_frames(self, samples: int | Int[Tensor, "*clips"]) -> int | Int[Tensor, "*clips"]:
        """Count the frames of clips of so many samples: what their `durations` must sum to.

        Raises:
            ValueError: No whole number of samples, or none at all.
        """
        lengths = torch.as_tensor(samples)
        if lengths.dtype == torch.bool or lengths.is_floating_point() or bool((lengths < 1).any()):
            raise ValueError(f"samples is {samples!r}; expected a whole number, 1 or more (not seconds)")
        counts = self.frame_counts(lengths.reshape(-1)).view(lengths.shape)
        return counts if isinstance(samples, Tensor) else int(counts)

    @torch.no_grad()
    def features(
        self, audio: Any, lengths: Any = None, *, sample_rate: int | None = None, channels: Channels | None = None
    ) -> Features:
        """Run both encoders once; `tokenize` then makes tokens at any number of rates.

        Args:
            audio: [S] or [B, S], tensor or array, float in [-1, 1] or int16; [B, C, S] where `channels` is given.
            lengths: Valid samples of each item, of the audio as passed; None means all.
            sample_rate: Hz of the audio, resampled where it differs from the codec's; None means the codec's.
            channels: "mix" averages the channels of [B, C, S]; "error" refuses more than one.

        Raises:
            ValueError: Empty audio, NaN or Inf, wrong rank, or lengths that do not fit.
        """
        batch, audio_lengths = as_batch(
            audio,
            lengths,
            sample_rate=sample_rate,
            target_sample_rate=self.sample_rate,
            channels=channels or "error",
            device=self.device,
        )
        frames = self.frame_counts(audio_lengths)
        semantic = self.listen(batch, audio_lengths, frames)
        acoustic = self.hear(batch, audio_lengths, frames)
        return Features(semantic, acoustic, cosine_similarities(semantic, frames), frames, audio_lengths)

    @torch.no_grad()
    def tokenize(
        self,
        features: Features,
        *,
        threshold: Any = None,
        frame_rate: Any = None,
        durations: Any = None,
        policy: str | MergingPolicy | None = None,
        max_duration: int | None = MODEL_DEFAULT,
        num_codebooks: int | None = None,
    ) -> Tokens:
        """Merge and quantise features at one choice of rate.

        Args:
            features: From `features`.
            threshold: tau in [-1, 1], one number or one per item: neighbours more similar than this are merged; 1
                never merges. The model's own is used where nothing is chosen.
            frame_rate: Tokens per second, one number or one per item, met as closely as whole tokens allow.
            durations: Frames per token [B, N] from elsewhere, padded with 0; see `num_frames`.
            policy: How to spend `frame_rate`: "rate" (default) cuts where neighbours differ most, "uniform" cuts
                evenly, "variance" minimises the variance within tokens. Or any `MergingPolicy`, which stands alone.
            max_duration: Most frames per token; None for no cap. The model's own by default.
            num_codebooks: Acoustic codebooks, 0 for semantic tokens only; None for all.

        Raises:
            ValueError: More than one choice of rate, or a value outside its range.
        """
        cap, count = self._cap(max_duration), self._count(num_codebooks)
        rule, info = self._rule(threshold, frame_rate, durations, policy, cap)
        if rule is not None:
            seconds = features.audio_lengths.cpu().double() / self.sample_rate
            durations = rule(
                features.similarities, features.lengths, seconds=seconds, features=features.semantic, max_duration=cap
            )
        durations = validate_durations(durations, features.lengths, cap)
        semantic, acoustic = self.quantize(features, durations, count)
        return Tokens(
            semantic=semantic.codes[:, 0],
            acoustic=acoustic.codes,
            durations=durations,
            audio_lengths=features.audio_lengths,
            format=replace(self.format, max_duration=cap),
            info=info,
        )

    def encode(  # type: ignore[override]
        self,
        audio: Any,
        lengths: Any = None,
        *,
        threshold: Any = None,
        frame_rate: Any = None,
        durations: Any = None,
        policy: str | MergingPolicy | None = None,
        max_duration: int | None = MODEL_DEFAULT,
        num_codebooks: int | None = None,
        sample_rate: int | None = None,
        channels: Channels | None = None,
    ) -> Tokens:
        """Turn audio into tokens: `tokenize(features(audio, ...), ...)`, whose arguments these are."""
        self._rule(threshold, frame_rate, durations, policy, self._cap(max_duration))  # refuse before the work
        self._count(num_codebooks)
        features = self.features(audio, lengths, sample_rate=sample_rate, channels=channels)
        return self.tokenize(
            features,
            threshold=threshold,
            frame_rate=frame_rate,
            durations=durations,
            policy=policy,
            max_duration=max_duration,
            num_codebooks=num_codebooks,
        )

    @torch.no_grad()
    def decode(self, tokens: Tokens) -> Float[Tensor, "batch samples"]:
        """Turn tokens into audio.

        Returns:
            [B, S] at `sample_rate`, zero past each clip's `audio_lengths`. Where these are unknown, a clip is as long
            as its frames.

        Raises:
            ValueError: The tokens belong to another model, or hold codes this one lacks.
        """
        latents = self.embed(tokens)
        tokens = tokens.to(self.device)
        audio, lengths = self.synthesize(latents, tokens.durations)
        wanted = lengths if tokens.audio_lengths is None else tokens.audio_lengths
        samples = int(wanted.max())
        audio = nn.functional.pad(audio, (0, max(0, samples - audio.shape[1])))[:, :samples]
        inside = torch.arange(samples, device=audio.device) < torch.minimum(wanted, lengths)[:, None]
        return audio.masked_fill(~inside, 0.0)

    @torch.no_grad()
    def embed(self, tokens: Tokens) -> Float[Tensor, "batch dim tokens"]:
        """Look up one vector per token, semantic and acoustic added: what the decoder hears, zero at padding.

        Raises:
            ValueError: As for `decode`.
        """
        self.check_tokens(tokens)
        tokens = tokens.to(self.device)
        assert tokens.semantic is not None
        return self.lookup(tokens.semantic, tokens.acoustic, tokens.token_lengths)

    # ------------------------------------------------------------------------------------------------------- rooms

    def frame_counts(self, audio_lengths: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """Count frames per item, by the geometry of the config."""
        if self.config.geometry == "whole":
            return -(-audio_lengths // self.frame_size)
        assert isinstance(self.semantic_encoder, SanmEncoder)
        heard = self.semantic_encoder.front_end.num_frames(self._audible(audio_lengths))
        return (heard.double() / 1.33333).long()

    @torch.no_grad()
    def listen(
        self, audio: Float[Tensor, "batch samples"], audio_lengths: Int[Tensor, " batch"], frames: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch semantic_dim frames"]:
        """Hear what is said: the frozen encoder's features, resized to the grid. Always float32, without gradients."""
        released = self.config.geometry == "released"
        audible = self._audible(audio_lengths) if released else frames * self.frame_size
        with torch.autocast(audio.device.type, enabled=False):
            heard, heard_lengths = self.semantic_encoder(_pad_to(audio.float(), int(audible.max())), audible)
            ratio = None if released else self.semantic_encoder.frame_rate / self.base_frame_rate
            return resize(heard, heard_lengths, frames, ratio)

    def hear(
        self, audio: Float[Tensor, "batch samples"], audio_lengths: Int[Tensor, " batch"], frames: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch acoustic_dim frames"]:
        """Hear how it sounds: the convolutional encoder on whole frames, the tail padded with zeros."""
        whole = -(-torch.maximum(audio_lengths, frames * self.frame_size) // self.frame_size) * self.frame_size
        padded = _pad_to(audio, int(whole.max()))[:, None]
        encode = self.encoder if torch.is_grad_enabled() else self.encoder.chunked
        features = encode(padded, whole)[..., : int(frames.max())]
        valid = torch.arange(features.shape[-1], device=audio.device) < frames[:, None]
        return features.masked_fill(~valid[:, None], 0.0)

    def quantize(
        self,
        features: Features,
        durations: Int[Tensor, "batch tokens"],
        num_codebooks: int | Int[Tensor, " batch"] | None = None,
    ) -> tuple[Quantized, Quantized]:
        """Merge both streams and quantise: the semantic one, then what the acoustic one has left over it.

        Returns:
            Semantic result, whose latents [B, acoustic_dim, N] have been through the second ConvNeXt stack, and
            acoustic result.
        """
        lengths = (durations > 0).sum(dim=1)
        merged = self.semantic_aggregator(features.semantic, durations, features.lengths)
        semantic = self.semantic_quantizer(self.semantic_encoder_stack(merged, lengths), lengths)
        meaning = self.semantic_decoder_stack(semantic.latents, lengths)
        semantic = Quantized(meaning, semantic.codes, semantic.losses)
        if isinstance(num_codebooks, int) and num_codebooks == 0:
            blank = torch.zeros_like(meaning)
            return semantic, self.acoustic_quantizer(blank, lengths, 0)
        sound = self.acoustic_aggregator(features.acoustic, durations, features.lengths)
        return semantic, self.acoustic_quantizer(sound - meaning, lengths, num_codebooks)

    def lookup(
        self,
        semantic: Int[Tensor, "batch tokens"],
        acoustic: Int[Tensor, "batch codebooks tokens"],
        lengths: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch dim tokens"]:
        """Map codes back to latents, both streams added; zero past the valid tokens."""
        meaning = self.semantic_decoder_stack(self.semantic_quantizer.lookup(semantic[:, None], lengths), lengths)
        return meaning + self.acoustic_quantizer.lookup(acoustic, lengths)

    def synthesize(
        self, latents: Float[Tensor, "batch dim tokens"], durations: Int[Tensor, "batch tokens"]
    ) -> tuple[Float[Tensor, "batch samples"], Int[Tensor, " batch"]]:
        """Unmerge, smooth and decode; also says how many samples of each item are sound."""
        frames = unmerge(latents, durations)
        lengths = durations.sum(dim=1)
        if self.bottleneck is not None:
            frames = self.bottleneck(frames, lengths)
        decode = self.decoder if torch.is_grad_enabled() else self.decoder.chunked
        audio = decode(frames, lengths)[:, 0]
        return audio, self.decoder.layers.output_length(lengths)

    # ----------------------------------------------------------------------------------------------------- details

    def _audible(self, audio_lengths: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """Lengths after padding to the shortest clip that still gives a frame in the released geometry."""
        return audio_lengths.clamp(min=_MIN_RELEASED_SAMPLES)

    def _cap(self, max_duration: Any) -> int | None:
        """Settle the most frames a token may hold."""
        return check_max_duration(self.max_duration if max_duration is MODEL_DEFAULT else max_duration)

    def _count(self, num_codebooks: Any) -> int:
        """Settle how many acoustic codebooks to use."""
        if num_codebooks is None:
            return self.num_codebooks
        whole = isinstance(num_codebooks, Integral) and not isinstance(num_codebooks, bool)
        if not whole or not 0 <= num_codebooks <= self.num_codebooks:
            raise ValueError(
                f"num_codebooks is {num_codebooks!r}, but this model has {self.num_codebooks} acoustic codebooks, of "
                f"which 0 to {self.num_codebooks} can be used; the semantic codebook is not counted"
            )
        return int(num_codebooks)

    def _rule(
        self, threshold: Any, frame_rate: Any, durations: Any, policy: str | MergingPolicy | None, cap: int | None
    ) -> tuple[MergingPolicy | None, dict[str, Any]]:
        """Turn the choices of a call into one policy (None: durations are given) and a note on it."""
        named = isinstance(policy, str)
        chosen = {"threshold": threshold, "frame_rate": frame_rate, "durations": durations}
        given = [name for name, value in chosen.items() if value is not None]
        if policy is not None and not named:
            given.append("policy")
        if len(given) > 1:
            every = "both" if len(given) == 2 else "all"
            raise ValueError(f"{' and '.join(given)} were {every} given; choose one, each decides the rate by itself")
        if self.config.merging is None and given and given != ["durations"]:
            raise ValueError(f"{given[0]} was given, but this model has a fixed rate of {self.base_frame_rate:g} Hz")
        known = policy in POLICIES and policy != "threshold" and frame_rate is not None if named else callable(policy)
        if policy is not None and not known:
            names = ", ".join(name for name in POLICIES if name != "threshold")
            raise ValueError(f"policy is {policy!r}; expected one of {names} with frame_rate=, or a MergingPolicy")
        if durations is not None:
            return None, {"policy": "durations"}
        if policy is not None and not named:
            assert not isinstance(policy, str)
            return policy, {"policy": type(policy).__name__}
        if frame_rate is not None:
            check_frame_rate(frame_rate, self.base_frame_rate, cap)
            kind = POLICIES[policy] if named else ExactRate  # type: ignore[index]
            rule = kind(frame_rate)
            return rule, {"policy": policy or "rate", "frame_rate": _note(rule.frame_rate)}  # type: ignore[union-attr]
        if threshold is None:
            threshold = self.config.merging.threshold if self.config.merging else 1.0
        rule = Threshold(threshold)
        return rule, {"policy": "threshold", "threshold": _note(rule.threshold)}


_MIN_RELEASED_SAMPLES = 1360  # upstream's resize gives no frame below this


def _check_encoder(encoder: SemanticEncoder, config: FlexiCodecConfig) -> None:
    """Refuse an encoder that contradicts the config."""
    if not isinstance(encoder, SanmEncoder):
        if config.geometry == "released":
            raise ValueError(
                f"geometry 'released' counts the frames of SAN-M and cannot go with a {type(encoder).__name__}; "
                "choose geometry 'whole'"
            )
    elif encoder.config != config.semantic_encoder:
        raise ValueError(
            f"the encoder was built from {encoder.config}, but the config has semantic_encoder="
            f"{config.semantic_encoder}; make them the same"
        )


def _aggregator(dim: int, config: TransformerConfig | None) -> nn.Module:
    return QueryAggregator(dim, config) if config else MeanAggregator()


def _pad_to(audio: Float[Tensor, "batch samples"], samples: int) -> Float[Tensor, "batch padded"]:
    """Cut or zero-pad the last axis to so many samples."""
    return nn.functional.pad(audio, (0, max(0, samples - audio.shape[-1])))[..., :samples]


def _note(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
