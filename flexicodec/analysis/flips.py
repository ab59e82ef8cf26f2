"""Which decisions fell otherwise in a second encoding of the same audio, and how far they had been from it.

Two machines, precisions, batch shapes or chunkings make float noise of their own; margins should tell beforehand which
boundaries and codes it can reach.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flexicodec.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Decisions:
    """Decisions that two encodings had to make from the same state, and so can be compared.

    Attributes:
        margins: In the first encoding; see `Margins`.
        flipped: Whether the second decided otherwise.
    """

    margins: Float[Tensor, " decisions"]
    flipped: Bool[Tensor, " decisions"]

    def __len__(self) -> int:
        """Return how many there were."""
        return len(self.margins)

    def flips(self, above: float = -torch.inf) -> int:
        """Count those that fell otherwise although their margin is above this."""
        return int((self.flipped & (self.margins > above)).sum())

    @staticmethod
    def join(parts: "list[Decisions]") -> "Decisions":
        """Put decisions one behind the other."""
        return Decisions(torch.cat([part.margins for part in parts]), torch.cat([part.flipped for part in parts]))


@dataclass(frozen=True)
class Flips:
    """Comparable decisions of two encodings.

    Attributes:
        boundaries: Whether neighbouring frames share a token, one for each pair of frames.
        semantic: Semantic codes.
        acoustic: Acoustic codes.
    """

    boundaries: Decisions
    semantic: Decisions
    acoustic: Decisions


def flips(first: Tokens, second: Tokens, reach: int | None = None) -> Flips:
    """Compare two encodings of the same clips, decision by decision.

    A decision is left out where one before it flipped: boundaries until both have one at the same place again, codes of
    clips with other durations, acoustic codes near a semantic one that flipped, and a token's codes behind its first.

    Args:
        first: With margins.
        second: Of the same clips.
        reach: Tokens to either side whose semantic codes an acoustic code depends on (`semantic_decoder_stack.reach` of
            a FlexiCodec); None: all of the clip's.

    Raises:
        ValueError: No margins, or other clips.
    """
    if first.margins is None:
        raise ValueError("the first tokens have no margins; encode with margins=True")
    if not torch.equal(first.frame_lengths.cpu(), second.frame_lengths.cpu()):
        counts = f"{first.frame_lengths.tolist()} and {second.frame_lengths.tolist()}"
        raise ValueError(f"clips of {counts} frames; are they the same ones?")
    clips = [_clip(first[i].to("cpu"), second[i].to("cpu"), reach) for i in range(len(first))]
    names = ("boundaries", "semantic", "acoustic")
    return Flips(*(Decisions.join([getattr(clip, name) for clip in clips]) for name in names))


def _clip(first: Tokens, second: Tokens, reach: int | None) -> Flips:
    margins = first.margins
    assert margins is not None
    boundaries = _boundaries(first.durations[0], second.durations[0], margins.boundaries[0])
    none = Decisions(torch.zeros(0), torch.zeros(0, dtype=torch.bool))
    if not torch.equal(first.durations, second.durations):
        return Flips(boundaries, none, none)
    count = int(first.token_lengths)
    semantic, near = none, torch.zeros(count, dtype=torch.bool)
    if first.semantic is not None and second.semantic is not None and margins.semantic is not None:
        semantic = Decisions(margins.semantic[0], first.semantic[0] != second.semantic[0])
        width = count if reach is None else reach
        near = F.max_pool1d(semantic.flipped[None].float(), 2 * width + 1, 1, width)[0] > 0
    books = min(first.num_codebooks, second.num_codebooks)
    differ = first.acoustic[0, :books] != second.acoustic[0, :books]
    if first.format.parallel_codebooks:
        before = torch.zeros_like(differ)
    else:
        before = differ.long().cumsum(0) > differ.long()
    comparable = ~before & ~near
    return Flips(boundaries, semantic, Decisions(margins.acoustic[0, :books][comparable], differ[comparable]))


def _boundaries(
    first: Int[Tensor, " tokens"], second: Int[Tensor, " tokens"], margins: Float[Tensor, " frames"]
) -> Decisions:
    """Compare where tokens end, wherever the tokens that are open began at the same frame."""
    ends = [set(durations.cumsum(0).tolist()) for durations in (first, second)]
    found, together = [], True
    for frame in range(1, int(first.sum())):
        apart = [frame in each for each in ends]
        if together:
            found.append((frame - 1, apart[0] != apart[1]))
            together = apart[0] == apart[1]
        else:
            together = all(apart)
    places = torch.tensor([place for place, _ in found], dtype=torch.long)
    return Decisions(margins[places], torch.tensor([flipped for _, flipped in found], dtype=torch.bool))
