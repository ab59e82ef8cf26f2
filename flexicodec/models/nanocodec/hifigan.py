"""HiFi-GAN encoder (audio to latents) and decoder (latents to audio) of LFSC and NanoCodec.

A causal decoder streams without delay: each frame yields its samples at once, and any chunks equal the whole clip.
"""

from math import prod

from torch import nn

from flexicodec.models.nanocodec.config import DecoderConfig, EncoderConfig
from flexicodec.nn.conv import Conv, ConvTranspose
from flexicodec.nn.dac import ConvStack
from flexicodec.nn.sequential import TILE_VALUES, ParallelMean, Residual, Sequential
from flexicodec.nn.snake import HalfSnake, Snake

PartConfig = EncoderConfig | DecoderConfig

LEAKY_SLOPE = 0.01  # HiFi-GAN's own is 0.1


def make_conv(config: PartConfig, in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1) -> Conv:
    """Make a convolution that keeps the length, initialised as PyTorch's."""
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
    """Make the config's activation."""
    if config.activation == "snake":
        return Snake(channels)
    if config.activation == "half_snake":
        return HalfSnake(channels, LEAKY_SLOPE)
    return nn.LeakyReLU(LEAKY_SLOPE)


def make_residuals(config: PartConfig, channels: int) -> ParallelMean:
    """Make HiFi-GAN's multi-receptive field fusion: the mean of a branch of residual units per kernel size."""
    branches = []
    for kernel_size in config.kernel_sizes:
        units = [_residual_unit(config, channels, kernel_size, dilation) for dilation in config.dilations]
        branches.append(Sequential(units))
    return ParallelMean(branches)


def _residual_unit(config: PartConfig, channels: int, kernel_size: int, dilation: int) -> Residual:
    return Residual(
        [
            make_activation(config, channels),
            make_conv(config, channels, channels, kernel_size, dilation),
            make_activation(config, channels),
            make_conv(config, channels, channels, kernel_size),
        ]
    )


class EncoderStage(Sequential):
    """Residual branches, then a strided convolution that doubles the channels."""

    def __init__(self, config: EncoderConfig, channels: int, stride: int) -> None:
        down = Conv(
            channels,
            2 * channels,
            2 * stride,
            stride,
            padding=None if config.causal else (stride + 1) // 2,
            causal=config.causal,
            padding_mode=config.padding_mode,
        )
        nn.Conv1d.reset_parameters(down)
        layers = [make_residuals(config, channels), make_activation(config, channels), down]
        super().__init__(layers, tile=TILE_VALUES // channels)


class HiFiGANEncoder(ConvStack):
    """Audio [B, 1, S] to latents [B, latent_dim, T], S = T * frame_size; causal: from samples up to a frame's end."""

    def __init__(self, config: EncoderConfig, latent_dim: int) -> None:
        width = config.width
        layers: list[nn.Module] = [make_conv(config, 1, width, config.in_kernel_size)]
        for stride in config.strides:
            layers.append(EncoderStage(config, width, stride))
            width *= 2
        layers.append(make_activation(config, width))
        layers.append(make_conv(config, width, latent_dim, config.out_kernel_size))
        super().__init__(layers, 1, latent_dim, config.strides, inputs_per_frame=prod(config.strides))


class DecoderStage(Sequential):
    """A transposed convolution that halves the channels, then residual branches."""

    def __init__(self, config: DecoderConfig, channels: int, stride: int) -> None:
        half = channels // 2
        groups = half if config.grouped_upsampling else 1
        up = ConvTranspose(channels, half, stride, causal=config.causal, groups=groups)
        layers = [make_activation(config, channels), up, make_residuals(config, half)]
        super().__init__(layers, tile=max(1, TILE_VALUES // (half * stride)))


class HiFiGANDecoder(ConvStack):
    """Latents [B, latent_dim, T] to audio [B, 1, S] in [-1, 1], S = T * frame_size."""

    def __init__(self, config: DecoderConfig, latent_dim: int) -> None:
        width = config.width
        layers: list[nn.Module] = [make_conv(config, latent_dim, width, config.in_kernel_size)]
        for stride in config.strides:
            layers.append(DecoderStage(config, width, stride))
            width //= 2
        layers.append(make_activation(config, width))
        layers.append(make_conv(config, width, 1, config.out_kernel_size))
        layers.append(nn.Tanh() if config.output_activation == "tanh" else nn.Hardtanh())
        super().__init__(layers, latent_dim, 1, config.strides, inputs_per_frame=1)
