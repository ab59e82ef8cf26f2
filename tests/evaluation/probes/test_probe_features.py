"""Vectors of clips: whose they are, at which rate, in which batch, and how they are kept."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flexicodec.corpus import read_utterance
from flexicodec.evaluation.probes import Representation, extract
from flexicodec.evaluation.probes.fitting import Inputs
from flexicodec.merging import unmerge

SLOW = Representation(frame_rate=6.25, codebooks=0)
BOUND = Representation(codebooks=0, continuous=True)


@pytest.fixture
def clips(songs):
    return songs[:7]


def same(a, b):
    return all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in ("values", "durations", "counts", "seconds")
    )


def test_vectors_are_those_of_embed(hearing, clips):
    (features,) = extract(hearing, clips, [SLOW])
    assert len(features) == 7
    for i, clip in enumerate(clips):
        tokens = hearing.encode(read_utterance(clip, 16_000), frame_rate=6.25, num_codebooks=0)
        values, durations = features.clip(i)
        assert np.array_equal(durations, tokens.durations[0])
        assert np.allclose(values, hearing.embed(tokens)[0].T, rtol=2e-3, atol=2e-3)  # half precision
    seconds = sum(clip.duration for clip in clips)
    assert features.frame_rate == pytest.approx(len(features.values) / seconds)
    assert features.frame_rate == pytest.approx(6.25, abs=0.7)


def test_the_bound_is_neither_merged_nor_quantised(hearing, clips):
    semantic, both = extract(hearing, clips, [BOUND, replace(BOUND, codebooks=None)])
    for i, clip in enumerate(clips):
        heard = hearing.features(read_utterance(clip, 16_000))
        assert np.allclose(semantic.clip(i)[0], heard.semantic[0].T, rtol=2e-3, atol=2e-3)
        assert np.allclose(both.clip(i)[0][:, semantic.dim :], heard.acoustic[0].T, rtol=2e-3, atol=2e-3)
        assert set(semantic.clip(i)[1]) == {1}
    assert semantic.frame_rate == pytest.approx(12.5, abs=0.5)


def test_more_codebooks_are_other_vectors_of_the_same_tokens(hearing, clips):
    meaning, all_of_it = extract(hearing, clips, [SLOW, replace(SLOW, codebooks=None)])
    assert np.array_equal(meaning.durations, all_of_it.durations)
    assert not np.array_equal(meaning.values, all_of_it.values)


def test_nanocodec_has_vectors_and_a_bound(nanocodec, clips):
    tokens, bound = extract(nanocodec, clips[:2], [Representation(), Representation(continuous=True)])
    assert np.array_equal(tokens.counts, bound.counts)
    assert tokens.dim == bound.dim == nanocodec.config.quantizer.dim
    audio = read_utterance(clips[0], nanocodec.sample_rate)
    assert np.allclose(tokens.clip(0)[0], nanocodec.embed(nanocodec.encode(audio))[0].T, atol=1e-3)
    one = nanocodec.encode_latents(torch.from_numpy(audio)[None], torch.tensor([len(audio)]))
    assert np.allclose(bound.clip(0)[0], one[0].T.detach(), rtol=2e-3, atol=2e-3)


def test_what_is_kept_is_what_was_made(hearing, clips, tmp_path, monkeypatch):
    made = extract(hearing, clips, [SLOW, BOUND], cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    with monkeypatch.context() as patch:
        patch.setattr(type(hearing), "features", None)  # nothing is encoded again
        kept = extract(hearing, clips, [BOUND, SLOW], cache=tmp_path)
    assert same(made[0], kept[1])
    assert same(made[1], kept[0])
    assert same(made[0], extract(hearing, clips, [SLOW])[0])


def test_another_list_rate_or_recording_is_another_file(hearing, make_codec, clips, tmp_path):
    copy = replace(clips[0], path=tmp_path / "copy.wav")
    copy.path.write_bytes(clips[0].path.read_bytes())
    cache = tmp_path / "cache"
    extract(hearing, [copy], [SLOW], cache=cache)
    for utterances, representation in (
        ([copy, clips[1]], SLOW),
        ([copy], replace(SLOW, frame_rate=4.0)),
        ([replace(copy, duration=copy.duration / 2)], SLOW),
    ):
        before = len(list(cache.iterdir()))
        extract(hearing, utterances, [representation], cache=cache)
        assert len(list(cache.iterdir())) == before + 1
    short = replace(copy, duration=0.3)
    before = len(list(cache.iterdir()))
    extract(make_codec("whole", seed=1), [short], [SLOW], cache=cache)
    assert len(list(cache.iterdir())) == before + 1
    extract(hearing, [short], [SLOW], cache=cache)
    copy.path.write_bytes(clips[2].path.read_bytes() + bytes(8))
    (changed,) = extract(hearing, [short], [SLOW], cache=cache)
    assert same(changed, extract(hearing, [replace(clips[2], duration=0.3)], [SLOW])[0])


def test_a_damaged_file_is_named(hearing, clips, tmp_path):
    extract(hearing, clips, [SLOW], cache=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{file.name} is damaged .* remove it"):
        extract(hearing, clips, [SLOW], cache=tmp_path)


def test_inputs_are_repeated_for_as_long_as_they_last(hearing, clips):
    (features,) = extract(hearing, clips, [SLOW])
    frames = Inputs(features, "frames", True, torch.device("cpu"))
    tokens = Inputs(features, "tokens", True, torch.device("cpu"))
    indices = [4, 0, 2]
    (x, lengths), (values, counts) = frames.batch(indices), tokens.batch(indices)
    assert counts.tolist() == [tokens.steps(i) for i in indices] == features.counts[indices].tolist()
    assert lengths.tolist() == [frames.steps(i) for i in indices]
    durations = torch.nn.utils.rnn.pad_sequence(
        [torch.from_numpy(features.clip(i)[1]) for i in indices], batch_first=True
    )
    assert torch.equal(x, unmerge(values, durations))
    for row, i in enumerate(indices):
        assert torch.equal(values[row, -1, : counts[row]].exp().round(), torch.from_numpy(features.clip(i)[1]).float())
    assert Inputs(features, "frames", False, torch.device("cpu")).dim == frames.dim - 1


def test_choices_that_exclude_each_other():
    with pytest.raises(ValueError, match="frame grid and take no frame_rate=6.25, policy='uniform'"):
        Representation(frame_rate=6.25, policy="uniform", continuous=True)
    with pytest.raises(ValueError, match="frame_rate=6.25 and threshold=0.9 both choose a rate"):
        Representation(frame_rate=6.25, threshold=0.9)


def test_no_clips(hearing):
    with pytest.raises(ValueError, match="no clips to encode"):
        extract(hearing, [], [SLOW])


def test_a_clip_that_cannot_be_read_stops_it(hearing, clips, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.wav"):
        extract(hearing, [*clips, replace(clips[0], path=tmp_path / "missing.wav")], [SLOW])


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
