"""How far decoded audio is from the original, as LFSC and NanoCodec measure it (arXiv 2409.12117, 2508.05835).

One value per item: what lies past an item's length does not count, and padding changes nothing. NeMo, which these
losses follow otherwise, hears what the decoder puts there; `compatible` asks for its numbers.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from flexicodec.nn.mel_filters import slaney_mel_filters
from flexicodec.training.frozen import FrozenListener
from flexicodec.training.losses import mean_of_valid

WINDOWS = (32, 64, 128, 256, 512, 1024, 2048)
NUM_MELS = (5, 10, 20, 40, 80, 160, 320)
POWER_FLOOR, SI_SDR_FLOOR = 1e-5, 1e-8

Audio = Float[Tensor, "batch samples"]
PerItem = Float[Tensor, " batch"]
Lengths = Int[Tensor, " batch"]


def waveform_loss(
    estimate: Audio, reference: Audio, lengths: Lengths, *, squared: bool = False, compatible: bool = False
) -> PerItem:
    """Mean absolute (or squared) difference of samples; `compatible` also adds up what differs past the lengths."""
    if not compatible:
        estimate, reference = _silence(estimate, lengths), _silence(reference, lengths)
    difference = estimate - reference
    return (difference.square() if squared else difference.abs()).sum(dim=1) / lengths


def si_sdr_loss(estimate: Audio, reference: Audio, lengths: Lengths) -> PerItem:
    """Negative scale-invariant ratio of signal to distortion, in dB (arXiv 1811.02508), of audio without its mean."""
    estimate, reference = (_zero_mean(audio, lengths) for audio in (estimate, reference))
    scale = (_sum(estimate * reference) + SI_SDR_FLOOR) / (_sum(reference.square()) + SI_SDR_FLOOR)
    target = scale[:, None] * reference
    ratio = _sum(target.square()) / (_sum((target - estimate).square()) + SI_SDR_FLOOR)
    return -10 * torch.log10(ratio + SI_SDR_FLOOR)


class LogStftLoss(nn.Module):
    """L1 between log(magnitude + 1) spectrograms, mean over several windows.

    Args:
        windows: STFT windows in samples; the hop is a quarter.
        compatible: Hear what lies past the lengths, as NeMo does.
    """

    def __init__(self, windows: tuple[int, ...] = WINDOWS, compatible: bool = False) -> None:
        super().__init__()
        self.windows, self.compatible = windows, compatible

    def forward(self, estimate: Audio, reference: Audio, lengths: Lengths) -> PerItem:
        """Compare audio of the same shape, item by item."""
        return torch.stack(self.each(estimate, reference, lengths)).mean(dim=0)

    def each(self, estimate: Audio, reference: Audio, lengths: Lengths) -> list[PerItem]:
        """Return what each window contributes: the mean over an item's frames."""
        if self.compatible:
            ends = torch.full_like(lengths, estimate.shape[1])
        else:
            ends, estimate, reference = lengths, _silence(estimate, lengths), _silence(reference, lengths)
        losses = []
        with torch.autocast(estimate.device.type, enabled=False):
            for window in self.windows:
                with torch.no_grad():
                    target = self.log_spectrum(reference.float(), ends, window)
                distance = self.distance(self.log_spectrum(estimate.float(), ends, window) - target).mean(dim=1)
                losses.append(mean_of_valid(distance, self.frames(lengths, window // 4)))
        return losses

    def frames(self, lengths: Lengths, hop: int) -> Lengths:
        """Count the frames that are compared."""
        return lengths // hop + 1

    def distance(self, difference: Tensor) -> Tensor:
        """Measure a difference of two values."""
        return difference.abs()

    def log_spectrum(self, audio: Audio, ends: Lengths, window: int) -> Float[Tensor, "batch bins frames"]:
        """Take log(magnitude + 1) of frames in the middle of their windows; at its ends the audio is reflected."""
        return (magnitudes(reflect(audio, ends, window // 2), window) + 1).log()


class LogMelLoss(LogStftLoss):
    """L1 or squared distance of log(mel + 1) spectrograms, mean over several windows.

    The last frame, in the middle of which the audio may end, is left out.

    Args:
        sample_rate: Hz.
        windows: STFT windows in samples; the hop is a quarter.
        num_mels: Mel bands of each window.
        squared: Take squared differences.
        compatible: Hear what lies past the lengths, as NeMo does.
    """

    def __init__(
        self,
        sample_rate: int,
        windows: tuple[int, ...] = WINDOWS,
        num_mels: tuple[int, ...] = NUM_MELS,
        squared: bool = False,
        compatible: bool = False,
    ) -> None:
        super().__init__(windows, compatible)
        if len(windows) != len(num_mels):
            raise ValueError(f"{len(windows)} windows but {len(num_mels)} numbers of mels; give one number per window")
        self.squared = squared
        for window, mels in zip(windows, num_mels, strict=True):
            filters = torch.from_numpy(slaney_mel_filters(sample_rate, window, mels, unit_area=False).copy())
            self.register_buffer(f"filters_{window}", filters, persistent=False)

    def frames(self, lengths: Lengths, hop: int) -> Lengths:
        """Count the frames that are compared."""
        return lengths // hop

    def distance(self, difference: Tensor) -> Tensor:
        """Measure a difference of two values."""
        return difference.square() if self.squared else difference.abs()

    def log_spectrum(self, audio: Audio, ends: Lengths, window: int) -> Float[Tensor, "batch mels frames"]:
        """Take log(mel + 1) of frames in the middle of their windows; beyond its ends the audio is silent."""
        spectrum = magnitudes(F.pad(audio, (window // 2, window // 2)), window)
        return (self.get_buffer(f"filters_{window}") @ spectrum + 1).log()


class SpeakerConsistencyLoss(nn.Module):
    """Negative cosine of two clips' speaker embeddings, weighted 0.1 in NanoCodec.

    Args:
        network: Maps audio [B, S] at its own rate to embeddings [B, D] (H/ASP in NanoCodec). A module gets frozen.
        sample_rate: Hz of the audio at hand.
        network_rate: Hz that the network expects.
    """

    def __init__(
        self, network: Callable[[Audio], Float[Tensor, "batch dim"]], sample_rate: int, network_rate: int = 16_000
    ) -> None:
        super().__init__()
        self.listener = FrozenListener(network, sample_rate, network_rate)

    def forward(self, estimate: Audio, reference: Audio, lengths: Lengths | None = None) -> PerItem:
        """Compare audio item by item, padding included whatever the lengths: networks that pool over time hear it."""
        with torch.no_grad():
            target = self.listener(reference)
        return -F.cosine_similarity(self.listener(estimate), target, dim=1)


def magnitudes(audio: Audio, window: int) -> Float[Tensor, "batch bins frames"]:
    """Take magnitudes of whole windows, a quarter window apart, that are smooth at 0."""
    taper = torch.hann_window(window, periodic=False, device=audio.device)
    spectrum = torch.stft(audio, window, window // 4, window=taper, center=False, return_complex=True)
    return (spectrum.real.square() + spectrum.imag.square() + POWER_FLOOR).sqrt()


def reflect(audio: Audio, ends: Lengths, margin: int) -> Float[Tensor, "batch padded"]:
    """Put `margin` samples at both ends, reflections of each item at its own two ends, as far as it reaches."""
    times = torch.arange(-margin, audio.shape[1] + margin, device=audio.device).abs()
    last = ends[:, None] - 1
    return audio.gather(1, torch.minimum(times, 2 * last - times).clamp(min=0))


def _silence(audio: Audio, lengths: Lengths) -> Audio:
    return audio.masked_fill(torch.arange(audio.shape[1], device=audio.device) >= lengths[:, None], 0.0)


def _zero_mean(audio: Audio, lengths: Lengths) -> Audio:
    audio = _silence(audio, lengths)
    return _silence(audio - (_sum(audio) / lengths)[:, None], lengths)


def _sum(values: Audio) -> PerItem:
    return values.sum(dim=1)
