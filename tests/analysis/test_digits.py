"""Digits that tell all, half and nothing of phones and of each other."""

import numpy as np
import pytest

from flexicodec.analysis.digits import study_digits

LEVELS = (4, 4)
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


def test_what_is_known_is_found():
    found = study_digits(*corpus()[:1], LEVELS, corpus()[1])
    assert found.entropies == pytest.approx((2, 2), abs=0.01)
    assert found.shared[0, 1] == pytest.approx(1, abs=0.01)
    assert found.phones == pytest.approx((2, 1), abs=0.01)
    assert max(found.chance) < 0.005
    assert found.phone_entropy == pytest.approx(2, abs=0.01)
    assert (found.tokens, found.spoken) == (4000, 4000)


def test_shuffled_phones_are_all_that_chance_makes():
    codes, phones = corpus(1, 200)
    random = np.random.default_rng(1)
    found = study_digits(codes, LEVELS, [random.permutation(phones[0]).tolist()], draws=50)
    assert found.phones == pytest.approx(found.chance, abs=0.06)
    assert found.chance[0] > 0.01  # 200 tokens seem to tell something


def test_stress_silence_and_words_without_spelling():
    codes = [np.array([0, 0, 1, 1, 2, 3])]
    found = study_digits(codes, LEVELS, [["AA1", "AA0", "S", "s", "sil", "spn"]], draws=1)
    assert (found.spoken, found.phone_entropy, found.phones[0]) == (4, 1.0, 1.0)


def test_clips_without_phones_count_for_digits_alone():
    codes, phones = corpus(2)
    half = study_digits(codes, LEVELS, [phones[0], None])
    assert (half.tokens, half.spoken) == (800, 400)
    none = study_digits(codes, LEVELS)
    assert (none.phones, none.chance, none.spoken) == ((), (), 0)
    assert np.isnan(none.phone_entropy)
    assert none.entropies == half.entropies


def test_a_constant_digit_tells_nothing():
    found = study_digits([np.zeros(9, int)], LEVELS, [["AA"] * 4 + ["S"] * 5])
    assert found.entropies == (0.0, 0.0)
    assert found.phones == (0.0, 0.0)


def test_a_label_for_each_token():
    with pytest.raises(ValueError, match="clip 1 has 2 codes but other labels"):
        study_digits([np.zeros(1, int), np.zeros(2, int)], LEVELS, [["S"], ["S"]])
    with pytest.raises(ValueError, match="code 16 is outside levels"):
        study_digits([np.array([16])], LEVELS)
