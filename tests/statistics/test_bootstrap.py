"""Bootstrap intervals: against scipy's, against what clusters must do, and at the edges."""

import numpy as np
import pytest
from scipy import stats

from flexicodec.statistics import bootstrap


def correlation(x, y):
    return np.corrcoef(x, y)[0, 1]


@pytest.fixture
def pair():
    random = np.random.default_rng(5)
    x = random.gamma(2.0, size=120)
    return x, x + random.standard_normal(120)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_it_agrees_with_scipy(pair, method):
    ours = bootstrap(correlation, *pair, method=method, resamples=6000)
    theirs = stats.bootstrap(pair, correlation, paired=True, vectorized=False, n_resamples=6000, method=method, rng=1)
    assert ours.value == correlation(*pair)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.012)
    assert (ours.items, ours.clusters, ours.failed) == (120, 120, 0)


def test_the_mean_has_its_textbook_interval():
    x = np.random.default_rng(1).standard_normal(400)
    found = bootstrap(np.mean, x, resamples=4000)
    half = 1.96 * x.std() / 20
    assert (found.low, found.high) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.01)


def test_clusters_that_agree_count_once():
    """Each speaker's utterances are all alike: the interval is that of the speakers."""
    speakers = np.random.default_rng(2).standard_normal(15)
    x, names = np.repeat(speakers, 20), np.repeat(np.arange(15), 20)
    alone = bootstrap(np.mean, speakers, resamples=4000)
    clustered = bootstrap(np.mean, x, clusters=names.tolist(), resamples=4000)
    single = bootstrap(np.mean, x, resamples=4000)
    assert clustered.clusters == 15
    assert clustered.high - clustered.low == pytest.approx(alone.high - alone.low, rel=0.1)
    assert single.high - single.low < 0.5 * (clustered.high - clustered.low)


def test_a_seed_repeats(pair):
    assert bootstrap(correlation, *pair, resamples=50, seed=3) == bootstrap(correlation, *pair, resamples=50, seed=3)


def test_a_wider_level_is_wider(pair):
    narrow, wide = (bootstrap(correlation, *pair, level=level, resamples=500) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_one_cluster_has_no_interval():
    found = bootstrap(np.mean, [1.0, 3.0], clusters=["a", "a"])
    assert found.value == 2.0
    assert np.isnan(found.low)
    assert not found.covers_zero


def test_what_is_not_finite_is_counted():
    def maybe(x):
        return float(x.mean()) if x.max() > 0 else float("nan")

    found = bootstrap(maybe, np.array([0.0, 0.0, 1.0]), resamples=500)
    assert 0 < found.failed < 500
    assert np.isfinite(found.low)


def test_constants_have_no_width():
    found = bootstrap(np.mean, np.ones(9), method="bca", resamples=100)
    assert (found.low, found.value, found.high) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("arrays", "settings", "message"),
    [
        (([],), {}, "no items"),
        (([1.0, 2.0], [1.0]), {}, r"\[2, 1\] rows"),
        (([1.0, 2.0],), {"clusters": ["a"]}, r"\[2, 1\] rows"),
        (([1.0, 2.0],), {"level": 95}, "not percent"),
        (([1.0, 2.0],), {"method": "t"}, "expected 'percentile' or 'bca'"),
        (([1.0, 2.0],), {"resamples": 0}, "1 or more"),
    ],
)
def test_bad_input_is_named(arrays, settings, message):
    with pytest.raises(ValueError, match=message):
        bootstrap(np.mean, *arrays, **settings)
