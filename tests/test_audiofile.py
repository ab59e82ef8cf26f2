"""Audio files: they round trip, and what is wrong with one is said."""

import math
import os

import pytest
import soundfile
import torch

from flexicodec.audio import read_audio, write_audio
from tests.test_audio import noise, sine


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".WAV"])
def test_16_bit_audio_survives_files_bit_for_bit(tmp_path, suffix):
    samples = torch.arange(-32768, 32768, dtype=torch.int16).repeat(2)  # more than is written at once
    write_audio(tmp_path / f"a{suffix}", samples.float() / 32768, 16000)
    assert torch.equal(read_audio(tmp_path / f"a{suffix}")[0], samples.float() / 32768)
    write_audio(tmp_path / f"b{suffix}", samples.numpy(), 16000)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize(("suffix", "tolerance"), [(".wav", 2e-5), (".flac", 2e-5), (".ogg", 0.05), (".opus", 0.1)])
def test_formats_round_trip(tmp_path, suffix, tolerance):
    path = tmp_path / f"talk{suffix}"
    audio = sine(1.0, 16000)
    write_audio(path, audio, 16000)
    again = read_audio(path)
    assert soundfile.info(path).samplerate == 16000
    assert again.shape == (1, 16000)
    assert (again[0] - audio)[1000:-1000].abs().max() < tolerance


def test_float_files_keep_what_16_bits_clip(tmp_path):
    audio = torch.tensor([[-2.0, -1.0, 0.123456, 1.0, 2.0]])
    write_audio(tmp_path / "float.wav", audio, 16000, subtype="FLOAT")
    assert torch.equal(read_audio(tmp_path / "float.wav"), audio)
    write_audio(tmp_path / "clipped.wav", audio, 16000)
    assert torch.allclose(read_audio(tmp_path / "clipped.wav"), audio.clamp(-1, 1), atol=2**-15)


def test_long_vorbis_files_do_not_crash(tmp_path):
    write_audio(tmp_path / "long.ogg", torch.zeros(1_500_000), 48000)
    assert soundfile.info(tmp_path / "long.ogg").frames == 1_500_000


def test_reading_resamples_and_mixes(tmp_path):
    stereo = torch.stack([sine(0.2, 48000), -0.5 * sine(0.2, 48000)])
    write_audio(tmp_path / "stereo.wav", stereo, 48000)
    audio = read_audio(tmp_path / "stereo.wav", sample_rate=16000, channels="mix")
    assert audio.shape == (1, 3200)
    assert audio.dtype == torch.float32
    assert (audio[0] - 0.25 * sine(0.2, 16000))[200:-200].abs().max() < 1e-4
    with pytest.raises(ValueError, match='stereo.wav has 2 channels; pass channels="mix"'):
        read_audio(tmp_path / "stereo.wav")
    with pytest.raises(ValueError, match="channels is 'left'"):
        read_audio(tmp_path / "stereo.wav", channels="left")
    with pytest.raises(ValueError, match="sample_rate is 16;"):
        read_audio(tmp_path / "stereo.wav", sample_rate=16)


def test_files_that_hold_no_audio_are_named(tmp_path):
    write_audio(tmp_path / "good.flac", noise(50000), 16000)
    write_audio(tmp_path / "good.wav", noise(100), 16000)
    good = (tmp_path / "good.flac").read_bytes()
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("hello world" * 100)
    (tmp_path / "headerless.raw").write_bytes(bytes(1000))
    (tmp_path / "header.wav").write_bytes((tmp_path / "good.wav").read_bytes()[:44])
    (tmp_path / "cut.flac").write_bytes(good[: len(good) // 2])
    for name, message in {
        "empty.wav": "is empty",
        "text.wav": "cannot read .*text.wav as audio",
        "headerless.raw": "cannot read .*headerless.raw",
        "header.wav": "header.wav holds 0 samples",
        "cut.flac": "cut.flac",
        ".": "is not a file",
    }.items():
        with pytest.raises(ValueError, match=message):
            read_audio(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"no such audio file: .*missing\.wav"):
        read_audio(tmp_path / "missing.wav")


def test_a_damaged_middle_is_noticed(tmp_path):
    write_audio(tmp_path / "talk.ogg", noise(160000), 16000)
    damaged = bytearray((tmp_path / "talk.ogg").read_bytes())
    middle = len(damaged) // 2
    damaged[middle : middle + 400] = bytes(byte ^ 0x5A for byte in damaged[middle : middle + 400])
    (tmp_path / "talk.ogg").write_bytes(damaged)
    with pytest.raises(ValueError, match="promises 160000 samples but only"):
        read_audio(tmp_path / "talk.ogg")


@pytest.mark.parametrize(
    ("name", "audio", "sample_rate", "message"),
    [
        ("a.xyz", noise(10), 16000, r"from '\.xyz'; known: \.wav"),
        ("a", noise(10), 16000, "known:"),
        ("a.wav", noise(10), 44.1, "expected Hz as an int"),
        ("a.wav", noise(0), 16000, "at least 1 sample"),
        ("a.wav", noise(1, 1, 10), 16000, r"shape \[1, 1, 10\]; expected \[S\]"),
        ("a.wav", noise(16000, 2), 16000, "16000 channels.*transpose"),
        ("a.wav", torch.tensor([0.0, math.nan]), 16000, r"1 NaN or Inf among 2 values, .* = \[0, 1\]"),
        ("a.wav", torch.tensor([0.0, 3000.0]), 16000, "without dividing by 32768"),
        ("a.opus", noise(10), 44100, "Opus only supports"),
        ("a.flac", noise(10, 100), 16000, "FLAC/PCM_16, 16000 Hz, 10 channels"),
    ],
)
def test_files_that_cannot_be_written(tmp_path, name, audio, sample_rate, message):
    with pytest.raises(ValueError, match=message):
        write_audio(tmp_path / name, audio, sample_rate)
    assert list(tmp_path.iterdir()) == []


def test_writing_needs_its_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="folder"):
        write_audio(tmp_path / "missing" / "a.wav", noise(10), 16000)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "talk.wav"
    write_audio(path, noise(100), 16000)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_audio(path, noise(50), 16000)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
