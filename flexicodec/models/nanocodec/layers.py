"""What encoder and decoder have in common: convolutions padded as the config says, activations, residuals."""

from torch import nn

from flexicodec.blocks.chain import Average, Chain, Residual
from flexicodec.blocks.conv import Conv
from flexicodec.blocks.snake import HalfSnake, Snake
from flexicodec.models.nanocodec.config import DecoderConfig, EncoderConfig

PartConfig = EncoderConfig | DecoderConfig

LEAKY_SLOPE = 0.01  # HiFi-GAN's own is 0.1


def make_conv(config: PartConfig, in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1) -> Conv:
    """Make a convolution that keeps the length; it starts as PyTorch's do."""
    conv = Conv(
        in_channels,
        out_channels,
        kernel_size,
        dilation=dilation,
        causal=config.causal,
        padding_mode=config.padding_mode,
    )
    nn.Conv1d.reset_parameters(conv)
    return conv


def make_activation(config: PartConfig, channels: int) -> nn.Module:
    """Make an activation, with weights of its own where it has any."""
    if config.activation == "snake":
        return Snake(channels)
    return HalfSnake(channels, LEAKY_SLOPE) if config.activation == "half_snake" else nn.LeakyReLU(LEAKY_SLOPE)


def make_residuals(config: PartConfig, channels: int) -> Average:
    """Make HiFi-GAN's multi-receptive field fusion: a chain of residual units per kernel size, averaged."""
    return Average(
        Chain(_residual_unit(config, channels, kernel_size, dilation) for dilation in config.dilations)
        for kernel_size in config.kernel_sizes
    )


def _residual_unit(config: PartConfig, channels: int, kernel_size: int, dilation: int) -> Residual:
    return Residual(
        [
            make_activation(config, channels),
            make_conv(config, channels, channels, kernel_size, dilation),
            make_activation(config, channels),
            make_conv(config, channels, channels, kernel_size),
        ]
    )
