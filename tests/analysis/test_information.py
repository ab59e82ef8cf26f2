"""Mutual information where it is known: all of it, none, and half."""

import numpy as np
import pytest

from flexicodec.analysis.coded import Coded
from flexicodec.analysis.information import boundary_information


def corpus(share, clips=40, frames=100):
    """Make tokens that start at half of the frames, and phones that start with a share of them and else anywhere."""
    random = np.random.default_rng(0)
    references, coded = [], []
    for _ in range(clips):
        starts = random.random(frames - 1) < 0.5
        phones = np.where(random.random(frames - 1) < share, starts, random.random(frames - 1) < 0.5)
        cuts = np.flatnonzero(starts) + 1
        references.append((np.flatnonzero(phones) + 1) * 0.08)
        coded.append(Coded(np.diff([0, *cuts, frames]), 0.08, frames * 0.08, max_duration=None))
    return references, coded


def test_tokens_that_are_the_phones_tell_all():
    found = boundary_information(*corpus(1.0))
    assert found.bits == pytest.approx(found.entropy, abs=1e-9)
    assert found.entropy == pytest.approx(1, abs=0.01)
    assert found.share > 0.95
    assert found.instants == 40 * 99


def test_tokens_that_are_not_tell_nothing():
    found = boundary_information(*corpus(0.0))
    assert found.bits < 0.01
    assert abs(found.share) < 0.005


def test_more_agreement_tells_more():
    shares = [boundary_information(*corpus(share)).share for share in (0.0, 0.4, 0.7, 1.0)]
    assert shares == sorted(shares)


def test_an_offset_that_is_wrong_costs():
    references, clips = corpus(1.0)
    moved = [times + 0.03 for times in references]
    assert boundary_information(moved, clips, offset=0.03).share > 0.95
    assert boundary_information([times + 0.08 for times in references], clips).share < 0.3


def test_without_references_there_is_nothing_to_tell():
    _, clips = corpus(1.0, clips=2)
    found = boundary_information([np.zeros(0)] * 2, clips)
    assert (found.bits, found.chance, found.share, found.instants) == (0.0, 0.0, 0.0, 0)
    with pytest.raises(ValueError, match="1 references for 2 clips"):
        boundary_information([np.zeros(0)], clips)
