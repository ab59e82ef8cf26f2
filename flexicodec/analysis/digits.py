"""What the digits of semantic codes tell: about each other, and about the phone that sounds.

An FSQ code is a few digits of few levels each. Whole codes are too many to be counted in an hour of speech; digits can
be, and what they share with each other is what coding them one by one throws away.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from flexicodec.analysis.segments import is_silence, is_unknown
from flexicodec.analysis.segments.labels import plain
from flexicodec.statistics.entropy import counts_entropy, digit_information, fsq_digits, table_information


@dataclass(frozen=True, eq=False)
class DigitStudy:
    """What the digits of one setting's semantic codes tell, in bits, by counts (plug-in).

    Attributes:
        levels: Of each digit, the first the least significant.
        shared: Mutual information of every two digits; each digit's entropy on the diagonal.
        phones: Mutual information of each digit and the phone at the token's middle, over tokens in speech; empty where
            phones have no times.
        chance: The same where phones are shuffled among tokens, averaged over draws: what counting alone makes of it.
        phone_entropy: Of those phones: the most that a digit could tell; NaN where they have no times.
        tokens: Counted.
        spoken: Of them, those in speech whose phone is known.
    """

    levels: tuple[int, ...]
    shared: Float[np.ndarray, "digits digits"]
    phones: tuple[float, ...]
    chance: tuple[float, ...]
    phone_entropy: float
    tokens: int
    spoken: int

    @property
    def entropies(self) -> tuple[float, ...]:
        """Of each digit."""
        return tuple(np.diag(self.shared).tolist())


def study_digits(
    codes: Sequence[Int[np.ndarray, " tokens"]],
    levels: Sequence[int],
    phones: Sequence[Sequence[str] | None] | None = None,
    *,
    draws: int = 10,
    seed: int = 0,
) -> DigitStudy:
    """Measure what digits tell.

    Args:
        codes: Semantic codes of each clip.
        levels: Of the FSQ's digits.
        phones: Labels of what sounds at the middle of each token; None for a clip where that is not known. Stress is
            dropped; silence and what an aligner could not spell do not count.
        draws: Of shuffled phones.
        seed: Of the drawing.

    Raises:
        ValueError: Codes that the levels cannot make, or not a label for each token.
    """
    labels = [None] * len(codes) if phones is None else list(phones)
    if wrong := [i for i, (c, p) in enumerate(zip(codes, labels, strict=True)) if p is not None and len(p) != len(c)]:
        raise ValueError(f"clip {wrong[0]} has {len(codes[wrong[0]])} codes but other labels; expected one per token")
    digits = fsq_digits(np.concatenate(list(codes)), levels)
    said = [p or "" for c, each in zip(codes, labels, strict=True) for p in (each or [""] * len(c))]
    known = np.array([not is_silence(p) and not is_unknown(p) for p in said])
    names, sounding = np.unique([plain(p) for p, kept in zip(said, known, strict=True) if kept], return_inverse=True)
    random = np.random.default_rng(seed)
    shuffled = [random.permutation(sounding) for _ in range(draws)] if len(names) else []

    def told(digit: int, by: Int[np.ndarray, " spoken"]) -> float:
        table = np.zeros((levels[digit], len(names)), dtype=np.int64)
        np.add.at(table, (digits[known, digit], by), 1)
        return table_information(table)

    every = range(len(levels)) if len(names) else ()
    return DigitStudy(
        levels=tuple(levels),
        shared=digit_information(digits),
        phones=tuple(told(j, sounding) for j in every),
        chance=tuple(float(np.mean([told(j, each) for each in shuffled])) for j in every),
        phone_entropy=counts_entropy(np.bincount(sounding)),
        tokens=len(digits),
        spoken=int(known.sum()),
    )
