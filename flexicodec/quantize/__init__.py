"""Quantizers: latents to codes and back, behind the interface `Quantizer`; their configs make them by `build(dim)`."""

from flexicodec.quantize.base import Quantized, Quantizer
from flexicodec.quantize.fsq import FSQ, FSQConfig, GroupedFSQ, GroupedFSQConfig, fsq_bound, fsq_decode, fsq_encode
from flexicodec.quantize.rvq import EuclideanRVQ, ResidualVectorQuantizer, RVQConfig, VectorQuantizer
from flexicodec.quantize.vq import PlainVQ, ResidualFSQ, ResidualFSQConfig, VQConfig

QuantizerConfig = FSQConfig | GroupedFSQConfig | RVQConfig | VQConfig | ResidualFSQConfig

__all__ = [
    "FSQ",
    "EuclideanRVQ",
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
