"""Acoustic features: energy and mel spectrum of each frame, voicing, and per-clip controls for correlations."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from flexicodec.audio import resample
from flexicodec.corpus.alignments.alignment import Segment
from flexicodec.corpus.alignments.phones import in_speech
from flexicodec.encoders.base import FrontEndConfig
from flexicodec.encoders.fbank import KaldiFbank

FLOOR_DB = -100.0  # of full scale; lower energies, digital silence among them, are raised to it
ACTIVE_DB = 30.0  # below the loud frames of a clip, down to which a frame counts as speech
LOUD = 0.95  # quantile of a clip's energies that stands for its loud frames
WINDOW = 0.025  # seconds
HOP = 0.01  # seconds
PITCH_WINDOW = 0.04  # seconds
PITCH_RANGE = (75.0, 500.0)  # Hz
VOICED = 0.45  # normalised autocorrelation above which a window is voiced, as in Praat


def _windows(audio: Float[np.ndarray, " samples"], size: int, hop: int) -> Float[np.ndarray, "windows size"]:
    """Cut audio into windows; a clip shorter than one is padded with zeros."""
    audio = np.pad(np.asarray(audio, dtype=np.float64), (0, max(0, size - len(audio))))
    return np.lib.stride_tricks.sliding_window_view(audio, size)[::hop]


def _decibels(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.maximum(power, 10 ** (FLOOR_DB / 10)))


def frame_energies_db(
    audio: Float[np.ndarray, " samples"], sample_rate: int, frame_seconds: float, num_frames: int
) -> Float[np.ndarray, " frames"]:
    """Return the mean power of each frame of a codec's grid, in dB of full scale; beyond the audio it is silent."""
    size = round(frame_seconds * sample_rate)
    kept = np.asarray(audio, dtype=np.float64)[: size * num_frames]
    frames = np.pad(kept, (0, size * num_frames - len(kept))).reshape(num_frames, size)
    return _decibels((frames**2).mean(1))


def frame_mels(
    audio: Float[np.ndarray, " samples"], sample_rate: int, frame_seconds: float, num_frames: int
) -> Float[np.ndarray, "frames mels"]:
    """Return the mean log-mel spectrum of each frame of a codec's grid, less the clip's mean in each band.

    A frame in which no window of 25 ms is centred, at the end of a clip, gets the spectrum of the one before it.
    """
    front = KaldiFbank(FrontEndConfig(dither=0.0))
    wave = resample(torch.as_tensor(np.asarray(audio, dtype=np.float32))[None], sample_rate, front.sample_rate)
    wave = torch.nn.functional.pad(wave, (0, max(0, front.frame_length - wave.shape[1])))
    mels = front.fbank(wave)[0].double().numpy()
    # Average the windows that are centred in each frame.
    centres = (np.arange(len(mels)) * front.frame_shift + front.frame_length / 2) / front.sample_rate
    frame = np.minimum((centres / frame_seconds).astype(int), num_frames - 1)
    counts = np.bincount(frame, minlength=num_frames)
    sums = np.zeros((num_frames, mels.shape[1]))
    np.add.at(sums, frame, mels)
    # Frames without a window repeat the last one that has any.
    source = np.maximum.accumulate(np.where(counts > 0, np.arange(num_frames), 0))
    means = (sums / np.maximum(counts, 1)[:, None])[source]
    return means - means.mean(0)


def speech_activity(energies_db: Float[np.ndarray, " frames"]) -> Bool[np.ndarray, " frames"]:
    """Detect speech by energy: frames at most 30 dB below the clip's loud frames, and above the floor."""
    return (energies_db >= np.quantile(energies_db, LOUD) - ACTIVE_DB) & (energies_db > FLOOR_DB)


def voiced(audio: Float[np.ndarray, " samples"], sample_rate: int) -> Bool[np.ndarray, " windows"]:
    """Detect voicing every 10 ms: whether a window of 40 ms is periodic at 75 to 500 Hz; quiet windows are unvoiced.

    The measure is the autocorrelation of the tapered signal over that of the taper (P. Boersma, "Accurate short-term
    analysis of the fundamental frequency", 1993).
    """
    size = round(PITCH_WINDOW * sample_rate)
    windows = _windows(audio, size, round(HOP * sample_rate))
    taper = np.hanning(size)
    longest = min(size - 1, int(sample_rate / PITCH_RANGE[0]))
    shortest = int(sample_rate / PITCH_RANGE[1])

    def autocorrelation(signal: np.ndarray) -> np.ndarray:
        spectrum = np.fft.rfft(signal, 2 * size)
        return np.fft.irfft(np.abs(spectrum) ** 2)[..., : longest + 1]

    tapered = autocorrelation((windows - windows.mean(1, keepdims=True)) * taper)
    ideal = autocorrelation(taper)
    periodicity = tapered[:, shortest:] / np.maximum(tapered[:, :1], 1e-12) / (ideal[shortest:] / ideal[0])
    return (periodicity.max(1) >= VOICED) & speech_activity(_decibels((windows**2).mean(1)))


@dataclass(frozen=True)
class Controls:
    """Acoustic differences between clips that correlations of rates control for."""

    log_energy_mean: float  # dB of full scale, over the speech of the clip
    log_energy_std: float  # dB
    voiced_share: float  # of the speech


def measure_controls(
    audio: Float[np.ndarray, " samples"], sample_rate: int, phones: Sequence[Segment] | None = None
) -> Controls:
    """Measure energy and voicing over the speech of a clip, by its phones or else by energy; NaN without speech."""
    hop = round(HOP * sample_rate)
    energies = _decibels((_windows(audio, round(WINDOW * sample_rate), hop) ** 2).mean(1))
    voicing = voiced(audio, sample_rate)

    def is_speech(count: int, window: float) -> Bool[np.ndarray, " windows"]:
        if phones is None:
            return speech_activity(energies)[:count]
        return in_speech(phones, np.arange(count) * HOP + window / 2)

    speech_energies = energies[is_speech(len(energies), WINDOW)]
    speech_voicing = voicing[is_speech(len(voicing), PITCH_WINDOW)]
    if not len(speech_energies) or not len(speech_voicing):
        return Controls(np.nan, np.nan, np.nan)
    return Controls(float(speech_energies.mean()), float(speech_energies.std()), float(speech_voicing.mean()))
