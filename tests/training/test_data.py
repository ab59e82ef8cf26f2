"""Manifests, the audio store, and batches that depend on (seed, step) alone."""

import numpy as np
import pytest
import torch

from flexicodec.training.data import AudioStore, BucketedUtterances, RandomCrops, read_manifest


def test_a_manifest_is_read_relative_to_itself(manifest):
    utterances = read_manifest(manifest)
    assert len(utterances) == 6
    assert all(u.path.is_file() and u.corpus == "noise" and u.text for u in utterances)


@pytest.mark.parametrize("line", ["{", '{"path": "a.wav"}', "[]", '{"path": "a.wav", "duration_s": null}'])
def test_a_bad_line_is_named(tmp_path, line):
    (tmp_path / "m.jsonl").write_text('{"path": "a.wav", "duration_s": 1}\n' + line)
    with pytest.raises(ValueError, match=r"m\.jsonl:2: expected a JSON object"):
        read_manifest(tmp_path / "m.jsonl")


def test_an_empty_manifest_is_refused(tmp_path):
    (tmp_path / "m.jsonl").write_text("")
    with pytest.raises(ValueError, match="lists no utterances"):
        read_manifest(tmp_path / "m.jsonl")


def test_the_cache_holds_what_was_decoded(manifest, tmp_path):
    utterances = read_manifest(manifest)
    plain = AudioStore(utterances)
    AudioStore(utterances, tmp_path / "cache" / "audio.npz")
    cached = AudioStore(utterances, tmp_path / "cache" / "audio.npz")
    for index in range(len(utterances)):
        np.testing.assert_array_equal(plain[index], cached[index])
    assert list(plain.lengths) == [8000 + 1600 * i for i in range(6)]


def test_a_cache_of_other_speech_is_refused(manifest, tmp_path):
    utterances = read_manifest(manifest)
    AudioStore(utterances[:3], tmp_path / "audio.npz")
    with pytest.raises(ValueError, match="holds 3 clips, the manifest 6"):
        AudioStore(utterances, tmp_path / "audio.npz")


def test_every_utterance_comes_once_an_epoch_within_the_bound(manifest):
    data = BucketedUtterances(AudioStore(read_manifest(manifest)), batch_seconds=2.0, seed=1)
    batches = list(data.epoch(0))
    assert sorted(t for b in batches for t in b.texts) == sorted(u.text for u in data.store.utterances)
    assert all(b.audio.shape[0] * b.audio.shape[1] / 16_000 <= 2.0 for b in batches)
    again, other = list(data.epoch(0)), list(data.epoch(1))
    assert all(torch.equal(x.audio, y.audio) for x, y in zip(batches, again, strict=True))
    assert [b.texts for b in batches] != [b.texts for b in other]


def test_speed_changes_the_length(manifest):
    store = AudioStore(read_manifest(manifest))
    slow = BucketedUtterances(store, 10.0, seed=0, speeds=(0.5,))
    assert sum(int(b.lengths.sum()) for b in slow.epoch(0)) == pytest.approx(2 * store.lengths.sum(), abs=12)


def test_crops_are_a_function_of_seed_and_step(manifest):
    store = AudioStore(read_manifest(manifest))
    crops = RandomCrops(store, batch_size=4, crop_seconds=0.6, seed=3)
    assert torch.equal(crops.batch(5).audio, RandomCrops(store, 4, 0.6, 3).batch(5).audio)
    assert not torch.equal(crops.batch(5).audio, crops.batch(6).audio)
    batch = crops.batch(7)
    assert batch.audio.shape[1] <= 9600
    for row, length in zip(batch.audio, batch.lengths, strict=True):
        assert not row[length:].any()
