"""Signal metrics between a decoded clip and its original: STOI, PESQ, SI-SDR, mel distance, MCD, pitch and voicing.

Reference and estimate are 1-D float arrays [S] of the same length and sample rate, full scale at 1. Nothing is aligned,
cropped or scaled here. A metric that a clip does not define (silence, too short, no voiced frames) is NaN. Metrics that
belong to a sample rate resample by soxr (HQ): PESQ to 16 or 8 kHz, STOI to 10 kHz (by pystoi), mel distance, MCD and
pitch to 16 kHz.
"""

import contextlib
import importlib.util
import math
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

from flexicodec.audio import LOUDEST, check_sample_rate, resample
from flexicodec.evaluation.metrics import world
from flexicodec.evaluation.metrics.loading import Waveform, check_waveform
from flexicodec.nn.mel_filters import slaney_mel_filters

VISQOL_RATE = 16_000  # Hz, of its speech mode
PESQ_RATES = {"wb": 16_000, "nb": 8_000}  # ITU-T P.862.2 and P.862
PESQ_SECONDS = 20  # compared at a time
MIN_STOI_SECONDS = 0.384  # 30 frames of pystoi
SILENCE = 1e-7  # peak, less than a step of 24-bit samples; a clip below it is silent, whatever rounding left there
SI_SDR_LIMIT_DB = 100.0  # beyond it is rounding error; identical clips would score infinity
ROUNDING_ENERGY = 1e-24  # of a clip's energy: what may be left of a constant when its mean is removed
MEL_WINDOW = 1024  # samples at 16 kHz
MEL_HOP = 256
MEL_BANDS = 80
MEL_FLOOR = 1e-5  # magnitude


def signal_metrics(
    reference: Waveform, estimate: Waveform, sample_rate: int, metrics: Sequence[str] | None = None
) -> dict[str, float]:
    """Measure a decoded clip by several metrics (names from `METRICS`; all by default), see `ClipPair` for each.

    Returns:
        The metrics by name, in the order asked for; NaN where one is not defined.
    """
    chosen = METRICS if metrics is None else metrics
    check_metric_names(chosen)
    pair = ClipPair(reference, estimate, sample_rate)
    return {name: _FUNCTIONS[name](pair) for name in chosen}


def check_metric_names(names: Sequence[str]) -> None:
    """Raise ValueError for a name that is neither in `METRICS` nor in `OPTIONAL`, ImportError for a missing package."""
    for name in names:
        if name not in _FUNCTIONS:
            raise ValueError(f"there is no metric {name!r}; expected some of {', '.join(_FUNCTIONS)}")
    if "visqol" in names and importlib.util.find_spec("visqol") is None:
        raise ImportError("visqol needs a package of its own: pip install visqol-python==3.8.0")


