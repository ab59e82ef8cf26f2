"""`Layout`: a way to write tokens as ids of a language model, and to read them back exactly.

A framed clip begins with START, after the id of its rate where that is written, and ends with END.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from flexicodec.lm.codes import Codes, Field, Stream, spans
from flexicodec.lm.vocabulary import Ids, Kind, Vocabulary, read_ids
from flexicodec.token_format import Integers
from flexicodec.tokens import Tokens


@dataclass(frozen=True)
class Layout:
    """A way to write tokens as ids; made by the functions of `layouts`.

    Attributes:
        fields: Of a token; in `delayed` one for each row.
        streams: Rows of ids; one, with the ids of the vocabulary, in all layouts but `delayed`.
        delays: Steps by which each row is shifted.
    """

    name: str
    vocabulary: Vocabulary
    fields: tuple[Field, ...]
    streams: tuple[Stream, ...]
    delays: tuple[int, ...] = (0,)

    @property
    def is_delayed(self) -> bool:
        """Ids are [streams, steps] with a numbering for each stream, and not [ids] of the vocabulary."""
        return self.name == "delayed"

    @cached_property
    def num_codebooks(self) -> int:
        """Acoustic codebooks that are written."""
        return sum(field.codebook is not None for field in self.fields)

    @cached_property
    def kind_tables(self) -> tuple[UInt8[np.ndarray, " ids"], ...]:
        """`Kind` of every id of each stream."""
        if not self.is_delayed:
            return (self.vocabulary.kind_table,)
        tables = []
        for field, stream in zip(self.fields, self.streams, strict=True):
            table = np.full(stream.num_ids, Kind.SPECIAL, np.uint8)
            table[stream.hole] = Kind.PAD
            table[field.first : field.first + field.size] = field.kind
            tables.append(table)
        return tuple(tables)

    # -------------------------------------------------------------------------------------------------- one clip

    def encode(self, tokens: Tokens, *, framed: bool = False, rate_id: int | None = None) -> Int[Tensor, "..."]:
        """Write one clip as ids, [ids] or, delayed, [streams, steps].

        Args:
            tokens: Of the vocabulary's codec, with as many codebooks as the layout writes.
            framed: Write START before and END behind it.
            rate_id: `vocabulary.rate_id(frame_rate)`, written before START.
        """
        self.vocabulary.check_format(tokens.format)
        if tokens.num_codebooks != self.num_codebooks:
            raise ValueError(
                f"the tokens have {tokens.num_codebooks} acoustic codebooks and {self.name} writes "
                f"{self.num_codebooks} of this vocabulary; tokens.keep(acoustic=K) drops codebooks, flat and delayed "
                "write those of Vocabulary(..., num_codebooks=K)"
            )
        if rate_id is not None and (self.is_delayed or not framed):
            raise ValueError("the id of a rate stands before START of a framed sequence; delayed rows have none")
        if rate_id is not None and not self.vocabulary.is_rate(rate_id):
            raise ValueError(f"rate_id is {rate_id}, expected the id of a rate: vocabulary.rate_id({rate_id})")
        rates = None if rate_id is None else np.array([rate_id])
        ids, _ = self.arrange(Codes.of(tokens), framed, rates)
        return torch.from_numpy(ids if self.is_delayed else ids[0])

    def decode(self, ids: Ids, audio_lengths: Integers | int | None = None) -> Tokens:
        """Read one clip of ids, framed or not, as tokens.

        Args:
            ids: As `encode` writes them.
            audio_lengths: Samples of the clip, which ids do not have; None: unknown.

        Raises:
            ValueError: Ids that `encode` does not write, with their position and what was expected there.
        """
        array = read_ids(ids, axes=2 if self.is_delayed else 1)
        if not self.is_delayed:
            array = array[None]
            self.vocabulary.check_ids(array)
        if len(array) != len(self.streams):
            raise ValueError(f"{len(array)} rows of ids, expected {len(self.streams)}: {self._names}")
        array, skipped = self._without_frame(array)
        array = self._without_delays(array, skipped)
        codes = self._read(array, skipped)
        return Tokens(codes.semantic, codes.acoustic.T, codes.durations, audio_lengths, self.vocabulary.format)

    # ---------------------------------------------------------------------------------------------- writing

    def widths(self, durations: Int[np.ndarray, " tokens"]) -> Int[np.ndarray, " tokens"]:
        """Count the ids of each token."""
        if self.name == "frames":
            return durations.astype(np.int64)
        if self._is_marked:
            return 1 + (durations > 1).astype(np.int64)
        return np.full(len(durations), 1 if self.is_delayed else len(self.fields), np.int64)

    def overhead(self, framed: bool, has_rate: bool = False) -> tuple[int, int]:
        """Count the steps before the first and behind the last token of a clip."""
        behind = max(self.delays)
        if not framed:
            return 0, behind
        return 1 + has_rate, max(behind, self.delays[0] + 1)

    def arrange(
        self, codes: Codes, framed: bool = True, rates: Int[np.ndarray, " clips"] | None = None
    ) -> tuple[Int[np.ndarray, "streams steps"], Int[np.ndarray, " clips"]]:
        """Write clips one after the other; return the ids, and the steps of each clip.

        Args:
            rates: Id of the rate of each clip, written before its START.
        """
        # clip      | rate START | ids of its tokens | END |        head, body, tail
        # delayed   row r is written delays[r] steps later; the tail has room for the longest delay
        values, widths = self.write(codes)
        clip_of_token = np.repeat(np.arange(len(codes.counts)), codes.counts)
        body = np.bincount(clip_of_token, widths, len(codes.counts)).astype(np.int64)
        head, tail = self.overhead(framed, rates is not None)
        lengths = body + head + tail
        starts = np.cumsum(lengths) - lengths

        ids = np.empty((len(self.streams), int(lengths.sum())), np.int64)
        place = spans(starts + head, body)
        for row, stream in enumerate(self.streams):
            ids[row] = stream.hole
            ids[row, place + self.delays[row]] = values[row]
        if framed:
            ids[0, starts + head - 1] = self.streams[0].start
            ids[0, starts + head + body + self.delays[0]] = self.streams[0].end
            if rates is not None:
                ids[0, starts] = rates
        return ids, lengths

    def write(self, codes: Codes) -> tuple[Int[np.ndarray, "streams steps"], Int[np.ndarray, " tokens"]]:
        """Return the ids of all tokens, neither framed nor delayed, and how many each has."""
        columns = np.stack([self._column(codes, field) for field in self.fields])
        widths = self.widths(codes.durations)
        if self.is_delayed:
            return columns, widths
        if self.name == "frames":
            ids = np.full(int(widths.sum()), self.vocabulary.special("CONTINUE"))
            ids[np.cumsum(widths) - widths] = columns[0]
        elif self._is_marked:
            is_written = np.stack([widths > 0, widths > 1], axis=1)
            ids = columns.T[is_written]
        else:
            ids = columns.T.ravel()
        return ids[None], widths

    def _column(self, codes: Codes, field: Field) -> Int[np.ndarray, " tokens"]:
        """Return the ids of one field of every token."""
        if field.name == "duration":
            return codes.durations.astype(np.int64) + (field.first - 1)
        if field.codebook is not None:
            return codes.acoustic[:, field.codebook].astype(np.int64) + field.first
        assert codes.semantic is not None  # a field only where the codec has them
        values = codes.semantic.astype(np.int64)
        if field.name == "fused":
            values = values * self._longest + (codes.durations.astype(np.int64) - 1)
        return values + field.first

    @property
    def _longest(self) -> int:
        return self.vocabulary.format.max_duration or 1

    @property
    def _is_marked(self) -> bool:
        """Durations above 1 are written, those of 1 not."""
        return self.name == "marked" and len(self.fields) == 2

    @property
    def _names(self) -> str:
        return ", ".join(field.name for field in self.fields)

    # ---------------------------------------------------------------------------------------------- reading

    def _without_frame(self, ids: Int[np.ndarray, "streams steps"]) -> tuple[Int[np.ndarray, "streams steps"], int]:
        """Drop the id of a rate, START and END, where they are; return the steps dropped at the front too."""
        skipped = 0
        first = self.streams[0]
        if not self.is_delayed and ids.shape[1]:
            skipped += int(self.vocabulary.is_rate(int(ids[0, 0])))
        if ids.shape[1] > skipped and ids[0, skipped] == first.start:
            skipped += 1
        ids = ids[:, skipped:]
        ends = np.flatnonzero(ids[0] == first.end)
        if len(ends):
            behind = self.overhead(framed=True)[1] - self.delays[0]  # steps of END and what delayed rows have behind
            if ends[0] != ids.shape[1] - behind:
                raise ValueError(
                    f"position {skipped + ends[0]} holds END, expected {behind} step{'s' * (behind > 1)} before the "
                    "end of the clip; cut ids behind the END of a clip"
                )
            # What is left is as wide as ids that were never framed.
            ids = ids.copy()
            ids[0, ends[0]] = first.hole
            ids = ids[:, : ids.shape[1] - behind + max(self.delays) - self.delays[0]]
        return ids, skipped

    def _without_delays(self, ids: Int[np.ndarray, "streams steps"], skipped: int) -> Int[np.ndarray, "streams tokens"]:
        """Shift the rows back, after checking that nothing but holes is dropped."""
        count = ids.shape[1] - max(self.delays)
        if count < 0:
            raise ValueError(f"{ids.shape[1]} steps, expected at least {max(self.delays)}, the largest delay")
        rows = []
        for row, (stream, delay) in enumerate(zip(self.streams, self.delays, strict=True)):
            around = np.append(ids[row, :delay], ids[row, delay + count :])
            wrong = around[around != stream.hole]
            if len(wrong):
                raise ValueError(
                    f"the row of {self.fields[row].name}s holds id {wrong[0]} before its {count} codes or behind them, "
                    f"expected holes ({stream.hole}): its delay is {delay}; were other delays used?"
                )
            rows.append(ids[row, delay : delay + count])
        return np.stack(rows)

    def _read(self, ids: Int[np.ndarray, "streams steps"], skipped: int) -> Codes:
        """Turn ids without frame and delays into codes."""
        positions = np.arange(ids.shape[1]) + skipped
        if self.is_delayed:
            columns = ids
            for row, field in enumerate(self.fields):
                self._check(ids[row], field, positions + self.delays[row])
        elif self.name == "frames":
            columns = self._read_frames(ids[0], positions)
        elif self._is_marked:
            columns = self._read_marked(ids[0], positions)
        else:
            columns = self._read_groups(ids[0], positions)
        return self._codes(columns)

    def _read_groups(
        self, ids: Int[np.ndarray, " ids"], positions: Int[np.ndarray, " ids"]
    ) -> Int[np.ndarray, "fields tokens"]:
        """Read tokens that all have an id for every field."""
        width = len(self.fields)
        whole = len(ids) // width * width
        columns = ids[:whole].reshape(-1, width).T
        for index, field in enumerate(self.fields):
            self._check(ids[index::width], field, positions[index::width])
        if whole < len(ids):
            raise ValueError(
                f"{len(ids)} ids, expected a multiple of {width} ({self._names}); the last token is not whole"
            )
        return columns

    def _read_marked(
        self, ids: Int[np.ndarray, " ids"], positions: Int[np.ndarray, " ids"]
    ) -> Int[np.ndarray, "fields tokens"]:
        """Read codes and, behind some of them, durations above 1."""
        code, duration = self.fields
        # ids           7 d2  9  9 d3        a duration belongs to the code before it
        # is_duration   0  1  0  0  1        cumsum(~is_duration) - 1 is the number of that code
        is_duration = duration.holds(ids)
        self._check(ids[~is_duration], code, positions[~is_duration])
        follows_code = np.append(False, ~is_duration[:-1])
        for bad, reason in (
            (is_duration & ~follows_code, "behind no code"),
            (is_duration & (ids == duration.first), "which marked does not write"),
        ):
            if bad.any():
                at = int(bad.argmax())
                raise ValueError(f"position {positions[at]} holds duration {ids[at] - duration.first + 1}, {reason}")
        codes = ids[~is_duration]
        durations = np.full(len(codes), duration.first)
        durations[np.cumsum(~is_duration)[is_duration] - 1] = ids[is_duration]
        return np.stack([codes, durations])

    def _read_frames(
        self, ids: Int[np.ndarray, " ids"], positions: Int[np.ndarray, " ids"]
    ) -> Int[np.ndarray, "fields tokens"]:
        """Read codes and a CONTINUE for each further frame; the second row has durations."""
        continues = ids == self.vocabulary.special("CONTINUE")
        self._check(ids[~continues], self.fields[0], positions[~continues])
        if len(ids) and continues[0]:
            raise ValueError(f"position {positions[0]} holds CONTINUE, expected the code that it continues")
        starts = np.flatnonzero(~continues)
        durations = np.diff(np.append(starts, len(ids)))
        limit = self.vocabulary.format.max_duration
        if limit is not None and (durations > limit).any():
            token = int((durations > limit).argmax())
            raise ValueError(
                f"the token at position {positions[starts[token]]} lasts {durations[token]} frames, expected at most "
                f"{limit}"
            )
        return np.stack([ids[starts], durations])

    def _check(self, ids: Int[np.ndarray, " ids"], field: Field, positions: Int[np.ndarray, " ids"]) -> None:
        """Refuse ids that are not of this field, naming the first by its position."""
        bad = ~field.holds(ids)
        if not bad.any():
            return
        at = int(bad.argmax())
        found = f"id {ids[at]}" if self.is_delayed else self.vocabulary.describe(int(ids[at]))
        row = f" of the row of {field.name}s" if self.is_delayed else ""
        raise ValueError(
            f"position {positions[at]}{row} holds {found}; expected {field.name} "
            f"({field.first} to {field.first + field.size - 1})"
        )

    def _codes(self, columns: Int[np.ndarray, "fields tokens"]) -> Codes:
        """Turn checked ids of every field into codes."""
        num_tokens = columns.shape[1]
        semantic = None
        durations = np.ones(num_tokens, np.int64)
        acoustic = np.zeros((num_tokens, self.num_codebooks), np.int64)
        for field, ids in zip(self.fields, columns, strict=False):
            values = ids - field.first
            if field.name == "code":
                semantic = values
            elif field.name == "fused":
                semantic = values // self._longest
                durations = values % self._longest + 1
            elif field.name == "duration":
                durations = values + 1
            else:
                acoustic[:, field.codebook] = values
        if self.name == "frames":
            durations = columns[1]
        return Codes(semantic, durations, acoustic, np.array([num_tokens]))
