"""Laws of flexicodec.audio: resampling, validation of batches, and round trips of audio files."""

import math
import os

import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import flexicodec
from flexicodec.audio import as_batch, collate, read_audio, resample, resampled_length, split, write_audio

RATES = [8000, 11025, 16000, 22050, 24000, 44100, 48000]


def sine(seconds: float, sample_rate: int, hertz: float = 440.0) -> torch.Tensor:
    time = torch.arange(round(seconds * sample_rate), dtype=torch.float64) / sample_rate
    return (0.5 * torch.sin(2 * math.pi * hertz * time)).float()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch(audio, lengths=None, sample_rate=16000, target=16000, **options):
    return as_batch(audio, lengths, sample_rate=sample_rate, target_sample_rate=target, **options)


# Resampling


@settings(derandomize=True, deadline=None, max_examples=40)
@given(samples=st.integers(0, 3000), from_rate=st.sampled_from(RATES), to_rate=st.sampled_from(RATES))
def test_resampling_gives_exactly_the_rounded_up_length(samples, from_rate, to_rate):
    resampled = resample(noise(samples), from_rate, to_rate)
    assert resampled.shape == (resampled_length(samples, from_rate, to_rate),)
    assert len(resampled) == math.ceil(samples * to_rate / from_rate)


@pytest.mark.parametrize("from_rate", RATES)
def test_resampling_keeps_a_sine(from_rate):
    resampled = resample(sine(0.5, from_rate), from_rate, 16000)
    expected = sine(0.5, 16000)
    assert (resampled - expected)[200:-200].abs().max() < 1e-4


def test_resampling_is_soxr_with_the_samples_it_rounds_away():
    audio = noise(44101)
    plain = torch.from_numpy(soxr.resample(audio.numpy(), 44100, 16000, quality="HQ"))
    resampled = resample(audio, 44100, 16000)
    assert len(resampled) == len(plain) + 1
    assert torch.equal(resampled[:-1], plain)


def test_resampling_treats_leading_dimensions_alone_and_the_same_every_time():
    audio = noise(2, 3, 1001)
    resampled = resample(audio, 48000, 16000)
    assert resampled.shape == (2, 3, 334)
    assert torch.equal(resampled, resample(audio, np.int64(48000), np.int32(16000)))
    assert torch.equal(resampled[1, 2], resample(audio[1, 2], 48000, 16000))
    assert resample(noise(0, 100), 48000, 16000).shape == (0, 34)


def test_equal_rates_change_nothing():
    audio = noise(3, 100)
    assert torch.equal(resample(audio, 22050, 22050), audio)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_resampling_keeps_the_dtype(dtype):
    audio = sine(0.1, 8000).to(dtype).requires_grad_()
    resampled = resample(audio, 8000, 16000)
    assert resampled.dtype == dtype
    assert not resampled.requires_grad
    assert (resampled.double() - sine(0.1, 16000)).abs()[200:-200].max() < 0.01


def test_resampling_refuses_what_it_cannot_resample():
    with pytest.raises(ValueError, match="float audio .* got int16"):
        resample(torch.zeros(10, dtype=torch.int16), 8000, 16000)
    with pytest.raises(ValueError, match="shape \\[\\]"):
        resample(torch.tensor(0.0), 8000, 16000)


@pytest.mark.parametrize("rate", [44.1, 16000.0, True, "16000", None])
def test_a_sample_rate_is_a_whole_number_of_hertz(rate):
    with pytest.raises(ValueError, match="expected Hz as an int"):
        resample(noise(10), rate, 16000)


@pytest.mark.parametrize("rate", [0, -16000, 16])
def test_a_sample_rate_is_positive_and_not_in_kilohertz(rate):
    with pytest.raises(ValueError, match=r"to_rate is .* at least 1000 Hz" + ("; is it in kHz.*16000" * (rate == 16))):
        resample(noise(10), 16000, rate)


# Collating


@settings(derandomize=True, deadline=None, max_examples=30)
@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=6), flat=st.booleans())
def test_split_undoes_collate(sizes, flat):
    clips = [noise(1, size, seed=index) for index, size in enumerate(sizes)]
    audio, lengths = collate([clip[0] for clip in clips] if flat else clips)
    assert audio.shape == (len(sizes), max(sizes))
    assert lengths.dtype == torch.int64
    assert lengths.tolist() == sizes
    assert all(not audio[index, size:].any() for index, size in enumerate(sizes))
    for clip, again in zip(clips, split(audio, lengths), strict=True):
        assert torch.equal(clip, again)


