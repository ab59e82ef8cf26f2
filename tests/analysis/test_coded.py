"""Tokens in time agree with `Tokens.times`, and what cannot be is refused."""

import numpy as np
import pytest
import torch

from flexicodec.analysis.coded import Coded
from flexicodec.tokens import Tokens


def tokens_of(*durations, short=100):
    samples = sum(durations) * 1280 - short
    return Tokens(torch.zeros(1, len(durations), dtype=torch.int64), None, [list(durations)], [samples])


@pytest.mark.parametrize("short", [0, 100, 1279])
def test_boundaries_and_middles_are_those_of_the_tokens(short):
    tokens = tokens_of(3, 1, 8, 4, short=short)
    coded = Coded.of(tokens, np.zeros(16 * 1280 - short, dtype=np.float32))
    times = tokens.times(0).numpy()
    assert coded.boundaries() == pytest.approx(times[1:, 0])
    assert coded.middles() == pytest.approx(times.mean(1))
    assert (coded.num_frames, coded.num_tokens, coded.max_duration) == (16, 4, 8)
    assert coded.seconds == pytest.approx(float(tokens.seconds[0]))


def test_padding_of_a_batch_falls_away():
    batch = Tokens.cat([tokens_of(3, 1, 8, 4), tokens_of(2, 5)])
    assert Coded.of(batch[1]).durations.tolist() == [2, 5]


def test_moved_boundaries_stay_inside():
    coded = Coded(np.array([1, 1, 2]), 0.08, 0.32)
    assert coded.boundaries(-0.08).tolist() == pytest.approx([0.08])
    assert coded.boundaries(0.2).tolist() == pytest.approx([0.28])
    assert Coded(np.array([4]), 0.08, 0.32).boundaries().tolist() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([2, 0], 0.08, 0.16), "was padding left in"),
        (([], 0.08, 0.16), "was padding left in"),
        (([0.5], 0.08, 0.16), "in seconds"),
        (([9], 0.08, 0.72), "more than max_duration=8"),
        (([2], 0.0, 0.16), "expected seconds above 0"),
        (([2, 2], 0.08, 5.0), "are they of another clip"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    durations, *times = arguments
    with pytest.raises(ValueError, match=message):
        Coded(np.array(durations), *times)


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(ValueError, match="tokens are of 2 clips"):
        Coded.of(Tokens.cat([tokens_of(1), tokens_of(1)]))
    with pytest.raises(ValueError, match="at another rate"):
        Coded.of(tokens_of(4), np.zeros(8000))
    with pytest.raises(ValueError, match="sum to 5 frames, but the clip has 4"):
        Coded(np.array([4]), 0.08, 0.32).with_durations(np.array([5]))
