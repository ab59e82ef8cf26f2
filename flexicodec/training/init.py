"""How weights start when a codec is trained from nothing, where the architecture's own start is a poor one.

DAC's start lets features shrink to a hundredth on their way through the encoder, and a random residual quantiser then
adds more noise than it removes; in a short run the decoder learns to ignore the acoustic stream. PyTorch's, which NeMo
has, lets a NanoCodec's shrink so far that all speech has the same codes. Here features keep their size, and every stage
of a residual quantiser starts as a projection onto directions of its own, and back.
"""

import math

import torch
from torch import nn

from flexicodec.models.nanocodec.model import NanoCodec
from flexicodec.nn.conv import Conv, ConvTranspose
from flexicodec.nn.dac import DACEncoder, ResidualUnit
from flexicodec.nn.sequential import Residual
from flexicodec.quantize import ResidualVectorQuantizer

RESIDUAL_GAIN = 0.3  # of a residual unit's last convolution, so that fifteen of them do not add up to an explosion
INPUT_GAIN = 5.0  # of the first convolution: speech of deviation 0.05 or so becomes features of deviation 1
# Of a NanoCodec: what keeps the mean square of features of deviation 1 through an activation and a convolution.
ACTIVATION_GAINS = {"lrelu": math.sqrt(2), "half_snake": 1.05, "snake": 0.88}
LATENT_GAIN = 10.0  # of the first convolution: speech then reaches most levels of the quantiser
OUTPUT_GAIN = 0.003  # of the last: nearly silent, for a loud start is unlearnt by giving all speech the same codes


@torch.no_grad()
def init_encoder(encoder: DACEncoder) -> None:
    """Give every convolution the variance that keeps its features' size.

    The decoder keeps DAC's own start.
    """
    for layer in _convolutions(encoder):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    for unit in encoder.modules():
        if isinstance(unit, ResidualUnit):
            _convolutions(unit)[-1].weight.mul_(RESIDUAL_GAIN)
    _convolutions(encoder)[0].weight.mul_(INPUT_GAIN)


@torch.no_grad()
def init_nanocodec(codec: NanoCodec) -> None:
    """Give every convolution the variance that keeps its features' size, in encoder and decoder."""
    for part, config in ((codec.encoder, codec.config.encoder), (codec.decoder, codec.config.decoder)):
        gain = ACTIVATION_GAINS[config.activation]
        for layer in part.modules():
            if isinstance(layer, Conv | ConvTranspose):
                # A transposed convolution spreads an input over two strides: two inputs' worth of a channel meet.
                upsampling = isinstance(layer, ConvTranspose)
                heard = 2 * layer.in_channels // layer.groups if upsampling else layer.weight[0].numel()
                nn.init.normal_(layer.weight, std=gain / math.sqrt(heard))
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        for unit in part.modules():
            if isinstance(unit, Residual):
                _convolutions(unit)[-1].weight.mul_(RESIDUAL_GAIN)
    _convolutions(codec.encoder)[0].weight.mul_(LATENT_GAIN / ACTIVATION_GAINS[codec.config.encoder.activation])
    _convolutions(codec.decoder)[-1].weight.mul_(OUTPUT_GAIN / ACTIVATION_GAINS[codec.config.decoder.activation])


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
