"""The ONNX graphs of a codec: each a small module around a part, which calls the same layers and steps as the codec.

Filterbanks, resampling of frames and the choice of durations stay outside, in `runtime`. Every graph takes padded
batches of any size and clips of any length.
"""

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flexicodec.encoders.moonshine import MoonshineEncoder
from flexicodec.encoders.sanm import SanmEncoder
from flexicodec.encoders.ssl import SSLEncoder
from flexicodec.merging.aggregators import QueryAggregator
from flexicodec.models.codec import Codec
from flexicodec.models.flexicodec.network import FlexiCodecNetwork
from flexicodec.models.nanocodec.model import NanoCodec
from flexicodec.nn.conv import PaddedLengths
from flexicodec.quantize import Quantizer
from flexicodec.quantize.base import project
from flexicodec.quantize.rvq import StagedQuantizer
from flexicodec.quantize.vq import ResidualFSQ

NO_CODE = -1  # in the place of codes of codebooks that tokens do not have
SAMPLES = "whole_frames_of_samples"  # an axis whose size is a multiple of the frame size


@dataclass(frozen=True)
class TensorSpec:
    """Name, axes and type of an input or output of a graph; axes are a name if dynamic, else a size."""

    name: str
    axes: tuple[str | int, ...]
    type: str = "float32"


@dataclass(frozen=True, eq=False)
class Graph:
    """A part of a codec, ready to be traced, and its inputs and outputs in order."""

    name: str  # of the part, and its file
    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    example: tuple[Tensor, ...]  # inputs to trace with; no size is 1, which torch.export would take for a constant
    has_blocks: bool = False  # whether it has transformer blocks


# ----------------------------------------------------------------------------------------------------- traced modules


class PartGraph(nn.Module):
    """Base of the graphs: holds the part that `forward` calls."""

    def __init__(self, part: Any) -> None:
        super().__init__()
        self.part = part


class SemanticEncoderGraph(PartGraph):
    """A frozen semantic encoder, from front-end features (SAN-M) or audio (Moonshine, self-supervised models)."""

    def forward(self, x: Tensor, lengths: Int[Tensor, " batch"]) -> Float[Tensor, "batch dim frames"]:
        """Return features at the encoder's own frame rate, zero past each clip's end."""
        if isinstance(self.part, SanmEncoder):
            return self.part.encode(x, lengths).transpose(1, 2)
        return self.part(x, lengths)[0]


