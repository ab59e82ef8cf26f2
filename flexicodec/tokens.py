"""`Tokens`: codes, durations and lengths of a batch of clips.

Validated on construction; every codec returns and accepts them.
`token_format` says what codes mean and has the checks, `token_file` has the file format.
"""

import operator
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import IO, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from flexicodec import token_columns, token_file
from flexicodec.code_margins import Margins
from flexicodec.io_utils import describe_missing
from flexicodec.side_information import Bitrates, SideInformation, duration_bits
from flexicodec.token_format import (
    RELEASED,
    Integers,
    TokenFormat,
    check_kept,
    check_not_empty,
    check_values,
    checked_info,
    per_clip,
    read_integers,
)

__all__ = ["TokenFormat", "Tokens"]


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Tokens:
    """Tokens of a batch of clips, on one device, all int64.

    A duration of 0 marks padding, which is on the right; codes there are 0. Values in seconds are float64 on the CPU.
    A clip's seconds are those of its audio where its length is known, else those of its frames. A clip may have no
    tokens in a stream only: decoding whole clips and saving refuse it.
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
        format: TokenFormat = RELEASED,
        info: dict[str, Any] | None = None,
        margins: Margins | None = None,
    ):
        """Check the codes and keep a copy.

        Integers are tensors, NumPy arrays or nested lists of any integer type. A single clip may leave out the batch
        axis of all of them: semantic and durations [N], acoustic [K, N]. Clips of different length are padded on the
        right with durations of 0 (whatever the codes there), or made one by one and joined by `Tokens.cat`.

        Args:
            semantic: [B, N] codes; None for codecs without.
            acoustic: [B, K, N] codes; None or K = 0 for semantic codes only.
            durations: [B, N] frames per token, 1 to `format.max_duration`; may be left out for fixed-rate codecs
                (`max_duration` 1), where every token is one frame.
            audio_lengths: [B] samples at `format.sample_rate`; None where unknown. Frames may cover all of them, or
                leave up to two frames at the end uncovered, as released FlexiCodec weights do.
            format: What the codes mean; the default is that of the released FlexiCodec weights.
            info: Notes on how the tokens were made: strings, numbers, booleans or None by name, or a list of such with
                one entry per clip.
            margins: of all these codes and boundaries.
        """
        if not isinstance(format, TokenFormat):
            raise ValueError(f"format is {format!r}, expected a TokenFormat: format=codec.format")
        given = {"semantic": semantic, "acoustic": acoustic, "durations": durations, "audio_lengths": audio_lengths}
        values: dict[str, Any] = {**dict.fromkeys(given), **check_values(read_integers(given, format), format)}
        if margins is not None:
            margins.check(values["durations"], values["acoustic"])
        values |= {"format": format, "margins": margins}
        values["info"] = checked_info({} if info is None else info, len(values["durations"]))
        for name, value in values.items():
            object.__setattr__(self, name, value)  # the dataclass is frozen

    # ------------------------------------------------------------------------------------------------ counts and rates

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
        samples = self.audio_lengths
        if samples is None:
            samples = self.frame_lengths * self.format.frame_size
        return samples.cpu().double() / self.format.sample_rate

    @property
    def frame_rates(self) -> Float[Tensor, " batch"]:
        """Tokens per second of each clip, Hz."""
        return self.token_lengths.cpu() / self._nonzero_seconds()

    @property
    def bitrates_kbps(self) -> Bitrates:
        """Kilobits per second of each clip [B], of all codes and durations, without the file header.

        With the paper's sizes a token takes 15 + 3 + 12K bits (arXiv 2510.00981): its durations are fields of 3 bits,
        "lengths". `tokens.bitrates_kbps(side_information="mask")` counts a bit a frame instead, and "entropy" the
        length of an adaptive code; see `side_information`.

        Raises:
            ValueError: The tokens were made without `format=`, so that the sizes of their codebooks are not known.
        """

        def measure(side_information: SideInformation) -> Float[Tensor, " batch"]:
            return sum(self._bits(side_information).values()) / self._nonzero_seconds() / 1000

        return Bitrates.of(measure)

    @property
    def stream_bitrates_kbps(self) -> dict[str, Float[Tensor, " batch"]]:
        """What `bitrates_kbps` sums up: kilobits per second of "semantic", "acoustic" and "durations"."""
        return {name: bits / self._nonzero_seconds() / 1000 for name, bits in self._bits().items()}

    def times(self, i: int) -> Float[Tensor, "tokens 2"]:
        """Return start and end of every token of clip i in seconds, none beyond the end of the audio."""
        clip = self[operator.index(i)]
        ends = clip.durations[0].cpu().cumsum(0).double() * self.format.frame_size / self.format.sample_rate
        ends = ends.clamp(max=float(clip.seconds))
        starts = pad(ends, (1, 0))[:-1]
        return torch.stack([starts, ends], dim=-1)

    def _nonzero_seconds(self) -> Float[Tensor, " batch"]:
        """Seconds of each clip, a sample at least, as a divisor."""
        return self.seconds.clamp(min=1 / self.format.sample_rate)

    def _bits(self, side_information: SideInformation = "lengths") -> dict[str, Tensor]:
        """Bits of the codes of both streams and of the durations, of each clip."""
        if self.format is RELEASED:
            raise ValueError(
                "a bitrate needs the sizes of the codebooks, and these tokens were made without a format: "
                "format=codec.format, or TokenFormat() for the released weights"
            )
        counts = self.token_lengths.cpu()
        return {
            "semantic": counts * self.format.semantic_bits,
            "acoustic": counts * self.num_codebooks * self.format.acoustic_bits,
            "durations": duration_bits(self.durations, self.format, side_information),
        }

    # ------------------------------------------------------------------------------------------- selecting and joining

    def keep(self, acoustic: int) -> "Tokens":
        """Keep only the first `acoustic` acoustic codebooks (0: semantic codes only); durations stay.

        Parallel codebooks (`format.parallel_codebooks`) can only be kept all together.
        """
        check_kept(acoustic, self.num_codebooks, self.format)
        margins = None if self.margins is None else self.margins.keep(acoustic)
        return replace(self, acoustic=self.acoustic[:, :acoustic], margins=margins)

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.durations)

    def __getitem__(self, index: int | slice) -> "Tokens":
        """Select one clip or several, and drop padding that they do not need."""
        if isinstance(index, slice):
            chosen = list(range(*index.indices(len(self))))
            if not chosen:
                raise ValueError(f"{index} selects none of {len(self)} clips")
        else:
            number = operator.index(index)
            if not -len(self) <= number < len(self):
                raise IndexError(f"clip {number} of {len(self)}")
            chosen = [number % len(self)]
        # Padding that no chosen clip needs is cut.
        rows = torch.tensor(chosen, device=self.durations.device)
        num_tokens = int(self.token_lengths[rows].max())
        num_frames = int(self.frame_lengths[rows].max())
        info = {}
        for name, value in self.info.items():
            values = per_clip(value, len(self))
            info[name] = [values[row] for row in chosen]
        return Tokens(
            None if self.semantic is None else self.semantic[rows, :num_tokens],
            self.acoustic[rows, :, :num_tokens],
            self.durations[rows, :num_tokens],
            None if self.audio_lengths is None else self.audio_lengths[rows],
            self.format,
            info,
            None if self.margins is None else self.margins.select(rows, num_tokens, num_frames),
        )

    @staticmethod
    def cat(parts: Iterable["Tokens"]) -> "Tokens":
        """Join batches of clips into one, padded to the longest, on the device of the first.

        All must have the same format and number of codebooks, and all or none of them `audio_lengths`.
        """
        parts = list(parts)
        num_tokens = max((part.durations.shape[-1] for part in parts), default=0)

        def padded(tensors: list[Tensor]) -> Tensor:
            return torch.cat([pad(each, (0, num_tokens - each.shape[-1])) for each in tensors])

        # Notes become one value per clip; None where a part lacks one.
        info: dict[str, list[Any]] = {name: [] for part in parts for name in part.info}
        for name, values in info.items():
            for part in parts:
                values += per_clip(part.info.get(name), len(part))
        return _join(parts, padded, torch.cat, info, Margins.cat)

    @staticmethod
    def concat(pieces: Iterable["Tokens"]) -> "Tokens":
        """Join pieces of one clip in time, such as a streaming encoder returns.

        Each piece is a clip, and each but the last ends with a whole frame. Format, codebooks and `audio_lengths` as
        for `cat`; notes are those of the first piece.
        """
        pieces = list(pieces)
        for piece in pieces:
            if len(piece) != 1:
                raise ValueError(f"a piece of {len(piece)} clips; expected pieces of one clip (cat joins batches)")
        pieces = [piece[0] for piece in pieces]
        info = pieces[0].info if pieces else {}
        return _join(
            pieces, lambda codes: torch.cat(codes, -1), lambda counts: torch.stack(counts).sum(0), info, Margins.concat
        )

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> "Tokens":
        """Copy to a device."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=non_blocking, copy=True))

    def pin_memory(self) -> "Tokens":
        """Copy to pinned memory: what a `DataLoader` with `pin_memory=True` calls."""
        return self._mapped(Tensor.pin_memory)

    def _mapped(self, function: Callable[[Tensor], Tensor]) -> "Tokens":
        """Apply a function that keeps values to every tensor."""
        copy = object.__new__(Tokens)
        for name, value in vars(self).items():
            if isinstance(value, Margins):
                value = value.mapped(function)
            copy.__dict__[name] = function(value) if isinstance(value, Tensor) else value
        return copy

    # ----------------------------------------------------------------------------------------------- tables and pickles

    def to_dict(self) -> dict[str, list[Any]]:
        """Return lists with an entry per clip, without padding, as columns of a table; see `token_columns`."""
        return token_columns.to_columns(self)

    @classmethod
    def from_dict(cls, columns: Mapping[str, Any], format: TokenFormat | None = None) -> "Tokens":
        """Read columns of `to_dict`, or one row of such a table; other columns are ignored.

        Args:
            columns: Lists, arrays or tensors by name.
            format: For tables without a column `format`.

        Raises:
            ValueError: Columns are missing or do not fit together, or values are not tokens.
        """
        return cls.cat(cls(**clip) for clip in token_columns.from_columns(columns, format))

    def __reduce__(self) -> tuple[Any, ...]:
        return token_columns.reduce(self)

    # ---------------------------------------------------------------------------------------------------------- files

    def save(self, target: str | os.PathLike[str] | IO[bytes]) -> None:
        """Write one clip as a `.flxc` file, which appears whole or not at all, or to a file object; see `to_bytes`."""
        if isinstance(target, str | os.PathLike):
            token_file.write(target, self.to_bytes())
        else:
            target.write(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Return one clip as the bytes of a `.flxc` file, described in `token_file`.

        Raises:
            ValueError: More than one clip, one without tokens, or more than `token_file.MAX_TOKENS` tokens.
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
    def from_bytes(cls, data: bytes, acoustic: int | None = None) -> "Tokens":
        """Read the bytes of a `.flxc` file; see `load`."""
        return cls(**token_file.unpack_clip(bytes(data), acoustic))

    @classmethod
    def load(cls, source: str | os.PathLike[str] | bytes | IO[bytes], acoustic: int | None = None) -> "Tokens":
        """Read a `.flxc` file, or only its first `acoustic` codebooks; the file may end behind those.

        Args:
            source: A path, the bytes of a file, or a file object, which is read to its end and stays open.
            acoustic: Codebooks to read; None reads all.

        Raises:
            FileNotFoundError: It is missing.
            ValueError: Not such a file, truncated or altered in the part that is read, or fewer codebooks than asked.
        """
        if isinstance(source, bytes | bytearray | memoryview):
            return cls.from_bytes(source, acoustic)
        if not isinstance(source, str | os.PathLike):
            data = source.read()
            if not isinstance(data, bytes):
                raise ValueError("the file is open as text; a .flxc file is opened as bytes: open(path, 'rb')")
            return cls.from_bytes(data, acoustic)
        path = source
        if Path(path).is_dir():
            raise ValueError(f"{os.fspath(path)} is a folder; pass the .flxc files in it one by one")
        if not Path(path).exists():
            raise FileNotFoundError(describe_missing(path))
        data = Path(path).read_bytes()
        try:
            return cls.from_bytes(data, acoustic)
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from error

    # ------------------------------------------------------------------------------------------ comparing and printing

    def __eq__(self, other: object) -> bool:
        """Compare format, codes, durations and audio lengths; padding, device, info and margins do not matter."""
        if not isinstance(other, Tokens):
            return NotImplemented
        if self.format != other.format or len(self) != len(other):
            return False
        mine = self[:]  # without padding that no clip needs
        theirs = other[:]
        for name in ("semantic", "acoustic", "durations", "audio_lengths"):
            a = getattr(mine, name)
            b = getattr(theirs, name)
            if (a is None) != (b is None) or (a is not None and not torch.equal(a.cpu(), b.cpu())):
                return False
        return True

    __hash__ = None  # type: ignore[assignment]  # tensors are compared by value and could still be written into

    def __repr__(self) -> str:
        """Summarise counts, rates and codebooks over all clips in a line."""
        clips = f"{len(self)} clip{'s' * (len(self) != 1)}"
        count = int(self.token_lengths.sum())
        if not count:
            return f"Tokens({clips}, no tokens)"
        seconds = float(self.seconds.sum())
        bitrate = "no format given"
        if self.format is not RELEASED:
            bits = int(sum(each.sum() for each in self._bits().values()))
            bitrate = f"{bits / seconds / 1000:.2f} kbps"
        return (
            f"Tokens({clips}, {seconds:.1f} s, {count} token{'s' * (count != 1)}, {count / seconds:.1f} Hz, "
            f"{int(self.semantic is not None)}+{self.num_codebooks} codebooks, {bitrate})"
        )


def _join(
    parts: list[Tokens],
    join_codes: Callable[[list[Tensor]], Tensor],
    join_lengths: Callable[[list[Tensor]], Tensor],
    info: dict[str, Any],
    join_margins: Callable[[list[Margins | None]], Margins | None],
) -> Tokens:
    """Join tokens of the same format, on the device of the first."""
    if not parts:
        raise ValueError("no tokens to join")
    # Formats are compared field by field, so that the error names the one that differs.
    first = parts[0]
    for other in parts[1:]:
        for name in (entry.name for entry in fields(TokenFormat)):
            ours = getattr(first.format, name)
            theirs = getattr(other.format, name)
            if ours != theirs:
                raise ValueError(f"cannot join tokens whose format differs in {name}: {ours!r} and {theirs!r}")
        if other.num_codebooks != first.num_codebooks:
            counts = sorted((first.num_codebooks, other.num_codebooks))
            raise ValueError(f"cannot join tokens of {counts} codebooks; keep(acoustic={counts[0]}) makes them equal")
        if (other.audio_lengths is None) != (first.audio_lengths is None):
            raise ValueError("cannot join tokens with and without audio_lengths; give all of them, or none")

    def joined(name: str, join: Callable[[list[Tensor]], Tensor]) -> Tensor | None:
        if getattr(first, name) is None:
            return None
        return join([getattr(part, name).to(first.durations.device) for part in parts])

    return Tokens(
        joined("semantic", join_codes),
        joined("acoustic", join_codes),
        joined("durations", join_codes),
        joined("audio_lengths", join_lengths),
        first.format,
        info,
        join_margins([part.margins for part in parts]),
    )


# `torch.load` opens what `torch.save` wrote of tokens, without weights_only=False. Names may stand for any object.
_RELEASED: Any = (RELEASED, "flexicodec.token_format.RELEASED")
torch.serialization.add_safe_globals([Tokens, TokenFormat, Margins, token_columns.rebuild, _RELEASED])
