"""Boundaries of codecs that cut at phones, beside them, or nowhere near, on made-up clips."""

import numpy as np
import pytest

from flexicodec.analysis.agreement import fit_halves, inform, references_of, score_setting
from flexicodec.analysis.coded import Coded
from flexicodec.analysis.segments import Alignment, Segment

FRAME = 0.08
TIERS = ("phones", "syllables", "words")


def clips(count=12, shift=0.0, seed=0):
    """Phones of one to five frames and tokens that are the phones; the phones are shifted in time by some seconds."""
    random = np.random.default_rng(seed)
    coded, alignments = [], []
    for _ in range(count):
        durations = random.integers(1, 6, size=20)
        edges = np.concatenate([[0], np.cumsum(durations)]) * FRAME
        times = np.clip(edges + shift, 0, edges[-1])
        phones = [Segment(times[i], times[i + 1], ("S", "AA1", "T", "IY0")[i % 4]) for i in range(20)]
        words = [Segment(phones[i].start, phones[i + 4].end, f"word{i}") for i in range(0, 20, 5)]
        audio = random.standard_normal(int(round(edges[-1] * 16_000))).astype(np.float32)
        coded.append(Coded(durations, FRAME, float(edges[-1]), 8, audio))
        alignments.append(Alignment(phones, words))
    return coded, references_of(alignments, [clip.seconds for clip in coded])


def by_key(found):
    return {(one.tier, round(1000 * one.tolerance)): one for one in found}


@pytest.fixture(scope="module")
def exact():
    coded, references = clips()
    parts = fit_halves(references["phones"], [coded], None)
    return parts, by_key(score_setting(references, coded, parts, draws=3, resamples=100))


def test_tokens_that_are_phones_are_perfect(exact):
    parts, found = exact
    assert parts.offset.seconds == 0
    assert found.keys() == {(tier, tolerance) for tier in TIERS for tolerance in (20, 40, 60)}
    for tolerance in (20, 40, 60):
        one = found["phones", tolerance]
        assert [measure.value for measure in one.measures.values()] == [1.0] * 4
        assert one.measures["f1"].low == 1.0
        assert one.nulls["random"].corrected == 1.0
        assert one.nulls["random"].gain.low > 0.1


def test_halves_share_no_clip_and_only_one_is_scored(exact):
    parts, found = exact
    assert sorted(parts.fitted + parts.scored) == list(range(12))
    assert found["phones", 40].scores.found == 19 * len(parts.scored)


def test_words_are_found_too_but_among_other_boundaries(exact):
    one = exact[1]["words", 40]
    assert one.measures["recall"].value == 1.0
    assert one.measures["precision"].value == pytest.approx(3 / 19)
    assert one.scores.over_segmentation > 4


def test_all_nulls_stand_beside_the_main_tolerance(exact):
    _, found = exact
    assert len(found["phones", 40].nulls) == 6
    assert set(found["phones", 20].nulls) == {"uniform", "random"}
    for beside in found["phones", 40].nulls.values():
        assert beside.scores.f1 < 1
        assert beside.gain.value == pytest.approx(1 - beside.scores.f1)


@pytest.mark.parametrize("shift", [-0.05, 0.03])
def test_a_constant_shift_is_found_on_one_half_and_undone_on_the_other(shift):
    coded, references = clips(shift=shift)
    parts = fit_halves(references["phones"], [coded], None)
    assert parts.offset.f1 == pytest.approx(1.0, abs=0.03)
    assert parts.offset.seconds == pytest.approx(shift, abs=0.04)  # any offset within the tolerance is as good
    found = by_key(score_setting(references, coded, parts, draws=1, resamples=20))
    assert found["phones", 40].scores.f1 == pytest.approx(1.0, abs=0.03)


def test_boundaries_inform_about_what_they_follow():
    coded, references = clips(40)
    parts = fit_halves(references["phones"], [coded], None)
    found = inform(references, coded, parts, draws=2)
    assert found["phones"].bits == pytest.approx(found["phones"].entropy)  # a start is a boundary, and no start is none
    assert found["phones"].share > 0.9
    assert 0 < found["words"].share < found["phones"].share


def test_one_offset_serves_all_settings():
    coded, references = clips(shift=0.03)
    twice = [clip.with_durations(np.repeat(1, clip.num_frames)) for clip in coded]
    assert fit_halves(references["phones"], [coded, twice], None).offset.clips == 2 * 6


def test_speakers_stand_in_one_half_only():
    coded, references = clips()
    speakers = [f"s{i % 3}" for i in range(12)]
    parts = fit_halves(references["phones"], [coded], speakers)
    assert not {speakers[i] for i in parts.fitted} & {speakers[i] for i in parts.scored}


def test_random_tokens_gain_nothing():
    coded, references = clips(60)
    phones, random = {"phones": references["phones"]}, np.random.default_rng(9)
    shuffled = [clip.with_durations(random.permutation(clip.durations)) for clip in coded]
    parts = fit_halves(references["phones"], [shuffled], None)
    one = by_key(score_setting(phones, shuffled, parts, draws=5, resamples=20))["phones", 40]
    assert abs(one.nulls["shuffled"].gain.value) < 0.05


def test_words_are_left_out_where_one_alignment_has_none():
    phones = [Segment(0, 0.5, "AA"), Segment(0.5, 1, "S")]
    both = [Alignment(phones, [Segment(0, 1, "ace")]), Alignment(phones)]
    assert list(references_of(both, [1.0, 1.0])) == ["phones", "syllables"]


def test_one_clip_is_not_enough():
    coded, references = clips(1)
    with pytest.raises(ValueError, match="two or more are needed to fit on one and score another"):
        fit_halves(references["phones"], [coded], None)