def test_collate_keeps_the_dtype_and_takes_numpy():
    audio, lengths = collate([np.ones(3, np.int16), np.ones(2, np.int16)])
    assert audio.dtype == torch.int16
    assert audio.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert lengths.tolist() == [3, 2]


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ([], "no clips"),
        ([noise(3), noise(2, 3)], r"clip 1 has shape \[2, 3\]"),
        ([noise(3), noise(0)], r"clip 1 has shape \[0\]"),
        ([torch.tensor(1.0)], r"clip 0 has shape \[\]"),
        ([noise(3), torch.ones(3, dtype=torch.int16)], "clip 1 is int16 .* clip 0 is float32"),
        ([[0.1, 0.2]], "audio is a list"),
    ],
)
def test_collate_refuses_what_is_no_list_of_clips(clips, message):
    with pytest.raises(ValueError, match=message):
        collate(clips)


def test_split_without_lengths_keeps_everything_and_may_give_nothing():
    audio = noise(2, 5)
    assert [tuple(clip.shape) for clip in split(audio)] == [(1, 5), (1, 5)]
    assert [tuple(clip.shape) for clip in split(audio, [0, 3])] == [(1, 0), (1, 3)]
    with pytest.raises(ValueError, match=r"expected \[B, S\]"):
        split(audio[0], [5])
    with pytest.raises(ValueError, match=r"lengths\[1\] = 6 lies beyond the tensor, which has 5 samples"):
        split(audio, [5, 6])


# Validation: audio


def test_one_clip_is_a_batch_of_one():
    audio, lengths = batch(noise(100))
    assert audio.shape == (1, 100)
    assert audio.dtype == torch.float32
    assert lengths.tolist() == [100]
    assert lengths.dtype == torch.int64
    one_sample, lengths = batch(noise(1), sample_rate=48000)
    assert one_sample.shape == (1, 1)
    assert lengths.tolist() == [1]


def test_int16_equals_float():
    samples = torch.tensor([[-32768, -1, 0, 1, 32767]], dtype=torch.int16)
    audio, _ = batch(samples)
    assert torch.equal(audio, samples.float() / 32768)
    assert torch.equal(audio, batch(samples.numpy())[0])
    assert torch.equal(audio, batch(samples.int() * 65536)[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_float_becomes_float32(dtype):
    samples = noise(2, 100).to(dtype)
    audio, _ = batch(samples)
    assert audio.dtype == torch.float32
    assert torch.equal(audio, samples.float())


def test_awkward_numpy_arrays_are_as_good_as_any():
    samples = noise(2, 100).numpy()
    expected, _ = batch(samples)
    frozen = samples.copy()
    frozen.flags.writeable = False
    for same in (frozen, samples[:, ::-1].copy()[:, ::-1], samples.astype(">f4"), np.asfortranarray(samples)):
        assert torch.equal(batch(same)[0], expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int64, np.bool_, np.complex64])
def test_dtypes_without_a_full_scale_are_refused(dtype):
    samples = np.zeros(10, dtype)
    for given_samples in (samples, torch.from_numpy(samples)):
        with pytest.raises(ValueError, match=f"audio is {samples.dtype.name}, which has no agreed full scale"):
            batch(given_samples)


@pytest.mark.parametrize("audio", [[0.1, 0.2], (np.zeros(3), 16000), "talk.flac", None])
def test_only_tensors_and_arrays_are_audio(audio):
    with pytest.raises(ValueError, match=f"audio is a {type(audio).__name__}; expected a torch tensor or numpy array"):
        batch(audio)


def test_stereo_is_mixed_only_when_asked():
    stereo = noise(2, 2, 50)
    mono, _ = batch(stereo, channels="mix")
    assert torch.allclose(mono, stereo.mean(1))
    assert torch.equal(batch(stereo[:, :1])[0], stereo[:, 0])
    with pytest.raises(ValueError, match='2 channels; pass channels="mix"'):
        batch(stereo)
    with pytest.raises(ValueError, match="channels is 'mono'; expected"):
        batch(stereo, channels="mono")


def test_time_is_the_last_axis():
    with pytest.raises(ValueError, match="16000 clips of 2 samples.*transpose"):
        batch(np.zeros((16000, 2), np.float32))
    with pytest.raises(ValueError, match="16000 channels.*transpose"):
        batch(np.zeros((1, 16000, 2), np.float32), channels="mix")


@pytest.mark.parametrize("shape", [(0,), (0, 10), (2, 0), (1, 0, 10), (1, 2, 0)])
def test_nothing_cannot_be_encoded(shape):
    with pytest.raises(ValueError, match="no samples"):
        batch(torch.zeros(shape), channels="mix")


@pytest.mark.parametrize("shape", [(), (1, 1, 1, 10)])
def test_wrong_ranks_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected \[S\], \[B, S\] or \[B, C, S\]"):
        batch(torch.zeros(shape))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_inf_are_counted_and_placed(value):
    audio = noise(2, 100)
    audio[1, 17] = audio[1, 40] = value
    with pytest.raises(ValueError, match=r"2 NaN or Inf among 200 values, the first at .* = \[1, 0, 17\]"):
        batch(audio)
    assert batch(audio, [100, 17])[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_int16_values_cast_to_float_are_noticed(dtype):
    audio = (noise(100) * 32768).round().to(dtype)
    with pytest.raises(ValueError, match="without dividing by 32768"):
        batch(audio)
    assert batch(audio / 32768)[0].abs().max() < 1


# Validation: lengths, padding, rates


@pytest.mark.parametrize("lengths", [[100, 33], (100, 33), np.array([100, 33], np.int32), torch.tensor([100, 33])])
def test_lengths_come_in_any_form(lengths):
    audio, valid = batch(noise(2, 100), lengths)
    assert valid.tolist() == [100, 33]
    assert not audio[1, 33:].any()


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([100], r"lengths has shape \[1\]; expected \[2\]"),
        (100, r"lengths has shape \[\]; expected \[2\]"),
        (torch.ones(2, 100), r"lengths has shape \[2, 100\]"),
        ([[100], [1, 2]], "expected one int per item"),
        (["all", "all"], "expected one int per item"),
        ([1.0, 0.5], "lengths is float64; expected whole samples"),
        ([True, False], "lengths is bool"),
        ([100, 0], r"lengths\[1\] = 0; expected 1 to 100"),
        ([-1, 100], r"lengths\[0\] = -1; expected 1 to 100"),
        ([100, 101], r"lengths\[1\] = 101 lies beyond the tensor, which has 100 samples"),
    ],
)
def test_lengths_are_checked(lengths, message):
    with pytest.raises(ValueError, match=message):
        batch(noise(2, 100), lengths)


