"""NanoCodec and its forebear LFSC: frames at a fixed rate, each coded by groups of latents that stand side by side.

This is the model as users meet it, and the two steps between audio and latents that training composes as well.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flexicodec.audio import Channels, as_batch, fit_lengths
from flexicodec.config import non_defaults, to_dict
from flexicodec.models.codec import UNSET, Codec, check_samples, inference_call
from flexicodec.models.nanocodec.config import PUBLISHED, NanoCodecConfig, names_at, whereabouts
from flexicodec.models.nanocodec.hifigan import HiFiGANDecoder, HiFiGANEncoder
from flexicodec.models.nanocodec.streaming import NanoCodecStreamingTokenizer, fixed_rate_margins
from flexicodec.models.precision import Precision, autocast, check_precision
from flexicodec.models.streaming.decoder import DecoderOptions
from flexicodec.models.streaming.encoder import EncoderOptions, StreamingEncoder
from flexicodec.models.streaming.state import Windows
from flexicodec.nn.streaming import StreamingModule
from flexicodec.tokens import TokenFormat, Tokens


class NanoCodec(Codec):
    """A convolutional codec of one stream at a fixed rate (arXiv 2508.05835; with LFSC's config, arXiv 2409.12117).

    Every token is one frame and has a code of each group. A padded batch gives what each clip alone gives; NeMo's own
    batches do not where the encoder or decoder looks ahead, and `compatible=True` computes as they do.

    Args:
        config: What to build; the default is NanoCodec at 1.78 kbps with random weights.
        name: What to call the model in token files.
    """

    model_type = "nanocodec"
    load_report: Any = None  # of a model that was converted: what was left out, see weights.LoadReport
    token_modules = ("encoder", "quantizer")
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {"encode": token_modules, "decode": ("quantizer", "decoder")}
    max_duration = 1

    def __init__(self, config: NanoCodecConfig | None = None, name: str | None = None) -> None:
        super().__init__()
        self.config = config = config or NanoCodecConfig()
        self.name = name
        self.sample_rate, self.frame_size = config.sample_rate, config.frame_size
        self.encoder = HiFiGANEncoder(config.encoder, config.quantizer.dim)
        self.quantizer = config.quantizer.build()
        self.decoder = HiFiGANDecoder(config.decoder, config.quantizer.dim)

    @property
    def num_codebooks(self) -> int:
        """Codes of a token, one per group."""
        return self.quantizer.num_codebooks

    @property
    def format(self) -> TokenFormat:
        """What this model's tokens look like."""
        return TokenFormat(
            sample_rate=self.sample_rate,
            frame_size=self.frame_size,
            semantic_codebook_size=None,
            acoustic_codebook_size=self.quantizer.codebook_size,
            max_duration=1,
            fingerprint=self.fingerprint,
            model=self.name,
            parallel_codebooks=True,
        )

    def config_dict(self) -> dict[str, Any]:
        """The resolved config as JSON-able values."""
        return to_dict(self.config)

    def token_settings(self) -> dict[str, Any]:
        """What differs from the defaults, without the decoder's part, which tokens do not depend on."""
        settings = non_defaults(self.config)
        del settings["decoder"]
        return settings

    def num_frames(self, samples: int | Int[Tensor, "*clips"]) -> int | Int[Tensor, "*clips"]:
        """Count the frames of clips of so many samples, the last one filled up with silence.

        Raises:
            ValueError: No whole number of samples, or none at all.
        """
        check_samples(samples)
        return -(-samples // self.frame_size)

    # ------------------------------------------------------------------------------------------------------- the steps

    def hear(
        self, audio: Float[Tensor, "batch samples"], audio_lengths: Int[Tensor, " batch"], compatible: bool = False
    ) -> Float[Tensor, "batch dim frames"]:
        """Turn audio, zero past each clip's length, into latents; what lies past each clip's frames means nothing.

        Args:
            audio: At the codec's rate.
            audio_lengths: Valid samples of each clip.
            compatible: Pad shorter clips as NeMo does: with the zeros behind them, instead of as they are padded alone.
        """
        frames = -(-audio_lengths // self.frame_size)
        # A clip that is too short to be reflected at its ends is filled up with silence.
        filled = frames if compatible else frames.clamp(min=self.encoder.min_frames)
        longest = max(int(filled.max()), self.encoder.min_frames) * self.frame_size
        padded = torch.nn.functional.pad(audio, (0, max(0, longest - audio.shape[1])))[:, None, :longest]
        encode = self.encoder if torch.is_grad_enabled() else self.encoder.chunked
        return encode(padded, filled * self.frame_size, pad_at_item_ends=not compatible)[..., : int(frames.max())]

    def sound(
        self, latents: Float[Tensor, "batch dim frames"], frame_lengths: Int[Tensor, " batch"], compatible: bool = False
    ) -> Float[Tensor, "batch samples"]:
        """Turn latents into audio; what lies past each clip's frames means nothing.

        Args:
            latents: Zero past each clip's frames.
            frame_lengths: Valid frames of each clip.
            compatible: As for `hear`.
        """
        frames = latents.shape[-1]
        filled = frame_lengths if compatible else frame_lengths.clamp(min=self.decoder.min_frames)
        padded = torch.nn.functional.pad(latents, (0, max(0, self.decoder.min_frames - frames)))
        decode = self.decoder if torch.is_grad_enabled() else self.decoder.chunked
        return decode(padded, filled, pad_at_item_ends=not compatible)[:, 0, : frames * self.frame_size]

    # ---------------------------------------------------------------------------------------------------------- public

    @inference_call
    def encode(  # type: ignore[override]
        self,
        audio: Any,
        lengths: Any = None,
        *,
        threshold: Any = None,
        frame_rate: Any = None,
        durations: Any = None,
        policy: Any = None,
        max_duration: int | None = UNSET,
        num_codebooks: int | None = None,
        sample_rate: int | None = None,
        channels: Channels | None = None,
        compatible: bool = False,
        windows: Windows | None = None,
        precision: Precision = "float32",
        margins: bool = False,
    ) -> Tokens:
        """Turn audio into tokens.

        Args:
            audio: [S] or [B, S], tensor or array, float in [-1, 1] or int16; [B, C, S] where `channels` is given.
            lengths: Valid samples of each item, of the audio as passed; None means all.
            threshold: 1 (nothing merges) or None.
            frame_rate: The model's own rate in Hz, or None.
            durations: None, as there is nothing to decide.
            policy: None, for the same reason.
            max_duration: 1 or nothing.
            num_codebooks: All of them, or None: they mean something together only.
            sample_rate: Hz of the audio, resampled where it differs from the codec's; None means the codec's.
            channels: "mix" averages the channels of [B, C, S]; "error" refuses more than one.
            compatible: Compute clips of different length as NeMo does, where those that end before the longest come out
                otherwise than alone.
            windows: Of no effect: convolutions take clips of any length piece by piece, and give what the whole gives.
            precision: "bfloat16" lets convolutions work in half the precision, and flips some of the codes; codes are
                decided in float32.
            margins: Tell also how far every code was from flipping: `Tokens.margins`.

        Raises:
            ValueError: Another precision, rate or number of codebooks than the model has, empty audio, NaN or Inf,
                wrong rank, or lengths that do not fit.
        """
        self._check_choices(threshold, frame_rate, num_codebooks)
        self._check_merging(durations=durations, policy=policy, max_duration=max_duration)
        check_precision(precision)
        batch, audio_lengths = as_batch(
            audio,
            lengths,
            sample_rate=sample_rate,
            target_sample_rate=self.sample_rate,
            channels=channels,
            device=self.device,
        )
        frames = -(-audio_lengths // self.frame_size)
        with autocast(precision, self.device):
            latents = self.hear(batch, audio_lengths, compatible).float()
        coded = self.quantizer(latents, frames, margins=margins)
        codes = coded.codes
        durations = (torch.arange(codes.shape[-1], device=codes.device) < frames[:, None]).long()
        return Tokens(
            acoustic=codes,
            durations=durations,
            audio_lengths=audio_lengths,
            format=self.format,
            info={
                **({"compatible": True} if compatible else {}),
                **({} if precision == "float32" else {"precision": precision}),
            },
            margins=None if coded.margins is None else fixed_rate_margins(coded.margins),
        )

    @inference_call
    def decode(
        self,
        tokens: Tokens,
        *,
        compatible: bool = False,
        windows: Windows | None = None,
        precision: Precision = "float32",
    ) -> Float[Tensor, "batch samples"]:
        """Turn tokens into audio.

        Args:
            tokens: Of this model.
            compatible: As for `encode`, as all that follow.
            windows: Of no effect.
            precision: "bfloat16" for half the precision, and audio that differs a little.

        Returns:
            [B, S] at `sample_rate`, zero past each clip's `audio_lengths`. Where these are unknown, a clip is as long
            as its frames.

        Raises:
            ValueError: The tokens belong to another model, or hold codes this one lacks.
        """
        check_precision(precision)
        latents = self.embed(tokens)
        tokens = tokens.to(self.device)
        with autocast(precision, self.device):
            audio = self.sound(latents, tokens.token_lengths, compatible).float()
        lengths = tokens.token_lengths * self.frame_size
        return fit_lengths(audio, lengths, lengths if tokens.audio_lengths is None else tokens.audio_lengths)

    @inference_call
    def embed(self, tokens: Tokens) -> Float[Tensor, "batch dim tokens"]:
        """Look up one vector per token, the groups' values one after another: what the decoder hears, zero at padding.

        Raises:
            ValueError: As for `decode`.
        """
        self.check_tokens(tokens)
        tokens = tokens.to(self.device)
        return self.quantizer.dequantize(tokens.acoustic, tokens.token_lengths)

    def streaming_encoder(  # type: ignore[override]
        self,
        batch_size: int = 1,
        *,
        threshold: float | None = None,
        frame_rate: float | None = None,
        policy: Any = None,
        max_duration: int | None = UNSET,
        num_codebooks: int | None = None,
        margins: bool = False,
        windows: Windows | None = None,
    ) -> StreamingEncoder:
        """Open a stream that encodes audio as it comes: convolutions alone, so every stream is exact.

        Args:
            batch_size: Streams side by side, each of one clip.
            threshold: As for `encode`, as all that follow.
            frame_rate: The model's own rate in Hz, or None.
            policy: None.
            max_duration: 1 or nothing.
            num_codebooks: All of them, or None.
            margins: Tell also how far every code was from flipping.
            windows: Of no effect.

        Raises:
            ValueError: Another rate or number of codebooks than the model has.
        """
        self._check_choices(threshold, frame_rate, num_codebooks)
        self._check_merging(policy=policy, max_duration=max_duration)
        settings = EncoderOptions(num_codebooks=self.num_codebooks, margins=margins)
        writer = NanoCodecStreamingTokenizer(self.encoder, self.quantizer, settings, self.sample_rate)
        return StreamingEncoder(self, writer, settings, batch_size)

    def stream_stages(self, settings: DecoderOptions) -> list[StreamingModule]:
        """See `Codec.stream_stages`: convolutions alone, so every stream can be exact."""
        return [self.decoder]

    def stream_inputs(self, tokens: Tokens) -> Float[Tensor, "batch channels tokens"]:
        """See `Codec.stream_inputs`."""
        return self.quantizer.dequantize(tokens.acoustic, tokens.token_lengths)

    def check_tokens(self, tokens: Tokens, *, may_be_empty: bool = False) -> None:
        """See `Codec.check_tokens`.

        Raises:
            ValueError: Also where tokens last longer than a frame.
        """
        super().check_tokens(tokens, may_be_empty=may_be_empty)
        if (tokens.durations > 1).any():
            raise ValueError(
                f"a token lasts {int(tokens.durations.max())} frames, but this model has a fixed rate of "
                f"{self.base_frame_rate:g} Hz, one frame a token"
            )

    def _check_choices(self, threshold: Any, frame_rate: Any, num_codebooks: int | None) -> None:
        """Refuse what the model has but one of."""
        self._check_rate(threshold, frame_rate)
        if num_codebooks is not None and num_codebooks != self.num_codebooks:
            raise ValueError(
                f"num_codebooks is {num_codebooks!r}, but this model's {self.num_codebooks} codebooks stand side by "
                "side and only mean something together; leave it out"
            )

    def _check_merging(self, **choices: Any) -> None:
        """Refuse what says how frames are to share tokens, as none do."""
        for name, value in choices.items():
            if not (value is None and name != "max_duration" or value is UNSET or value == 1):
                raise ValueError(
                    f"{name} is {value!r}, but this model has a fixed rate of {self.base_frame_rate:g} Hz, one frame a "
                    "token; leave it out"
                )

    def _check_rate(self, threshold: Any, frame_rate: Any) -> None:
        """Refuse any rate but the model's own, and name the configs that have it."""
        if threshold is not None and not _all_near(threshold, 1.0):
            raise ValueError(
                f"threshold is {threshold!r}, but this model has a fixed rate of {self.base_frame_rate:g} Hz and never "
                "merges frames: threshold=1 or none"
            )
        if frame_rate is None or _all_near(frame_rate, self.base_frame_rate, tolerance=0.005):
            return
        names = names_at(float(frame_rate)) if isinstance(frame_rate, int | float) and frame_rate > 0 else []
        raise ValueError(
            f"frame_rate is {frame_rate} Hz, but this model has a fixed rate of {self.base_frame_rate:g} Hz; "
            + (f"configs that have it: {'; '.join(map(whereabouts, names))}" if names else f"published are {_rates()}")
        )


def _all_near(values: Any, wanted: float, tolerance: float = 0.0) -> bool:
    """Tell whether a number, or each of several, is the wanted one."""
    try:
        given = torch.as_tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return False
    return bool(((given / wanted - 1).abs() <= tolerance).all())


def _rates() -> str:
    """List the published configs by rate."""
    rates = sorted({config.frame_rate for config in PUBLISHED.values()})
    return "; ".join(f"{rate:.5g} Hz: {', '.join(names_at(rate))}" for rate in rates)
