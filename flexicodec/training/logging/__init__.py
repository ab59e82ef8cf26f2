"""Logging of a run: metrics, a progress bar, audio and pictures, and the trackers they are sent to."""

from flexicodec.training.logging.media import log_histogram, log_samples
from flexicodec.training.logging.metrics import TrainingMetrics, perplexity
from flexicodec.training.logging.progress import BalanceAlarm, Progress
from flexicodec.training.logging.trackers import (
    JsonLinesTracker,
    end_run,
    make_accelerator,
    read_curves,
    start_trackers,
    truncate_curves,
)

__all__ = [
    "BalanceAlarm",
    "JsonLinesTracker",
    "Progress",
    "TrainingMetrics",
    "end_run",
    "log_histogram",
    "log_samples",
    "make_accelerator",
    "start_trackers",
    "perplexity",
    "read_curves",
    "truncate_curves",
]
