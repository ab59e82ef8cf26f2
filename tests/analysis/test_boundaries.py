"""Hits are as many as can be, scores are exact where boundaries are known, and chance is what it should be."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexicodec.analysis.boundaries import (
    BoundaryScores,
    corrected,
    match,
    pool,
    score,
    score_clips,
    score_gain,
    score_interval,
    score_null,
)
from flexicodec.analysis.coded import Coded
from flexicodec.analysis.segments import Segment, edges, read_alignment, write_textgrid

on_grid = st.lists(st.integers(0, 30), max_size=6).map(lambda ticks: np.array(sorted(ticks)) * 0.01)


def most_hits(reference, found, tolerance):
    """Try every pairing, whatever the order."""
    few, many = sorted((list(reference), list(found)), key=len)
    best = 0
    for chosen in itertools.permutations(range(len(many)), len(few)):
        best = max(best, sum(abs(few[i] - many[j]) <= tolerance + 1e-9 for i, j in enumerate(chosen)))
    return best


@given(on_grid, on_grid, st.sampled_from([0.0, 0.01, 0.02, 0.04]))
@settings(derandomize=True, deadline=None, max_examples=80)
def test_no_pairing_has_more_hits(reference, found, tolerance):
    pairs = match(reference, found, tolerance)
    assert len(pairs) == most_hits(reference, found, tolerance)
    assert (np.diff(pairs, axis=0) > 0).all()  # one to one, and in order
    assert all(abs(reference[i] - found[j]) <= tolerance + 1e-9 for i, j in pairs)


@given(on_grid, on_grid, st.sampled_from([0.0, 0.02, 0.04]))
@settings(derandomize=True, deadline=None)
def test_sides_can_be_swapped_and_time_shifted(reference, found, tolerance):
    hits = len(match(reference, found, tolerance))
    assert len(match(found, reference, tolerance)) == hits
    assert len(match(reference + 5, found + 5, tolerance)) == hits
    assert len(match(reference, found, tolerance + 0.01)) >= hits


def test_a_tolerance_includes_its_end():
    assert len(match(np.array([0.08]), np.array([0.12]), 0.04)) == 1  # 0.12 - 0.08 is a little less than 0.04, or more
    assert len(match(np.array([0.56]), np.array([0.6]), 0.04)) == 1
    assert len(match(np.array([0.08]), np.array([0.1201]), 0.04)) == 0


def test_a_textgrid_with_known_boundaries_gives_exact_scores(tmp_path):
    """Phones every 80 ms against tokens on the grid: some merged, some off by 40 ms.

    phones   0 .08 .16 .24 .32 .40   -> boundaries .08 .16 .24 .32
    tokens   2 frames, 1, 2          -> boundaries .16 .24
    """
    phones = [Segment(0.08 * i, 0.08 * (i + 1), label) for i, label in enumerate("abcde")]
    write_textgrid(tmp_path / "a.TextGrid", {"phones": phones}, end=0.4)
    reference = edges(read_alignment(tmp_path / "a.TextGrid").phones, 0.4)
    coded = Coded(np.array([2, 1, 2]), 0.08, 0.4)
    found = score(reference, coded.boundaries(), 0.02)
    assert (found.hits, found.reference, found.found) == (2, 4, 2)
    assert (found.precision, found.recall, found.f1) == (1.0, 0.5, pytest.approx(2 / 3))
    moved = coded.boundaries(0.04)  # .20 .28: between two phone boundaries each
    assert score(reference, moved, 0.02).hits == 0
    assert score(reference, moved, 0.04).hits == 2


def test_perfect_and_hopeless():
    times = np.array([0.1, 0.5, 0.9])
    perfect = score(times, times, 0.02)
    assert (perfect.f1, perfect.r_value, perfect.over_segmentation) == (1.0, 1.0, 0.0)
    nothing = score(times, times + 0.2, 0.02)
    assert (nothing.f1, nothing.precision, nothing.recall) == (0.0, 0.0, 0.0)


def test_r_value_is_the_published_formula():
    """With recall .8 and over-segmentation .25, as in O. Rasanen et al. (2009), equations 3 to 5."""
    found = BoundaryScores(hits=80, reference=100, found=125, tolerance=0.02)
    r1 = math.sqrt(0.2**2 + 0.25**2)
    r2 = (0.8 - 1 - 0.25) / math.sqrt(2)
    assert found.over_segmentation == pytest.approx(0.8 / 0.64 - 1)
    assert found.r_value == pytest.approx(1 - (abs(r1) + abs(r2)) / 2)


def test_r_value_is_not_raised_by_more_boundaries():
    times = np.arange(1, 100) * 0.1
    everywhere = np.arange(1, 1000) * 0.01
    assert score(times, everywhere, 0.02).recall == 1.0
    assert score(times, everywhere, 0.02).r_value < 0 < score(times, times + 0.015, 0.02).r_value


def test_without_boundaries_scores_are_undefined():
    nothing, one = np.zeros(0), np.array([0.5])
    assert math.isnan(score(nothing, nothing, 0.02).f1)
    assert (score(one, nothing, 0.02).f1, score(nothing, one, 0.02).f1) == (0.0, 0.0)
    assert math.isnan(score(one, nothing, 0.02).precision)
    assert math.isnan(score(nothing, one, 0.02).r_value)


def test_counts_are_pooled_before_they_are_divided():
    scores = [BoundaryScores(1, 1, 1, 0.02), BoundaryScores(0, 99, 9, 0.02)]
    assert pool(scores, 0.02) == BoundaryScores(1, 100, 10, 0.02)
    assert pool([], 0.02).hits == 0
    with pytest.raises(ValueError, match="0.02 s and 0.04 s cannot be pooled"):
        pool([*scores, BoundaryScores(1, 1, 1, 0.04)], 0.02)
    with pytest.raises(ValueError, match="3 hits among 2 reference"):
        BoundaryScores(3, 2, 5, 0.02)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (np.array([0.2, 0.1]), "not in rising order"),
        (np.array([0.1, np.nan]), "not finite"),
        (np.array([[0.1]]), "shape"),
        (np.array([0.0, 1e6]), "were samples or ms given"),
    ],
)
def test_bad_times_are_named(times, message):
    with pytest.raises(ValueError, match=message):
        match(times, np.array([0.1]), 0.02)
    with pytest.raises(ValueError, match="found"):
        match(np.array([0.1]), times, 0.02)


def test_a_bad_tolerance_is_named():
    with pytest.raises(ValueError, match="tolerance is -1"):
        match(np.array([0.1]), np.array([0.1]), -1)


# --------------------------------------------------------------------------------------------------- over many clips


@pytest.fixture
def corpus():
    """Clips whose tokens start at 80 of 100 references, and at as many frames more."""
    random = np.random.default_rng(2)
    references, clips = [], []
    for _ in range(20):
        at = np.sort(random.choice(np.arange(1, 60), 20, replace=False))
        kept = np.unique(np.concatenate([at[random.random(20) < 0.8], random.choice(np.arange(1, 60), 3)]))
        references.append(at * 0.08)
        clips.append(Coded(np.diff([0, *kept, 60]), 0.08, 4.8, max_duration=None))
    return references, clips


def test_intervals_hold_the_pooled_score(corpus):
    scores = score_clips(*corpus, 0.04)
    for measure in ("f1", "precision", "recall", "r_value", "over_segmentation"):
        found = score_interval(scores, measure, resamples=300)
        assert found.value == getattr(pool(scores, 0.04), measure)
        assert found.low < found.value < found.high
    clustered = score_interval(scores, clusters=["a", "b"] * 10, resamples=300)
    assert clustered.clusters == 2


def test_even_and_random_tokens_score_less(corpus):
    scores = score_clips(*corpus, 0.02)
    for null in ("uniform", "random", "shuffled"):
        chance = score_null(null, *corpus, 0.02, draws=3)
        assert [s.reference for s in chance] == [(1 if null == "uniform" else 3) * s.reference for s in scores]
        gain = score_gain(scores, chance, resamples=300)
        assert gain.value == pytest.approx(pool(scores, 0.02).f1 - pool(chance, 0.02).f1)
        assert gain.low > 0.2


def test_random_tokens_gain_nothing_over_random_tokens(corpus):
    references, clips = corpus
    random = np.random.default_rng(0)
    drawn = [clip.with_durations(random.permutation(clip.durations)) for clip in clips]
    gain = score_gain(score_clips(references, drawn, 0.04), score_null("shuffled", references, drawn, 0.04))
    assert gain.covers_zero


def test_chance_is_what_density_says():
    """A boundary at each of 99 inner frames with chance 1/2 hits half of the references, and these a half of them."""
    random = np.random.default_rng(1)
    references = [np.flatnonzero(random.random(99) < 0.5) * 0.08 + 0.08 for _ in range(60)]
    clips = [
        Coded(np.diff([0, *(np.sort(random.choice(99, 49, replace=False)) + 1), 100]), 0.08, 8.0, max_duration=None)
        for _ in range(60)
    ]
    chance = pool(score_null("random", references, clips, 0.01, draws=4), 0.01)
    assert chance.precision == pytest.approx(0.5, abs=0.02)
    assert chance.recall == pytest.approx(49 / 99, abs=0.02)


def test_correction_puts_chance_at_0_and_perfection_at_1():
    assert (corrected(0.4, 0.4), corrected(1.0, 0.4), corrected(0.7, 0.4)) == (0.0, 1.0, pytest.approx(0.5))
    assert math.isnan(corrected(1.0, 1.0))


def test_bad_calls_are_named(corpus):
    references, clips = corpus
    with pytest.raises(ValueError, match="19 references for 20 clips"):
        score_clips(references[1:], clips, 0.04)
    with pytest.raises(ValueError, match="null is 'even'; expected one of uniform"):
        score_null("even", references, clips, 0.04)
    with pytest.raises(ValueError, match="there are no scores"):
        score_interval([])
