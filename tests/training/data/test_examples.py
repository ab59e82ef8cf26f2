"""Augmentation: levels, noise at the requested ratio, codecs that change the audio and not its timing."""

import numpy as np
import pytest
import soundfile

from flexicodec.audio import read_audio
from flexicodec.corpus import write_manifest
from flexicodec.corpus.manifest import Utterance
from flexicodec.training.config import AugmentationConfig, DataConfig
from flexicodec.training.data import training_batches
from flexicodec.training.data.examples import CODECS, Augmentation, add_noise, level_dbfs, through_codec

RATE = 16_000


@pytest.fixture(scope="module")
def speech(speech_folder):
    return read_audio(sorted(speech_folder.glob("*.flac"))[0])[0, : 2 * RATE].numpy()


def augmented(audio, item=0, rate=RATE, **settings):
    changed, skipped = Augmentation(AugmentationConfig(**settings), rate)(audio, np.random.default_rng(item))
    assert changed.dtype == np.float32
    assert changed.shape == audio.shape
    assert skipped == 0
    return changed


def test_nothing_asked_for_is_nothing_done(speech):
    np.testing.assert_array_equal(augmented(speech), speech)


def test_loudness_and_gain(speech):
    assert level_dbfs(augmented(speech, loudness_dbfs=-30.0)) == pytest.approx(-30.0, abs=1e-3)
    levels = [level_dbfs(augmented(speech, item, loudness_dbfs=-30.0, gain_db=(-9.0, 3.0))) for item in range(40)]
    assert -39.01 < min(levels) < -37
    assert -29 < max(levels) < -26.99


def test_pauses_are_not_amplified_and_silence_stays_silent(speech):
    quiet = speech / np.abs(speech).max() * 1e-4
    np.testing.assert_array_equal(augmented(quiet, loudness_dbfs=-20.0), quiet)
    assert not augmented(0 * speech, loudness_dbfs=-20.0, gain_db=(3.0, 6.0)).any()


def test_nothing_is_clipped(speech):
    loud = augmented(speech, gain_db=(40.0, 40.0))
    assert np.abs(loud).max() == 1.0
    np.testing.assert_allclose(loud, speech / np.abs(speech).max(), atol=1e-6)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("rate", [16_000, 22_050])
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_codecs_keep_the_timing(speech, codec, rate, level):
    coded = through_codec(speech, rate, codec, level)
    assert coded.shape == speech.shape
    assert coded.dtype == np.float32
    spectra = np.fft.rfft(coded, 2 * len(speech)) * np.conj(np.fft.rfft(speech, 2 * len(speech)))
    assert np.argmax(np.fft.irfft(spectra)) in (0, 1, 2 * len(speech) - 1)
    ratio = 10 * np.log10(np.square(speech).sum() / np.square(speech - coded).sum())
    assert 5 < ratio < 45


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("samples", [1, 1279])
def test_codecs_take_short_clips(speech, codec, samples):
    assert through_codec(speech[:samples], RATE, codec, 0.5).shape == (samples,)


@pytest.mark.parametrize("samples", [8021, 8161, 8201])
def test_codecs_are_right_to_the_end(codec_tone, samples):
    """Of a steady tone nothing is louder at the end; libsndfile's own last packet of Opus may be noise."""
    tone = codec_tone[:samples]
    for level in (0.0, 0.5, 1.0):
        coded = through_codec(tone, RATE, "opus", level)
        assert np.abs(coded - tone)[-320:].max() < 0.25


@pytest.fixture(scope="module")
def codec_tone():
    t = np.arange(RATE) / RATE
    return (0.4 * np.sin(2 * np.pi * 200 * t + 1) + 0.1 * np.sin(2 * np.pi * 1234 * t)).astype(np.float32)


def test_codecs_are_sampled(speech):
    results = [augmented(speech, item, codec_share=0.5) for item in range(12)]
    plain = sum(np.array_equal(result, speech) for result in results)
    assert 1 <= plain <= 11
    assert len({result.tobytes() for result in results}) == 12 - plain + 1


def test_noise_has_the_ratio_asked_for(speech):
    noise = np.random.default_rng(0).standard_normal(len(speech)).astype(np.float32)
    for snr in (-5.0, 0.0, 20.0):
        added = add_noise(speech, noise, snr) - speech
        assert level_dbfs(speech) - level_dbfs(added) == pytest.approx(snr, abs=1e-3)
    np.testing.assert_array_equal(add_noise(speech, 0 * speech, 5.0), speech)
    np.testing.assert_array_equal(add_noise(0 * speech, noise, 5.0), 0 * speech)


@pytest.fixture
def noise_manifest(tmp_path):
    """A short and a long clip of noise, at another rate, and one that cannot be read."""
    utterances = []
    for index, seconds in enumerate((0.5, 6.0)):
        samples = np.random.default_rng(index).normal(0, 0.1, round(seconds * 22_050))
        soundfile.write(tmp_path / f"n{index}.wav", samples, 22_050)
        utterances.append(Utterance(tmp_path / f"n{index}.wav", seconds))
    write_manifest(tmp_path / "noise.jsonl", [*utterances, Utterance(tmp_path / "gone.wav", 6.0)])
    return tmp_path / "noise.jsonl"


def test_noise_comes_from_its_manifest_and_bad_clips_are_counted(speech, noise_manifest):
    config = AugmentationConfig(noise_manifest=str(noise_manifest), noise_share=1.0, noise_snr_db=(10.0, 12.0))
    augment = Augmentation(config, RATE)
    skipped = 0
    for item in range(20):
        noisy, unreadable = augment(speech, np.random.default_rng(item))
        skipped += unreadable
        assert 10 - 1e-3 <= level_dbfs(speech) - level_dbfs(noisy - speech) <= 12 + 1e-3
    assert skipped > 0


def test_noise_that_is_gone_is_an_error(speech, tmp_path):
    write_manifest(tmp_path / "noise.jsonl", [Utterance(tmp_path / "gone.wav", 6.0)])
    augment = Augmentation(AugmentationConfig(noise_manifest=str(tmp_path / "noise.jsonl"), noise_share=1.0), RATE)
    with pytest.raises(ValueError, match="20 clips of noise in a row"):
        augment(speech, np.random.default_rng(0))


def test_batches_are_augmented_on_their_valid_samples_alone(speech_manifest, noise_manifest):
    settings = AugmentationConfig(loudness_dbfs=-25.0, noise_manifest=str(noise_manifest), noise_share=1.0)
    config = DataConfig((str(speech_manifest),), batch_size=8, crop_seconds=1.0, augmentation=settings)
    batches = training_batches(config, sample_rate=RATE, seed=0)
    batch = next(batches)
    for row, length in zip(batch.audio, batch.lengths, strict=True):
        assert not row[length:].any()
        assert level_dbfs(row[:length].numpy()) == pytest.approx(-25, abs=1.5)
    assert batch.skipped + next(batches).skipped + next(batches).skipped > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise_share": 0.5}, "no noise_manifest"),
        ({"codec_share": 1.5}, "codec_share is 1.5, expected a probability"),
        ({"gain_db": (3.0, -3.0)}, "lower end first"),
        ({"codec_share": 0.5, "codecs": ("gsm",)}, "expected some of opus, vorbis, mp3"),
        ({"codec_share": 0.5, "codecs": ()}, "expected some of"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(AugmentationConfig(**settings), RATE)
