"""Bits of durations and codes: field widths, code lengths on held-out clips, and what the digits of FSQ codes share.

A token's nominal bits are the widths of its fields. Its true bits are measured as code lengths of count models, each
tried on clips that it was not fitted to; plug-in entropies of large codebooks would be far too low on a small corpus
(see `statistics.entropy`). Of several models of one part the cheapest on these clips is taken, so the sum is a rate
that a coder with these models would reach on such speech, not a lower bound.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from flexicodec.analysis.token_contents import ratio_of_sums
from flexicodec.corpus.alignments.phones import alphabet_of, is_silence, is_unknown, phone_name
from flexicodec.statistics import Interval, bootstrap
from flexicodec.statistics.entropy import (
    CodebookUse,
    SymbolSequence,
    boundary_flags,
    codebook_use,
    counts_entropy,
    digit_information,
    fsq_digits,
    held_out_bits,
    miller_madow_entropy,
    previous_symbols,
    table_information,
)
from flexicodec.tokens import Tokens

FOLDS = 5
RESAMPLES = 2000

Symbols = Int[np.ndarray, " tokens"]
Bits = Float[np.ndarray, " clips"]
Model = list[tuple[list[SymbolSequence], int]]
"""Sequences that are coded one after another, one of each clip, each list with the size of its alphabet."""


@dataclass(frozen=True)
class BitsPerPart:
    """Cost of one part of all tokens."""

    name: str  # "durations", "semantic", or "acoustic 1" and so on
    nominal: float | None  # bits of its field in a token; None for durations without a cap
    coded: dict[str, Interval]  # bits per token on held-out clips, by the model's name
    best: str  # name of the cheapest model
    use: CodebookUse | None  # of its codebook; None for durations
    miller_madow: float  # corrected entropy in bits, still too low where symbols are many and tokens few


@dataclass(frozen=True)
class CodeStudy:
    """Cost of the tokens of one setting."""

    parts: tuple[BitsPerPart, ...]  # durations, semantic codes, acoustic codes
    nominal_kbps: Interval  # of all fields
    coded_kbps: Interval  # of the cheapest model of each part
    flags_bps: dict[str, Interval]  # bits per second of durations, by how they are written: fields, flags, models
    tokens: int


def study_codes(
    clips: Sequence[Tokens],
    levels: Sequence[int] | None = None,
    *,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
) -> CodeStudy:
    """Measure the bits of durations and codes; where no model is cheaper a part costs its field, durations raw flags.

    Args:
        clips: Tokens of one clip each, of the same format.
        levels: Levels of the semantic FSQ's digits; None leaves digits out.
        clusters: Speaker of each clip; none is both fitted and coded, and the bootstrap resamples speakers.
        resamples: Bootstrap resamples.
    """
    groups: list[Hashable] = list(range(len(clips)) if clusters is None else clusters)
    if len(set(groups)) < 2 or any(len(clip) != 1 for clip in clips):
        raise ValueError(
            f"{len(clips)} entries of {len(set(groups))} clips or speakers; a model is tried on others than it was "
            "fitted to, so expected two or more, each the tokens of one clip"
        )
    durations = [clip.durations[0].numpy() for clip in clips]
    held_out = _HeldOut(groups, clusters, resamples, np.array([len(each) for each in durations]))
    parts, cheapest = _code_parts(clips, durations, levels, held_out)
    seconds = np.array([float(clip.seconds[0]) for clip in clips])
    nominal = np.array([float(clip.bitrates_kbps[0] * clip.seconds[0]) for clip in clips])  # kbit
    return CodeStudy(
        parts=tuple(parts),
        nominal_kbps=held_out.interval(ratio_of_sums, nominal, seconds),
        coded_kbps=held_out.interval(ratio_of_sums, np.sum(cheapest, axis=0) / 1000, seconds),
        flags_bps=_flags_bps(durations, seconds, cheapest[0], clips[0].format.duration_bits, held_out),
        tokens=int(held_out.tokens.sum()),
    )


@dataclass(frozen=True, eq=False)
class _HeldOut:
    """Code lengths of clips by models that were fitted to others, with bootstrap intervals."""

    groups: list[Hashable]  # clips of one group are never on both sides
    clusters: Sequence[Hashable] | None
    resamples: int
    tokens: Int[np.ndarray, " clips"]

    def bits(self, model: Model) -> Bits:
        folds = min(FOLDS, len(set(self.groups)))
        return np.sum([held_out_bits(sequences, size, folds, self.groups) for sequences, size in model], axis=0)

    def bits_of(self, models: Mapping[str, Model]) -> dict[str, Bits]:
        return {name: self.bits(model) for name, model in models.items()}

    def interval(self, statistic: Callable[..., float], *arrays: np.ndarray) -> Interval:
        return bootstrap(statistic, *arrays, clusters=self.clusters, resamples=self.resamples)

    def part(
        self, name: str, symbols: list[Symbols], size: int | None, field_bits: int | None, bits: dict[str, Bits]
    ) -> tuple[BitsPerPart, Bits]:
        """Compare the bits of several models and the field; returns the comparison, and the bits of the cheapest."""
        if field_bits is not None:
            bits["as its field"] = field_bits * self.tokens.astype(float)
        best = min(bits, key=lambda label: float(bits[label].sum()))
        coded = {label: self.interval(ratio_of_sums, each, self.tokens) for label, each in bits.items()}
        joined = np.concatenate(symbols)
        use = None if size is None else codebook_use(joined, size)
        return BitsPerPart(name, field_bits, coded, best, use, miller_madow_entropy(joined)), bits[best]


def _code_parts(
    clips: Sequence[Tokens], durations: list[Symbols], levels: Sequence[int] | None, held_out: _HeldOut
) -> tuple[list[BitsPerPart], list[Bits]]:
    """Measure durations, semantic codes and acoustic codes; returns each part, and the bits of its cheapest model."""
    form = clips[0].format
    lengths = [each - 1 for each in durations]  # symbols count from 0
    longest = form.max_duration or int(max(each.max() for each in durations))
    bits = held_out.bits_of(_plain_models(lengths, longest))
    bits["a flag per frame"] = _flagged_frames(durations)
    found = [held_out.part("durations", lengths, None, form.duration_bits, bits)]

    size = form.semantic_codebook_size
    if clips[0].semantic is not None and size:
        semantic = [clip.semantic[0].numpy() for clip in clips if clip.semantic is not None]
        models = _plain_models(semantic, size)
        if levels is not None:
            models = {"alone": models["alone"], **_digit_models(semantic, durations, levels)}
        found.append(held_out.part("semantic", semantic, size, form.semantic_bits, held_out.bits_of(models)))

    size = form.acoustic_codebook_size
    before: list[Symbols] | None = None
    for j in range(clips[0].num_codebooks):
        codes = [clip.acoustic[0, j].numpy() for clip in clips]
        models = _plain_models(codes, size)
        if before is not None:
            models["knowing the codebook before"] = _model(codes, size, before)
        found.append(held_out.part(f"acoustic {j + 1}", codes, size, form.acoustic_bits, held_out.bits_of(models)))
        before = codes
    return [part for part, _ in found], [cheapest for _, cheapest in found]


def _flagged_frames(durations: list[Symbols]) -> Bits:
    """Count the frames of each clip that may start a token; the first always does."""
    return np.array([float(each.sum()) for each in durations]) - 1


def _flags_bps(
    durations: list[Symbols], seconds: Bits, coded: Bits, field_bits: int | None, held_out: _HeldOut
) -> dict[str, Interval]:
    """Compare ways to write durations, in bits per second; `coded` are the bits of the cheapest model of durations."""
    frames = _flagged_frames(durations)
    flagged = held_out.bits([([boundary_flags(each) for each in durations], 2)])

    def per_second(bits: Bits) -> Interval:
        return held_out.interval(ratio_of_sums, bits, seconds)

    def independent_flags(starts: Bits, frames: Bits, seconds: Bits) -> float:
        counts = np.array([int(starts.sum()), int(frames.sum() - starts.sum())])
        return float(frames.sum()) * counts_entropy(counts) / seconds.sum()

    found = {}
    if field_bits is not None:
        found[f"{field_bits}-bit lengths"] = per_second(field_bits * held_out.tokens)
    found["a flag per frame"] = per_second(frames)
    found["flags at their entropy"] = held_out.interval(independent_flags, held_out.tokens - 1, frames, seconds)
    found["lengths, coded"] = per_second(coded)
    found["flags, coded"] = per_second(flagged if flagged.sum() < frames.sum() else frames)
    return found


def _model(symbols: list[Symbols], size: int, *known: list[Symbols]) -> Model:
    """Code symbols of each clip, given those known of each."""
    return [([SymbolSequence(each, tuple(context)) for each, *context in zip(symbols, *known, strict=True)], size)]


def _plain_models(symbols: list[Symbols], size: int) -> dict[str, Model]:
    """Code symbols by themselves, or knowing the last token's."""
    last = [previous_symbols(each) for each in symbols]
    return {"alone": _model(symbols, size), "after the last token's": _model(symbols, size, last)}


