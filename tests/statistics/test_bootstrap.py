"""Bootstrap intervals: against scipy's, for clusters, for ratios on shared resamples, and at the edges."""

import numpy as np
import pytest
from scipy import stats

from flexicodec.statistics import Resamples, Sampling, bootstrap, num_speakers, pearson, speaker_clusters


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


def test_an_analysis_shares_its_settings(pair):
    settings = Sampling(resamples=50, level=0.8, seed=3)
    found = settings.interval(correlation, *pair, clusters=list(range(120)), method="bca")
    assert found == bootstrap(correlation, *pair, resamples=50, level=0.8, seed=3, method="bca")


def test_two_items_have_an_interval_without_a_warning():
    """Without either item a correlation is undefined, so there is no acceleration."""
    found = bootstrap(pearson, [0.0, 1.0], [0.0, 2.0], resamples=50, method="bca")
    assert (found.low, found.high) == (1.0, 1.0)
    assert found.failed > 0


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


# ------------------------------------------------------------------------------------------- ratios on shared resamples


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
    found = Resamples.sample(60, clusters, resamples=500, seed=3).ratio(*errors)
    assert (found.value, found.low, found.high) == pytest.approx((wanted.value, wanted.low, wanted.high))
    assert (found.items, found.clusters, found.failed) == (wanted.items, wanted.clusters, wanted.failed)


def test_paired_differences_are_those_of_bootstrap(errors):
    above, below = errors
    better = np.maximum(above - 1, 0)
    wanted = bootstrap(lambda a, b, n: (a.sum() - b.sum()) / n.sum(), above, better, below, resamples=500)
    found = Resamples.sample(60, resamples=500).difference(np.stack([above, better]), np.stack([below, below]))
    assert (found.value, found.low, found.high) == pytest.approx((wanted.value, wanted.low, wanted.high))
    assert not found.covers_zero


def test_a_difference_is_over_what_both_have():
    resamples = Resamples.sample(4, resamples=50)
    above = np.array([[1.0, 2.0, np.nan, 100.0], [1.0, 1.0, 50.0, 0.0]])
    below = np.array([[1.0, 1.0, np.nan, 1.0], [1.0, 1.0, 1.0, np.nan]])  # the last two are missing somewhere
    found = resamples.difference(above, below)
    assert found.value == pytest.approx(0.5)
    assert found.items == 2
    assert found.low >= 0
    assert found.high <= 1


def test_an_item_may_add_above_the_line_alone():
    resamples = Resamples.sample(3, resamples=50)
    above, below = np.array([1.0, 1.0, 2.0]), np.array([2.0, 2.0, 0.0])
    found = resamples.ratio(above, below)
    assert (found.value, found.items) == (1.0, 3)
    assert found.low < 1 < found.high
    absent = resamples.ratio(above, np.array([2.0, 2.0, np.nan]))
    assert (absent.value, absent.low, absent.high, absent.items) == (0.5, 0.5, 0.5, 2)
    assert np.isnan(resamples.ratio(above, np.zeros(3)).value)


def test_a_system_never_differs_from_itself(errors):
    above, below = errors
    found = Resamples.sample(60, resamples=100).difference(np.stack([above, above]), np.stack([below, below]))
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_resamples_without_any_item_that_counts_are_left_out_and_counted():
    found = Resamples.sample(5, resamples=400).ratio(np.array([2.0, 0, 0, 0, 0]), np.array([1.0, *[np.nan] * 4]))
    assert (found.value, found.low, found.high, found.items) == (2, 2, 2, 1)
    assert 0 < found.failed < 400  # about (4/5)^5 of them


def test_one_cluster_or_nothing_defined_gives_no_ends():
    one = Resamples.sample(3, ["s", "s", "s"]).ratio(np.ones(3), np.ones(3))
    assert one.value == 1
    assert np.isnan([one.low, one.high]).all()
    nothing = Resamples.sample(3, resamples=20).ratio(np.zeros(3), np.full(3, np.nan))
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()
    assert nothing.items == 0


def test_resamples_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="expected a cluster per item"):
        Resamples.sample(3, ["a"])
    with pytest.raises(ValueError, match="not percent"):
        Resamples.sample(3, level=95)
    with pytest.raises(ValueError, match="2 values for 3 items"):
        Resamples.sample(3, resamples=10).ratio(np.ones(2), np.ones(2))


# ----------------------------------------------------------------------------------------------------------- speakers


def test_a_clip_without_a_speaker_is_its_own_cluster():
    speakers = ["a", None, "a", "b", None, ""]
    assert speaker_clusters(speakers, range(6)) == ["speaker a", "clip 1", "speaker a", "speaker b", "clip 4", "clip 5"]
    assert num_speakers(speakers) == 2
    named = speaker_clusters(speakers, range(6))
    assert bootstrap(lambda each: each.mean(), range(6), clusters=named, resamples=10).clusters == 5


def test_a_speaker_and_a_clip_of_the_same_name_are_not_one():
    assert len(set(speaker_clusters(["a", "b", None], ["x", "y", "a"]))) == 3


@pytest.mark.parametrize("speakers", [[None, None], ["a", "a"], ["a", None], []])
def test_fewer_than_two_speakers_leave_clips(speakers):
    assert speaker_clusters(speakers, range(len(speakers))) is None


def test_every_clip_needs_an_id():
    with pytest.raises(ValueError, match="2 speakers and 1 ids"):
        speaker_clusters(["a", "b"], ["x"])
