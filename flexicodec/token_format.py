"""`TokenFormat`: what the integers of `Tokens` mean, and the checks of integers and of whole `Tokens` against it.

Tokens come from files, users and language models, so every check names the clip, the token and the likely mistake.
"""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

if TYPE_CHECKING:
    from flexicodec.tokens import Tokens

Integers = Tensor | np.ndarray | Sequence[Any]  # tensors, arrays and nested lists

_LARGEST = 2**32  # a file holds integers of at most 32 bits
_INTEGER_DTYPES = (
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
)
_AXES = {
    "semantic": ("batch", "tokens"),
    "acoustic": ("batch", "codebooks", "tokens"),
    "durations": ("batch", "tokens"),
    "audio_lengths": ("batch",),
}

# Models that shipped under the name of today's, by their fingerprints
FORMER_MODELS = {
    "3d7ea520873d56fa": "flexicodec-mini v1",
    "13b0e317ad4f119e": "flexicodec-mini v2 of 30 November 2026",
}


@dataclass(frozen=True)
class TokenFormat:
    """What the integers of `Tokens` mean: the frame grid, the codebook sizes, and the model that made them."""

    sample_rate: int = 16000  # Hz, of the audio that audio_lengths counts
    frame_size: int = 1280  # samples per frame of the grid
    semantic_codebook_size: int | None = 32768  # None: a codec without semantic codes
    acoustic_codebook_size: int = 4096  # of each acoustic codebook
    max_duration: int | None = 8  # frames per token; None: no cap; 1: fixed rate, durations cost no bits
    fingerprint: str | None = None  # of the weights that define the tokens
    model: str | None = field(default=None, compare=False)  # name, for people
    parallel_codebooks: bool = False  # acoustic codebooks are independent: a part of them cannot be decoded

    def __post_init__(self) -> None:
        optional = ("semantic_codebook_size", "max_duration")
        for name in ("sample_rate", "frame_size", "acoustic_codebook_size", *optional):
            value = getattr(self, name)
            if value is None and name in optional:
                continue
            if type(value) is not int or not 1 <= value <= _LARGEST:
                raise ValueError(f"{name} is {value!r}, expected an integer from 1 to {_LARGEST}")
        for name in ("fingerprint", "model"):
            if not isinstance(getattr(self, name), str | None):
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected a string or None")
        if not isinstance(self.parallel_codebooks, bool):
            raise ValueError(f"parallel_codebooks is {self.parallel_codebooks!r}, expected True or False")

    def __reduce__(self) -> Any:
        # `RELEASED` stays itself: its identity says that no format was given.
        return "RELEASED" if self is RELEASED else (TokenFormat, astuple(self))

    @property
    def base_frame_rate(self) -> float:
        """Frames of the grid per second, Hz."""
        return self.sample_rate / self.frame_size

    @property
    def semantic_bits(self) -> int:
        """Bits of one semantic code, 0 without semantic codes."""
        return 0 if self.semantic_codebook_size is None else (self.semantic_codebook_size - 1).bit_length()

    @property
    def acoustic_bits(self) -> int:
        """Bits of one acoustic code."""
        return (self.acoustic_codebook_size - 1).bit_length()

    @property
    def duration_bits(self) -> int | None:
        """Bits of one duration; None without a cap, where the longest token of each clip sets the width."""
        return None if self.max_duration is None else (self.max_duration - 1).bit_length()

    def check(self, tokens: "Tokens", num_codebooks: int, *, may_be_empty: bool = False) -> None:
        """Refuse tokens that a model of this format cannot decode.

        Args:
            tokens: Of any format.
            num_codebooks: Acoustic codebooks of the model.
            may_be_empty: Accept clips without tokens, as in a stream.

        Raises:
            ValueError: Not `Tokens`, of another model or grid, or with codes or codebooks that the model does not have.
        """
        from flexicodec.tokens import Tokens

        if not isinstance(tokens, Tokens):
            raise ValueError(
                f"decode takes Tokens, got a {type(tokens).__name__}; codes become Tokens by "
                "flexicodec.Tokens(semantic=..., acoustic=..., durations=..., format=codec.format)"
            )
        if not may_be_empty:
            check_not_empty(tokens.token_lengths)
        # The same model, then the same grid: whoever mixes up models learns which ones.
        theirs = tokens.format
        if theirs.fingerprint is not None and theirs.fingerprint != self.fingerprint:
            former = FORMER_MODELS.get(theirs.fingerprint)
            remedy = "load the model that encoded them"
            if former is not None:
                remedy = f"{former} ships no more: encode the audio again, or decode with the version that made them"
            raise ValueError(
                f"these tokens were made by another model: fingerprint {theirs.fingerprint} "
                f"({former or theirs.model or 'unnamed'}), and this one's is {self.fingerprint} "
                f"({self.model or 'unnamed'}); {remedy}"
            )
        if (theirs.sample_rate, theirs.frame_size) != (self.sample_rate, self.frame_size):
            raise ValueError(
                f"tokens lie on a grid of {theirs.frame_size} samples at {theirs.sample_rate} Hz, this model's is "
                f"{self.frame_size} at {self.sample_rate} Hz; were they made by another codec?"
            )
        # Streams of codes and their number.
        if tokens.semantic is None and self.semantic_codebook_size is not None:
            raise ValueError("the tokens have no semantic codes and this model needs them")
        if tokens.semantic is not None and self.semantic_codebook_size is None:
            raise ValueError("the tokens have semantic codes and this model has none")
        if tokens.num_codebooks > num_codebooks:
            raise ValueError(
                f"tokens hold {tokens.num_codebooks} acoustic codebooks and the model has {num_codebooks}; "
                "the semantic codebook is not counted here"
            )
        if self.parallel_codebooks and tokens.num_codebooks < num_codebooks:
            raise ValueError(
                f"tokens hold {tokens.num_codebooks} of this model's {num_codebooks} parallel codebooks, which "
                "only mean something together"
            )
        # Their range: tokens without a fingerprint may be of a format with larger codebooks.
        streams = (
            ("semantic", tokens.semantic, self.semantic_codebook_size),
            ("acoustic", tokens.acoustic, self.acoustic_codebook_size),
        )
        for name, codes, size in streams:
            if codes is None or size is None or not codes.numel():
                continue
            largest = int(codes.max())
            if largest >= size:
                raise ValueError(
                    f"{name} code {largest} is out of range: this model's codebook has {size} entries "
                    f"(0 to {size - 1}); is a vocabulary offset still added?"
                )


