"""The linear probe: labels with and without information in the vectors, selection and splitting of clips."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score

from flexicodec.evaluation.probes import (
    ClassifyProbeConfig,
    Representation,
    choose_clips,
    extract,
    probe_classify,
    sample_hours,
    split_clips,
)
from flexicodec.evaluation.probes.classification import _means

BOUND = Representation(continuous=True)
CONFIG = ClassifyProbeConfig(resamples=200)

law = settings(derandomize=True, deadline=None, max_examples=60)
LABELS = st.lists(st.sampled_from("aabbc"), min_size=4, max_size=40).map(lambda labels: labels + list("aabbcc") * 3)


def sides(clips, labels, speakers=None):
    """Split clips, with their labels."""
    parts = split_clips(labels, speakers)
    return [[each[i] for i in part] for part in parts for each in (clips, labels)]


def test_labels_that_vectors_hold_are_predicted(tone_codec, tone_clips):
    labels = ["d" if "d" in clip.text else "no d" for clip in tone_clips]
    (result,) = probe_classify(tone_codec, *sides(tone_clips, labels), [BOUND], CONFIG)
    right = [row.guess == row.label for row in result.guesses]
    expected = balanced_accuracy_score([row.label for row in result.guesses], [row.guess for row in result.guesses])
    assert result.accuracy.value == pytest.approx(np.mean(right))
    assert result.balanced.value == pytest.approx(expected)
    assert result.accuracy.value >= 0.9
    assert (result.classes, result.unseen, result.unlabelled) == (2, 0, (0, 0))
    assert result.fitted + len(result.guesses) == len(tone_clips)


def test_labels_that_vectors_do_not_hold_are_predicted_at_chance(tone_codec, tone_clips, tmp_path):
    clips, found = [replace(clip, speaker=None) for clip in tone_clips], []
    for seed in range(4):
        labels = np.random.default_rng(seed).choice(["heads", "tails"], len(tone_clips)).tolist()
        (result,) = probe_classify(tone_codec, *sides(clips, labels), [BOUND], CONFIG, cache=tmp_path)
        found.append(result.balanced.value)
        assert result.accuracy.clusters == len(result.guesses)  # without speakers, clips are resampled
    assert np.mean(found) == pytest.approx(0.5, abs=0.15)  # of a hundred guesses


def test_chance_is_the_commonest_label_and_intervals_are_of_speakers(tone_codec, tone_clips):
    labels = ["long" if len(clip.text) > 2 else "short" for clip in tone_clips]
    (result,) = probe_classify(tone_codec, *sides(tone_clips, labels), [BOUND], CONFIG)
    assert result.chance == np.mean([row.label == "long" for row in result.guesses])
    assert result.accuracy.clusters == 3
    assert result.accuracy.low <= result.accuracy.value <= result.accuracy.high


def test_results_repeat_and_the_callers_random_state_stays(tone_codec, tone_clips, tmp_path):
    given = sides(tone_clips, [clip.speaker for clip in tone_clips])
    state = np.random.get_state()[1].tolist()
    first, again = (probe_classify(tone_codec, *given, [BOUND], CONFIG, cache=tmp_path) for _ in range(2))
    assert first == again
    assert np.random.get_state()[1].tolist() == state


def test_a_mean_over_frames_is_that_of_repeated_vectors(tone_codec, tone_clips):
    (features,) = extract(tone_codec, tone_clips[:5], [Representation(frame_rate=6.25)])
    frames = _means(features, CONFIG)
    tokens = _means(features, replace(CONFIG, spread="tokens", log_durations=False))
    for i, (values, durations) in enumerate(zip(features.values, features.durations, strict=True)):
        values = values.astype(float)
        assert np.allclose(frames[i, :-1], np.repeat(values, durations, axis=0).mean(0))
        assert frames[i, -1] == pytest.approx(np.repeat(np.log(durations), durations).mean())
        assert np.allclose(tokens[i], values.mean(0))


def test_clips_without_a_known_label_are_counted(tone_codec, tone_clips):
    labels = ["a" if "a" in clip.text else "none" for clip in tone_clips]
    train, test = [None, None, *labels[2:40]], ["unheard of", None, *labels[42:60]]
    (result,) = probe_classify(tone_codec, tone_clips[:40], train, tone_clips[40:60], test, [BOUND], CONFIG)
    assert (result.unlabelled, result.unseen, len(result.guesses)) == ((2, 1), 1, 18)
    assert result.fitted == 38


def test_nothing_to_predict(tone_codec, tone_clips):
    some = tone_clips[:4]
    with pytest.raises(ValueError, match="no label of the 4 test clips is among the 2 training labels, such as 'x'"):
        probe_classify(tone_codec, some, list("xyxy"), some, list("abab"), [BOUND], CONFIG)
    with pytest.raises(ValueError, match="4 training clips have 1 different labels"):
        probe_classify(tone_codec, some, list("xxxx"), some, list("xxxx"), [BOUND], CONFIG)
    with pytest.raises(ValueError, match="3 labels for 4 clips"):
        probe_classify(tone_codec, some, list("xyx"), some, list("xyxy"), [BOUND], CONFIG)


# -------------------------------------------------------------------------------------------- chosen and split clips


@law
@given(LABELS, st.integers(0, 3))
def test_every_label_is_on_both_sides(labels, seed):
    fitted, tested = split_clips(labels, seed=seed)
    assert sorted(fitted + tested) == list(range(len(labels)))
    assert {labels[i] for i in fitted} == {labels[i] for i in tested} == set("abc")
    for label, count in Counter(labels).items():
        assert abs(sum(labels[i] == label for i in tested) - 0.2 * count) <= 1
    assert split_clips(labels, seed=seed) == (fitted, tested)


@law
@given(st.lists(st.sampled_from(["f1", "f2", "f3", "m1", "m2", None]), min_size=5, max_size=40), st.integers(0, 3))
def test_speakers_are_on_one_side(speakers, seed):
    speakers = [*speakers, "f1", "f2", "m1", "m2"]
    labels = ["f" if speaker is None else speaker[0] for speaker in speakers]
    fitted, tested = split_clips(labels, speakers, seed=seed)
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
    with pytest.raises(ValueError, match="no split of 3 speakers found with every label on both sides"):
        split_clips(list("aabbcc"), list("sttuus"))


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
    sampled = sample_hours(seconds, hours, seed)
    total = sum(seconds[i] for i in sampled)
    assert sampled == sorted(set(sampled))
    assert len(sampled) == len(seconds) or 3600 * hours <= total + 1e-6
    assert total - max(seconds[i] for i in sampled) < 3600 * hours
    assert sample_hours(seconds, None) == list(range(len(seconds)))


def test_no_hours():
    with pytest.raises(ValueError, match="hours is 0; expected more than 0"):
        sample_hours([1.0], 0)
