"""What durations and codes are worth in bits: fields of a file, entropies, and code lengths on clips not yet seen.

A token's nominal bits are the widths of its fields. Its true ones are measured as code lengths of count models, each
tried on clips that it has not seen; plug-in entropies of large codebooks would be far too low on a small corpus (see
`flexicodec.statistics.entropy`). Of several models of one part the cheapest on these clips is taken, so the sum is a
rate that a coder with these models would reach on such speech, not the least there can be. `evaluation.rate` makes one
number for a table by models that were chosen beforehand; here every part and model is shown.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Float, Int

from flexicodec.analysis.content import ratio
from flexicodec.statistics import Interval, bootstrap
from flexicodec.statistics.entropy import (
    CodebookUse,
    SymbolSequence,
    boundary_flags,
    codebook_use,
    counts_entropy,
    fsq_digits,
    held_out_bits,
    miller_madow_entropy,
    previous_symbols,
)
from flexicodec.tokens import Tokens

FOLDS = 5
RESAMPLES = 2000
Symbols = Int[np.ndarray, " tokens"]
Bits = Float[np.ndarray, " clips"]


@dataclass(frozen=True)
class PartBits:
    """What one part of all tokens costs.

    Attributes:
        name: "durations", "semantic", or "acoustic 1" and so on.
        nominal: Bits of its field in a token; None for durations without a cap.
        coded: Bits per token on held-out clips, by the model's name.
        best: Name of the cheapest model.
        use: How its codebook is used; None for durations.
        miller_madow: Entropy of its symbols by themselves with Miller and Madow's correction, bits: a side note, since
            it is still too low where symbols are many and tokens few.
    """

    name: str
    nominal: float | None
    coded: dict[str, Interval]
    best: str
    use: CodebookUse | None
    miller_madow: float


@dataclass(frozen=True)
class CodeStudy:
    """What tokens of one setting cost.

    Attributes:
        parts: Durations first, then the semantic codes, then the acoustic ones.
        nominal_kbps: Of all fields, over all clips.
        coded_kbps: Of the cheapest model of each part, over all clips.
        flags_bps: Bits per second of durations, by how they are written: fields, flags, and models.
        tokens: Counted.
    """

    parts: tuple[PartBits, ...]
    nominal_kbps: Interval
    coded_kbps: Interval
    flags_bps: dict[str, Interval]
    tokens: int


def study_codes(
    clips: Sequence[Tokens],
    levels: Sequence[int] | None = None,
    *,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
) -> CodeStudy:
    """Measure what durations and codes cost; where no model is cheaper, a part costs its field, durations raw flags.

    Args:
        clips: Tokens of one clip each, of the same format.
        levels: Of the semantic FSQ's digits; None leaves digits out.
        clusters: Speaker of each clip: none is on both sides of a model, and intervals draw speakers.
        resamples: For the intervals.

    Raises:
        ValueError: Fewer than two clips (or clusters), or tokens of several clips in one.
    """
    groups: list[Hashable] = [*range(len(clips))] if clusters is None else [*clusters]
    if len(set(groups)) < 2 or any(len(clip) != 1 for clip in clips):
        raise ValueError(
            f"{len(clips)} entries of {len(set(groups))} clips or speakers; a model is tried on others than it was "
            "made of, so expected two or more, each the tokens of one clip"
        )
    measure = _Measure(clips, groups, clusters, resamples)
    form = clips[0].format
    durations = [clip.durations[0].numpy() for clip in clips]
    raw = {"a flag per frame": np.array([float(d.sum() - 1) for d in durations])}
    parts = [measure.part("durations", form.duration_bits, _duration_models(durations, form.max_duration), fixed=raw)]
    semantic = (
        [] if clips[0].semantic is None else [clip.semantic[0].numpy() for clip in clips if clip.semantic is not None]
    )
    if semantic and form.semantic_codebook_size:
        models = _semantic_models(semantic, durations, form.semantic_codebook_size, levels)
        use = codebook_use(np.concatenate(semantic), form.semantic_codebook_size)
        parts.append(measure.part("semantic", form.semantic_bits, models, use))
    for j in range(clips[0].num_codebooks):
        rows = [clip.acoustic[0].numpy() for clip in clips]
        use = codebook_use(np.concatenate([each[j] for each in rows]), form.acoustic_codebook_size)
        models = _acoustic_models(rows, j, form.acoustic_codebook_size)
        parts.append(measure.part(f"acoustic {j + 1}", form.acoustic_bits, models, use))
    return CodeStudy(
        parts=tuple(part for part, _ in parts),
        nominal_kbps=measure.per_second([1000 * float(c.bitrates_kbps[0] * c.seconds[0]) for c in clips], 1000),
        coded_kbps=measure.per_second(np.sum([bits for _, bits in parts], axis=0), 1000),
        flags_bps=measure.flags(durations, parts[0][1], form.duration_bits),
        tokens=sum(map(len, durations)),
    )


Model = tuple[str, Callable[[], list[tuple[list[SymbolSequence], int]]]]
"""A name, and what is coded one after another: clips as sources, with the size of the alphabet."""


def _duration_models(durations: list[Symbols], cap: int | None) -> list[Model]:
    size = cap or int(max(each.max() for each in durations))
    return [
        ("alone", lambda: [([SymbolSequence(d - 1) for d in durations], size)]),
        (
            "after the last token's",
            lambda: [([SymbolSequence(d - 1, (previous_symbols(d - 1),)) for d in durations], size)],
        ),
    ]


def _semantic_models(
    codes: list[Symbols], durations: list[Symbols], size: int, levels: Sequence[int] | None
) -> list[Model]:
    """Code whole codes; or digit by digit, with other digits, the last token's or the duration known."""
    models: list[Model] = [("alone", lambda: [([SymbolSequence(c) for c in codes], size)])]
    if levels is None:
        models.append(
            ("after the last token's", lambda: [([SymbolSequence(c, (previous_symbols(c),)) for c in codes], size)])
        )
        return models
    digits = [fsq_digits(each, levels) for each in codes]

    def one_by_one(
        known: Callable[[int, int], tuple[Symbols, ...]],
    ) -> Callable[[], list[tuple[list[SymbolSequence], int]]]:
        return lambda: [
            ([SymbolSequence(d[:, j], known(i, j)) for i, d in enumerate(digits)], levels[j])
            for j in range(len(levels))
        ]

    return [
        *models,
        ("digits alone", one_by_one(lambda i, j: ())),
        ("digits, each after the one before", one_by_one(lambda i, j: tuple(digits[i][:, :j].T[::-1][:1]))),
        ("digits, each after all before", one_by_one(lambda i, j: tuple(digits[i][:, :j].T[::-1]))),
        ("digits, each after the last token's", one_by_one(lambda i, j: (previous_symbols(digits[i][:, j]),))),
        ("digits, knowing the duration", one_by_one(lambda i, j: (durations[i],))),
    ]


