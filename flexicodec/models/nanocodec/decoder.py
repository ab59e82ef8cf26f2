"""The decoder: HiFi-GAN's generator, from latents to audio.

A causal one streams as it stands (`ConvStack.step`): every frame that comes in goes out as its samples at once, and any
chunks give what the whole clip gives.
"""

from torch import nn

from flexicodec.blocks.chain import TILE_VALUES, Chain
from flexicodec.blocks.conv import ConvTranspose
from flexicodec.blocks.conv_stack import ConvStack
from flexicodec.models.nanocodec.config import DecoderConfig
from flexicodec.models.nanocodec.layers import make_activation, make_conv, make_residuals


class ConvStage(Chain):
    """A transposed convolution that halves the channels, then averaged residuals."""

    def __init__(self, config: DecoderConfig, channels: int, stride: int) -> None:
        half = channels // 2
        groups = half if config.grouped_upsampling else 1
        up = ConvTranspose(channels, half, stride, causal=config.causal, groups=groups)
        layers = [make_activation(config, channels), up, make_residuals(config, half)]
        super().__init__(layers, tile=max(1, TILE_VALUES // (half * stride)))


class HiFiGANDecoder(ConvStack):
    """Latents [B, latent_dim, T] to audio [B, 1, S] in [-1, 1], S = T * frame_size.

    Args:
        config: Strides, widths and padding.
        latent_dim: Channels of the latents.
    """

    def __init__(self, config: DecoderConfig, latent_dim: int) -> None:
        widths = [config.width // 2**i for i in range(len(config.strides) + 1)]
        layers = [
            make_conv(config, latent_dim, widths[0], config.in_kernel_size),
            *(ConvStage(config, width, stride) for width, stride in zip(widths, config.strides, strict=False)),
            make_activation(config, widths[-1]),
            make_conv(config, widths[-1], 1, config.out_kernel_size),
            nn.Tanh() if config.output_activation == "tanh" else nn.Hardtanh(),
        ]
        super().__init__(layers, latent_dim, 1, config.strides, inputs_per_frame=1)
