"""Codes of many clips side by side in NumPy, and the numbers and rows that layouts make of them."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from flexicodec.lm.vocabulary import Kind
from flexicodec.tokens import Tokens


class Field(NamedTuple):
    """A number of a token, and the id of its smallest value: of code 0 or duration 1."""

    name: str  # code, duration, fused, acoustic 0, acoustic 1, ...
    first: int
    size: int

    @property
    def codebook(self) -> int | None:
        """Acoustic codebook, None for other fields."""
        return int(self.name.split()[1]) if self.name.startswith("acoustic") else None

    @property
    def kind(self) -> Kind:
        """What its ids are."""
        kinds = {"code": Kind.CODE, "fused": Kind.CODE, "duration": Kind.DURATION}
        return kinds.get(self.name, Kind.ACOUSTIC)

    def holds(self, ids: Int[np.ndarray, " ids"]) -> Bool[np.ndarray, " ids"]:
        """Tell which ids are of this field."""
        return (ids >= self.first) & (ids < self.first + self.size)


class Stream(NamedTuple):
    """A row of ids: how many there are, and those beside its codes."""

    num_ids: int
    hole: int  # where the row has no code: before, behind and between clips
    start: int = -1  # frame a clip, in the first row; -1 in the others
    end: int = -1


@dataclass
class Codes:
    """Codes of one clip or several, one after the other; `counts` has the tokens of each clip."""

    semantic: Int[np.ndarray, " tokens"] | None
    durations: Int[np.ndarray, " tokens"]
    acoustic: Int[np.ndarray, "tokens codebooks"]
    counts: Int[np.ndarray, " clips"]

    @classmethod
    def of(cls, tokens: Tokens) -> "Codes":
        """Take the codes of one clip."""
        if len(tokens) != 1:
            raise ValueError(
                f"{len(tokens)} clips; encode each: [layout.encode(tokens[i]) for i in range(len(tokens))]"
            )
        clip = tokens[0].to("cpu")
        semantic = None if clip.semantic is None else clip.semantic[0].numpy()
        durations = clip.durations[0].numpy()
        return cls(semantic, durations, clip.acoustic[0].T.numpy(), np.array([len(durations)]))


def spans(starts: Int[np.ndarray, " spans"], lengths: Int[np.ndarray, " spans"]) -> Int[np.ndarray, " total"]:
    """List the indices starts[i] .. starts[i] + lengths[i] - 1 of all spans, one after the other."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))
