"""Layouts: what is written is read back exactly, the ids are those of the specification, and wrong ids are refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexicodec import Tokens
from flexicodec.lm import Kind, Vocabulary, delayed_layout, make_layout
from flexicodec.lm.codes import Codes
from tests.lm.drawn import FLEXI, FORMATS, random_tokens, tokens

quick = settings(max_examples=25, deadline=None)


def layouts_of(format, num_codebooks, delays):
    """Every layout that a codec has."""
    made = []
    for name in ("marked", "paired", "frames", "fused"):
        if format.semantic_codebook_size is not None and (format.max_duration is not None or name == "frames"):
            made.append(make_layout(name, Vocabulary(100, format, 0, fused=name == "fused")))
    if format.max_duration is not None and (num_codebooks or format.semantic_codebook_size is not None):
        vocabulary = Vocabulary(100, format, num_codebooks)
        rows = (format.semantic_codebook_size is not None) + (format.max_duration != 1) + num_codebooks
        made += [make_layout("flat", vocabulary), delayed_layout(vocabulary, delays[:rows])]
    return made


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
@quick
@given(data=st.data())
def test_what_is_written_is_read_back(format, data):
    num_codebooks = data.draw(st.integers(format.semantic_codebook_size is None, 5))
    delays = data.draw(st.lists(st.integers(0, 4), min_size=7, max_size=7))
    clip = data.draw(tokens(format, num_codebooks))
    samples = [int(clip.frame_lengths) * format.frame_size]
    clip = Tokens(clip.semantic, clip.acoustic, clip.durations, samples, format)
    for layout in layouts_of(format, num_codebooks, delays):
        kept = clip.keep(layout.num_codebooks)
        rate_id = None if layout.is_delayed else layout.vocabulary.rate_id(6.25)
        assert layout.decode(layout.encode(kept), samples) == kept, layout.name
        assert layout.decode(layout.encode(kept, framed=True), samples) == kept, layout.name
        assert layout.decode(layout.encode(kept, framed=True, rate_id=rate_id).tolist(), samples) == kept, layout.name


@pytest.mark.parametrize("framed", [True, False])
@quick
@given(data=st.data())
def test_clips_side_by_side_are_each_clip_alone(framed, data):
    num_codebooks = data.draw(st.integers(0, 3))
    delays = data.draw(st.lists(st.integers(0, 3), min_size=5, max_size=5))
    clips = data.draw(st.lists(tokens(FLEXI, num_codebooks), min_size=1, max_size=4))
    for layout in layouts_of(FLEXI, num_codebooks, delays):
        parts = [Codes.of(clip.keep(layout.num_codebooks)) for clip in clips]
        together = Codes(
            np.concatenate([part.semantic for part in parts]),
            np.concatenate([part.durations for part in parts]),
            np.concatenate([part.acoustic for part in parts]),
            np.concatenate([part.counts for part in parts]),
        )
        ids, lengths = layout.arrange(together, framed)
        alone = [layout.encode(clip.keep(layout.num_codebooks), framed=framed).reshape(len(ids), -1) for clip in clips]
        assert np.array_equal(ids, torch.cat(alone, 1).numpy())
        assert lengths.tolist() == [each.shape[1] for each in alone]


VOCABULARY = Vocabulary(100, FLEXI)  # specials from 100, codes 116 to 155, durations 156 to 163
CLIP = Tokens([7, 9, 9], None, [2, 1, 3], None, FLEXI)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("marked", [123, 157, 125, 125, 158]),
        ("paired", [123, 157, 125, 156, 125, 158]),
        ("frames", [123, 102, 125, 125, 102, 102]),
        ("fused", [116 + 57, 116 + 72, 116 + 74]),
        ("flat", [123, 157, 125, 156, 125, 158]),
    ],
)
def test_a_clip_by_hand(name, expected):
    layout = make_layout(name, Vocabulary(100, FLEXI, fused=name == "fused"))
    assert layout.encode(CLIP).tolist() == expected
    framed = layout.encode(CLIP, framed=True, rate_id=layout.vocabulary.rate_id(6.0)).tolist()
    assert framed == [110, 100, *expected, 101]


def test_codebooks_by_hand():
    clip = Tokens([7, 9], [[1, 2], [3, 4]], [2, 1], None, FLEXI)
    vocabulary = Vocabulary(0, FLEXI, 2)  # codes from 16, durations from 56, codebooks from 64 and 80
    assert make_layout("flat", vocabulary).encode(clip).tolist() == [23, 57, 65, 83, 25, 56, 66, 84]
    layout = delayed_layout(vocabulary, [0, 0, 1, 2])
    assert layout.encode(clip).tolist() == [[7, 9, 40, 40], [1, 0, 8, 8], [16, 1, 2, 16], [16, 16, 3, 4]]
    assert layout.encode(clip, framed=True).tolist() == [
        [41, 7, 9, 42, 40],
        [8, 1, 0, 8, 8],
        [16, 16, 1, 2, 16],
        [16, 16, 16, 3, 4],
    ]


def test_equal_neighbours_stay_apart():
    layout = make_layout("frames", VOCABULARY)
    apart = Tokens([5, 5, 7], None, [2, 1, 3], None, FLEXI)
    joined = Tokens([5, 7], None, [3, 3], None, FLEXI)
    assert layout.encode(apart).tolist() != layout.encode(joined).tolist()


WRONG = [
    ("marked", [157, 123], "position 0 holds duration 2, behind no code"),
    ("marked", [123, 157, 158], "position 2 holds duration 3, behind no code"),
    ("marked", [123, 156], "position 1 holds duration 1, which marked does not write"),
    ("marked", [100, 123, 156], "position 2 holds duration 1"),
    ("marked", [123, 102], "position 1 holds id 102, which is CONTINUE; expected code"),
    ("marked", [123, 5], "position 1 holds id 5, which is text 5; expected code"),
    ("marked", [123, 164], r"position 1 holds id 164, which is outside the vocabulary \(0 to 163\)"),
    ("marked", [123, -1], "position 1 holds id -1, which is outside"),
    ("marked", [123, 101, 123], "position 1 holds END, expected 1 step before the end"),
    ("marked", [123, 101, 103], "cut ids behind the END"),
    ("marked", [123, 100], "position 1 holds id 100, which is START"),
    ("paired", [123, 157, 125], "3 ids, expected a multiple of 2 .code, duration.; the last token is not whole"),
    ("paired", [123, 123], "position 1 holds id 123, which is code 7; expected duration"),
    ("paired", [157, 123], "position 0 holds id 157, which is duration 2; expected code"),
    ("frames", [102, 123], "position 0 holds CONTINUE, expected the code"),
    ("frames", [100, 102], "position 1 holds CONTINUE"),
    ("frames", [123] + [102] * 8, "the token at position 0 lasts 9 frames, expected at most 8"),
    ("frames", [123, 157], "position 1 holds id 157, which is duration 2; expected code"),
    ("marked", [123.0], "type float64, expected integers; are these logits"),
    ("marked", [[123]], r"shape \[1, 1\], expected \[ids\] of one clip"),
]


@pytest.mark.parametrize(("name", "ids", "message"), WRONG)
def test_wrong_ids_are_refused(name, ids, message):
    with pytest.raises(ValueError, match=message):
        make_layout(name, VOCABULARY).decode(ids)


@pytest.mark.parametrize(
    ("row", "step", "id", "message"),
    [
        (0, 0, 40, "position 0 of the row of codes holds id 40; expected code .0 to 39"),
        (
            1,
            2,
            1,
            r"the row of durations holds id 1 before its 2 codes or behind them, expected holes \(8\): its delay is 0",
        ),
        (2, 0, 3, "row of acoustic 0s holds id 3 before its 2 codes"),
        (3, 3, 16, "position 3 of the row of acoustic 1s holds id 16; expected acoustic 1"),
    ],
)
def test_wrong_rows_are_refused(row, step, id, message):
    layout = delayed_layout(Vocabulary(0, FLEXI, 2), [0, 0, 1, 2])
    ids = layout.encode(random_tokens(0, 2, FLEXI, 2))
    ids[row, step] = id
    with pytest.raises(ValueError, match=message):
        layout.decode(ids)


def test_wrong_shapes_of_rows_are_refused():
    layout = delayed_layout(Vocabulary(0, FLEXI, 2), [0, 0, 1, 2])
    with pytest.raises(ValueError, match="3 rows of ids, expected 4: code, duration, acoustic 0, acoustic 1"):
        layout.decode(np.zeros((3, 5), int))
    with pytest.raises(ValueError, match="1 steps, expected at least 2, the largest delay"):
        layout.decode(np.zeros((4, 1), int))
    with pytest.raises(ValueError, match="expected one for each row, 0 or more: code, duration, acoustic 0"):
        delayed_layout(Vocabulary(0, FLEXI, 1), [0, 1])


@given(ids=st.lists(st.integers(-2, 170), max_size=12), name=st.sampled_from(["marked", "paired", "frames"]))
@settings(max_examples=150, deadline=None)
def test_any_ids_are_a_clip_or_refused(ids, name):
    layout = make_layout(name, VOCABULARY)
    try:
        clip = layout.decode(ids)
    except ValueError:
        return
    body = [id for id in ids if not 100 <= id < 116 or id == 102]
    assert layout.encode(clip).tolist() == body


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_layout("markd", VOCABULARY), "no layout 'markd'; there are marked"),
        (lambda: make_layout("fused", VOCABULARY), "fused needs Vocabulary.*fused=True"),
        (lambda: make_layout("marked", Vocabulary(0, FLEXI, fused=True)), "marked needs Vocabulary.*fused=False"),
        (
            lambda: make_layout("paired", Vocabulary(0, FORMATS["no cap"])),
            "max_duration of this codec is None; use fra",
        ),
        (lambda: make_layout("marked", Vocabulary(0, FORMATS["nanocodec"], 2)), "marked writes semantic codes"),
        (lambda: make_layout("marked", VOCABULARY).encode(Tokens.cat([CLIP, CLIP])), "2 clips; encode each"),
        (
            lambda: make_layout("marked", VOCABULARY).encode(random_tokens(0, 3, FLEXI, 2)),
            "2 acoustic codebooks and ma",
        ),
        (lambda: make_layout("flat", Vocabulary(0, FLEXI, 3)).encode(CLIP), "0 acoustic codebooks and flat writes 3"),
        (
            lambda: make_layout("marked", VOCABULARY).encode(Tokens([1], None, [1], None, FORMATS["no cap"])),
            "acoustic_codebook_size 4096 .unnamed model., the vocabulary's 16",
        ),
        (lambda: make_layout("marked", VOCABULARY).encode(CLIP, rate_id=107), "stands before START of a framed"),
        (
            lambda: make_layout("marked", VOCABULARY).encode(CLIP, framed=True, rate_id=6.25),
            "rate_id is 6.25, expected",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_kinds_of_a_clip():
    ids = make_layout("marked", VOCABULARY).encode(CLIP, framed=True).numpy()
    kinds = [Kind.SPECIAL, Kind.CODE, Kind.DURATION, Kind.CODE, Kind.CODE, Kind.DURATION, Kind.SPECIAL]
    assert VOCABULARY.kind_table[ids].tolist() == kinds
