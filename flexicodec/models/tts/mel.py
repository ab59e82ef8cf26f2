"""Normalised log-mel spectrograms of released weights, and the resampling they were trained with."""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from flexicodec.models.tts.config import RELEASED_MEL, MelConfig
from flexicodec.nn.mel_filters import slaney_mel_filters

LOG_FLOOR = 1e-5  # of mel magnitudes
SQUARE_FLOOR = 1e-9  # added to squared magnitudes, whose root has no slope at 0
ZERO_CROSSINGS = 6  # of the resampling filter, on either side
ROLLOFF = 0.99  # its cut-off, as a share of the lower Nyquist frequency


def resample_sinc(audio: Float[Tensor, "*batch samples"], from_rate: int, to_rate: int) -> Float[Tensor, "*batch out"]:
    """Change the sample rate by a sinc under a Hann window (torchaudio's default), ceil(samples * to / from) samples.

    Released weights were trained on audio that was resampled so; `flexicodec.audio.resample` has a sharper filter.
    """
    if from_rate == to_rate:
        return audio
    divisor = math.gcd(from_rate, to_rate)
    down = from_rate // divisor
    up = to_rate // divisor
    kernels, reach = _kernels(down, up)
    samples = audio.shape[-1]
    padded = F.pad(audio.reshape(-1, 1, samples), (reach, reach + down))
    # Every `down` input samples give `up` output samples, each by a kernel of its own phase.
    phases = F.conv1d(padded, kernels.to(audio), stride=down)
    resampled = phases.mT.flatten(1)[:, : -(-samples * up // down)]
    return resampled.reshape(*audio.shape[:-1], -1)


@lru_cache(maxsize=8)
def _kernels(down: int, up: int) -> tuple[Tensor, int]:
    """Filters [up, 1, taps] of all phases, and the samples they reach to the left; times in seconds of input * rate."""
    cutoff = min(down, up) * ROLLOFF
    reach = math.ceil(ZERO_CROSSINGS * down / cutoff)
    # In float32 and in this order, as in training: where a band holds nothing but rounding, other rounding is seen.
    offsets = torch.arange(-reach, reach + down, dtype=torch.float32, device="cpu") / down
    phases = torch.arange(0, -up, -1, dtype=torch.float32, device="cpu")[:, None] / up
    times = ((phases + offsets) * cutoff).clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)
    taper = torch.cos(times * math.pi / ZERO_CROSSINGS / 2).square()
    turns = times * math.pi
    kernels = torch.where(turns == 0, 1.0, turns.sin() / turns)
    return (kernels * (taper * (cutoff / down)))[:, None], reach


def log_mel(
    audio: Float[Tensor, "batch samples"], config: MelConfig = RELEASED_MEL, normalize: bool = True
) -> Float[Tensor, "batch mels frames"]:
    """Compute log-mel magnitudes; frame j is centred on samples j * hop to (j + 1) * hop.

    Args:
        audio: At `config.sample_rate`; there are samples // hop frames.
        config: Window, bands and normalisation.
        normalize: Subtract the mean and divide by the deviation.

    Raises:
        ValueError: The audio is too short to be continued by reflection.
    """
    margin = (config.window - config.hop) // 2
    if audio.shape[-1] <= margin:
        raise ValueError(
            f"{audio.shape[-1]} samples at {config.sample_rate} Hz are too short for a mel spectrogram; expected more "
            f"than {margin}"
        )
    audio = F.pad(audio[:, None].float(), (margin, margin), mode="reflect")[:, 0]
    window = torch.hann_window(config.window, device=audio.device)
    spectrum = torch.fft.rfft(audio.unfold(-1, config.window, config.hop) * window)
    magnitude = (spectrum.real.square() + spectrum.imag.square() + SQUARE_FLOOR).sqrt()
    filters = torch.from_numpy(slaney_mel_filters(config.sample_rate, config.window, config.num_mels))
    energies = (magnitude @ filters.to(audio.device).T).clamp(min=LOG_FLOOR).log().mT
    return (energies - config.mean) / math.sqrt(config.variance) if normalize else energies


def num_mel_frames(samples: int, sample_rate: int, config: MelConfig = RELEASED_MEL) -> int:
    """Count the mel frames of a clip of so many samples at its own rate."""
    return -(-samples * config.sample_rate // sample_rate) // config.hop
