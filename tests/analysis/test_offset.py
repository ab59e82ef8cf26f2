"""A known shift is found, and halves share no speaker."""

import numpy as np
import pytest

from flexicodec.analysis.boundaries import pool, score_clips
from flexicodec.analysis.coded import Coded
from flexicodec.analysis.offset import fit_offset, halves


def corpus(shift, clips=12):
    """Make tokens that start `shift` seconds before every phone."""
    random = np.random.default_rng(3)
    made = [np.sort(random.choice(np.arange(3, 60), 20, replace=False)) for _ in range(clips)]
    coded = [Coded(np.diff([0, *at, 63]), 0.08, 5.04, max_duration=None) for at in made]
    return [at * 0.08 + shift for at in made], coded


@pytest.mark.parametrize("shift", [-0.06, -0.015, 0.0, 0.03, 0.075])
def test_a_known_shift_is_found(shift):
    references, coded = corpus(shift)
    found = fit_offset(references, coded, tolerance=0.004)
    assert found.seconds == pytest.approx(shift)
    assert found.f1 == 1.0
    assert found.f1_without == pool(score_clips(references, coded, 0.004), 0.004).f1
    assert (found.clips, found.tolerance) == (12, 0.004)


def test_of_equals_the_one_nearest_to_0_is_taken():
    references, coded = corpus(0.03)
    assert fit_offset(references, coded, tolerance=0.02).seconds == pytest.approx(0.01)
    assert fit_offset([np.zeros(0)] * 12, coded).seconds == 0.0


def test_what_was_fitted_on_one_half_holds_on_the_other():
    references, coded = corpus(0.05, clips=30)
    fitted, scored = halves([None] * 30)
    offset = fit_offset([references[i] for i in fitted], [coded[i] for i in fitted], tolerance=0.01)
    scores = score_clips([references[i] for i in scored], [coded[i] for i in scored], 0.01, offset.seconds)
    assert pool(scores, 0.01).f1 == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_halves_share_nothing(seed):
    speakers = [f"s{i % 7}" for i in range(40)]
    fitted, scored = halves(speakers, seed)
    assert sorted(fitted + scored) == list(range(40))
    assert not {speakers[i] for i in fitted} & {speakers[i] for i in scored}
    assert abs(len(fitted) - len(scored)) <= 6
    one_speaker = halves(["a"] * 11, seed)
    assert sorted(map(len, one_speaker)) == [5, 6]


def test_no_clips_are_refused():
    with pytest.raises(ValueError, match="no clips"):
        fit_offset([], [])
