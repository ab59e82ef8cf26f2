"""The contract every codec of this package keeps: audio in, `Tokens` out, and back."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn

import flexicodec
from flexicodec.config import from_dict
from flexicodec.io_utils import replacing
from flexicodec.models.precision import Precision
from flexicodec.models.streaming.decoder import DecoderOptions, StreamingDecoder
from flexicodec.models.streaming.encoder import StreamingEncoder
from flexicodec.nn.onednn import clear_cache
from flexicodec.nn.snake import compile_activations
from flexicodec.nn.streaming import StreamingModule
from flexicodec.token_format import check_not_empty
from flexicodec.tokens import TokenFormat, Tokens
from flexicodec.weights import drop_modules, unloaded_modules

Method = TypeVar("Method", bound=Callable[..., Any])


class _Unset:
    """What the model was trained with, for arguments where None already means something."""

    def __repr__(self) -> str:
        return "<the model's own>"


UNSET: Any = _Unset()

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"


def inference_call(method: Method) -> Method:
    """Run a codec's public method without gradients and outside a caller's autocast, so that tokens repeat."""

    @wraps(method)
    def wrapped(self: "Codec", *arguments: Any, **choices: Any) -> Any:
        weight = next(self.parameters(), None)  # an export has none
        if weight is not None and weight.dtype != torch.float32:
            raise ValueError(
                f"this model's weights are {weight.dtype}; codecs keep theirs in float32 (model.float()), and work in "
                "half the precision by precision='bfloat16'"
            )
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return method(self, *arguments, **choices)

    return cast(Method, wrapped)


def check_samples(samples: Any) -> Tensor:
    """Return counts of samples as a tensor.

    Raises:
        ValueError: No whole number of samples, or none at all.
    """
    lengths = torch.as_tensor(samples)
    if lengths.dtype == torch.bool or lengths.is_floating_point() or bool((lengths < 1).any()):
        raise ValueError(f"samples is {samples!r}; expected a whole number, 1 or more (not seconds)")
    return lengths


class Codec(nn.Module, ABC):
    """A model that turns audio into `Tokens` and tokens into audio.

    Attributes:
        model_type: Name of the family, written into `config.json`.
        sample_rate: Hz of the audio it takes and gives.
        frame_size: Samples in one frame of the grid.
        token_modules: Submodules whose weights decide what tokens mean; the fingerprint covers these alone.
        parts: Submodules that each choice of parts keeps; see `keep`.
    """

    model_type: str
    sample_rate: int
    frame_size: int
    token_modules: tuple[str, ...]
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __init__(self) -> None:
        super().__init__()
        self._fingerprint: tuple[str, int] | None = None  # and the state of the weights it names
        self._decoder_fingerprint: tuple[str, int] | None = None

    @property
    def base_frame_rate(self) -> float:
        """Frames per second of the grid; a token holds one frame or more."""
        return self.sample_rate / self.frame_size

    @property
    @abstractmethod
    def num_codebooks(self) -> int:
        """Acoustic layers the model has; the semantic one is not counted."""

    @property
    @abstractmethod
    def format(self) -> TokenFormat:
        """What this model's tokens look like."""

    @abstractmethod
    def encode(self, audio: Any, lengths: Any = None, **choices: Any) -> Tokens:
        """Turn audio into tokens."""

    def features(self, audio: Any, lengths: Any = None, **choices: Any) -> Any:
        """Run the encoders alone, where a family can make tokens at several rates from what they give."""
        raise NotImplementedError(f"{type(self).__name__} has one rate only; use encode")

    def tokenize(self, features: Any, **choices: Any) -> Tokens:
        """Turn `features` into tokens."""
        raise NotImplementedError(f"{type(self).__name__} has one rate only; use encode")

    def embed(self, tokens: Tokens) -> Float[Tensor, "batch dim tokens"]:
        """Look up one vector per token, zero at padding."""
        raise NotImplementedError(f"{type(self).__name__} has no vectors per token")

    def num_frames(self, samples: Any) -> Any:
        """Count the frames of clips of so many samples: what their durations must sum to."""
        raise NotImplementedError(f"{type(self).__name__} does not say how many frames clips have")

    @abstractmethod
    def decode(self, tokens: Tokens, *, precision: Precision = "float32") -> Float[Tensor, "batch samples"]:
        """Turn tokens into audio [B, S] at `sample_rate`, exactly `audio_lengths` long where these are known."""

    def streaming_decoder(self, batch_size: int = 1, **settings: Any) -> StreamingDecoder:
        """Open a stream that decodes tokens as they come; see `flexicodec.models.streaming.decoder`.

        Args:
            batch_size: Streams side by side; each may be reset by itself.
            settings: Those of `DecoderOptions`, such as `lookahead_frames`.

        Raises:
            ValueError: A setting is out of its range or unknown.
        """
        return StreamingDecoder(self, batch_size, from_dict(DecoderOptions, settings))

    def streaming_encoder(self, batch_size: int = 1, **choices: Any) -> StreamingEncoder:
        """Open a stream that encodes audio as it comes; see `flexicodec.models.streaming.encoder`.

        Args:
            batch_size: Streams side by side; each may be reset by itself.
            choices: Those of the family.

        Raises:
            ValueError: A choice is out of its range, or needs the whole clip.
        """
        raise NotImplementedError(f"{type(self).__name__} does not encode streams")

    def stream_stages(self, settings: DecoderOptions) -> Sequence[StreamingModule]:
        """What a streaming decoder sends tokens through: their `stream_inputs` in, samples [B, 1, S] out."""
        raise NotImplementedError(f"{type(self).__name__} does not stream")

    def stream_inputs(self, tokens: Tokens) -> Float[Tensor, "batch channels tokens"]:
        """Look up what the first stage takes, token by token; `tokens` are checked and on the model's device."""
        raise NotImplementedError(f"{type(self).__name__} does not stream")

    @abstractmethod
    def config_dict(self) -> dict[str, Any]:
        """The resolved config as JSON-able values, enough to build the model again."""

    def token_settings(self) -> dict[str, Any]:
        """The part of the config that decides what tokens mean; the whole of it unless a family says otherwise."""
        return self.config_dict()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Codec":
        clear_cache(self.parameters())
        return cast(Codec, super()._apply(fn, recurse))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def fingerprint(self) -> str:
        """Names the weights and settings that give tokens their meaning.

        Read from `config.json` where the model was saved, else computed at first use, and again after weights were
        written to (by training, say). Weights are hashed as half precision, so that storing a model in half precision
        keeps its name.
        """
        if self._fingerprint is None or (self._fingerprint[1] != self._weight_version() and not unloaded_modules(self)):
            self.set_fingerprint(self.compute_fingerprint())
        assert self._fingerprint is not None
        return self._fingerprint[0]

    @property
    def decoder_fingerprint(self) -> str:
        """Names what turns latents into audio as well, which tokens do not depend on; see `fingerprint`."""
        version = self._weight_version()
        if self._decoder_fingerprint is None or self._decoder_fingerprint[1] != version:
            config = json.dumps([self.fingerprint, self.config_dict()], sort_keys=True)
            self._decoder_fingerprint = self._hash(config, lambda part: part not in self.token_modules), version
        return self._decoder_fingerprint[0]

    def set_fingerprint(self, fingerprint: str) -> None:
        """Take over the name that a saved model's config gives it, instead of hashing its weights again."""
        self._fingerprint = (fingerprint, self._weight_version())

    def keep(self, parts: str) -> None:
        """Let go of what a use of the model does not need.

        Args:
            parts: "all" for everything, "encode" for what makes tokens, "decode" for what makes audio of them, and
                where the family has it "semantic" for what makes semantic tokens alone.

        Raises:
            ValueError: There is no such choice.
        """
        choices = ("all", *self.parts)
        if parts not in choices:
            raise ValueError(f"parts is {parts!r}; {type(self).__name__} has {', '.join(map(repr, choices))}")
        if parts != "all":
            drop_modules(self, self.parts[parts], parts)

    def compile(self) -> None:
        """Make encoding and decoding on the CPU faster, with PyTorch's compiler.

        It compiles what gains most, the activations between convolutions (Snake), into one pass over their values: some
        ten seconds now, and two more for another number of threads. Values are rounded as without.

        Raises:
            ValueError: The model is not on the CPU, or PyTorch's compiler does not work here.
        """
        if self.device.type != "cpu":
            raise ValueError(f"the model is on {self.device}; compiling makes it faster on the CPU alone")
        compile_activations(self)

    def _weight_version(self) -> int:
        """Count the writes to the weights, as torch does for autograd."""
        count, modules = 0, [cast(nn.Module, self)]
        while modules:  # `parameters()` takes ten times as long, and every call of the codec asks
            module = modules.pop()
            modules.extend(child for child in module._modules.values() if child is not None)
            for tensors in (module._parameters, module._buffers):
                # what was made in inference mode is never written to
                count += sum(t._version for t in tensors.values() if t is not None and not t.is_inference())
        return count

    def compute_fingerprint(self) -> str:
        """Hash the weights of `token_modules` and the settings beside them; 16 hexadecimal digits.

        Raises:
            ValueError: Some of them were not loaded.
        """
        self._check_whole("named by its weights")
        return self._hash(json.dumps(self.token_settings(), sort_keys=True), lambda part: part in self.token_modules)

    def _hash(self, settings: str, counts: Callable[[str], bool]) -> str:
        """Hash settings and the weights of those parts that count."""
        digest = hashlib.sha256(settings.encode())
        for name, tensor in sorted(self.state_dict().items()):
            if counts(name.split(".")[0]):
                digest.update(f"{name}{tuple(tensor.shape)}".encode())
                digest.update(np.ascontiguousarray(tensor.detach().to("cpu", torch.float16).numpy()).data)
        return digest.hexdigest()[:16]

    def _check_whole(self, what: str) -> None:
        if absent := unloaded_modules(self):
            raise ValueError(
                f"a model without its {', '.join(absent)} cannot be {what}; load it with parts='all', the default"
            )

    def check_tokens(self, tokens: Tokens, *, may_be_empty: bool = False) -> None:
        """Refuse tokens this model cannot decode.

        Args:
            tokens: What came.
            may_be_empty: Clips may have no tokens, as in a stream.

        Raises:
            ValueError: They are no `Tokens`, were made by another model, lie on another grid, or hold codes or
                codebooks it lacks.
        """
        if not isinstance(tokens, Tokens):
            raise ValueError(
                f"decode takes Tokens, got a {type(tokens).__name__}; "
                "codes become Tokens by flexicodec.Tokens(semantic=..., acoustic=..., durations=..., "
                "format=codec.format)"
            )
        if not may_be_empty:
            check_not_empty(tokens.token_lengths)
        theirs, ours = tokens.format, self.format
        if theirs.fingerprint is not None and theirs.fingerprint != ours.fingerprint:
            raise ValueError(
                f"these tokens were made by another model: fingerprint {theirs.fingerprint} "
                f"({theirs.model or 'unnamed'}), and this one's is {ours.fingerprint} ({ours.model or 'unnamed'}); "
                "load the model that encoded them"
            )
        if (theirs.sample_rate, theirs.frame_size) != (ours.sample_rate, ours.frame_size):
            raise ValueError(
                f"tokens lie on a grid of {theirs.frame_size} samples at {theirs.sample_rate} Hz, this model's is "
                f"{ours.frame_size} at {ours.sample_rate} Hz; were they made by another codec?"
            )
        if (tokens.semantic is None) != (ours.semantic_codebook_size is None):
            raise ValueError(
                f"the tokens have {'no ' if tokens.semantic is None else ''}semantic codes and this model "
                f"{'has none' if ours.semantic_codebook_size is None else 'needs them'}"
            )
        if tokens.num_codebooks > self.num_codebooks:
            raise ValueError(
                f"tokens hold {tokens.num_codebooks} acoustic codebooks and the model has {self.num_codebooks}; "
                "the semantic codebook is not counted here"
            )
        if ours.parallel_codebooks and tokens.num_codebooks < self.num_codebooks:
            raise ValueError(
                f"tokens hold {tokens.num_codebooks} of this model's {self.num_codebooks} parallel codebooks, which "
                "only mean something together"
            )
        for name, codes, size in (
            ("semantic", tokens.semantic, ours.semantic_codebook_size),
            ("acoustic", tokens.acoustic, ours.acoustic_codebook_size),
        ):
            if codes is not None and codes.numel() and size is not None and int(codes.max()) >= size:
                raise ValueError(
                    f"{name} code {int(codes.max())} is out of range: this model's codebook has {size} entries "
                    f"(0 to {size - 1}); is a vocabulary offset still added?"
                )

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> Path:
        """Write `config.json` and `model.safetensors`, which `flexicodec.load(folder)` opens again.

        Args:
            folder: Made if missing. Each file appears at once, by rename.
            dtype: Store floating weights so (torch.float16 halves the file); None keeps them as they are. The
                fingerprint does not change.

        Raises:
            ValueError: Parts of the model were not loaded.
        """
        self._check_whole("saved")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {}
        for name, tensor in self.state_dict().items():
            tensor = tensor.detach().cpu().contiguous()
            state[name] = tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor.clone()
        config = {
            "model_type": self.model_type,
            "fingerprint": self.compute_fingerprint(),
            "flexicodec_lab_version": flexicodec.__version__,
            "config": self.config_dict(),
        }
        with replacing(folder / WEIGHTS_NAME) as weights, replacing(folder / CONFIG_NAME) as settings:
            save_file(state, weights, metadata={"format": "pt"})
            settings.write_text(json.dumps(config, indent=2) + "\n")
            weights.chmod(settings.stat().st_mode)  # safetensors makes its files readable by the owner alone
        return folder