RELEASED = TokenFormat()  # of the released FlexiCodec weights


# ------------------------------------------------------------------------------------------- integers given to `Tokens`


def read_integers(values: dict[str, Integers | int | None], format: TokenFormat) -> dict[str, Tensor]:
    """Copy integers into int64 tensors with a batch axis, on the device of the first tensor given.

    None is left out, but acoustic codes (no codebooks) and the durations of fixed-rate codecs are filled in.
    """
    given = {name: value for name, value in values.items() if value is not None}
    tensors: dict[str, Tensor] = {}
    for name, value in given.items():
        if isinstance(value, Tensor):
            if value.dtype not in _INTEGER_DTYPES:
                raise ValueError(f"{name} has type {value.dtype}, expected integers; are these logits or embeddings?")
            tensors[name] = value.detach().to(torch.int64, copy=True)
            continue
        try:
            array = np.asarray(value)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{name} is no regular array; make clips of different length one by one and join them with "
                "Tokens.cat, or pad with durations of 0 on the right"
            ) from error
        if array.size == 0 and not isinstance(value, np.ndarray):
            array = array.astype(np.int64)  # NumPy takes an empty list for floats
        if array.dtype.kind not in "iu" or (array.size and int(array.max()) >= 2**63):
            raise ValueError(f"{name} has type {array.dtype}, expected integers of at most 64 bits")
        tensors[name] = torch.from_numpy(array.astype(np.int64))

    # Either all codes and durations have a batch axis, or none of them.
    missing = {name: len(_AXES[name]) - tensor.ndim for name, tensor in tensors.items()}
    for name, axes in missing.items():
        if axes not in (0, 1):
            raise ValueError(
                f"{name} has shape {list(tensors[name].shape)}, expected [{', '.join(_AXES[name])}], or one clip "
                "without the batch"
            )
    if len({axes for name, axes in missing.items() if name != "audio_lengths"}) == 2:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"some of {shapes} have a batch axis and some have none; give it to all or to none")
    device = next((value.device for value in given.values() if isinstance(value, Tensor)), None)
    for name, tensor in tensors.items():
        tensors[name] = (tensor[None] if missing[name] else tensor).to(device)

    # What may be left out
    codes = tensors.get("semantic", tensors.get("acoustic"))
    if codes is None or 0 in codes.shape[1:-1]:
        raise ValueError("neither semantic nor acoustic codes; a token needs at least one code")
    tensors.setdefault("acoustic", codes.new_zeros(len(codes), 0, codes.shape[-1]))
    if "durations" not in tensors and format.max_duration != 1:
        raise ValueError(
            f"durations are missing, and they may vary from 1 to {format.max_duration} frames{_slip(format)}"
        )
    tensors.setdefault("durations", codes.new_ones(len(codes), codes.shape[-1]))
    return tensors