def _digit_models(codes: list[Symbols], durations: list[Symbols], levels: Sequence[int]) -> dict[str, Model]:
    """Code semantic codes digit by digit, knowing other digits, the last token's or the duration."""
    digits = [fsq_digits(each, levels) for each in codes]
    models: dict[str, Model] = defaultdict(list)
    for j, size in enumerate(levels):
        mine = [each[:, j] for each in digits]
        # Nearest digit first: count models forget the last context first.
        before = [[each[:, k] for each in digits] for k in reversed(range(j))]
        models["digits alone"] += _model(mine, size)
        models["digits, each after the one before"] += _model(mine, size, *before[:1])
        models["digits, each after all before"] += _model(mine, size, *before)
        models["digits, each after the last token's"] += _model(mine, size, [previous_symbols(each) for each in mine])
        models["digits, knowing the duration"] += _model(mine, size, durations)
    return models


def flag_limit_bps(frame_rate: float, base_frame_rate: float) -> float:
    """Return bits per second of one independent flag per frame: base * h(R / base), the most that durations can need.

    Durations as unpredictable as their mean allows cost this much, but for the cap (specs/tts-and-evaluation.md,
    section 4).
    """
    share = frame_rate / base_frame_rate
    if not 0 < share <= 1:
        raise ValueError(f"frame rate is {frame_rate:g} Hz on a grid of {base_frame_rate:g} Hz; expected one below it")
    return base_frame_rate * sum(-p * math.log2(p) for p in (share, 1 - share) if 0 < p < 1)


