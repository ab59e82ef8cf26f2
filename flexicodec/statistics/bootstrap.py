"""Bootstrap confidence intervals over items or clusters of items (B. Efron and R. Tibshirani, 1993).

Items of one speaker are alike, so that resampling single items gives intervals that are too narrow. With `clusters`,
whole clusters are resampled with replacement, then items within each (specs/tts-and-evaluation.md, section 3.3).
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

Statistic = Callable[..., Any]
NORMAL = NormalDist()


@dataclass(frozen=True)
class Interval:
    """A statistic and its confidence interval."""

    value: float
    low: float  # NaN where there are fewer than two units to resample
    high: float
    level: float  # confidence, as a share
    items: int
    clusters: int  # resampled units: clusters, or items without clusters
    failed: int = 0  # resamples left out because the statistic is not finite (a correlation of constants, say)

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
    """Estimate the confidence interval of a statistic; paired arrays stay paired, equal seeds give equal resamples.

    Args:
        statistic: Function of the arrays, or of as many resampled rows of each.
        arrays: One row per item each, [items, ...].
        clusters: Cluster of each item, such as its speaker; None makes every item a cluster.
        method: "percentile", or "bca": bias-corrected and accelerated by a jackknife over clusters (B. Efron, 1987).
    """
    data = [np.asarray(array) for array in arrays]
    if not data or not len(data[0]):
        raise ValueError("there are no items to resample; expected one array or more, with a row per item")
    items = len(data[0])
    counts = [len(rows) for rows in (*data, clusters) if rows is not None]
    if set(counts) != {items}:
        raise ValueError(f"arrays and clusters have {counts} rows; expected one for each item in all of them")
    if method not in ("percentile", "bca"):
        raise ValueError(f"method is {method!r}; expected 'percentile' or 'bca'")
    quantiles = interval_quantiles(level)
    units = cluster_rows(clusters, items)
    value = float(statistic(*data))
    estimates = resampled(statistic, data, units, resamples, seed)
    # Percentile: quantiles of the resamples. BCa: other quantiles of the same resamples.
    if method == "bca" and np.isfinite(value) and np.isfinite(estimates).any():
        jackknife = []
        for rows in units:
            jackknife.append(statistic(*(np.delete(array, rows, axis=0) for array in data)))
        quantiles = _bca_quantiles(quantiles, estimates, value, np.array(jackknife))
    return _interval(value, estimates, level, items, len(units), quantiles)


@dataclass(frozen=True)
class Sampling:
    """Settings shared by all bootstrap intervals of an analysis, see `bootstrap`."""

    resamples: int = 10_000
    level: float = 0.95
    seed: int = 0

    def interval(self, statistic: Statistic, *arrays: Any, **options: Any) -> Interval:
        """Estimate the confidence interval of a statistic; options are `clusters` and `method`."""
        return bootstrap(statistic, *arrays, **asdict(self), **options)


@dataclass(frozen=True)
class Resamples:
    """Resamples shared by many ratios of sums: means, pooled error rates, and their paired differences.

    A mean is a sum over a count and an error rate is errors over words. Systems compared on the same resamples are
    paired. A NaN denominator marks an item that is absent (a clip without a reference); 0 an item that adds to the
    numerator only (insertions where nothing was said).
    """

    counts: Float[np.ndarray, "resamples items"]  # times that each item occurs in each resample, as float weights
    units: int  # that are resampled: clusters, or items without clusters
    level: float = 0.95

    @classmethod
    def sample(
        cls,
        items: int,
        clusters: Sequence[Hashable] | None = None,
        resamples: int = 10_000,
        level: float = 0.95,
        seed: int = 0,
    ) -> "Resamples":
        """Resample items as `bootstrap` does: equal seeds give equal resamples."""
        if items < 1 or (clusters is not None and len(clusters) != items):
            raise ValueError(f"{items} items and {clusters and len(clusters)} clusters; expected a cluster per item")
        interval_quantiles(level)  # refuses percent
        units = cluster_rows(clusters, items)
        check_resamples(resamples)
        counts = np.zeros((resamples if len(units) > 1 else 0, items), np.float32)
        for i, rows in enumerate(resample_rows(units, len(counts), seed)):
            counts[i] = np.bincount(rows, minlength=items)
        return cls(counts, len(units), level)

    def ratio(self, numerator: Float[np.ndarray, " items"], denominator: Float[np.ndarray, " items"]) -> Interval:
        """Estimate sum(numerator) / sum(denominator), NaN where the latter is 0."""
        value, estimates, items = self._ratios(numerator, denominator)
        return _interval(value, estimates, self.level, items, self.units)

    def difference(
        self, numerators: Float[np.ndarray, "2 items"], denominators: Float[np.ndarray, "2 items"]
    ) -> Interval:
        """Estimate the first ratio less the second, over the items that both have."""
        # An item that one of them lacks counts for neither.
        both = np.isfinite(denominators).all(axis=0)
        denominators = np.where(both, denominators, np.nan)
        first, first_estimates, items = self._ratios(numerators[0], denominators[0])
        second, second_estimates, _ = self._ratios(numerators[1], denominators[1])
        return _interval(first - second, first_estimates - second_estimates, self.level, items, self.units)

    def _ratios(self, numerator: np.ndarray, denominator: np.ndarray) -> tuple[float, np.ndarray, int]:
        """Return the ratio, its value on each resample, and the number of items present."""
        if len(denominator) != self.counts.shape[1]:
            raise ValueError(f"{len(denominator)} values for {self.counts.shape[1]} items; expected one for each")
        # Absent items add 0 to both sums.
        present = np.isfinite(denominator)
        parts = np.where(present[:, None], np.stack([numerator, denominator], axis=1), 0.0)
        above, below = parts.sum(axis=0)
        value = float(above / below) if below else np.nan
        # All resamples at once: [resamples, items] @ [items, 2].
        sums = (self.counts @ parts.astype(np.float32)).astype(float)
        with np.errstate(divide="ignore", invalid="ignore"):
            return value, sums[:, 0] / sums[:, 1], int(present.sum())


def speaker_clusters(speakers: Sequence[Hashable | None], ids: Sequence[Hashable]) -> list[str] | None:
    """Name the cluster of each clip: its speaker, or the clip itself where the speaker is unknown (None or "").

    Returns None where fewer than two speakers are known; clips are the clusters then.
    """
    if len(speakers) != len(ids):
        raise ValueError(f"{len(speakers)} speakers and {len(ids)} ids; expected one of each per clip")
    if num_speakers(speakers) < 2:
        return None
    names = []
    for speaker, clip in zip(speakers, ids, strict=True):
        names.append(f"clip {clip}" if speaker in (None, "") else f"speaker {speaker}")
    return names


def num_speakers(speakers: Sequence[Hashable | None]) -> int:
    """Count the known speakers."""
    return len(set(speakers) - {None, ""})


def check_resamples(resamples: int) -> None:
    """Refuse fewer than one resample."""
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; expected 1 or more")


def interval_quantiles(level: float) -> Float[np.ndarray, "2"]:
    """Return the two quantiles between which a share `level` lies."""
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; expected a share between 0 and 1 (not percent)")
    return np.array([(1 - level) / 2, (1 + level) / 2])


def cluster_rows(clusters: Sequence[Hashable] | None, items: int) -> list[np.ndarray]:
    """List the rows of each cluster, in order of appearance; without clusters each row by itself."""
    # In order of appearance, on which the resamples of a seed depend.
    rows: dict[Hashable, list[int]] = {}
    for row, cluster in enumerate(range(items) if clusters is None else clusters):
        rows.setdefault(cluster, []).append(row)
    return [np.array(each) for each in rows.values()]


def resample_rows(units: Sequence[np.ndarray], resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the rows of each resample: clusters with replacement, then rows within each with replacement."""
    random = np.random.default_rng(seed)
    rows = np.concatenate(units)
    sizes = np.array([len(each) for each in units])
    starts = np.cumsum(sizes) - sizes
    for _ in range(resamples):
        chosen = random.integers(len(units), size=len(units))
        # Every cluster is a single item: nothing to sample within it.
        if len(rows) == len(units):
            yield rows[chosen]
            continue
        # For each row of each chosen cluster: where the cluster starts, plus a random place in it.
        size = np.repeat(sizes[chosen], sizes[chosen])
        yield rows[np.repeat(starts[chosen], sizes[chosen]) + random.integers(size)]


