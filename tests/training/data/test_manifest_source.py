"""The cache of decoded audio: equals the files, is memory-mapped, and refuses other speech."""

import pickle
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import soundfile
import torch

from flexicodec.corpus import write_manifest
from flexicodec.training.config import DataConfig
from flexicodec.training.data import AudioCache, training_batches

RATE = 16_000


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "audio.bin"


def test_the_cache_holds_what_the_files_hold(clips, cache):
    utterances, samples = clips
    for _ in range(2):  # made, then found
        store = AudioCache(utterances, cache, RATE)
        assert store.cache == cache
        for index, clip in enumerate(samples):
            np.testing.assert_array_equal(store.read(index), clip.astype(np.float32))
            np.testing.assert_array_equal(store.read(index, 100, 50), clip[100:150].astype(np.float32))
            np.testing.assert_array_equal(store.read(index, len(clip) - 5, 50), clip[-5:].astype(np.float32))
    with pytest.raises(ValueError, match="no samples from 4800 on"):
        store.read(0, 4800)


def test_it_is_mapped_and_goes_to_workers_without_its_samples(clips, cache):
    store = AudioCache(clips[0], cache, RATE)
    audio = store.read(3)
    assert isinstance(store._rows, np.memmap)
    sent = pickle.dumps(store)
    assert len(sent) < 2000 < cache.stat().st_size
    np.testing.assert_array_equal(pickle.loads(sent).read(3), audio)


def test_batches_from_the_cache_are_those_from_the_files(speech_manifest, cache):
    config = DataConfig((str(speech_manifest),), batch_size=3, crop_seconds=0.4, min_seconds=0.5)
    plain, cached = (
        islice(training_batches(c, sample_rate=RATE, seed=0), 6)
        for c in (config, replace(config, audio_cache=str(cache)))
    )
    assert all(torch.equal(x.audio, y.audio) for x, y in zip(plain, cached, strict=True))
    # Another choice of clips does with the same cache.
    next(training_batches(replace(config, audio_cache=str(cache), min_seconds=0.9), sample_rate=RATE, seed=0))


@pytest.mark.parametrize("change", ["rate", "fewer", "order", "duration", "start", "file", "other folder"])
def test_a_cache_of_other_speech_is_refused_and_kept(clips, cache, tmp_path, change):
    utterances = clips[0]
    AudioCache(utterances, cache, RATE)
    before = cache.read_bytes()
    other, rate, message = list(utterances), RATE, r"does not fit the manifest: clip \d+ has"
    if change == "rate":
        rate, message = 24_000, "with sample_rate 16000, expected 24000"
    elif change == "fewer":
        other, message = other[:7], "holds 12 clips, expected 7"
    elif change == "order":
        other, message = other[::-1], r"clip 0 has path '\.\./audio/0\.wav', expected '\.\./audio/11\.wav', duration"
    elif change == "duration":
        other[3] = replace(other[3], duration=0.4)
    elif change == "start":
        other[3] = replace(other[3], start=0.1)
    elif change == "file":
        soundfile.write(other[3].path, np.zeros(5), RATE)
    else:  # the same names, durations and sizes
        (tmp_path / "noisy").mkdir()
        for utterance in utterances:
            (tmp_path / "noisy" / utterance.path.name).write_bytes(utterance.path.read_bytes())
        other = [replace(u, path=tmp_path / "noisy" / u.path.name) for u in utterances]
    with pytest.raises(ValueError, match=message) as caught:
        AudioCache(other, cache, rate)
    assert "delete it to have it written again" in str(caught.value)
    assert cache.read_bytes() == before


def test_it_does_without_the_files_and_moves_with_them(clips, cache, tmp_path):
    write_manifest(tmp_path / "m.jsonl", clips[0])
    AudioCache(clips[0], cache, RATE)
    moved = tmp_path.with_name(tmp_path.name + "_moved")
    tmp_path.rename(moved)
    utterances = [replace(u, path=moved / "audio" / u.path.name) for u in clips[0]]
    for utterance in utterances:
        utterance.path.unlink()
    store = AudioCache(utterances, moved / "cache" / "audio.bin", RATE)
    np.testing.assert_array_equal(store.read(5), clips[1][5].astype(np.float32))


def test_a_bad_clip_is_remembered(clips, cache, speech_manifest, caplog):
    clips[0][4].path.write_bytes(b"")
    store = AudioCache(clips[0], cache, RATE)
    assert "4.wav" in caplog.text
    with pytest.raises(ValueError, match=r"4\.wav"):
        AudioCache(clips[0], cache, RATE).read(4)
    np.testing.assert_array_equal(store.read(5), clips[1][5].astype(np.float32))
    config = DataConfig((str(speech_manifest),), crop_seconds=None, batch_seconds=20.0, audio_cache=str(cache))
    assert next(training_batches(config, sample_rate=RATE, seed=0)).skipped == 1


@pytest.mark.parametrize("content", [b"", b"x" * 500])
def test_another_file_is_no_cache(clips, cache, content):
    cache.parent.mkdir()
    cache.write_bytes(content)
    with pytest.raises(ValueError, match="no audio_cache of this version"):
        AudioCache(clips[0], cache, RATE)