@dataclass(frozen=True, eq=False)
class DigitStudy:
    """Information in the digits of semantic codes, in bits, by counts (plug-in).

    Whole codes are too many to count in an hour of speech; digits are few. What they share with each other is what
    coding them one by one loses.
    """

    levels: tuple[int, ...]  # of each digit, the least significant first
    shared: Float[np.ndarray, "digits digits"]  # mutual information of two digits; entropies on the diagonal
    phones: tuple[float, ...]  # mutual information of each digit and the phone; empty where phones have no times
    chance: tuple[float, ...]  # the same with phones shuffled among tokens
    phone_entropy: float  # of the phones at the middle of tokens in speech, the upper limit; NaN without times
    tokens: int
    spoken: int  # tokens in speech whose phone is known

    @property
    def entropies(self) -> tuple[float, ...]:
        """Entropy of each digit."""
        return tuple(np.diag(self.shared).tolist())


def study_digits(
    codes: Sequence[Symbols],
    levels: Sequence[int],
    phones: Sequence[Sequence[str] | None] | None = None,
    *,
    draws: int = 10,
    seed: int = 0,
) -> DigitStudy:
    """Measure the information in the digits of semantic codes.

    Args:
        codes: Semantic codes of each clip.
        levels: Levels of the FSQ's digits.
        phones: Label at the middle of each token; None for a clip without. Stress, silence and unknown words are
            left out.
        draws: Shuffles for the chance level.
        seed: Of the shuffles.
    """
    labels: list[str] = []
    for i, of_clip in enumerate(codes):
        known = None if phones is None else phones[i]
        if known is None:
            known = [""] * len(of_clip)
        if len(known) != len(of_clip):
            raise ValueError(f"clip {i} has {len(of_clip)} codes but other labels; expected one per token")
        labels += known
    digits = fsq_digits(np.concatenate(list(codes)), levels)
    is_phone = np.array([not (is_silence(label) or is_unknown(label)) for label in labels])
    alphabet = alphabet_of(labels)
    spoken = [phone_name(labels[i], alphabet) for i in np.flatnonzero(is_phone)]
    names, phone = np.unique(spoken, return_inverse=True)

    def information(phone: Int[np.ndarray, " spoken"]) -> tuple[float, ...]:
        """Return the mutual information of each digit and the phone."""
        found = []
        for j, digit in enumerate(digits[is_phone].T if len(names) else ()):
            table = np.zeros((levels[j], len(names)), dtype=np.int64)
            np.add.at(table, (digit, phone), 1)
            found.append(table_information(table))
        return tuple(found)

    random = np.random.default_rng(seed)
    shuffled = [information(random.permutation(phone)) for _ in range(draws)]
    return DigitStudy(
        levels=tuple(levels),
        shared=digit_information(digits),
        phones=information(phone),
        chance=tuple(np.mean(shuffled, axis=0).tolist()),
        phone_entropy=counts_entropy(np.bincount(phone)),
        tokens=len(digits),
        spoken=int(is_phone.sum()),
    )
