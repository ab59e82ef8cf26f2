"""Correlations and straight lines of paired values, with intervals for independent items.

Statistics are functions of arrays and NaN where they are not defined (a constant, too few items). `bootstrap` calls
them thousands of times, so they are plain NumPy: `scipy.stats.pearsonr` or statsmodels' OLS give the same numbers and
take 5 to 90 times as long a call.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Float

from flexicodec.statistics.bootstrap import NORMAL, Interval, Sampling, cluster_rows, interval_quantiles, resampled

Values = Float[np.ndarray, " items"]
Controls = Float[np.ndarray, "items controls"]
Fit = Callable[[Values, Values], tuple[float, float]]

ROUNDING = 1e-10  # share of a variable's size below which its spread counts as rounding
BAND_PLACES = 41


def pearson(x: Values, y: Values) -> float:
    """Compute Pearson's correlation."""
    x, y = _paired(x, y)
    return _cosine(_centred(x), _centred(y))


def spearman(x: Values, y: Values) -> float:
    """Compute Spearman's rank correlation; ties share their mean rank."""
    x, y = _paired(x, y)
    return pearson(_ranks(x), _ranks(y))


def partial_corr(x: Values, y: Values, controls: Controls) -> float:
    """Compute the partial correlation: of the residuals of `x` and `y` after regression on `controls`."""
    x, y = _paired(x, y)
    left = regress_out(np.stack([x, y], axis=1), controls)
    return _cosine(left[:, 0], left[:, 1])


def semi_partial_corr(x: Values, y: Values, controls: Controls) -> float:
    """Correlate `y` with the residuals of `x`; the square is what `x` adds to the R^2 of `controls` for `y`."""
    x, y = _paired(x, y)
    return _cosine(regress_out(x, controls), _centred(y))


def fixed_effects_corr(x: Values, y: Values, groups: Sequence[Hashable]) -> float:
    """Correlate deviations from group means: a fixed effect for each group."""
    x, y = _paired(x, y)
    # `_paired` made copies, which may be changed.
    for rows in cluster_rows(list(groups), len(x)):
        x[rows] = _centred(x[rows])
        y[rows] = _centred(y[rows])
    return _cosine(x, y)


def regress_out(values: Float[np.ndarray, " *items"], controls: Controls) -> Float[np.ndarray, " *items"]:
    """Return the residuals of one variable, or of several in columns, after regression on controls and a constant."""
    if len(values) < 2:
        return np.zeros_like(values)
    columns = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    design = _standardised(controls)
    centred = columns - columns.mean(axis=0)
    # Columns have equal length, so that one tolerance separates rank from rounding.
    left = centred - design @ np.linalg.lstsq(design, centred, rcond=ROUNDING)[0]
    # What controls explain but for rounding is explained.
    explained = np.linalg.norm(left, axis=0) <= ROUNDING * np.linalg.norm(columns, axis=0)
    return np.where(explained, 0.0, left).reshape(np.shape(values))


def num_controls(controls: Controls) -> int:
    """Count the linearly independent controls, without constant ones."""
    return int(np.linalg.matrix_rank(_standardised(controls), tol=ROUNDING)) if np.size(controls) else 0


def fisher_interval(
    correlation: float, items: int, *, controls: int = 0, ranks: bool = False, level: float = 0.95
) -> Interval:
    """Compute the interval of a correlation of independent items by Fisher's z = atanh r.

    The standard error of z is 1 / sqrt(n - 3 - controls); for fixed effects, `controls` is the number of groups less
    one. Rank correlations have (1 + r^2 / 2) times that variance (D. Bonett and T. Wright, "Sample size requirements
    for estimating Pearson, Kendall and Spearman correlations", 2000). Where items are not independent (several of a
    speaker), the interval is too narrow: use `bootstrap`.
    """
    if abs(correlation) > 1 + 1e-9:
        raise ValueError(f"correlation is {correlation}; expected -1 to 1")
    quantile = NORMAL.inv_cdf(interval_quantiles(level)[1])
    free = items - 3 - controls
    half = math.nan
    if free > 0:
        half = quantile * math.sqrt((1 + ranks * correlation**2 / 2) / free)
    # On the scale of z the interval is symmetric; that of 1 is infinite.
    with np.errstate(divide="ignore"):
        z = np.arctanh(np.clip(correlation, -1, 1))
    low, high = np.tanh([z - half, z + half]).tolist()
    return Interval(correlation, low, high, level, items, items)


@dataclass(frozen=True)
class Line:
    """The line y = intercept + slope x."""

    slope: Interval
    intercept: Interval


@dataclass(frozen=True, eq=False)
class Band:
    """Interval of a line's height at each x, from the smallest x to the largest."""

    x: Float[np.ndarray, " places"]
    low: Float[np.ndarray, " places"]
    high: Float[np.ndarray, " places"]


def least_squares(x: Values, y: Values) -> tuple[float, float]:
    """Fit a line by least squares of y: slope and intercept. Noise in x flattens the slope."""
    x, y = _paired(x, y)
    dx = _centred(x)
    if not dx.any():
        return math.nan, math.nan
    slope = float(dx @ _centred(y) / (dx @ dx))
    return slope, float(y.mean() - slope * x.mean())


