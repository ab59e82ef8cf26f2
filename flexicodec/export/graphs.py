"""The graphs that a codec is split into, each a small module that calls the codec's own rooms.

What is left to the host is what decides: filterbanks and resizing before, the choice of durations between the graphs.
Every graph takes a padded batch of any size, and any length of clips.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flexicodec.encoders.sanm import SanmEncoder
from flexicodec.encoders.ssl import SSLEncoder
from flexicodec.merging import unmerge
from flexicodec.models.codec import Codec
from flexicodec.models.flexicodec.network import FlexiCodecNetwork
from flexicodec.models.nanocodec.model import NanoCodec
from flexicodec.nn.conv import PaddedLengths
from flexicodec.nn.dac import ConvStack
from flexicodec.quantize import Quantizer
from flexicodec.quantize.base import project
from flexicodec.quantize.rvq import ResidualVectorQuantizer
from flexicodec.quantize.vq import ResidualFSQ

NO_CODE = -1  # stands for the codes of codebooks that tokens do without
SAMPLES = "whole_frames_of_samples"  # an axis that holds whole frames


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a graph.

    Attributes:
        name: In the graph.
        axes: A name for each axis that is free, a size for one that is not.
        type: "float32" or "int64".
    """

    name: str
    axes: tuple[str | int, ...]
    type: str = "float32"


@dataclass(frozen=True, eq=False)
class Graph:
    """A part of a codec, ready to be traced.

    Attributes:
        name: Of the part, and its file.
        module: What is traced; it takes the inputs in order.
        inputs: What goes in.
        outputs: What comes out.
        example: Inputs to trace with, in a form that nothing takes for a special one (no sizes of 1).
        has_blocks: Whether there are transformer blocks in it.
    """

    name: str
    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    example: tuple[Tensor, ...]
    has_blocks: bool = False


class DynamicLengths(PaddedLengths):
    """Lengths for a graph that is good for all of them: whatever they are, padding is masked at every layer."""

    def __init__(self, values: Int[Tensor, " batch"]) -> None:
        super().__init__(values, shortest=0)

    def after(self, layer: Any) -> "DynamicLengths":
        """Convert input lengths of a layer to output lengths."""
        return DynamicLengths(layer.output_length(self.values))

    def mask_(self, x: Float[Tensor, "batch dim time"], start: int = 0) -> Float[Tensor, "batch dim time"]:
        """Zero the padding, not in place."""
        return self.masked(x)


class SemanticEncoderGraph(nn.Module):
    """A frozen semantic encoder, from what its front end gives (SAN-M) or from audio (self-supervised ones)."""

    def __init__(self, encoder: SanmEncoder | SSLEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor, lengths: Int[Tensor, " batch"]) -> Float[Tensor, "batch dim frames"]:
        """Give features at the encoder's own rate, zero past each clip's end."""
        if isinstance(self.encoder, SanmEncoder):
            return self.encoder.encode(x, lengths).transpose(1, 2)
        return self.encoder(x, lengths)[0]


class AcousticEncoderGraph(nn.Module):
    """A convolutional encoder."""

    def __init__(self, encoder: ConvStack) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self, audio: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch dim frames"]:
        """Turn whole frames of samples into features, zero past each clip's frames."""
        ragged = DynamicLengths(lengths)
        return self.encoder.layers(ragged.masked(audio[:, None]), ragged)


class SemanticQuantizerGraph(nn.Module):
    """The semantic stream, from frames to codes."""

    def __init__(self, codec: FlexiCodecNetwork) -> None:
        super().__init__()
        self.codec = codec

    def forward(
        self, features: Float[Tensor, "batch dim frames"], durations: Int[Tensor, "batch tokens"]
    ) -> tuple[Int[Tensor, "batch tokens"], Float[Tensor, "batch acoustic_dim tokens"]]:
        """Give codes, and what they say of the acoustic stream."""
        quantized = self.codec.quantize_semantic(features, durations)
        return quantized.codes[:, 0], quantized.latents


class AcousticQuantizerGraph(nn.Module):
    """The acoustic stream, from frames to codes."""

    def __init__(self, codec: FlexiCodecNetwork) -> None:
        super().__init__()
        self.codec = codec

    def forward(
        self,
        features: Float[Tensor, "batch dim frames"],
        known: Float[Tensor, "batch dim tokens"],
        durations: Int[Tensor, "batch tokens"],
    ) -> Int[Tensor, "batch codebooks tokens"]:
        """Give the codes of all codebooks."""
        return self.codec.quantize_acoustic(features, known, durations).codes


