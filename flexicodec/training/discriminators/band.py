"""DAC's discriminator over complex spectrograms, with convolutions of its own for each band (arXiv 2306.06546)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flexicodec.training.discriminators.shared import (
    BANDS,
    Judgement,
    activations,
    at_least,
    band_edges,
    conv2d,
    real_and_imaginary,
    spectrogram_layers,
)


class BandDiscriminator(nn.Module):
    """Judge each band of a spectrogram by itself, then all of them with one last convolution.

    Args:
        window: STFT window in samples, a multiple of 4; the hop is a quarter.
        channels: Of the hidden layers; DAC has 32, upstream FlexiCodec 64.
        bands: Edges as shares of the spectrum.
    """

    window: Tensor

    def __init__(self, window: int, channels: int = 64, bands: tuple[tuple[float, float], ...] = BANDS) -> None:
        super().__init__()
        if window < 4 or window % 4:
            raise ValueError(f"window is {window}, expected a multiple of 4 samples: the hop is a quarter")
        self.hop = window // 4
        self.edges = band_edges(bands, window // 2 + 1)
        self.stacks = nn.ModuleList(spectrogram_layers(channels) for _ in bands)
        self.post = conv2d(channels, 1, (3, 3))
        self.register_buffer("window", torch.hann_window(window), persistent=False)

    def forward(self, audio: Float[Tensor, "batch samples"]) -> list[Judgement]:
        """Judge audio of any length; scores are [B, 1, T, F], the bands side by side."""
        spectrogram = self.spectrogram(audio)
        features = [
            activations(stack, spectrogram[..., first:end])
            for stack, (first, end) in zip(self.stacks, self.edges, strict=True)
        ]
        scores = self.post(torch.cat([layers[-1] for layers in features], dim=-1))
        return [Judgement(scores, [feature for layers in features for feature in layers])]

    def spectrogram(self, audio: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch 2 frames bins"]:
        """Take one frame for each hop, in the middle of its window (`match_stride` in DAC's code).

        Zeros fill audio up to one window, then reflections: up to a whole hop, and 1.5 hops more at either end.
        """
        window, hop = len(self.window), self.hop
        audio = at_least(audio, window)
        margin = (window - hop) // 2
        audio = F.pad(audio[:, None], (margin, margin + -audio.shape[1] % hop), mode="reflect")[:, 0]
        return real_and_imaginary(torch.stft(audio, window, hop, window=self.window, center=False, return_complex=True))
