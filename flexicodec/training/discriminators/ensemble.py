"""All discriminators of a run as one module: audio in, one judgement each out."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flexicodec.training.discriminators.band import BandDiscriminator
from flexicodec.training.discriminators.config import AdversarialConfig
from flexicodec.training.discriminators.period import PeriodDiscriminator
from flexicodec.training.discriminators.shared import Judgement
from flexicodec.training.discriminators.slm import SlmDiscriminator, hidden_states
from flexicodec.training.discriminators.stft import SpectrogramDiscriminator

PEAK = 0.8
QUIETEST = 1e-3  # a peak below it, -60 dBFS, is not brought up to PEAK: near silence gradients would know no bounds


class Discriminators(nn.Module):
    """Judge audio from several sides, always in float32.

    Each item is judged alone, as it comes or, with `config.centre`, after its mean is taken off and its peak brought to
    0.8, as in DAC (arXiv 2306.06546).

    Args:
        config: Which discriminators there are.
        sample_rate: Hz of the audio. Those of `config` go by samples and shares of the spectrum, but for the speech
            model's, which hears 16 kHz.

    Raises:
        ValueError: `config` names no discriminator, or a speech model that is not there.
    """

    def __init__(self, config: AdversarialConfig, sample_rate: int) -> None:
        super().__init__()
        self.sample_rate, self.centre = sample_rate, config.centre
        self.parts = nn.ModuleList(_parts(config, sample_rate))
        if not self.parts:
            raise ValueError(
                "the adversary has neither periods nor bands, spectrograms or a speech model, expected at least one "
                "discriminator; for training without one, leave the adversarial part out altogether"
            )

    def forward(self, audio: Float[Tensor, "batch samples"]) -> list[Judgement]:
        """Judge audio of any length of at least one sample (a speech model's window, where there is one).

        Raises:
            ValueError: The audio is not [B, S], or has no samples.
        """
        if audio.ndim != 2 or not audio.shape[1]:
            raise ValueError(
                f"audio has shape {tuple(audio.shape)}, expected [batch, samples] with at least one sample; "
                "is there an axis of channels?"
            )
        with torch.autocast(audio.device.type, enabled=False):
            audio = centred(audio.float()) if self.centre else audio.float()
            return [judgement for part in self.parts for judgement in part(audio)]


def _parts(config: AdversarialConfig, sample_rate: int) -> Iterator[nn.Module]:
    if (period := config.period) is not None:
        for each in period.periods:
            yield PeriodDiscriminator(each, period.channels, period.padding_mode, period.match_scores)
    if (band := config.band) is not None:
        for window in band.windows:
            yield BandDiscriminator(window, band.channels, band.bands)
    if (spectrogram := config.spectrogram) is not None:
        for window in spectrogram.windows:
            yield SpectrogramDiscriminator(window, spectrogram.channels, spectrogram.bands, spectrogram.dilations)
    if config.slm is not None:
        network = hidden_states(config.slm.source)
        yield SlmDiscriminator(network, network.dim, sample_rate, channels=config.slm.channels)


def centred(audio: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch samples"]:
    """Take each item's mean off and bring its peak to 0.8; silence stays silence."""
    audio = audio - audio.mean(dim=1, keepdim=True)
    peak = audio.abs().amax(dim=1, keepdim=True)
    return audio * (PEAK / peak.clamp(min=QUIETEST))
