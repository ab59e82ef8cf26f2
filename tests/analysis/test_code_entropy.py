"""Code lengths are as expected for codes that are uniform, that repeat, and that are constant."""

from dataclasses import replace

import numpy as np
import pytest

from flexicodec.analysis.code_entropy import flag_limit_bps, study_codes, study_digits
from flexicodec.token_format import TokenFormat
from flexicodec.tokens import Tokens

FORM = TokenFormat(semantic_codebook_size=64, acoustic_codebook_size=16, max_duration=4)


LEVELS = (8, 8)


def clips(semantic, acoustic, durations, form=FORM):
    """Tokens of several clips; each argument makes the integers of one."""
    random = np.random.default_rng(0)
    return [Tokens(semantic(random), acoustic(random), durations(random), format=form) for _ in range(20)]


def even(size, *shape):
    return lambda random: random.integers(0, size, size=shape)


def durations(random):
    return random.integers(1, 5, size=400)


@pytest.fixture(scope="module")
def study():
    return study_codes(clips(even(64, 400), even(16, 2, 400), durations), LEVELS, resamples=100)


def test_even_and_independent_codes_cost_their_fields(study):
    assert [(part.name, part.nominal) for part in study.parts] == [
        ("durations", 2),
        ("semantic", 6),
        ("acoustic 1", 4),
        ("acoustic 2", 4),
    ]
    for part in study.parts:
        assert part.coded[part.best].value == pytest.approx(part.nominal, rel=0.01)
        assert part.coded["alone"].value >= part.nominal - 0.01  # no model foresees what is random
        assert part.miller_madow == pytest.approx(part.nominal, rel=0.01)
    assert study.tokens == 8000
    assert study.parts[0].use is None
    assert study.parts[1].use.used == 64
    assert study.parts[2].use.perplexity == pytest.approx(16, rel=0.01)


def test_rates_are_bits_over_seconds(study):
    seconds = 20 * 400 * 2.5 * 0.08
    assert study.nominal_kbps.value == pytest.approx(8000 * 16 / seconds / 1000, rel=0.02)
    assert study.coded_kbps.value == pytest.approx(study.nominal_kbps.value, rel=0.01)
    assert study.coded_kbps.value <= study.nominal_kbps.value  # a part can always be stored as its field


def test_flags_and_lengths_without_memory_cost_the_same(study):
    flags = {name: interval.value for name, interval in study.flags_bps.items()}
    assert flags["2-bit lengths"] == pytest.approx(10.0, rel=0.02)  # 5 tokens per second
    assert flags["a flag per frame"] == pytest.approx(12.5, rel=0.01)
    assert flags["flags at their entropy"] == pytest.approx(flag_limit_bps(5, 12.5), rel=0.01)
    assert flags["flags, coded"] == pytest.approx(flags["lengths, coded"], rel=0.01)
    assert flags["lengths, coded"] < flags["flags at their entropy"]


def test_repeated_codes_cost_little_given_the_previous_token():
    walk = clips(
        lambda random: np.cumsum(random.integers(0, 2, size=400)) % 64,
        lambda random: np.cumsum(random.integers(0, 2, size=(1, 400)), axis=1) % 16,
        durations,
    )
    study = study_codes(walk, None, resamples=50)
    for part in study.parts[1:]:
        assert part.best == "after the last token's"
        assert part.coded[part.best].value == pytest.approx(1.0, abs=0.1)
        assert part.coded["alone"].value > 3.5


def test_digits_that_explain_each_other():
    def doubled(random):
        digit = random.integers(0, 8, size=400)
        return digit + 8 * digit

    semantic = study_codes(clips(doubled, even(16, 1, 400), durations), LEVELS, resamples=50).parts[1]
    assert semantic.coded["digits alone"].value == pytest.approx(6.0, abs=0.05)
    assert semantic.coded["digits, each after the one before"].value == pytest.approx(3.0, abs=0.1)


def test_a_constant_costs_next_to_nothing():
    study = study_codes(clips(lambda r: np.zeros(400, int), even(1, 1, 400), lambda r: np.full(400, 4)), LEVELS)
    assert study.coded_kbps.value < 0.002


def test_codecs_without_semantic_codes_or_cap():
    form = TokenFormat(semantic_codebook_size=None, acoustic_codebook_size=16, max_duration=None)
    study = study_codes(clips(lambda random: None, even(16, 1, 400), durations, form), resamples=50)
    assert [(part.name, part.nominal) for part in study.parts] == [("durations", None), ("acoustic 1", 4)]
    assert "a flag per frame" in study.flags_bps


