"""NanoCodec and its predecessor LFSC: fixed-rate codecs with grouped FSQ (parallel codebooks, not residual).

`encode_latents` and `decode_latents` are the steps that training composes as well.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flexicodec.audio import as_batch
from flexicodec.config import from_dict, non_defaults, to_dict
from flexicodec.models.codec import Codec, EncodeOptions, autocast, check_samples
from flexicodec.models.margins import fixed_rate_margins
from flexicodec.models.nanocodec.config import PUBLISHED, NanoCodecConfig, describe_release, published_at_rate
from flexicodec.models.nanocodec.hifigan import HiFiGANDecoder, HiFiGANEncoder
from flexicodec.models.nanocodec.streaming import NanoCodecStreamingTokenizer
from flexicodec.models.streaming.decoder import DecoderOptions, StreamingDecoder
from flexicodec.models.streaming.early_encoder import EarlyStreamingEncoder
from flexicodec.models.streaming.encoder import EncoderOptions, StreamingEncoder
from flexicodec.nn.masking import fit_lengths
from flexicodec.nn.streaming import StreamingModule
from flexicodec.tokens import TokenFormat, Tokens


class NanoCodec(Codec):
    """A convolutional codec of one stream at a fixed rate (arXiv 2508.05835; with LFSC's config, arXiv 2409.12117).

    Every token is one frame and has a code per group. A clip has the same tokens in a padded batch as alone; in NeMo it
    has not where encoder or decoder looks ahead, and `compatible=True` computes as NeMo does.

    Args:
        config: What to build; the default is NanoCodec at 1.78 kbps with random weights.
        name: Name of the model in token files.
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
        self.sample_rate = config.sample_rate
        self.frame_size = config.frame_size
        self.encoder = HiFiGANEncoder(config.encoder, config.quantizer.dim)
        self.quantizer = config.quantizer.build()
        self.decoder = HiFiGANDecoder(config.decoder, config.quantizer.dim)

    @property
    def num_codebooks(self) -> int:
        """Codes of a token, one per group."""
        return self.quantizer.num_codebooks

    @property
    def format(self) -> TokenFormat:
        """Grid, codebook sizes and fingerprint of this model's tokens."""
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
        """Return the config as JSON values."""
        return to_dict(self.config)

    def token_settings(self) -> dict[str, Any]:
        """Return what differs from the defaults, without the decoder, on which tokens do not depend."""
        settings = non_defaults(self.config)
        del settings["decoder"]
        return settings

    def num_frames(self, samples: int | Int[Tensor, "*clips"]) -> int | Int[Tensor, "*clips"]:
        """Count the frames of clips of so many samples, the last one filled up with silence."""
        check_samples(samples)
        return -(-samples // self.frame_size)

    # ------------------------------------------------------------------------------------------------------- the steps

    def encode_latents(
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

    def decode_latents(
        self, latents: Float[Tensor, "batch dim frames"], frame_lengths: Int[Tensor, " batch"], compatible: bool = False
    ) -> Float[Tensor, "batch samples"]:
        """Turn latents into audio; what lies past each clip's frames means nothing.

        Args:
            latents: Zero past each clip's frames.
            frame_lengths: Valid frames of each clip.
            compatible: As for `encode_latents`.
        """
        frames = latents.shape[-1]
        filled = frame_lengths if compatible else frame_lengths.clamp(min=self.decoder.min_frames)
        padded = torch.nn.functional.pad(latents, (0, max(0, self.decoder.min_frames - frames)))
        decode = self.decoder if torch.is_grad_enabled() else self.decoder.chunked
        return decode(padded, filled, pad_at_item_ends=not compatible)[:, 0, : frames * self.frame_size]

    # ---------------------------------------------------------------------------------------------------------- public

    @property
    def fixed_options(self) -> Mapping[str, Any]:
        """See `Codec.fixed_options`: nothing merges, and codebooks mean something together only."""
        return {
            "threshold": 1,
            "frame_rate": self.base_frame_rate,
            "durations": None,
            "policy": None,
            "max_duration": 1,
            "num_codebooks": self.num_codebooks,
        }

    def why_unsupported(self, name: str, value: Any) -> str:
        """See `Codec.why_unsupported`; a frame rate comes with the configs that have it."""
        fixed = f"this model has a fixed rate of {self.base_frame_rate:g} Hz"
        if name == "num_codebooks":
            return (
                f"num_codebooks is {value!r}, but this model's {self.num_codebooks} codebooks stand side by side and "
                "only mean something together; leave it out"
            )
        if name == "threshold":
            return f"threshold is {value!r}, but {fixed} and never merges frames: threshold=1 or none"
        if name == "frame_rate":
            names = published_at_rate(float(value)) if isinstance(value, int | float) and value > 0 else []
            if names:
                known = f"configs that have it: {'; '.join(map(describe_release, names))}"
            else:
                known = f"published are {_rates()}"
            return f"frame_rate is {value} Hz, but {fixed}; {known}"
        return f"{name} is {value!r}, but {fixed}, one frame a token; leave it out"

    def _encode(self, audio: Any, lengths: Any, options: EncodeOptions) -> Tokens:
        batch, audio_lengths = as_batch(
            audio,
            lengths,
            sample_rate=options.sample_rate,
            target_sample_rate=self.sample_rate,
            channels=options.channels,
            device=self.device,
        )
        frames = -(-audio_lengths // self.frame_size)
        with autocast(options.precision, self.device):
            latents = self.encode_latents(batch, audio_lengths, options.compatible).float()
        codes = self.quantizer(latents, frames).codes

        info: dict[str, Any] = {}
        if options.compatible:
            info["compatible"] = True
        if options.precision != "float32":
            info["precision"] = options.precision
        margins = None
        if options.margins:
            margins = fixed_rate_margins(self.quantizer.margins(latents, codes, frames))
        return Tokens(
            acoustic=codes,
            durations=(torch.arange(codes.shape[-1], device=codes.device) < frames[:, None]).long(),
            audio_lengths=audio_lengths,
            format=self.format,
            info=info,
            margins=margins,
        )

    def _decode(self, tokens: Tokens, options: EncodeOptions) -> Float[Tensor, "batch samples"]:
        latents = self._dequantize(tokens)
        with autocast(options.precision, self.device):
            audio = self.decode_latents(latents, tokens.token_lengths, options.compatible).float()
        lengths = tokens.token_lengths * self.frame_size
        return fit_lengths(audio, lengths, lengths if tokens.audio_lengths is None else tokens.audio_lengths)

    def _dequantize(self, tokens: Tokens) -> Float[Tensor, "batch dim tokens"]:
        return self.quantizer.dequantize(tokens.acoustic, tokens.token_lengths)

    def _dequantize_each(self, tokens: Tokens) -> Float[Tensor, "batch codebooks dim tokens"]:
        return self.quantizer.dequantize_each(tokens.acoustic, tokens.token_lengths)

    def codebook_vectors(self) -> dict[str, Float[Tensor, "codebooks codes dim"]]:
        """See `Codec.codebook_vectors`."""
        return {"acoustic": self.quantizer.codebook_vectors()}

    def streaming_decoder(self, batch_size: int = 1, **options: Any) -> StreamingDecoder:
        """Open a stream that decodes tokens; see `Codec.streaming_decoder`."""
        return StreamingDecoder(self, batch_size, from_dict(DecoderOptions, options))

    def streaming_encoder(
        self, batch_size: int = 1, *, lookahead_frames: int | None = None, chunk_frames: int = 4, **options: Any
    ) -> StreamingEncoder:
        """Open a stream that encodes audio as it comes: convolutions alone, so every stream can be exact.

        Args:
            batch_size: Streams side by side, each of one clip.
            lookahead_frames: Frames that a frame waits for at most; fewer than the convolutions reach are not exact.
            chunk_frames: With `lookahead_frames`, frames from one output to the next.
            options: `margins`, as for `encode`; others only with the values this model has.

        Raises:
            ValueError: Another rate or number of codebooks than the model has.
        """
        margins = self.read_options(options).margins
        settings = EncoderOptions(
            num_codebooks=self.num_codebooks,
            margins=margins,
            lookahead_frames=lookahead_frames,
            chunk_frames=chunk_frames,
        )
        tokenizer = NanoCodecStreamingTokenizer(self.encoder, self.quantizer, settings, self.sample_rate)
        kind = StreamingEncoder if lookahead_frames is None else EarlyStreamingEncoder
        return kind(self, tokenizer, settings, batch_size, options)

    def stream_stages(self, settings: DecoderOptions) -> list[StreamingModule]:
        """Return the modules that a streaming decoder runs; convolutions only, so every stream can be exact."""
        return [self.decoder]

    def stream_inputs(self, tokens: Tokens) -> Float[Tensor, "batch channels tokens"]:
        """Look up the inputs of the first module; `tokens` are checked and on the model's device."""
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


def _rates() -> str:
    """List the published configs by rate."""
    rates = sorted({config.frame_rate for config in PUBLISHED.values()})
    return "; ".join(f"{rate:.5g} Hz: {', '.join(published_at_rate(rate))}" for rate in rates)
