"""How weights start when a codec is trained from nothing, where the architecture's own start is a poor one.

DAC's start lets features shrink to a hundredth on their way through the encoder, and a random residual quantiser then adds
more noise than it removes; in a short run the decoder learns to ignore the acoustic stream. Here features keep their size,
and every stage starts as a projection onto directions of its own, and back.
"""

import torch
from torch import nn

from flexicodec.blocks.conv import Conv, ConvTranspose
from flexicodec.blocks.conv_codec import ConvDecoder, ConvEncoder, ResidualUnit
from flexicodec.quantize import ResidualVectorQuantizer

RESIDUAL_GAIN = 0.3  # of a residual unit's last convolution, so that fifteen of them do not add up to an explosion
ENCODER_GAIN = 5.0  # of its first convolution: speech of deviation 0.05 or so becomes features of deviation 1
DECODER_GAIN = 0.02  # of its last convolution: and back


def init_convolutions(encoder: ConvEncoder, decoder: ConvDecoder) -> None:
    """Give every convolution the variance that keeps its features' size, from speech to latents and back."""
    for stack in (encoder, decoder):
        _keep_variance(stack)
    _convolutions(encoder)[0].weight.data.mul_(ENCODER_GAIN)
    _convolutions(decoder)[-1].weight.data.mul_(DECODER_GAIN)


@torch.no_grad()
def _keep_variance(stack: nn.Module) -> None:
    for layer in _convolutions(stack):
        if isinstance(layer, Conv):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
        else:  # every output of a transposed convolution hears two inputs per channel
            nn.init.normal_(layer.weight, std=(2 * layer.in_channels) ** -0.5)
    for unit in stack.modules():
        if isinstance(unit, ResidualUnit):
            _convolutions(unit)[-1].weight.mul_(RESIDUAL_GAIN)


def _convolutions(module: nn.Module) -> list[Conv | ConvTranspose]:
    return [layer for layer in module.modules() if isinstance(layer, (Conv, ConvTranspose))]


@torch.no_grad()
def init_quantizer(quantizer: ResidualVectorQuantizer) -> None:
    """Start each stage on its own few directions of an orthonormal basis, as long as there are directions left."""
    width = quantizer.config.codebook_dim
    basis = torch.empty(0, quantizer.dim)
    for stage in quantizer.quantizers:
        if len(basis) < width:
            basis = nn.init.orthogonal_(torch.empty(quantizer.dim, quantizer.dim))
        rows, basis = basis[:width], basis[width:]
        stage.in_proj.weight.copy_(rows)
        stage.out_proj.weight.copy_(rows.T)
        nn.init.zeros_(stage.in_proj.bias)
        nn.init.zeros_(stage.out_proj.bias)
