"""Encoding many files: the tokens of each file alone, in order, failures by name, within the memory limit."""

import threading
import time
from itertools import count, islice

import numpy as np
import pytest
import soundfile
import torch

from flexicodec.corpus import Utterance
from flexicodec.models import batch_encode
from flexicodec.models.batch_encode import encode_files


@pytest.fixture
def files(tmp_path):
    """Fourteen files of 0.2 to 1.5 s in no order of length, at two rates, some with two channels."""
    random = np.random.default_rng(0)
    paths = []
    for index, tenths in enumerate(random.permutation(14) + 2):
        rate, channels = (16_000, 1) if index % 3 else (22_050, 2)
        noise = random.standard_normal((int(rate * tenths / 10) + 7, channels))
        paths.append(tmp_path / f"{index}.wav")
        soundfile.write(paths[-1], 0.1 * noise * np.sin(np.arange(len(noise)) / 900)[:, None], rate)
    return paths


def alone(codec, path, **choices):
    return codec.encode(batch_encode.read(path, codec.sample_rate), **choices)


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("batch_seconds", [0.0, 1.0, 4.0])
def test_tokens_are_those_of_each_file_alone_and_in_order(codec, files, batch_seconds, workers):
    done = list(encode_files(codec, files, batch_seconds=batch_seconds, workers=workers, frame_rate=6.25))
    assert [each.source for each in done] == files
    assert [each.index for each in done] == list(range(len(files)))
    for each in done:
        first = alone(codec, each.source, frame_rate=6.25, margins=True)
        assert not first.margins.fragile(first.durations, below=1e-6).any(), "no test of these clips"
        assert each.tokens == first
        assert each.error is None


def test_clips_of_like_length_go_side_by_side(whole, files, monkeypatch):
    batches = []
    encode = type(whole).encode

    def watched(self, audio, lengths=None, **choices):
        batches.append(audio.shape)
        assert audio.device == self.device
        return encode(self, audio, lengths, **choices)

    monkeypatch.setattr(type(whole), "encode", watched)
    done = list(encode_files(whole, files, batch_seconds=3.0, workers=2, in_order=False))
    assert sorted(each.index for each in done) == list(range(len(files)))
    assert max(rows * samples for rows, samples in batches) <= 3.0 * whole.sample_rate
    assert 4 <= len(batches) <= 7
    assert max(rows for rows, _ in batches) > 2


def test_nanocodecs_too(nanocodecs, files):
    codec = nanocodecs["noncausal"]
    for each in encode_files(codec, files, batch_seconds=2.0):
        first = alone(codec, each.source, margins=True)
        assert float(first.margins.acoustic.min()) > 1e-6
        assert each.tokens == first


def test_utterances_of_a_manifest_are_sources(whole, clips):
    utterances, _ = clips
    part = Utterance(utterances[5].path, 0.4, start=0.2)
    done = list(encode_files(whole, [*utterances, part], batch_seconds=2.0))
    assert [each.source for each in done] == [*utterances, part]
    assert float(done[-1].tokens.seconds) == pytest.approx(0.4)


@pytest.mark.parametrize("batch_seconds", [0.0, 2.0])
def test_a_bad_file_takes_no_other_with_it(whole, files, tmp_path, batch_seconds):
    nan, text, missing = tmp_path / "nan.wav", tmp_path / "text.wav", tmp_path / "missing.wav"
    soundfile.write(nan, np.full(8000, np.nan), 16_000, subtype="FLOAT")
    text.write_text("no audio")
    sources = [files[0], nan, files[1], text, *files[2:], missing]
    done = list(encode_files(whole, sources, batch_seconds=batch_seconds, workers=2))
    failed = {each.source: str(each.error) for each in done if each.tokens is None}
    assert set(failed) == {nan, text, missing}
    assert "NaN" in failed[nan]
    assert "text.wav" in failed[text]
    assert all(each.tokens == alone(whole, each.source) for each in done if each.tokens is not None)
    with pytest.raises(ValueError, match="NaN"):
        done[1].result()


def test_where_a_batch_does_not_fit_its_clips_are_tried_alone(whole, files, monkeypatch):
    encode = type(whole).encode

    def short_of_memory(self, audio, lengths=None, **choices):
        if len(audio) > 1:
            raise torch.OutOfMemoryError("out of memory for a batch")
        return encode(self, audio, lengths, **choices)

    monkeypatch.setattr(type(whole), "encode", short_of_memory)
    done = list(encode_files(whole, files, batch_seconds=3.0))
    monkeypatch.undo()
    assert all(each.tokens == alone(whole, each.source) for each in done)
    assert any(isinstance(each.batch_error, torch.OutOfMemoryError) for each in done)


