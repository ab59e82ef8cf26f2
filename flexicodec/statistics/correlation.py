"""Correlations: plain, of ranks, with controls taken out, and within groups; and their intervals by Fisher's z.

Each is a plain function of arrays, so that `bootstrap` can take it; where a correlation is not defined (a constant, too
few items) it is NaN.
"""

import math
from collections.abc import Hashable, Sequence
from statistics import NormalDist

import numpy as np
from jaxtyping import Float

from flexicodec.statistics.bootstrap import Interval, group

Values = Float[np.ndarray, " items"]
Controls = Float[np.ndarray, "items controls"]

FLAT = 1e-10  # share of a variable's size below which its spread is rounding


def pearson(x: Values, y: Values) -> float:
    """Correlate two variables."""
    x, y = _paired(x, y)
    if len(x) < 2:
        return math.nan
    return _cosine(_centred(x), _centred(y))


def spearman(x: Values, y: Values) -> float:
    """Correlate the ranks of two variables; ties share their mean rank."""
    x, y = _paired(x, y)
    return pearson(_ranks(x), _ranks(y))


def partial(x: Values, y: Values, controls: Controls) -> float:
    """Correlate what controls leave of two variables, by linear regression of both on them."""
    x, y = _paired(x, y)
    if len(x) < 2:
        return math.nan
    left = residuals(np.stack([x, y], axis=1), controls)
    return _cosine(left[:, 0], left[:, 1])


def semi_partial(x: Values, y: Values, controls: Controls) -> float:
    """Correlate `y` with what controls leave of `x`; its square is what `x` adds to the R^2 of `y`."""
    x, y = _paired(x, y)
    if len(x) < 2:
        return math.nan
    return _cosine(residuals(x, controls), _centred(y))


def r_squared_gain(x: Values, y: Values, controls: Controls) -> float:
    """Return by how much R^2 rises when `x` joins the controls in a regression of `y`."""
    return semi_partial(x, y, controls) ** 2


def within(x: Values, y: Values, groups: Sequence[Hashable]) -> float:
    """Correlate deviations from the means of groups: with a fixed effect for each of them."""
    x, y = _paired(x, y)
    rows = group(list(groups), len(x))
    for part in rows:
        x[part], y[part] = _centred(x[part]), _centred(y[part])
    return _cosine(x, y)


def residuals(values: Float[np.ndarray, " *items"], controls: Controls) -> Float[np.ndarray, " *items"]:
    """Return what is left of one or more variables after linear regression on controls and a constant."""
    values = np.asarray(values, dtype=np.float64)
    columns = values.reshape(len(values), -1)
    design = _scaled(controls)
    centred = columns - columns.mean(0)
    left = centred - design @ np.linalg.lstsq(design, centred, rcond=FLAT)[0]
    left[:, np.linalg.norm(left, axis=0) <= FLAT * np.linalg.norm(columns, axis=0)] = 0.0
    return left.reshape(values.shape)


def num_controls(controls: Controls) -> int:
    """Count the controls that say something of their own: neither constant nor a mixture of others."""
    return int(np.linalg.matrix_rank(_scaled(controls), tol=FLAT)) if np.size(controls) else 0


def _scaled(controls: Controls) -> Controls:
    """Centre controls and bring them to length 1; those that are constant fall out."""
    given = np.asarray(controls, dtype=np.float64)
    given = given.reshape(len(given), -1)
    design = given - given.mean(0)
    size = np.linalg.norm(design, axis=0)
    varies = size > FLAT * np.linalg.norm(given, axis=0)
    return design[:, varies] / size[varies]


def fisher_interval(
    correlation: float, items: int, *, controls: int = 0, ranks: bool = False, level: float = 0.95
) -> Interval:
    """Find the interval of a correlation of independent items, by Fisher's z = atanh r.

    The standard error of z is 1 / sqrt(n - 3 - controls). For ranks the variance is (1 + r^2 / 2) times that (D. Bonett
    and T. Wright, "Sample size requirements for estimating Pearson, Kendall and Spearman correlations", 2000). Items of
    one speaker are not independent: the interval is then too narrow, and a bootstrap of speakers is the one to trust.

    Args:
        correlation: Between -1 and 1.
        items: How many it was computed from.
        controls: How many were taken out; for fixed effects, groups less one.
        ranks: Whether it is Spearman's.
        level: Of confidence.

    Returns:
        The interval; without ends where there are too few items, or no correlation.

    Raises:
        ValueError: No correlation (beyond 1), or a level that is none.
    """
    if not (math.isnan(correlation) or abs(correlation) <= 1 + 1e-9):
        raise ValueError(f"correlation is {correlation}; expected -1 to 1")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; expected a share between 0 and 1 (not percent)")
    free = items - 3 - controls
    if math.isnan(correlation) or free < 1:
        return Interval(correlation, math.nan, math.nan, level, items, items)
    if abs(correlation) >= 1:
        return Interval(correlation, correlation, correlation, level, items, items)
    z = math.atanh(correlation)
    half = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt((1 + ranks * correlation**2 / 2) / free)
    return Interval(correlation, math.tanh(z - half), math.tanh(z + half), level, items, items)


def _paired(x: Values, y: Values) -> tuple[Values, Values]:
    x, y = np.array(x, dtype=np.float64), np.array(y, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"variables have shapes {x.shape} and {y.shape}; expected one value of each per item")
    return x, y


def _ranks(x: Values) -> Values:
    """Number the values in rising order; equal ones share the mean of their numbers."""
    _, which, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]


def _centred(x: Values) -> Values:
    """Subtract the mean; a spread that is mere rounding becomes none."""
    centred = x - x.mean()
    return np.zeros_like(x) if np.abs(centred).max() <= FLAT * np.abs(x).max() else centred


def _cosine(x: Values, y: Values) -> float:
    """Return the correlation of two variables whose means are 0."""
    size = math.sqrt(float(x @ x) * float(y @ y))
    return min(1.0, max(-1.0, float(x @ y) / size)) if size > 0 else math.nan
