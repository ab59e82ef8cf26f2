"""Who is fitted and who is tested."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexicodec.evaluation.probes import choose_clips, draw_hours, split_clips

law = settings(derandomize=True, deadline=None, max_examples=60)
LABELS = st.lists(st.sampled_from("aabbc"), min_size=4, max_size=40).map(lambda labels: labels + list("aabbcc"))


@law
@given(LABELS, st.floats(0.05, 0.95), st.integers(0, 3))
def test_every_label_is_on_both_sides(labels, share, seed):
    fitted, tested = split_clips(labels, test_share=share, seed=seed)
    assert sorted(fitted + tested) == list(range(len(labels)))
    assert {labels[i] for i in fitted} == {labels[i] for i in tested} == set("abc")
    for label, count in Counter(labels).items():
        assert abs(sum(labels[i] == label for i in tested) - share * count) <= 1
    assert split_clips(labels, test_share=share, seed=seed) == (fitted, tested)


@law
@given(st.lists(st.sampled_from(["f1", "f2", "f3", "m1", "m2", None]), min_size=5, max_size=40), st.integers(0, 3))
def test_speakers_are_on_one_side(speakers, seed):
    speakers = [*speakers, "f1", "f2", "m1", "m2"]
    labels = ["x" if speaker is None else speaker[0] for speaker in speakers]
    if Counter(labels)["x"] == 1:
        speakers, labels = [*speakers, None], [*labels, "x"]
    fitted, tested = split_clips(labels, speakers, test_share=0.3, seed=seed)
    assert sorted(fitted + tested) == list(range(len(labels)))
    assert not {speakers[i] for i in fitted} & {speakers[i] for i in tested} - {None}
    assert {labels[i] for i in tested} == {labels[i] for i in fitted} == set(labels)


def test_a_speaker_of_many_labels_is_on_one_side_too():
    speakers = [f"s{i % 5}" for i in range(100)]
    labels = [("happy", "sad", "angry")[i % 3] for i in range(100)]
    fitted, tested = split_clips(labels, speakers)
    assert len({speakers[i] for i in tested}) in (1, 2)
    assert not {speakers[i] for i in fitted} & {speakers[i] for i in tested}
    assert len(fitted) + len(tested) == 100


def test_what_cannot_be_on_both_sides():
    with pytest.raises(ValueError, match="labelled 'b' cannot be on both sides: each comes from one clip"):
        split_clips(list("aab"))
    with pytest.raises(ValueError, match="labelled 'b' cannot be .* one speaker"):
        split_clips(list("aabb"), ["s", "t", "u", "u"])
    with pytest.raises(ValueError, match="test_share is 20; expected a share"):
        split_clips(list("aabb"), test_share=20)


def test_rare_labels_are_left_out_and_common_ones_capped():
    labels = ["a"] * 10 + ["b"] * 3 + [None] * 5 + ["c"] * 2
    chosen = choose_clips(labels, min_clips=3, max_clips=4)
    assert Counter(labels[i] for i in chosen) == {"a": 4, "b": 3}
    assert chosen == sorted(set(chosen))
    assert chosen != choose_clips(labels, min_clips=3, max_clips=4, seed=1)
    assert choose_clips(labels) == [i for i, label in enumerate(labels) if label]


@law
@given(st.lists(st.floats(1.0, 20.0), min_size=1, max_size=60), st.floats(1e-3, 0.2), st.integers(0, 3))
def test_as_many_hours_as_asked(seconds, hours, seed):
    drawn = draw_hours(seconds, hours, seed)
    total = sum(seconds[i] for i in drawn)
    assert drawn == sorted(set(drawn))
    assert len(drawn) == len(seconds) or 3600 * hours <= total + 1e-6
    assert total - max(seconds[i] for i in drawn) < 3600 * hours
    assert draw_hours(seconds, None) == list(range(len(seconds)))


def test_no_hours():
    with pytest.raises(ValueError, match="hours is 0; expected more than 0"):
        draw_hours([1.0], 0)
