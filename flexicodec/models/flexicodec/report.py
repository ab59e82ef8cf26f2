"""What tokens say about their making: windows, precision, and how far each decision was from another."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from flexicodec.code_margins import Margins
from flexicodec.merging import MergingPolicy, boundary_margins
from flexicodec.models.flexicodec.network import Features, FlexiCodecNetwork
from flexicodec.models.flexicodec.streaming_encode import StreamedQuantizers, StreamedSemanticEncoder
from flexicodec.models.streaming.state import Windows
from flexicodec.quantize import Quantized


def is_windowed(codec: FlexiCodecNetwork, num_codebooks: int) -> bool:
    """Tell whether all attention on the way to tokens has windows of its own."""
    listening = StreamedSemanticEncoder(codec, None)
    tokens = StreamedQuantizers(codec, num_codebooks, False, Windows().steps(codec.base_frame_rate))
    return listening.exact and tokens.exact


def making(codec: FlexiCodecNetwork, features: Features, in_pieces: list[bool], num_codebooks: int) -> dict[str, Any]:
    """Note for `Tokens.info` what was not the usual way: windows where they made a difference, and the precision.

    Args:
        codec: The model.
        features: What tokens are made from.
        in_pieces: Which clips were taken in windows; the others were taken whole, and stand as None.
        num_codebooks: Acoustic codebooks in use.
    """
    info: dict[str, Any] = {}
    chosen = features.windows
    if chosen is not None and any(in_pieces) and not is_windowed(codec, num_codebooks):
        info["window_seconds"] = [chosen.seconds if each else None for each in in_pieces]
        info["overlap_seconds"] = [chosen.overlap_seconds if each else None for each in in_pieces]
    if features.precision != "float32":
        info["precision"] = features.precision
    return info


def margins(
    rule: MergingPolicy | None,
    features: Features,
    seconds: Float[Tensor, " batch"],
    max_duration: int | None,
    semantic: Quantized,
    acoustic: Quantized,
) -> Margins:
    """Gather the margins of a batch; durations from elsewhere (`rule` None) cannot flip."""
    assert semantic.margins is not None
    assert acoustic.margins is not None
    similarities = features.similarities
    boundaries = torch.full_like(similarities, torch.inf)
    if rule is not None:
        boundaries = boundary_margins(rule, similarities, features.lengths, seconds=seconds, max_duration=max_duration)
    return Margins(F.pad(boundaries, (0, 1), value=torch.inf), acoustic.margins, semantic.margins[:, 0])
