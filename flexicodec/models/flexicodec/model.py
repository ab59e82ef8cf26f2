"""FlexiCodec (arXiv 2510.00981): frames that mean the same share a token, coded by a semantic and an acoustic stream.

This is the model as users meet it: what comes is checked, a rate is chosen, and the rooms below do the work.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flexicodec.audio import Channels, as_batch, fit_lengths
from flexicodec.config import non_defaults, to_dict
from flexicodec.encoders.base import SanmConfig, SSLConfig
from flexicodec.merging import CausalPolicy, MergingPolicy, cosine_similarities, validate_durations
from flexicodec.merging.durations import check_max_duration
from flexicodec.models.codec import UNSET, check_samples, inference_call
from flexicodec.models.flexicodec import chunked, report, streaming_decode
from flexicodec.models.flexicodec.choice import RUNNING, choose_codebooks, choose_policy
from flexicodec.models.flexicodec.network import Features, FlexiCodecNetwork
from flexicodec.models.flexicodec.streaming_encode import FlexiCodecStreamingTokenizer
from flexicodec.models.precision import Precision, autocast, check_precision
from flexicodec.models.streaming.decoder import DecoderOptions
from flexicodec.models.streaming.encoder import STREAM_WINDOWS, EncoderOptions, StreamingEncoder
from flexicodec.models.streaming.state import Windows
from flexicodec.nn.streaming import StreamingModule
from flexicodec.tokens import TokenFormat, Tokens

__all__ = ["Features", "FlexiCodec"]

WINDOWS = Windows()
UNRELATED_SETTINGS = {"acoustic": ("decoder_width",), "merging": ("threshold", "threshold_range", "max_duration")}


class FlexiCodec(FlexiCodecNetwork):
    """A dual-stream codec with a dynamic frame rate.

    Args:
        config: What to build; the default is the released architecture with random weights.
        semantic_encoder: Takes the place of the config's: another frozen encoder, or a fake.
        name: What to call the model in token files.

    Raises:
        ValueError: The encoder does not go with the config.
    """

    model_type = "flexicodec"
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
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "encode": token_modules,
        "semantic": tuple(
            name for name in token_modules if name not in ("encoder", "acoustic_aggregator", "semantic_decoder_stack")
        ),
        "decode": ("semantic_quantizer", "semantic_decoder_stack", "acoustic_quantizer", "bottleneck", "decoder"),
    }

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

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> Path:
        """See `Codec.save_pretrained`.

        Raises:
            ValueError: The semantic encoder came from outside, so no config could build it again.
        """
        self._check_whole("saved")
        if not isinstance(getattr(self.semantic_encoder, "config", None), SanmConfig | SSLConfig):
            raise ValueError(
                f"this model listens with a {type(self.semantic_encoder).__name__} that was passed in, which a config "
                "cannot describe; save its state_dict() instead"
            )
        return super().save_pretrained(folder, dtype)

    def token_settings(self) -> dict[str, Any]:
        """What differs from the defaults, without what concerns decoding, limits and starting values alone.

        Defaults are left out so that a field that is added one day does not rename the models there are.
        """
        settings = non_defaults(replace(self.config, bottleneck=None))
        for part, names in UNRELATED_SETTINGS.items():
            for name in names:
                (settings.get(part) or {}).pop(name, None)
        return settings

    def num_frames(self, samples: int | Int[Tensor, "*clips"]) -> int | Int[Tensor, "*clips"]:
        """Count the frames of clips of so many samples: what their `durations` must sum to.

        Raises:
            ValueError: No whole number of samples, or none at all.
        """
        lengths = check_samples(samples)
        counts = self.frame_counts(lengths.reshape(-1)).view(lengths.shape)
        return counts if isinstance(samples, Tensor) else int(counts)

    @inference_call
    def features(  # type: ignore[override]
        self,
        audio: Any,
        lengths: Any = None,
        *,
        sample_rate: int | None = None,
        channels: Channels | None = None,
        acoustic: bool = True,
        windows: Windows | None = WINDOWS,
        precision: Precision = "float32",
    ) -> Features:
        """Run both encoders once; `tokenize` then makes tokens at any number of rates.

        Args:
            audio: [S] or [B, S], tensor or array, float in [-1, 1] or int16; [B, C, S] where `channels` is given.
            lengths: Valid samples of each item, of the audio as passed; None means all.
            sample_rate: Hz of the audio, resampled where it differs from the codec's; None means the codec's.
            channels: "mix" averages the channels of [B, C, S]; "error" refuses more than one.
            acoustic: Run the convolutional encoder too; semantic tokens alone do not need it.
            windows: How clips longer than one window are heard, and then tokenized; None takes every clip whole. Where
                attention spans the clip, this changes features; see `Windows`.
            precision: "bfloat16" lets transformers work in half the precision, which is faster and flips some of the
                boundaries and codes; convolutions and quantisers stay in float32.

        Raises:
            ValueError: Empty audio, NaN or Inf, wrong rank, or lengths that do not fit.
        """
        batch, audio_lengths = as_batch(
            audio,
            lengths,
            sample_rate=sample_rate,
            target_sample_rate=self.sample_rate,
            channels=channels,
            device=self.device,
        )
        frames = self.frame_counts(audio_lengths)
        check_precision(precision)
        clips = batch, audio_lengths, frames
        if chunked.runs_clip_by_clip(self, frames, windows):
            semantic = chunked.listen(self, *clips, windows, precision)
            sound = chunked.hear(self, *clips) if acoustic else None
        else:
            semantic, sound = self.encode_semantic(*clips, precision), self.hear(*clips) if acoustic else None
        similarities = cosine_similarities(semantic, frames)
        return Features(semantic, sound, similarities, frames, audio_lengths, windows, precision)

    @inference_call
    def tokenize(  # type: ignore[override]
        self,
        features: Features,
        *,
        threshold: Any = None,
        frame_rate: Any = None,
        durations: Any = None,
        policy: str | MergingPolicy | None = None,
        max_duration: int | None = UNSET,
        num_codebooks: int | None = None,
        margins: bool = False,
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
            margins: Tell also how far every boundary and code was from flipping: `Tokens.margins`.

        Raises:
            ValueError: More than one choice of rate, or a value outside its range.
        """
        cap, count = self._cap(max_duration), choose_codebooks(num_codebooks, self.num_codebooks)
        rule, info = self._choose(threshold, frame_rate, durations, policy, cap)
        seconds = features.audio_lengths.cpu().double() / self.sample_rate
        if rule is not None:
            durations = rule(
                features.similarities, features.lengths, seconds=seconds, features=features.semantic, max_duration=cap
            )
        durations = validate_durations(durations, features.lengths, cap)
        in_pieces = chunked.is_long(self, features.lengths, features.windows)
        if chunked.runs_clip_by_clip(self, features.lengths, features.windows):
            semantic, acoustic = chunked.quantize(self, features, durations, count, margins)
        else:
            semantic, acoustic = self.quantize(features, durations, count, margins=margins)
        return Tokens(
            semantic=semantic.codes[:, 0],
            acoustic=acoustic.codes,
            durations=durations,
            audio_lengths=features.audio_lengths,
            format=replace(self.format, max_duration=cap),
            info={**info, **report.making(self, features, in_pieces, count)},
            margins=report.margins(rule, features, seconds, cap, semantic, acoustic) if margins else None,
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
        max_duration: int | None = UNSET,
        num_codebooks: int | None = None,
        sample_rate: int | None = None,
        channels: Channels | None = None,
        windows: Windows | None = WINDOWS,
        precision: Precision = "float32",
        margins: bool = False,
    ) -> Tokens:
        """Turn audio into tokens: `tokenize(features(audio, ...), ...)`.

        Args:
            audio: As for `features`, with the five that belong to it.
            lengths: Valid samples of each item; None means all.
            threshold: As for `tokenize`, with all that follow but four; choose threshold, frame_rate or durations.
            frame_rate: Tokens per second.
            durations: Frames per token, decided elsewhere.
            policy: How to spend `frame_rate`, or a `MergingPolicy`.
            max_duration: Most frames per token; None for no cap.
            num_codebooks: Acoustic codebooks, 0 for semantic tokens only; None for all.
            sample_rate: Hz of the audio; None means the codec's.
            channels: "mix" or "error", for [B, C, S].
            windows: How clips longer than one window are encoded; None takes every clip whole.
            precision: "bfloat16" for faster transformers and a few other codes.
            margins: Tell also how far every boundary and code was from flipping.

        Raises:
            ValueError: As for `features` and `tokenize`, before any work is done where that can be seen.
        """
        self._choose(threshold, frame_rate, durations, policy, self._cap(max_duration))  # refuse before the work
        features = self.features(
            audio,
            lengths,
            sample_rate=sample_rate,
            channels=channels,
            acoustic=choose_codebooks(num_codebooks, self.num_codebooks) > 0,
            windows=windows,
            precision=precision,
        )
        return self.tokenize(
            features,
            threshold=threshold,
            frame_rate=frame_rate,
            durations=durations,
            policy=policy,
            max_duration=max_duration,
            num_codebooks=num_codebooks,
            margins=margins,
        )

    @inference_call
    def decode(
        self, tokens: Tokens, *, windows: Windows | None = WINDOWS, precision: Precision = "float32"
    ) -> Float[Tensor, "batch samples"]:
        """Turn tokens into audio.

        Args:
            tokens: Of this model.
            windows: How clips longer than one window are decoded; None takes every clip whole. Where attention spans
                the clip, this changes the audio; see `Windows`.
            precision: "bfloat16" is faster; the audio is then some 32 dB or more above the difference.

        Returns:
            [B, S] at `sample_rate`, zero past each clip's `audio_lengths`. Where these are unknown, a clip is as long
            as its frames.

        Raises:
            ValueError: The tokens belong to another model, or hold codes this one lacks.
        """
        self.check_tokens(tokens)
        check_precision(precision)
        tokens = tokens.to(self.device)
        if chunked.runs_clip_by_clip(self, tokens.frame_lengths, windows):
            smooth = chunked.smooth(self, tokens, windows, precision)
            with autocast(precision, self.device):
                audio, lengths = chunked.sound(self, *smooth)
        else:
            assert tokens.semantic is not None
            latents = self.dequantize(tokens.semantic, tokens.acoustic, tokens.token_lengths)
            with autocast(precision, self.device):
                audio, lengths = self.decode_latents(latents, tokens.durations)
        return fit_lengths(audio.float(), lengths, lengths if tokens.audio_lengths is None else tokens.audio_lengths)

    @inference_call
    def embed(self, tokens: Tokens) -> Float[Tensor, "batch dim tokens"]:
        """Look up one vector per token, semantic and acoustic added: what the decoder hears, zero at padding.

        Raises:
            ValueError: As for `decode`.
        """
        self.check_tokens(tokens)
        tokens = tokens.to(self.device)
        assert tokens.semantic is not None
        return self.dequantize(tokens.semantic, tokens.acoustic, tokens.token_lengths)

    def streaming_encoder(  # type: ignore[override]
        self,
        batch_size: int = 1,
        *,
        threshold: float | None = None,
        frame_rate: float | None = None,
        policy: str | CausalPolicy | None = None,
        max_duration: int | None = UNSET,
        num_codebooks: int | None = None,
        margins: bool = False,
        windows: Windows = STREAM_WINDOWS,
    ) -> StreamingEncoder:
        """Open a stream that encodes audio as it comes.

        Args:
            batch_size: Streams side by side, each of one clip; they may begin, pause and end as they like.
            threshold: As for `tokenize`, and the default: the same decision in a stream as on the whole clip.
            frame_rate: Tokens per second, held by a controller that moves the threshold (`RateController`): a stream
                has no end whose tokens could be counted. `encode(frame_rate=..., policy="running")` gives the same.
            policy: "running" with `frame_rate`, or a policy that decides as frames come (`CausalPolicy`).
            max_duration: Most frames per token; None for no cap.
            num_codebooks: Acoustic codebooks, 0 for semantic tokens only; None for all.
            margins: Tell also how far every boundary and code was from flipping.
            windows: Where attention is global; the stream is then near the whole clip, and `exact` is False.

        Raises:
            ValueError: More than one choice of rate, one that needs the whole clip, or a value outside its range.
        """
        cap, count = self._cap(max_duration), choose_codebooks(num_codebooks, self.num_codebooks)
        if frame_rate is not None and policy is None and self.config.merging is not None:
            policy = RUNNING
        rule, info = self._choose(threshold, frame_rate, None, policy, cap)
        if not hasattr(rule, "step"):
            raise ValueError(
                f"policy is {policy!r}, which needs the whole clip; a stream takes threshold=, frame_rate= (held by a "
                "controller), or a policy that decides as frames come, with initial_state and step"
            )
        settings = EncoderOptions(rule, cap, count, margins, windows)
        return StreamingEncoder(self, FlexiCodecStreamingTokenizer(self, settings, info), settings, batch_size)

    def stream_stages(self, settings: DecoderOptions) -> list[StreamingModule]:
        """See `Codec.stream_stages`."""
        return streaming_decode.stages(self, settings)

    def stream_inputs(self, tokens: Tokens) -> Float[Tensor, "batch channels tokens"]:
        """See `Codec.stream_inputs`."""
        return streaming_decode.inputs(self, tokens)

    def is_windowed(self, num_codebooks: int | None = None) -> bool:
        """Tell whether tokens see a limited part of a clip, so that pieces and streams can give what the whole gives.

        Args:
            num_codebooks: Acoustic codebooks in use; None for all.
        """
        return report.is_windowed(self, choose_codebooks(num_codebooks, self.num_codebooks))

    def _cap(self, max_duration: Any) -> int | None:
        """Settle the most frames a token may hold."""
        return check_max_duration(self.max_duration if max_duration is UNSET else max_duration)

    def _choose(
        self, threshold: Any, frame_rate: Any, durations: Any, policy: str | MergingPolicy | None, cap: int | None
    ) -> tuple[MergingPolicy | None, dict[str, Any]]:
        """See `choose_policy`."""
        return choose_policy(
            self.config.merging,
            self.base_frame_rate,
            cap,
            threshold=threshold,
            frame_rate=frame_rate,
            durations=durations,
            policy=policy,
        )