class AcousticEncoderGraph(PartGraph):
    """A convolutional encoder, from whole frames of samples."""

    def forward(
        self, audio: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch dim frames"]:
        """Return features, zero past each clip's frames."""
        padded = PaddedLengths(lengths, shortest=0)
        return self.part.layers(padded.masked(audio[:, None]), padded)


class SemanticQuantizerGraph(PartGraph):
    """Merging and quantisation of the semantic stream."""

    def forward(
        self, features: Float[Tensor, "batch dim frames"], durations: Int[Tensor, "batch tokens"]
    ) -> tuple[Int[Tensor, "batch tokens"], Float[Tensor, "batch acoustic_dim tokens"]]:
        """Return codes, and the semantic part of the acoustic latents."""
        quantized = self.part.quantize_semantic(features, durations)
        return quantized.codes[:, 0], quantized.latents


class AcousticQuantizerGraph(PartGraph):
    """Merging and quantisation of the acoustic stream."""

    def forward(
        self,
        features: Float[Tensor, "batch dim frames"],
        known: Float[Tensor, "batch dim tokens"],
        durations: Int[Tensor, "batch tokens"],
    ) -> Int[Tensor, "batch codebooks tokens"]:
        """Return the codes of all codebooks."""
        return self.part.quantize_acoustic(features, known, durations).codes


class DecoderGraph(PartGraph):
    """FlexiCodec's decoder, from codes and durations to audio."""

    def forward(
        self,
        semantic: Int[Tensor, "batch tokens"],
        acoustic: Int[Tensor, "batch codebooks tokens"],
        durations: Int[Tensor, "batch tokens"],
    ) -> Float[Tensor, "batch samples"]:
        """Decode; codes of `NO_CODE` add nothing to the latents."""
        codec = self.part
        token_lengths = (durations > 0).sum(dim=1)
        frame_lengths = durations.sum(dim=1)
        valid = (durations > 0)[:, None]
        latents = codec.dequantize(semantic, acoustic[:, :0], token_lengths)
        latents = latents + dequantize_present(codec.acoustic_quantizer, acoustic.masked_fill(~valid, NO_CODE))
        # Attention is traced for two frames or more, so that there is one more than the longest clip has.
        longest = cast(int, frame_lengths.max().item())  # int() would fix the value in the trace
        torch._check(longest >= 1)
        frames = codec.unmerger(latents, durations, longest + 1)
        if codec.bottleneck is not None:
            frames = codec.bottleneck(frames, frame_lengths)
        padded = PaddedLengths(frame_lengths, shortest=0)
        return codec.decoder.layers(padded.masked(frames[..., :longest]), padded)[:, 0]


class GroupedFSQGraph(PartGraph):
    """NanoCodec's quantizer."""

    def forward(
        self, latents: Float[Tensor, "batch dim frames"], lengths: Int[Tensor, " batch"]
    ) -> Int[Tensor, "batch codebooks frames"]:
        """Return the codes of all groups."""
        return self.part(latents, lengths).codes


class NanoCodecDecoderGraph(PartGraph):
    """NanoCodec's decoder, from codes."""

    def forward(
        self, codes: Int[Tensor, "batch codebooks frames"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch samples"]:
        """Decode; clips shorter than the decoder's `min_frames` are padded with silence."""
        padded = PaddedLengths(lengths.clamp(min=self.part.decoder.min_frames), shortest=0)
        latents = self.part.quantizer.dequantize(codes, lengths)
        return self.part.decoder.layers(latents, padded)[:, 0]


def dequantize_present(
    quantizer: Quantizer, codes: Int[Tensor, "batch codebooks tokens"]
) -> Float[Tensor, "batch dim tokens"]:
    """Sum the latents of all codebooks, except where a code is `NO_CODE`."""
    # [B, K, N] to [B * N, K]; a weight of 0 instead of a condition, which a graph does not have
    flat = codes.transpose(1, 2).flatten(0, 1)
    present = (flat >= 0).float()
    flat = flat.clamp(min=0)
    latents: Tensor = torch.zeros(())
    if isinstance(quantizer, StagedQuantizer):
        for k, column in enumerate(flat.unbind(dim=1)):
            latents = latents + quantizer.dequantize_stage(k, column) * present[:, k : k + 1]
    else:
        assert isinstance(quantizer, ResidualFSQ)
        for k, column in enumerate(flat.unbind(dim=1)):
            latents = latents + quantizer._stage_values(k, column) * present[:, k : k + 1]
        latents = project(quantizer.project_out, latents) * present[:, :1]
    return latents.unflatten(0, (codes.shape[0], -1)).transpose(1, 2)


# ------------------------------------------------------------------------------------------------- inputs and outputs

_LENGTHS = TensorSpec("lengths", ("batch",), "int64")
_DURATIONS = TensorSpec("durations", ("batch", "tokens"), "int64")
_WHOLE_FRAMES = TensorSpec("audio", ("batch", SAMPLES))
_DECODED = TensorSpec("audio", ("batch", "samples"))


def graphs(codec: Codec) -> list[Graph]:
    """Split a codec into graphs."""
    if isinstance(codec, NanoCodec):
        return _nanocodec_graphs(codec)
    if isinstance(codec, FlexiCodecNetwork):
        return _flexicodec_graphs(codec)
    raise ValueError(f"a {type(codec).__name__} cannot be exported; FlexiCodec and NanoCodec can")


def _flexicodec_graphs(codec: FlexiCodecNetwork) -> list[Graph]:
    encoder = codec.semantic_encoder
    if not isinstance(encoder, SanmEncoder | SSLEncoder | MoonshineEncoder):
        raise ValueError(
            f"the semantic encoder is a {type(encoder).__name__} that was passed in, which cannot be exported; "
            "SAN-M, Moonshine and self-supervised encoders can"
        )
    dim = codec.config.acoustic.latent_dim
    codebooks = codec.num_codebooks
    semantic = TensorSpec("features", ("batch", encoder.dim, "frames"))
    acoustic = TensorSpec("features", ("batch", dim, "frames"))
    semantic_codes = TensorSpec("semantic", ("batch", "tokens"), "int64")
    acoustic_codes = TensorSpec("acoustic", ("batch", codebooks, "tokens"), "int64")
    known = TensorSpec("known", ("batch", dim, "tokens"))
    durations = torch.tensor([[3, 1, 2, 4, 1], [2, 2, 3, 0, 0]])  # two clips of 11 and 7 frames
    return [
        _semantic_encoder_graph(encoder),
        Graph(
            "acoustic_encoder",
            AcousticEncoderGraph(codec.encoder),
            (_WHOLE_FRAMES, _LENGTHS),
            (acoustic,),
            (torch.randn(2, 7 * codec.frame_size), torch.tensor([7, 5]) * codec.frame_size),
        ),
        Graph(
            "semantic_quantizer",
            SemanticQuantizerGraph(codec),
            (semantic, _DURATIONS),
            (replace(semantic_codes, name="codes"), known),
            (torch.randn(2, encoder.dim, 12), durations),
            isinstance(codec.semantic_aggregator, QueryAggregator),
        ),
        Graph(
            "acoustic_quantizer",
            AcousticQuantizerGraph(codec),
            (acoustic, known, _DURATIONS),
            (replace(acoustic_codes, name="codes"),),
            (torch.randn(2, dim, 12), torch.randn(2, dim, 5), durations),
            isinstance(codec.acoustic_aggregator, QueryAggregator),
        ),
        Graph(
            "decoder",
            DecoderGraph(codec),
            (semantic_codes, acoustic_codes, _DURATIONS),
            (_DECODED,),
            (torch.zeros_like(durations), torch.zeros(2, codebooks, 5, dtype=torch.long), durations),
            codec.bottleneck is not None,
        ),
    ]


def _semantic_encoder_graph(encoder: SanmEncoder | SSLEncoder | MoonshineEncoder) -> Graph:
    if isinstance(encoder, SanmEncoder):
        width = encoder.config.front_end.dim
        given = TensorSpec("features", ("batch", "frames", width))
        example = (torch.randn(2, 23, width), torch.tensor([23, 19]))
        has_blocks = True
    else:
        given = TensorSpec("audio", ("batch", "samples"))
        example = (torch.randn(2, 9000), torch.tensor([9000, 8000]))
        has_blocks = isinstance(encoder, MoonshineEncoder) or encoder.config.layer > 0
    features = TensorSpec("heard", ("batch", encoder.dim, "frames"))  # this name is in existing exports
    module = SemanticEncoderGraph(encoder)
    return Graph("semantic_encoder", module, (given, _LENGTHS), (features,), example, has_blocks)


def _nanocodec_graphs(codec: NanoCodec) -> list[Graph]:
    dim = codec.quantizer.dim
    codebooks = codec.num_codebooks
    latents = TensorSpec("latents", ("batch", dim, "frames"))
    codes = TensorSpec("codes", ("batch", codebooks, "frames"), "int64")
    counts = torch.tensor([37, 29])
    return [
        Graph(
            "encoder",
            AcousticEncoderGraph(codec.encoder),
            (_WHOLE_FRAMES, _LENGTHS),
            (latents,),
            (torch.randn(2, 37 * codec.frame_size), counts * codec.frame_size),
        ),
        Graph(
            "quantizer",
            GroupedFSQGraph(codec.quantizer),
            (latents, _LENGTHS),
            (codes,),
            (torch.randn(2, dim, 37), counts),
        ),
        Graph(
            "decoder",
            NanoCodecDecoderGraph(codec),
            (codes, _LENGTHS),
            (_DECODED,),
            (torch.zeros(2, codebooks, 37, dtype=torch.long), counts),
        ),
    ]
