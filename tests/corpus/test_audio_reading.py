"""Parts of files: a part equals that part of the whole, at any rate, in any format; errors name bad files."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from flexicodec.audio import read_audio, resampled_length
from flexicodec.corpus import Utterance, read_utterance
from flexicodec.corpus.audio_reading import read_duration

law = settings(derandomize=True, deadline=None, max_examples=30)

FORMATS = {"wav": "WAV", "flac": "FLAC", "ogg": "OGG", "opus": "OGG", "mp3": "MP3", "aiff": "AIFF"}


def wave(samples, rate):
    """Speech-like: a few harmonics that come and go."""
    t = np.arange(samples) / rate
    return 0.3 * np.sin(2 * np.pi * 3 * t) * sum(np.sin(2 * np.pi * 180 * k * t + k) / k for k in range(1, 9))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("reading")


def make(folder, suffix, rate, seconds=3.0):
    path = folder / f"{rate}.{suffix}"
    if not path.exists():
        subtype = "OPUS" if suffix == "opus" else None
        soundfile.write(path, wave(round(seconds * rate), rate), rate, format=FORMATS[suffix], subtype=subtype)
    return path


@pytest.mark.parametrize("suffix", FORMATS)
@law
@given(first=st.integers(0, 47_999), samples=st.integers(1, 48_000))
def test_a_part_is_that_part_of_the_whole(folder, suffix, first, samples):
    utterance = Utterance(make(folder, suffix, 16_000), 3.0)
    whole = read_utterance(utterance, 16_000)
    part = read_utterance(utterance, 16_000, first, samples)
    assert len(whole) == 48_000
    np.testing.assert_allclose(part, whole[first : first + samples], atol=2e-3 if suffix == "opus" else 1e-6)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_056, 44_100, 48_000])
@law
@given(start=st.floats(0, 1.5), first=st.integers(0, 15_000), samples=st.integers(1, 8_000))
def test_a_part_is_that_part_of_the_whole_at_another_rate(folder, rate, start, first, samples):
    utterance = Utterance(make(folder, "wav", rate), 1.2, start)
    whole = read_utterance(utterance, 16_000)
    assert len(whole) == resampled_length(round(1.2 * rate), rate, 16_000)
    part = read_utterance(utterance, 16_000, first, samples)
    np.testing.assert_allclose(part, whole[first : first + samples], atol=2e-4)


def test_a_whole_file_is_what_read_audio_gives(folder):
    path = make(folder, "flac", 44_100)
    np.testing.assert_array_equal(read_utterance(Utterance(path, 3.0), 16_000), read_audio(path, 16_000)[0])


def test_channels_are_averaged(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.stack([wave(800, 16_000), np.zeros(800)], axis=1), 16_000, subtype="FLOAT")
    audio = read_utterance(Utterance(tmp_path / "a.wav", 0.05), 16_000)
    np.testing.assert_allclose(audio, wave(800, 16_000) / 2, atol=1e-6)


def test_rounded_durations_do_and_wrong_ones_do_not(folder):
    path = make(folder, "wav", 16_000)
    assert len(read_utterance(Utterance(path, 3.05), 16_000)) == 48_000
    with pytest.raises(ValueError, match=r"said to end at 3\.500 s but the file at 3\.000 s"):
        read_utterance(Utterance(path, 3.5), 16_000)
    with pytest.raises(ValueError, match="said to begin at 3"):
        read_utterance(Utterance(path, 0.05, start=3.0), 16_000)
    with pytest.raises(ValueError, match="nothing can be read from 48000 on"):
        read_utterance(Utterance(path, 3.0), 16_000, 48_000)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"no audio" * 1000])
def test_what_is_no_audio_is_refused(tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)
    for read in (lambda path: read_utterance(Utterance(path, 1.0), 16_000), read_duration):
        with pytest.raises(ValueError, match=r"cannot read .*a\.wav"):
            read(tmp_path / "a.wav")


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"no such audio file: gone\.wav"):
        read_utterance(Utterance(Path("gone.wav"), 1.0), 16_000)


@pytest.mark.parametrize(("value", "message"), [(np.nan, "NaN or Inf"), (32_000.0, "32000 where 1 is full scale")])
def test_absurd_samples_are_refused(tmp_path, value, message):
    samples = np.zeros(1000, dtype=np.float32)
    samples[500] = value
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    with pytest.raises(ValueError, match=message):
        read_utterance(Utterance(tmp_path / "a.wav", 1000 / 16_000), 16_000)


def test_a_torn_file_is_refused(folder, tmp_path):
    content = make(folder, "flac", 16_000).read_bytes()
    (tmp_path / "torn.flac").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="cannot read"):
        read_utterance(Utterance(tmp_path / "torn.flac", 3.0), 16_000, 30_000, 8_000)


def test_durations_come_from_headers(folder, tmp_path):
    for suffix in FORMATS:
        assert read_duration(make(folder, suffix, 16_000)) == 3.0
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16_000)
    with pytest.raises(ValueError, match="holds 0 samples"):
        read_duration(tmp_path / "none.wav")


def test_a_clip_names_its_channel(tmp_path):
    two = np.stack([np.full(1600, 0.25, np.float32), np.full(1600, -0.5, np.float32)], axis=1)
    soundfile.write(tmp_path / "call.wav", two, 16_000, subtype="FLOAT")

    def read(channel):
        return read_utterance(Utterance(tmp_path / "call.wav", 0.1, channel=channel), 16_000)

    assert read(0).tolist() == [0.25] * 1600
    assert read(1).tolist() == [-0.5] * 1600
    assert read(None).tolist() == [-0.125] * 1600
    with pytest.raises(ValueError, match="channel 2 is asked for, but it has 2"):
        read(2)
