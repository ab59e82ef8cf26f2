"""`Tokens`, the hall every codec walks through: codes, durations and lengths of a batch of clips, checked once, here.

All that decoding, saving, counting and analysing need is in it, and nothing else; `token_format` says what codes mean,
and `token_file` what a file of them holds.
"""

import operator
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flexicodec import token_file
from flexicodec.code_margins import Margins
from flexicodec.token_format import (
    Integers,
    TokenFormat,
    check_audio_lengths,
    check_durations,
    check_kept,
    check_not_empty,
    checked_codes,
    checked_info,
    per_clip,
    read_integers,
)

__all__ = ["TokenFormat", "Tokens"]

_RELEASED = TokenFormat()


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Tokens:
    """Tokens of a batch of clips, on one device, all int64.

    A duration of 0 marks padding, which stands on the right; codes there are 0. What is measured in seconds comes back
    as float64 on the CPU, and a clip's seconds are its audio's where its length is known, else its frames'. A clip
    without tokens is what a stream takes where there is nothing yet; decoding clips whole and saving them refuse it.
    """

    semantic: Int[Tensor, "batch tokens"] | None  # None for codecs without
    acoustic: Int[Tensor, "batch codebooks tokens"]  # no codebooks: semantic only
    durations: Int[Tensor, "batch tokens"]  # frames per token
    audio_lengths: Int[Tensor, " batch"] | None  # samples at format.sample_rate; None: unknown
    format: TokenFormat
    info: dict[str, Any] = field(default_factory=dict)  # how they were made (threshold, ...); not compared
    margins: Margins | None = None  # how far each decision was from another, where asked for; not saved, not compared

    def __init__(
        self,
        semantic: Integers | None = None,
        acoustic: Integers | None = None,
        durations: Integers | None = None,
        audio_lengths: Integers | int | None = None,
        format: TokenFormat = _RELEASED,
        info: dict[str, Any] | None = None,
        margins: Margins | None = None,
    ):
        """Check and keep a copy of the codes.

        Integers come as tensors, NumPy arrays or nested lists of any integer type. For a single clip the batch axis may
        be left out of all of them: semantic and durations [N], acoustic [K, N]. Clips of different length are padded on
        the right with durations of 0 (whatever the codes there), or made one by one and joined by `Tokens.cat`.

        Args:
            semantic: [B, N] codes; None for codecs without.
            acoustic: [B, K, N] codes; None or K = 0 for semantic codes only.
            durations: [B, N] frames per token, 1 to `format.max_duration`; may be left out for fixed-rate codecs
                (`max_duration` 1), where every token takes one frame.
            audio_lengths: [B] samples at `format.sample_rate`; None where unknown. Frames may cover them whole, or
                leave up to two frames of tail uncovered, as released FlexiCodec weights do.
            format: what the codes mean; the default is that of the released FlexiCodec weights.
            info: notes on how the tokens were made: strings, numbers, booleans or None by name, or a list of such with
                one entry per clip.
            margins: of all these codes and boundaries.

        Raises:
            ValueError: says what came, what was expected, and the likely slip.
        """
        if not isinstance(format, TokenFormat):
            raise ValueError(f"format is {format!r}, expected a TokenFormat: format=codec.format")
        given = read_integers(
            {"semantic": semantic, "acoustic": acoustic, "durations": durations, "audio_lengths": audio_lengths}
        )
        codes = [given[name] for name in ("semantic", "acoustic") if name in given]
        codes = [each for each in codes if each.ndim == 2 or each.shape[1] > 0]
        if not codes:
            raise ValueError("neither semantic nor acoustic codes; a token needs at least one code")
        batch, num_tokens = codes[0].shape[0], codes[0].shape[-1]
        blank = codes[0].new_zeros(batch, num_tokens)
        given.setdefault("acoustic", blank[:, None][:, :0])
        if "durations" not in given and format.max_duration != 1:
            raise ValueError(
                f"durations are missing, and they may vary from 1 to {format.max_duration} frames{_slip(format)}"
            )
        frames = given.setdefault("durations", blank + 1)
        for name in given.keys() - {"audio_lengths"}:
            if (len(given[name]), given[name].shape[-1]) != (batch, num_tokens):
                shapes = ", ".join(f"{key} {list(value.shape)}" for key, value in given.items())
                raise ValueError(f"{shapes} do not agree in batch and tokens")
        if ("semantic" in given) != (format.semantic_codebook_size is not None):
            have = "semantic codes" if "semantic" in given else "no semantic codes"
            raise ValueError(
                f"{have}, but the format has semantic_codebook_size={format.semantic_codebook_size}{_slip(format)}"
            )

        check_durations(frames, format)
        if format.semantic_codebook_size is not None:
            given["semantic"] = checked_codes("semantic", given["semantic"], frames > 0, format.semantic_codebook_size)
        valid = (frames > 0)[:, None]
        given["acoustic"] = checked_codes("acoustic", given["acoustic"], valid, format.acoustic_codebook_size)
        if "audio_lengths" in given:
            check_audio_lengths(given["audio_lengths"], frames.sum(-1), format)
        for name in ("semantic", "acoustic", "durations", "audio_lengths"):
            object.__setattr__(self, name, given.get(name))
        object.__setattr__(self, "format", format)
        object.__setattr__(self, "info", checked_info({} if info is None else info, batch))
        if margins is not None:
            margins.check(given["durations"], given["acoustic"])
        object.__setattr__(self, "margins", margins)

    # ------------------------------------------------------------------------------------------------------- measures

    @property
    def token_lengths(self) -> Int[Tensor, " batch"]:
        """Tokens of each clip, padding not counted."""
        return (self.durations > 0).sum(-1)

    @property
    def frame_lengths(self) -> Int[Tensor, " batch"]:
        """Frames of each clip."""
        return self.durations.sum(-1)

    @property
    def num_codebooks(self) -> int:
        """Acoustic codebooks; the semantic one is not counted."""
        return self.acoustic.shape[1]

    @property
    def seconds(self) -> Float[Tensor, " batch"]:
        """Length of each clip: of its audio where known, else of its frames."""
        if self.audio_lengths is None:
            return self.frame_lengths.cpu().double() * self.format.frame_size / self.format.sample_rate
        return self.audio_lengths.cpu().double() / self.format.sample_rate

    @property
    def frame_rates(self) -> Float[Tensor, " batch"]:
        """Tokens per second of each clip, Hz."""
        return self.token_lengths.cpu() / self._at_least_a_sample()

    @property
    def bitrates_kbps(self) -> Float[Tensor, " batch"]:
        """Bits of all codes and durations per second of each clip, in thousands; no file header.

        With the paper's sizes a token takes 15 + 3 + 12K bits (arXiv 2510.00981).
        """
        return self._bits() / self._at_least_a_sample() / 1000

    def times(self, i: int) -> Float[Tensor, "tokens 2"]:
        """Return start and end of every token of clip i in seconds; the last one ends with the audio, if not before."""
        clip = self[operator.index(i)]
        ends = clip.durations[0].cpu().cumsum(0).double() * self.format.frame_size / self.format.sample_rate
        ends = ends.clamp(max=float(clip.seconds))
        return torch.stack([torch.cat([ends.new_zeros(1), ends])[:-1], ends], dim=-1)

    def _at_least_a_sample(self) -> Float[Tensor, " batch"]:
        """Seconds to divide by, which are none where there are no tokens."""
        return self.seconds.clamp(min=1 / self.format.sample_rate)

    def _duration_bits(self) -> Int[Tensor, " batch"]:
        """Bits of one duration of each clip."""
        bits = self.format.duration_bits
        if bits is None and self.durations.shape[1]:
            return torch.tensor([(longest - 1).bit_length() for longest in self.durations.amax(-1).tolist()])
        return torch.full((len(self),), bits or 0)

    def _bits(self) -> Int[Tensor, " batch"]:
        """Bits of all codes and durations of each clip."""
        codes = self.format.semantic_bits + self.num_codebooks * self.format.acoustic_bits
        return self.token_lengths.cpu() * (codes + self._duration_bits())

    # --------------------------------------------------------------------------------------------- selecting, joining

    def keep(self, acoustic: int) -> "Tokens":
        """Keep only the first `acoustic` acoustic codebooks (0: semantic codes only); timing stays.

        Raises:
            ValueError: more codebooks than there are, or fewer of codebooks that only mean something together.
        """
        check_kept(acoustic, self.num_codebooks, self.format)
        margins = None if self.margins is None else self.margins.keep(acoustic)
        return replace(self, acoustic=self.acoustic[:, :acoustic], margins=margins)

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.durations)

    def __getitem__(self, index: int | slice) -> "Tokens":
        """Select a clip, or several; padding that none of them needs is cut off."""
        if isinstance(index, slice):
            chosen = list(range(*index.indices(len(self))))
            if not chosen:
                raise ValueError(f"{index} selects none of {len(self)} clips")
        else:
            number = operator.index(index)
            if not -len(self) <= number < len(self):
                raise IndexError(f"clip {number} of {len(self)}")
            chosen = [number % len(self)]
        rows = torch.tensor(chosen, device=self.durations.device)
        num_tokens = int(self.token_lengths[rows].max())
        return Tokens(
            None if self.semantic is None else self.semantic[rows, :num_tokens],
            self.acoustic[rows, :, :num_tokens],
            self.durations[rows, :num_tokens],
            None if self.audio_lengths is None else self.audio_lengths[rows],
            self.format,
            {name: [per_clip(value, len(self))[row] for row in chosen] for name, value in self.info.items()},
            None
            if self.margins is None
            else self.margins.select(rows, num_tokens, int(self.frame_lengths[rows].max())),
        )

    @staticmethod
    def cat(parts: Iterable["Tokens"]) -> "Tokens":
        """Join batches of clips into one, padded to the longest, on the device of the first.

        Raises:
            ValueError: nothing to join, or parts that differ in format, in codebooks, or in knowing their audio length.
        """
        parts = list(parts)
        if not parts:
            raise ValueError("no tokens to join")
        first = parts[0]
        _check_alike(parts)
        device, num_tokens = first.durations.device, max(part.durations.shape[-1] for part in parts)

        def joined(tensors: Iterable[Tensor]) -> Tensor:
            padded = [torch.nn.functional.pad(each.to(device), (0, num_tokens - each.shape[-1])) for each in tensors]
            return torch.cat(padded)

        names = dict.fromkeys(name for part in parts for name in part.info)
        return Tokens(
            None if first.semantic is None else joined(p.semantic for p in parts if p.semantic is not None),
            joined(part.acoustic for part in parts),
            joined(part.durations for part in parts),
            None
            if first.audio_lengths is None
            else torch.cat([p.audio_lengths.to(device) for p in parts if p.audio_lengths is not None]),
            first.format,
            {name: [v for part in parts for v in per_clip(part.info.get(name), len(part))] for name in names},
            Margins.cat([part.margins for part in parts]),
        )

    @staticmethod
    def concat(pieces: Iterable["Tokens"]) -> "Tokens":
        """Put pieces of one clip one behind the other in time, such as a streaming encoder gives.

        Each piece is a clip, and each but the last ends with a whole frame. Notes are those of the first piece.

        Raises:
            ValueError: nothing to join, a piece that is not one clip, or pieces that differ in format, in codebooks, or
                in knowing their audio length.
        """
        pieces = list(pieces)
        if not pieces:
            raise ValueError("no tokens to join")
        for piece in pieces:
            if len(piece) != 1:
                raise ValueError(f"a piece of {len(piece)} clips; expected pieces of one clip (cat joins batches)")
        pieces = [piece[0] for piece in pieces]
        _check_alike(pieces)
        first = pieces[0]
        lengths = [int(piece.audio_lengths) for piece in pieces if piece.audio_lengths is not None]
        device = first.durations.device
        return Tokens(
            None
            if first.semantic is None
            else torch.cat([p.semantic.to(device) for p in pieces if p.semantic is not None], dim=-1),
            torch.cat([piece.acoustic.to(device) for piece in pieces], dim=-1),
            torch.cat([piece.durations.to(device) for piece in pieces], dim=-1),
            [sum(lengths)] if lengths else None,
            first.format,
            first.info,
            Margins.concat([piece.margins for piece in pieces]),
        )

    def to(self, device: torch.device | str | int) -> "Tokens":
        """Copy to a device."""
        semantic = None if self.semantic is None else self.semantic.to(device)
        margins = None if self.margins is None else self.margins.to(device)
        acoustic, durations = self.acoustic.to(device), self.durations.to(device)
        return replace(self, semantic=semantic, acoustic=acoustic, durations=durations, margins=margins)

    # --------------------------------------------------------------------------------------------------------- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one clip as a `.flxc` file, at once or not at all.

        Raises:
            ValueError: See `to_bytes`.
        """
        token_file.write(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """Write one clip as the bytes of a `.flxc` file; `token_file` says what is in it.

        Raises:
            ValueError: more than one clip, one without tokens, or more than `token_file.MAX_TOKENS` tokens.
        """
        if len(self) != 1:
            raise ValueError(
                f"{len(self)} clips, but a .flxc file holds one; save each: "
                "for i in range(len(tokens)): tokens[i].save(paths[i])"
            )
        check_not_empty(self.token_lengths)
        clip = self[0].to("cpu")
        samples = None if clip.audio_lengths is None else int(clip.audio_lengths)
        semantic = None if clip.semantic is None else clip.semantic[0].numpy()
        return token_file.pack_clip(
            clip.format, samples, clip.info, semantic, clip.acoustic[0].numpy(), clip.durations[0].numpy()
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str], acoustic: int | None = None) -> "Tokens":
        """Read a `.flxc` file, or only its first `acoustic` codebooks; what lies behind those need not be there.

        Raises:
            ValueError: not such a file, truncated or altered in what is read, or more codebooks asked than it has.
        """
        data = Path(path).read_bytes()
        try:
            return cls(**token_file.unpack_clip(data, acoustic))
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from error

    # ------------------------------------------------------------------------------------------------- for the prompt

    def __eq__(self, other: object) -> bool:
        """Tell whether format, codes, durations and audio lengths are equal; padding, device and info do not matter."""
        if not isinstance(other, Tokens):
            return NotImplemented
        if self.format != other.format or len(self) != len(other):
            return False
        mine, theirs = self[:], other[:]  # without idle padding
        for name in ("semantic", "acoustic", "durations", "audio_lengths"):
            a, b = getattr(mine, name), getattr(theirs, name)
            if (a is None) != (b is None) or (a is not None and not torch.equal(a.cpu(), b.cpu())):
                return False
        return True

    __hash__ = None  # type: ignore[assignment]  # tensors are compared by value and could still be written into

    def __repr__(self) -> str:
        """Say in a line how much there is, at what rates over all clips."""
        seconds, count, clips = float(self.seconds.sum()), int(self.token_lengths.sum()), len(self)
        if not count:
            return f"Tokens({clips} clip{'s' * (clips != 1)}, no tokens)"
        return (
            f"Tokens({clips} clip{'s' * (clips != 1)}, {seconds:.1f} s, {count} token{'s' * (count != 1)}, "
            f"{count / seconds:.1f} Hz, {int(self.semantic is not None)}+{self.num_codebooks} codebooks, "
            f"{int(self._bits().sum()) / seconds / 1000:.2f} kbps)"
        )


def _slip(format: TokenFormat) -> str:
    """Name the likely slip where no format was given."""
    if format is not _RELEASED:
        return ""
    return "; that is the format of the released FlexiCodec weights, as none was given: is format=codec.format missing?"


def _check_alike(parts: list[Tokens]) -> None:
    """See that tokens can be joined."""
    first = parts[0]
    for other in parts[1:]:
        for name in (entry.name for entry in fields(TokenFormat)):
            ours, theirs = getattr(first.format, name), getattr(other.format, name)
            if ours != theirs:
                raise ValueError(f"cannot join tokens whose format differs in {name}: {ours!r} and {theirs!r}")
        if other.num_codebooks != first.num_codebooks:
            counts = sorted((first.num_codebooks, other.num_codebooks))
            raise ValueError(f"cannot join tokens of {counts} codebooks; keep(acoustic={counts[0]}) makes them equal")
        if (other.audio_lengths is None) != (first.audio_lengths is None):
            raise ValueError("cannot join tokens with and without audio_lengths; give all of them, or none")
