"""Pronunciations by spelling rules."""

import pytest

from flexicodec.corpus.alignments.spelling import RULES, add_suffix, spell_out


@pytest.mark.parametrize(
    ("word", "phones"),
    [
        ("angor", "AE NG AO R"),
        ("andella", "AE N D EH L AE"),
        ("thrate", "TH R AE T"),
        ("phish", "F IH SH"),
        ("o'dow", "AA D OW"),
        ("quex", "K W EH K S"),
        ("bb", "B"),
    ],
)
def test_words_are_spelled_by_the_longest_rule(word, phones):
    assert spell_out(word) == phones


def test_every_letter_has_a_rule():
    assert {chr(code) for code in range(ord("a"), ord("z") + 1)} <= set(RULES)
    assert all(phone.isupper() for phones in RULES.values() for phone in phones.split())


@pytest.mark.parametrize(
    ("phones", "suffix", "whole"),
    [
        ("K AE T", "s", "K AE T S"),
        ("D AO G", "'s", "D AO G Z"),
        ("HH AO R S", "'s", "HH AO R S IH Z"),
        ("W AA N T", "ed", "W AA N T IH D"),
        ("P AE S", "ed", "P AE S T"),
        ("P L EY", "ed", "P L EY D"),
        ("P L EY", "ing", "P L EY IH NG"),
    ],
)
def test_suffixes_follow_the_sound_before_them(phones, suffix, whole):
    assert add_suffix(phones, suffix) == whole


def test_other_letters_are_refused():
    with pytest.raises(ValueError, match="'naïve' has other characters"):
        spell_out("naïve")
