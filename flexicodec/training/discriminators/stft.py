"""Discriminators over complex spectrograms that judge each band for itself, as in EnCodec and NanoCodec.

With five bands it is NanoCodec's multi-band discriminator (arXiv 2508.05835); with one band and dilations it is
EnCodec's (arXiv 2210.13438), which LFSC uses.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flexicodec.training.discriminators.shared import (
    BANDS,
    Judgement,
    at_least,
    band_edges,
    conv2d,
    judgement,
    real_and_imaginary,
    spectrogram_layers,
)

WHOLE_BAND = ((0.0, 1.0),)


class SpectrogramDiscriminator(nn.Module):
    """One spectrogram, cut into bands that share nothing; each gives a judgement.

    Reflections lie beyond all ends, also between bands, and scores count among the features, as in NeMo.

    Args:
        window: STFT window in samples, a multiple of 4; the hop is a quarter.
        channels: Of the hidden layers.
        bands: Edges as shares of the spectrum.
        dilations: In time, of the three layers that halve the bins.
    """

    window: Tensor

    def __init__(
        self,
        window: int,
        channels: int = 32,
        bands: tuple[tuple[float, float], ...] = BANDS,
        dilations: tuple[int, int, int] = (1, 1, 1),
    ) -> None:
        super().__init__()
        if window < 4 or window % 4:
            raise ValueError(f"window is {window}, expected a multiple of 4 samples: the hop is a quarter")
        self.edges = band_edges(bands, window // 2 + 1)
        self.stacks = nn.ModuleList(spectrogram_layers(channels, dilations, "reflect") for _ in bands)
        self.posts = nn.ModuleList(conv2d(channels, 1, (3, 3), padding_mode="reflect") for _ in bands)
        # Each layer reflects as many frames, and four bins of what the layers before left over.
        self.shortest = window // 4 * max(4, *dilations)
        self.register_buffer("window", torch.hann_window(window, periodic=False), persistent=False)
        narrowest = min(end - first for first, end in self.edges)
        if narrowest <= 16:
            raise ValueError(
                f"the narrowest of {len(bands)} bands of a {window}-sample window has {narrowest} bins, expected at "
                "least 17: halved twice, it must leave more than the 4 that the next layer reflects"
            )

    def forward(self, audio: Float[Tensor, "batch samples"]) -> list[Judgement]:
        """Judge audio of any length, zeros filling it up to one window; scores are [B, 1, T, F]."""
        window = len(self.window)
        spectrogram = real_and_imaginary(
            torch.stft(
                at_least(audio, self.shortest),
                window,
                window // 4,
                window=self.window,
                center=True,
                pad_mode="reflect",
                normalized=True,
                return_complex=True,
            )
        )
        return [
            judgement(stack, post, spectrogram[..., first:end], match_scores=True)
            for stack, post, (first, end) in zip(self.stacks, self.posts, self.edges, strict=True)
        ]