def test_speakers_are_never_on_both_sides():
    """Every speaker has one code: only a model that was fitted to the speaker can predict it."""
    said = [Tokens(np.full(200, i // 2), np.zeros((1, 200), int), np.ones(200, int), format=FORM) for i in range(20)]
    speakers = [f"speaker {i // 2}" for i in range(20)]
    known = study_codes(said, None, resamples=20).parts[1].coded["alone"].value
    unknown = study_codes(said, None, clusters=speakers, resamples=20).parts[1].coded["alone"].value
    assert known < 5 < unknown


def test_the_limit_of_flags():
    assert flag_limit_bps(6.25, 12.5) == 12.5
    assert flag_limit_bps(12.5, 12.5) == 0.0
    with pytest.raises(ValueError, match="13 Hz on a grid of 12.5 Hz"):
        flag_limit_bps(13, 12.5)


def test_one_clip_is_not_enough():
    some = clips(even(64, 400), even(16, 1, 400), durations)
    with pytest.raises(ValueError, match="1 entries of 1 clips"):
        study_codes(some[:1])
    with pytest.raises(ValueError, match="2 entries of 1 clips or speakers"):
        study_codes(some[:2], clusters=["a", "a"])
    with pytest.raises(ValueError, match="each the tokens of one clip"):
        study_codes([Tokens.cat(some[:2]), some[2]])


def test_what_models_make_worse_costs_no_more_than_raw_flags():
    """Durations unlike those of all other clips: one clip of all 1s among clips of 4s, and vice versa."""

    def paced(i):
        each = [1] * 40 if i % 2 else [4] * 10
        return Tokens(None, np.zeros((1, len(each)), int), each, format=replace(FORM, semantic_codebook_size=None))

    study = study_codes([paced(0), paced(1)], resamples=20)
    flags = {name: interval.value for name, interval in study.flags_bps.items()}
    assert flags["flags, coded"] <= flags["a flag per frame"]
    assert flags["lengths, coded"] <= min(flags["a flag per frame"], flags["2-bit lengths"])
    assert study.parts[0].best in ("a flag per frame", "as its field")
    assert study.coded_kbps.value <= study.nominal_kbps.value


# ---- digits
DIGIT_LEVELS = (4, 4)


PHONES = np.array(["AA1", "S", "N", "T"])


def corpus(clips=10, tokens=400):
    """Make codes whose first digit is the phone and whose second has one bit of it, and the phones."""
    random = np.random.default_rng(0)
    codes, phones = [], []
    for _ in range(clips):
        said = random.integers(0, 4, tokens)
        codes.append(said + 4 * (2 * (said // 2) + random.integers(0, 2, tokens)))
        phones.append(PHONES[said].tolist())
    return codes, phones


def test_known_information_is_found():
    found = study_digits(*corpus()[:1], DIGIT_LEVELS, corpus()[1])
    assert found.entropies == pytest.approx((2, 2), abs=0.01)
    assert found.shared[0, 1] == pytest.approx(1, abs=0.01)
    assert found.phones == pytest.approx((2, 1), abs=0.01)
    assert max(found.chance) < 0.005
    assert found.phone_entropy == pytest.approx(2, abs=0.01)
    assert (found.tokens, found.spoken) == (4000, 4000)


def test_shuffled_phones_are_all_that_chance_makes():
    codes, phones = corpus(1, 200)
    random = np.random.default_rng(1)
    found = study_digits(codes, DIGIT_LEVELS, [random.permutation(phones[0]).tolist()], draws=50)
    assert found.phones == pytest.approx(found.chance, abs=0.06)
    assert found.chance[0] > 0.01  # 200 tokens seem to tell something


def test_stress_silence_and_words_without_spelling():
    codes = [np.array([0, 0, 1, 1, 2, 3])]
    found = study_digits(codes, DIGIT_LEVELS, [["AA1", "AA0", "S", "s", "sil", "spn"]], draws=1)
    assert (found.spoken, found.phone_entropy, found.phones[0]) == (4, 1.0, 1.0)


def test_clips_without_phones_count_for_digits_alone():
    codes, phones = corpus(2)
    half = study_digits(codes, DIGIT_LEVELS, [phones[0], None])
    assert (half.tokens, half.spoken) == (800, 400)
    none = study_digits(codes, DIGIT_LEVELS)
    assert (none.phones, none.chance, none.spoken) == ((), (), 0)
    assert np.isnan(none.phone_entropy)
    assert none.entropies == half.entropies


def test_a_constant_digit_has_no_information():
    found = study_digits([np.zeros(9, int)], DIGIT_LEVELS, [["AA"] * 4 + ["S"] * 5])
    assert found.entropies == (0.0, 0.0)
    assert found.phones == (0.0, 0.0)


def test_a_label_for_each_token():
    with pytest.raises(ValueError, match="clip 1 has 2 codes but other labels"):
        study_digits([np.zeros(1, int), np.zeros(2, int)], DIGIT_LEVELS, [["S"], ["S"]])
    with pytest.raises(ValueError, match="code 16 is outside levels"):
        study_digits([np.array([16])], DIGIT_LEVELS)
