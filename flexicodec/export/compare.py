"""`compare`: differing boundaries and codes, and the largest difference of audio, of an export and its model."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flexicodec.code_margins import NOISE
from flexicodec.models.codec import Codec
from flexicodec.models.flexicodec.network import FlexiCodecNetwork
from flexicodec.tokens import Tokens

AUDIO_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Agreement:
    """Differences of two codecs of the same weights on some clips.

    Boundaries are compared as both choose them; codes at the durations of the first codec, since tokens of other frames
    have other codes; audio is decoded from the tokens of the first.
    """

    boundaries: int  # places between frames where a token may end
    flipped_boundaries: int  # places where only one of the codecs ends a token
    codes: int  # of all codebooks
    flipped_codes: int
    margin: float  # largest margin of a differing decision whose inputs in its token are equal; 0 without any
    audio: float  # largest difference between samples

    @property
    def holds(self) -> bool:
        """Whether all differences are within float noise."""
        return self.margin <= NOISE and self.audio <= AUDIO_TOLERANCE

    def __str__(self) -> str:
        return (
            f"{self.flipped_boundaries} of {self.boundaries} boundaries and {self.flipped_codes} of {self.codes} codes "
            f"differ (largest margin {self.margin:.1e}), audio by at most {self.audio:.1e}"
        )


def compare(codec: Codec, exported: Codec, audio: Any, lengths: Any = None, **choices: Any) -> Agreement:
    """Encode and decode with both, and count differences.

    Args:
        codec: The model, with weights.
        exported: Its export.
        audio: At the codec's rate, as for `encode`.
        lengths: Valid samples of each clip; None means all.
        choices: Arguments of `encode`: threshold, frame rate, codebooks.
    """
    if not isinstance(codec, FlexiCodecNetwork):
        ours = codec.encode(audio, lengths, margins=True, **choices)
        theirs = exported.encode(audio, lengths, **choices)
        difference = (codec.decode(ours) - exported.decode(ours)).abs().max()
        return Agreement(0, 0, *_compare_codes(ours, theirs), float(difference))

    ours = codec.encode(audio, lengths, margins=True, windows=None, **choices)
    assert ours.margins is not None
    decoded = codec.decode(ours, windows=None)
    difference = (decoded - exported.decode(ours)).abs().max()

    # Boundaries, where the export chooses its own.
    free = exported.encode(audio, lengths, **choices)
    frames = int(ours.frame_lengths.max())
    differ = (token_ends(ours.durations, frames) != token_ends(free.durations, frames))[:, :-1]
    boundary_margin = _largest(ours.margins.boundaries[:, :-1][differ])
    boundaries = int((ours.frame_lengths - 1).sum())

    # Codes, with the model's durations.
    kept = {name: value for name, value in choices.items() if name in ("num_codebooks", "max_duration")}
    theirs = exported.encode(audio, lengths, durations=ours.durations, **kept)
    codes, flipped, code_margin = _compare_codes(ours, theirs)
    margin = max(boundary_margin, code_margin)
    return Agreement(boundaries, int(differ.sum()), codes, flipped, margin, float(difference))


def token_ends(durations: Int[Tensor, "batch tokens"], frames: int) -> Float[Tensor, "batch frames"]:
    """Mark the last frame of every token."""
    marks = torch.zeros(len(durations), frames + 1)
    return marks.scatter_(1, durations.cumsum(-1), 1.0)[:, 1:]


def _compare_codes(ours: Tokens, theirs: Tokens) -> tuple[int, int, float]:
    """Return the number of codes, of differing ones, and the largest margin of those that differ first in a token."""
    assert ours.margins is not None
    differ = ours.acoustic != theirs.acoustic
    margins = ours.margins.acoustic
    if ours.semantic is not None and theirs.semantic is not None and ours.margins.semantic is not None:
        differ = torch.cat([(ours.semantic != theirs.semantic)[:, None], differ], dim=1)
        margins = torch.cat([ours.margins.semantic[:, None], margins], dim=1)
    first = differ
    if not ours.format.parallel_codebooks:  # later codes depend on the first that differs
        first = differ & (differ.cumsum(1) == 1)
    count = int((ours.durations > 0).sum()) * differ.shape[1]
    return count, int(differ.sum()), _largest(margins[first])


def _largest(margins: Tensor) -> float:
    return float(margins.max()) if margins.numel() else 0.0
