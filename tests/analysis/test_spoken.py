"""Counts of clips are exact."""

import numpy as np
import pytest

from flexicodec.analysis.coded import Coded
from flexicodec.analysis.segments import Segment
from flexicodec.analysis.sound import Controls
from flexicodec.analysis.spoken import SpokenClip, count_rates, null_clips
from tests.analysis.simulated import following, spoken_clips, with_audio

PHONES = (
    Segment(0.0, 0.4, "sil"),
    Segment(0.4, 0.5, "HH"),
    Segment(0.5, 0.8, "AH0"),
    Segment(0.8, 1.0, "L"),
    Segment(1.0, 1.2, "OW1"),
    Segment(1.2, 2.0, ""),
)
WORDS = (Segment(0.4, 1.2, "hello"),)
CODED = Coded(np.array([5, 1, 4, 3, 2, 8, 2]), 0.08, 2.0)  # middles .2 .44 .64 .92 1.12 1.52 1.92


def test_counts_are_exact():
    controls = Controls(-20.0, 5.0, 0.7)
    found = count_rates(SpokenClip("a", CODED, PHONES, WORDS, "s", "SX1", controls))
    assert (found.phones, found.syllables, found.words, found.unknown) == (4, 2, 1, 0)
    assert (found.tokens, found.speech_tokens) == (7, 4)
    assert (found.seconds, found.speech_seconds) == (2.0, pytest.approx(0.8))
    assert found.silence_share == pytest.approx(0.6)
    assert (found.log_energy_mean, found.log_energy_std, found.voiced_share) == (-20.0, 5.0, 0.7)
    assert (found.id, found.speaker, found.sentence) == ("a", "s", "SX1")
    assert found.windows == pytest.approx(np.array([[3, 4, 0.6], [1, 3, 0.2]]))


def test_windows_hold_what_is_in_them_and_the_rest_is_in_none():
    found = count_rates(SpokenClip("a", CODED, PHONES), window_seconds=0.8)
    assert found.windows[:, 0].tolist() == [2, 2]  # of 2.0 s, 0.4 remain
    assert count_rates(SpokenClip("a", CODED, PHONES), window_seconds=3.0).windows.shape == (0, 3)


def test_silences_count_where_they_are_asked_to():
    clip = SpokenClip("a", CODED, PHONES)
    assert [count_rates(clip, counting=way).phones for way in ("all", "speech", "merged")] == [6, 4, 4]
    with pytest.raises(ValueError, match="expected one of all, speech, merged"):
        count_rates(clip, counting="some")


def test_an_offset_moves_tokens_into_speech():
    assert count_rates(SpokenClip("a", CODED, PHONES), offset=0.25).speech_tokens == 4
    assert count_rates(SpokenClip("a", CODED, PHONES), offset=0.9).speech_tokens == 1


def test_unknown_words_are_no_phones_but_are_counted():
    phones = (Segment(0.0, 0.5, "AH0"), Segment(0.5, 1.0, "spn"), Segment(1.0, 1.5, "T"))
    found = count_rates(SpokenClip("a", CODED, phones))
    assert (found.phones, found.unknown) == (2, 1)


def test_a_number_of_phones_is_enough_where_there_is_sound():
    random = np.random.default_rng(0)
    audio = np.concatenate([np.zeros(16000), 0.1 * random.standard_normal(16000)]).astype(np.float32)
    found = count_rates(SpokenClip("a", Coded(np.full(25, 1), 0.08, 2.0, 8, audio), 12))
    assert (found.phones, found.tokens, found.syllables, found.words, found.windows) == (12, 25, None, None, None)
    assert found.speech_seconds == pytest.approx(1.0, abs=0.08)
    assert found.speech_tokens == pytest.approx(12, abs=1)
    with pytest.raises(ValueError, match="make it with audio="):
        count_rates(SpokenClip("a", CODED, 12))


def test_null_tokens_keep_all_else():
    random = np.random.default_rng(0)
    clips = [with_audio(clip, random) for clip in spoken_clips(random, 5, following, noise=0.2)]
    own = [count_rates(clip) for clip in clips]
    for name in ("uniform", "shuffled", "energy"):
        drawn = [count_rates(clip) for clip in null_clips(clips, name, per_clip=True)]
        assert [(c.id, c.phones, c.tokens, c.speech_seconds) for c in drawn] == [
            (c.id, c.phones, c.tokens, c.speech_seconds) for c in own
        ]
        corpus = [count_rates(clip) for clip in null_clips(clips, name, per_clip=False)]
        assert sum(c.tokens for c in corpus) == pytest.approx(sum(c.tokens for c in own), abs=5)
    with pytest.raises(ValueError, match="null is 'even'"):
        null_clips(clips, "even", per_clip=True)
