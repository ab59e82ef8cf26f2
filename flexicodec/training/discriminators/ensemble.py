"""All discriminators of a run as one module: audio in, one judgement each out."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flexicodec.training.config import AdversarialConfig
from flexicodec.training.discriminators.band import BandDiscriminator
from flexicodec.training.discriminators.period import PeriodDiscriminator
from flexicodec.training.discriminators.shared import Judgement

PEAK = 0.8
QUIETEST = 1e-3  # a peak below it, -60 dBFS, is not brought up to PEAK: near silence gradients would know no bounds


class Discriminators(nn.Module):
    """Judge audio from several sides, always in float32.

    Each item is judged alone, after its mean is taken off and its peak brought to 0.8, as in DAC (arXiv 2306.06546).

    Args:
        config: Which discriminators there are.
        sample_rate: Hz of the audio. Those of `config` so far go by samples and shares of the spectrum.

    Raises:
        ValueError: `config` names no discriminator.
    """

    def __init__(self, config: AdversarialConfig, sample_rate: int) -> None:
        super().__init__()
        self.sample_rate = sample_rate
        self.parts = nn.ModuleList()
        if config.period is not None:
            self.parts.extend(PeriodDiscriminator(period, config.period.channels) for period in config.period.periods)
        if config.band is not None:
            self.parts.extend(
                BandDiscriminator(window, config.band.channels, config.band.bands) for window in config.band.windows
            )
        if not self.parts:
            raise ValueError(
                "the adversary has neither periods nor bands, expected at least one discriminator; "
                "for training without one, leave the adversarial part out altogether"
            )

    def forward(self, audio: Float[Tensor, "batch samples"]) -> list[Judgement]:
        """Judge audio of any length of at least one sample.

        Raises:
            ValueError: The audio is not [B, S], or has no samples.
        """
        if audio.ndim != 2 or not audio.shape[1]:
            raise ValueError(
                f"audio has shape {tuple(audio.shape)}, expected [batch, samples] with at least one sample; "
                "is there an axis of channels?"
            )
        with torch.autocast(audio.device.type, enabled=False):
            audio = centred(audio.float())
            return [judgement for part in self.parts for judgement in part(audio)]


def centred(audio: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch samples"]:
    """Take each item's mean off and bring its peak to 0.8; silence stays silence."""
    audio = audio - audio.mean(dim=1, keepdim=True)
    peak = audio.abs().amax(dim=1, keepdim=True)
    return audio * (PEAK / peak.clamp(min=QUIETEST))