class DecoderGraph(nn.Module):
    """Everything from codes and durations to audio."""

    def __init__(self, codec: FlexiCodecNetwork) -> None:
        super().__init__()
        self.codec = codec

    def forward(
        self,
        semantic: Int[Tensor, "batch tokens"],
        acoustic: Int[Tensor, "batch codebooks tokens"],
        durations: Int[Tensor, "batch tokens"],
    ) -> Float[Tensor, "batch samples"]:
        """Decode; codes of `ABSENT` add nothing."""
        codec, tokens, frames = self.codec, (durations > 0).sum(dim=1), durations.sum(dim=1)
        latents = codec.dequantize(semantic, acoustic[:, :0], tokens)
        valid = (durations > 0)[:, None]
        latents = latents + dequantize_present(codec.acoustic_quantizer, acoustic.masked_fill(~valid, NO_CODE))
        longest = cast(int, frames.max().item())  # int() would want to know it while tracing
        torch._check(longest >= 1)
        spread = unmerge(latents, durations, longest + 1)  # attention is traced for two steps or more
        if codec.bottleneck is not None:
            spread = codec.bottleneck(spread, frames)
        spread = spread[..., :longest]
        ragged = DynamicLengths(frames)
        return codec.decoder.layers(ragged.masked(spread), ragged)[:, 0]


class GroupedFSQGraph(nn.Module):
    """NanoCodec's quantiser."""

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        self.quantizer = quantizer

    def forward(
        self, latents: Float[Tensor, "batch dim frames"], lengths: Int[Tensor, " batch"]
    ) -> Int[Tensor, "batch codebooks frames"]:
        """Give the codes of all groups."""
        return self.quantizer(latents, lengths).codes


