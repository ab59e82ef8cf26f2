"""An exported codec held against the one it came from: which boundaries and codes differ, and by how much the audio."""

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
    """How far two codecs of the same weights agree on some clips.

    Boundaries are compared where both choose them; codes at the durations of the first, since tokens of other frames
    have other codes; audio is decoded from the tokens of the first.

    Attributes:
        boundaries: Places between frames where a token may end.
        flipped_boundaries: Of these, where one codec ends a token and the other does not.
        codes: Codes of all codebooks.
        flipped_codes: Of these, how many differ.
        margin: The largest margin of a decision that fell otherwise while all that it rests on in its token were
            alike; 0 where none did.
        audio: The largest difference between samples.
    """

    boundaries: int
    flipped_boundaries: int
    codes: int
    flipped_codes: int
    margin: float
    audio: float

    @property
    def holds(self) -> bool:
        """Whether nothing differs but what noise may flip."""
        return self.margin <= NOISE and self.audio <= AUDIO_TOLERANCE

    def __str__(self) -> str:
        return (
            f"{self.flipped_boundaries} of {self.boundaries} boundaries and {self.flipped_codes} of {self.codes} codes "
            f"differ (largest margin {self.margin:.1e}), audio by at most {self.audio:.1e}"
        )


def compare(codec: Codec, exported: Codec, audio: Any, lengths: Any = None, **choices: Any) -> Agreement:
    """Encode and decode with both, and count.

    Args:
        codec: The model, with weights.
        exported: Its export.
        audio: At the codec's rate, as for `encode`.
        lengths: Valid samples of each clip; None means all.
        choices: For `encode`: threshold, frame rate, codebooks.
    """
    if not isinstance(codec, FlexiCodecNetwork):
        ours = codec.encode(audio, lengths, margins=True, **choices)
        theirs = exported.encode(audio, lengths, **choices)
        return Agreement(0, 0, *_codes(ours, theirs), _audio(codec, exported, ours))
    ours = codec.encode(audio, lengths, margins=True, windows=None, **choices)
    free = exported.encode(audio, lengths, **choices)
    kept = {name: value for name, value in choices.items() if name in ("num_codebooks", "max_duration")}
    theirs = exported.encode(audio, lengths, durations=ours.durations, **kept)
    frames = int(ours.frame_lengths.max())
    differ = (ends(ours.durations, frames) != ends(free.durations, frames))[:, :-1]
    assert ours.margins is not None
    worst = _largest(ours.margins.boundaries[:, :-1][differ])
    codes, flipped, margin = _codes(ours, theirs)
    places = int((ours.frame_lengths - 1).sum())
    return Agreement(places, int(differ.sum()), codes, flipped, max(worst, margin), _audio(codec, exported, ours))


def ends(durations: Int[Tensor, "batch tokens"], frames: int) -> Float[Tensor, "batch frames"]:
    """Mark the last frame of every token."""
    marks = torch.zeros(len(durations), frames + 1)
    return marks.scatter_(1, durations.cumsum(-1), 1.0)[:, 1:]


def _codes(ours: Tokens, theirs: Tokens) -> tuple[int, int, float]:
    """Count codes, those that differ, and find the largest margin of a first one of its token."""
    both = [ours.acoustic != theirs.acoustic]
    assert ours.margins is not None
    margins = [ours.margins.acoustic]
    if ours.semantic is not None and theirs.semantic is not None and ours.margins.semantic is not None:
        both.insert(0, (ours.semantic != theirs.semantic)[:, None])
        margins.insert(0, ours.margins.semantic[:, None])
    differ = torch.cat(both, dim=1)
    earlier = differ.long().cumsum(1) - differ.long()
    first = differ & (earlier == 0) if not ours.format.parallel_codebooks else differ
    count = int((ours.durations > 0).sum()) * differ.shape[1]
    return count, int(differ.sum()), _largest(torch.cat(margins, dim=1)[first])


def _largest(margins: Tensor) -> float:
    return float(margins.max()) if margins.numel() else 0.0


def _audio(codec: Codec, exported: Codec, tokens: Tokens) -> float:
    whole: dict[str, Any] = {"windows": None} if isinstance(codec, FlexiCodecNetwork) else {}
    return float((codec.decode(tokens, **whole) - exported.decode(tokens)).abs().max())
