"""What a run says of itself: curves, a progress bar, audio and pictures, and the trackers that they go to."""

from flexicodec.training.monitor.balance import BalanceAlarm, balance
from flexicodec.training.monitor.curves import Curves, perplexity
from flexicodec.training.monitor.pictures import log_histogram, log_samples
from flexicodec.training.monitor.progress import Progress
from flexicodec.training.monitor.trackers import JsonLines, cut_curves, make_accelerator, part, read_curves

__all__ = [
    "BalanceAlarm",
    "Curves",
    "JsonLines",
    "Progress",
    "balance",
    "cut_curves",
    "log_histogram",
    "log_samples",
    "make_accelerator",
    "part",
    "perplexity",
    "read_curves",
]