CHOICES = [{"frame_rate": 6.25, "num_codebooks": 1}, {"threshold": 0.9}, {"frame_rate": 4.0, "num_codebooks": 0}]


@pytest.mark.parametrize("batch_seconds", [0.0, 3.0])
def test_several_choices_are_those_of_each_and_features_run_once(whole, files, monkeypatch, batch_seconds):
    clips = []
    features = type(whole).features

    def watched(self, audio, lengths=None, **options):
        clips.append(len(audio))
        return features(self, audio, lengths, **options)

    monkeypatch.setattr(type(whole), "features", watched)
    batches = []
    done = list(encode_files(whole, files, batch_seconds=batch_seconds, choices=CHOICES, on_batch=batches.append))
    assert sum(clips) == len(files)
    assert [len(batch) for batch in batches] == clips
    assert sorted(sum(batches, [])) == list(range(len(files)))
    for each in done:
        assert list(each.all_tokens) == [alone(whole, each.source, **choice) for choice in CHOICES]
        assert each.tokens is each.all_tokens[0]


def test_a_source_may_read_itself(whole, files):
    class Half:
        def read(self, sample_rate):
            return batch_encode.read(files[0], sample_rate)[:, :4000]

    (done,) = encode_files(whole, [Half()], frame_rate=6.25)
    assert done.result().audio_lengths.tolist() == [4000]


@pytest.mark.gpu
def test_on_a_gpu_too(codec, files):
    first = [alone(codec, path, margins=True) for path in files]
    try:
        done = list(encode_files(codec.to("cuda"), files, batch_seconds=4.0))
        default = list(encode_files(codec, files))
    finally:
        codec.to("cpu")
    for one, each, other in zip(first, done, default, strict=True):
        assert each.tokens == other.tokens
        assert each.tokens.durations.device.type == "cpu"
        if not one.margins.fragile(one.durations, below=1e-2).any():  # TF32 is on in convolutions unless switched off
            assert each.tokens == one


@pytest.mark.parametrize("workers", [1, 3])
def test_memory_does_not_grow_with_the_number_of_sources(whole, files, monkeypatch, workers):
    """Of endless sources no more are read than wait at each step, however slowly the tokens are taken."""
    taken = []
    sources = (taken.append(index) or files[1] for index in count())
    seconds = float(batch_encode.read(files[1], 16_000).shape[-1] / 16_000)
    done = encode_files(whole, sources, batch_seconds=2.5 * seconds, workers=workers)
    window = batch_encode.WINDOW_BATCHES * 2.5 + 1
    most = 2 * window + 2 * (batch_encode.BATCHES_AHEAD + 2) + batch_encode.CLIPS_AHEAD * workers
    for index, _ in enumerate(islice(done, 60)):
        time.sleep(0.002)
        assert len(taken) - index <= most
    done.close()


def test_on_the_cpu_files_are_taken_one_by_one_unless_told_otherwise(whole, files, monkeypatch):
    reads, threads = [], set()
    read = batch_encode.read

    def watched(source, sample_rate):
        reads.append(source)
        threads.add(threading.current_thread())
        return read(source, sample_rate)

    monkeypatch.setattr(batch_encode, "read", watched)
    for index, each in enumerate(encode_files(whole, files)):
        assert reads == files[: index + 1]
        assert each.source == files[index]
    assert threads == {threading.current_thread()}


def test_nothing_is_left_running(whole, files):
    before = threading.active_count()
    done = encode_files(whole, files * 50, workers=3)
    next(done)
    assert threading.active_count() > before
    done.close()
    assert threading.active_count() == before


def test_an_error_of_the_list_of_sources_is_raised(whole, files):
    def sources():
        yield files[0]
        raise KeyError("the list is broken")

    with pytest.raises(KeyError, match="the list is broken"):
        list(encode_files(whole, sources(), workers=1))


def test_settings_out_of_range_are_refused_at_the_call(whole):
    with pytest.raises(ValueError, match="batch_seconds is -1"):
        encode_files(whole, [], batch_seconds=-1)
    with pytest.raises(ValueError, match="workers is -2"):
        encode_files(whole, [], workers=-2)
    assert list(encode_files(whole, [])) == []
