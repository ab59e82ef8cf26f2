"""Layers shared by the discriminators, and the output that all of them return."""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from flexicodec.training.discriminators.config import PaddingMode

LEAKY_RELU_SLOPE = 0.1  # in DAC's discriminators and in NeMo's


@dataclass(frozen=True, eq=False)
class DiscriminatorOutput:
    """Scores, high where audio seems real, and activations of the hidden layers for feature matching."""

    scores: Float[Tensor, "batch ..."]
    features: list[Float[Tensor, "batch ..."]]  # first layer to last; the last are the scores with `match_scores`


def hidden_features(layers: nn.Module, x: Float[Tensor, "batch dim ..."]) -> list[Float[Tensor, "batch out ..."]]:
    """Run layers one after the other, a LeakyReLU behind each, and return all activations."""
    features = []
    for layer in layers.children():
        x = F.leaky_relu(layer(x), LEAKY_RELU_SLOPE)
        features.append(x)
    return features


def conv2d(
    in_channels: int,
    out_channels: int,
    kernel: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    padding_mode: PaddingMode = "zeros",
) -> nn.Module:
    """Make a weight-normed convolution (arXiv 1602.07868); at stride 1 the output is as large as the input."""
    padding = (dilation[0] * (kernel[0] - 1) // 2, dilation[1] * (kernel[1] - 1) // 2)
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, padding_mode=padding_mode)
    return weight_norm(conv)


def pad_to_length(audio: Float[Tensor, "batch samples"], samples: int) -> Float[Tensor, "batch padded"]:
    """Append zeros to audio that is shorter than `samples`."""
    return F.pad(audio, (0, max(0, samples - audio.shape[1])))
