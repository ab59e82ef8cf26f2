"""Entropies of symbols and their code lengths under count models fitted to other clips, in bits.

Symbols are integers from 0 in NumPy arrays. Plug-in entropies of a large alphabet are far too low on a small corpus:
10,000 tokens cannot fill 32,768 codes. A code length, -log2 q of clips that the model q has not seen, is on average
never below the entropy, whatever q is. FSQ codes also split into digits of few levels, which a small corpus can fill
(specs/tts-and-evaluation.md, section 4).
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from jaxtyping import Float, Int

Symbols = Int[np.ndarray, " symbols"]
Probabilities = Float[np.ndarray, " symbols"]

NONE_BEFORE = -1  # the context of a clip's first symbol
LARGEST_KEY = 2**62
STRENGTHS = tuple(2.0**power for power in range(24, -5, -1))  # in symbols; the first of equally good ones is chosen


@dataclass(frozen=True, eq=False)
class SymbolSequence:
    """Symbols of one clip and the contexts known when each of them is coded.

    The most informative context is first, since the model backs off from the last one first.
    """

    symbols: Symbols  # from 0
    contexts: tuple[Symbols, ...] = ()  # each an integer per symbol, from -1; empty for symbols coded by themselves

    def __post_init__(self) -> None:
        object.__setattr__(self, "symbols", _integers("symbols", self.symbols, least=0))
        contexts = tuple(_integers(f"contexts[{i}]", each, NONE_BEFORE) for i, each in enumerate(self.contexts))
        object.__setattr__(self, "contexts", contexts)
        for context in contexts:
            if len(context) != len(self.symbols):
                raise ValueError(
                    f"a context has {len(context)} entries for {len(self.symbols)} symbols; expected one for each"
                )


def previous_symbols(symbols: Symbols, back: int = 1) -> Symbols:
    """Return the symbol `back` places before each symbol of a clip, -1 where there is none."""
    # symbols  4 5 6        one back  -1 4 5        two back  -1 -1 4
    padded = np.concatenate([np.full(back, NONE_BEFORE), symbols])
    return padded[: len(symbols)]


def boundary_flags(durations: Symbols) -> SymbolSequence:
    """Write the durations of one clip's tokens as a flag per frame after the first: whether a token begins there.

    The context is the number of frames of the token so far, so that memoryless durations cost as much this way as
    coded directly; without the context (`SymbolSequence(flags.symbols)`) a flag costs the entropy of the mean rate.
    """
    durations = _integers("durations", durations, least=1)
    # durations  2   1 3        starts  1 0 1 1 0 0        age  0 1 0 0 1 2
    ends = np.cumsum(durations)
    frames = int(durations.sum())
    starts = np.zeros(frames, dtype=np.int64)
    starts[ends[:-1]] = 1
    age = np.arange(frames) - np.repeat(ends - durations, durations)
    return SymbolSequence(starts[1:], (age[:-1],))


class CountModel:
    """Probabilities from counts, each context smoothed by the shorter one (D. MacKay and L. Peto, 1995).

    With all contexts: q(s | c) = (n(c, s) + a q'(s)) / (n(c) + a), where n are counts and q' is the same without the
    last context, down to no context and finally 1 / size, so that every symbol has a probability above 0. The strength
    a is chosen for each number of contexts from `STRENGTHS` to code every clip best by the counts of the others;
    where contexts only scatter the counts, it grows until they hardly matter. A single clip says nothing about
    others, and all symbols stay about equally likely. `size` is the number of symbols in the alphabet.
    """

    def __init__(self, sources: Sequence[SymbolSequence], size: int):
        if not sources:
            raise ValueError("there are no clips to count; expected at least one")
        if type(size) is not int or size < 1:
            raise ValueError(f"size is {size!r}; expected the number of symbols in the alphabet (not its bits)")
        if len({len(source.contexts) for source in sources}) > 1:
            raise ValueError("the clips differ in how many contexts they have")
        self.size = size
        # All clips one after another, and the number of each symbol's clip.
        clips = np.repeat(np.arange(len(sources)), [len(source.symbols) for source in sources])
        symbols = self._checked(np.concatenate([source.symbols for source in sources]))
        contexts = [np.concatenate(parts) for parts in zip(*(source.contexts for source in sources), strict=True)]
        # Values of a context: 0 for "none before", then those seen, then one for all that are larger.
        self._radixes = [int(values.max(initial=0)) + 3 for values in contexts]
        if prod(self._radixes, start=size * len(sources)) > LARGEST_KEY:
            raise ValueError(f"contexts of {self._radixes} values and {size} symbols are too many; leave a context out")
        # From no context to all, each smoothed by the one before.
        self._levels = []
        probability = np.full(len(symbols), 1 / size)
        for keys in self._keys(contexts, len(symbols)):
            level = _ContextCounts(keys, symbols, size)
            probability = level.fit(probability, keys, symbols, clips)
            self._levels.append(level)

    def bits(self, source: SymbolSequence) -> Float[np.ndarray, " symbols"]:
        """Compute the code length of each symbol of a clip, in bits."""
        if len(source.contexts) != len(self._radixes):
            raise ValueError(
                f"the clip has {len(source.contexts)} contexts, but the model was made with {len(self._radixes)}"
            )
        symbols = self._checked(source.symbols)
        probability = np.full(len(symbols), 1 / self.size)
        for level, keys in zip(self._levels, self._keys(source.contexts, len(symbols)), strict=True):
            count, total = level.counts(keys, symbols)
            probability = level.smooth(count, total, probability)
        return -np.log2(probability)

    def _keys(self, contexts: Sequence[Symbols], count: int) -> list[Symbols]:
        """Number the combinations of no context, of the first, of the first two, ..."""
        # One mixed-radix integer per combination; values beyond those counted share the last digit.
        keys = [np.zeros(count, dtype=np.int64)]
        for values, radix in zip(contexts, self._radixes, strict=True):
            keys.append(keys[-1] * radix + np.minimum(values + 1, radix - 1))
        return keys

    def _checked(self, symbols: Symbols) -> Symbols:
        if symbols.size and symbols.max() >= self.size:
            raise ValueError(f"symbol {symbols.max()} is outside an alphabet of {self.size} (is size counted from 0?)")
        return symbols


class _ContextCounts:
    """Counts in contexts of one length, and how strongly the shorter context smooths them."""

    def __init__(self, keys: Symbols, symbols: Symbols, size: int):
        self.size = size
        self.strength = STRENGTHS[0]
        # Sorted keys and their counts, of contexts with the symbol and of contexts.
        self._pairs = np.unique(keys * size + symbols, return_counts=True)
        self._contexts = np.unique(keys, return_counts=True)

    def fit(self, shorter: Probabilities, keys: Symbols, symbols: Symbols, clips: Symbols) -> Probabilities:
        """Choose the strength; return the probability of each counted symbol by the counts of the other clips."""
        # Leave one clip out: take its own counts off those of all clips.
        count, total = self.counts(keys, symbols)
        num_clips = int(clips.max(initial=0)) + 1
        count = count - _occurrences((keys * self.size + symbols) * num_clips + clips)
        total = total - _occurrences(keys * num_clips + clips)
        # Code length of all clips for each strength; argmin takes the first of equal ones.
        lengths = []
        for self.strength in STRENGTHS:
            lengths.append(-float(np.log2(self.smooth(count, total, shorter)).sum()))
        self.strength = STRENGTHS[int(np.argmin(lengths))]
        return self.smooth(count, total, shorter)

    def smooth(self, count: Symbols, total: Symbols, shorter: Probabilities) -> Probabilities:
        """Mix counts with the probabilities of one context less."""
        return (count + self.strength * shorter) / (total + self.strength)

    def counts(self, keys: Symbols, symbols: Symbols) -> tuple[Symbols, Symbols]:
        """Look up the counts of each symbol in its context, and of the context."""
        return _lookup(self._pairs, keys * self.size + symbols), _lookup(self._contexts, keys)


def held_out_bits(
    sources: Sequence[SymbolSequence], size: int, folds: int = 5, groups: Sequence[Hashable] | None = None
) -> Float[np.ndarray, " clips"]:
    """Compute each clip's code length in bits under a model of the other folds' clips (cross-validation).

    `size` is that of the alphabet. A group of clips, such as those of a speaker, is never on both sides.
    """
    fold_of = assign_folds(len(sources), folds, groups)
    bits = np.zeros(len(sources))
    for fold in range(folds):
        model = CountModel([sources[i] for i in np.flatnonzero(fold_of != fold).tolist()], size)
        for i in np.flatnonzero(fold_of == fold).tolist():
            bits[i] = model.bits(sources[i]).sum()
    return bits


def assign_folds(count: int, folds: int, groups: Sequence[Hashable] | None = None) -> Int[np.ndarray, " clips"]:
    """Assign clips to folds in turn, whole groups at a time; without groups every clip is one."""
    names = list(range(count)) if groups is None else list(groups)
    if len(names) != count:
        raise ValueError(f"got {len(names)} groups for {count} clips; expected one for each")
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    if not 2 <= folds <= len(number):
        raise ValueError(f"folds is {folds}; expected 2 to {len(number)}, the clips or groups given")
    return np.array([number[name] % folds for name in names])


def counts_entropy(counts: Int[np.ndarray, " *outcomes"]) -> float:
    """Compute the plug-in entropy of counts in bits; NaN without counts.

    `scipy.stats.entropy` gives the same in 100 times the time, and bootstraps call this.
    """
    counts = np.asarray(counts)
    # 0 log 0 is 0; adding 0.0 turns -0.0 into 0.0.
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(shares * np.log2(shares)).sum()) + 0.0 if len(shares) else math.nan


def table_information(counts: Int[np.ndarray, "rows columns"]) -> float:
    """Compute the plug-in mutual information of rows and columns of counts in bits; 0 without counts.

    It is too high by about (rows - 1)(columns - 1) / (2 N ln 2).
    """
    if not counts.any():
        return 0.0
    return max(0.0, counts_entropy(counts.sum(1)) + counts_entropy(counts.sum(0)) - counts_entropy(counts))


def miller_madow_entropy(symbols: Symbols) -> float:
    """Compute the plug-in entropy plus its first-order bias, (symbols seen - 1) / (2 N ln 2) bits (G. Miller, 1955)."""
    counts = _counts(_integers("symbols", symbols, least=NONE_BEFORE))
    return counts_entropy(counts) + (len(counts) - 1) / (2 * len(symbols) * math.log(2))


@dataclass(frozen=True)
class CodebookUse:
    """Use of a codebook: its size, codes that occur, plug-in entropy in bits per code, and perplexity 2^entropy."""

    size: int
    used: int
    entropy: float
    perplexity: float


def codebook_use(codes: Symbols, size: int) -> CodebookUse:
    """Measure how a codebook is used."""
    codes = _integers("codes", codes, least=0)
    if codes.size and codes.max() >= size:
        raise ValueError(f"code {codes.max()} is outside a codebook of {size}; are these of another codebook?")
    counts = _counts(codes)
    entropy = counts_entropy(counts)
    return CodebookUse(size, len(counts), entropy, 2**entropy)


def fsq_digits(codes: Symbols, levels: Sequence[int]) -> Int[np.ndarray, "symbols digits"]:
    """Split FSQ codes into digits; digit 0 is the least significant (see `flexicodec.quantize.fsq.fsq_encode`)."""
    codes = _integers("codes", codes, least=0)
    if codes.size and codes.max() >= prod(levels):
        raise ValueError(f"code {codes.max()} is outside levels {tuple(levels)}, which make {prod(levels)} codes")
    # code = digit 0 + levels[0] * (digit 1 + levels[1] * ...)
    return np.stack(np.unravel_index(codes, tuple(levels), order="F"), axis=1)


def digit_information(digits: Int[np.ndarray, "symbols digits"]) -> Float[np.ndarray, "digits digits"]:
    """Compute the mutual information of every pair of digits in bits; the diagonal holds each digit's entropy."""
    if not len(digits):
        raise ValueError("there are no symbols to count")
    information = np.zeros((digits.shape[1], digits.shape[1]))
    for i, rows in enumerate(digits.T):
        for j, columns in enumerate(digits.T):
            table = np.zeros((rows.max() + 1, columns.max() + 1), dtype=np.int64)
            np.add.at(table, (rows, columns), 1)
            information[i, j] = table_information(table)
    return information


def _counts(symbols: Symbols) -> Int[np.ndarray, " kinds"]:
    """Count each symbol that occurs."""
    if not len(symbols):
        raise ValueError("there are no symbols to count")
    return np.unique(symbols, return_counts=True)[1]


def _occurrences(keys: Symbols) -> Symbols:
    """Count, for each key, how often it occurs among them."""
    _, where, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return counts[where]


def _lookup(table: tuple[Symbols, Symbols], wanted: Symbols) -> Symbols:
    """Find counts by sorted keys; 0 for keys that are absent."""
    keys, counts = table
    if not len(keys):
        return np.zeros(len(wanted), dtype=np.int64)
    # Where each key would stand; a hit only where the key there is the same.
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, counts[at], 0)


def _integers(name: str, values: Symbols, least: int) -> Symbols:
    # An empty list is float64 to NumPy.
    array = np.asarray(values)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise ValueError(f"{name} is {array.dtype} {list(array.shape)}; expected integers, one after another")
    if array.size and array.min() < least:
        raise ValueError(f"{name} holds {array.min()}; expected {least} or more (is padding among them?)")
    return array.astype(np.int64)
