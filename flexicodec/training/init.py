"""How weights start when a codec is trained from nothing, where the architecture's own start is a poor one.

DAC's start lets features shrink to a hundredth on their way through the encoder, and a random residual quantiser then
adds more noise than it removes; in a short run the decoder learns to ignore the acoustic stream. Here features keep
their size, and every stage starts as a projection onto directions of its own, and back.
"""

import torch
from torch import nn

from flexicodec.blocks.conv import Conv
from flexicodec.blocks.conv_codec import ConvEncoder, ResidualUnit
from flexicodec.quantize import ResidualVectorQuantizer

RESIDUAL_GAIN = 0.3  # of a residual unit's last convolution, so that fifteen of them do not add up to an explosion
INPUT_GAIN = 5.0  # of the first convolution: speech of deviation 0.05 or so becomes features of deviation 1


@torch.no_grad()
def init_encoder(encoder: ConvEncoder) -> None:
    """Give every convolution the variance that keeps its features' size.

    The decoder keeps DAC's own start.
    """
    for layer in _convolutions(encoder):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    for unit in encoder.modules():
        if isinstance(unit, ResidualUnit):
            _convolutions(unit)[-1].weight.mul_(RESIDUAL_GAIN)
    _convolutions(encoder)[0].weight.mul_(INPUT_GAIN)


def _convolutions(module: nn.Module) -> list[Conv]:
    return [layer for layer in module.modules() if isinstance(layer, Conv)]


@torch.no_grad()
def init_quantizer(quantizer: ResidualVectorQuantizer) -> None:
    """Start each stage on its own few directions of an orthonormal basis, as long as there are directions left."""
    width = quantizer.config.codebook_dim
    basis = torch.empty(0, quantizer.dim)
    for stage in quantizer.stages:
        if len(basis) < width:
            basis = nn.init.orthogonal_(torch.empty(quantizer.dim, quantizer.dim))
        rows, basis = basis[:width], basis[width:]
        stage.in_proj.weight.copy_(rows)
        stage.out_proj.weight.copy_(rows.T)
        nn.init.zeros_(stage.in_proj.bias)
        nn.init.zeros_(stage.out_proj.bias)
