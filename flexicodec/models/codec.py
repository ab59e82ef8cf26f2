"""The interface of all codecs: audio to `Tokens` and back, options of `encode`, saving, and the fingerprint."""

import copy
import difflib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

import flexicodec
from flexicodec.audio import Channels
from flexicodec.models.fingerprint import current_weights, forget_weights, hash_weights, inference_call, sampled_values
from flexicodec.models.pickling import holding_values
from flexicodec.models.streaming.state import Windows
from flexicodec.nn.snake import compile_activations
from flexicodec.tokens import TokenFormat, Tokens
from flexicodec.weights import SHIPPED_PARTS, drop_modules, pack_rows, unloaded_modules, unpack, write_model_folder

if TYPE_CHECKING:
    from typing_extensions import Self

Precision = Literal["float32", "bfloat16"]


class _Unset:
    """Default of arguments for which None already has a meaning."""

    def __repr__(self) -> str:
        return "<the model's own>"


UNSET: Any = _Unset()

WINDOWS = Windows()


@dataclass(frozen=True)
class EncodeOptions:
    """Options of `Codec.encode`, where they are documented; some serve other methods too."""

    threshold: Any = None
    frame_rate: Any = None
    durations: Any = None
    policy: Any = None
    max_duration: int | None = UNSET
    num_codebooks: int | None = None
    sample_rate: int | None = None
    channels: Channels | None = None
    windows: Windows | None = WINDOWS
    precision: Precision = "float32"
    margins: bool = False
    compatible: bool = False


