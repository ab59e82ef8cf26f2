"""Pictures of rates, durations, boundaries and losses; `flexicodec.analysis.plots` has the one of a single clip.

All are narrow enough to be read on a phone, and are drawn without pyplot: no window, no global state. Colours are Okabe
and Ito's, which colour-blind readers can tell apart, and marks or dashes say the same in grey.
"""

from flexicodec.analysis.figures.contents import (
    draw_class_durations,
    draw_durations,
    draw_merge_shares,
    draw_segments_per_token,
)
from flexicodec.analysis.figures.curves import draw_bits, draw_distortion, draw_rate_curve
from flexicodec.analysis.figures.rates import draw_correlations, draw_intervals, draw_scatter
from flexicodec.analysis.figures.style import Series

__all__ = [
    "Series",
    "draw_bits",
    "draw_class_durations",
    "draw_correlations",
    "draw_distortion",
    "draw_durations",
    "draw_intervals",
    "draw_merge_shares",
    "draw_rate_curve",
    "draw_scatter",
    "draw_segments_per_token",
]
