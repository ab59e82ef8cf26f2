"""Discriminators over complex spectrograms that are cut into frequency bands, in DAC's and in NeMo's form."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flexicodec.training.discriminators.config import (
    BandDiscriminatorConfig,
    Bands,
    PaddingMode,
    SpectrogramDiscriminatorConfig,
)
from flexicodec.training.discriminators.layers import DiscriminatorOutput, conv2d, hidden_features, pad_to_length


class _BandedSTFT(nn.Module):
    """A complex spectrogram and one stack of convolutions per frequency band; `window` is in samples."""

    window: Tensor
    padding_mode: PaddingMode

    def __init__(self, window: int, channels: int, bands: Bands, dilations: tuple[int, int, int] = (1, 1, 1)) -> None:
        super().__init__()
        if window < 4 or window % 4:
            raise ValueError(f"window is {window}, expected a multiple of 4 samples: the hop is a quarter")
        self.hop = window // 4
        self.edges = band_edges(bands, window // 2 + 1)
        self.stacks = nn.ModuleList()
        for _ in bands:
            # Five convolutions over [B, 2, T, bins], of which three halve the bins and may be dilated in time.
            stack = nn.ModuleList([conv2d(2, channels, (3, 9), padding_mode=self.padding_mode)])
            for dilation in dilations:
                stack.append(conv2d(channels, channels, (3, 9), (1, 2), (dilation, 1), self.padding_mode))
            stack.append(conv2d(channels, channels, (3, 3), padding_mode=self.padding_mode))
            self.stacks.append(stack)

    def band_features(self, spectrum: Tensor) -> list[list[Float[Tensor, "batch dim frames bins"]]]:
        """Return the hidden features of each band of a complex spectrogram [B, bins, T]."""
        spectrogram = torch.view_as_real(spectrum.transpose(1, 2)).permute(0, 3, 1, 2)  # [B, 2, T, bins]
        features = []
        for stack, (first, end) in zip(self.stacks, self.edges, strict=True):
            features.append(hidden_features(stack, spectrogram[..., first:end]))
        return features


class BandDiscriminator(_BandedSTFT):
    """DAC's discriminator: one final convolution scores all bands side by side (arXiv 2306.06546)."""

    padding_mode = "zeros"

    def __init__(self, window: int, config: BandDiscriminatorConfig) -> None:
        super().__init__(window, config.channels, config.bands)
        self.post = conv2d(config.channels, 1, (3, 3))
        self.register_buffer("window", torch.hann_window(window), persistent=False)

    def forward(self, audio: Float[Tensor, "batch samples"]) -> list[DiscriminatorOutput]:
        """Score audio of any length; scores are [B, 1, T, F]."""
        bands = self.band_features(self.spectrum(audio))
        scores = self.post(torch.cat([layers[-1] for layers in bands], dim=-1))
        return [DiscriminatorOutput(scores, sum(bands, []))]

    def spectrum(self, audio: Float[Tensor, "batch samples"]) -> Tensor:
        """Compute one frame per hop, centred in its window (`match_stride` in DAC's code)."""
        window = len(self.window)
        audio = pad_to_length(audio, window)
        # Reflect up to a whole number of hops, and 1.5 hops more at either end.
        margin = (window - self.hop) // 2
        audio = F.pad(audio[:, None], (margin, margin + -audio.shape[1] % self.hop), mode="reflect")[:, 0]
        return torch.stft(audio, window, self.hop, window=self.window, center=False, return_complex=True)


class SpectrogramDiscriminator(_BandedSTFT):
    """NeMo's discriminator: each band has scores of its own, which count among its features.

    Every layer reflects at all ends, also between bands.
    """

    padding_mode = "reflect"

    def __init__(self, window: int, config: SpectrogramDiscriminatorConfig) -> None:
        super().__init__(window, config.channels, config.bands, config.dilations)
        self.posts = nn.ModuleList()
        for _ in config.bands:
            self.posts.append(conv2d(config.channels, 1, (3, 3), padding_mode="reflect"))
        self.register_buffer("window", torch.hann_window(window, periodic=False), persistent=False)
        # Each layer reflects as many frames as its dilation, and four of the bins that the layer before left.
        self.min_samples = self.hop * max(4, *config.dilations)
        narrowest = min(end - first for first, end in self.edges)
        if narrowest <= 16:
            raise ValueError(
                f"the narrowest of {len(config.bands)} bands of a {window}-sample window has {narrowest} bins, "
                "expected at least 17: halved twice, it must leave more than the 4 that the next layer reflects"
            )

    def forward(self, audio: Float[Tensor, "batch samples"]) -> list[DiscriminatorOutput]:
        """Score audio of any length, one output per band; scores are [B, 1, T, F]."""
        audio = pad_to_length(audio, self.min_samples)
        window = len(self.window)  # the audio is reflected at its ends, which is torch.stft's default
        spectrum = torch.stft(audio, window, self.hop, window=self.window, normalized=True, return_complex=True)
        outputs = []
        for post, features in zip(self.posts, self.band_features(spectrum), strict=True):
            scores = post(features[-1])
            outputs.append(DiscriminatorOutput(scores, [*features, scores]))
        return outputs


def band_edges(bands: Bands, bins: int) -> list[tuple[int, int]]:
    """Convert fractions of the spectrum to first and past-the-last bins."""
    edges = [(int(low * bins), int(high * bins)) for low, high in bands]
    for band, (first, end) in zip(bands, edges, strict=True):
        if not 0 <= first < end <= bins:
            raise ValueError(
                f"band {band} covers bins {first}..{end} of {bins}, expected fractions of the spectrum, low before "
                "high, with at least one bin between; is the window too short for so narrow a band?"
            )
    return edges
