"""What discriminators have in common: the judgement they give, weight-normed convolutions, stacks over spectrograms."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

PaddingMode = Literal["zeros", "reflect"]
SLOPE = 0.1  # of every LeakyReLU, in DAC's discriminators and in NeMo's
BANDS = ((0.0, 0.1), (0.1, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))


@dataclass(frozen=True, eq=False)
class Judgement:
    """What one discriminator thinks of a batch of audio.

    Attributes:
        scores: [B, ...], high where the audio seems real.
        features: [B, ...] each, what feature matching compares: the activations of the hidden layers, first to last.
            Discriminators made with `match_scores` have their scores as the last of them.
    """

    scores: Float[Tensor, "batch ..."]
    features: list[Float[Tensor, "batch ..."]]


def judgement(layers: nn.Module, post: nn.Module, x: Float[Tensor, "batch dim ..."], match_scores: bool) -> Judgement:
    """Run hidden layers with LeakyReLU, and a last one that gives the scores."""
    features = activations(layers, x)
    scores = post(features[-1])
    return Judgement(scores, [*features, scores] if match_scores else features)


def activations(layers: nn.Module, x: Float[Tensor, "batch dim ..."]) -> list[Float[Tensor, "batch out ..."]]:
    """Return what each layer of a list makes of the one before, after LeakyReLU."""
    features = []
    for layer in layers.children():
        x = F.leaky_relu(layer(x), SLOPE)
        features.append(x)
    return features


def conv1d(in_channels: int, out_channels: int, kernel: int) -> nn.Module:
    """Weight-normed convolution over time (arXiv 1602.07868), as many steps out as in."""
    return weight_norm(nn.Conv1d(in_channels, out_channels, kernel, padding=kernel // 2))


def conv2d(
    in_channels: int,
    out_channels: int,
    kernel: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    padding_mode: PaddingMode = "zeros",
) -> nn.Module:
    """Weight-normed convolution; without stride the output is as large as the input."""
    padding = (dilation[0] * (kernel[0] - 1) // 2, dilation[1] * (kernel[1] - 1) // 2)
    return weight_norm(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, padding_mode=padding_mode)
    )


def spectrogram_layers(
    channels: int, dilations: tuple[int, int, int] = (1, 1, 1), padding_mode: PaddingMode = "zeros"
) -> nn.ModuleList:
    """Five convolutions over [B, 2, T, bins], three of which halve the bins and may be dilated in time."""
    halving = (
        conv2d(channels, channels, (3, 9), (1, 2), dilation=(dilation, 1), padding_mode=padding_mode)
        for dilation in dilations
    )
    return nn.ModuleList(
        [
            conv2d(2, channels, (3, 9), padding_mode=padding_mode),
            *halving,
            conv2d(channels, channels, (3, 3), padding_mode=padding_mode),
        ]
    )


def band_edges(bands: tuple[tuple[float, float], ...], bins: int) -> list[tuple[int, int]]:
    """Turn shares of the spectrum into first and past-the-last bins.

    Raises:
        ValueError: A band is not within 0..1, or so narrow that it holds no bin.
    """
    edges = [(int(low * bins), int(high * bins)) for low, high in bands]
    for band, (first, end) in zip(bands, edges, strict=True):
        if not 0 <= first < end <= bins:
            raise ValueError(
                f"band {band} covers bins {first}..{end} of {bins}, expected shares of the spectrum, low before high, "
                "with at least one bin between; is the window too short for so narrow a band?"
            )
    return edges


def real_and_imaginary(spectrogram: Tensor) -> Float[Tensor, "batch 2 frames bins"]:
    """View a complex spectrogram [B, bins, T] as two channels."""
    return torch.view_as_real(spectrogram.transpose(1, 2)).permute(0, 3, 1, 2)


def at_least(audio: Float[Tensor, "batch samples"], samples: int) -> Float[Tensor, "batch longer"]:
    """Put zeros behind audio that is too short to judge."""
    return F.pad(audio, (0, max(0, samples - audio.shape[1])))
