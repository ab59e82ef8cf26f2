"""Degradations of clips for tests of metrics."""

import numpy as np


def degraded(audio):
    """Return degraded copies of a clip by name; the tests make the same."""
    noise = np.random.default_rng(0).standard_normal(len(audio))
    return {
        "noisy": audio + 0.01 * noise,
        "coarse": np.round(audio * 64) / 64,
        "quiet": 0.25 * audio,
        "late": np.concatenate([np.zeros(80), audio[:-80]]),
        "cut": np.where(np.arange(len(audio)) % 4000 < 3600, audio, 0.0),
    }