def resampled(
    statistic: Statistic, data: Sequence[np.ndarray], units: Sequence[np.ndarray], resamples: int, seed: int
) -> Float[np.ndarray, "resamples ..."]:
    """Compute a statistic on each resample; on none where there is only one unit."""
    check_resamples(resamples)
    if len(units) < 2:
        return np.zeros(0)
    estimates = []
    for rows in resample_rows(units, resamples, seed):
        estimates.append(statistic(*(array[rows] for array in data)))
    return np.array(estimates, dtype=float)


def _interval(
    value: float, estimates: np.ndarray, level: float, items: int, units: int, quantiles: np.ndarray | None = None
) -> Interval:
    if quantiles is None:
        quantiles = interval_quantiles(level)
    finite = estimates[np.isfinite(estimates)]
    low = high = np.nan
    if len(finite) and np.isfinite(value):
        low, high = np.quantile(finite, quantiles).tolist()
    return Interval(value, low, high, level, items, units, failed=len(estimates) - len(finite))


def _bca_quantiles(quantiles: np.ndarray, estimates: np.ndarray, value: float, jackknife: np.ndarray) -> np.ndarray:
    """Shift two quantiles for bias and for a spread that changes with the value (B. Efron, 1987)."""
    estimates = estimates[np.isfinite(estimates)]
    jackknife = jackknife[np.isfinite(jackknife)]
    # Bias: where the value lies among the resamples, ties counted half.
    below = (np.mean(estimates < value) + np.mean(estimates <= value)) / 2
    if not 0 < below < 1:
        return quantiles
    bias = NORMAL.inv_cdf(below)
    # Acceleration: a sixth of the skewness of the jackknife, the statistic without each cluster in turn.
    deviations = jackknife.sum() / max(1, len(jackknife)) - jackknife
    spread = max(np.sum(deviations**2) ** 1.5, np.finfo(float).tiny)
    acceleration = np.sum(deviations**3) / (6 * spread)
    # Each quantile as a normal z, shifted, and back.
    shifted = quantiles.copy()
    for i, quantile in enumerate(quantiles):
        z = bias + NORMAL.inv_cdf(quantile)
        shifted[i] = NORMAL.cdf(bias + z / (1 - acceleration * z))
    return shifted
