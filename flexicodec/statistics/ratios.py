"""Means and pooled rates, many of them on the same resamples: `bootstrap` for ratios of sums, drawn once.

A mean is a sum over a count and a corpus error rate is errors over words, so one drawing of items serves every metric
of every system, and what two systems have on the same resample is paired by itself. NaN below the line says that an
item is not there (a clip without a reference); 0 that it only adds above it (words heard where nothing was said).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from flexicodec.statistics.bootstrap import Interval, check_resamples, draw, group


@dataclass(frozen=True)
class Resamples:
    """How often each item was drawn in each resample.

    Attributes:
        counts: [resamples, items], as floats because they are weights.
        units: What was drawn: clusters, or items where there are no clusters.
        level: Of confidence, for the intervals.
    """

    counts: Float[np.ndarray, "resamples items"]
    units: int
    level: float = 0.95

    @classmethod
    def draw(
        cls,
        items: int,
        clusters: Sequence[Hashable] | None = None,
        resamples: int = 10_000,
        level: float = 0.95,
        seed: int = 0,
    ) -> "Resamples":
        """Draw as `bootstrap` does: the same seed gives the same resamples.

        Args:
            items: How many there are.
            clusters: Cluster of each item, its speaker, say; None takes every item for itself.
            resamples: How many to draw.
            level: Of confidence, between 0 and 1.
            seed: Of the drawing.

        Raises:
            ValueError: No items, clusters of another number, a level that is no share, or no resamples.
        """
        if items < 1 or (clusters is not None and len(clusters) != items):
            raise ValueError(f"{items} items and {clusters and len(clusters)} clusters; expected a cluster per item")
        if not 0 < level < 1:
            raise ValueError(f"level is {level}; expected a share between 0 and 1 (not percent)")
        check_resamples(resamples)
        groups = group(clusters, items)
        counts = np.zeros((resamples if len(groups) > 1 else 0, items), np.float32)
        for row, drawn in zip(counts, draw(groups, len(counts), np.random.default_rng(seed)), strict=True):
            row[:] = np.bincount(drawn, minlength=items)
        return cls(counts, len(groups), level)

    def ratio(self, numerator: Float[np.ndarray, " items"], denominator: Float[np.ndarray, " items"]) -> Interval:
        """Find sum(numerator) / sum(denominator) and its percentile interval; NaN where that is nothing by nothing."""
        value, drawn, items = self._ratios(numerator, denominator)
        return self._interval(value, drawn, items)

    def difference(
        self,
        numerator: Float[np.ndarray, "2 items"],
        denominator: Float[np.ndarray, "2 items"],
    ) -> Interval:
        """Find by how much the first ratio exceeds the second over the items that both have, and its interval."""
        both = np.isfinite(denominator).all(axis=0)
        (first, one, items), (second, other, _) = (
            self._ratios(above, np.where(both, below, np.nan))
            for above, below in zip(numerator, denominator, strict=True)
        )
        return self._interval(first - second, one - other, items)

    def _ratios(self, numerator: np.ndarray, denominator: np.ndarray) -> tuple[float, np.ndarray, int]:
        """The ratio, what it is on each resample, and the items it rests on."""
        there = np.isfinite(denominator)
        pair = np.stack([np.where(there, part, 0.0) for part in (numerator, denominator)], axis=1)
        if len(pair) != self.counts.shape[1]:
            raise ValueError(f"{len(pair)} values for {self.counts.shape[1]} items; expected one for each")
        sums = (self.counts @ pair.astype(np.float32)).astype(float)
        total = pair.sum(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float(total[0] / total[1]) if total[1] else np.nan
            return value, sums[:, 0] / sums[:, 1], int(there.sum())

    def _interval(self, value: float, drawn: np.ndarray, items: int) -> Interval:
        finite = drawn[np.isfinite(drawn)]
        failed = len(drawn) - len(finite)
        if not len(finite) or not np.isfinite(value):
            return Interval(value, np.nan, np.nan, self.level, items, self.units, failed)
        low, high = np.quantile(finite, [(1 - self.level) / 2, (1 + self.level) / 2])
        return Interval(value, float(low), float(high), self.level, items, self.units, failed)
