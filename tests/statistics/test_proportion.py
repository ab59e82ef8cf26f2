"""Wilson's interval against statsmodels, and at its ends."""

import math

import pytest
from statsmodels.stats.proportion import proportion_confint

from flexicodec.statistics import wilson


@pytest.mark.parametrize(("successes", "trials"), [(0, 5), (5, 5), (1, 1), (3, 10), (500, 1000), (1, 100_000)])
@pytest.mark.parametrize("level", [0.5, 0.95])
def test_it_is_statsmodels(successes, trials, level):
    low, high = proportion_confint(successes, trials, alpha=1 - level, method="wilson")
    found = wilson(successes, trials, level)
    assert (found.value, found.low, found.high) == pytest.approx((successes / trials, low, high), abs=1e-12)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_no_trials_have_no_share():
    assert math.isnan(wilson(0, 0).value)
    assert math.isnan(wilson(0, 0).low)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="6 successes in 5 trials"):
        wilson(6, 5)
    with pytest.raises(ValueError, match="not percent"):
        wilson(1, 5, level=95)
