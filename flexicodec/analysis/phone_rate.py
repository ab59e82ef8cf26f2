"""Frame rate against phone rate: correlations, lines and regression models of the rates of clips, with intervals.

The phone rate is x, the frame rate (tokens per second) is y. Clips of one speaker are alike, so the bootstrap resamples
speakers; where fewer than two are known it resamples clips.

The paper (arXiv 2510.00981) reports r = 0.775 and a slope of about 0.5 on TIMIT. What such numbers can and cannot say
is the subject of specs/tts-and-evaluation.md, section 3.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from flexicodec import statistics
from flexicodec.analysis.clip_rates import (
    ClipRates,
    Over,
    RateTable,
    SpokenClip,
    Values,
    WithinClip,
    columns_of,
    correlatable,
    count_rates,
    merge_at,
    null_clips,
    pooled_correlation,
    pooled_partial,
    window_products,
    within_clip_correlation,
)
from flexicodec.analysis.null_codecs import RANDOM_NULLS
from flexicodec.analysis.token_contents import ratio_of_sums
from flexicodec.statistics import Band, FittedModel, Interval, Line, Sampling, fisher_interval, pearson, spearman

MIN_CLIPS = 4  # to correlate
MIN_CLIPS_OF_CORPUS = 10  # to correlate a corpus by itself

CONTROLS = ("silence_share", "log_energy_mean", "log_energy_std", "seconds", "voiced_share")
"""Fields of `ClipRates` that partial correlations control for."""


@dataclass(frozen=True)
class Correlation:
    """A correlation with two intervals."""

    fisher: Interval  # by Fisher's z, as if clips were independent
    bca: Interval  # by bootstrap, bias-corrected and accelerated

    @property
    def value(self) -> float:
        """The correlation."""
        return self.bca.value


@dataclass(frozen=True)
class PartialCorrelation:
    """Correlation of phone rate and frame rate given some controls."""

    controls: tuple[str, ...]
    fisher: Interval  # partial correlation, as if clips were independent
    bootstrap: Interval  # the same
    semi_partial: float  # controls taken out of the phone rate only
    r_squared_gain: float  # R^2 that the phone rate adds to the controls


@dataclass(frozen=True)
class UnitCorrelation:
    """The frame rate against the rate of phones, syllables or words."""

    rate: float  # units per second over the corpus
    alone: Interval  # Pearson's correlation
    given_others: Interval  # partial correlation given the rates of the other units; NaN without others


@dataclass(frozen=True)
class PhoneRate:
    """The frame rate of clips against their phone rate."""

    over: Over
    clips: int
    speakers: int  # 0 where unknown
    clusters: str  # what is resampled: "speakers" or "clips"
    left_out: Mapping[str, tuple[str, ...]]  # ids of clips that are not correlated, by the reason
    phone_rate: float  # per second over the corpus
    frame_rate: float
    pearson: Correlation
    spearman: Correlation
    lines: Mapping[str, Line]  # "ols" and "rma", as if clips were independent
    slopes: Mapping[str, Interval]  # the same slopes, by bootstrap
    bands: Mapping[str, Band]  # of the lines, by bootstrap
    phones_per_token: Interval  # ratio of sums, which is no slope
    controlled: Mapping[str, PartialCorrelation]  # by control, and "all"; empty where controls are not known
    without_controls: tuple[str, ...]  # ids of clips left out of `controlled` and `mixed`
    units: Mapping[str, UnitCorrelation]  # "phones", "syllables" and "words", where known for every clip
    counts: FittedModel  # tokens on the phone rate, negative binomial, log seconds as offset
    mixed: FittedModel  # frame rate on phone rate and controls, random intercepts of speakers and sentences
    within: WithinClip | None  # None where phones have no times


def analyze_phone_rate(
    rates: Sequence[ClipRates],
    *,
    over: Over = "speech",
    left_out: Mapping[str, Sequence[str]] = MappingProxyType({}),
    sampling: Sampling | None = None,
) -> PhoneRate:
    """Relate the frame rate of clips to their phone rate.

    Args:
        rates: Counts of each clip.
        over: Whether seconds and tokens of silence count.
        left_out: Ids of clips lost before, by the reason, to be reported with the others.
        sampling: Options of the bootstrap.
    """
    if over not in ("speech", "all"):
        raise ValueError(f"over is {over!r}; expected 'speech' or 'all'")
    sampling = sampling or Sampling()
    kept, lost = correlatable(rates, over)
    lost = {reason: tuple(names) for reason, names in left_out.items()} | lost
    reasons = "; ".join(f"{len(names)} {reason}" for reason, names in lost.items())
    _check_enough(kept, why=f"; left out: {reasons or 'none'}")
    table = RateTable.of(kept, over)
    clusters = table.clusters
    level = sampling.level
    fits = statistics.FITS
    has_controls = np.isfinite(columns_of(kept, CONTROLS)).all(1)
    controlled = [kept[i] for i in np.flatnonzero(has_controls)]
    return PhoneRate(
        over=over,
        clips=len(kept),
        speakers=statistics.num_speakers([clip.speaker for clip in kept]),
        clusters="clips" if clusters is None else "speakers",
        left_out=lost,
        phone_rate=ratio_of_sums(table.phones, table.seconds),
        frame_rate=table.frame_rate,
        pearson=_correlation(pearson, table, sampling),
        spearman=_correlation(spearman, table, sampling),
        lines={kind: statistics.fit_line(kind, *table.xy, level) for kind in fits},
        slopes={kind: table.interval(partial(_slope, kind), sampling) for kind in fits},
        bands={kind: statistics.line_band(fits[kind], *table.xy, sampling, clusters) for kind in fits},
        phones_per_token=sampling.interval(ratio_of_sums, table.phones, table.tokens, clusters=clusters),
        controlled=_partial_correlations(controlled, over, sampling),
        without_controls=tuple(kept[i].id for i in np.flatnonzero(~has_controls)),
        units=_unit_correlations(kept, table, sampling),
        counts=statistics.count_model(
            table.tokens, {"phone_rate": table.x}, table.seconds, clusters=clusters, level=level
        ),
        mixed=_mixed_model(controlled or kept, over, level),
        within=within_clip_correlation(kept, sampling),
    )


def _slope(kind: str, x: Values, y: Values) -> float:
    return statistics.FITS[kind](x, y)[0]


def _check_enough(clips: Sequence[Any], where: str = "", why: str = "") -> None:
    if len(clips) < MIN_CLIPS:
        raise ValueError(f"{len(clips)} clips to correlate{where}, at least {MIN_CLIPS} are needed{why}")


def _correlation(statistic: Callable[..., float], table: RateTable, sampling: Sampling) -> Correlation:
    bca = table.interval(statistic, sampling, method="bca")
    fisher = fisher_interval(bca.value, len(table.x), ranks=statistic is spearman, level=sampling.level)
    return Correlation(fisher, bca)


def _partial_correlations(rates: Sequence[ClipRates], over: Over, sampling: Sampling) -> dict[str, PartialCorrelation]:
    """Control for each of `CONTROLS`, and for all; empty with too few clips."""
    if len(rates) < MIN_CLIPS:
        return {}
    table = RateTable.of(rates, over)
    found = {}
    for key in (*CONTROLS, "all"):
        names = CONTROLS if key == "all" else (key,)
        controls = columns_of(rates, names)
        count = statistics.num_controls(controls)
        bootstrap = table.interval(statistics.partial_corr, sampling, controls)
        fisher = fisher_interval(bootstrap.value, len(rates), controls=count, level=sampling.level)
        semi_partial = statistics.semi_partial_corr(*table.xy, controls)
        found[key] = PartialCorrelation(names, fisher, bootstrap, semi_partial, semi_partial**2)
    return found


def _unit_correlations(rates: Sequence[ClipRates], table: RateTable, sampling: Sampling) -> dict[str, UnitCorrelation]:
    """Correlate the frame rate with the rate of each unit, alone and given the others."""
    counts = {"phones": table.phones}
    for name in ("syllables", "words"):
        count = columns_of(rates, [name])[:, 0]
        if np.isfinite(count).all():
            counts[name] = count
    found = {}
    for name, count in counts.items():
        of_unit = replace(table, phones=count)
        given_others = Interval(math.nan, math.nan, math.nan, sampling.level, len(rates), len(rates))
        others = [other / table.seconds for key, other in counts.items() if key != name]
        if others:
            given_others = of_unit.interval(statistics.partial_corr, sampling, np.stack(others, axis=1))
        rate = ratio_of_sums(count, table.seconds)
        found[name] = UnitCorrelation(rate, of_unit.interval(pearson, sampling), given_others)
    return found


def _mixed_model(rates: Sequence[ClipRates], over: Over, level: float) -> FittedModel:
    """Fit the frame rate with random intercepts of speakers and sentences, where known for all clips."""
    table = RateTable.of(rates, over)
    predictors = {"phone_rate": table.x}
    controls = columns_of(rates, CONTROLS)
    if np.isfinite(controls).all():
        for name, column in zip(CONTROLS, controls.T, strict=True):
            if statistics.num_controls(column[:, None]):  # not a constant
                predictors[name] = column
    groups = {"speaker": [clip.speaker for clip in rates], "sentence": [clip.sentence for clip in rates]}
    known = {name: labels for name, labels in groups.items() if None not in labels}
    return statistics.mixed_model(table.y, predictors, known, level=level)


def group_correlations(
    rates: Sequence[ClipRates], corpora: Mapping[str, str | None], sampling: Sampling
) -> dict[str, Interval]:
    """Correlate phones and tokens per second of speech inside corpora and speakers.

    These differ in pace, recording and accent at once: a correlation over a mixture of them may be that of their means
    alone. `corpora` names the corpus of each clip by its id.

    Returns:
        By name: each corpus, where there are several; the corpora's means subtracted; the speakers' means subtracted,
        where these are known. Empty for clips of one corpus and one speaker.
    """
    table = RateTable.of(rates, "speech")
    without_means = partial(table.interval, statistics.fixed_effects_corr, sampling)
    found: dict[str, Interval] = {}
    names = np.array([corpora.get(clip.id) or "no corpus named" for clip in rates])
    if len(set(names)) > 1:
        for name in dict.fromkeys(names):
            of_corpus = [rates[i] for i in np.flatnonzero(names == name).tolist()]
            if len(of_corpus) >= MIN_CLIPS_OF_CORPUS:
                found[f"{name} alone"] = RateTable.of(of_corpus, "speech").interval(pearson, sampling)
        found["means of corpora taken out"] = without_means(names)
    speakers = [clip.speaker for clip in rates]
    if None not in speakers and len(set(speakers)) > 1:
        found["means of speakers taken out"] = without_means(np.array(speakers))
    return found


# -------------------------------------------------------------------------------------------------- beside null codecs

Measure = Literal["pearson", "spearman", "within", "within_given_speech"]
MEASURES: Mapping[str, Callable[..., float]] = {
    "pearson": pearson,
    "spearman": spearman,
    "within": pooled_correlation,
    "within_given_speech": pooled_partial,
}


@dataclass(frozen=True)
class ExcessOverNull:
    """A correlation beside that of a null codec."""

    null: str
    measure: Measure
    value: float
    null_value: float  # mean over draws; draws without a defined correlation, as of a constant rate, count as 0
    excess: Interval  # the difference; resamples keep codec and null of a clip together
    draws: int
    null_frame_rate: float  # Hz, over the corpus


def excess_over_null(
    clips: Sequence[SpokenClip],
    null: str,
    measures: Sequence[Measure] = ("pearson",),
    *,
    over: Over = "speech",
    counting: str = "speech",
    offset: float = 0.0,
    draws: int = 10,
    sampling: Sampling | None = None,
) -> dict[str, ExcessOverNull]:
    """Compare correlations of the rates of clips, or of windows within them, with those of a null codec.

    For rates of clips the null has as many tokens in the corpus, for windows as many in every clip.
    """
    unknown = [name for name in measures if name not in MEASURES]
    if unknown:
        raise ValueError(f"measure is {unknown[0]!r}; expected one of {', '.join(MEASURES)}")
    sampling = sampling or Sampling()
    draws = draws if null in RANDOM_NULLS else 1
    count = partial(count_rates, counting=counting, offset=offset)
    own, _ = correlatable(list(map(count, clips)), over)
    _check_enough(own)
    ids = {clip.id for clip in own}
    chosen = [clip for clip in clips if clip.id in ids]
    table = RateTable.of(own, over)

    @cache
    def arrays_and_rate(per_clip: bool) -> tuple[list[Values], float]:
        """Return what both share (x), the codec's rows, and the null's [clips, draws, ...]; the null's frame rate."""
        drawn = []
        for seed in range(sampling.seed, sampling.seed + draws):
            drawn.append(list(map(count, null_clips(chosen, null, per_clip=per_clip, seed=seed))))
        tables = [RateTable.of(each, over) for each in drawn]
        arrays = [table.x, table.y, np.stack([each.y for each in tables], axis=1)]
        if per_clip:
            arrays = [window_products(own), np.stack(list(map(window_products, drawn)), axis=1)]
        return arrays, float(np.mean([each.frame_rate for each in tables]))

    found: dict[str, ExcessOverNull] = {}
    for name in measures:
        arrays, rate = arrays_and_rate(per_clip=name.startswith("within"))
        values = _codec_and_null(MEASURES[name], *arrays)
        excess = sampling.interval(partial(_excess, MEASURES[name]), *arrays, clusters=table.clusters)
        found[name] = ExcessOverNull(null, name, *values, excess, draws, rate)
    return found


