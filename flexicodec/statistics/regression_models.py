"""Regression models of counts, of rates with random effects, and of binary outcomes, fitted by statsmodels.

A fit that fails or warns is reported in its result and does not stop an analysis.
"""

import math
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from flexicodec.statistics.bootstrap import Interval

Values = Float[np.ndarray, " items"]
Fit = Callable[[], tuple[str, Any, dict[str, float]]]  # returns the kind, statsmodels' results, and variances
FEW_CLUSTERS = 10


@dataclass(frozen=True)
class FittedModel:
    """A fitted regression model."""

    kind: str  # as fitted, which may be simpler than the one asked for
    effects: Mapping[str, Interval]  # coefficient of each predictor, and "intercept"
    variances: Mapping[str, float]  # of random effects and noise, or the dispersion of counts, by name
    converged: bool
    notes: tuple[str, ...]  # warnings of statsmodels, and random effects that were left out


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
    0, and Poisson regression is fitted. Intervals use the robust covariance, which holds for either. `variances` holds
    alpha, and as "dispersion" Pearson's chi^2 per degree of freedom under Poisson (1 for Poisson counts).

    Counts are proportional to their exposure, such as seconds. Items of one cluster may vary together.
    """
    import statsmodels.formula.api as smf
    from statsmodels.genmod.families import Poisson

    formula, data = _formula_and_data(counts, predictors)
    counts = data["outcome"].to_numpy()
    if np.shape(exposure) != counts.shape or not (np.asarray(exposure) > 0).all():
        raise ValueError("exposure has to be above 0, with one value for each count")
    if (counts < 0).any() or (counts != np.rint(counts)).any():
        raise ValueError("counts have to be whole numbers of at least 0; were rates given?")
    covariance, notes = _robust_covariance(clusters, len(counts))
    offset = np.log(exposure)

    def fit() -> tuple[str, Any, dict[str, float]]:
        poisson = smf.glm(formula, data, family=Poisson(), offset=offset).fit(**covariance)
        mean = np.asarray(poisson.mu)
        squares = (counts - mean) ** 2
        free = max(1, len(counts) - 1 - len(predictors))
        dispersion = float(np.sum(squares / np.maximum(mean, 1e-12))) / free
        slope_at_zero = float(np.sum(squares - counts))  # of the likelihood along alpha
        # No more variance than Poisson's: the best alpha would be negative.
        if slope_at_zero <= 0:
            return "poisson", poisson, {"alpha": 0.0, "dispersion": dispersion}
        # Start from Poisson's coefficients and the moment estimate of alpha.
        alpha = max(1e-6, slope_at_zero / float(np.sum(mean**2)))
        model = smf.negativebinomial(formula, data, offset=offset)
        full = model.fit(start_params=[*poisson.params, alpha], disp=0, maxiter=500, **covariance)
        return "negative binomial", full, {"alpha": float(full.params["alpha"]), "dispersion": dispersion}

    return _fitted(fit, predictors, clusters, len(counts), level, notes)


def mixed_model(
    outcome: Values,
    predictors: Mapping[str, Values],
    groups: Mapping[str, Sequence[Hashable]],
    *,
    level: float = 0.95,
) -> FittedModel:
    """Fit a linear regression with a crossed random intercept for every grouping.

    A grouping of one level, or of as many as there are items, is left out with a note. Without any, or where groups
    vary too little, the fit is by least squares. `groups` holds the labels of each item by grouping ("speaker").
    """
    import statsmodels.formula.api as smf

    formula, data = _formula_and_data(outcome, predictors)
    items = len(data)
    kept: dict[str, str] = {}  # name of the grouping, by its column
    notes = []
    for name, labels in groups.items():
        if len(labels) != items:
            raise ValueError(f"{name} has {len(labels)} labels for {items} items")
        column = f"grouping_{len(kept)}"
        # Strings, which formulas treat as categories.
        data[column] = list(map(str, labels))
        levels = data[column].nunique()
        if 1 < levels < items:
            kept[column] = name
        else:
            unit = "level" if levels == 1 else "levels"
            notes.append(f"{name} has {levels} {unit} among {items} items: no random effect of it was fitted")

    def fit_random_effects() -> tuple[str, Any, dict[str, float]]:
        if len(kept) == 1:
            mixed = smf.mixedlm(formula, data, groups=data["grouping_0"]).fit()
            components = np.ravel(mixed.cov_re)
        else:
            # Crossed groupings are variance components of one group that holds all items.
            indicators = {column: f"0 + C({column})" for column in kept}
            mixed = smf.mixedlm(formula, data, groups=np.ones(items), vc_formula=indicators).fit()
            components = mixed.vcomp
        variances = dict(zip(kept.values(), components.tolist(), strict=True))
        return "mixed", mixed, variances | {"noise": float(mixed.scale)}

    def fit() -> tuple[str, Any, dict[str, float]]:
        if kept:
            try:
                return fit_random_effects()
            except np.linalg.LinAlgError as error:
                notes.append(f"random effects of {', '.join(kept.values())} are too small to fit ({error})")
        plain = smf.ols(formula, data).fit(use_t=False)
        return "least squares", plain, {"noise": float(plain.scale)}

    return _fitted(fit, predictors, None, items, level, notes)


def logistic_model(
    outcome: Values,
    predictors: Mapping[str, Values],
    *,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
) -> FittedModel:
    """Fit the log odds of an outcome of 0 or 1, with robust intervals; arguments are those of `count_model`."""
    import statsmodels.formula.api as smf
    from statsmodels.genmod.families import Binomial

    if not np.isin(outcome, (0.0, 1.0)).all():
        raise ValueError("outcome has to be 0 or 1 for every item")
    formula, data = _formula_and_data(outcome, predictors)
    covariance, notes = _robust_covariance(clusters, len(data))

    def fit() -> tuple[str, Any, dict[str, float]]:
        return "logistic", smf.glm(formula, data, family=Binomial()).fit(**covariance), {}

    return _fitted(fit, predictors, clusters, len(data), level, notes)


def _formula_and_data(outcome: Values, predictors: Mapping[str, Values]) -> tuple[str, Any]:
    """Return the formula of `outcome` on predictors, and a data frame."""
    import pandas

    items = len(outcome)
    for name, values in predictors.items():
        if np.shape(values) != (items,) or not np.isfinite(values).all():
            raise ValueError(
                f"{name} has shape {np.shape(values)} or is not finite; expected a number for each of {items}"
            )
    data = pandas.DataFrame({"outcome": outcome, **predictors}, dtype=np.float64)
    return " + ".join(["outcome ~ 1", *predictors]), data


def _robust_covariance(clusters: Sequence[Hashable] | None, items: int) -> tuple[dict[str, Any], list[str]]:
    """Return the covariance arguments of statsmodels' `fit`, and notes on their limits."""
    import pandas

    if clusters is None:
        return {"cov_type": "HC0"}, []
    if len(clusters) != items:
        raise ValueError(f"clusters name {len(clusters)} items of {items}")
    # statsmodels takes clusters as integers.
    groups, names = pandas.Series(list(clusters), dtype=object).factorize()
    if len(names) < 2:
        return {"cov_type": "HC0"}, ["one cluster only: items were taken as independent"]
    notes = []
    if len(names) < FEW_CLUSTERS:
        notes.append(f"{len(names)} clusters are few: intervals are too narrow")
    return {"cov_type": "cluster", "cov_kwds": {"groups": groups}}, notes