class NanoCodecDecoderGraph(nn.Module):
    """NanoCodec's decoder, from codes."""

    def __init__(self, codec: NanoCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(
        self, codes: Int[Tensor, "batch codebooks frames"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch samples"]:
        """Decode; clips of less than the decoder's `min_frames` are followed by silence up to there."""
        ragged = DynamicLengths(lengths.clamp(min=self.codec.decoder.min_frames))
        latents = self.codec.quantizer.dequantize(codes, lengths)
        return self.codec.decoder.layers(latents, ragged)[:, 0]


def dequantize_present(
    quantizer: Quantizer, codes: Int[Tensor, "batch codebooks tokens"]
) -> Float[Tensor, "batch dim tokens"]:
    """Look up codes of all codebooks, of which some tokens may lack the last ones (`ABSENT`)."""
    flat = codes.transpose(1, 2).flatten(0, 1)
    here, flat = (flat >= 0).float(), flat.clamp(min=0)
    latents: Tensor
    if isinstance(quantizer, ResidualVectorQuantizer):
        latents = torch.zeros(())
        for k, stage in enumerate(quantizer.stages):
            latents = latents + stage.dequantize_tokens(flat[:, k : k + 1]) * here[:, k : k + 1]
    else:
        assert isinstance(quantizer, ResidualFSQ)
        values = torch.zeros(())
        for k, column in enumerate(flat.unbind(dim=1)):
            values = values + quantizer._stage_values(k, column) * here[:, k : k + 1]
        latents = project(quantizer.project_out, values) * here[:, :1]
    return latents.unflatten(0, (codes.shape[0], -1)).transpose(1, 2)


def graphs(codec: Codec) -> list[Graph]:
    """Split a codec into graphs.

    Raises:
        ValueError: It has a part that no graph is known for.
    """
    if isinstance(codec, NanoCodec):
        return _nanocodec(codec)
    if isinstance(codec, FlexiCodecNetwork):
        return _flexicodec(codec)
    raise ValueError(f"a {type(codec).__name__} cannot be exported; FlexiCodec and NanoCodec can")


def _flexicodec(codec: FlexiCodecNetwork) -> list[Graph]:
    encoder, merging = codec.semantic_encoder, codec.config.merging
    if not isinstance(encoder, SanmEncoder | SSLEncoder):
        raise ValueError(
            f"this model listens with a {type(encoder).__name__} that was passed in, which cannot be exported; SAN-M "
            "and self-supervised encoders can"
        )
    dim, heard, rows = codec.config.acoustic.latent_dim, encoder.dim, codec.num_codebooks
    lengths, durations = (
        TensorSpec("lengths", ("batch",), "int64"),
        TensorSpec("durations", ("batch", "tokens"), "int64"),
    )
    known = TensorSpec("known", ("batch", dim, "tokens"))
    merged = torch.tensor([[3, 1, 2, 4, 1], [2, 2, 3, 0, 0]])  # two clips of 11 and 7 frames
    sound, frames = torch.randn(2, 7 * codec.frame_size), torch.tensor([7, 5]) * codec.frame_size
    return [
        _semantic_encoder(encoder),
        Graph(
            "acoustic_encoder",
            AcousticEncoderGraph(codec.encoder),
            (TensorSpec("audio", ("batch", SAMPLES)), lengths),
            (TensorSpec("features", ("batch", dim, "frames")),),
            (sound, frames),
        ),
        Graph(
            "semantic_quantizer",
            SemanticQuantizerGraph(codec),
            (TensorSpec("features", ("batch", heard, "frames")), durations),
            (TensorSpec("codes", ("batch", "tokens"), "int64"), known),
            (torch.randn(2, heard, 12), merged),
            bool(merging and merging.semantic_aggregator),
        ),
        Graph(
            "acoustic_quantizer",
            AcousticQuantizerGraph(codec),
            (TensorSpec("features", ("batch", dim, "frames")), known, durations),
            (TensorSpec("codes", ("batch", rows, "tokens"), "int64"),),
            (torch.randn(2, dim, 12), torch.randn(2, dim, 5), merged),
            bool(merging and merging.acoustic_aggregator),
        ),
        Graph(
            "decoder",
            DecoderGraph(codec),
            (
                TensorSpec("semantic", ("batch", "tokens"), "int64"),
                TensorSpec("acoustic", ("batch", rows, "tokens"), "int64"),
                durations,
            ),
            (TensorSpec("audio", ("batch", "samples")),),
            (torch.zeros_like(merged), torch.zeros(2, rows, 5, dtype=torch.long), merged),
            codec.bottleneck is not None,
        ),
    ]


def _semantic_encoder(encoder: SanmEncoder | SSLEncoder) -> Graph:
    if isinstance(encoder, SanmEncoder):
        width = encoder.config.front_end.dim
        given = TensorSpec("features", ("batch", "frames", width))
        example = torch.randn(2, 23, width), torch.tensor([23, 19])
    else:
        given = TensorSpec("audio", ("batch", "samples"))
        example = torch.randn(2, 9000), torch.tensor([9000, 8000])
    return Graph(
        "semantic_encoder",
        SemanticEncoderGraph(encoder),
        (given, TensorSpec("lengths", ("batch",), "int64")),
        (TensorSpec("heard", ("batch", encoder.dim, "frames")),),
        example,
        isinstance(encoder, SanmEncoder) or encoder.config.layer > 0,
    )


def _nanocodec(codec: NanoCodec) -> list[Graph]:
    rows, dim, size = codec.num_codebooks, codec.quantizer.dim, codec.frame_size
    lengths, counts = TensorSpec("lengths", ("batch",), "int64"), torch.tensor([37, 29])
    latents, codes = (
        TensorSpec("latents", ("batch", dim, "frames")),
        TensorSpec("codes", ("batch", rows, "frames"), "int64"),
    )
    return [
        Graph(
            "encoder",
            AcousticEncoderGraph(codec.encoder),
            (TensorSpec("audio", ("batch", SAMPLES)), lengths),
            (latents,),
            (torch.randn(2, 37 * size), counts * size),
        ),
        Graph(
            "quantizer",
            GroupedFSQGraph(codec.quantizer),
            (latents, lengths),
            (codes,),
            (torch.randn(2, dim, 37), counts),
        ),
        Graph(
            "decoder",
            NanoCodecDecoderGraph(codec),
            (codes, lengths),
            (TensorSpec("audio", ("batch", "samples")),),
            (torch.zeros(2, rows, 37, dtype=torch.long), counts),
        ),
    ]
