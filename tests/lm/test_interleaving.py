"""Interleaved text: exact both ways, words and chunks by time, and wrong sequences refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexicodec import Tokens
from flexicodec.lm import Vocabulary, delayed_layout, make_layout
from flexicodec.lm.interleaving import chunk_counts, deinterleave, draw_spoken, interleave, word_counts
from tests.lm.drawn import FLEXI, tokens

VOCABULARY = Vocabulary(100, FLEXI)  # TEXT 104, END_TEXT 105, codes from 116, durations from 156
LAYOUT = make_layout("marked", VOCABULARY)
CLIP = Tokens([7, 9, 9], None, [2, 1, 3], None, FLEXI)


@given(data=st.data(), name=st.sampled_from(["marked", "paired", "frames", "fused"]))
@settings(max_examples=60, deadline=None)
def test_interleaving_is_undone(data, name):
    layout = make_layout(name, Vocabulary(100, FLEXI, fused=name == "fused"))
    clip = data.draw(tokens())
    texts = data.draw(st.lists(st.lists(st.integers(0, 99), max_size=4), min_size=1, max_size=5))
    cuts = sorted(data.draw(st.lists(st.integers(0, int(clip.token_lengths)), min_size=4, max_size=4)))
    bounds = [0, *cuts[: len(texts) - 1], int(clip.token_lengths)]
    counts = np.diff(bounds).tolist()
    assert deinterleave(layout, interleave(layout, clip, texts, counts)) == (texts, counts, clip)


def test_a_clip_by_hand():
    ids = interleave(LAYOUT, CLIP, [[1, 2], [], [3]], [1, 0, 2])
    assert ids.tolist() == [104, 1, 2, 105, 123, 157, 104, 105, 104, 3, 105, 125, 125, 158]


def test_one_modality_a_piece_by_hand():
    texts, counts = [[1], [2], [3], [4]], [1, 1, 0, 1]
    ids = interleave(LAYOUT, CLIP, texts, counts, [True, False, False, True])
    assert ids.tolist() == [123, 157, 104, 2, 3, 105, 125, 158]
    assert interleave(LAYOUT, CLIP, texts, counts, [False] * 4).tolist() == [104, 1, 2, 3, 4, 105]
    assert interleave(LAYOUT, CLIP, texts, counts, [True] * 4).tolist() == LAYOUT.encode(CLIP).tolist()


def test_spans_are_drawn_from_clip_epoch_and_seed():
    drawn = draw_spoken(20_000, "a", mean_words=5)
    assert drawn == draw_spoken(20_000, "a", mean_words=5)
    others = draw_spoken(20_000, "b", mean_words=5), draw_spoken(20_000, "a", 1, mean_words=5)
    assert all(0.45 < np.mean(np.array(drawn) == other) < 0.55 for other in others)
    assert 0.45 < np.mean(drawn) < 0.55
    spans = 1 + np.count_nonzero(np.diff(drawn))
    assert 20_000 / spans == pytest.approx(5, rel=0.1)
    assert draw_spoken(0, "a") == []


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([123, 104, 105], "position 0 holds id 123, which is code 7; expected TEXT before any token"),
        ([104, 1, 123], r"TEXT at positions \[0\], END_TEXT at \[\]; expected them in turns"),
        ([104, 104, 105, 105], "expected them in turns"),
        ([104, 1, 123, 105], "position 2 holds id 123, which is code 7; expected text or END_TEXT"),
        ([104, 105, 123, 104, 105, 157], "position 3 holds TEXT inside a token"),
        ([104, 105, 5], "holds id 5, which is text 5; expected code"),
        ([104, 105, 200], "position 2 holds id 200, which is outside the vocabulary"),
    ],
)
def test_wrong_sequences_are_refused(ids, message):
    with pytest.raises(ValueError, match=message):
        deinterleave(LAYOUT, ids)


def test_silence_goes_to_the_next_word_and_the_last_to_the_last():
    clip = Tokens([1, 2, 3, 4, 5], None, [2, 2, 4, 1, 8], None, FLEXI)  # middles at .08, .24, .48, .68, 1.04 s
    assert word_counts(clip, [0.1, 0.3, 0.6]) == [1, 1, 3]
    assert word_counts(clip, [0.02, 0.3, 0.3, 0.5]) == [0, 2, 0, 3]
    assert word_counts(clip, [0.01]) == [5]


@given(clip=tokens(), ends=st.lists(st.floats(0, 30), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_every_token_has_a_word(clip, ends):
    assert sum(word_counts(clip, sorted(ends))) == int(clip.token_lengths)


@given(clip=tokens(), num_frames=st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_chunks_reach_their_frames_with_the_last_token(clip, num_frames):
    counts = chunk_counts(clip, num_frames)
    assert sum(counts) == int(clip.token_lengths)
    durations = clip.durations[0].tolist()
    for number, count in enumerate(counts):
        chunk, durations = durations[:count], durations[count:]
        assert sum(chunk[:-1]) < num_frames
        assert sum(chunk) >= num_frames or number == len(counts) - 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: interleave(LAYOUT, CLIP, [[1]], [2]), "1 pieces of text and 1 counts that sum to 2 for 3 tokens"),
        (lambda: interleave(LAYOUT, CLIP, [[1], [2]], [4, -1]), "expected a count for each piece, 0 or more"),
        (lambda: interleave(LAYOUT, CLIP, [[100]], [3]), "piece 0 of the text has ids 100 to 100, expected 0 to 99"),
        (lambda: interleave(delayed_layout(VOCABULARY), CLIP, [[1]], [3]), "delayed rows have no ids for it"),
        (lambda: interleave(LAYOUT, CLIP, [[1]], [3], [True, False]), "spoken says 2 times .* expected 1"),
        (lambda: draw_spoken(3, "a", mean_words=0.5), "mean_words is 0.5"),
        (lambda: word_counts(CLIP, [0.5, 0.2]), "in the order of time"),
        (lambda: word_counts(CLIP, []), "seconds of one word or more"),
        (lambda: chunk_counts(CLIP, 0), "num_frames is 0"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