def _fitted(
    fit: Fit,
    predictors: Mapping[str, Values],
    clusters: Sequence[Hashable] | None,
    items: int,
    level: float,
    notes: list[str],
) -> FittedModel:
    """Run a fit, turning warnings and failures into notes."""
    # Effects of a failed fit are NaN.
    units = items if clusters is None else len(set(clusters))
    effects = dict.fromkeys(["intercept", *predictors], Interval(math.nan, math.nan, math.nan, level, items, units))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            kind, result, variances = fit()
        except (np.linalg.LinAlgError, ValueError, FloatingPointError) as error:
            return FittedModel("none", effects, {}, False, (*notes, f"could not be fitted: {error}"))
        # Normal intervals; the errors behind them are computed here and may warn as well.
        limits = result.conf_int(1 - level).rename({"Intercept": "intercept"})
        values = result.params.rename({"Intercept": "intercept"})
    for name in effects:
        low, high = limits.loc[name]
        effects[name] = Interval(float(values[name]), float(low), float(high), level, items, units)
    # Results of different models name convergence differently; least squares has no such thing.
    converged = getattr(result, "converged", getattr(result, "mle_retvals", {}).get("converged", True))
    finite = all(math.isfinite(each.value) for each in effects.values())
    messages = dict.fromkeys(" ".join(str(warning.message).split()) for warning in caught)
    return FittedModel(kind, effects, variances, bool(converged) and finite, (*notes, *messages))
