"""Losses of the generator that need no adversary, each one value per item.

An item's loss is the mean over its own valid frames or tokens, whatever it is batched with; the step averages over the
items of all processes. The mel filters are built for the sample rate at hand (upstream's are those of 24 kHz, on 16 kHz
audio).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flexicodec.nn.mel_filters import slaney_mel_filters

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
    ) -> Float[Tensor, " batch"]:
        """Compare audio of the same length, item by item; what lies past `lengths` does not count."""
        if lengths is None:
            lengths = torch.full((len(estimate),), estimate.shape[1], device=estimate.device)
        with torch.autocast(estimate.device.type, enabled=False):
            return self._compare(estimate.float(), reference.float(), lengths)

    def _compare(
        self,
        estimate: Float[Tensor, "batch samples"],
        reference: Float[Tensor, "batch samples"],
        lengths: Int[Tensor, " batch"],
    ) -> Float[Tensor, " batch"]:
        inside = torch.arange(estimate.shape[1], device=estimate.device) < lengths[:, None]
        estimate, reference = estimate.masked_fill(~inside, 0.0), reference.masked_fill(~inside, 0.0)
        total = estimate.new_zeros(len(estimate))
        for window, num_mels in zip(self.windows, self.num_mels, strict=True):
            with torch.no_grad():
                target = self.log_mel(reference, window, num_mels)
            distance = (self.log_mel(estimate, window, num_mels) - target).abs().mean(dim=1)
            total = total + mean_of_valid(distance, 1 + lengths // (window // 4))
        return total

    def log_mel(
        self, audio: Float[Tensor, "batch samples"], window: int, num_mels: int
    ) -> Float[Tensor, "batch mels frames"]:
        """Take log10 of mel magnitudes, floored at 1e-5; beyond its ends the audio is silent."""
        taper = torch.hann_window(window, device=audio.device)
        spectrum = torch.stft(
            audio.float(), window, window // 4, window=taper, center=True, pad_mode="constant", return_complex=True
        )
        magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-14).sqrt()
        filters = torch.from_numpy(slaney_mel_filters(self.sample_rate, window, num_mels)).to(audio.device)
        return torch.log10(torch.clamp(filters @ magnitude, min=1e-5))


def feature_alignment_loss(
    meaning: Float[Tensor, "batch dim tokens"],
    target: Float[Tensor, "batch dim tokens"],
    lengths: Int[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """Mean squared distance of the semantic stream to the frozen features' mean in each token (arXiv 2510.00981)."""
    return mean_of_valid((meaning - target.detach()).square().mean(dim=1), lengths)


def mean_of_valid(values: Float[Tensor, "batch steps"], lengths: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Average each item over its first `lengths` steps; 0 where it has none."""
    valid = torch.arange(values.shape[1], device=values.device) < lengths[:, None]
    return values.masked_fill(~valid, 0.0).sum(dim=1) / lengths.clamp(min=1)
