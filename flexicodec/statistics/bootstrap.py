"""Bootstrap confidence intervals, of single items or of clusters of them (B. Efron and R. Tibshirani, 1993).

Measurements of one speaker are alike, so that items drawn singly make intervals too narrow. With `clusters` whole
clusters are drawn with replacement, and then items within each of them (specs/tts-and-evaluation.md, section 3.3).
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

Statistic = Callable[..., float]
NORMAL = NormalDist()


@dataclass(frozen=True)
class Interval:
    """A number and how far it can be trusted.

    Attributes:
        value: The statistic on the data as they are.
        low: Lower end; NaN where there is too little to draw from.
        high: Upper end.
        level: Share of such intervals that cover the truth, if all goes well.
        items: Items measured.
        clusters: Independent units drawn: clusters, or items where there are no clusters.
        failed: Resamples on which the statistic is not finite (a correlation of constants, say); they are left out.
    """

    value: float
    low: float
    high: float
    level: float
    items: int
    clusters: int
    failed: int = 0

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @property
    def covers_zero(self) -> bool:
        """Whether 0 lies inside; false where there is no interval."""
        return self.low <= 0 <= self.high


def bootstrap(
    statistic: Statistic,
    *arrays: Any,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
    level: float = 0.95,
    method: Literal["percentile", "bca"] = "percentile",
    seed: int = 0,
) -> Interval:
    """Find a statistic's confidence interval; paired arrays stay paired.

    Args:
        statistic: Takes the arrays, or as many rows of each, and gives a number.
        arrays: One row per item each, [items, ...].
        clusters: Cluster of each item, its speaker, say; None takes every item for itself.
        resamples: How many to draw.
        level: Of confidence, between 0 and 1.
        method: "percentile", or "bca": bias-corrected and accelerated, from a jackknife over clusters.
        seed: Of the drawing; the same seed gives the same interval.

    Returns:
        The interval; without ends where there are fewer than two units to draw from.

    Raises:
        ValueError: No items, arrays or clusters of different length, or a level or method that there is not.
    """
    data = [np.asarray(array) for array in arrays]
    if not data or not len(data[0]):
        raise ValueError("there are no items to draw from; expected one array or more, with a row per item")
    items = len(data[0])
    counts = [len(array) for array in data] + ([] if clusters is None else [len(clusters)])
    if set(counts) != {items}:
        raise ValueError(f"arrays and clusters have {counts} rows; expected one for each item in all of them")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; expected a share between 0 and 1 (not percent)")
    if method not in ("percentile", "bca"):
        raise ValueError(f"method is {method!r}; expected 'percentile' or 'bca'")
    check_resamples(resamples)
    groups = group(clusters, items)
    value = float(statistic(*data))
    if len(groups) < 2:
        return Interval(value, np.nan, np.nan, level, items, len(groups))
    random = np.random.default_rng(seed)
    drawn = np.array([statistic(*(array[rows] for array in data)) for rows in draw(groups, resamples, random)], float)
    finite = drawn[np.isfinite(drawn)]
    failed = resamples - len(finite)
    if not len(finite) or not np.isfinite(value):
        return Interval(value, np.nan, np.nan, level, items, len(groups), failed)
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if method == "bca":
        tails = _corrected(tails, finite, value, _left_out(statistic, data, groups))
    low, high = np.quantile(finite, tails)
    return Interval(value, float(low), float(high), level, items, len(groups), failed)


def check_resamples(resamples: int) -> None:
    """Raises ValueError for fewer than one."""
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; expected 1 or more")


def group(clusters: Sequence[Hashable] | None, items: int) -> list[np.ndarray]:
    """List the rows of each cluster, in order of appearance; each row for itself where there are no clusters."""
    if clusters is None:
        return [np.array([row]) for row in range(items)]
    rows: dict[Hashable, list[int]] = {}
    for row, cluster in enumerate(clusters):
        rows.setdefault(cluster, []).append(row)
    return [np.array(each) for each in rows.values()]


def draw(groups: Sequence[np.ndarray], resamples: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield the rows of each resample: clusters with replacement, then rows within each with replacement."""
    rows, sizes = np.concatenate(groups), np.array([len(each) for each in groups])
    starts = np.cumsum(sizes) - sizes
    for _ in range(resamples):
        chosen = random.integers(len(groups), size=len(groups))
        if len(rows) == len(groups):
            yield rows[chosen]
            continue
        size = np.repeat(sizes[chosen], sizes[chosen])
        yield rows[np.repeat(starts[chosen], sizes[chosen]) + random.integers(size)]


def _left_out(statistic: Statistic, data: Sequence[np.ndarray], groups: Sequence[np.ndarray]) -> np.ndarray:
    """Compute the statistic without each cluster in turn."""
    every = np.concatenate(groups)
    kept = [np.setdiff1d(every, rows) for rows in groups]
    return np.array([statistic(*(array[rows] for array in data)) for rows in kept], float)


def _corrected(tails: np.ndarray, drawn: np.ndarray, value: float, left_out: np.ndarray) -> np.ndarray:
    """Shift the tails for bias and for a spread that changes with the value (B. Efron, 1987)."""
    below = (np.mean(drawn < value) + np.mean(drawn <= value)) / 2
    if not 0 < below < 1:
        return tails
    bias = NORMAL.inv_cdf(below)
    difference = np.nanmean(left_out) - left_out[np.isfinite(left_out)]
    spread = np.sum(difference**2) ** 1.5
    acceleration = np.sum(difference**3) / (6 * spread) if spread else 0.0
    shifted = bias + np.array([NORMAL.inv_cdf(tail) for tail in tails])
    return np.array([NORMAL.cdf(bias + each / (1 - acceleration * each)) for each in shifted])
