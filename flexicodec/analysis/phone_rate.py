"""Does the frame rate follow the phone rate? Correlations, slopes and models of the rates of clips, with intervals.

Conventions: rates are per second, over whole clips ("all") or over their speech ("speech": silence is left out of the
seconds, and tokens in it out of the tokens). The phone rate is x, the frame rate (tokens per second) is y. Clips of one
speaker are alike, so that resamples draw speakers; where there is one, or speakers are unknown, they draw clips.

The paper (arXiv 2510.00981) reports r = 0.775 and a slope of about 0.5 on TIMIT. What such numbers can and cannot say,
and hence what is computed here, is the subject of specs/tts-and-evaluation.md, section 3.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from flexicodec.analysis.rate_table import CONTROLS, TIMIT_DIALECT, Over, Table, Values, controls_of, usable
from flexicodec.analysis.spoken import ClipRates
from flexicodec.analysis.within import Within, within_clips
from flexicodec.statistics import (
    FITS,
    Band,
    FittedModel,
    Interval,
    Line,
    Sampling,
    count_model,
    fisher_interval,
    fit_line,
    line_band,
    mixed_model,
    num_controls,
    partial_corr,
    pearson,
    semi_partial_corr,
    spearman,
)


@dataclass(frozen=True)
class Correlation:
    """A correlation with three intervals.

    Attributes:
        fisher: By Fisher's z, as if clips were independent.
        percentile: By bootstrap.
        bca: By bootstrap, bias-corrected and accelerated.
    """

    fisher: Interval
    percentile: Interval
    bca: Interval

    @property
    def value(self) -> float:
        """The correlation."""
        return self.percentile.value


@dataclass(frozen=True)
class Controlled:
    """What remains of the correlation when something else that clips differ in is taken out.

    Attributes:
        controls: What is.
        fisher: Partial correlation, as if clips were independent.
        bootstrap: The same.
        semi_partial: Of the frame rate with what controls leave of the phone rate.
        r_squared_gain: What the phone rate adds to R^2.
    """

    controls: tuple[str, ...]
    fisher: Interval
    bootstrap: Interval
    semi_partial: float
    r_squared_gain: float


@dataclass(frozen=True)
class Unit:
    """The frame rate against the rate of phones, syllables or words.

    Attributes:
        rate: Units per second over the corpus.
        alone: Pearson's correlation.
        given_others: Partial correlation, the rates of the other units taken out; NaN where there are none.
    """

    rate: float
    alone: Interval
    given_others: Interval


@dataclass(frozen=True)
class PhoneRate:
    """The frame rate of clips against their phone rate.

    Attributes:
        over: Seconds that count: "speech" or "all".
        clips: How many are in it.
        speakers: Theirs; 0 where unknown.
        clusters: What resamples draw: "speakers" or "clips".
        left_out: Ids of clips that are not in it, by the reason.
        phone_rate: Phones per second over the corpus.
        frame_rate: Tokens per second over the corpus.
        pearson: Correlation of the two rates over clips.
        spearman: Of their ranks.
        lines: By least squares and reduced major axis, as if clips were independent.
        slopes: The same slopes, by bootstrap.
        bands: Where lines by least squares and reduced major axis may lie, by bootstrap.
        phones_per_token: All phones over all tokens, which is no slope.
        controlled: Partial correlations, by the control taken out, and "all" of them; none where energy and voicing are
            not known.
        without_controls: Ids of clips that partial correlations and `mixed` do without.
        units: By "phones", "syllables" and "words", where known for every clip.
        counts: Tokens by negative binomial regression on the phone rate, the logarithm of the seconds as offset.
        mixed: Frame rate on phone rate and controls, with random intercepts of speakers and sentences.
        within: The same question inside clips; None where phones have no times.
    """

    over: Over
    clips: int
    speakers: int
    clusters: str
    left_out: Mapping[str, tuple[str, ...]]
    phone_rate: float
    frame_rate: float
    pearson: Correlation
    spearman: Correlation
    lines: Mapping[str, Line]
    slopes: Mapping[str, Interval]
    bands: Mapping[str, Band]
    phones_per_token: Interval
    controlled: Mapping[str, Controlled]
    without_controls: tuple[str, ...]
    units: Mapping[str, Unit]
    counts: FittedModel
    mixed: FittedModel
    within: Within | None


def analyze(
    rates: Sequence[ClipRates],
    *,
    over: Over = "speech",
    left_out: Mapping[str, Sequence[str]] = MappingProxyType({}),
    leave_sentences: Sequence[str] = TIMIT_DIALECT,
    sampling: Sampling | None = None,
) -> PhoneRate:
    """Hold the frame rate of clips against their phone rate.

    Args:
        rates: Of each clip, see `spoken.count_rates`.
        over: Whether seconds and tokens of silence count.
        left_out: Clips that were lost before, by the reason; they are reported with the others.
        leave_sentences: Sentences that are left out, and counted.
        sampling: Of intervals.

    Raises:
        ValueError: Fewer than four clips to go by, two of one id, or an `over` that there is not.
    """
    if over not in ("speech", "all"):
        raise ValueError(f"over is {over!r}; expected 'speech' or 'all'")
    kept, lost = usable(rates, over, leave_sentences)
    lost = {**{reason: tuple(names) for reason, names in left_out.items()}, **lost}
    if len(kept) < 4:
        told = "; ".join(f"{len(names)} {reason}" for reason, names in lost.items())
        raise ValueError(f"{len(kept)} clips to correlate, at least 4 are needed; left out: {told or 'none'}")
    sampling = sampling or Sampling()
    table = Table.of(kept, over)
    controlled, without = _controlled(kept, table, sampling)
    return PhoneRate(
        over=over,
        clips=len(kept),
        speakers=len({clip.speaker for clip in kept} - {None}),
        clusters="clips" if table.clusters is None else "speakers",
        left_out=lost,
        phone_rate=float(table.phones.sum() / table.seconds.sum()),
        frame_rate=float(table.tokens.sum() / table.seconds.sum()),
        pearson=_correlation(pearson, table, sampling),
        spearman=_correlation(spearman, table, sampling),
        lines={name: fit_line(name, *table.xy, sampling.level) for name in FITS},
        slopes={name: sampling.interval(_slope(name), *table.xy, clusters=table.clusters) for name in FITS},
        bands={name: line_band(FITS[name], *table.xy, sampling, table.clusters) for name in FITS},
        phones_per_token=sampling.interval(_ratio, table.phones, table.tokens, clusters=table.clusters),
        controlled=controlled,
        without_controls=without,
        units=_units(kept, table, sampling),
        counts=count_model(
            table.tokens, {"phone_rate": table.x}, table.seconds, clusters=table.clusters, level=sampling.level
        ),
        mixed=_mixed(kept, over, sampling.level),
        within=within_clips(kept, sampling),
    )


def _correlation(statistic: Callable[..., float], table: Table, sampling: Sampling) -> Correlation:
    return Correlation(
        fisher_interval(statistic(*table.xy), len(table.x), ranks=statistic is spearman, level=sampling.level),
        sampling.interval(statistic, *table.xy, clusters=table.clusters),
        sampling.interval(statistic, *table.xy, clusters=table.clusters, method="bca"),
    )


def _slope(name: str) -> Callable[[Values, Values], float]:
    return lambda x, y: FITS[name](x, y)[0]


def _ratio(numerator: Values, denominator: Values) -> float:
    return float(numerator.sum() / denominator.sum())


def _controlled(
    rates: Sequence[ClipRates], table: Table, sampling: Sampling
) -> tuple[dict[str, Controlled], tuple[str, ...]]:
    """Take out each control, and all."""
    values, rows = controls_of(rates)
    without = tuple(clip.id for i, clip in enumerate(rates) if i not in set(rows))
    if len(rows) < 4:
        return {}, without
    x, y = table.x[rows], table.y[rows]
    clusters = None if table.clusters is None else [table.clusters[i] for i in rows]
    found = {}
    for names in (*((name,) for name in CONTROLS), CONTROLS):
        taken = values[:, [CONTROLS.index(name) for name in names]]
        drawn = sampling.interval(partial_corr, x, y, taken, clusters=clusters)
        fisher = fisher_interval(drawn.value, len(x), controls=num_controls(taken), level=sampling.level)
        found["all" if names is CONTROLS else names[0]] = Controlled(
            names, fisher, drawn, semi_partial_corr(x, y, taken), semi_partial_corr(x, y, taken) ** 2
        )
    return found, without


def _units(rates: Sequence[ClipRates], table: Table, sampling: Sampling) -> dict[str, Unit]:
    """Correlate the frame rate with the rate of each unit, alone and beside the others."""
    counts = {"phones": table.phones}
    for name in ("syllables", "words"):
        known = [getattr(clip, name) for clip in rates]
        if None not in known:
            counts[name] = np.array(known, dtype=np.float64)
    found = {}
    for name, count in counts.items():
        x = count / table.seconds
        others = [other / table.seconds for key, other in counts.items() if key != name]
        alone = sampling.interval(pearson, x, table.y, clusters=table.clusters)
        beside = Interval(math.nan, math.nan, math.nan, sampling.level, len(x), len(x))
        if others:
            beside = sampling.interval(partial_corr, x, table.y, np.stack(others, axis=1), clusters=table.clusters)
        found[name] = Unit(float(count.sum() / table.seconds.sum()), alone, beside)
    return found


def _mixed(rates: Sequence[ClipRates], over: Over, level: float) -> FittedModel:
    """Fit the frame rate with random intercepts; clips without controls are left out where others have them."""
    values, rows = controls_of(rates)
    chosen = [rates[i] for i in rows] if rows else list(rates)
    table = Table.of(chosen, over)
    predictors = {"phone_rate": table.x}
    if rows:
        varies = [num_controls(column[:, None]) > 0 for column in values.T]
        predictors |= {name: values[:, i] for i, name in enumerate(CONTROLS) if varies[i]}
    groups = {"speaker": [clip.speaker for clip in chosen], "sentence": [clip.sentence for clip in chosen]}
    known = {name: labels for name, labels in groups.items() if None not in labels}
    return mixed_model(table.y, predictors, known, level=level)