def check_values(values: dict[str, Tensor], format: TokenFormat) -> dict[str, Tensor]:
    """Check shapes, durations, codes and audio lengths against the format, and set the codes of padding to 0.

    Padding is on the right; a clip may have no token (yet), and then has no samples.
    """
    durations = values["durations"]
    for name in values.keys() - {"audio_lengths"}:
        if (len(values[name]), values[name].shape[-1]) != durations.shape:
            shapes = ", ".join(f"{key} {list(value.shape)}" for key, value in values.items())
            raise ValueError(f"{shapes} do not agree in batch and tokens")
    if ("semantic" in values) != (format.semantic_codebook_size is not None):
        have = "semantic codes" if "semantic" in values else "no semantic codes"
        raise ValueError(
            f"{have}, but the format has semantic_codebook_size={format.semantic_codebook_size}{_slip(format)}"
        )
    if not len(durations):
        raise ValueError(f"durations {list(durations.shape)} hold no clip, expected at least one")
    limit = format.max_duration or _LARGEST
    bad = (durations < 0) | (durations > limit)
    if bad.any():
        clip, token = _first(bad)
        raise ValueError(
            f"duration {int(durations[clip, token])} of token {token} in clip {clip}, expected 0 (padding) to {limit} "
            "frames; is max_duration that of the model which made the tokens?"
        )
    # durations  2 1 0 3      a 0 with tokens behind it is no padding on the right
    hole = (durations[:, :-1] == 0) & (durations[:, 1:] > 0)
    if hole.any():
        clip, token = _first(hole)
        raise ValueError(
            f"duration 0 of token {token} in clip {clip} marks padding, but tokens follow; pad on the right"
        )

    # Codes within their codebook
    valid = {"semantic": durations > 0, "acoustic": (durations > 0)[:, None]}
    sizes = {"semantic": format.semantic_codebook_size, "acoustic": format.acoustic_codebook_size}
    for name, size in sizes.items():
        if size is None:
            continue
        codes = values[name]
        bad = valid[name] & ((codes < 0) | (codes >= size))
        if bad.any():
            where = _first(bad)
            codebook = f", codebook {where[1]}" if len(where) == 3 else ""
            raise ValueError(
                f"{name} code {int(codes[where])} of token {where[-1]}{codebook} in clip {where[0]}, expected 0 to "
                f"{size - 1}; is a vocabulary offset still added?"
            )
        values[name] = torch.where(valid[name], codes, 0)
    if "audio_lengths" in values:
        check_audio_lengths(values["audio_lengths"], durations.sum(-1), format)
    return values


