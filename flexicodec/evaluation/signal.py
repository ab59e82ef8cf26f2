"""How near a decoded clip is to the original, as a signal and as it is heard.

Conventions: reference and estimate are one clip each, 1-D float arrays [S] of the same length and sample rate, full
scale at 1. Nothing is aligned, cropped or made louder here; what must be cut or padded, the caller cuts or pads. A
metric that a clip does not define (silence, too short, nothing voiced) is NaN. Metrics that belong to a sample rate
resample for themselves (soxr, HQ): PESQ to 16 kHz or 8 kHz, STOI to 10 kHz (by pystoi), mel distance, MCD and pitch to
16 kHz. Bounds: STOI up to 1, PESQ about 1 to 4.6, SI-SDR in dB within +-100, `vuv_error` a share from 0 to 1.
"""

import contextlib
import math
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

from flexicodec.audio import LOUDEST, check_sample_rate, resample
from flexicodec.evaluation import world
from flexicodec.nn.mel_filters import slaney_mel_filters

Samples = Float[np.ndarray, " samples"]
Band = Literal["wb", "nb"]

METRICS = (
    "stoi",
    "estoi",
    "pesq_wb",
    "pesq_nb",
    "si_sdr_db",
    "mel_distance",
    "mcd_db",
    "mcd_dtw_db",
    "f0_cents",
    "vuv_error",
)
HIGHER_IS_BETTER = {name: name in ("stoi", "estoi", "pesq_wb", "pesq_nb", "si_sdr_db") for name in METRICS}

PESQ_RATES = {"wb": 16_000, "nb": 8_000}  # ITU-T P.862.2 and P.862
PESQ_SECONDS = 20  # compared at a time
SILENCE = 1e-7  # peak, under a step of 24-bit samples: below it a clip is silent, whatever rounding leaves there
SI_SDR_LIMIT_DB = 100.0  # beyond that lies rounding; identical clips would be infinitely good
MEL_WINDOW, MEL_HOP, MEL_BANDS, MEL_FLOOR = 1024, 256, 80, 1e-5  # samples at 16 kHz, bands, magnitude


def validate(reference: Samples, estimate: Samples, sample_rate: int) -> None:
    """Check what every metric here relies on.

    Raises:
        ValueError: Not two 1-D float arrays of equal length with at least a sample, NaN or Inf among them, values that
            are far beyond full scale, or a rate that is no count of Hz.
    """
    check_sample_rate(sample_rate)
    for name, audio in (("reference", reference), ("estimate", estimate)):
        if not isinstance(audio, np.ndarray):
            raise ValueError(f"{name} is a {type(audio).__name__}; expected a NumPy array [S] (a tensor's .numpy()?)")
        if audio.ndim != 1 or not audio.size:
            raise ValueError(f"{name} has shape {list(audio.shape)}; expected one clip [S] with at least 1 sample")
        if audio.dtype.kind != "f":
            raise ValueError(f"{name} is {audio.dtype}; expected floats with full scale at 1 (int16 divided by 32768?)")
        if not np.isfinite(audio).all():
            raise ValueError(f"{name} holds NaN or Inf")
        if (peak := float(np.abs(audio).max())) > LOUDEST:
            raise ValueError(f"{name} reaches {peak:g} where 1 is full scale; were int16 samples only cast to float?")
    if len(reference) != len(estimate):
        raise ValueError(
            f"reference has {len(reference)} samples and estimate {len(estimate)}; expected as many "
            f"({_likely_slip(len(reference), len(estimate))})"
        )


def evaluate(
    reference: Samples, estimate: Samples, sample_rate: int, metrics: Sequence[str] = METRICS
) -> dict[str, float]:
    """Measure a decoded clip by several metrics, which share what work they can.

    Args:
        reference: The original, [S].
        estimate: The decoded clip, [S].
        sample_rate: Hz of both.
        metrics: Names out of `METRICS`.

    Returns:
        The metrics by name, in the order asked for; NaN where one is not defined.

    Raises:
        ValueError: An unknown metric, or see `validate`.
        ImportError: A library is not installed that a metric needs; the extra `eval` has them all.
    """
    if unknown := [name for name in metrics if name not in METRICS]:
        raise ValueError(f"there is no metric {unknown[0]!r}; expected some of {', '.join(METRICS)}")
    pair = _Pair(reference, estimate, sample_rate)
    return {name: _METHODS[name](pair) for name in metrics}


