"""Reconstruction losses of the generator.

The mel filters are built for the sample rate at hand (upstream's are those of 24 kHz, on 16 kHz audio).
"""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

WINDOWS = (32, 64, 128, 256, 512, 1024, 2048)
NUM_MELS = (5, 10, 20, 40, 80, 160, 320)


class MultiScaleMelLoss(nn.Module):
    """L1 between log10 mel spectrograms at several window lengths, summed over them (DAC, arXiv 2306.06546).

    Args:
        sample_rate: Hz.
        windows: STFT windows in samples; the hop is a quarter.
        num_mels: Mel bands of each window.
    """

    def __init__(
        self, sample_rate: int, windows: tuple[int, ...] = WINDOWS, num_mels: tuple[int, ...] = NUM_MELS
    ) -> None:
        super().__init__()
        if len(windows) != len(num_mels):
            raise ValueError(f"{len(windows)} windows but {len(num_mels)} numbers of mels; give one number per window")
        self.windows, self.num_mels, self.sample_rate = windows, num_mels, sample_rate

    def forward(
        self,
        estimate: Float[Tensor, "batch samples"],
        reference: Float[Tensor, "batch samples"],
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, ""]:
        """Compare audio of the same length; what lies past `lengths` is compared as silence, which it should be."""
        if lengths is not None:
            inside = torch.arange(estimate.shape[1], device=estimate.device) < lengths[:, None]
            estimate = estimate.masked_fill(~inside, 0.0)
        total = estimate.new_zeros(())
        for window, num_mels in zip(self.windows, self.num_mels, strict=True):
            with torch.no_grad():
                target = self.log_mel(reference, window, num_mels)
            total = total + F.l1_loss(self.log_mel(estimate, window, num_mels), target)
        return total

    def log_mel(
        self, audio: Float[Tensor, "batch samples"], window: int, num_mels: int
    ) -> Float[Tensor, "batch mels frames"]:
        """Take log10 of mel magnitudes, floored at 1e-5."""
        taper = torch.hann_window(window, device=audio.device)
        spectrum = torch.stft(
            audio.float(), window, window // 4, window=taper, center=True, pad_mode="reflect", return_complex=True
        )
        magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-14).sqrt()
        filters = torch.from_numpy(slaney_mel_filters(self.sample_rate, window, num_mels)).to(audio.device)
        return torch.log10(torch.clamp(filters @ magnitude, min=1e-5))


@lru_cache(maxsize=32)
def slaney_mel_filters(sample_rate: int, window: int, num_mels: int) -> np.ndarray:
    """Triangular filters of unit area on Slaney's mel scale (librosa's default), [num_mels, window // 2 + 1]."""
    low_step, corner, log_step = 200.0 / 3, 1000.0, np.log(6.4) / 27.0

    def to_mel(hertz: float | np.ndarray) -> np.ndarray:
        hertz = np.asarray(hertz, dtype=np.float64)
        logarithmic = corner / low_step + np.log(np.maximum(hertz, corner) / corner) / log_step
        return np.where(hertz < corner, hertz / low_step, logarithmic)

    def to_hertz(mel: np.ndarray) -> np.ndarray:
        return np.where(mel < corner / low_step, mel * low_step, corner * np.exp(log_step * (mel - corner / low_step)))

    edges = to_hertz(np.linspace(to_mel(0.0), to_mel(sample_rate / 2), num_mels + 2))
    bins = np.arange(window // 2 + 1) * sample_rate / window
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return (triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


def feature_alignment_loss(
    meaning: Float[Tensor, "batch dim tokens"],
    target: Float[Tensor, "batch dim tokens"],
    lengths: Int[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """Mean squared distance of the semantic stream to the frozen features' mean in each token, over valid tokens."""
    valid = torch.arange(meaning.shape[-1], device=meaning.device) < lengths[:, None]
    distance = (meaning - target.detach()).square().mean(dim=1)
    return (distance * valid).sum() / valid.sum()
