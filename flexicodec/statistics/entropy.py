"""How many bits symbols are worth: code lengths of count models on clips they have not seen, and plain entropies.

Conventions: symbols are integers from 0, in NumPy arrays; everything is in bits. Plug-in entropies of a large alphabet
are far too low on a small corpus: 32,768 codes cannot be counted with 10,000 tokens. What is believed is a code length:
-log2 q of clips that the model q has not seen never lies below the entropy, on average, whatever q is. FSQ codes also
come apart into digits of few levels each, which a small corpus can count (specs/tts-and-evaluation.md, section 4).
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from jaxtyping import Float, Int

Symbols = Int[np.ndarray, " symbols"]

NONE_BEFORE = -1  # the context of a clip's first symbol
LARGEST_KEY = 2**62
STRENGTHS = tuple(2.0**power for power in range(24, -5, -1))  # in symbols seen; of equals the first is taken


# ------------------------------------------------------------------------------------------------------- code lengths


@dataclass(frozen=True, eq=False)
class Source:
    """Symbols of one clip and what is known when each of them is coded.

    Attributes:
        symbols: From 0.
        contexts: For each known thing an integer per symbol, from -1; the most telling first, since the model forgets
            the last one first. None for symbols coded by themselves.
    """

    symbols: Symbols
    contexts: tuple[Symbols, ...] = ()

    def __post_init__(self) -> None:
        """Check types, ranges and lengths.

        Raises:
            ValueError: Names what came and what was expected.
        """
        object.__setattr__(self, "symbols", _integers("symbols", self.symbols, least=0))
        contexts = tuple(_integers(f"contexts[{i}]", each, least=-1) for i, each in enumerate(self.contexts))
        if wrong := [len(each) for each in contexts if len(each) != len(self.symbols)]:
            raise ValueError(f"a context has {wrong[0]} entries for {len(self.symbols)} symbols; expected one for each")
        object.__setattr__(self, "contexts", contexts)


def previous(symbols: Symbols, back: int = 1) -> Symbols:
    """Give the symbol `back` places before each symbol of a clip, and -1 where there is none."""
    return np.concatenate([np.full(min(back, len(symbols)), NONE_BEFORE), symbols[: max(0, len(symbols) - back)]])


def boundary_flags(durations: Symbols) -> Source:
    """Write the durations of one clip's tokens as flags: for each frame after the first, whether a token begins there.

    The context is how many frames the token before has had so far, so that durations without memory cost as much this
    way as by themselves; without the context (`Source(flags.symbols)`) a flag costs one number, h(R / base rate).
    """
    durations = _integers("durations", durations, least=1)
    frames = int(durations.sum())
    starts = np.zeros(frames, dtype=np.int64)
    starts[np.cumsum(durations)[:-1]] = 1
    age = np.arange(frames) - np.repeat(np.cumsum(durations) - durations, durations)  # frames since the token began
    return Source(starts[1:], (age[:-1],))


class CountModel:
    """Probabilities from counts, each context leaning on the shorter one (D. MacKay and L. Peto, 1995).

    With all contexts known: q(s | c) = (n(c, s) + a q'(s)) / (n(c) + a), where n counts what was seen and q' is the
    same without the last of the contexts, down to none and at last to 1 / size, so that every symbol keeps a
    probability above 0. How much a context leans, a, is chosen for each number of contexts from `STRENGTHS`, to code
    every clip best by the counts of the others; where contexts only scatter the counts, it grows until they hardly
    matter. From one clip nothing is learnt of others, and all symbols stay about as likely.

    Args:
        sources: Clips to count, with as many contexts each.
        size: Symbols that there are.

    Raises:
        ValueError: Symbols outside the alphabet, clips that differ in their contexts, or no clips.
    """

    def __init__(self, sources: Sequence[Source], size: int):
        if not sources:
            raise ValueError("there are no clips to count; expected at least one")
        if type(size) is not int or size < 1:
            raise ValueError(
                f"size is {size!r}; expected the number of symbols in the alphabet (its bits, or a float?)"
            )
        if len({len(source.contexts) for source in sources}) > 1:
            raise ValueError("the clips differ in how many contexts they have")
        self.size = size
        clips = np.repeat(np.arange(len(sources)), [len(source.symbols) for source in sources])
        symbols = self._checked(np.concatenate([source.symbols for source in sources]))
        contexts = [np.concatenate(parts) for parts in zip(*(source.contexts for source in sources), strict=True)]
        # A context's values are 0 for "none before", then those seen, then one for all that are larger.
        self._radixes = [int(values.max(initial=0)) + 3 for values in contexts]
        if prod(self._radixes, start=size * len(sources)) > LARGEST_KEY:
            raise ValueError(f"contexts of {self._radixes} values and {size} symbols are too many; leave a context out")
        self._levels = []
        probability = np.full(len(symbols), 1 / size)
        for keys in self._keys(contexts, len(symbols)):
            level = _Level(keys, symbols, size)
            probability = level.fit(probability, keys, symbols, clips)
            self._levels.append(level)

    def bits(self, source: Source) -> Float[np.ndarray, " symbols"]:
        """Compute the code length of each symbol of a clip, in bits."""
        if len(source.contexts) != len(self._radixes):
            raise ValueError(
                f"the clip has {len(source.contexts)} contexts, but the model was made with {len(self._radixes)}"
            )
        symbols = self._checked(source.symbols)
        probability = np.full(len(symbols), 1 / self.size)
        for level, keys in zip(self._levels, self._keys(source.contexts, len(symbols)), strict=True):
            probability = level.refine(probability, keys, symbols)
        return -np.log2(probability)

    def _keys(self, contexts: Sequence[Symbols], count: int) -> list[Symbols]:
        """Number the combinations of no context, of the first, of the first two, ..."""
        keys = [np.zeros(count, dtype=np.int64)]
        for values, radix in zip(contexts, self._radixes, strict=True):
            keys.append(keys[-1] * radix + np.minimum(values + 1, radix - 1))
        return keys

    def _checked(self, symbols: Symbols) -> Symbols:
        if symbols.size and symbols.max() >= self.size:
            raise ValueError(f"symbol {symbols.max()} is outside an alphabet of {self.size} (is size counted from 0?)")
        return symbols


class _Level:
    """Counts in the contexts of one length, and how much they lean on those of one less."""

    def __init__(self, keys: Symbols, symbols: Symbols, size: int):
        self.size = size
        self.pairs, self.pair_counts = np.unique(keys * size + symbols, return_counts=True)
        self.contexts, self.context_counts = np.unique(keys, return_counts=True)
        self.strength = STRENGTHS[0]

    def fit(
        self, shorter: Float[np.ndarray, " symbols"], keys: Symbols, symbols: Symbols, clips: Symbols
    ) -> Float[np.ndarray, " symbols"]:
        """Choose the strength, and give the probability of each counted symbol by the counts of the other clips."""
        count = int(clips.max(initial=0)) + 1
        n, total = self._seen(keys, symbols)
        n = n - _how_often((keys * self.size + symbols) * count + clips)
        total = total - _how_often(keys * count + clips)
        mixtures = {a: (n + a * shorter) / (total + a) for a in STRENGTHS}
        self.strength = max(mixtures, key=lambda a: float(np.log2(mixtures[a]).sum()))
        return mixtures[self.strength]

    def refine(
        self, shorter: Float[np.ndarray, " symbols"], keys: Symbols, symbols: Symbols
    ) -> Float[np.ndarray, " symbols"]:
        """Mix what was counted here with the probabilities of one context less."""
        n, total = self._seen(keys, symbols)
        return (n + self.strength * shorter) / (total + self.strength)

    def _seen(self, keys: Symbols, symbols: Symbols) -> tuple[Symbols, Symbols]:
        """Look up how often each symbol was counted in its context, and how often the context."""
        pairs = _looked_up(self.pairs, self.pair_counts, keys * self.size + symbols)
        return pairs, _looked_up(self.contexts, self.context_counts, keys)


def held_out_bits(
    sources: Sequence[Source], size: int, folds: int = 5, groups: Sequence[Hashable] | None = None
) -> Float[np.ndarray, " clips"]:
    """Compute each clip's code length under a model of other clips, in bits: cross-validation.

    Args:
        sources: The clips.
        size: Symbols in the alphabet.
        folds: Parts to split into; the model for a part is made of all the others.
        groups: Of each clip, its speaker, say: a group is never on both sides. None takes every clip for itself.

    Returns:
        Bits of all symbols of each clip; their sum over the sum of symbols is the honest bits per symbol.

    Raises:
        ValueError: Fewer clips (or groups) than folds, fewer than 2 folds, or see `CountModel`.
    """
    fold_of = split(len(sources), folds, groups)
    bits = np.zeros(len(sources))
    for fold in range(folds):
        model = CountModel([each for each, its in zip(sources, fold_of, strict=True) if its != fold], size)
        for i in np.flatnonzero(fold_of == fold).tolist():
            bits[i] = model.bits(sources[i]).sum()
    return bits


def split(count: int, folds: int, groups: Sequence[Hashable] | None = None) -> Int[np.ndarray, " clips"]:
    """Deal clips to folds in turn, whole groups at a time.

    Raises:
        ValueError: Not a group per clip, fewer groups than folds, or fewer than 2 folds.
    """
    names = list(range(count)) if groups is None else list(groups)
    if len(names) != count:
        raise ValueError(f"got {len(names)} groups for {count} clips; expected one for each")
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    if not 2 <= folds <= len(number):
        raise ValueError(f"folds is {folds}; expected 2 to {len(number)}, the clips or groups there are")
    return np.array([number[name] % folds for name in names])


# ----------------------------------------------------------------------------------------------------------- entropies


def counts_entropy(counts: Int[np.ndarray, " *outcomes"]) -> float:
    """Compute the entropy of counts as relative frequencies, in bits, whatever their axes; NaN without counts."""
    counts = np.asarray(counts)
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(shares * np.log2(shares)).sum()) + 0.0 if len(shares) else math.nan


def table_information(counts: Int[np.ndarray, "rows columns"]) -> float:
    """Compute the mutual information of rows and columns of a table of counts, in bits; 0 without counts."""
    entropies = counts_entropy(counts.sum(1)) + counts_entropy(counts.sum(0)) - counts_entropy(counts)
    return max(0.0, entropies) if counts.sum() else 0.0


def plug_in_entropy(symbols: Symbols) -> float:
    """Compute the entropy of the relative frequencies, in bits; too low unless symbols far outnumber the alphabet."""
    return counts_entropy(_counts(symbols))


def miller_madow_entropy(symbols: Symbols) -> float:
    """Compute the plug-in entropy plus its first-order bias, (symbols seen - 1) / (2 N ln 2) bits (G. Miller, 1955)."""
    counts = _counts(symbols)
    return plug_in_entropy(symbols) + (len(counts) - 1) / (2 * counts.sum() * np.log(2))


def mutual_information(a: Symbols, b: Symbols) -> float:
    """Compute the plug-in mutual information I(a; b) in bits; too high by about (A-1)(B-1) / (2 N ln 2)."""
    return max(0.0, plug_in_entropy(a) + plug_in_entropy(b) - joint_entropy(a, b))


def joint_entropy(a: Symbols, b: Symbols) -> float:
    """Compute the plug-in entropy H(a, b) in bits."""
    a, b = _integers("symbols", a, least=-1), _integers("symbols", b, least=-1)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} symbols; expected as many of both, one pair for each token")
    return plug_in_entropy(np.unique(np.stack([a, b]), axis=1, return_inverse=True)[1].reshape(-1))


# ------------------------------------------------------------------------------------------------- codebooks and digits


@dataclass(frozen=True)
class CodebookUse:
    """How a codebook is used.

    Attributes:
        size: Codes it has.
        used: Codes that occur.
        entropy: Plug-in, bits per code.
        perplexity: 2^entropy: as many codes, used evenly, would be worth as much.
    """

    size: int
    used: int
    entropy: float
    perplexity: float


def codebook_use(codes: Symbols, size: int) -> CodebookUse:
    """Count how a codebook is used.

    Raises:
        ValueError: No codes, or codes outside the codebook.
    """
    codes = _integers("codes", codes, least=0)
    if codes.size and codes.max() >= size:
        raise ValueError(f"code {codes.max()} is outside a codebook of {size}; are these of another codebook?")
    entropy = plug_in_entropy(codes)
    return CodebookUse(size, len(np.unique(codes)), entropy, 2**entropy)


def fsq_digits(codes: Symbols, levels: Sequence[int]) -> Int[np.ndarray, "symbols digits"]:
    """Take FSQ codes apart; digit 0 is the least significant (see `flexicodec.quantize.fsq.fsq_encode`).

    Raises:
        ValueError: Codes that the levels cannot make.
    """
    codes = _integers("codes", codes, least=0)
    if codes.size and codes.max() >= prod(levels):
        raise ValueError(f"code {codes.max()} is outside levels {tuple(levels)}, which make {prod(levels)} codes")
    basis = np.array([prod(levels[:j]) for j in range(len(levels))], dtype=np.int64)
    return codes[:, None] // basis % np.array(levels)


def digit_information(digits: Int[np.ndarray, "symbols digits"]) -> Float[np.ndarray, "digits digits"]:
    """Compute the mutual information of every pair of digits, in bits; the diagonal is each digit's entropy."""
    count = digits.shape[1]
    return np.array([[mutual_information(digits[:, i], digits[:, j]) for j in range(count)] for i in range(count)])


# --------------------------------------------------------------------------------------------------------------- parts


def _counts(symbols: Symbols) -> Int[np.ndarray, " kinds"]:
    symbols = _integers("symbols", symbols, least=-1)
    if not symbols.size:
        raise ValueError("there are no symbols to count")
    return np.unique(symbols, return_counts=True)[1]


def _how_often(keys: Symbols) -> Symbols:
    """Count, for each key, how often it stands among them."""
    _, where, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return counts[where.reshape(-1)]


def _looked_up(keys: Symbols, values: Symbols, wanted: Symbols) -> Symbols:
    """Find values by sorted keys; 0 for keys that are not there."""
    if not len(keys):
        return np.zeros(len(wanted), dtype=np.int64)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)


def _integers(name: str, values: Symbols, least: int) -> Symbols:
    array = np.asarray(values)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise ValueError(f"{name} is {array.dtype} {list(array.shape)}; expected integers, one after another")
    if array.size and array.min() < least:
        raise ValueError(f"{name} holds {array.min()}; expected {least} or more (is padding among them?)")
    return array.astype(np.int64)
