"""Statistics of measurements: intervals, correlations, lines, regression models. Arrays in, numbers out."""

# ruff: noqa: F401  (names of the package)

from flexicodec.statistics.bootstrap import (
    Interval,
    Resamples,
    Sampling,
    bootstrap,
    check_resamples,
    cluster_rows,
    num_speakers,
    speaker_clusters,
)
from flexicodec.statistics.correlation import (
    FITS,
    Band,
    Line,
    fisher_interval,
    fit_line,
    fixed_effects_corr,
    line_band,
    num_controls,
    partial_corr,
    pearson,
    semi_partial_corr,
    spearman,
)
from flexicodec.statistics.regression_models import FittedModel, count_model, logistic_model, mixed_model
