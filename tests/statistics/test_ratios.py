"""Many ratios on one drawing: the same as bootstrap's, one by one."""

import numpy as np
import pytest

from flexicodec.statistics import bootstrap
from flexicodec.statistics.ratios import Resamples


def pooled(above, below):
    return above.sum() / below.sum()


@pytest.fixture
def errors():
    random = np.random.default_rng(1)
    lengths = random.integers(5, 40, 60).astype(float)
    return random.binomial(lengths.astype(int), 0.2).astype(float), lengths


@pytest.mark.parametrize("clusters", [None, [f"s{index % 7}" for index in range(60)]])
def test_intervals_are_those_of_bootstrap(errors, clusters):
    wanted = bootstrap(pooled, *errors, clusters=clusters, resamples=500, seed=3)
    found = Resamples.draw(60, clusters, resamples=500, seed=3).ratio(*errors)
    assert (found.value, found.low, found.high) == pytest.approx((wanted.value, wanted.low, wanted.high))
    assert (found.items, found.clusters, found.failed) == (wanted.items, wanted.clusters, wanted.failed)


def test_paired_differences_are_those_of_bootstrap(errors):
    above, below = errors
    better = np.maximum(above - 1, 0)
    wanted = bootstrap(lambda a, b, n: (a.sum() - b.sum()) / n.sum(), above, better, below, resamples=500)
    found = Resamples.draw(60, resamples=500).difference(np.stack([above, better]), np.stack([below, below]))
    assert (found.value, found.low, found.high) == pytest.approx((wanted.value, wanted.low, wanted.high))
    assert not found.covers_zero


def test_a_difference_is_over_what_both_have():
    draws = Resamples.draw(4, resamples=50)
    above = np.array([[1.0, 2.0, np.nan, 100.0], [1.0, 1.0, 50.0, 0.0]])
    below = np.array([[1.0, 1.0, np.nan, 1.0], [1.0, 1.0, 1.0, np.nan]])  # the last two are missing somewhere
    found = draws.difference(above, below)
    assert found.value == pytest.approx(0.5)
    assert found.items == 2
    assert found.low >= 0
    assert found.high <= 1


def test_an_item_may_add_above_the_line_alone():
    draws = Resamples.draw(3, resamples=50)
    above, below = np.array([1.0, 1.0, 2.0]), np.array([2.0, 2.0, 0.0])
    found = draws.ratio(above, below)
    assert (found.value, found.items) == (1.0, 3)
    assert found.low < 1 < found.high
    absent = draws.ratio(above, np.array([2.0, 2.0, np.nan]))
    assert (absent.value, absent.low, absent.high, absent.items) == (0.5, 0.5, 0.5, 2)
    assert np.isnan(draws.ratio(above, np.zeros(3)).value)


def test_a_system_never_differs_from_itself(errors):
    above, below = errors
    found = Resamples.draw(60, resamples=100).difference(np.stack([above, above]), np.stack([below, below]))
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_resamples_without_any_item_that_counts_are_left_out_and_counted():
    found = Resamples.draw(5, resamples=400).ratio(np.array([2.0, 0, 0, 0, 0]), np.array([1.0, *[np.nan] * 4]))
    assert (found.value, found.low, found.high, found.items) == (2, 2, 2, 1)
    assert 0 < found.failed < 400  # about (4/5)^5 of them


def test_one_cluster_or_nothing_defined_gives_no_ends():
    one = Resamples.draw(3, ["s", "s", "s"]).ratio(np.ones(3), np.ones(3))
    assert one.value == 1
    assert np.isnan([one.low, one.high]).all()
    nothing = Resamples.draw(3, resamples=20).ratio(np.zeros(3), np.full(3, np.nan))
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()
    assert nothing.items == 0


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="expected a cluster per item"):
        Resamples.draw(3, ["a"])
    with pytest.raises(ValueError, match="not percent"):
        Resamples.draw(3, level=95)
    with pytest.raises(ValueError, match="2 values for 3 items"):
        Resamples.draw(3, resamples=10).ratio(np.ones(2), np.ones(2))
