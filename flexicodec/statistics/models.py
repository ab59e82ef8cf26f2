"""Regression models fitted by statsmodels: counts, rates with random effects, and yes or no.

Each says whether it converged and what went wrong on the way, instead of warning: nothing here stops an analysis, and
nothing passes unseen. statsmodels (the extra `analysis`) is imported on first use.
"""

import math
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Float

from flexicodec.statistics.bootstrap import Interval

Values = Float[np.ndarray, " items"]
FEW_CLUSTERS = 10


@dataclass(frozen=True)
class FittedModel:
    """What a model found.

    Attributes:
        kind: Which model it is, as fitted.
        effects: Coefficient of each predictor, and "intercept".
        variances: Of random effects and noise, or the dispersion of counts, by name.
        converged: Whether the fit came to an end; numbers of one that did not mean little.
        notes: What statsmodels warned of, and what was left out of the model and why.
    """

    kind: str
    effects: Mapping[str, Interval]
    variances: Mapping[str, float] = field(default_factory=dict)
    converged: bool = True
    notes: tuple[str, ...] = ()


def count_model(
    counts: Values,
    predictors: Mapping[str, Values],
    exposure: Values,
    *,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
) -> FittedModel:
    """Fit counts by negative binomial regression: log E[count] = log exposure + intercept + predictors.

    The variance is mean + alpha mean^2. Where counts vary no more than Poisson's, the likelihood is highest at alpha =
    0, which is Poisson regression, and that is what is fitted. Intervals come from the robust covariance, which holds
    for either.

    Args:
        counts: Of each item, whole numbers of at least 0.
        predictors: Values of each item, by name.
        exposure: What the counts are proportional to, above 0: seconds, say.
        clusters: Items of one cluster may vary together.
        level: Of confidence.

    Returns:
        Effects on the logarithm of the rate; `variances` hold alpha, and Pearson's chi^2 per degree of freedom under
        Poisson ("dispersion", 1 if counts are Poisson's).

    Raises:
        ValueError: Counts or exposures that cannot be, or arrays of different length.
    """
    from statsmodels.discrete.discrete_model import NegativeBinomial
    from statsmodels.genmod.families import Poisson
    from statsmodels.genmod.generalized_linear_model import GLM

    counts, exposure = np.asarray(counts, dtype=np.float64), np.asarray(exposure, dtype=np.float64)
    names, design = _design(predictors, len(counts))
    if exposure.shape != counts.shape or not (exposure > 0).all():
        raise ValueError("exposure has to be above 0, with one value for each count")
    if (counts < 0).any() or (counts != np.rint(counts)).any():
        raise ValueError("counts have to be whole numbers of at least 0; were rates given?")
    covariance, notes = _robust(clusters, len(counts))

    def fit() -> tuple[str, Any, dict[str, float]]:
        poisson = GLM(counts, design, family=Poisson(), offset=np.log(exposure)).fit(**covariance)
        free = max(1, len(counts) - design.shape[1])
        spread = float(np.sum((counts - poisson.mu) ** 2 / np.maximum(poisson.mu, 1e-12))) / free
        slope_at_zero = float(np.sum((counts - poisson.mu) ** 2 - counts))  # of the likelihood along alpha
        if slope_at_zero <= 0:
            return "poisson", poisson, {"alpha": 0.0, "dispersion": spread}
        model = NegativeBinomial(counts, design, offset=np.log(exposure))
        alpha = max(1e-6, slope_at_zero / float(np.sum(poisson.mu**2)))
        full = model.fit(start_params=[*poisson.params, alpha], disp=0, maxiter=500, **covariance)
        return "negative binomial", full, {"alpha": float(full.params[-1]), "dispersion": spread}

    return _fitted(fit, names, len(counts), clusters, level, notes)


def mixed_model(
    outcome: Values,
    predictors: Mapping[str, Values],
    groups: Mapping[str, Sequence[Hashable]],
    *,
    level: float = 0.95,
) -> FittedModel:
    """Fit an outcome by linear regression with a random intercept for each level of every grouping, crossed.

    Args:
        outcome: Of each item.
        predictors: Values of each item, by name.
        groups: Labels of each item, by the name of the grouping: speakers, sentences. One that has a single level, or
            as many as there are items, says nothing and is left out, with a note; without any left, or where they vary
            too little to be seen, the fit is by least squares.
        level: Of confidence.

    Returns:
        Effects, and the variances of every grouping and of the noise.

    Raises:
        ValueError: Arrays of different length.
    """
    from statsmodels.regression.linear_model import OLS

    outcome = np.asarray(outcome, dtype=np.float64)
    names, design = _design(predictors, len(outcome))
    kept: dict[str, list[str]] = {}
    notes = []
    for name, labels in groups.items():
        if len(labels) != len(outcome):
            raise ValueError(f"{name} has {len(labels)} labels for {len(outcome)} items")
        levels = len(set(labels))
        if 1 < levels < len(outcome):
            kept[name] = [str(label) for label in labels]
        else:
            told = f"{levels} {'level' if levels == 1 else 'levels'} among {len(outcome)} items"
            notes.append(f"{name} has {told}: no random effect of it was fitted")

    def fit() -> tuple[str, Any, dict[str, float]]:
        if kept:
            try:
                mixed = _mixed(outcome, design, kept).fit()
                components = np.ravel(mixed.vcomp if len(kept) > 1 else mixed.cov_re).tolist()
                return "mixed", mixed, {**dict(zip(kept, components, strict=True)), "noise": float(mixed.scale)}
            except np.linalg.LinAlgError as error:
                notes.append(f"random effects of {', '.join(kept)} could not be told from none ({error})")
        plain = OLS(outcome, design).fit()
        return "least squares", plain, {"noise": float(plain.scale)}

    return _fitted(fit, names, len(outcome), None, level, notes)


