"""The encoder: HiFi-GAN's generator turned round, from audio to latents at the frame rate."""

from math import prod

from torch import nn

from flexicodec.blocks.chain import TILE_VALUES, Chain
from flexicodec.blocks.conv import Conv
from flexicodec.blocks.conv_stack import ConvStack
from flexicodec.models.nanocodec.config import EncoderConfig
from flexicodec.models.nanocodec.layers import make_activation, make_conv, make_residuals


class EncoderStage(Chain):
    """Averaged residuals, then a strided convolution that doubles the channels."""

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
    """Audio [B, 1, S] to latents [B, latent_dim, T], S = T * frame_size.

    A causal one gives frame t from the samples up to its own end.

    Args:
        config: Strides, widths and padding.
        latent_dim: Channels of the latents.
    """

    def __init__(self, config: EncoderConfig, latent_dim: int) -> None:
        widths = [config.width * 2**i for i in range(len(config.strides) + 1)]
        layers = [
            make_conv(config, 1, widths[0], config.in_kernel_size),
            *(EncoderStage(config, width, stride) for width, stride in zip(widths, config.strides, strict=False)),
            make_activation(config, widths[-1]),
            make_conv(config, widths[-1], latent_dim, config.out_kernel_size),
        ]
        super().__init__(layers, 1, latent_dim, config.strides, inputs_per_frame=prod(config.strides))
