"""Null codecs keep the number of tokens and the cap, and use only the information they are meant to."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexicodec.analysis.null_codecs import (
    NULLS,
    RANDOM_NULLS,
    RATE_NULLS,
    cut_by_similarity,
    uniform_durations,
    voice_activity_durations,
)
from flexicodec.analysis.token_timeline import TokenTimeline

RATE = 16_000
SIZE = 1280
CAPS = st.sampled_from([1, 2, 8, None])


@st.composite
def coded_clips(draw, cap=CAPS):
    """A clip with tokens of any durations and audio of any loudness, some of it silent."""
    limit = draw(cap)
    durations = draw(st.lists(st.integers(1, limit or 12), min_size=1, max_size=12))
    frames, random = sum(durations), np.random.default_rng(draw(st.integers(0, 99)))
    samples = frames * SIZE - draw(st.sampled_from([0, 1, 700, 1279]))
    loudness = np.repeat(random.choice([0.0, 1e-4, 0.3], frames), SIZE)[:samples]
    audio = (loudness * random.standard_normal(samples)).astype(np.float32)
    return TokenTimeline(np.array(durations), 0.08, samples / RATE, limit, audio)


@pytest.mark.parametrize("name", NULLS)
@given(clip=coded_clips())
@settings(derandomize=True, deadline=None, max_examples=25)
def test_as_many_tokens_in_every_clip(name, clip):
    made = clip.with_durations(NULLS[name](clip, np.random.default_rng(0)))  # checks sum and cap
    assert made.num_tokens == clip.num_tokens
    again = NULLS[name](clip, np.random.default_rng(0))
    assert again.tolist() == made.durations.tolist()


@pytest.mark.parametrize("name", RATE_NULLS)
@given(clips=st.lists(coded_clips(st.just(8)), min_size=1, max_size=5))
@settings(derandomize=True, deadline=None, max_examples=15)
def test_as_many_tokens_in_the_corpus(name, clips):
    made = RATE_NULLS[name](clips, np.random.default_rng(0))
    tokens = [clip.with_durations(durations).num_tokens for clip, durations in zip(clips, made, strict=True)]
    assert len(tokens) == len(clips)
    if name in ("uniform", "shuffled"):  # counts that have no steps, but for what clips need at least
        assert abs(sum(tokens) - sum(clip.num_tokens for clip in clips)) <= len(clips)


def corpus(seconds=8.0, count=12, seed=5):
    """Clips with one half loud and the other nearly silent, in turns of a second, and tokens of any durations."""
    random = np.random.default_rng(seed)
    clips = []
    for _ in range(count):
        frames = int(seconds / 0.08)
        loud = np.repeat(np.arange(int(seconds)) % 2 == 0, RATE) * 0.2 + 1e-5
        audio = (loud * random.standard_normal(len(loud))).astype(np.float32)
        starts = np.concatenate([[0], np.sort(random.choice(np.arange(1, frames), 49, replace=False)), [frames]])
        clips.append(TokenTimeline(np.diff(starts), 0.08, seconds, None, audio))
    return clips


@pytest.mark.parametrize("name", RATE_NULLS)
def test_clips_that_are_long_enough_meet_the_corpus_rate(name):
    clips = corpus()
    made = RATE_NULLS[name](clips, np.random.default_rng(0))
    assert sum(map(len, made)) == pytest.approx(50 * 12, abs=12)


def test_only_random_nulls_depend_on_the_generator():
    clip = corpus(count=1)[0]
    for name, null in NULLS.items():
        first, second = (null(clip, np.random.default_rng(seed)).tolist() for seed in (0, 1))
        assert (first != second) == (name in RANDOM_NULLS), name


def test_uniform_tokens_differ_by_a_frame_at_most():
    assert uniform_durations(10, 4).tolist() == [2, 3, 2, 3]
    assert np.ptp(NULLS["uniform"](corpus()[0], np.random.default_rng(0))) <= 1


def test_shuffled_tokens_are_the_same_ones():
    clip = corpus()[0]
    assert sorted(NULLS["shuffled"](clip, np.random.default_rng(0))) == sorted(clip.durations)


def test_random_tokens_are_anywhere():
    clip = corpus()[0]
    random = np.random.default_rng(0)
    starts = np.zeros(101)
    for _ in range(600):
        starts[np.cumsum(NULLS["random"](clip, random))[:-1]] += 1
    assert starts[1:100].mean() == pytest.approx(600 * 49 / 99)
    assert np.abs(starts[1:100] - 297).max() < 4.5 * np.sqrt(150)


def test_energy_cuts_where_it_gets_loud():
    """Steps of a second between loud and silent, of 8 frames of 0.125 s: cuts at these steps are certain."""
    random = np.random.default_rng(0)
    audio = (np.repeat(np.arange(8) % 2 == 0, RATE) * 0.2 * np.sin(np.arange(8 * RATE))).astype(np.float32)
    clip = TokenTimeline(np.full(8, 8), 0.125, 8.0, 8, audio)
    assert NULLS["energy"](clip, random).tolist() == [8] * 8
    assert NULLS["mel_cosine"](clip, random).tolist() == [8] * 8


def test_mel_cosine_cuts_where_the_spectrum_changes():
    """Tones of equal energy, which the energy null cannot separate."""
    random = np.random.default_rng(0)
    time = np.arange(8 * RATE) / RATE
    pitch = np.repeat([300, 2500, 700, 5000, 400, 3000, 900, 1800], RATE)
    audio = (0.1 * np.sin(2 * np.pi * pitch * time)).astype(np.float32)
    clip = TokenTimeline(np.full(8, 8), 0.125, 8.0, 8, audio)
    assert NULLS["mel_cosine"](clip, random).tolist() == [8] * 8


def test_voice_activity_spends_tokens_on_speech():
    active = np.array([True] * 10 + [False] * 16 + [True] * 10)
    assert voice_activity_durations(active, 14, 8).tolist() == [1, 2, 2, 1, 2, 2] + [8, 8] + [1, 2, 2, 1, 2, 2]
    assert voice_activity_durations(active, 5, 8).sum() == 36
    assert voice_activity_durations(active, 36, 8).tolist() == [1] * 36
    assert voice_activity_durations(active, 24, 8).tolist() == [1] * 10 + [4] * 4 + [1] * 10
    assert voice_activity_durations(active, 3, None).tolist() == [10, 16, 10]
    assert voice_activity_durations(active, 1, None).tolist() == [36]


def test_any_similarity_can_cut():
    clip = TokenTimeline(np.array([2, 2, 2]), 0.08, 0.48)
    assert cut_by_similarity(clip, np.array([0.9, 0.1, 0.9, 0.9, 0.2])).tolist() == [2, 3, 1]
    with pytest.raises(ValueError, match="4 similarities; expected 5"):
        cut_by_similarity(clip, np.zeros(4))


def test_nulls_that_use_the_audio_need_it():
    clip = TokenTimeline(np.array([2, 2, 2]), 0.08, 0.48)
    for name in ("energy", "mel_cosine", "voice_activity"):
        with pytest.raises(ValueError, match="make it with audio="):
            NULLS[name](clip, np.random.default_rng(0))