def logistic_model(
    outcome: Values,
    predictors: Mapping[str, Values],
    *,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
) -> FittedModel:
    """Fit the log odds of an outcome of 0 or 1, with robust intervals.

    Args:
        outcome: 0 or 1, or booleans.
        predictors: Values of each item, by name.
        clusters: Items of one cluster may vary together.
        level: Of confidence.

    Raises:
        ValueError: Outcomes other than 0 and 1, or arrays of different length.
    """
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_linear_model import GLM

    outcome = np.asarray(outcome, dtype=np.float64)
    if not np.isin(outcome, (0.0, 1.0)).all():
        raise ValueError("outcome has to be 0 or 1 for every item")
    names, design = _design(predictors, len(outcome))
    covariance, notes = _robust(clusters, len(outcome))

    def fit() -> tuple[str, Any, dict[str, float]]:
        return "logistic", GLM(outcome, design, family=Binomial()).fit(**covariance), {}

    return _fitted(fit, names, len(outcome), clusters, level, notes)


def _design(predictors: Mapping[str, Values], items: int) -> tuple[list[str], Float[np.ndarray, "items predictors"]]:
    """Lay out predictors as columns behind one of ones."""
    for name, values in predictors.items():
        if np.shape(values) != (items,) or not np.isfinite(values).all():
            raise ValueError(
                f"{name} has shape {np.shape(values)} or is not finite; expected a number for each of {items}"
            )
    columns = [np.ones(items), *(np.asarray(values, dtype=np.float64) for values in predictors.values())]
    return ["intercept", *predictors], np.stack(columns, axis=1)


def _robust(clusters: Sequence[Hashable] | None, items: int) -> tuple[dict[str, Any], list[str]]:
    """Choose the covariance of statsmodels' fit, and say what to keep in mind about it."""
    if clusters is None:
        return {"cov_type": "HC0"}, []
    if len(clusters) != items:
        raise ValueError(f"clusters name {len(clusters)} items of {items}")
    codes = {label: code for code, label in enumerate(dict.fromkeys(clusters))}
    if len(codes) < 2:
        return {"cov_type": "HC0"}, ["one cluster only: items were taken as independent"]
    notes = [f"{len(codes)} clusters are few: intervals are too narrow"] if len(codes) < FEW_CLUSTERS else []
    return {"cov_type": "cluster", "cov_kwds": {"groups": np.array([codes[label] for label in clusters])}}, notes


def _mixed(outcome: Values, design: Float[np.ndarray, "items predictors"], groups: Mapping[str, list[str]]) -> Any:
    """Set up a mixed model; several groupings, none inside another, are variance components of one group of all."""
    from statsmodels.regression.mixed_linear_model import MixedLM, VCSpec

    if len(groups) == 1:
        return MixedLM(outcome, design, groups=np.array(next(iter(groups.values()))))
    indicators = []
    for labels in groups.values():
        levels = sorted(set(labels))
        index = {label: i for i, label in enumerate(levels)}
        indicators.append((np.eye(len(levels))[[index[label] for label in labels]], levels))
    names = list(groups)
    components = VCSpec(names, [[levels] for _, levels in indicators], [[matrix] for matrix, _ in indicators])
    return MixedLM(outcome, design, groups=np.ones(len(outcome)), exog_re=None, exog_vc=components)


def _fitted(
    fit: Callable[[], tuple[str, Any, dict[str, float]]],
    names: Sequence[str],
    items: int,
    clusters: Sequence[Hashable] | None,
    level: float,
    notes: list[str],
) -> FittedModel:
    """Run a fit, turning warnings and failures into notes."""
    units = items if clusters is None else len(set(clusters))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            kind, result, variances = fit()
        except (np.linalg.LinAlgError, ValueError, FloatingPointError) as error:
            nothing = {name: Interval(math.nan, math.nan, math.nan, level, items, units) for name in names}
            return FittedModel("none", nothing, {}, False, (*notes, f"could not be fitted: {error}"))
        values, errors = np.asarray(result.params)[: len(names)], np.asarray(result.bse)[: len(names)]
        converged = bool(getattr(result, "converged", getattr(result, "mle_retvals", {}).get("converged", True)))
    quantile = NormalDist().inv_cdf((1 + level) / 2)
    effects = {
        name: Interval(float(v), float(v - quantile * e), float(v + quantile * e), level, items, units)
        for name, v, e in zip(names, values, errors, strict=True)
    }
    said = dict.fromkeys(" ".join(str(warning.message).split()) for warning in caught)
    return FittedModel(kind, effects, variances, converged and bool(np.isfinite(values).all()), (*notes, *said))
