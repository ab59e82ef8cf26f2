"""Losses that need no discriminator, each one value per item.

An item's loss is the mean over its own valid samples, frames or tokens, so padding and the rest of the batch change
nothing. Spectral losses use the mel filters of the codec's sample rate (upstream FlexiCodec uses those of 24 kHz on
16 kHz audio). `compatible` reproduces NeMo's numbers, which include what the decoder puts past an item's end.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from flexicodec.nn.mel_filters import htk_mel_filters, slaney_mel_filters
from flexicodec.training.config import LossWeights, ReconstructionConfig
from flexicodec.training.speaker_encoder import FrozenNetwork, load_speaker_encoder

POWER_FLOOR = 1e-5  # of NeMo's magnitudes, which are smooth at 0
ENERGY_FLOOR = 1e-5  # of mel energies
SI_SDR_FLOOR = 1e-8
AUDIO_LOSSES = (
    "mel",
    "mel_energy",
    "log_mel",
    "log_mel_squared",
    "stft",
    "waveform",
    "waveform_squared",
    "si_sdr",
    "speaker",
)

WINDOWS = ReconstructionConfig.windows
NUM_MELS = ReconstructionConfig.num_mels

Sizes = tuple[int, ...]
Audio = Float[Tensor, "batch samples"]
PerItem = Float[Tensor, " batch"]
Lengths = Int[Tensor, " batch"]


class AudioLosses(nn.Module):
    """All losses between decoded and original audio that have a weight; if none has one, `mel` is computed anyway."""

    def __init__(self, weights: LossWeights, config: ReconstructionConfig, sample_rate: int) -> None:
        super().__init__()
        # Without any loss on the audio, the total would have no gradient.
        names = [name for name in AUDIO_LOSSES if getattr(weights, name)] or ["mel"]
        self.losses = {name: _make_loss(name, config, sample_rate) for name in names}
        self.loss_modules = nn.ModuleList(loss for loss in self.losses.values() if isinstance(loss, nn.Module))

    def forward(self, estimate: Audio, reference: Audio, lengths: Lengths) -> dict[str, PerItem]:
        """Compare audio of the same shape; keys are the names of the weights."""
        return {name: loss(estimate, reference, lengths) for name, loss in self.losses.items()}


def _make_loss(name: str, config: ReconstructionConfig, sample_rate: int) -> Callable[[Audio, Audio, Lengths], PerItem]:
    options: Any = {"squared": name.endswith("_squared"), "compatible": config.compatible}
    if name == "mel":
        return MultiScaleMelLoss(sample_rate, config.windows, config.num_mels)
    if name == "mel_energy":
        return MelEnergyLoss(sample_rate, config.windows, config.num_mels)
    if name.startswith("log_mel"):
        return LogMelLoss(sample_rate, config.windows, config.num_mels, **options)
    if name == "stft":
        return LogStftLoss(config.windows, **options)
    if name.startswith("waveform"):
        return partial(waveform_loss, **options)
    if name == "si_sdr":
        return si_sdr_loss
    assert name == "speaker"
    if config.speaker_encoder is None:
        raise ValueError(
            "losses.speaker compares speaker embeddings, but reconstruction.speaker_encoder is null; name a local copy "
            "of Edresson/Speaker_Encoder_H_ASP there, or set losses.speaker to 0"
        )
    return SpeakerConsistencyLoss(load_speaker_encoder(config.speaker_encoder), sample_rate)


# -------------------------------------------------------------------------------------------------------- waveforms


def waveform_loss(
    estimate: Audio, reference: Audio, lengths: Lengths, *, squared: bool = False, compatible: bool = False
) -> PerItem:
    """Mean absolute or squared difference of samples; `compatible` sums differences past the lengths as well."""
    if not compatible:
        estimate = zero_padding(estimate, lengths)
        reference = zero_padding(reference, lengths)
    difference = estimate - reference
    distance = difference.square() if squared else difference.abs()
    return distance.sum(dim=1) / lengths


def si_sdr_loss(estimate: Audio, reference: Audio, lengths: Lengths) -> PerItem:
    """Negative scale-invariant signal-to-distortion ratio in dB (arXiv 1811.02508), of zero-mean audio."""
    estimate = _zero_mean(estimate, lengths)
    reference = _zero_mean(reference, lengths)
    # Project the estimate onto the reference: what lies along it is signal, the rest is distortion.
    scale = ((estimate * reference).sum(dim=1) + SI_SDR_FLOOR) / (reference.square().sum(dim=1) + SI_SDR_FLOOR)
    target = scale[:, None] * reference
    ratio = target.square().sum(dim=1) / ((target - estimate).square().sum(dim=1) + SI_SDR_FLOOR)
    return -10 * torch.log10(ratio + SI_SDR_FLOOR)


def _zero_mean(audio: Audio, lengths: Lengths) -> Audio:
    audio = zero_padding(audio, lengths)
    return zero_padding(audio - (audio.sum(dim=1) / lengths)[:, None], lengths)


# ----------------------------------------------------------------------------------------------------- spectrograms


class LogStftLoss(nn.Module):
    """L1 (or squared) distance of log(magnitude + 1) spectrograms, mean over several windows (LFSC, arXiv 2409.12117).

    Windows are in samples, the hop is a quarter; `compatible` includes what lies past the lengths, as NeMo does.
    """

    last_frame = 1  # whether the frame is compared in whose middle the audio may end

    def __init__(self, windows: Sizes = WINDOWS, squared: bool = False, compatible: bool = False) -> None:
        super().__init__()
        self.windows = windows
        self.squared = squared
        self.compatible = compatible

    def forward(self, estimate: Audio, reference: Audio, lengths: Lengths) -> PerItem:
        """Compare audio of the same shape."""
        return torch.stack(self.per_window(estimate, reference, lengths)).mean(dim=0)

    def per_window(self, estimate: Audio, reference: Audio, lengths: Lengths) -> list[PerItem]:
        """Return the loss of each window: the mean over an item's frames."""
        # Reflections start at each item's end, or at the batch's as in NeMo.
        ends = lengths
        if self.compatible:
            ends = torch.full_like(lengths, estimate.shape[1])
        else:
            estimate = zero_padding(estimate, lengths)
            reference = zero_padding(reference, lengths)
        losses = []
        with torch.autocast(estimate.device.type, enabled=False):
            for window in self.windows:
                with torch.no_grad():
                    target = self.log_spectrum(reference.float(), ends, window)
                difference = self.log_spectrum(estimate.float(), ends, window) - target
                distance = difference.square() if self.squared else difference.abs()
                losses.append(mean_of_valid(distance.mean(dim=1), lengths // (window // 4) + self.last_frame))
        return losses

    def log_spectrum(self, audio: Audio, ends: Lengths, window: int) -> Float[Tensor, "batch bins frames"]:
        """Compute log(magnitude + 1) of frames centred in their windows; the audio is reflected at its ends."""
        return (magnitudes(reflect(audio, ends, window // 2), window) + 1).log()


class LogMelLoss(LogStftLoss):
    """L1 or squared distance of log(mel + 1) spectrograms, mean over several windows, without the last frame."""

    last_frame = 0

    def __init__(
        self,
        sample_rate: int,
        windows: Sizes = WINDOWS,
        num_mels: Sizes = NUM_MELS,
        squared: bool = False,
        compatible: bool = False,
    ) -> None:
        super().__init__(windows, squared, compatible)
        _check_windows(windows, num_mels)
        for window, mels in zip(windows, num_mels, strict=True):
            filters = torch.from_numpy(slaney_mel_filters(sample_rate, window, mels, unit_area=False).copy())
            self.register_buffer(f"filters_{window}", filters, persistent=False)

    def log_spectrum(self, audio: Audio, ends: Lengths, window: int) -> Float[Tensor, "batch mels frames"]:
        """Compute log(mel + 1) of frames centred in their windows; the audio is silent beyond its ends."""
        spectrum = magnitudes(F.pad(audio, (window // 2, window // 2)), window)
        return (self.get_buffer(f"filters_{window}") @ spectrum + 1).log()


class MultiScaleMelLoss(LogStftLoss):
    """L1 between log10 mel spectrograms at several window lengths, summed over them (DAC, arXiv 2306.06546)."""

    def __init__(self, sample_rate: int, windows: Sizes = WINDOWS, num_mels: Sizes = NUM_MELS) -> None:
        super().__init__(windows)
        _check_windows(windows, num_mels)
        self.sample_rate = sample_rate
        self.num_mels = dict(zip(windows, num_mels, strict=True))

    def forward(self, estimate: Audio, reference: Audio, lengths: Lengths | None = None) -> PerItem:
        """Compare audio of the same shape; no lengths mean that no item is padded."""
        if lengths is None:
            lengths = torch.full((len(estimate),), estimate.shape[1], device=estimate.device)
        return sum(self.per_window(estimate, reference, lengths), estimate.new_zeros(len(estimate)))

    def log_spectrum(self, audio: Audio, ends: Lengths, window: int) -> Float[Tensor, "batch mels frames"]:
        """Compute log10 of mel magnitudes, floored at 1e-5; the audio is silent beyond its ends."""
        # The periodic window and the floor of DAC's mel spectrograms
        padded = F.pad(audio, (window // 2, window // 2))
        magnitude = (power_spectrum(padded, torch.hann_window(window, device=audio.device)) + 1e-14).sqrt()
        filters = torch.from_numpy(slaney_mel_filters(self.sample_rate, window, self.num_mels[window]))
        return torch.log10(torch.clamp(magnitude @ filters.to(audio.device).T, min=1e-5)).mT


class MelEnergyLoss(MultiScaleMelLoss):
    """L1 of half the logarithm of mel energies, the mean over several windows (specs/mini-v2.md).

    The energies are those of the spectral encoder's input: windows of energy 1 and a floor of 1e-5, so that what nobody
    hears in pauses costs little.
    """

    def forward(self, estimate: Audio, reference: Audio, lengths: Lengths | None = None) -> PerItem:
        """Compare audio of the same shape; no lengths mean that no item is padded."""
        return super().forward(estimate, reference, lengths) / len(self.windows)

    def log_spectrum(self, audio: Audio, ends: Lengths, window: int) -> Float[Tensor, "batch mels frames"]:
        """Compute half the logarithm of mel energies; the audio is silent beyond its ends."""
        taper = torch.hann_window(window, device=audio.device)
        power = power_spectrum(F.pad(audio, (window // 2, window // 2)), taper)
        filters = torch.from_numpy(htk_mel_filters(self.sample_rate, window, self.num_mels[window])).to(audio.device)
        energies = power @ (filters.T / taper.square().sum())
        return 0.5 * (energies + ENERGY_FLOOR).log().mT


def _check_windows(windows: Sizes, num_mels: Sizes) -> None:
    if len(windows) != len(num_mels):
        raise ValueError(f"{len(windows)} windows but {len(num_mels)} numbers of mels; give one number per window")


def magnitudes(audio: Audio, window: int) -> Float[Tensor, "batch bins frames"]:
    """Compute STFT magnitudes of whole windows, a quarter window apart."""
    taper = torch.hann_window(window, periodic=False, device=audio.device)
    return (power_spectrum(audio, taper) + POWER_FLOOR).sqrt().mT


def power_spectrum(audio: Audio, taper: Float[Tensor, " window"]) -> Float[Tensor, "batch frames bins"]:
    """Compute squared STFT magnitudes of whole windows, a quarter window apart."""
    power: Tensor = _PowerSpectrum.apply(audio, taper)
    return power


class _PowerSpectrum(torch.autograd.Function):
    """Squared magnitudes with a gradient of one inverse transform; autograd's own takes several passes more."""

    @staticmethod
    def forward(ctx: Any, audio: Tensor, taper: Tensor) -> Tensor:
        window = len(taper)
        spectrum = torch.fft.rfft(audio.unfold(1, window, window // 4) * taper)
        ctx.save_for_backward(spectrum, taper)
        ctx.samples = audio.shape[1]
        return spectrum.real.square() + spectrum.imag.square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # d|X_k|^2 / dx_t = 2 w_t Re(X_k exp(2 pi i k t / n)). The inverse transform divides by n, and counts all bins
        # but the first and the last twice.
        spectrum, taper = ctx.saved_tensors
        window = len(taper)
        hop = window // 4
        weights = gradient.new_ones(gradient.shape[-1])
        weights[[0, -1]] = 2.0
        frames = torch.fft.irfft(spectrum * (gradient * weights), n=window) * (taper * window)
        # Overlap and add: piece j of a frame goes j hops behind its start.
        total = F.pad(frames[:, :, :hop], (0, 0, 0, 3))
        for j in range(1, 4):
            total[:, j : j + frames.shape[1]] += frames[:, :, j * hop : (j + 1) * hop]
        total = total.flatten(1)
        return F.pad(total, (0, ctx.samples - total.shape[1])), None


def reflect(audio: Audio, ends: Lengths, margin: int) -> Float[Tensor, "batch padded"]:
    """Pad both sides by `margin` samples with reflections at each item's own ends, as far as the item reaches."""
    # time      -2 -1  0  1  2  3  4  5      margin 2, end 4
    # source     2  1  0  1  2  3  2  1      2 * last - time past the end, never below 0
    times = torch.arange(-margin, audio.shape[1] + margin, device=audio.device).abs()
    last = ends[:, None] - 1
    return audio.gather(1, torch.minimum(times, 2 * last - times).clamp(min=0))


# ------------------------------------------------------------------------------------------- embeddings and features


class SpeakerConsistencyLoss(nn.Module):
    """Negative cosine of two clips' speaker embeddings (NanoCodec, arXiv 2508.05835, with weight 0.1).

    Args:
        network: Maps audio [B, S] at 16 kHz to embeddings [B, D] (H/ASP in NanoCodec). A module gets frozen.
        sample_rate: Hz of the audio.
    """

    def __init__(self, network: Callable[[Audio], Float[Tensor, "batch dim"]], sample_rate: int) -> None:
        super().__init__()
        self.embed = FrozenNetwork(network, sample_rate)

    def forward(self, estimate: Audio, reference: Audio, lengths: Lengths | None = None) -> PerItem:
        """Compare audio including its padding, whatever the lengths: the network pools over all time steps."""
        # The reference is the fixed target.
        with torch.no_grad():
            target = self.embed(reference)
        return -F.cosine_similarity(self.embed(estimate), target, dim=1)


def feature_alignment_loss(
    semantic: Float[Tensor, "batch dim tokens"], target: Float[Tensor, "batch dim tokens"], lengths: Lengths
) -> PerItem:
    """Mean squared distance of the semantic stream to each token's mean frozen feature (arXiv 2510.00981)."""
    return mean_of_valid((semantic - target.detach()).square().mean(dim=1), lengths)


def mean_of_valid(values: Float[Tensor, "batch steps"], lengths: Lengths) -> PerItem:
    """Average each item over its first `lengths` steps; 0 where there are none."""
    return zero_padding(values, lengths).sum(dim=1) / lengths.clamp(min=1)


def zero_padding(values: Float[Tensor, "batch steps"], lengths: Lengths) -> Float[Tensor, "batch steps"]:
    """Set everything past each item's length to zero, including what is not finite."""
    return values.masked_fill(torch.arange(values.shape[1], device=values.device) >= lengths[:, None], 0.0)


def weighted_sum(losses: dict[str, PerItem], weights: LossWeights) -> PerItem:
    """Add up all losses by their weights; those of weight 0 too, so that the parts they depend on have gradients."""
    return torch.stack([getattr(weights, name) * value for name, value in losses.items()]).sum(dim=0)
