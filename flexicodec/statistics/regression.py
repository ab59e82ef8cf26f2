"""Straight lines through points whose x is noisy too: least squares, reduced major axis, Deming, and inverse.

Least squares takes x as exact, so that noise in x flattens its slope; the inverse line takes y as exact and is too
steep; the others lie between. Which one is right depends on where the noise is: report them side by side. With r the
correlation, slopes of least squares, reduced major axis and inverse are as r : 1 : 1/r.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np
from jaxtyping import Float

from flexicodec.statistics.bootstrap import Interval, check_resamples, draw, group

Values = Float[np.ndarray, " items"]
Fit = Callable[[Values, Values], tuple[float, float]]
BAND_PLACES = 41


@dataclass(frozen=True)
class Line:
    """y = intercept + slope x.

    Attributes:
        slope: With its interval.
        intercept: In units of y.
        kind: How it was fitted.
    """

    slope: Interval
    intercept: Interval
    kind: str


@dataclass(frozen=True, eq=False)
class Band:
    """Where a fitted line may lie, place by place.

    Attributes:
        x: Places, from the least to the largest.
        low: Lower end at each.
        high: Upper end.
    """

    x: Float[np.ndarray, " places"]
    low: Float[np.ndarray, " places"]
    high: Float[np.ndarray, " places"]


@dataclass(frozen=True)
class _Moments:
    """Means, variances and covariance of two variables."""

    mean_x: float
    mean_y: float
    xx: float
    yy: float
    xy: float

    @classmethod
    def of(cls, x: Values, y: Values) -> "_Moments":
        x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        if x.ndim != 1 or x.shape != y.shape:
            raise ValueError(f"variables have shapes {x.shape} and {y.shape}; expected one value of each per item")
        if len(x) < 2:
            return cls(*[math.nan] * 5)
        mean_x, mean_y = float(x.mean()), float(y.mean())
        free, dx, dy = len(x) - 1, x - mean_x, y - mean_y
        return cls(mean_x, mean_y, float(dx @ dx) / free, float(dy @ dy) / free, float(dx @ dy) / free)

    def line(self, slope: float) -> tuple[float, float]:
        return slope, self.mean_y - slope * self.mean_x


def fit_ols(x: Values, y: Values) -> tuple[float, float]:
    """Fit by least squares of y: slope and intercept, NaN where x is constant."""
    m = _Moments.of(x, y)
    return m.line(m.xy / m.xx if m.xx > 0 else math.nan)


def fit_inverse(x: Values, y: Values) -> tuple[float, float]:
    """Fit by least squares of x, and turn the line round: slope and intercept."""
    m = _Moments.of(x, y)
    return m.line(m.yy / m.xy if m.xy != 0 else math.nan)


def fit_rma(x: Values, y: Values) -> tuple[float, float]:
    """Fit the reduced major axis, whose slope is the ratio of standard deviations with the sign of the correlation."""
    m = _Moments.of(x, y)
    return m.line(math.copysign(math.sqrt(m.yy / m.xx), m.xy) if m.xx > 0 and m.xy != 0 else math.nan)


def fit_deming(x: Values, y: Values, variance_ratio: float = 1.0) -> tuple[float, float]:
    """Fit by least distance, where both have noise (W. Deming, 1943): slope and intercept.

    Args:
        x: One value per item.
        y: Likewise.
        variance_ratio: Variance of the noise in y over that in x; 1 makes it orthogonal regression.
    """
    if not (math.isfinite(variance_ratio) and variance_ratio > 0):
        raise ValueError(f"variance_ratio is {variance_ratio}; expected noise variance of y over that of x, above 0")
    m = _Moments.of(x, y)
    surplus = m.yy - variance_ratio * m.xx
    root = math.sqrt(surplus**2 + 4 * variance_ratio * m.xy**2)
    # Two forms of one number; the first loses all digits where the surplus is negative and large.
    if m.xy == 0 or math.isnan(root):
        return m.line(math.nan)
    slope = (surplus + root) / (2 * m.xy) if surplus >= 0 else 2 * variance_ratio * m.xy / (root - surplus)
    return m.line(slope)


FITS: Mapping[str, Fit] = MappingProxyType(
    {"ols": fit_ols, "rma": fit_rma, "deming": fit_deming, "inverse": fit_inverse}
)
"""Lines by name; each gives slope and intercept."""


def line_band(
    fit: Fit,
    x: Values,
    y: Values,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Band:
    """Find the percentile bootstrap interval of a line's height at 41 places over the range of x.

    Each place has its own interval at this level; the line may leave the band somewhere more often. NaN where there are
    fewer than two units to draw from.

    Args:
        fit: Of `FITS`.
        x: One value per item.
        y: Likewise.
        clusters: See `bootstrap`.
        resamples: How many to draw, as `bootstrap` does.
        level: Of confidence.
        seed: Of the drawing.
    """
    check_resamples(resamples)
    groups = group(clusters, len(x))
    places = np.linspace(float(np.min(x)), float(np.max(x)), BAND_PLACES)
    if len(groups) < 2:
        return Band(places, *np.full((2, BAND_PLACES), math.nan))
    drawn = draw(groups, resamples, np.random.default_rng(seed))
    slopes, intercepts = np.array([fit(x[rows], y[rows]) for rows in drawn]).T
    there = np.isfinite(slopes)
    if not there.any():
        return Band(places, *np.full((2, BAND_PLACES), math.nan))
    heights = intercepts[there, None] + slopes[there, None] * places
    return Band(places, *np.quantile(heights, [(1 - level) / 2, (1 + level) / 2], axis=0))


def ols(x: Values, y: Values, level: float = 0.95) -> Line:
    """Fit a line by least squares, with intervals by Student's t."""
    slope, intercept = fit_ols(x, y)
    m, n = _Moments.of(x, y), len(x)
    noise = _residual_variance(m, slope, n)
    slope_error = math.sqrt(noise / ((n - 1) * m.xx)) if n > 2 and m.xx > 0 else math.nan
    intercept_error = math.sqrt(noise / n + (m.mean_x * slope_error) ** 2) if n > 2 else math.nan
    quantile = _student(n - 2, level)
    return Line(
        _around(slope, quantile * slope_error, n, level),
        _around(intercept, quantile * intercept_error, n, level),
        "ols",
    )


