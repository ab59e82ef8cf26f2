"""What tokens say about their making: whether windows made a difference, and how far each decision was from another."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from flexicodec.margins import Margins
from flexicodec.merging import MergingPolicy, boundary_margins
from flexicodec.models.flexicodec.listening import SemanticStage
from flexicodec.models.flexicodec.quantizing import QuantizeStage
from flexicodec.models.flexicodec.rooms import Features, FlexiCodecRooms
from flexicodec.models.windows import Windows
from flexicodec.quantize import Quantized


def is_windowed(codec: FlexiCodecRooms, num_codebooks: int) -> bool:
    """Tell whether all attention on the way to tokens has windows of its own."""
    listening = SemanticStage(codec, None)
    tokens = QuantizeStage(codec, num_codebooks, False, Windows().steps(codec.base_frame_rate))
    return listening.exact and tokens.exact


def windows(
    codec: FlexiCodecRooms, chosen: Windows | None, in_pieces: list[bool], num_codebooks: int
) -> dict[str, Any]:
    """Note for `Tokens.info` where windows made a difference: their length and overlap, None for clips taken whole."""
    if chosen is None or not any(in_pieces) or is_windowed(codec, num_codebooks):
        return {}
    return {
        "window_seconds": [chosen.seconds if each else None for each in in_pieces],
        "overlap_seconds": [chosen.overlap_seconds if each else None for each in in_pieces],
    }


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
