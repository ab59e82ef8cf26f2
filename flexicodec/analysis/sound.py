"""What a clip sounds like, as numbers: energy and mel spectrum of each frame, voicing, and what speakers differ in.

These feed null codecs, which cut where such a curve changes, and the controls of correlations.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from flexicodec.analysis.segments import Segment, in_speech
from flexicodec.audio import resample
from flexicodec.encoders.base import FrontEndConfig
from flexicodec.encoders.fbank import KaldiFbank

FLOOR_DB = -100.0  # of full scale; digital silence is no quieter
ACTIVE_DB = 30.0  # below the loud frames of a clip, down to which a frame counts as speech
LOUD = 0.95  # quantile of a clip's energies that stands for its loud frames
WINDOW, HOP = 0.025, 0.01  # seconds
PITCH_WINDOW = 0.04  # seconds
PITCH_RANGE = (75.0, 500.0)  # Hz
VOICED = 0.45  # of a perfectly periodic sound's correlation with itself, as in Praat


def _windows(audio: Float[np.ndarray, " samples"], size: int, hop: int) -> Float[np.ndarray, "windows size"]:
    """Cut audio into windows; a clip shorter than one is padded with zeros."""
    audio = np.pad(np.asarray(audio, dtype=np.float64), (0, max(0, size - len(audio))))
    return np.lib.stride_tricks.sliding_window_view(audio, size)[::hop]


def _decibels(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.maximum(power, 10 ** (FLOOR_DB / 10)))


def frame_energies_db(
    audio: Float[np.ndarray, " samples"], sample_rate: int, frame_seconds: float, num_frames: int
) -> Float[np.ndarray, " frames"]:
    """Measure the mean power of every frame of a codec's grid, in dB of full scale; beyond the audio it is silent."""
    size = round(frame_seconds * sample_rate)
    kept = np.asarray(audio, dtype=np.float64)[: size * num_frames]
    return _decibels(np.pad(kept, (0, size * num_frames - len(kept))).reshape(num_frames, size).__pow__(2).mean(1))


def frame_mels(
    audio: Float[np.ndarray, " samples"], sample_rate: int, frame_seconds: float, num_frames: int
) -> Float[np.ndarray, "frames mels"]:
    """Average the log-mel spectrum over every frame of a codec's grid, less the clip's mean in each band.

    A frame in which no window of 25 ms is centred, at the end of a clip, has the spectrum of the one before it.
    """
    front = KaldiFbank(FrontEndConfig(dither=0.0))
    wave = resample(torch.as_tensor(np.asarray(audio, dtype=np.float32))[None], sample_rate, front.sample_rate)
    wave = torch.nn.functional.pad(wave, (0, max(0, front.frame_length - wave.shape[1])))
    mels = front.fbank(wave)[0].double().numpy()
    centres = (np.arange(len(mels)) * front.frame_shift + front.frame_length / 2) / front.sample_rate
    frame = np.minimum((centres / frame_seconds).astype(int), num_frames - 1)
    counts = np.bincount(frame, minlength=num_frames)
    sums = np.zeros((num_frames, mels.shape[1]))
    np.add.at(sums, frame, mels)
    filled = np.maximum.accumulate(np.where(counts > 0, np.arange(num_frames), 0))
    means = (sums / np.maximum(counts, 1)[:, None])[filled]
    return means - means.mean(0)


def active(energies_db: Float[np.ndarray, " frames"]) -> Bool[np.ndarray, " frames"]:
    """Tell speech from silence by energy: what lies no more than 30 dB below the clip's loud frames, and no floor."""
    return (energies_db >= np.quantile(energies_db, LOUD) - ACTIVE_DB) & (energies_db > FLOOR_DB)


def voiced(audio: Float[np.ndarray, " samples"], sample_rate: int) -> Bool[np.ndarray, " windows"]:
    """Tell every 10 ms whether 40 ms of sound repeat themselves at 75 to 500 Hz.

    The measure is the autocorrelation of a windowed stretch over that of the window (P. Boersma, "Accurate short-term
    analysis of the fundamental frequency", 1993). Quiet windows are not voiced.
    """
    size, hop = round(PITCH_WINDOW * sample_rate), round(HOP * sample_rate)
    windows = _windows(audio, size, hop)
    taper = np.hanning(size)
    tapered = (windows - windows.mean(1, keepdims=True)) * taper
    longest = min(size - 1, int(sample_rate / PITCH_RANGE[0]))
    shortest = int(sample_rate / PITCH_RANGE[1])

    def autocorrelation(signal: np.ndarray) -> np.ndarray:
        spectrum = np.fft.rfft(signal, 2 * size)
        return np.fft.irfft(np.abs(spectrum) ** 2)[..., : longest + 1]

    own, ideal = autocorrelation(tapered), autocorrelation(taper)
    repeats = own[:, shortest:] / np.maximum(own[:, :1], 1e-12) / (ideal[shortest:] / ideal[0])
    return (repeats.max(1) >= VOICED) & active(_decibels((windows**2).mean(1)))


@dataclass(frozen=True)
class Controls:
    """What clips differ in besides their rates.

    Attributes:
        log_energy_mean: Of the speech in a clip, dB of full scale.
        log_energy_std: Its spread, dB.
        voiced_share: Of the speech, how much is voiced.
    """

    log_energy_mean: float
    log_energy_std: float
    voiced_share: float


def measure_controls(
    audio: Float[np.ndarray, " samples"], sample_rate: int, phones: Sequence[Segment] | None = None
) -> Controls:
    """Measure energy and voicing over the speech of a clip: where phones sound, or else where it is loud enough.

    All are NaN where there is no speech.
    """
    hop = round(HOP * sample_rate)
    energies = _decibels((_windows(audio, round(WINDOW * sample_rate), hop) ** 2).mean(1))
    voicing = voiced(audio, sample_rate)

    def speech(count: int, window: float) -> Bool[np.ndarray, " windows"]:
        return active(energies)[:count] if phones is None else in_speech(phones, np.arange(count) * HOP + window / 2)

    loud, sung = energies[speech(len(energies), WINDOW)], voicing[speech(len(voicing), PITCH_WINDOW)]
    if not len(loud) or not len(sung):
        return Controls(np.nan, np.nan, np.nan)
    return Controls(float(loud.mean()), float(loud.std()), float(sung.mean()))