def _codec_and_null(statistic: Callable[..., float], *arrays: Any) -> tuple[float, float]:
    """Return a statistic of the codec's rows, and its mean over the draws of the null's."""
    *shared, rows, null_rows = arrays
    of_draws = [np.nan_to_num(statistic(*shared, null_rows[:, d])) for d in range(null_rows.shape[1])]
    return statistic(*shared, rows), float(np.mean(of_draws))


def _excess(statistic: Callable[..., float], *arrays: Any) -> float:
    value, null_value = _codec_and_null(statistic, *arrays)
    return value - null_value


# ------------------------------------------------------------------------------------------ threshold by threshold


@dataclass(frozen=True)
class SweepPoint:
    """The frame rate against the phone rate at one threshold."""

    threshold: float
    frame_rate: float  # Hz, over the corpus
    clips: int
    r: Interval  # Pearson's correlation of the rates of clips; NaN where every clip has the same rate
    fisher: Interval  # the same, as if clips were independent
    slope: float  # by least squares
    within: float  # correlation in windows within clips; NaN where phones have no times


def threshold_sweep(
    clips: Sequence[SpokenClip],
    similarities: Sequence[Float[np.ndarray, " pairs"]],
    thresholds: Sequence[float],
    *,
    over: Over = "speech",
    counting: str = "speech",
    offset: float = 0.0,
    sampling: Sampling | None = None,
) -> list[SweepPoint]:
    """Merge at one threshold after another, and correlate each time; similarities are those of each clip's frames."""
    if len(similarities) != len(clips):
        raise ValueError(f"{len(similarities)} rows of similarities for {len(clips)} clips; expected one for each")
    sampling = sampling or Sampling(resamples=2000)
    points = []
    for threshold in thresholds:
        rates = []
        for clip, of_clip in zip(clips, similarities, strict=True):
            rates.append(count_rates(merge_at(clip, of_clip, threshold), counting=counting, offset=offset))
        kept, _ = correlatable(rates, over)
        _check_enough(kept, where=f" at a threshold of {threshold:g}")
        table = RateTable.of(kept, over)
        r = table.interval(pearson, sampling)
        fisher = fisher_interval(r.value, len(kept), level=sampling.level)
        slope = _slope("ols", *table.xy)
        within = pooled_correlation(window_products(kept))
        points.append(SweepPoint(float(threshold), table.frame_rate, len(kept), r, fisher, slope, within))
    return points
