"""Statistics of measurements: intervals, correlations, slopes. Arrays in, numbers out; knows no codec."""

from flexicodec.statistics.bootstrap import Interval, bootstrap, group

__all__ = ["Interval", "bootstrap", "group"]
