"""An encoder and a decoder of sound: convolutions from audio to features of its frames, and from latents back to audio.

Between strides, dilated residual units with Snake (arXiv 2306.06546); they see as far ahead as back.
"""

from collections.abc import Sequence
from math import prod

from torch import nn

from flexicodec.blocks.chain import TILE_VALUES, Chain, Residual
from flexicodec.blocks.conv import Conv, ConvTranspose
from flexicodec.blocks.conv_stack import ConvStack
from flexicodec.blocks.snake import Snake

DILATIONS = (1, 3, 9)


class ResidualUnit(Residual):
    """Snake, a dilated convolution over 7 steps, Snake and a convolution over 1, added to the input."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__(
            [
                Snake(channels),
                Conv(channels, channels, 7, dilation=dilation),
                Snake(channels),
                Conv(channels, channels, 1),
            ]
        )


class EncoderBlock(Chain):
    """Three residual units, then a strided convolution that doubles the channels."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__(
            [
                *(ResidualUnit(channels, dilation) for dilation in DILATIONS),
                Snake(channels),
                Conv(channels, 2 * channels, 2 * stride, stride, padding=(stride + 1) // 2),
            ],
            tile=TILE_VALUES // channels,
        )


class DecoderBlock(Chain):
    """A transposed convolution that halves the channels, then three residual units."""

    def __init__(self, channels: int, stride: int, exact_length: bool) -> None:
        half = channels // 2
        super().__init__(
            [
                Snake(channels),
                ConvTranspose(channels, half, stride, exact_length),
                *(ResidualUnit(half, dilation) for dilation in DILATIONS),
            ],
            tile=TILE_VALUES // (half * stride),
        )


class ConvEncoder(ConvStack):
    """Audio [B, 1, S] to features [B, latent_dim, T], S = T * frame_size.

    Args:
        strides: downsampling of each block, at least 2; their product is the frame size in samples.
        width: channels of the first block, doubled by every block.
        latent_dim: channels of the features.

    Raises:
        ValueError: strides below 2, or none.
    """

    def __init__(self, strides: Sequence[int] = (4, 4, 5, 8, 2), width: int = 32, latent_dim: int = 512) -> None:
        _check_strides(strides)
        widths = [width * 2**i for i in range(len(strides) + 1)]
        layers = [
            Conv(1, width, 7),
            *(EncoderBlock(channels, stride) for channels, stride in zip(widths, strides, strict=False)),
            Snake(widths[-1]),
            Conv(widths[-1], latent_dim, 3),
        ]
        super().__init__(layers, 1, latent_dim, strides, inputs_per_frame=prod(strides))


class ConvDecoder(ConvStack):
    """Latents [B, latent_dim, T] to audio [B, 1, S] in [-1, 1].

    Args:
        strides: upsampling of each block, at least 2; their product is the frame size in samples.
        width: channels of the first block, halved by every block; divisible by 2 once per block.
        latent_dim: channels of the latents.
        exact_length: S = T * frame_size. With False each odd stride loses its last sample, which the strides behind it
            make more of.

    Raises:
        ValueError: strides below 2, or none; a width that cannot be halved that often.
    """

    def __init__(
        self,
        strides: Sequence[int] = (2, 8, 5, 4, 4),
        width: int = 1536,
        latent_dim: int = 512,
        exact_length: bool = True,
    ) -> None:
        _check_strides(strides)
        if width < 1 or width % 2 ** len(strides):
            raise ValueError(f"decoder width must be divisible by {2 ** len(strides)}, 2 per block, got {width}")
        widths = [width // 2**i for i in range(len(strides) + 1)]
        layers = [
            Conv(latent_dim, width, 7),
            *(DecoderBlock(channels, stride, exact_length) for channels, stride in zip(widths, strides, strict=False)),
            Snake(widths[-1]),
            Conv(widths[-1], 1, 7),
            nn.Tanh(),
        ]
        super().__init__(layers, latent_dim, 1, strides, inputs_per_frame=1)


def _check_strides(strides: Sequence[int]) -> None:
    if not strides or min(strides) < 2:
        raise ValueError(f"strides must be at least 2 each, got {list(strides)}")
