"""Syllables by rule are those of a dictionary, where the rule is known to hold."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexicodec.analysis.segments import Segment, speech_seconds, syllables


def phones_of(text, each=0.1):
    return tuple(Segment(i * each, (i + 1) * each, label) for i, label in enumerate(text.split()))


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("K AE1 T", ["K AE1 T"]),
        ("B AH1 T ER0", ["B AH1", "T ER0"]),
        ("EH1 K S T R AH0", ["EH1 K", "S T R AH0"]),
        ("AE1 T L AH0 S", ["AE1 T", "L AH0 S"]),
        ("S IH1 NG IH0 NG", ["S IH1 NG", "IH0 NG"]),
        ("IH0 N S T R AH1 K SH AH0 N", ["IH0 N", "S T R AH1 K", "SH AH0 N"]),
        ("K R IY0 EY1 T", ["K R IY0", "EY1 T"]),
        ("K AH0 M P Y UW1 T ER0", ["K AH0 M", "P Y UW1", "T ER0"]),
        ("b ah dx el", ["b ah", "dx el"]),
        ("S T R EH1 NG K TH S", ["S T R EH1 NG K TH S"]),
        ("SH", ["SH"]),
    ],
)
def test_words(word, parts):
    assert [s.label for s in syllables(phones_of(word))] == parts


def test_closures_count_with_their_releases():
    assert [s.label for s in syllables(phones_of("bcl b ah tcl t er"))] == ["b ah", "t er"]


def test_they_stop_at_words_silences_and_what_is_unknown():
    phones = phones_of("AH0 S T AA1 sp R EH1 spn D")
    assert [s.label for s in syllables(phones)] == ["AH0", "S T AA1", "R EH1", "D"]
    words = (Segment(0.0, 0.2, "us"), Segment(0.2, 0.4, "to"), Segment(0.4, 0.5, ""), Segment(0.5, 0.7, "re"))
    assert [s.label for s in syllables(phones, words)] == ["AH0 S", "T AA1", "R EH1", "D"]


def test_a_phone_between_words_is_in_neither():
    words = (Segment(0.0, 0.2, "a"), Segment(0.3, 0.5, "b"))
    assert [s.label for s in syllables(phones_of("AH0 N M AH0 N"), words)] == ["AH0 N", "M", "AH0 N"]


def test_their_times_are_those_of_their_phones():
    found = syllables(phones_of("B AH1 T ER0"))
    assert [(s.start, s.end) for s in found] == [(0.0, 0.2), (0.2, pytest.approx(0.4))]
    assert syllables(()) == ()


@given(st.lists(st.sampled_from("AH0 IY1 T S R N NG sp K L".split()), max_size=40))
@settings(derandomize=True, deadline=None)
def test_every_phone_is_in_one_syllable_and_every_vowel_in_its_own(labels):
    phones = phones_of(" ".join(labels))
    found = syllables(phones)
    assert speech_seconds(found) == pytest.approx(speech_seconds(phones))
    assert " ".join(s.label for s in found).split() == [label for label in labels if label != "sp"]
    for syllable in found:
        assert sum(phone in ("AH0", "IY1") for phone in syllable.label.split()) <= 1
