"""The number of hits is maximal, scores are exact for known boundaries, and chance agrees with theory."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexicodec.analysis.boundary_scores import (
    BoundaryScores,
    boundary_information,
    corrected,
    fit_offset,
    match,
    pool,
    reference_boundaries,
    score,
    score_clips,
    score_interval,
    score_null,
    score_tiers,
    split_and_fit_offset,
    split_by_speaker,
    tier_information,
)
from flexicodec.analysis.token_timeline import TokenTimeline
from flexicodec.corpus.alignments.alignment import Alignment, Segment, read_alignment, write_textgrid
from flexicodec.corpus.alignments.phones import tier_boundaries
from flexicodec.statistics import Sampling

QUICK = Sampling(resamples=300)
on_grid = st.lists(st.integers(0, 30), max_size=6).map(lambda ticks: np.array(sorted(ticks)) * 0.01)


def most_hits(reference, found, tolerance):
    """Try every pairing in any order."""
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
    reference = tier_boundaries(read_alignment(tmp_path / "a.TextGrid").phones, 0.4)
    coded = TokenTimeline(np.array([2, 1, 2]), 0.08, 0.4)
    found = score(reference, coded.boundaries(), 0.02)
    assert (found.hits, found.reference, found.found) == (2, 4, 2)
    assert (found.precision, found.recall, found.f1) == (1.0, 0.5, pytest.approx(2 / 3))
    moved = coded.boundaries(0.04)  # .20 .28: between two phone boundaries each
    assert score(reference, moved, 0.02).hits == 0
    assert score(reference, moved, 0.04).hits == 2


def test_perfect_and_zero_scores():
    times = np.array([0.1, 0.5, 0.9])
    perfect = score(times, times, 0.02)
    assert (perfect.f1, perfect.r_value, perfect.over_segmentation) == (1.0, 1.0, 0.0)
    nothing = score(times, times + 0.2, 0.02)
    assert (nothing.f1, nothing.precision, nothing.recall) == (0.0, 0.0, 0.0)


def test_r_value_is_the_published_formula():
    """With recall .8 and over-segmentation .25, as in O. Rasanen et al. (2009), equations 3 to 5."""
    found = BoundaryScores(hits=80, reference=100, found=125)
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
    scores = [BoundaryScores(1, 1, 1), BoundaryScores(0, 99, 9)]
    assert pool(scores) == BoundaryScores(1, 100, 10)
    assert pool([]).hits == 0


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
        clips.append(TokenTimeline(np.diff([0, *kept, 60]), 0.08, 4.8, max_duration=None))
    return references, clips


def test_intervals_hold_the_pooled_score(corpus):
    scores = score_clips(*corpus, 0.04)
    for measure in ("f1", "precision", "recall", "r_value", "over_segmentation"):
        found = score_interval(scores, measure, sampling=QUICK)
        assert found.value == getattr(pool(scores), measure)
        assert found.low < found.value < found.high
    clustered = score_interval(scores, clusters=["a", "b"] * 10, sampling=QUICK)
    assert clustered.clusters == 2


def test_even_and_random_tokens_score_less(corpus):
    scores = score_clips(*corpus, 0.02)
    for null in ("uniform", "random", "shuffled"):
        chance = score_null(null, *corpus, 0.02, draws=3)
        assert [s.reference for s in chance] == [(1 if null == "uniform" else 3) * s.reference for s in scores]
        gain = score_interval(scores, nulls=chance, sampling=QUICK)
        assert gain.value == pytest.approx(pool(scores).f1 - pool(chance).f1)
        assert gain.low > 0.2


def test_random_tokens_gain_nothing_over_random_tokens(corpus):
    references, clips = corpus
    random = np.random.default_rng(0)
    shuffled_clips = [clip.with_durations(random.permutation(clip.durations)) for clip in clips]
    scores = score_clips(references, shuffled_clips, 0.04)
    gain = score_interval(scores, nulls=score_null("shuffled", references, shuffled_clips, 0.04))
    assert gain.covers_zero


def test_chance_follows_from_density():
    """A boundary at each of 99 inner frames with chance 1/2 hits half of the references, and these a half of them."""
    random = np.random.default_rng(1)
    references = [np.flatnonzero(random.random(99) < 0.5) * 0.08 + 0.08 for _ in range(60)]
    clips = [
        TokenTimeline(
            np.diff([0, *(np.sort(random.choice(99, 49, replace=False)) + 1), 100]), 0.08, 8.0, max_duration=None
        )
        for _ in range(60)
    ]
    chance = pool(score_null("random", references, clips, 0.01, draws=4))
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


# ---- offset
def shifted_corpus(shift, clips=12):
    """Make tokens that start `shift` seconds before every phone."""
    random = np.random.default_rng(3)
    made = [np.sort(random.choice(np.arange(3, 60), 20, replace=False)) for _ in range(clips)]
    coded = [TokenTimeline(np.diff([0, *at, 63]), 0.08, 5.04, max_duration=None) for at in made]
    return [at * 0.08 + shift for at in made], coded


@pytest.mark.parametrize("shift", [-0.06, -0.015, 0.0, 0.03, 0.075])
def test_a_known_shift_is_found(shift):
    references, coded = shifted_corpus(shift)
    found = fit_offset(references, coded, tolerance=0.004)
    assert found.seconds == pytest.approx(shift)
    assert found.f1 == 1.0
    assert found.f1_without == pool(score_clips(references, coded, 0.004)).f1
    assert (found.clips, found.tolerance) == (12, 0.004)


def test_of_equals_the_one_nearest_to_0_is_taken():
    references, coded = shifted_corpus(0.03)
    assert fit_offset(references, coded, tolerance=0.02).seconds == pytest.approx(0.01)
    assert fit_offset([np.zeros(0)] * 12, coded).seconds == 0.0


def test_what_was_fitted_on_one_half_holds_on_the_other():
    references, coded = shifted_corpus(0.05, clips=30)
    fitted, scored = split_by_speaker([None] * 30)
    offset = fit_offset([references[i] for i in fitted], [coded[i] for i in fitted], tolerance=0.01)
    scores = score_clips([references[i] for i in scored], [coded[i] for i in scored], 0.01, offset.seconds)
    assert pool(scores).f1 == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_halves_share_nothing(seed):
    speakers = [f"s{i % 7}" for i in range(40)]
    fitted, scored = split_by_speaker(speakers, seed)
    assert sorted(fitted + scored) == list(range(40))
    assert not {speakers[i] for i in fitted} & {speakers[i] for i in scored}
    assert abs(len(fitted) - len(scored)) <= 6
    one_speaker = split_by_speaker(["a"] * 11, seed)
    assert sorted(map(len, one_speaker)) == [5, 6]


def test_no_clips_are_refused():
    with pytest.raises(ValueError, match="no clips"):
        fit_offset([], [])


# ---- information
def regular_corpus(share, clips=40, frames=100):
    """Make tokens that start at half of the frames, and phones that start with a share of them and else anywhere."""
    random = np.random.default_rng(0)
    references, coded = [], []
    for _ in range(clips):
        starts = random.random(frames - 1) < 0.5
        phones = np.where(random.random(frames - 1) < share, starts, random.random(frames - 1) < 0.5)
        cuts = np.flatnonzero(starts) + 1
        references.append((np.flatnonzero(phones) + 1) * 0.08)
        coded.append(TokenTimeline(np.diff([0, *cuts, frames]), 0.08, frames * 0.08, max_duration=None))
    return references, coded


def test_tokens_equal_to_phones_have_full_information():
    found = boundary_information(*regular_corpus(1.0))
    assert found.bits == pytest.approx(found.entropy, abs=1e-9)
    assert found.entropy == pytest.approx(1, abs=0.01)
    assert found.share > 0.95
    assert found.instants == 40 * 99


def test_unrelated_tokens_have_no_information():
    found = boundary_information(*regular_corpus(0.0))
    assert found.bits < 0.01
    assert abs(found.share) < 0.005


def test_more_agreement_is_more_information():
    shares = [boundary_information(*regular_corpus(share)).share for share in (0.0, 0.4, 0.7, 1.0)]
    assert shares == sorted(shares)


def test_an_offset_that_is_wrong_costs():
    references, clips = regular_corpus(1.0)
    moved = [times + 0.03 for times in references]
    assert boundary_information(moved, clips, offset=0.03).share > 0.95
    assert boundary_information([times + 0.08 for times in references], clips).share < 0.3


def test_without_references_there_is_no_information():
    _, clips = regular_corpus(1.0, clips=2)
    found = boundary_information([np.zeros(0)] * 2, clips)
    assert (found.bits, found.chance, found.share, found.instants) == (0.0, 0.0, 0.0, 0)
    with pytest.raises(ValueError, match="zip"):
        boundary_information([np.zeros(0)], clips)


# ---- agreement
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
        coded.append(TokenTimeline(durations, FRAME, float(edges[-1]), 8, audio))
        alignments.append(Alignment(phones, words))
    return coded, reference_boundaries(alignments, [clip.seconds for clip in coded])


def by_key(found):
    return {(one.tier, round(1000 * one.tolerance)): one for one in found}


@pytest.fixture(scope="module")
def exact():
    coded, references = clips()
    parts = split_and_fit_offset(references["phones"], [coded], None)
    return parts, by_key(score_tiers(references, coded, parts, draws=3, resamples=100))


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


def test_all_nulls_are_scored_at_the_main_tolerance(exact):
    _, found = exact
    assert len(found["phones", 40].nulls) == 6
    assert set(found["phones", 20].nulls) == {"uniform", "random"}
    for beside in found["phones", 40].nulls.values():
        assert beside.scores.f1 < 1
        assert beside.gain.value == pytest.approx(1 - beside.scores.f1)


@pytest.mark.parametrize("shift", [-0.05, 0.03])
def test_a_constant_shift_is_found_on_one_half_and_undone_on_the_other(shift):
    coded, references = clips(shift=shift)
    parts = split_and_fit_offset(references["phones"], [coded], None)
    assert parts.offset.f1 == pytest.approx(1.0, abs=0.03)
    assert parts.offset.seconds == pytest.approx(shift, abs=0.04)  # any offset within the tolerance is as good
    found = by_key(score_tiers(references, coded, parts, draws=1, resamples=20))
    assert found["phones", 40].scores.f1 == pytest.approx(1.0, abs=0.03)


def test_boundaries_inform_about_what_they_follow():
    coded, references = clips(40)
    parts = split_and_fit_offset(references["phones"], [coded], None)
    found = tier_information(references, coded, parts, draws=2)
    assert found["phones"].bits == pytest.approx(found["phones"].entropy)  # a start is a boundary, and no start is none
    assert found["phones"].share > 0.9
    assert 0 < found["words"].share < found["phones"].share


def test_one_offset_serves_all_settings():
    coded, references = clips(shift=0.03)
    twice = [clip.with_durations(np.repeat(1, clip.num_frames)) for clip in coded]
    assert split_and_fit_offset(references["phones"], [coded, twice], None).offset.clips == 2 * 6


def test_speakers_are_in_one_half_only():
    coded, references = clips()
    speakers = [f"s{i % 3}" for i in range(12)]
    parts = split_and_fit_offset(references["phones"], [coded], speakers)
    assert not {speakers[i] for i in parts.fitted} & {speakers[i] for i in parts.scored}


def test_random_tokens_gain_nothing():
    coded, references = clips(60)
    phones, random = {"phones": references["phones"]}, np.random.default_rng(9)
    shuffled = [clip.with_durations(random.permutation(clip.durations)) for clip in coded]
    parts = split_and_fit_offset(references["phones"], [shuffled], None)
    one = by_key(score_tiers(phones, shuffled, parts, draws=5, resamples=20))["phones", 40]
    assert abs(one.nulls["shuffled"].gain.value) < 0.05


def test_words_are_left_out_where_one_alignment_has_none():
    phones = [Segment(0, 0.5, "AA"), Segment(0.5, 1, "S")]
    both = [Alignment(phones, [Segment(0, 1, "ace")]), Alignment(phones)]
    assert list(reference_boundaries(both, [1.0, 1.0])) == ["phones", "syllables"]


def test_one_clip_is_not_enough():
    coded, references = clips(1)
    with pytest.raises(ValueError, match="two or more are needed to fit on one and score another"):
        split_and_fit_offset(references["phones"], [coded], None)
