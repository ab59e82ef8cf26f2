"""All discriminators of a run as one module."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flexicodec.training.discriminators.config import AdversarialConfig
from flexicodec.training.discriminators.layers import DiscriminatorOutput
from flexicodec.training.discriminators.multi_period import PeriodDiscriminator
from flexicodec.training.discriminators.stft import BandDiscriminator, SpectrogramDiscriminator
from flexicodec.training.discriminators.wavlm import SlmDiscriminator, load_hidden_states

PEAK = 0.8  # as in DAC (arXiv 2306.06546)
MIN_PEAK = 1e-3  # -60 dBFS; scaling quieter audio up to PEAK would make gradients explode


class Discriminators(nn.Module):
    """Run every discriminator on audio, each item by itself and always in float32."""

    def __init__(self, config: AdversarialConfig, sample_rate: int) -> None:
        super().__init__()
        self.centre = config.centre
        self.parts = nn.ModuleList()
        if config.period is not None:
            self.parts.extend(PeriodDiscriminator(period, config.period) for period in config.period.periods)
        if config.band is not None:
            self.parts.extend(BandDiscriminator(window, config.band) for window in config.band.windows)
        if config.spectrogram is not None:
            for window in config.spectrogram.windows:
                self.parts.append(SpectrogramDiscriminator(window, config.spectrogram))
        if config.slm is not None:
            network = load_hidden_states(config.slm.source)
            self.parts.append(SlmDiscriminator(network, network.dim, sample_rate, channels=config.slm.channels))
        if not self.parts:
            raise ValueError(
                "adversarial has no period, band, spectrogram or slm, expected at least one discriminator; for "
                "training without any, write adversarial: null"
            )

    def forward(self, audio: Float[Tensor, "batch samples"]) -> list[DiscriminatorOutput]:
        """Score audio of any length of at least one sample (one window of the speech model, if there is one)."""
        if audio.ndim != 2 or not audio.shape[1]:
            raise ValueError(
                f"audio has shape {tuple(audio.shape)}, expected [batch, samples] with at least one sample; "
                "is there an axis of channels?"
            )
        with torch.autocast(audio.device.type, enabled=False):
            audio = audio.float()
            if self.centre:
                audio = audio - audio.mean(dim=1, keepdim=True)
                peak = audio.abs().amax(dim=1, keepdim=True)
                audio = audio * (PEAK / peak.clamp(min=MIN_PEAK))
            return [output for part in self.parts for output in part(audio)]