ENCODE_OPTIONS = tuple(field.name for field in fields(EncodeOptions))
DECODE_OPTIONS = ("windows", "precision", "compatible")
TOKENS = "tokens"  # the fingerprint among the names of a `WeightSnapshot`


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Compute matrix products and convolutions in a precision; weights stay as they are."""
    if torch.compiler.is_exporting():  # a graph works in what its weights are
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def check_samples(samples: Any) -> Tensor:
    """Return counts of samples as a tensor.

    Raises:
        ValueError: No whole number of samples, or none at all.
    """
    # True and 1.0 would pass for counts.
    lengths = samples if isinstance(samples, Tensor) else torch.as_tensor(samples, device="cpu")
    if lengths.dtype == torch.bool or lengths.is_floating_point() or bool((lengths < 1).any()):
        raise ValueError(f"samples is {samples!r}; expected a whole number, 1 or more (not seconds)")
    return lengths


class Codec(nn.Module, ABC):
    """A model that turns audio into `Tokens` and tokens into audio.

    Attributes:
        model_type: Name of the family, written into `config.json`.
        sample_rate: Hz of the audio it takes; `Tokens.audio_lengths` count samples at this rate.
        frame_size: Samples per frame of the grid, of that audio.
        token_modules: Submodules whose weights decide what tokens mean; only these are in the fingerprint.
        parts: Submodules that each choice of `load(parts=)` keeps.
    """

    model_type: str
    sample_rate: int
    frame_size: int
    token_modules: tuple[str, ...]
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    @classmethod
    def random(cls, config: Any = None, seed: int = 0) -> "Self":
        """Return a model with random weights, the same for the same seed, in eval mode.

        Args:
            config: Of the family; None means that of the released size.
            seed: Of the weights; the global random state stays as it is.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config).eval()

    def forward(self, *_: Any, **__: Any) -> NoReturn:
        """Raise a ValueError that names what to call instead."""
        raise ValueError(
            f"a {type(self).__name__} is not called itself: encode(audio) makes tokens, and decode(tokens) audio"
        )

    @property
    def base_frame_rate(self) -> float:
        """Frames per second of the grid; a token holds one frame or more."""
        return self.sample_rate / self.frame_size

    @property
    def output_sample_rate(self) -> int:
        """Hz of decoded audio; that of the audio it takes, but for a FlexiCodec with another upsampler."""
        return self.sample_rate

    @property
    def output_frame_size(self) -> int:
        """Samples of decoded audio per frame of the grid."""
        return self.frame_size * self.output_sample_rate // self.sample_rate

    def output_lengths(self, samples: Any) -> Any:
        """Count the samples that clips of so many samples at `sample_rate` (an int, or a tensor) are decoded to."""
        # rounded up, as in resampling; whole frames have no rest
        return -(-samples * self.output_sample_rate // self.sample_rate)

    @property
    @abstractmethod
    def num_codebooks(self) -> int:
        """Acoustic codebooks; the semantic one is not counted."""

    @property
    @abstractmethod
    def format(self) -> TokenFormat:
        """Grid, codebook sizes and fingerprint of this model's tokens."""

    @inference_call
    def encode(self, audio: Any, lengths: Any = None, **options: Any) -> Tokens:
        """Turn audio into tokens.

        Args:
            audio: [S] or [B, S], tensor or array, float in [-1, 1] or int16; [B, C, S] where `channels` is given. Or
                torchcodec's `AudioSamples` or `AudioDecoder`, which know their rate.
            lengths: Valid samples of each item, of the audio as passed; None means all.
            options: The keyword arguments below; a family refuses those it does not have.

        Options:
            threshold: Merge neighbouring frames whose cosine similarity exceeds this (tau in the paper): in [-1, 1],
                one number or one per item; 1 never merges. Mutually exclusive with frame_rate and durations. Default:
                the model's own.
            frame_rate: Tokens per second, one number or one per item, met as closely as whole tokens allow.
            durations: Frames per token [B, N], padded with 0; they sum to `num_frames` of each item.
            policy: Name of a rule, with settings behind a colon ("joint:acoustic=0.3,cap=6"); docs/merging.md lists
                them. It spends `frame_rate` or compares with `threshold`, or its settings decide the rate
                ("variance:price=0.2"). Default: the model's `merging.policy` for `frame_rate`, similarities of
                neighbours for `threshold`. Or a `MergingPolicy`, which decides by itself.
            max_duration: Largest number of frames per token; None for no limit. Default: the model's own.
            num_codebooks: Acoustic codebooks, 0 for semantic tokens only. Default: all.
            sample_rate: Hz of the audio, resampled where it differs from the codec's. Default: the codec's.
            channels: "mix" averages the channels of [B, C, S]; "error" refuses more than one.
            windows: How clips longer than one window are encoded; None encodes every clip as a whole. Where attention
                spans the clip this changes features; see `Windows`. No effect on convolutional codecs.
            precision: "bfloat16" runs transformers (NanoCodec: convolutions) in half precision. It is faster and flips
                some codes, which are decided in float32.
            margins: Compute how far every boundary and code was from flipping: `Tokens.margins`.
            compatible: NanoCodec and LFSC: pad the shorter clips of a batch as NeMo does, so that their ends differ
                from those of the same clip alone.

        Raises:
            ValueError: Empty audio, NaN or Inf, wrong rank, lengths that do not fit, more than one choice of rate, a
                value out of range, or an option this family does not have. Options are checked before the audio.
        """
        return self._encode(audio, lengths, self.read_options(options))

    def _encode(self, audio: Any, lengths: Any, options: EncodeOptions) -> Tokens:
        """Encode with checked option names."""
        raise NotImplementedError

    @property
    def fixed_options(self) -> Mapping[str, Any]:
        """Options of `encode` this family does not have, with the one value each may take beside None."""
        return {}

    def read_options(
        self, options: Mapping[str, Any], of: str = "encode", names: Sequence[str] = ENCODE_OPTIONS
    ) -> EncodeOptions:
        """Turn keyword arguments into `EncodeOptions`.

        Args:
            options: The arguments.
            of: The method they are for.
            names: Those it takes.

        Raises:
            ValueError: An unknown option, or one this family does not have.
        """
        # All options that the family does not have are reported at once.
        fixed = self.fixed_options
        given = {}
        refused = []
        for name, value in options.items():
            if name not in names:
                raise ValueError(_unknown_option(self, of, name, [each for each in names if each not in fixed]))
            if name not in fixed:
                given[name] = value
            elif not _is_default(value, fixed[name]):
                refused.append(self.why_unsupported(name, value))
        if refused:
            raise ValueError("; ".join(refused))
        precision = given.get("precision", "float32")
        if precision not in get_args(Precision):
            raise ValueError(f"precision is {precision!r}; expected {' or '.join(map(repr, get_args(Precision)))}")
        return EncodeOptions(**given)

    def why_unsupported(self, name: str, value: Any) -> str:
        """Say why an option of `fixed_options` cannot have this value."""
        return f"{name} is {value!r}, which {type(self).__name__} does not have; leave it out"

    def features(self, audio: Any, lengths: Any = None, **options: Any) -> Any:
        """Run the encoders once; `tokenize` then makes tokens at any number of rates."""
        raise NotImplementedError(f"{type(self).__name__} has one rate only; use encode")

    def tokenize(self, features: Any, **options: Any) -> Tokens:
        """Turn `features` into tokens."""
        raise NotImplementedError(f"{type(self).__name__} has one rate only; use encode")

    @inference_call
    def embed(self, tokens: Tokens, per_codebook: bool = False) -> Float[Tensor, "batch *codebooks dim tokens"]:
        """Look up one vector per token, summed or stacked over its codes: the decoder's input, zero at padding.

        Args:
            tokens: Made by this model.
            per_codebook: Return [B, codebooks, D, N], what each code adds to that vector: the semantic one first, then
                the acoustic ones in use.

        Raises:
            ValueError: The tokens belong to another model, or hold codes this one lacks.
        """
        self.check_tokens(tokens)
        if tokens.durations.device != self.device:
            tokens = tokens.to(self.device)
        return self._dequantize_each(tokens) if per_codebook else self._dequantize(tokens)

    def codebook_vectors(self) -> dict[str, Float[Tensor, "codebooks codes dim"]]:
        """Return the vectors of all codes, to start the embeddings of a language model from.

        Those of "acoustic" are what `embed(per_codebook=True)` looks up. Those of "semantic" come before the layers
        that look at neighbouring tokens.
        """
        raise NotImplementedError

    def _dequantize(self, tokens: Tokens) -> Float[Tensor, "batch dim tokens"]:
        """Look up the vectors of checked tokens."""
        raise NotImplementedError

    def _dequantize_each(self, tokens: Tokens) -> Float[Tensor, "batch codebooks dim tokens"]:
        """Look up the vectors of checked tokens, codebook by codebook."""
        raise NotImplementedError

    def num_frames(self, samples: Any) -> Any:
        """Count the frames of clips of so many samples: what their durations must sum to."""
        raise NotImplementedError(f"{type(self).__name__} does not say how many frames clips have")

    @inference_call
    def decode(self, tokens: Tokens, **options: Any) -> Float[Tensor, "batch samples"]:
        """Turn tokens into audio.

        Args:
            tokens: Made by this model.
            options: `windows`, `precision` and `compatible`, as for `encode`: how clips longer than one window are
                decoded, half precision (some 32 dB or more below the audio), and NeMo's padding.

        Returns:
            [B, S] at `output_sample_rate`, zero past the `output_lengths` of each clip's `audio_lengths`. Where these
            are unknown, a clip is as long as its frames.

        Raises:
            ValueError: The tokens belong to another model or hold codes this one lacks, or an option is wrong.
        """
        choices = self.read_options(options, of="decode", names=DECODE_OPTIONS)
        self.check_tokens(tokens)
        if tokens.durations.device != self.device:  # `to` copies always
            tokens = tokens.to(self.device)
        return self._decode(tokens, choices)

    def _decode(self, tokens: Tokens, options: EncodeOptions) -> Float[Tensor, "batch samples"]:
        """Decode checked tokens."""
        raise NotImplementedError

    def streaming_decoder(self, batch_size: int = 1, **options: Any) -> Any:
        """Open a `StreamingDecoder`: tokens in, audio out.

        Args:
            batch_size: Number of independent streams; each can be reset.
            options: Those of `DecoderOptions`, such as `lookahead_frames`.

        Raises:
            ValueError: An option is unknown or out of its range.
        """
        raise NotImplementedError(f"{type(self).__name__} does not decode streams")

    def streaming_encoder(self, batch_size: int = 1, **options: Any) -> Any:
        """Open a `StreamingEncoder`: audio in, tokens out.

        Args:
            batch_size: Number of independent streams; each can be reset.
            options: Those of `encode` that the family takes for streams, `lookahead_frames` and `chunk_frames`.

        Raises:
            ValueError: An option is out of its range, or needs the whole clip.
        """
        raise NotImplementedError(f"{type(self).__name__} does not encode streams")

    @property
    def decoder_context_frames(self) -> int | None:
        """Frames before its own that decoded audio depends on; None where attention spans the clip.

        Measured at first use, by decoding two short clips. A decoder without states needs as many tokens of context
        before a chunk, at any rate; what it needs behind it are `lookahead_tokens` and `lookahead_frames` of
        `streaming_decoder()`.
        """
        from flexicodec.models.streaming.code_to_wave import measure_context

        return measure_context(self)

    def stream_stages(self, settings: Any) -> Any:
        """Return the modules that a streaming decoder runs: `stream_inputs` in, samples [B, 1, S] out."""
        raise NotImplementedError(f"{type(self).__name__} does not stream")

    def stream_inputs(self, tokens: Tokens) -> Float[Tensor, "batch channels tokens"]:
        """Look up the inputs of the first of these modules; `tokens` are checked and on the model's device."""
        raise NotImplementedError(f"{type(self).__name__} does not stream")

    @abstractmethod
    def config_dict(self) -> dict[str, Any]:
        """Return the config as JSON values, enough to build the model again."""

    def token_settings(self) -> dict[str, Any]:
        """Return the part of the config that decides what tokens mean; by default all of it."""
        return self.config_dict()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Codec":
        # Called by to(), half() and the like: weights whose values stay keep their name, as they do on another device.
        known = [(weights.names, sampled_values(weights.tensors)) for weights in current_weights(self)]
        forget_weights(self)
        super()._apply(fn, recurse)
        for weights, (names, values) in zip(current_weights(self), known, strict=True):
            if names and np.array_equal(sampled_values(weights.tensors), values, equal_nan=True):
                weights.names.update(names)
        return self

    def _state(self) -> dict[str, Any]:
        # Copies compute their fingerprint; that of a part of a model goes with it.
        name = current_weights(self)[0].names.get(TOKENS) if unloaded_modules(self) else None
        return {**self.__dict__, "_name_of_part": name}

    def __getstate__(self) -> dict[str, Any]:
        return holding_values(self, self._state())

    def __copy__(self) -> "Codec":
        copied = type(self).__new__(type(self))
        copied.__setstate__(self._state())
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> "Codec":
        copied = memo[id(self)] = type(self).__new__(type(self))
        copied.__setstate__(copy.deepcopy(self._state(), memo))
        return copied

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        super().__setstate__({key: value for key, value in state.items() if key != "_name_of_part"})
        if name := state.get("_name_of_part"):
            self.set_fingerprint(name)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    @property
    def fingerprint(self) -> str:
        """Hash of the weights and settings that give tokens their meaning.

        Read from `config.json` of a saved model, else computed at first use, and again after weights changed;
        `WeightSnapshot` says which changes are noticed. Weights are hashed in half precision, so that storing a model
        in half precision keeps it.

        Raises:
            ValueError: Weights of a model that was loaded in part have changed.
        """
        names = current_weights(self)[0].names
        if TOKENS not in names:
            names[TOKENS] = self.compute_fingerprint()
        return names[TOKENS]

    @property
    def decoder_fingerprint(self) -> str:
        """Hash that also covers the decoder, on which tokens do not depend; see `fingerprint`."""
        tokens, others = current_weights(self)
        name = tokens.names.get(TOKENS) or self.fingerprint
        if name not in others.names:
            # It covers the weights of all modules that the other fingerprint leaves out.
            config = json.dumps([name, self.config_dict()], sort_keys=True)
            others.names[name] = self._hash(config, token_modules=False)
        return others.names[name]

    def set_fingerprint(self, fingerprint: str) -> None:
        """Use the fingerprint of a saved model's config, instead of hashing its weights again."""
        current_weights(self)[0].names[TOKENS] = fingerprint

    def keep(self, parts: str) -> None:
        """Drop the modules that a use of the model does not need.

        Args:
            parts: "all" drops nothing; "encode", "decode", or, where the family has it, "semantic".
        """
        # "all" drops nothing, so it has no entry in `parts`.
        choices = ("all", *self.parts)
        if parts not in choices:
            raise ValueError(f"parts is {parts!r}; {type(self).__name__} has {', '.join(map(repr, choices))}")
        if parts == "all":
            return
        # Named while all is there; a model without values yet is named by its loader.
        name = None if self.device.type == "meta" else self.fingerprint
        drop_modules(self, self.parts[parts], parts)
        if name is not None:
            self.set_fingerprint(name)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Make encoding and decoding on the CPU faster, with PyTorch's compiler.

        The activations between convolutions (Snake) gain most and are compiled into one pass each. This takes some ten
        seconds, and two more for another number of threads. Results are rounded as without.

        Args:
            args: As in `torch.nn.Module.compile`.
            kwargs: Those of `torch.compile`, such as `backend` and `mode`.

        Raises:
            ValueError: The model is not on the CPU, or PyTorch's compiler does not work here.
        """
        if self.device.type != "cpu":
            raise ValueError(f"the model is on {self.device}; compiling makes it faster on the CPU only")
        compile_activations(self, *args, **kwargs)

    def compute_fingerprint(self) -> str:
        """Hash the weights of `token_modules` and the settings beside them; 16 hexadecimal digits.

        Raises:
            ValueError: Some of them were not loaded.
        """
        self._check_whole("named by its weights", self.token_modules)
        return self._hash(json.dumps(self.token_settings(), sort_keys=True), token_modules=True)

    def _hash(self, settings: str, token_modules: bool) -> str:
        """Hash settings and the weights that tokens depend on, or those they do not."""

        def counts(name: str) -> bool:
            return (name.split(".")[0] in self.token_modules) == token_modules

        return hash_weights(self.state_dict(), settings, torch.float16, counts)

    def _check_whole(self, what: str, modules: Sequence[str] | None = None) -> None:
        absent = [name for name in unloaded_modules(self) if modules is None or name in modules]
        if absent:
            raise ValueError(
                f"a model without its {', '.join(absent)} cannot be {what}; load it with parts='all', the default"
            )

    def check_tokens(self, tokens: Tokens, *, may_be_empty: bool = False) -> None:
        """Refuse tokens this model cannot decode.

        Args:
            tokens: To be decoded.
            may_be_empty: Clips may have no tokens, as in a stream.

        Raises:
            ValueError: Not `Tokens`, made by another model, of another grid, or with codes or codebooks it lacks.
        """
        self.format.check(tokens, self.num_codebooks, may_be_empty=may_be_empty)

    def save_pretrained(
        self, folder: str | Path, dtype: torch.dtype | None = None, *, transformers: bool = False
    ) -> Path:
        """Write `config.json` and `model.safetensors`, which `flexicodec.load(folder)` opens again.

        Args:
            folder: Created if missing. Each file appears at once, by rename.
            dtype: Of the stored floating-point weights (torch.float16 halves the file); None keeps theirs. The
                fingerprint does not change, except with torch.int8: it rounds rows of matrices to 8 bits, which makes
                another model that sounds alike, in half of that file. A frozen encoder with the weights that ship
                with this package is not stored again: `config.json` then names them.
            transformers: Also write what `AutoModel.from_pretrained(folder, trust_remote_code=True)` needs; FlexiCodec
                only. See `flexicodec.transformers_model`.

        Raises:
            ValueError: Parts of the model were not loaded, or transformers cannot open this family.
        """
        self._check_whole("saved")
        remote_code = self._remote_code() if transformers else None
        state = self.state_dict()
        shipped = self.shipped_parts()
        if shipped:
            state = {name: value for name, value in state.items() if name.split(".")[0] not in shipped}
        named = self  # whose fingerprint the folder gets
        if dtype is torch.int8:
            state = pack_rows(state)
            dtype = None
            named = copy.deepcopy(self)
            named.load_state_dict(unpack(state), strict=not shipped)
        held = {
            "model_type": self.model_type,
            "fingerprint": named.compute_fingerprint(),
            "flexicodec_lab_version": flexicodec.__version__,
            "config": self.config_dict(),
        }
        if shipped:
            held[SHIPPED_PARTS] = shipped
        if remote_code is None:
            return write_model_folder(folder, held, state, dtype)
        # Code first: a folder that has the config is complete.
        Path(folder).mkdir(parents=True, exist_ok=True)
        remote_code.write_remote_code(self, Path(folder))
        return write_model_folder(folder, held | remote_code.remote_code_entries(self), state, dtype)

    def _remote_code(self) -> Any:
        """Return the module that makes folders for transformers."""
        if self.model_type != "flexicodec":
            raise ValueError(f"transformers=True is for a FlexiCodec; flexicodec.load opens a {type(self).__name__}")
        from flexicodec import transformers_model  # imports transformers

        return transformers_model

    def shipped_parts(self) -> dict[str, str]:
        """Return submodules whose weights ship with this package anyway, and the name of these; none by default."""
        return {}


def _unknown_option(codec: Codec, of: str, name: str, names: Sequence[str]) -> str:
    # The nearest name is the likely slip.
    close = difflib.get_close_matches(name, names, 1)
    slip = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{of} has no option {name!r}{slip} a {type(codec).__name__} takes {', '.join(names)}"


def _is_default(value: Any, fixed: Any) -> bool:
    """Tell whether an option is not set, or set to the one value a family has (within the rounding of a rate)."""
    if value is None or value is UNSET:
        return True
    # True == 1, so booleans and strings are compared with their like only.
    if fixed is None or isinstance(fixed, bool | str):
        return bool(value == fixed) if isinstance(value, bool | str) else False
    try:
        given = torch.as_tensor(value, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return False
    # Published rates are rounded: 21.5 Hz stands for 21.53.
    tolerance = 0.005 if isinstance(fixed, float) else 0.0
    return bool(((given / fixed - 1).abs() <= tolerance).all())
