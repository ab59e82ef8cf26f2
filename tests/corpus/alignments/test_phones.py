"""Segments, edges, silence, classes and closures."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexicodec.corpus.alignments.alignment import Alignment, Segment, label_at
from flexicodec.corpus.alignments.phones import (
    CLASSES,
    alphabet_of,
    count_as,
    fold_to_39,
    has_primary_stress,
    in_speech,
    is_silence,
    is_unknown,
    merge_closures,
    phone_class,
    phone_name,
    speech_before,
    speech_seconds,
    syllables,
    tier_boundaries,
    without_silence,
)

TIMIT_61 = (
    "iy ih eh ey ae aa aw ay ah ao oy ow uh uw ux er ax ix axr ax-h w y l r el m n ng em en eng nx s sh z zh f th v dh "
    "hh hv ch jh b d g p t k dx q bcl dcl gcl pcl tcl kcl h# pau epi"
).split()


ARPABET = (
    "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH"
).split()


def tier(*labels, each=0.1):
    return tuple(Segment(i * each, (i + 1) * each, label) for i, label in enumerate(labels))


@pytest.mark.parametrize(("start", "end"), [(1.0, 0.5), (-0.1, 0.5), (0.0, math.nan), (0.0, math.inf)])
def test_times_have_to_be_times(start, end):
    with pytest.raises(ValueError, match="was a duration given as the end"):
        Segment(start, end, "a")


def test_silence_is_silence_and_unknown_words_are_not():
    assert all(map(is_silence, ("", "sp", "SIL", "h#", "pau", "epi", " ")))
    assert not any(map(is_silence, ("spn", "S", "p", "AH0")))
    assert is_unknown("spn")
    assert not is_unknown("sp")
    assert (phone_class("spn"), phone_class("sp"), phone_class("printing")) == ("other", "silence", "other")


def test_every_phone_of_timit_and_cmudict_has_a_class():
    assert len(TIMIT_61) == 61
    assert "other" not in {phone_class(phone) for phone in TIMIT_61 + ARPABET}
    assert {phone_class(phone) for phone in TIMIT_61} == set(CLASSES) - {"other"}


@pytest.mark.parametrize(
    ("phone", "kind"),
    [("AH0", "vowel"), ("er1", "vowel"), ("W", "glide"), ("R", "liquid"), ("NG", "nasal"), ("HH", "fricative")]
    + [("JH", "affricate"), ("T", "stop"), ("tcl", "closure"), ("h#", "silence")],
)
def test_classes(phone, kind):
    assert phone_class(phone) == kind


BY_ALPHABET = {  # as its users write them: Kaldi, Buckeye, lexicons, MFA, MAUS
    "ARPAbet": {
        "vowel": "AH0_I AA1_B ER2_S aan ihn ern",
        "fricative": "SH_B DH_B S_S",
        "stop": "T_E tq D_B",
        "closure": "tcl_B",
        "silence": "SIL_S SIL sil_B <eps> !SIL [SIL] <s> SENT-START {B_TRANS} <p:> #",
        "other": "SPN_S SPN NSN LAU VOCNOISE IVER <usb> <nib> [noise] +SPN+ <unk>_S",
    },
    "IPA": {
        "vowel": 'ə ɝ aj aw ow ɔɪ iː ˈa ã u̯ ɑ̃ ɛ˞ aɪ̯ I @ { V 2: @U "aI 6 3: a~ y: Y Q',
        "glide": "j w ɥ jʷ H",
        "liquid": "l ɫ ɹ ɾ r ʎ lʲ r\\ l=",
        "nasal": "m n̩ ɲ ŋ mʲ N n= J",
        "fricative": "ʃ ç θ ð vʲ fʷ ʁ sː T D S Z C x h\\",
        "affricate": "tʃ dʒ t͡s ʧ tɕ tS dZ ts pf",
        "stop": "pʰ tʲ kʷ cʷ ɟ ʔ t̪ ɡ tː ? t_h b",
        "silence": "sil <p:> _",
        "other": "spn printing <usb>",
    },
}


@pytest.mark.parametrize("alphabet", BY_ALPHABET)
def test_labels_of_other_tools_have_classes(alphabet):
    for kind, labels in BY_ALPHABET[alphabet].items():
        found = {label: phone_class(label, alphabet) for label in labels.split()}
        assert found == dict.fromkeys(labels.split(), kind)
        assert all(is_unknown(label) == (kind == "other" and label != "printing") for label in found)


@pytest.mark.parametrize(
    ("labels", "alphabet"),
    [
        ("h# sh iy hv ae dcl y axr", "ARPAbet"),
        ("SIL_S D_B AH0_E K_B AE1_I T_E Y_B UW1_E", "ARPAbet"),
        ("SIL dh ahn tq VOCNOISE", "ARPAbet"),
        ("ð ə k æ t j ʉː", "IPA"),
        ("<p:> D @ k { t T I N V", "IPA"),
        ("T D sil", "ARPAbet"),
    ],
)
def test_the_alphabet_is_told_by_the_vowels(labels, alphabet):
    assert alphabet_of(labels.split()) == alphabet


def test_stress_and_names():
    assert [phone_name(label) for label in ("AH0", "SH_B", "AH0_I", " t ", "ax-h")] == ["ah", "sh", "ah", "t", "ax-h"]
    assert (phone_name("S", "IPA"), phone_name("s", "IPA"), phone_name("ˈa", "IPA")) == ("S", "s", "a")
    assert [has_primary_stress(label) for label in ("AH1", "AH1_B", "ˈa", "AH0", "1", "s1")] == [True] * 3 + [False] * 3


def test_61_phones_fold_to_39_classes():
    assert len({fold_to_39(phone) for phone in TIMIT_61} - {None}) == 39
    assert {fold_to_39(phone) for phone in ARPABET} < {fold_to_39(phone) for phone in TIMIT_61}
    assert (fold_to_39("AO1"), fold_to_39("zh"), fold_to_39("tcl"), fold_to_39("epi"), fold_to_39("q")) == (
        "aa",
        "sh",
        "sil",
        "sil",
        None,
    )


def test_other_alphabets_do_not_fold():
    with pytest.raises(ValueError, match="are the labels IPA"):
        fold_to_39("ʃ")


def test_closures_join_their_releases():
    merged = merge_closures(tier("h#", "bcl", "b", "aa", "tcl", "ch", "kcl", "h#", "dcl", "jh", "pcl"))
    assert [s.label for s in merged] == ["h#", "b", "aa", "ch", "k", "h#", "jh", "p"]
    assert (merged[1].start, merged[1].end) == (pytest.approx(0.1), pytest.approx(0.3))


def test_closures_join_only_what_follows_at_once():
    gap = (Segment(0.0, 0.1, "bcl"), Segment(0.2, 0.3, "b"))
    assert [s.label for s in merge_closures(gap)] == ["b", "b"]
    assert [s.label for s in merge_closures(tier("bcl", "d"))] == ["b", "d"]
    assert [s.label for s in merge_closures(tier("kcl", "tcl", "t"))] == ["k", "t"]


@given(st.lists(st.sampled_from(TIMIT_61), max_size=30))
@settings(derandomize=True, deadline=None)
def test_joining_loses_no_time_and_leaves_no_closure(labels):
    phones = tier(*labels)
    merged = merge_closures(phones)
    assert speech_seconds(merged) == pytest.approx(speech_seconds(phones))
    assert "closure" not in {phone_class(s.label) for s in merged}
    assert merge_closures(merged) == merged
    assert len(count_as(phones, "all")) >= len(count_as(phones, "speech")) >= len(count_as(phones, "merged"))


def test_ways_to_count():
    phones = tier("h#", "bcl", "b", "aa", "pau")
    assert [len(count_as(phones, way)) for way in ("all", "speech", "merged")] == [5, 3, 2]
    with pytest.raises(ValueError, match="expected one of all, speech, merged"):
        count_as(phones, "phones")


def test_edges_count_once_and_not_at_the_ends():
    phones = (Segment(0, 0.2, "a"), Segment(0.2, 0.5, "b"), Segment(0.5, 0.7, ""), Segment(0.8, 1.0, "c"))
    assert tier_boundaries(phones, 1.0).tolist() == [0.2, 0.5, 0.8]
    assert tier_boundaries(phones, 1.5).tolist() == [0.2, 0.5, 0.8, 1.0]
    assert tier_boundaries((), 1.0).tolist() == []
    assert tier_boundaries(tier("sp"), 1.0).tolist() == []


def test_edges_of_silences_between_silences_do_not_count():
    phones = tier("a", "sp", "", "sil", "b")
    assert tier_boundaries(phones, 1.0).tolist() == pytest.approx([0.1, 0.4, 0.5])


@given(st.lists(st.tuples(st.floats(0.01, 0.5), st.sampled_from(["a", "b", "", "sp"])), max_size=12))
@settings(derandomize=True, deadline=None)
def test_speech_adds_up(parts):
    ends = np.cumsum([length for length, _ in parts])
    phones = [Segment(float(e - n), float(e), label) for e, (n, label) in zip(ends, parts, strict=True)]
    total = float(ends[-1]) if len(ends) else 0.0
    grid = np.linspace(0, total + 1, 4001)
    flags = in_speech(phones, grid)
    assert flags.tolist() == [not is_silence(label) for label in label_at(phones, grid)]
    assert speech_before(phones, np.array([total + 1]))[0] == pytest.approx(speech_seconds(phones))
    assert flags.mean() * (total + 1) == pytest.approx(speech_seconds(phones), abs=0.03)
    assert speech_seconds(without_silence(phones)) == pytest.approx(speech_seconds(phones))


def test_labels_at_times():
    phones = (Segment(0.1, 0.2, "a"), Segment(0.2, 0.3, "b"))
    assert label_at(phones, np.array([0.0, 0.1, 0.2, 0.25, 0.3])) == ["", "a", "b", "b", ""]
    assert label_at((), np.array([0.5])) == [""]
    assert in_speech((), np.array([0.5])).tolist() == [False]


def test_a_stretch_counts_from_its_own_beginning():
    whole = Alignment(tier("a", "b", "c", "d", each=1.0), (Segment(0.0, 4.0, "word"),))
    part = whole.within(0.8, 2.6)
    assert [(s.start, s.end, s.label) for s in part.phones] == [
        (pytest.approx(0.2), pytest.approx(1.2), "b"),
        (pytest.approx(1.2), pytest.approx(1.8), "c"),
    ]
    assert [(s.start, s.end) for s in part.words] == [(0.0, pytest.approx(1.8))]
    assert Alignment(()).end == 0.0


# ---- syllables
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


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("ɛ k s t ɹ ə", ["ɛ k", "s t ɹ ə"]),
        ("k ə m pʲ j ʉː ɾ ɚ", ["k ə m", "pʲ j ʉː", "ɾ ɚ"]),
        ("b ɐ ʔ n̩", ["b ɐ", "ʔ n̩"]),
        ("k @ m p j u: t @", ["k @ m", "p j u:", "t @"]),
        ("S I N I N", ["S I N", "I N"]),
        ("AH0_B M_I AH1_E", ["AH0_B", "M_I AH1_E"]),
    ],
)
def test_words_in_other_alphabets(word, parts):
    assert [s.label for s in syllables(phones_of(word))] == parts


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