def stoi(reference: Samples, estimate: Samples, sample_rate: int, extended: bool = False) -> float:
    """Compute the short-time objective intelligibility (C. Taal et al., 2011), by pystoi.

    Frames in which the reference is more than 40 dB below its loudest are left out; NaN where fewer than 30 are left
    (384 ms), or either clip is silent throughout (nowhere above 1e-7 of full scale, less than a step of 24 bits).

    Args:
        reference: The original, [S].
        estimate: The decoded clip, [S].
        sample_rate: Hz of both.
        extended: ESTOI instead (J. Jensen and C. Taal, 2016).
    """
    return _Pair(reference, estimate, sample_rate).stoi(extended)


def pesq(reference: Samples, estimate: Samples, sample_rate: int, band: Band = "wb") -> float:
    """Compute PESQ (MOS-LQO) by the library of that name: wide band at 16 kHz, or narrow band at 8 kHz.

    NaN where the library finds no speech to compare: silence (see `stoi`), or clips under a quarter of a second. Its
    tables overflow at the fifty-first utterance, which ends the process, and utterances are 0.4 s apart or more: clips
    of more than 20 s are compared in equal pieces of up to 20 s, whose scores are averaged.

    Args:
        reference: The original, [S].
        estimate: The decoded clip, [S].
        sample_rate: Hz of both; resampled where it is not the band's own.
        band: "wb" (ITU-T P.862.2) or "nb" (ITU-T P.862 and P.862.1).
    """
    return _Pair(reference, estimate, sample_rate).pesq(band)


def si_sdr_db(reference: Samples, estimate: Samples, sample_rate: int) -> float:
    """Compute the scale-invariant signal-to-distortion ratio (J. Le Roux et al., 2019), within +-100 dB.

    Means are taken off both first; NaN where nothing is left of either.
    """
    return _Pair(reference, estimate, sample_rate).si_sdr_db()


def mel_distance(reference: Samples, estimate: Samples, sample_rate: int) -> float:
    """Compute the mean absolute difference of log10 mel magnitudes, floored at 1e-5.

    At 16 kHz: Hann windows of 1024 samples every 256, silence beyond the ends, 80 of Slaney's mel bands of unit area
    from 0 to 8 kHz. 0.3 is a factor of two in every band.
    """
    return _Pair(reference, estimate, sample_rate).mel_distance()


def mcd_db(reference: Samples, estimate: Samples, sample_rate: int, dtw: bool = False) -> float:
    """Compute the mel-cepstral distortion in dB; NaN where either clip is silent throughout (see `stoi`).

    13 mel-cepstra without c0, from WORLD's envelope every 5 ms, order 24, warp 0.42 at 16 kHz (see `world`). All frames
    count, silent ones too, so that hiss where the reference is digital silence weighs heavily.

    Args:
        reference: The original, [S].
        estimate: The decoded clip, [S].
        sample_rate: Hz of both.
        dtw: Compare along the best warping path instead of frame against frame.
    """
    return _Pair(reference, estimate, sample_rate).mcd_db(dtw)


def f0_cents(reference: Samples, estimate: Samples, sample_rate: int) -> float:
    """Compute the root mean square pitch error in cents, over frames voiced in both; NaN where there are none."""
    return _Pair(reference, estimate, sample_rate).f0_cents()


def vuv_error(reference: Samples, estimate: Samples, sample_rate: int) -> float:
    """Compute the share (0 to 1) of 5 ms frames that are voiced in one clip only."""
    return _Pair(reference, estimate, sample_rate).vuv_error()


