"""A summary whose numbers are known."""

import numpy as np
import pytest

from flexicodec.evaluation.summary import summarise
from tests.evaluation.known_rows import CLIPS, RUN, rows_of


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(0)
    base = 0.6 + 0.05 * random.standard_normal(CLIPS)
    truth = rows_of("ground truth", "", np.ones(CLIPS))
    for row in truth:
        del row["frame_rate_hz"], row["bitrate_kbps"]
    return [
        *truth,
        *rows_of("one", "6 Hz", base, 6.0, frame_rate=6.0, codebooks=2),
        *rows_of("one", "12 Hz", base + 0.01, 12.0, frame_rate=12.0, codebooks=2),
        *rows_of("two", "6 Hz", base + random.standard_normal(CLIPS) * 0.2, 6.0, frame_rate=6.0, codebooks=4),
    ]


@pytest.fixture(scope="module")
def summary(rows):
    return summarise(rows, RUN, resamples=800)
