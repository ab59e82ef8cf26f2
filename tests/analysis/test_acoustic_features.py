"""Energy, spectrum and voicing of known signals."""

import numpy as np
import pytest

from flexicodec.analysis.acoustic_features import (
    frame_energies_db,
    frame_mels,
    measure_controls,
    speech_activity,
    voiced,
)
from flexicodec.corpus.alignments.alignment import Segment

RATE = 16_000


def tone(hertz, seconds=1.0, size=0.1, rate=RATE):
    """A speech-like tone: ten harmonics."""
    time = np.arange(round(seconds * rate)) / rate
    return (size * sum(np.cos(2 * np.pi * hertz * k * time) / k for k in range(1, 11))).astype(np.float32)


def test_energies_are_those_of_each_frame():
    audio = np.concatenate([np.full(1280, 0.1), np.full(1280, 0.01), np.zeros(600)])
    assert frame_energies_db(audio, RATE, 0.08, 4) == pytest.approx([-20, -40, -100, -100])


@pytest.mark.parametrize("samples", [1, 399, 1280, 5000])
@pytest.mark.parametrize("rate", [RATE, 22_050])
def test_every_frame_has_a_spectrum(samples, rate):
    frames = int(np.ceil(samples / rate / 0.08))
    mels = frame_mels(np.random.default_rng(0).standard_normal(samples).astype(np.float32), rate, 0.08, frames)
    assert mels.shape == (frames, 80)
    assert np.isfinite(mels).all()
    assert mels.mean(0) == pytest.approx(np.zeros(80), abs=1e-9)


def test_silence_is_not_speech():
    assert not speech_activity(np.full(5, -100.0)).any()
    assert speech_activity(np.array([-20.0, -25, -60, -20, -100])).tolist() == [True, True, False, True, False]


@pytest.mark.parametrize("rate", [RATE, 22_050])
@pytest.mark.parametrize("hertz", [90, 220, 400])
def test_tones_are_voiced_and_noise_is_not(hertz, rate):
    assert voiced(tone(hertz, rate=rate), rate).all()
    noise = np.random.default_rng(0).standard_normal(RATE) * 0.1
    assert voiced(noise, RATE).mean() < 0.05
    assert not voiced(np.zeros(RATE), RATE).any()
    assert len(voiced(np.zeros(10), RATE)) == 1


def test_quiet_hum_under_speech_is_not_voiced():
    audio = np.concatenate([tone(150), tone(150, size=1e-4)])
    found = voiced(audio, RATE)
    assert found[:90].all()
    assert not found[105:].any()


def test_controls_are_those_of_the_speech():
    noise = 0.1 * np.random.default_rng(0).standard_normal(RATE)
    audio = np.concatenate([np.zeros(RATE), tone(150), noise]).astype(np.float32)
    phones = (Segment(0.0, 1.0, "sil"), Segment(1.0, 2.0, "AA1"), Segment(2.0, 3.0, "S"))
    found = measure_controls(audio, RATE, phones)
    assert found.voiced_share == pytest.approx(0.5, abs=0.03)
    louder = measure_controls(2 * audio, RATE, phones)
    assert louder.log_energy_mean - found.log_energy_mean == pytest.approx(6.02, abs=0.01)
    assert louder.log_energy_std == pytest.approx(found.log_energy_std)
    by_energy = measure_controls(audio, RATE)
    assert by_energy.voiced_share == pytest.approx(found.voiced_share, abs=0.03)


def test_without_speech_there_is_nothing_to_measure():
    assert np.isnan(measure_controls(np.zeros(RATE), RATE).log_energy_mean)
    assert np.isnan(measure_controls(tone(150), RATE, (Segment(0, 1, "sp"),)).voiced_share)
