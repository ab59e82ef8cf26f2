"""WORLD analysis (M. Morise et al., 2016) and the metrics computed from it: MCD, pitch and voicing errors.

Audio is one clip [S] at `SAMPLE_RATE`, full scale at 1. A frame is 5 ms; frame t is centred on 5 t ms. Pitch is found
by DIO and refined by StoneMask, 71 to 800 Hz, the spectral envelope by CheapTrick, all at pyworld's defaults. The
mel-cepstrum is that of the log envelope on a frequency axis warped by an all-pass with `ALPHA`, order 24.
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
    """Pitch and mel-cepstra of a clip."""

    pitch: Float[np.ndarray, " frames"]  # Hz, 0 where unvoiced
    cepstra: Float[np.ndarray, "frames coefficients"]  # c0 to c24, of the log amplitude


def analyse(audio: Float[np.ndarray, " samples"]) -> Analysis:
    """Compute pitch and mel-cepstra of a clip at 16 kHz."""
    world = _pyworld()
    samples = np.ascontiguousarray(audio, dtype=np.float64)
    pitch, times = world.dio(samples, SAMPLE_RATE, frame_period=FRAME_MS)
    pitch = world.stonemask(samples, pitch, times, SAMPLE_RATE)
    envelope = world.cheaptrick(samples, pitch, times, SAMPLE_RATE)
    return Analysis(pitch, mel_cepstra(envelope))


def mel_cepstra(envelope: Float[np.ndarray, "frames bins"]) -> Float[np.ndarray, "frames coefficients"]:
    """Convert power spectra, from 0 Hz to half the sample rate, to mel-cepstra of their log amplitude."""
    cepstra = np.fft.irfft(np.log(envelope), axis=1)[:, : envelope.shape[1]]
    # Log amplitude is half of log power; folding the negative side onto the positive doubles all but both ends.
    cepstra[:, [0, -1]] /= 2
    return cepstra @ _warping_matrix(envelope.shape[1])


def mcd_db(reference: Analysis, estimate: Analysis) -> float:
    """Compute the mel-cepstral distortion in dB: c1 to c13, averaged over all frames, frame against frame."""
    difference = (reference.cepstra - estimate.cepstra)[:, COMPARED]
    return float(MCD_DB * np.linalg.norm(difference, axis=1).mean())


def mcd_dtw_db(reference: Analysis, estimate: Analysis) -> float:
    """Compute the mel-cepstral distortion in dB along the best warping path: c1 to c13, averaged over its steps.

    The path leads from the first pair of frames to the last by steps of (1, 1), (1, 0) and (0, 1), all of one weight,
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
    """Align two sequences of vectors by dynamic time warping.

    A diagonal step is preferred to others of equal sum.

    `band` is how far the path may leave the diagonal, beyond what unequal lengths require; None for any distance.

    Returns:
        The sum of Euclidean distances along the path, and the number of pairs on it.
    """
    rows = len(a)
    columns = len(b)
    if band is None:
        band = rows + columns
    else:
        band += abs(rows - columns)
    # All cells (i, k - i) of the anti-diagonal k depend only on the two before it, so three of them are kept and each
    # is computed at once. Row k % 3 holds anti-diagonal k, with cell i at position i + 1:
    #
    #     k - 2   (i-1, j-1)
    #     k - 1   (i-1, j  )   (i, j-1)
    #     k                    (i, j  )        j = k - i
    totals = np.full((3, rows + 1), np.inf)
    counts = np.zeros((3, rows + 1), dtype=np.int64)
    for k in range(rows + columns - 1):
        first = max(0, k - columns + 1, (k - band + 1) // 2)
        last = min(k, rows - 1, (k + band) // 2)
        i = np.arange(first, last + 1)
        distance = np.sqrt(np.square(a[i] - b[k - i]).sum(axis=1))
        diagonal = (k - 2) % 3
        straight = (k - 1) % 3
        sums = np.stack([totals[diagonal][i], totals[straight][i], totals[straight][i + 1]])
        steps = np.stack([counts[diagonal][i], counts[straight][i], counts[straight][i + 1]])
        best = sums.argmin(axis=0)
        cells = np.arange(len(i))
        before = sums[best, cells] if k else 0.0
        totals[k % 3] = np.inf
        totals[k % 3, i + 1] = distance + before
        counts[k % 3, i + 1] = steps[best, cells] + 1
    end = (rows + columns - 2) % 3
    return float(totals[end, rows]), int(counts[end, rows])


@lru_cache(maxsize=8)
def _warping_matrix(bins: int) -> Float[np.ndarray, "bins coefficients"]:
    """Make the matrix that warps cepstra: the frequency transform (A. Oppenheim and D. Johnson, 1972).

    Row m holds the series of z^-m in powers of the all-pass: each is the row before, times the all-pass of -alpha.
    """
    matrix = np.zeros((bins, ORDER + 1))
    matrix[0, 0] = 1.0
    matrix[1, 0] = ALPHA
    matrix[1, 1:] = (1 - ALPHA**2) * (-ALPHA) ** np.arange(ORDER)
    for m in range(2, bins):
        matrix[m, 0] = ALPHA * matrix[m - 1, 0]
        for n in range(1, ORDER + 1):
            matrix[m, n] = matrix[m - 1, n - 1] + ALPHA * (matrix[m - 1, n] - matrix[m, n - 1])
    return matrix


@lru_cache(maxsize=1)
def _pyworld() -> ModuleType:
    """Load pyworld's compiled part alone: its `__init__` needs pkg_resources, which setuptools 82 dropped."""
    package = importlib.util.find_spec("pyworld")
    locations = package.submodule_search_locations if package else None
    for location in locations or []:
        for suffix in EXTENSION_SUFFIXES:
            file = Path(location) / f"pyworld{suffix}"
            if file.is_file():
                spec = importlib.util.spec_from_file_location("pyworld.pyworld", file)
                assert spec is not None
                assert spec.loader is not None
                module = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
                return module
    raise ImportError("mel-cepstra and pitch need pyworld: pip install flexicodec-lab[eval]")