class _Pair:
    """Two clips, checked once, with what several metrics need of them."""

    def __init__(self, reference: Samples, estimate: Samples, sample_rate: int):
        validate(reference, estimate, sample_rate)
        self.clips = tuple(np.asarray(audio, dtype=np.float64) for audio in (reference, estimate))
        self.sample_rate = int(sample_rate)
        self.silent = any(np.abs(audio).max() < SILENCE for audio in self.clips)

    def at(self, sample_rate: int) -> list[Samples]:
        return [resample(torch.from_numpy(audio), self.sample_rate, sample_rate).numpy() for audio in self.clips]

    @cached_property
    def worlds(self) -> tuple[world.Analysis, ...]:
        return tuple(world.analyse(audio) for audio in self.at(world.SAMPLE_RATE))

    def stoi(self, extended: bool) -> float:
        import pystoi

        if self.silent or len(self.clips[0]) < 0.384 * self.sample_rate:
            return math.nan
        state = np.random.get_state()
        np.random.seed(0)  # ESTOI draws a little noise from the global generator
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)  # pystoi's way to say that too little is left
                return float(pystoi.stoi(*self.clips, self.sample_rate, extended=extended))
        except RuntimeWarning:
            return math.nan
        finally:
            np.random.set_state(state)

    def pesq(self, band: Band) -> float:
        import pesq

        if band not in PESQ_RATES:
            raise ValueError(f"band is {band!r}; expected 'wb' or 'nb'")
        if self.silent:
            return math.nan
        rate = PESQ_RATES[band]
        reference, estimate = (audio.astype(np.float32) for audio in self.at(rate))
        count = -(-len(reference) // (PESQ_SECONDS * rate))
        scores = []
        for pair in zip(np.array_split(reference, count), np.array_split(estimate, count), strict=True):
            if all(audio.any() for audio in pair):
                with contextlib.suppress(pesq.BufferTooShortError, pesq.NoUtterancesError):
                    scores.append(float(pesq.pesq(rate, *pair, band)))
        return sum(scores) / len(scores) if scores else math.nan

    def si_sdr_db(self) -> float:
        reference, estimate = (audio - audio.mean() for audio in self.clips)
        energies = reference @ reference, estimate @ estimate
        rounding = [1e-24 * (audio @ audio) for audio in self.clips]
        if any(energy <= least for energy, least in zip(energies, rounding, strict=True)):
            return math.nan
        share = (reference @ estimate) ** 2 / energies[0] / energies[1]  # of the estimate that is reference
        floor = 10 ** (-SI_SDR_LIMIT_DB / 10)
        return float(10 * np.log10(max(share, floor) / max(1 - share, floor)).clip(-SI_SDR_LIMIT_DB, SI_SDR_LIMIT_DB))

    def mel_distance(self) -> float:
        reference, estimate = (_log_mel(audio) for audio in self.at(world.SAMPLE_RATE))
        return float(np.abs(reference - estimate).mean())

    def mcd_db(self, dtw: bool = False) -> float:
        if self.silent:
            return math.nan
        return world.mcd_dtw_db(*self.worlds) if dtw else world.mcd_db(*self.worlds)

    def f0_cents(self) -> float:
        return world.pitch_cents(*self.worlds)

    def vuv_error(self) -> float:
        return world.voicing_error(*self.worlds)


_METHODS: dict[str, Callable[[_Pair], float]] = {
    "stoi": lambda pair: pair.stoi(extended=False),
    "estoi": lambda pair: pair.stoi(extended=True),
    "pesq_wb": lambda pair: pair.pesq("wb"),
    "pesq_nb": lambda pair: pair.pesq("nb"),
    "si_sdr_db": _Pair.si_sdr_db,
    "mel_distance": _Pair.mel_distance,
    "mcd_db": _Pair.mcd_db,
    "mcd_dtw_db": lambda pair: pair.mcd_db(dtw=True),
    "f0_cents": _Pair.f0_cents,
    "vuv_error": _Pair.vuv_error,
}


def _log_mel(audio: Samples) -> Float[np.ndarray, "bands frames"]:
    """Take log10 mel magnitudes of a clip at 16 kHz; see `mel_distance`."""
    taper = torch.hann_window(MEL_WINDOW, dtype=torch.float64)
    wave = torch.from_numpy(audio)
    spectrum = torch.stft(wave, MEL_WINDOW, MEL_HOP, window=taper, pad_mode="constant", return_complex=True)
    filters = slaney_mel_filters(world.SAMPLE_RATE, MEL_WINDOW, MEL_BANDS)
    return np.log10(np.maximum(filters @ spectrum.abs().numpy(), MEL_FLOOR))


def _likely_slip(samples: int, others: int) -> str:
    """Guess why two clips differ in length."""
    low, high = sorted((samples, others))
    for rates in ((16, 24), (16, 44.1), (22.05, 24), (8, 16), (16, 22.05), (16, 48), (24, 48)):
        if abs(high * rates[0] / rates[1] - low) < 0.001 * low:
            return f"is one at {rates[0]:g} kHz and the other at {rates[1]:g} kHz?"
    return "cut or pad the decoded clip to the original's length"
