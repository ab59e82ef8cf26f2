"""Vectors of clips: their codec, rate and batch, and their cache."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flexicodec.corpus import read_utterance
from flexicodec.evaluation.probes import ASRProbeConfig, Representation, extract
from flexicodec.evaluation.probes.asr import Inputs
from flexicodec.merging import unmerge

SLOW = Representation(frame_rate=6.25, codebooks=0)
BOUND = Representation(codebooks=0, continuous=True)


@pytest.fixture
def clips(tone_clips):
    return tone_clips[:7]


def same(a, b):
    pairs = [*zip(a.values, b.values, strict=True), *zip(a.durations, b.durations, strict=True)]
    return all(np.array_equal(one, other) for one, other in [*pairs, (a.seconds, b.seconds)])


def test_vectors_are_those_of_embed(tone_codec, clips):
    (features,) = extract(tone_codec, clips, [SLOW])
    assert len(features) == 7
    for i, clip in enumerate(clips):
        tokens = tone_codec.encode(read_utterance(clip, 16_000), frame_rate=6.25, num_codebooks=0)
        assert np.array_equal(features.durations[i], tokens.durations[0])
        assert np.allclose(features.values[i], tone_codec.embed(tokens)[0].T, rtol=2e-3, atol=2e-3)  # half precision
    seconds = sum(clip.duration for clip in clips)
    assert features.frame_rate == pytest.approx(sum(map(len, features.values)) / seconds)
    assert features.frame_rate == pytest.approx(6.25, abs=0.7)


def test_the_bound_is_neither_merged_nor_quantised(tone_codec, clips):
    semantic, both = extract(tone_codec, clips, [BOUND, replace(BOUND, codebooks=None)])
    for i, clip in enumerate(clips):
        expected = tone_codec.features(read_utterance(clip, 16_000))
        dim = len(expected.semantic[0])
        assert np.allclose(semantic.values[i], expected.semantic[0].T, rtol=2e-3, atol=2e-3)
        assert np.allclose(both.values[i][:, dim:], expected.acoustic[0].T, rtol=2e-3, atol=2e-3)
        assert set(semantic.durations[i]) == {1}
    assert semantic.frame_rate == pytest.approx(12.5, abs=0.5)


def test_more_codebooks_are_other_vectors_of_the_same_tokens(tone_codec, clips):
    semantic, both = extract(tone_codec, clips, [SLOW, replace(SLOW, codebooks=None)])
    for i in range(len(clips)):
        assert np.array_equal(semantic.durations[i], both.durations[i])
        assert not np.array_equal(semantic.values[i], both.values[i])


def test_nanocodec_has_vectors_and_a_bound(nanocodec, clips):
    tokens, bound = extract(nanocodec, clips[:2], [Representation(), Representation(continuous=True)])
    assert [each.shape for each in tokens.values] == [each.shape for each in bound.values]
    assert tokens.values[0].shape[1] == nanocodec.config.quantizer.dim
    audio = read_utterance(clips[0], nanocodec.sample_rate)
    assert np.allclose(tokens.values[0], nanocodec.embed(nanocodec.encode(audio))[0].T, atol=1e-3)
    one = nanocodec.encode_latents(torch.from_numpy(audio)[None], torch.tensor([len(audio)]))
    assert np.allclose(bound.values[0], one[0].T.detach(), rtol=2e-3, atol=2e-3)


def test_cached_vectors_equal_encoded_ones(tone_codec, clips, tmp_path, monkeypatch):
    made = extract(tone_codec, clips, [SLOW, BOUND], cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    with monkeypatch.context() as patch:
        patch.setattr(type(tone_codec), "features", None)  # nothing is encoded again
        kept = extract(tone_codec, clips, [BOUND, SLOW], cache=tmp_path)
    assert same(made[0], kept[1])
    assert same(made[1], kept[0])
    assert same(made[0], extract(tone_codec, clips, [SLOW])[0])


def test_another_list_rate_or_recording_is_another_file(tone_codec, make_codec, clips, tmp_path):
    copy = replace(clips[0], path=tmp_path / "copy.wav")
    copy.path.write_bytes(clips[0].path.read_bytes())
    cache = tmp_path / "cache"
    extract(tone_codec, [copy], [SLOW], cache=cache)
    for utterances, representation in (
        ([copy, clips[1]], SLOW),
        ([copy], replace(SLOW, frame_rate=4.0)),
        ([replace(copy, duration=copy.duration / 2)], SLOW),
    ):
        before = len(list(cache.iterdir()))
        extract(tone_codec, utterances, [representation], cache=cache)
        assert len(list(cache.iterdir())) == before + 1
    short = replace(copy, duration=0.3)
    before = len(list(cache.iterdir()))
    extract(make_codec("whole", seed=1), [short], [SLOW], cache=cache)
    assert len(list(cache.iterdir())) == before + 1
    extract(tone_codec, [short], [SLOW], cache=cache)
    copy.path.write_bytes(clips[2].path.read_bytes() + bytes(8))
    (changed,) = extract(tone_codec, [short], [SLOW], cache=cache)
    assert same(changed, extract(tone_codec, [replace(clips[2], duration=0.3)], [SLOW])[0])


def test_a_damaged_file_is_named(tone_codec, clips, tmp_path):
    extract(tone_codec, clips, [SLOW], cache=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{file.name} is damaged .* remove it to encode"):
        extract(tone_codec, clips, [SLOW], cache=tmp_path)


def test_inputs_are_repeated_for_as_long_as_they_last(tone_codec, clips):
    (features,) = extract(tone_codec, clips, [SLOW])
    frames = Inputs(features, ASRProbeConfig(spread="frames"))
    tokens = Inputs(features, ASRProbeConfig(spread="tokens"))
    indices = [4, 0, 2]
    (x, lengths), (values, counts) = frames.batch(indices), tokens.batch(indices)
    assert counts.tolist() == [tokens.steps(i) for i in indices] == [len(features.values[i]) for i in indices]
    assert lengths.tolist() == [frames.steps(i) for i in indices]
    durations = torch.nn.utils.rnn.pad_sequence(
        [torch.from_numpy(features.durations[i]) for i in indices], batch_first=True
    )
    assert torch.equal(x, unmerge(values, durations))
    for row, i in enumerate(indices):
        assert torch.equal(
            values[row, -1, : counts[row]].exp().round(), torch.from_numpy(features.durations[i]).float()
        )
    assert Inputs(features, ASRProbeConfig(log_durations=False)).dim == frames.dim - 1


def test_choices_that_exclude_each_other():
    with pytest.raises(ValueError, match="frame grid and take no frame_rate=6.25, policy='uniform'"):
        Representation(frame_rate=6.25, policy="uniform", continuous=True)
    with pytest.raises(ValueError, match="frame_rate=6.25 and threshold=0.9 both choose a rate"):
        Representation(frame_rate=6.25, threshold=0.9)


def test_no_clips(tone_codec):
    with pytest.raises(ValueError, match="no clips to encode"):
        extract(tone_codec, [], [SLOW])


def test_a_clip_that_cannot_be_read_stops_it(tone_codec, clips, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.wav"):
        extract(tone_codec, [*clips, replace(clips[0], path=tmp_path / "missing.wav")], [SLOW])


@pytest.mark.parametrize(
    ("representation", "name"),
    [
        (Representation(), "own rate"),
        (Representation(threshold=0.9), "tau 0.9"),
        (Representation(frame_rate=6.25, policy="uniform"), "6.25 Hz uniform"),
        (Representation(continuous=True), "continuous"),
    ],
)
def test_names(representation, name):
    assert str(representation) == name
