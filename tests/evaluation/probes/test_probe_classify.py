"""The probe that names: speakers of songs, labels that are not there, and pooling."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flexicodec.evaluation.probes import ClassifyProbeConfig, FitConfig, Representation, probe_classify, split_clips
from flexicodec.evaluation.probes.classify import ClassifyProbe

BOUND = Representation(continuous=True)
CONFIG = ClassifyProbeConfig(
    fit=FitConfig(epochs=40, batch_seconds=10.0, learning_rate=0.03, validation_share=0.1), resamples=200
)


def sides(clips, labels, speakers=None):
    """Share clips out, with their labels."""
    parts = split_clips(labels, speakers)
    return [[each[i] for i in part] for part in parts for each in (clips, labels)]


def test_it_names_what_is_there(hearing, songs):
    labels = ["starts with a" if clip.text[0] == "a" else "does not" for clip in songs]
    present = ["d" if "d" in clip.text else "no d" for clip in songs]
    for given, least in ((present, 0.8), (labels, None)):
        results = probe_classify(hearing, *sides(songs, given), [BOUND], CONFIG)
        assert [result.pooling for result in results] == ["mean", "attention"]
        for result in results:
            right = np.mean([row.guess == row.label for row in result.guesses])
            assert result.accuracy.value == pytest.approx(right)
            assert (result.classes, result.unseen, result.unlabelled) == (2, 0, (0, 0))
            assert least is None or (result.accuracy.value >= least and result.balanced.value >= least - 0.1)


def test_labels_that_are_not_there_are_guessed_at_chance(hearing, songs, tmp_path):
    clips, found = [replace(clip, speaker=None) for clip in songs], []
    brief = replace(CONFIG, fit=replace(CONFIG.fit, epochs=10))
    for seed in range(4):
        labels = np.random.default_rng(seed).choice(["heads", "tails"], len(songs)).tolist()
        for result in probe_classify(hearing, *sides(clips, labels), [BOUND], brief, cache=tmp_path):
            found.append(result.balanced.value)
            assert result.accuracy.clusters == len(result.guesses)  # without speakers, clips are drawn
    assert np.mean(found) == pytest.approx(0.5, abs=0.15)  # a hundred guesses, twice


def test_chance_is_the_commonest_label_and_intervals_are_of_speakers(hearing, songs):
    labels = ["long" if len(clip.text) > 2 else "short" for clip in songs]
    for result in probe_classify(hearing, *sides(songs, labels), [BOUND], CONFIG):
        assert result.chance == np.mean([row.label == "long" for row in result.guesses])
        assert result.accuracy.clusters == 3
        assert result.accuracy.low <= result.accuracy.value <= result.accuracy.high


def test_a_seed_is_a_result(hearing, songs, tmp_path):
    given = sides(songs, [clip.speaker for clip in songs])
    brief = replace(CONFIG, fit=replace(CONFIG.fit, epochs=2))
    state = torch.get_rng_state()
    first, again = (probe_classify(hearing, *given, [BOUND], brief, cache=tmp_path) for _ in range(2))
    assert first == again
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_padding_changes_nothing(pooling):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        probe = ClassifyProbe(4, 3, pooling).eval()
        values, lengths = torch.randn(2, 4, 8), torch.tensor([8, 3])
        if probe.query is not None:
            probe.query.data.normal_()
    batch = probe(values, lengths)
    assert torch.allclose(batch[1:], probe(values[1:, :, :3], lengths[1:]), atol=1e-6)


def test_attention_starts_as_the_mean():
    probe = ClassifyProbe(4, 3, "attention")
    values = torch.arange(40.0).view(1, 4, 10)
    assert torch.allclose(probe(values, torch.tensor([10])), probe.head(values.mean(-1)), atol=1e-5)


def test_attention_finds_one_step_among_many():
    """The label is in the one step that is marked; a mean over fifty hides it in noise."""
    generator = torch.Generator().manual_seed(0)
    values, labels = torch.randn(200, 3, 50, generator=generator), torch.randint(0, 2, (200,), generator=generator)
    values[:, 1] = -3.0
    values[:, 1, 7] = 3.0
    values[:, 0, 7] = 2.0 * labels - 1.0
    probe = ClassifyProbe(3, 2, "attention")
    with torch.no_grad():
        probe.query.copy_(torch.tensor([0.0, 4.0, 0.0]))
        probe.head.weight.copy_(torch.tensor([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
        probe.head.bias.zero_()
    assert torch.equal(probe(values, torch.full((200,), 50)).argmax(-1), labels)


def test_clips_without_a_known_label_are_counted(hearing, songs):
    labels = ["a" if "a" in clip.text else "none" for clip in songs]
    brief = replace(CONFIG, poolings=("mean",), fit=replace(CONFIG.fit, epochs=1), resamples=10)
    train, test = [None, None, *labels[2:40]], ["unheard of", None, *labels[42:60]]
    (result,) = probe_classify(hearing, songs[:40], train, songs[40:60], test, [BOUND], brief)
    assert (result.unlabelled, result.unseen, len(result.guesses)) == ((2, 1), 1, 18)
    assert result.fitted + result.held_out == 38


def test_nothing_to_name(hearing, songs):
    some = songs[:4]
    with pytest.raises(ValueError, match="no label of the 4 test clips is among the 2 of the fit, such as 'x'"):
        probe_classify(hearing, some, list("xyxy"), some, list("abab"), [BOUND], CONFIG)
    with pytest.raises(ValueError, match="4 training clips have 1 different labels"):
        probe_classify(hearing, some, list("xxxx"), some, list("xxxx"), [BOUND], CONFIG)
    with pytest.raises(ValueError, match="3 labels for 4 clips"):
        probe_classify(hearing, some, list("xyx"), some, list("xyxy"), [BOUND], CONFIG)
