"""How an analysis finds its intervals: one setting for all of them."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flexicodec.statistics.bootstrap import Interval, bootstrap
from flexicodec.statistics.regression import Band, Fit, Values, line_band


@dataclass(frozen=True)
class Sampling:
    """How intervals are found.

    Attributes:
        resamples: Of a bootstrap.
        level: Of confidence.
        seed: Of the drawing.
    """

    resamples: int = 10_000
    level: float = 0.95
    seed: int = 0

    def interval(
        self,
        statistic: Callable[..., float],
        *arrays: Any,
        clusters: Sequence[Hashable] | None = None,
        method: Literal["percentile", "bca"] = "percentile",
    ) -> Interval:
        """Bootstrap a statistic."""
        settings = {"resamples": self.resamples, "level": self.level, "seed": self.seed}
        return bootstrap(statistic, *arrays, clusters=clusters, method=method, **settings)  # type: ignore[arg-type]

    def band(self, fit: Fit, x: Values, y: Values, clusters: Sequence[Hashable] | None = None) -> Band:
        """Bootstrap a line's height."""
        return line_band(fit, x, y, clusters, self.resamples, self.level, self.seed)
