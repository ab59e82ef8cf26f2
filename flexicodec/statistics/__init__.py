"""Statistics of measurements: intervals, correlations, slopes. Arrays in, numbers out; knows no codec."""

from flexicodec.statistics.bootstrap import Interval, bootstrap, check_resamples, group
from flexicodec.statistics.clusters import clusters, num_speakers
from flexicodec.statistics.correlation import (
    fisher_interval,
    num_controls,
    partial,
    pearson,
    r_squared_gain,
    residuals,
    semi_partial,
    spearman,
    within,
)
from flexicodec.statistics.models import FittedModel, count_model, logistic_model, mixed_model
from flexicodec.statistics.regression import FITS, Band, Line, deming, fit_deming, inverse, line_band, ols, rma
from flexicodec.statistics.sampling import Sampling

__all__ = [
    "FITS",
    "Band",
    "FittedModel",
    "Interval",
    "Line",
    "Sampling",
    "bootstrap",
    "check_resamples",
    "clusters",
    "count_model",
    "deming",
    "fisher_interval",
    "fit_deming",
    "group",
    "inverse",
    "line_band",
    "logistic_model",
    "mixed_model",
    "num_controls",
    "num_speakers",
    "ols",
    "partial",
    "pearson",
    "r_squared_gain",
    "residuals",
    "rma",
    "semi_partial",
    "spearman",
    "within",
]