def reduced_major_axis(x: Values, y: Values) -> tuple[float, float]:
    """Fit the reduced major axis: slope and intercept.

    The slope is the ratio of standard deviations with the sign of the correlation r, which treats noise in x and y
    alike; the slope by least squares is |r| times as steep.
    """
    x, y = _paired(x, y)
    dx = _centred(x)
    dy = _centred(y)
    if dx @ dy == 0:
        return math.nan, math.nan
    slope = math.copysign(math.sqrt(dy @ dy / (dx @ dx)), dx @ dy)
    return slope, float(y.mean() - slope * x.mean())


FITS: Mapping[str, Fit] = MappingProxyType({"ols": least_squares, "rma": reduced_major_axis})
"""Line fits by name; each returns slope and intercept."""


def fit_line(kind: str, x: Values, y: Values, level: float = 0.95) -> Line:
    """Fit a line of `FITS`, with intervals by Student's t.

    Those of the reduced major axis are of D. Warton et al., "Bivariate line-fitting methods", 2006.
    """
    from scipy.stats import t as student

    x, y = _paired(x, y)
    items = len(x)
    slope, intercept = FITS[kind](x, y)
    ends = [math.nan, math.nan]
    half = math.nan
    if items > 2 and not math.isnan(slope):
        t = float(student.ppf((1 + level) / 2, items - 2))
        # Standard errors of the slope by least squares, and of the height of the line at x = 0.
        slope_error = _noise(x, y, *least_squares(x, y)) / float(np.linalg.norm(_centred(x)))
        half = t * math.hypot(_noise(x, y, slope, intercept) / math.sqrt(items), x.mean() * slope_error)
        ends = [slope - t * slope_error, slope + t * slope_error]
        if kind == "rma":
            # Not symmetric: slope * (sqrt(b + 1) -+ sqrt(b)) with sqrt(b) = t * error / slope.
            root = abs(t * slope_error / slope)
            ends = sorted([slope * (math.hypot(root, 1) - root), slope * (math.hypot(root, 1) + root)])
    low, high = ends
    return Line(
        Interval(slope, low, high, level, items, items),
        Interval(intercept, intercept - half, intercept + half, level, items, items),
    )


def line_band(fit: Fit, x: Values, y: Values, sampling: Sampling, clusters: Sequence[Hashable] | None = None) -> Band:
    """Bootstrap the height of a line of `FITS` at 41 places over the range of x, as percentile intervals.

    Each place has its own interval at this level, so the whole line leaves the band more often.
    """
    x, y = _paired(x, y)
    lines = resampled(fit, [x, y], cluster_rows(clusters, len(x)), sampling.resamples, sampling.seed)
    lines = lines.reshape(-1, 2)
    # [2, lines, 1], without resamples of a constant x.
    slopes, intercepts = lines[np.isfinite(lines[:, 0])].T[:, :, None]
    places = np.linspace(x.min(), x.max(), BAND_PLACES)
    low = high = np.full(BAND_PLACES, math.nan)
    if len(slopes):
        low, high = np.quantile(intercepts + slopes * places, interval_quantiles(sampling.level), axis=0)
    return Band(places, low, high)


def _paired(x: Values, y: Values) -> tuple[Values, Values]:
    """Copy two variables as float64."""
    x = np.array(x, dtype=np.float64)
    y = np.array(y, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"variables have shapes {x.shape} and {y.shape}; expected one value of each per item")
    return x, y


def _centred(x: Values) -> Values:
    """Subtract the mean; a spread that is mere rounding becomes 0, as does a single item."""
    centred = x - x.sum() / max(1, len(x))
    # The mean of seven times 0.1 is not 0.1.
    if centred @ centred <= ROUNDING**2 * (x @ x):
        centred[:] = 0.0
    return centred


def _ranks(x: Values) -> Values:
    """Rank values from 1; equal ones share the mean of their ranks. `scipy.stats.rankdata` takes twice the time."""
    _, where, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[where]


def _cosine(x: Values, y: Values) -> float:
    """Return the correlation of two variables of mean 0."""
    size = math.sqrt(float(x @ x) * float(y @ y))
    if not size > 0:
        return math.nan
    # Rounding may exceed 1.
    return min(1.0, max(-1.0, float(x @ y) / size))


def _standardised(controls: Controls) -> Controls:
    """Centre controls and scale them to length 1; constant ones are dropped."""
    columns = np.asarray(controls, dtype=np.float64).reshape(len(controls), -1)
    centred = columns - columns.mean(axis=0)
    size = np.linalg.norm(centred, axis=0)
    varies = size > ROUNDING * np.linalg.norm(columns, axis=0)
    return centred[:, varies] / size[varies]


def _noise(x: Values, y: Values, slope: float, intercept: float) -> float:
    """Standard deviation of y around a line."""
    return float(np.linalg.norm(y - intercept - slope * x)) / math.sqrt(len(x) - 2)