def rma(x: Values, y: Values, level: float = 0.95) -> Line:
    """Fit the reduced major axis, with the intervals of D. Warton et al., "Bivariate line-fitting methods" (2006)."""
    slope, intercept = fit_rma(x, y)
    m, n = _Moments.of(x, y), len(x)
    if n < 3 or math.isnan(slope):
        return Line(_around(slope, math.nan, n, level), _around(intercept, math.nan, n, level), "rma")
    unexplained = max(0.0, 1 - m.xy**2 / (m.xx * m.yy)) / (n - 2)
    quantile = _student(n - 2, level)
    b = quantile**2 * unexplained
    low, high = sorted((slope * (math.sqrt(b + 1) - math.sqrt(b)), slope * (math.sqrt(b + 1) + math.sqrt(b))))
    error = math.sqrt(_residual_variance(m, slope, n) / n + (m.mean_x * slope) ** 2 * unexplained)
    return Line(Interval(slope, low, high, level, n, n), _around(intercept, quantile * error, n, level), "rma")


def deming(x: Values, y: Values, variance_ratio: float = 1.0, level: float = 0.95) -> Line:
    """Fit Deming's line, with intervals by the jackknife (K. Linnet, 1990); see `fit_deming`."""
    return _jackknifed(partial(fit_deming, variance_ratio=variance_ratio), x, y, level, "deming")


def inverse(x: Values, y: Values, level: float = 0.95) -> Line:
    """Fit the line of x on y, turned round, with intervals by the jackknife."""
    return _jackknifed(fit_inverse, x, y, level, "inverse")


def _jackknifed(fit: Fit, x: Values, y: Values, level: float, kind: str) -> Line:
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    whole, n = np.array(fit(x, y)), len(x)
    halves = np.full(2, math.nan)
    if n > 2:
        without = np.array([fit(np.delete(x, i), np.delete(y, i)) for i in range(n)])
        pseudo = n * whole - (n - 1) * without
        halves = _student(n - 1, level) * pseudo.std(0, ddof=1) / math.sqrt(n)
    slope, intercept = (_around(float(v), float(half), n, level) for v, half in zip(whole, halves, strict=True))
    return Line(slope, intercept, kind)


def _residual_variance(m: _Moments, slope: float, n: int) -> float:
    return max(0.0, m.yy - 2 * slope * m.xy + slope**2 * m.xx) * (n - 1) / (n - 2) if n > 2 else math.nan


def _student(free: int, level: float) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + level) / 2, free)) if free > 0 else math.nan


def _around(value: float, half: float, items: int, level: float) -> Interval:
    return Interval(value, value - half, value + half, level, items, items)