def _acoustic_models(codes: list[Int[np.ndarray, "codebooks tokens"]], j: int, size: int) -> list[Model]:
    models: list[Model] = [
        ("alone", lambda: [([SymbolSequence(c[j]) for c in codes], size)]),
        ("after the last token's", lambda: [([SymbolSequence(c[j], (previous_symbols(c[j]),)) for c in codes], size)]),
    ]
    if j:
        models.append(
            ("knowing the codebook before", lambda: [([SymbolSequence(c[j], (c[j - 1],)) for c in codes], size)])
        )
    return models


@dataclass(frozen=True)
class _Measure:
    """Held-out code lengths of these clips."""

    clips: Sequence[Tokens]
    groups: list[Hashable]
    clusters: Sequence[Hashable] | None
    resamples: int

    def held_out(self, coded: list[tuple[list[SymbolSequence], int]]) -> Bits:
        """Add up the bits of all that a model codes, clip by clip."""
        folds = min(FOLDS, len(set(self.groups)))
        return np.sum([held_out_bits(sources, size, folds, self.groups) for sources, size in coded], axis=0)

    def part(
        self,
        name: str,
        nominal: int | None,
        models: list[Model],
        use: CodebookUse | None = None,
        fixed: Mapping[str, Bits] = MappingProxyType({}),
    ) -> tuple[PartBits, Bits]:
        """Try the models of one part, its field, and fixed ways; returns what it costs, and the least bits by clip."""
        tokens = [int(clip.token_lengths[0]) for clip in self.clips]
        bits = {label: self.held_out(coded()) for label, coded in models} | dict(fixed)
        if nominal is not None:
            bits["as its field"] = nominal * np.array(tokens, dtype=float)
        best = min(bits, key=lambda label: float(bits[label].sum()))
        coded = {label: self.interval(ratio, each, np.array(tokens)) for label, each in bits.items()}
        symbols = np.concatenate([source.symbols for source in models[0][1]()[0][0]])
        return PartBits(name, nominal, coded, best, use, miller_madow_entropy(symbols)), bits[best]

    def interval(self, statistic: Callable[..., float], *arrays: np.ndarray) -> Interval:
        return bootstrap(statistic, *arrays, clusters=self.clusters, resamples=self.resamples)

    def per_second(self, bits: Sequence[float] | Bits, scale: float = 1.0) -> Interval:
        """Divide the bits of all clips by their seconds, and by the scale."""
        seconds = np.array([float(clip.seconds[0]) for clip in self.clips])
        return self.interval(lambda b, s: ratio(b, s) / scale, np.asarray(bits, dtype=float), seconds)

    def flags(self, durations: list[Symbols], coded: Bits, field: int | None) -> dict[str, Interval]:
        """Compare ways to write durations down, in bits per second."""
        frames = np.array([float(each.sum() - 1) for each in durations])
        starts = np.array([len(each) - 1 for each in durations])
        seconds = np.array([float(clip.seconds[0]) for clip in self.clips])

        def coin(starts: np.ndarray, frames: np.ndarray, seconds: np.ndarray) -> float:
            """Code flags that know only how many tokens begin."""
            begun = int(starts.sum())
            return float(frames.sum()) * counts_entropy(np.array([begun, int(frames.sum()) - begun])) / seconds.sum()

        flagged = self.held_out([([boundary_flags(d) for d in durations], 2)])  # where it costs more, flags stay raw
        found = {} if field is None else {f"{field}-bit lengths": self.per_second([field * len(d) for d in durations])}
        return found | {
            "a flag per frame": self.per_second(frames),
            "flags at their entropy": self.interval(coin, starts, frames, seconds),
            "lengths, coded": self.per_second(coded),
            "flags, coded": self.per_second(min((flagged, frames), key=lambda bits: float(np.sum(bits)))),
        }


def flag_limit_bps(frame_rate: float, base_frame_rate: float) -> float:
    """Bits per second of one independent flag per frame at a mean rate: base * h(R / base), the most lengths can need.

    Lengths drawn to be as unpredictable as their mean allows cost this much, but for the cap (spec section 4).
    """
    share = frame_rate / base_frame_rate
    if not 0 < share <= 1:
        raise ValueError(f"frame rate is {frame_rate:g} Hz on a grid of {base_frame_rate:g} Hz; expected one below it")
    return base_frame_rate * sum(-p * math.log2(p) for p in (share, 1 - share) if 0 < p < 1)
