"""FlexiCodec (arXiv 2510.00981): audio to tokens at a chosen frame rate, and back.

`encode` = `features` (both encoders) + `tokenize` (merging policy, quantizers); `decode` is the way back. The steps
themselves are in network.py. Whether clips run side by side, one by one or in pieces is decided here, once per call.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from flexicodec.audio import as_batch
from flexicodec.code_margins import Margins
from flexicodec.config import from_dict, non_defaults, to_dict
from flexicodec.encoders import moonshine_weights
from flexicodec.encoders.base import EncoderConfig, MoonshineConfig
from flexicodec.merging import MergingPolicy, cosine_similarities, validate_durations
from flexicodec.merging.durations import check_max_duration
from flexicodec.merging.policies import uses_acoustic
from flexicodec.merging.registry import resolve_policy, streaming_form
from flexicodec.models.codec import (
    UNSET,
    EncodeOptions,
    autocast,
    check_samples,
)
from flexicodec.models.fingerprint import inference_call
from flexicodec.models.flexicodec import chunked, streaming_decode
from flexicodec.models.flexicodec.network import Features, FlexiCodecNetwork, QuantizedTokens, pad_and_cat
from flexicodec.models.flexicodec.streaming_encode import (
    FlexiCodecStreamingTokenizer,
    StreamedQuantizers,
    StreamedSemanticEncoder,
)
from flexicodec.models.margins import boundary_margins
from flexicodec.models.streaming.decoder import DecoderOptions, StreamingDecoder
from flexicodec.models.streaming.early_encoder import EarlyStreamingEncoder
from flexicodec.models.streaming.encoder import STREAM_WINDOWS, EncoderOptions, StreamingEncoder
from flexicodec.models.streaming.state import Windows
from flexicodec.nn.masking import fit_lengths
from flexicodec.nn.streaming import StreamingModule
from flexicodec.tokens import TokenFormat, Tokens

__all__ = ["Features", "FlexiCodec"]

MAX_PADDED_SHARE = 0.1  # of a batch on the CPU, where a batch is no faster than its clips one by one
TOKENIZE_OPTIONS = ("threshold", "frame_rate", "durations", "policy", "max_duration", "num_codebooks", "margins")
FEATURE_OPTIONS = ("sample_rate", "channels", "windows", "precision")
STREAM_OPTIONS = ("threshold", "frame_rate", "policy", "max_duration", "num_codebooks", "margins", "windows")
UNRELATED_SETTINGS = {
    "acoustic": ("decoder_width", "decoder", "istft_window", "istft_hop", "output_sample_rate"),
    "merging": ("threshold", "threshold_range", "max_duration", "policy"),
    "merging.semantic_aggregator": ("unmerge_dim",),
    "merging.acoustic_aggregator": ("unmerge_dim",),
}


@dataclass(frozen=True)
class ResolvedOptions:
    """What one call says about its tokens, checked.

    Attributes:
        policy: Decides where tokens start; None where `durations` are given.
        durations: Frames per token as the caller gave them.
        max_duration: Largest number of frames per token; None for no limit.
        num_codebooks: Acoustic ones.
        margins: Whether to compute margins.
        info: How tokens are made, for `Tokens.info`.
    """

    policy: MergingPolicy | None
    durations: Any
    max_duration: int | None
    num_codebooks: int
    margins: bool
    info: dict[str, Any]


class FlexiCodec(FlexiCodecNetwork):
    """A dual-stream codec with a dynamic frame rate.

    Args:
        config: What to build; the default is the released architecture with random weights.
        semantic_encoder: Replaces the config's frozen encoder.
        name: Name of the model in token files.

    Raises:
        ValueError: The encoder does not go with the config.
    """

    model_type = "flexicodec"
    fixed_options: ClassVar[Mapping[str, Any]] = {"compatible": False}
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
        "decode": (
            "semantic_quantizer",
            "semantic_decoder_stack",
            "acoustic_quantizer",
            "unmerger",
            "bottleneck",
            "decoder",
        ),
    }

    @property
    def format(self) -> TokenFormat:
        """Grid, codebook sizes and fingerprint of this model's tokens."""
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
        """Return the config as JSON values."""
        held = to_dict(self.config)
        # Without a rate of its own, so that models of one rate keep their files and fingerprints.
        if held["acoustic"].get("output_sample_rate") is None:
            held["acoustic"].pop("output_sample_rate", None)
        return held

    def save_pretrained(
        self, folder: str | Path, dtype: torch.dtype | None = None, *, transformers: bool = False
    ) -> Path:
        """See `Codec.save_pretrained`; a ValueError where the semantic encoder was passed in."""
        self._check_whole("saved")
        if not isinstance(getattr(self.semantic_encoder, "config", None), EncoderConfig):
            raise ValueError(
                f"the semantic encoder of this model is a {type(self.semantic_encoder).__name__} that was passed in, "
                "which a config cannot describe; save its state_dict() instead"
            )
        return super().save_pretrained(folder, dtype, transformers=transformers)

    def shipped_parts(self) -> dict[str, str]:
        """See `Codec.shipped_parts`: Moonshine's encoder with exactly the weights that ship."""
        if not isinstance(self.config.semantic_encoder, MoonshineConfig):
            return {}
        assert isinstance(self.semantic_encoder, torch.nn.Module)
        held = self.semantic_encoder.state_dict()
        shipped = moonshine_weights.shipped_state(held)
        for name, value in held.items():
            if name not in shipped or not torch.equal(value.cpu(), shipped[name]):
                return {}
        return {"semantic_encoder": moonshine_weights.SHIPPED}

    def token_settings(self) -> dict[str, Any]:
        """Return what differs from the defaults, without settings that concern only decoding, limits and first values.

        Defaults are left out so that a new field does not change the fingerprint of existing models.
        """
        # The bottleneck belongs to decoding.
        settings = non_defaults(replace(self.config, bottleneck=None))
        for path, names in UNRELATED_SETTINGS.items():
            part = settings
            for key in path.split("."):
                part = part.get(key) or {}
            for name in names:
                part.pop(name, None)
        return settings

    def num_frames(self, samples: int | Int[Tensor, "*clips"]) -> int | Int[Tensor, "*clips"]:
        """Count the frames of clips of so many samples: what their `durations` must sum to."""
        # frame_counts takes a vector of lengths.
        lengths = check_samples(samples)
        counts = self.frame_counts(lengths.reshape(-1)).view(lengths.shape)
        return counts if isinstance(samples, Tensor) else int(counts)

    # -------------------------------------------------------------------------------------------------------- encoding

    def _encode(self, audio: Any, lengths: Any, options: EncodeOptions) -> Tokens:
        choice = self._choose(options)  # refuses a wrong rate before any work is done
        acoustic = choice.num_codebooks > 0 or uses_acoustic(choice.policy)
        features = self._batch_features(audio, lengths, options, acoustic)
        return self._tokenize(features, choice)

    @inference_call
    def features(self, audio: Any, lengths: Any = None, *, acoustic: bool = True, **options: Any) -> Features:
        """Run both encoders once; `tokenize` then makes tokens at any number of rates.

        Args:
            audio: As for `encode`.
            lengths: As for `encode`.
            acoustic: Run the convolutional encoder too; semantic tokens alone do not need it.
            options: Those of `encode` that concern the audio, windows and precision.
        """
        choices = self.read_options(options, of="features", names=FEATURE_OPTIONS)
        return self._batch_features(audio, lengths, choices, acoustic)

    def _batch_features(self, audio: Any, lengths: Any, options: EncodeOptions, acoustic: bool) -> Features:
        """Run both encoders on a batch; see `_groups` for what runs side by side."""
        batch, audio_lengths = as_batch(
            audio,
            lengths,
            sample_rate=options.sample_rate,
            target_sample_rate=self.sample_rate,
            channels=options.channels,
            device=self.device,
        )
        # Each group is encoded without the padding that its clips do not need.
        frames = self.frame_counts(audio_lengths)
        windows = options.windows
        groups = []
        for rows, in_pieces in self._groups(frames, windows):
            samples = audio_lengths[rows]
            clips = batch[rows, : int(samples.max())]
            counts = frames[rows]
            if in_pieces:
                assert windows is not None
                semantic = chunked.encode_semantic(self, clips, samples, counts, windows, options.precision)
            else:
                semantic = self.encode_semantic(clips, samples, counts, options.precision)
            groups.append(
                Features(
                    semantic=semantic,
                    acoustic=self.encode_acoustic(clips, samples, counts) if acoustic else None,
                    similarities=cosine_similarities(semantic, counts),
                    lengths=counts,
                    audio_lengths=samples,
                    windows=windows,
                    precision=options.precision,
                )
            )
        return groups[0] if len(groups) == 1 else Features.cat(groups)

    @inference_call
    def tokenize(self, features: Features, **options: Any) -> Tokens:
        """Merge and quantize features at one choice of rate.

        Args:
            features: Of `features`.
            options: Those of `encode` that concern the rate, the number of codebooks and margins.

        Raises:
            ValueError: More than one choice of rate, a value out of range, or an option that belongs to `features`.
        """
        return self._tokenize(features, self._choose(self.read_options(options, of="tokenize", names=TOKENIZE_OPTIONS)))

    def _tokenize(self, features: Features, choice: ResolvedOptions) -> Tokens:
        """Merge by the policy, or by given durations, and quantize."""
        seconds = features.audio_lengths.cpu().double() / self.sample_rate
        # Where tokens start and end
        durations = choice.durations
        if choice.policy is not None:
            durations = choice.policy(
                features.similarities,
                features.lengths,
                seconds=seconds,
                max_duration=choice.max_duration,
                **features.for_policy(choice.policy),
            )
        durations = validate_durations(durations, features.lengths, choice.max_duration)

        # Their codes, and how far all these decisions were from others
        semantic, acoustic, code_margins = self._quantize(features, durations, choice)
        margins = None
        if choice.margins:
            semantic_margins, acoustic_margins = code_margins
            boundaries = boundary_margins(
                choice.policy,
                features.similarities,
                features.lengths,
                seconds=seconds,
                max_duration=choice.max_duration,
                **({} if choice.policy is None else features.for_policy(choice.policy)),
            )
            margins = Margins(F.pad(boundaries, (0, 1), value=torch.inf), acoustic_margins, semantic_margins)

        # Note the windows of long clips where they made a difference, and the precision.
        info = dict(choice.info)
        windows = features.windows
        in_pieces = [False]
        if windows is not None:
            in_pieces = [count > windows.seconds * self.base_frame_rate for count in features.lengths.tolist()]
        if windows is not None and any(in_pieces) and not self.is_windowed(choice.num_codebooks):
            info["window_seconds"] = [windows.seconds if each else None for each in in_pieces]
            info["overlap_seconds"] = [windows.overlap_seconds if each else None for each in in_pieces]
        if features.precision != "float32":
            info["precision"] = features.precision
        return Tokens(
            semantic=semantic,
            acoustic=acoustic,
            durations=durations,
            audio_lengths=features.audio_lengths,
            format=replace(self.format, max_duration=choice.max_duration),
            info=info,
            margins=margins,
        )

    def _quantize(
        self, features: Features, durations: Int[Tensor, "batch tokens"], choice: ResolvedOptions
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Quantize both streams; see `_groups` for what runs side by side.

        Returns:
            Semantic codes, acoustic codes and, where asked for, the margins of both.
        """
        groups = self._groups(features.lengths, features.windows)
        coded = []
        for i, (rows, in_pieces) in enumerate(groups):
            clips = features
            tokens = durations[rows]
            if len(groups) > 1:  # one clip, without its padding
                clips = features[i]
                tokens = tokens[:, tokens[0] > 0]
            if in_pieces:
                pieces = chunked.quantize(self, clips, tokens, choice.num_codebooks)
            else:
                semantic, acoustic = self.quantize(clips, tokens, choice.num_codebooks)
                inputs = semantic.inputs, acoustic.inputs
                pieces = iter([QuantizedTokens(tokens, semantic.codes[:, 0], acoustic.codes, *inputs)])
            # Inputs are dropped piece by piece: those of a long clip would take far more memory than its codes.
            found = []
            for piece in pieces:
                margins = self.token_margins(piece) if choice.margins else ()
                found.append((piece.semantic, piece.acoustic, *margins))
            coded.append([torch.cat(parts, dim=-1) for parts in zip(*found, strict=True)])

        # Clips next to each other again, padded to the longest
        if len(coded) == 1:
            return coded[0][0], coded[0][1], coded[0][2:]
        semantic_codes, acoustic_codes, *margins_of = zip(*coded, strict=True)
        padded_margins = [pad_and_cat(margins, torch.inf) for margins in margins_of]
        return pad_and_cat(semantic_codes), pad_and_cat(acoustic_codes), padded_margins

    # -------------------------------------------------------------------------------------------------------- decoding

    def _decode(self, tokens: Tokens, options: EncodeOptions) -> Float[Tensor, "batch samples"]:
        windows = options.windows
        groups = self._groups(tokens.frame_lengths, windows)
        decoded = []
        for i, (_, in_pieces) in enumerate(groups):
            clips = tokens if len(groups) == 1 else tokens[i]
            if in_pieces:
                assert windows is not None
                frames = chunked.smooth(self, clips, windows, options.precision)
            else:
                # Codes are looked up in float32 in every precision.
                latents = self._dequantize(clips)
                with autocast(options.precision, self.device):
                    frames, _ = self.smooth(latents, clips.durations)
            with autocast(options.precision, self.device):
                audio, lengths = self.decode_frames(frames, clips.frame_lengths)
            wanted = lengths if clips.audio_lengths is None else self.output_lengths(clips.audio_lengths)
            decoded.append(fit_lengths(audio.float(), lengths, wanted))
        return decoded[0] if len(decoded) == 1 else pad_and_cat(decoded)

    def _dequantize(self, tokens: Tokens) -> Float[Tensor, "batch dim tokens"]:
        # The semantic codes go through their ConvNeXt stack, the acoustic ones are added.
        assert tokens.semantic is not None
        return self.dequantize(tokens.semantic, tokens.acoustic, tokens.token_lengths)

    def _dequantize_each(self, tokens: Tokens) -> Float[Tensor, "batch codebooks dim tokens"]:
        semantic = self._dequantize(tokens.keep(acoustic=0))
        acoustic = self.acoustic_quantizer.dequantize_each(tokens.acoustic, tokens.token_lengths)
        return torch.cat([semantic[:, None], acoustic], dim=1)

    def codebook_vectors(self) -> dict[str, Float[Tensor, "codebooks codes dim"]]:
        """See `Codec.codebook_vectors`."""
        return {
            "semantic": self.semantic_quantizer.codebook_vectors(),
            "acoustic": self.acoustic_quantizer.codebook_vectors(),
        }

    # ------------------------------------------------------------------------------------------------------- streaming

    def streaming_decoder(self, batch_size: int = 1, **options: Any) -> StreamingDecoder:
        """Open a stream that decodes tokens; see `Codec.streaming_decoder`."""
        return StreamingDecoder(self, batch_size, from_dict(DecoderOptions, options))

    def streaming_encoder(
        self, batch_size: int = 1, *, lookahead_frames: int | None = None, chunk_frames: int = 4, **options: Any
    ) -> StreamingEncoder:
        """Open a stream that encodes audio as it comes.

        A `frame_rate` is held by a controller that moves a threshold (`RateController`), since a stream has no end
        whose tokens could be counted: of the cost that a frame adds to its token where the model's own policy is one
        of costs (joint, variance), and of adjacent similarities elsewhere. `encode_options` of the stream says with
        which policy `encode` gives the same tokens, such as "running-joint" or "running".

        Args:
            batch_size: Streams side by side, each of one clip; they may begin, pause and end independently.
            lookahead_frames: Frames behind a token that it waits for at most; fewer than it depends on are sooner and
                not exact.
            chunk_frames: With `lookahead_frames`, frames from one output to the next: fewer are sooner and cost more.
            options: Those of `encode` that concern the rate, the number of codebooks, margins and `windows`. A policy
                has to be causal (`CausalPolicy`). With global attention a stream runs in windows, near the whole clip,
                and `exact` is False.

        Raises:
            ValueError: More than one choice of rate, one that needs the whole clip, or a value out of range.
        """
        # A rate is held by the controller, except where the model has one rate only.
        policy = options.get("policy")
        if options.get("frame_rate") is not None and policy is None and self.config.merging is not None:
            policy = streaming_form(self.config.merging.policy)
        given = self.read_options(
            {"windows": STREAM_WINDOWS, **options, "policy": policy}, of="streaming_encoder", names=STREAM_OPTIONS
        )
        choice = self._choose(given)
        if not hasattr(choice.policy, "step"):
            raise ValueError(
                f"policy is {policy!r}, which needs the whole clip; a stream takes threshold=, frame_rate= (held by a "
                "controller), a policy of one threshold such as 'centroid:threshold=0.9' (centroid, ple, joint, "
                "variance), or one that decides as frames come, with initial_state and step"
            )
        settings = EncoderOptions(
            choice.policy,
            choice.max_duration,
            choice.num_codebooks,
            choice.margins,
            given.windows or STREAM_WINDOWS,
            lookahead_frames,
            chunk_frames,
        )
        tokenizer = FlexiCodecStreamingTokenizer(self, settings, choice.info)
        same = {name: value for name, value in options.items() if name not in ("windows", "policy")}
        if policy is not None:
            same["policy"] = policy
        kind = StreamingEncoder if lookahead_frames is None else EarlyStreamingEncoder
        return kind(self, tokenizer, settings, batch_size, same)

    def stream_stages(self, settings: DecoderOptions) -> list[StreamingModule]:
        """Return the modules that a streaming decoder runs: `stream_inputs` in, samples [B, 1, S] out."""
        return streaming_decode.stages(self, settings)

    def stream_inputs(self, tokens: Tokens) -> Float[Tensor, "batch channels tokens"]:
        """Look up the inputs of the first module; `tokens` are checked and on the model's device."""
        return streaming_decode.inputs(self, tokens)

    # --------------------------------------------------------------------------------------------------------- choices

    def _groups(self, lengths: Int[Tensor, " batch"], windows: Windows | None) -> list[tuple[slice, bool]]:
        """Split a batch of clips of so many frames: the rows that run side by side, and whether they run in pieces.

        Clips longer than a window run in pieces, one by one, and so do the others beside them. Ragged batches run clip
        by clip on the CPU, where the time that padding takes is lost.
        """
        counts = lengths.tolist()  # a single wait for a GPU
        longest = max(counts)
        limit = inf if windows is None else windows.seconds * self.base_frame_rate
        ragged = False
        if len(counts) > 1 and self.device.type == "cpu":
            ragged = 1 - sum(counts) / (len(counts) * longest) > MAX_PADDED_SHARE
        if longest <= limit and not ragged:
            return [(slice(None), False)]
        return [(slice(i, i + 1), count > limit) for i, count in enumerate(counts)]

    def is_windowed(self, num_codebooks: int | None = None) -> bool:
        """Tell whether tokens depend on a limited part of a clip, so that pieces and streams can equal the whole.

        Args:
            num_codebooks: Acoustic codebooks in use; None for all.
        """
        count = self.num_codebooks if num_codebooks is None else num_codebooks
        # Stages built for streams know whether their attention is limited.
        encoder = StreamedSemanticEncoder(self, None)
        quantizers = StreamedQuantizers(self, count, Windows().steps(self.base_frame_rate))
        return encoder.exact and quantizers.exact

    def _choose(self, options: EncodeOptions) -> ResolvedOptions:
        """Check what a call says about its tokens, with the model's own values where it says nothing."""
        # None has a meaning for max_duration (no limit), so UNSET stands for the model's own.
        merging = self.config.merging
        max_duration = self.max_duration if options.max_duration is UNSET else options.max_duration
        max_duration = check_max_duration(max_duration)
        num_codebooks = self.num_codebooks if options.num_codebooks is None else options.num_codebooks
        # True is an Integral and no count.
        whole = isinstance(num_codebooks, Integral) and not isinstance(num_codebooks, bool)
        if not whole or not 0 <= num_codebooks <= self.num_codebooks:
            raise ValueError(
                f"num_codebooks is {num_codebooks!r}, but this model has {self.num_codebooks} acoustic codebooks, of "
                f"which 0 to {self.num_codebooks} can be used; the semantic codebook is not counted"
            )
        policy, info = resolve_policy(
            merging.threshold if merging else None,
            self.base_frame_rate,
            max_duration,
            threshold=options.threshold,
            frame_rate=options.frame_rate,
            durations=options.durations,
            policy=options.policy,
            default_policy=merging.policy if merging else "rate",
        )
        return ResolvedOptions(policy, options.durations, max_duration, int(num_codebooks), options.margins, info)
