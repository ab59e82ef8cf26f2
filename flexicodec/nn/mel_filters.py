"""Triangular filters on mel scales: Slaney's (librosa's default) and HTK's (torchaudio's)."""

from functools import lru_cache

import numpy as np

# Slaney's scale.
LOW_STEP = 200.0 / 3  # Hz per mel up to the corner
CORNER = 1000.0  # Hz
LOG_STEP = np.log(6.4) / 27.0  # logarithm of the ratio per mel above it


@lru_cache(maxsize=64)
def slaney_mel_filters(sample_rate: int, window: int, num_mels: int, unit_area: bool = True) -> np.ndarray:
    """Compute filters [num_mels, window // 2 + 1] in float32, from 0 Hz to half the sample rate.

    Args:
        sample_rate: Hz.
        window: FFT length in samples.
        num_mels: Filters.
        unit_area: Divide each by its area in Hz (librosa's default); else every peak is 1.
    """
    edges = mel_to_hz(np.linspace(0.0, hz_to_mel(sample_rate / 2), num_mels + 2))
    areas = (edges[2:] - edges[:-2]) / 2 if unit_area else np.ones(num_mels)
    return (_triangles(edges, sample_rate, window) / areas[:, None]).astype(np.float32)


def htk_mel_filters(sample_rate: int, window: int, num_mels: int) -> np.ndarray:
    """Compute filters as `slaney_mel_filters` does, evenly spaced on 2595 log10(1 + f / 700), every peak 1."""
    highest = 2595 * np.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0.0, highest, num_mels + 2) / 2595) - 1)
    return _triangles(edges, sample_rate, window).astype(np.float32)


def _triangles(edges: np.ndarray, sample_rate: int, window: int) -> np.ndarray:
    """Rise from each edge to the next and fall to the one after it, at the bins of an FFT."""
    bins = np.arange(window // 2 + 1) * sample_rate / window
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0.0, np.minimum(rising, falling))


def hz_to_mel(hertz: float | np.ndarray) -> np.ndarray:
    """Convert to Slaney's scale: linear up to 1 kHz, logarithmic above."""
    hertz = np.asarray(hertz, dtype=np.float64)
    logarithmic = CORNER / LOW_STEP + np.log(np.maximum(hertz, CORNER) / CORNER) / LOG_STEP
    return np.where(hertz < CORNER, hertz / LOW_STEP, logarithmic)


def mel_to_hz(mel: np.ndarray) -> np.ndarray:
    """Invert `hz_to_mel`."""
    corner = CORNER / LOW_STEP
    return np.where(mel < corner, mel * LOW_STEP, CORNER * np.exp(LOG_STEP * (mel - corner)))
