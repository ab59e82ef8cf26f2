"""Period discriminator: convolutions over audio folded at a period (HiFi-GAN, arXiv 2010.05646)."""

import math

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flexicodec.training.discriminators.config import PeriodDiscriminatorConfig
from flexicodec.training.discriminators.layers import DiscriminatorOutput, conv2d, hidden_features, pad_to_length


class PeriodDiscriminator(nn.Module):
    """Convolutions over [samples / period, period] that never mix phases."""

    def __init__(self, period: int, config: PeriodDiscriminatorConfig) -> None:
        super().__init__()
        self.period = period
        self.match_scores = config.match_scores
        self.layers = nn.ModuleList()
        # All hidden layers but the last shorten the audio threefold.
        strides = [3] * (len(config.channels) - 1) + [1]
        for before, after, stride in zip((1, *config.channels), config.channels, strides, strict=False):
            self.layers.append(conv2d(before, after, (5, 1), (stride, 1), padding_mode=config.padding_mode))
        self.post = conv2d(config.channels[-1], 1, (3, 1), padding_mode=config.padding_mode)
        self.min_samples = period
        if config.padding_mode == "reflect":  # the last hidden layer needs three rows to reflect two
            self.min_samples = period * (2 * math.prod(strides) + 1)

    def forward(self, audio: Float[Tensor, "batch samples"]) -> list[DiscriminatorOutput]:
        """Score audio of any length; scores are [B, 1, T, period]."""
        audio = pad_to_length(audio, self.min_samples)[:, None]
        # Reflect up to whole periods. DAC appends one more when there are whole periods already.
        audio = F.pad(audio, (0, -audio.shape[-1] % self.period), mode="reflect")
        features = hidden_features(self.layers, audio.unflatten(-1, (-1, self.period)))
        scores = self.post(features[-1])
        if self.match_scores:
            features.append(scores)
        return [DiscriminatorOutput(scores, features)]
