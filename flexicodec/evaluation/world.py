"""Pitch and mel-cepstra by WORLD (M. Morise et al., 2016), and what is measured on them: MCD, pitch and voicing errors.

Conventions: audio is one clip [S] at `SAMPLE_RATE`, full scale at 1. A frame is 5 ms, frame t is centred on 5 t ms.
Pitch is found by DIO and refined by StoneMask, 71 to 800 Hz, the spectral envelope by CheapTrick, all at pyworld's
defaults. The mel-cepstrum is that of the log envelope on a frequency axis warped by an all-pass with `ALPHA`, order 24.
"""

import importlib.util
import math
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType

import numpy as np
from jaxtyping import Float

SAMPLE_RATE = 16_000  # Hz
FRAME_MS = 5.0
ORDER = 24
ALPHA = 0.42  # the usual warp at 16 kHz, close to the mel scale
BAND = 200  # frames, 1 s
COMPARED = slice(1, 14)  # 13 mel-cepstra, c1 to c13; c0 is the level
MCD_DB = 10 * math.sqrt(2) / math.log(10)  # R. Kubichek, 1993


@dataclass(frozen=True)
class Analysis:
    """What WORLD hears in a clip.

    Attributes:
        pitch: Hz of each frame, 0 where unvoiced.
        cepstra: c0 to c24 of each frame, of the log amplitude.
    """

    pitch: Float[np.ndarray, " frames"]
    cepstra: Float[np.ndarray, "frames coefficients"]


def analyse(audio: Float[np.ndarray, " samples"]) -> Analysis:
    """Find pitch and mel-cepstra of a clip at 16 kHz.

    Raises:
        ImportError: pyworld is not installed.
    """
    world = _pyworld()
    samples = np.ascontiguousarray(audio, dtype=np.float64)
    pitch, times = world.dio(samples, SAMPLE_RATE, frame_period=FRAME_MS)
    pitch = world.stonemask(samples, pitch, times, SAMPLE_RATE)
    envelope = world.cheaptrick(samples, pitch, times, SAMPLE_RATE)
    return Analysis(pitch, mel_cepstra(envelope))


def mel_cepstra(
    envelope: Float[np.ndarray, "frames bins"], order: int = ORDER, alpha: float = ALPHA
) -> Float[np.ndarray, "frames coefficients"]:
    """Turn power spectra, from 0 Hz to half the sample rate, into mel-cepstra of their log amplitude."""
    cepstra = np.fft.irfft(np.log(envelope), axis=1)[:, : envelope.shape[1]]
    cepstra[:, [0, -1]] /= 2  # log power to log amplitude halves all of them, one side for two doubles the others
    return cepstra @ _warp(envelope.shape[1], order, alpha)


def mcd_db(reference: Analysis, estimate: Analysis) -> float:
    """Compute the mel-cepstral distortion in dB: c1 to c13, averaged over all frames, frame against frame."""
    difference = (reference.cepstra - estimate.cepstra)[:, COMPARED]
    return float(MCD_DB * np.linalg.norm(difference, axis=1).mean())


def mcd_dtw_db(reference: Analysis, estimate: Analysis) -> float:
    """Compute the mel-cepstral distortion in dB along the best warping path: c1 to c13, averaged over its steps.

    The path goes from the first pair of frames to the last by steps of (1, 1), (1, 0) and (0, 1), all of one weight,
    pairs no frames that are more than 1 s apart, and has the least sum.
    """
    total, steps = warped_distance(reference.cepstra[:, COMPARED], estimate.cepstra[:, COMPARED], BAND)
    return MCD_DB * total / steps


def pitch_cents(reference: Analysis, estimate: Analysis) -> float:
    """Compute the root mean square pitch error in cents over the frames that are voiced in both; NaN without any."""
    both = (reference.pitch > 0) & (estimate.pitch > 0)
    if not both.any():
        return math.nan
    cents = 1200 * np.log2(estimate.pitch[both] / reference.pitch[both])
    return float(np.sqrt(np.mean(cents**2)))


def voicing_error(reference: Analysis, estimate: Analysis) -> float:
    """Compute the share of frames that are voiced in one and unvoiced in the other."""
    return float(np.mean((reference.pitch > 0) != (estimate.pitch > 0)))


def warped_distance(
    a: Float[np.ndarray, "rows dim"], b: Float[np.ndarray, "columns dim"], band: int | None = None
) -> tuple[float, int]:
    """Align two sequences by dynamic time warping; return the sum of Euclidean distances, and the pairs on the path.

    Works along anti-diagonals, where no cell waits for another, and keeps three of them. A diagonal step is preferred
    to others of equal sum.

    Args:
        a: One vector per step.
        b: One vector per step.
        band: How far the path may leave the diagonal, beyond what unequal lengths make it; None for any distance.
    """
    rows, columns = len(a), len(b)
    band = rows + columns if band is None else band + abs(rows - columns)
    totals = np.full((3, rows + 1), np.inf)  # [k % 3, i + 1] is the cell (i, k - i)
    counts = np.zeros((3, rows + 1), dtype=np.int64)
    for k in range(rows + columns - 1):
        i = np.arange(max(0, k - columns + 1, (k - band + 1) // 2), min(k, rows - 1, (k + band) // 2) + 1)
        distance = np.sqrt(np.square(a[i] - b[k - i]).sum(axis=1))
        now, before, earlier = totals[k % 3], totals[(k - 1) % 3], totals[(k - 2) % 3]
        # (i - 1, k - i - 1), (i - 1, k - i), (i, k - i - 1)
        sums = np.stack([earlier[i], before[i], before[i + 1]])
        steps = np.stack([counts[(k - 2) % 3][i], counts[(k - 1) % 3][i], counts[(k - 1) % 3][i + 1]])
        best = sums.argmin(axis=0)
        cells = np.arange(len(i))
        now[:] = np.inf
        now[i + 1] = distance + (sums[best, cells] if k else 0.0)
        counts[k % 3][i + 1] = steps[best, cells] + 1
    last = (rows + columns - 2) % 3
    return float(totals[last, rows]), int(counts[last, rows])


@lru_cache(maxsize=8)
def _warp(bins: int, order: int, alpha: float) -> Float[np.ndarray, "bins coefficients"]:
    """Make the matrix that warps cepstra: the frequency transform (A. Oppenheim and D. Johnson, 1972).

    Row m holds the series of z^-m in powers of the all-pass: each is the one before, times the all-pass of -alpha.
    """
    matrix = np.zeros((bins, order + 1))
    matrix[0, 0] = 1.0
    matrix[1, 0] = alpha
    matrix[1, 1:] = (1 - alpha**2) * (-alpha) ** np.arange(order)
    for m in range(2, bins):
        matrix[m, 0] = alpha * matrix[m - 1, 0]
        for n in range(1, order + 1):
            matrix[m, n] = matrix[m - 1, n - 1] + alpha * (matrix[m - 1, n] - matrix[m, n - 1])
    return matrix


@lru_cache(maxsize=1)
def _pyworld() -> ModuleType:
    """Load pyworld's compiled part by itself: its `__init__` needs pkg_resources, which setuptools 82 dropped."""
    found = importlib.util.find_spec("pyworld")
    for folder in (found.submodule_search_locations or []) if found else []:
        for suffix in EXTENSION_SUFFIXES:
            if (file := Path(folder) / f"pyworld{suffix}").is_file():
                spec = importlib.util.spec_from_file_location("pyworld.pyworld", file)
                assert spec is not None
                assert spec.loader is not None
                module = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
                return module
    raise ImportError("mel-cepstra and pitch need pyworld: pip install flexicodec-lab[eval]")