class ClipPair:
    """A reference and an estimate, checked once, with the analyses that several metrics share."""

    def __init__(self, reference: Waveform, estimate: Waveform, sample_rate: int):
        self.sample_rate = check_sample_rate(sample_rate)
        self.any_silent = False
        for name, audio in (("reference", reference), ("estimate", estimate)):
            check_waveform(name, audio)
            peak = float(np.abs(audio).max())
            if peak > LOUDEST:
                raise ValueError(
                    f"{name} reaches {peak:g} where 1 is full scale; were int16 samples only cast to float?"
                )
            self.any_silent |= peak < SILENCE
        if len(reference) != len(estimate):
            raise ValueError(
                f"reference has {len(reference)} samples and estimate {len(estimate)}; expected as many "
                f"({_likely_slip(len(reference), len(estimate))})"
            )
        self.reference = reference.astype(np.float64)
        self.estimate = estimate.astype(np.float64)

    def stoi(self, extended: bool = False) -> float:
        """Compute the short-time objective intelligibility, at most 1 (C. Taal et al., 2011), by pystoi.

        Frames in which the reference is more than 40 dB below its loudest are left out; NaN where fewer than 30 are
        left (384 ms). `extended` computes ESTOI instead (J. Jensen and C. Taal, 2016).
        """
        import pystoi

        if self.any_silent or len(self.reference) < MIN_STOI_SECONDS * self.sample_rate:
            return math.nan
        state = np.random.get_state()
        np.random.seed(0)  # ESTOI adds a little noise from the global generator
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)  # how pystoi reports too few frames
                return float(pystoi.stoi(self.reference, self.estimate, self.sample_rate, extended=extended))
        except RuntimeWarning:
            return math.nan
        finally:
            np.random.set_state(state)

    def pesq(self, band: Literal["wb", "nb"] = "wb") -> float:
        """Compute PESQ (MOS-LQO, about 1 to 4.6), wide band (ITU-T P.862.2) or narrow band (P.862 and P.862.1).

        NaN where the library finds no speech: silence, or clips under a quarter of a second. Its tables overflow at the
        51st utterance, which ends the process; utterances are at least 0.4 s apart, so clips of more than 20 s are
        compared in equal pieces of up to 20 s, whose scores are averaged.
        """
        import pesq

        if band not in PESQ_RATES:
            raise ValueError(f"band is {band!r}; expected 'wb' or 'nb'")
        if self.any_silent:
            return math.nan
        rate = PESQ_RATES[band]
        reference, estimate = (audio.astype(np.float32) for audio in self._resampled(rate))
        num_pieces = -(-len(reference) // (PESQ_SECONDS * rate))
        references = np.array_split(reference, num_pieces)
        estimates = np.array_split(estimate, num_pieces)
        scores = []
        for reference, estimate in zip(references, estimates, strict=True):
            if reference.any() and estimate.any():
                with contextlib.suppress(pesq.BufferTooShortError, pesq.NoUtterancesError):
                    scores.append(float(pesq.pesq(rate, reference, estimate, band)))
        return sum(scores) / len(scores) if scores else math.nan

    def si_sdr_db(self) -> float:
        """Compute the scale-invariant signal-to-distortion ratio (J. Le Roux et al., 2019), within +-100 dB.

        Means are removed first; NaN where nothing is left of either clip.
        """
        reference = self.reference - self.reference.mean()
        estimate = self.estimate - self.estimate.mean()
        reference_energy = reference @ reference
        estimate_energy = estimate @ estimate
        if reference_energy <= ROUNDING_ENERGY * (self.reference @ self.reference):
            return math.nan
        if estimate_energy <= ROUNDING_ENERGY * (self.estimate @ self.estimate):
            return math.nan
        explained = (reference @ estimate) ** 2 / reference_energy / estimate_energy  # share of the estimate's energy
        floor = 10 ** (-SI_SDR_LIMIT_DB / 10)
        ratio_db = 10 * np.log10(max(explained, floor) / max(1 - explained, floor))
        return float(ratio_db.clip(-SI_SDR_LIMIT_DB, SI_SDR_LIMIT_DB))

    def mel_distance(self) -> float:
        """Compute the mean absolute difference of log10 mel magnitudes; 0.3 is a factor of two in every band.

        At 16 kHz: Hann windows of 1024 samples every 256, zeros beyond the ends, 80 of Slaney's mel bands of unit area
        from 0 to 8 kHz, magnitudes floored at 1e-5.
        """
        reference, estimate = (_log_mel(audio) for audio in self._resampled(world.SAMPLE_RATE))
        return float(np.abs(reference - estimate).mean())

    def mcd_db(self, dtw: bool = False) -> float:
        """Compute the mel-cepstral distortion in dB, frame against frame or along the best warping path (`dtw`).

        13 mel-cepstra without c0, from WORLD's envelope every 5 ms, order 24, warp 0.42 at 16 kHz (see `world`). All
        frames count, so that hiss where the reference is digital silence weighs heavily.
        """
        if self.any_silent:
            return math.nan
        return world.mcd_dtw_db(*self._analyses) if dtw else world.mcd_db(*self._analyses)

    def visqol(self) -> float:
        """Compute ViSQOL's MOS-LQO for speech (M. Chinen et al., 2020), by visqol-python, at 16 kHz.

        The package maps similarity to scores by a polynomial, which it says over-predicts. Lost frames cost little by
        this measure, so read another one beside it. NaN for silence, which it would give 5, and for clips under 1 s.
        """
        from visqol import VisqolApi

        reference, estimate = self._resampled(VISQOL_RATE)
        if self.any_silent or len(reference) < VISQOL_RATE:
            return math.nan
        visqol = VisqolApi()
        visqol.create(mode="speech", use_lattice_model=False)
        return float(visqol.measure_from_arrays(reference, estimate, VISQOL_RATE).moslqo)

    def f0_cents(self) -> float:
        """Compute the root mean square pitch error in cents over frames voiced in both; NaN where there are none."""
        return world.pitch_cents(*self._analyses)

    def vuv_error(self) -> float:
        """Compute the share (0 to 1) of 5 ms frames that are voiced in one clip only."""
        return world.voicing_error(*self._analyses)

    @cached_property
    def _analyses(self) -> tuple[world.Analysis, world.Analysis]:
        reference, estimate = self._resampled(world.SAMPLE_RATE)
        return world.analyse(reference), world.analyse(estimate)

    def _resampled(self, sample_rate: int) -> tuple[Waveform, Waveform]:
        reference = resample(torch.from_numpy(self.reference), self.sample_rate, sample_rate)
        estimate = resample(torch.from_numpy(self.estimate), self.sample_rate, sample_rate)
        return reference.numpy(), estimate.numpy()


_FUNCTIONS: dict[str, Callable[[ClipPair], float]] = {
    "stoi": ClipPair.stoi,
    "estoi": lambda pair: pair.stoi(extended=True),
    "pesq_wb": lambda pair: pair.pesq("wb"),
    "pesq_nb": lambda pair: pair.pesq("nb"),
    "si_sdr_db": ClipPair.si_sdr_db,
    "mel_distance": ClipPair.mel_distance,
    "mcd_db": ClipPair.mcd_db,
    "mcd_dtw_db": lambda pair: pair.mcd_db(dtw=True),
    "f0_cents": ClipPair.f0_cents,
    "vuv_error": ClipPair.vuv_error,
}
METRICS = tuple(_FUNCTIONS)
OPTIONAL = ("visqol",)  # only by name: they need a package of their own
_FUNCTIONS["visqol"] = ClipPair.visqol


def _likely_slip(samples: int, others: int) -> str:
    """Guess why two clips differ in length."""
    low, high = sorted((samples, others))
    for low_rate, high_rate in ((16, 24), (16, 44.1), (22.05, 24), (8, 16), (16, 22.05), (16, 48), (24, 48)):
        if abs(high * low_rate / high_rate - low) < 0.001 * low:
            return f"is one at {low_rate:g} kHz and the other at {high_rate:g} kHz?"
    return "cut or pad the decoded clip to the original's length"


def _log_mel(audio: Waveform) -> Float[np.ndarray, "bands frames"]:
    """Compute log10 mel magnitudes of a clip at 16 kHz; see `ClipPair.mel_distance`."""
    window = torch.hann_window(MEL_WINDOW, dtype=torch.float64)
    wave = torch.from_numpy(audio)
    spectrum = torch.stft(wave, MEL_WINDOW, MEL_HOP, window=window, pad_mode="constant", return_complex=True)
    filters = slaney_mel_filters(world.SAMPLE_RATE, MEL_WINDOW, MEL_BANDS)
    return np.log10(np.maximum(filters @ spectrum.abs().numpy(), MEL_FLOOR))
