"""`Vocabulary`: which id of a language model means which code, duration or special.

    text 0 .. base-1 | 16 specials | semantic codes | durations 1 .. max | codebook 0 | codebook 1 | ...

It is saved as JSON with the fingerprint of the codec, so that ids of another codec or base are refused.
"""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from torch import Tensor

from flexicodec.io_utils import describe_missing, replacing
from flexicodec.token_format import TokenFormat

Ids = Tensor | np.ndarray | Sequence[Any]  # of integers

# Rates that have an id, Hz; the ninth says that the clip was encoded at a threshold.
RATES = (3.0, 4.0, 5.0, 6.25, 7.0, 8.33, 10.0, 12.5)
SPECIALS = (
    *("START", "END", "CONTINUE", "PAD", "TEXT", "END_TEXT", "UNKNOWN_RATE"),
    *(f"RATE_{number}" for number in range(len(RATES) + 1)),
)
_VERSION = 1  # of the JSON file


class Kind(IntEnum):
    """What an id is, so that losses are chosen by kind and not by arithmetic on ids."""

    PAD = 0
    SPECIAL = 1
    TEXT = 2
    CODE = 3
    DURATION = 4
    ACOUSTIC = 5


@dataclass(frozen=True)
class Vocabulary:
    """Ids of text, specials, codes and durations, in this order and without gaps.

    Attributes:
        base: Size of the text vocabulary, whose ids are 0 to base - 1. Take the rows of the model's embedding table,
            which may be more than the tokenizer has ids.
        num_codebooks: Acoustic codebooks that have ids.
        fused: One id for each pair of a semantic code and a duration, in place of an id for each.
    """

    base: int
    format: TokenFormat
    num_codebooks: int = 0
    fused: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.format, TokenFormat):
            raise ValueError(f"format is {self.format!r}, expected a TokenFormat: codec.format or tokens.format")
        for name in ("base", "num_codebooks"):
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise ValueError(f"{name} is {value!r}, expected an integer, 0 or more")
        if self.format.semantic_codebook_size is None and (self.fused or not self.num_codebooks):
            wanted = "fused ids join semantic codes and durations" if self.fused else "num_codebooks is 0"
            raise ValueError(f"the codec has no semantic codes, and {wanted}; give num_codebooks=K without fused")
        if self.fused and self.format.max_duration is None:
            raise ValueError("fused ids need a largest duration, and max_duration of this format is None")

    @cached_property
    def regions(self) -> dict[str, range]:
        """Ids of every region by name: text, special, code, duration, acoustic 0, ..."""
        form = self.format
        longest = form.max_duration or 1
        sizes = {"text": self.base, "special": len(SPECIALS)}
        if self.fused:
            sizes["fused"] = (form.semantic_codebook_size or 0) * longest
        else:
            # Durations that are always 1 are not written, and those without a limit cannot be numbered.
            sizes["code"] = form.semantic_codebook_size or 0
            sizes["duration"] = longest if longest > 1 else 0
        for codebook in range(self.num_codebooks):
            sizes[f"acoustic {codebook}"] = form.acoustic_codebook_size
        regions = {}
        start = 0
        for name, size in sizes.items():
            regions[name] = range(start, start + size)
            start += size
        return regions

    @cached_property
    def size(self) -> int:
        """Number of ids, text included."""
        return max(region.stop for region in self.regions.values())

    # ----------------------------------------------------------------------------------------------------- single ids

    def special(self, name: str) -> int:
        """Return the id of START, END, CONTINUE, PAD, TEXT, END_TEXT, UNKNOWN_RATE or RATE_0 to RATE_8."""
        if name not in SPECIALS:
            raise ValueError(f"no special {name!r}; there are {', '.join(SPECIALS)}")
        return self.base + SPECIALS.index(name)

    def rate_id(self, frame_rate: float | None = None, threshold: float | None = None) -> int:
        """Return the id that tells a model which rate was asked: the nearest of `RATES`, a threshold, or unknown.

        Args:
            frame_rate: Tokens per second, Hz.
            threshold: Of a clip that was encoded at a threshold; which one makes no difference.
        """
        if frame_rate is None:
            return self.special("UNKNOWN_RATE" if threshold is None else f"RATE_{len(RATES)}")
        if threshold is not None:
            raise ValueError(f"frame_rate {frame_rate} and threshold {threshold} are given; a clip has one of them")
        if not (math.isfinite(frame_rate) and frame_rate > 0):
            raise ValueError(f"frame_rate is {frame_rate}, expected tokens per second above 0")
        nearest = min(range(len(RATES)), key=lambda number: abs(RATES[number] - frame_rate))
        return self.special(f"RATE_{nearest}")

    def is_rate(self, id: int) -> bool:
        """Tell whether an id is that of a rate, or of the unknown one."""
        return id in range(self.special("UNKNOWN_RATE"), self.special(SPECIALS[-1]) + 1)

    def describe(self, id: int) -> str:
        """Say what an id is, for messages."""
        for name, region in self.regions.items():
            if id not in region:
                continue
            value = id - region.start
            if name == "special":
                return f"id {id}, which is {SPECIALS[value]}"
            if name == "fused":
                longest = self.format.max_duration or 1
                return f"id {id}, which is code {value // longest} with duration {value % longest + 1}"
            return f"id {id}, which is {name} {value + (name == 'duration')}"
        return f"id {id}, which is outside the vocabulary (0 to {self.size - 1})"

    # -------------------------------------------------------------------------------------------------- arrays of ids

    @cached_property
    def kind_table(self) -> UInt8[np.ndarray, " ids"]:
        """`Kind` of every id."""
        table = np.empty(self.size, np.uint8)
        kinds = {"text": Kind.TEXT, "special": Kind.SPECIAL, "code": Kind.CODE, "fused": Kind.CODE}
        for name, region in self.regions.items():
            default = Kind.DURATION if name == "duration" else Kind.ACOUSTIC
            table[region.start : region.stop] = kinds.get(name, default)
        table[self.special("PAD")] = Kind.PAD
        return table

    def check_ids(self, ids: Int[np.ndarray, "..."]) -> None:
        """Refuse ids outside the vocabulary, naming the first."""
        bad = (ids < 0) | (ids >= self.size)
        if bad.any():
            where = np.argwhere(bad)[0]
            raise ValueError(
                f"position {where[-1]} holds {self.describe(int(ids[tuple(where)]))}; "
                "were the ids made with another base or number of codebooks?"
            )

    def check_format(self, format: TokenFormat) -> None:
        """Refuse tokens of another codec or format, naming the field that differs."""
        for name in (entry.name for entry in fields(TokenFormat) if entry.compare):
            ours = getattr(self.format, name)
            theirs = getattr(format, name)
            if ours != theirs:
                raise ValueError(
                    f"the tokens' format has {name} {theirs!r} ({format.model or 'unnamed model'}), the vocabulary's "
                    f"{ours!r} ({self.format.model or 'unnamed model'}); a vocabulary is for the tokens of one codec"
                )

    # ---------------------------------------------------------------------------------------------------------- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the vocabulary as JSON, with the first and last id of every region for other readers."""
        regions = {name: [region.start, region.stop - 1] for name, region in self.regions.items() if len(region)}
        content = {"version": _VERSION, **asdict(self), "specials": SPECIALS, "rates": RATES, "regions": regions}
        with replacing(path) as part:
            part.write_text(json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Vocabulary":
        """Read a vocabulary that `save` wrote.

        Raises:
            FileNotFoundError: It is missing.
            ValueError: It is no such file, or its regions are not those that this version would number.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(describe_missing(path))
        try:
            content = json.loads(Path(path).read_text())
            format = TokenFormat(**content["format"])
            vocabulary = cls(content["base"], format, content["num_codebooks"], content["fused"])
            regions = content["regions"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)} is no vocabulary that this version can read: {error}") from error
        ours = {name: [region.start, region.stop - 1] for name, region in vocabulary.regions.items() if len(region)}
        if ours != regions:
            raise ValueError(f"{os.fspath(path)} numbers its regions {regions}, this version {ours}; was it edited?")
        return vocabulary


def read_ids(ids: Ids, axes: int) -> Int[np.ndarray, "..."]:
    """Copy ids into an int64 array of this number of axes, refusing what is no integer."""
    array = ids.detach().cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids)
    if array.size == 0 and array.dtype.kind == "f" and not isinstance(ids, Tensor | np.ndarray):
        array = array.astype(np.int64)  # NumPy takes an empty list for floats
    if array.dtype.kind not in "iu":
        raise ValueError(f"ids have type {array.dtype}, expected integers; are these logits?")
    if array.ndim != axes:
        wanted = "[ids] of one clip" if axes == 1 else "[streams, steps] of one clip"
        raise ValueError(f"ids have shape {list(array.shape)}, expected {wanted}; decode clips one by one")
    return array.astype(np.int64)