def check_audio_lengths(
    audio_lengths: Int[Tensor, " lengths"], frame_lengths: Int[Tensor, " batch"], format: TokenFormat
) -> None:
    """Check that frames cover the audio, except for up to two at its end, which released FlexiCodec weights drop.

    A clip without tokens has no samples.
    """
    if audio_lengths.shape != frame_lengths.shape:
        raise ValueError(f"audio_lengths has {len(audio_lengths)} entries for {len(frame_lengths)} clips")
    short = audio_lengths < frame_lengths.clamp(max=1)
    if short.any():
        clip = _first(short)[0]
        raise ValueError(f"audio length {int(audio_lengths[clip])} of clip {clip}, expected samples, 1 or more")
    whole = (audio_lengths - 1) // format.frame_size + 1  # frames that cover every sample
    bad = (frame_lengths > whole) | (frame_lengths < (whole - 2).clamp(min=1)) & (whole > 0)
    if bad.any():
        (clip,) = _first(bad)
        raise ValueError(
            f"durations{f' of clip {clip}' if len(bad) > 1 else ''} sum to {int(frame_lengths[clip])} frames but the "
            f"audio has {int(whole[clip])} ({format.sample_rate} Hz, {format.frame_size} samples per frame); were the "
            "tokens made from a resampled copy?"
        )


def check_not_empty(token_lengths: Int[Tensor, " batch"]) -> None:
    """Refuse clips without tokens, which only a stream may have."""
    empty = token_lengths == 0
    if empty.any():
        raise ValueError(
            f"clip {_first(empty)[0]} has no token; a whole clip has at least one (streams take none, for nothing yet)"
        )


def check_kept(acoustic: int, available: int, format: TokenFormat) -> None:
    """Check that `acoustic` of the available codebooks can be kept."""
    if not 0 <= acoustic <= available:
        raise ValueError(
            f"{acoustic} acoustic codebooks asked, {available} there; is the semantic one counted, which it is not?"
        )
    if format.parallel_codebooks and acoustic != available:
        raise ValueError(f"{acoustic} of {available} parallel codebooks asked, which only mean something together")


def checked_info(info: dict[str, Any], batch: int) -> dict[str, Any]:
    """Check notes: JSON values, one for all clips or a list with one per clip; a list of equal values becomes one."""
    if not isinstance(info, dict) or not all(isinstance(name, str) for name in info):
        raise ValueError(f"info is {info!r}, expected a dict with names as keys")
    checked = {}
    for name, value in info.items():
        if hasattr(value, "tolist"):  # tensors, arrays and their scalars
            value = value.tolist()
        values = list(value) if isinstance(value, list | tuple) else [value] * batch
        if len(values) != batch:
            raise ValueError(f"info[{name!r}] lists {len(values)} values for {batch} clips")
        for each in values:
            if not isinstance(each, str | int | float | None) or (isinstance(each, float) and not math.isfinite(each)):
                raise ValueError(f"info[{name!r}] holds {each!r}, expected strings, finite numbers, booleans or None")
        same = all(type(each) is type(values[0]) and each == values[0] for each in values)
        checked[name] = values[0] if same else values
    return checked


def per_clip(value: Any, batch: int) -> list[Any]:
    """Return a note of `Tokens.info` as one value per clip."""
    return value if isinstance(value, list) else [value] * batch


def _slip(format: TokenFormat) -> str:
    """Name the likely mistake where no format was given."""
    if format is not RELEASED:
        return ""
    return "; that is the format of the released FlexiCodec weights, as none was given: is format=codec.format missing?"


def _first(bad: Bool[Tensor, "*axes"]) -> tuple[int, ...]:
    """Return the index of the first True."""
    return tuple(bad.nonzero()[0].tolist())
