"""Quantizers: latents to codes and back, all behind the one interface `Quantizer`.

Each has a small frozen config whose `build(dim)` makes it, so that a model's config chooses.
"""

from flexicodec.quantize.base import Quantized, Quantizer
from flexicodec.quantize.fsq import FSQ, FSQConfig, GroupedFSQ, GroupedFSQConfig, fsq_bound, fsq_decode, fsq_encode
from flexicodec.quantize.rvq import ResidualVectorQuantizer, RVQConfig, VectorQuantizer
from flexicodec.quantize.vq import PlainVQ, ResidualFSQ, ResidualFSQConfig, VQConfig

QuantizerConfig = FSQConfig | GroupedFSQConfig | RVQConfig | VQConfig | ResidualFSQConfig

__all__ = [
    "FSQ",
    "FSQConfig",
    "GroupedFSQ",
    "GroupedFSQConfig",
    "PlainVQ",
    "Quantized",
    "Quantizer",
    "QuantizerConfig",
    "RVQConfig",
    "ResidualFSQ",
    "ResidualFSQConfig",
    "ResidualVectorQuantizer",
    "VQConfig",
    "VectorQuantizer",
    "fsq_bound",
    "fsq_decode",
    "fsq_encode",
]
