"""Clips small enough to count manually."""

import numpy as np

from flexicodec.analysis.token_timeline import TokenTimeline
from flexicodec.corpus.alignments.alignment import Segment

FRAME = 0.1  # seconds; middles of frames at 0.05, 0.15, ...


def tier(*edges_and_labels):
    """Segments that follow each other: end and label of each, in frames."""
    start, segments = 0.0, []
    for end, label in edges_and_labels:
        segments.append(Segment(start * FRAME, end * FRAME, label))
        start = end
    return segments


def clip(*durations, cap=8):
    return TokenTimeline(np.array(durations), FRAME, sum(durations) * FRAME, cap)


SAID = tier((2, "sil"), (3, "B"), (5, "AH0"), (5.4, "T"), (6, "S"), (8, ""))
