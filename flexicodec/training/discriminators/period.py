"""A discriminator that folds audio at a period and looks along each phase (HiFi-GAN, arXiv 2010.05646).

Sounds with that period line up; several discriminators with coprime periods see different structure.
"""

import math

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flexicodec.training.discriminators.shared import Judgement, PaddingMode, at_least, conv2d, judgement


class PeriodDiscriminator(nn.Module):
    """Convolutions over [samples / period, period] that never mix phases.

    Args:
        period: In samples.
        channels: Of the hidden layers; all but the last shorten the audio threefold.
        padding_mode: What convolutions see beyond the ends: "zeros" (DAC) or "reflect" (NeMo).
        match_scores: Feature matching compares scores too (NeMo does).
    """

    def __init__(
        self,
        period: int,
        channels: tuple[int, ...] = (32, 128, 512, 1024, 1024),
        padding_mode: PaddingMode = "zeros",
        match_scores: bool = False,
    ) -> None:
        super().__init__()
        self.period, self.match_scores = period, match_scores
        strides = [3] * (len(channels) - 1) + [1]
        self.layers = nn.ModuleList(
            conv2d(before, after, (5, 1), (stride, 1), padding_mode=padding_mode)
            for before, after, stride in zip((1, *channels), channels, strides, strict=False)
        )
        self.post = conv2d(channels[-1], 1, (3, 1), padding_mode=padding_mode)
        # To reflect two rows, the last hidden layer needs three.
        self.shortest = period * (2 * math.prod(strides) + 1 if padding_mode == "reflect" else 1)

    def forward(self, audio: Float[Tensor, "batch samples"]) -> list[Judgement]:
        """Judge audio of any length; scores are [B, 1, T, period]."""
        audio = at_least(audio, self.shortest)[:, None]
        # DAC appends a whole period where none is needed.
        audio = F.pad(audio, (0, -audio.shape[-1] % self.period), mode="reflect")
        return [judgement(self.layers, self.post, audio.unflatten(-1, (-1, self.period)), self.match_scores)]