@pytest.mark.parametrize("sample_rate", [8000, 16000, 44100, 48000])
@pytest.mark.parametrize("garbage", [math.nan, math.inf, 30000.0, 0.7])
def test_padding_changes_nothing_and_every_item_comes_out_as_alone(sample_rate, garbage):
    clips = [noise(1, size, seed=size) for size in (1000, 1, 441)]
    padded, lengths = collate(clips)
    for item, length in enumerate(lengths):
        padded[item, length:] = garbage
    audio, valid = batch(padded, lengths, sample_rate)
    assert audio.shape == (3, resampled_length(1000, sample_rate, 16000))
    for clip, again, rest in zip(clips, split(audio, valid), split(audio.flip(1), audio.shape[1] - valid), strict=True):
        assert torch.equal(batch(clip, sample_rate=sample_rate)[0], again)
        assert not rest.any()


def test_rates_default_to_the_target():
    audio = noise(100)
    assert torch.equal(batch(audio, sample_rate=None, target=24000)[0][0], audio)
    with pytest.raises(ValueError, match=r"sample_rate is 44\.1; expected Hz"):
        batch(audio, sample_rate=44.1)


def test_the_input_is_neither_changed_nor_shared():
    given_audio = noise(2, 100).requires_grad_()
    given_lengths = torch.tensor([100, 50])
    before = given_audio.detach().clone()
    audio, lengths = batch(given_audio, given_lengths, device="cpu")
    assert not audio.requires_grad
    audio.fill_(7)
    lengths.fill_(7)
    batch(given_audio)[0].fill_(7)
    assert torch.equal(given_audio, before)
    assert given_lengths.tolist() == [100, 50]


@pytest.mark.gpu
def test_the_batch_lands_on_the_device():
    audio, lengths = batch(noise(2, 100), [100, 50], 48000, device="cuda")
    assert audio.is_cuda
    assert lengths.is_cuda
    again, _ = batch(noise(2, 100).cuda(), torch.tensor([100, 50]).cuda(), 48000)
    assert torch.equal(audio, again)
    assert resample(noise(10).cuda(), 8000, 16000).is_cuda


# Files


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
        ("a.wav", noise(6, 100), 16000, "a file has one clip, mono or stereo; write a batch clip by clip"),
    ],
)
def test_files_that_cannot_be_written(tmp_path, name, audio, sample_rate, message):
    with pytest.raises(ValueError, match=message):
        write_audio(tmp_path / name, audio, sample_rate)
    assert list(tmp_path.iterdir()) == []


def test_the_example_ships():
    audio = flexicodec.example_audio()
    assert torch.equal(audio, read_audio(flexicodec.EXAMPLE))
    assert audio.shape[1] / 16000 == pytest.approx(8.5, abs=0.1)
    assert flexicodec.example_audio(sample_rate=8000).shape[1] == -(-audio.shape[1] // 2)


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
