"""How far decisions about tokens were from the other outcome (see `Margins`), and which differ between two encodings.

Margins are computed after the fact; encoding does not depend on anything here. Boundaries are compared with the
policy's rule, codes with the quantizers' rules (`Quantizer.margins`). Machines, precisions, batch shapes and chunking
each have rounding errors of their own: `compare_codes` finds the decisions that they changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flexicodec.code_margins import Margins
from flexicodec.merging import ExactRate, MergingPolicy, Threshold, Uniform
from flexicodec.merging.policies import Seconds
from flexicodec.tokens import Tokens


def boundary_margins(
    policy: MergingPolicy | None,
    similarities: Float[Tensor, "batch pairs"],
    lengths: Int[Tensor, " batch"],
    *,
    seconds: Seconds | None = None,
    max_duration: int | None = None,
    **features: Tensor,
) -> Float[Tensor, "batch pairs"]:
    """Compute how far each pair of neighbouring frames was from the other decision, given all those before it.

    Args:
        policy: The rule that decided; None for durations from elsewhere. A policy of your own may have a method
            `margins`, called with the arguments below.
        similarities: As for the policy's call, and so are the others; `features` and `acoustic` are passed on to a
            policy that compares features.

    Returns:
        Distances in the unit of similarities, or of what the policy compares: inf where nothing can flip and past each
        clip's last pair, NaN for policies that cannot tell.
    """
    inside = torch.arange(similarities.shape[1], device=similarities.device) + 1 < lengths[:, None]
    if policy is None or isinstance(policy, Uniform):
        margins = torch.full_like(similarities, torch.inf)
    elif isinstance(policy, Threshold):
        threshold = policy.thresholds(similarities)
        margins = (similarities - threshold).abs().masked_fill(threshold >= 1, torch.inf)
    elif isinstance(policy, ExactRate):
        rank, num_cuts = policy.rank_pairs(similarities, lengths, seconds, max_duration)
        margins = _rank_margins(similarities.detach().masked_fill(~inside, torch.inf), rank, num_cuts)
    elif hasattr(policy, "margins"):
        used = features if getattr(policy, "uses_features", False) else {}
        margins = policy.margins(similarities, lengths, seconds=seconds, max_duration=max_duration, **used)
    else:
        margins = torch.full_like(similarities, torch.nan)
    return margins.masked_fill(~inside, torch.inf)


def _rank_margins(
    similarities: Float[Tensor, "batch pairs"], rank: Int[Tensor, "batch pairs"], num_cuts: Int[Tensor, " batch"]
) -> Float[Tensor, "batch pairs"]:
    """Compute how far each pair is from changing places with one on the other side of the cut.

    # ranks     ... cut    cut | kept   kept ...       the cut lies between the last pair cut and the first kept;
    #                      last  first                 those kept may also change places with the first: where a
    #                                                  cap chops runs it matters which of them is the next

    Two pairs change places when both have moved by half their distance.
    """
    ordered = similarities.sort(dim=-1).values
    edges = F.pad(ordered, (1, 2), value=torch.inf)  # entry r + 1: the similarity of rank r
    edges[:, 0] = -torch.inf
    last, first, second = (edges.gather(1, num_cuts[:, None] + i) for i in range(3))
    margins = torch.where(rank < num_cuts[:, None], first - similarities, similarities - first)
    own = torch.minimum(first - last, second - first)
    return torch.where(rank == num_cuts[:, None], own, margins)


def fixed_rate_margins(acoustic: Float[Tensor, "batch codebooks tokens"]) -> Margins:
    """Return margins of codes beside boundaries that nothing can flip."""
    return Margins(torch.full_like(acoustic[:, 0], torch.inf), acoustic)


# ------------------------------------------------------------------------------------------- two encodings compared


@dataclass(frozen=True, eq=False)
class Decisions:
    """Decisions that two encodings made from the same state, and so can be compared."""

    margins: Float[Tensor, " decisions"]  # in the first encoding, see `Margins`
    flipped: Bool[Tensor, " decisions"]  # whether the second decided otherwise

    def __len__(self) -> int:
        """Return the number of decisions."""
        return len(self.margins)

    def flips(self, above: float = -torch.inf) -> int:
        """Count flipped decisions whose margin is above a value."""
        return int((self.flipped & (self.margins > above)).sum())

    @staticmethod
    def join(parts: "Sequence[Decisions]") -> "Decisions":
        """Concatenate decisions."""
        return Decisions(torch.cat([part.margins for part in parts]), torch.cat([part.flipped for part in parts]))


@dataclass(frozen=True)
class CodeChanges:
    """Comparable decisions of two encodings."""

    boundaries: Decisions  # whether two neighbouring frames share a token
    semantic: Decisions
    acoustic: Decisions


def compare_codes(first: Tokens, second: Tokens, reach: int | None = None) -> CodeChanges:
    """Compare two encodings of the same clips, decision by decision.

    A decision is left out where one before it flipped: boundaries until both have one at the same place again, codes of
    clips with other durations, acoustic codes near a semantic one that flipped, and a token's codes after its first.

    Args:
        first: Tokens with margins.
        second: Tokens of the same clips.
        reach: Tokens to either side whose semantic codes an acoustic code depends on (`semantic_decoder_stack.reach` of
            a FlexiCodec); None for all of the clip.
    """
    if first.margins is None:
        raise ValueError("the first tokens have no margins; encode with margins=True")
    if not torch.equal(first.frame_lengths.cpu(), second.frame_lengths.cpu()):
        counts = f"{first.frame_lengths.tolist()} and {second.frame_lengths.tolist()}"
        raise ValueError(f"clips of {counts} frames; are they the same ones?")
    clips = [_compare_clip(first[i].to("cpu"), second[i].to("cpu"), reach) for i in range(len(first))]
    return CodeChanges(
        boundaries=Decisions.join([clip.boundaries for clip in clips]),
        semantic=Decisions.join([clip.semantic for clip in clips]),
        acoustic=Decisions.join([clip.acoustic for clip in clips]),
    )


def _compare_clip(first: Tokens, second: Tokens, reach: int | None) -> CodeChanges:
    margins = first.margins
    assert margins is not None
    boundaries = _compare_boundaries(first.durations[0], second.durations[0], margins.boundaries[0])
    none = Decisions(margins.boundaries.new_zeros(0), torch.zeros_like(margins.boundaries[0, :0], dtype=torch.bool))
    if not torch.equal(first.durations, second.durations):
        return CodeChanges(boundaries, none, none)

    count = int(first.token_lengths)
    semantic = none
    near_flip = torch.zeros(count, dtype=torch.bool, device=first.durations.device)
    if first.semantic is not None and second.semantic is not None and margins.semantic is not None:
        semantic = Decisions(margins.semantic[0], first.semantic[0] != second.semantic[0])
        width = count if reach is None else reach
        near_flip = F.max_pool1d(semantic.flipped[None].float(), 2 * width + 1, 1, width)[0] > 0

    codebooks = min(first.num_codebooks, second.num_codebooks)
    differs = first.acoustic[0, :codebooks] != second.acoustic[0, :codebooks]
    after_flip = torch.zeros_like(differs)
    if not first.format.parallel_codebooks:  # residual codebooks depend on those before them
        after_flip = differs.long().cumsum(0) > differs.long()
    comparable = ~after_flip & ~near_flip
    acoustic = Decisions(margins.acoustic[0, :codebooks][comparable], differs[comparable])
    return CodeChanges(boundaries, semantic, acoustic)


def _compare_boundaries(
    first: Int[Tensor, " tokens"], second: Int[Tensor, " tokens"], margins: Float[Tensor, " frames"]
) -> Decisions:
    """Compare where tokens end, wherever both current tokens began at the same frame."""
    first_ends = set(first.cumsum(0).tolist())
    second_ends = set(second.cumsum(0).tolist())
    places = []
    flipped = []
    in_step = True
    for frame in range(1, int(first.sum())):
        ends = frame in first_ends
        also_ends = frame in second_ends
        if in_step:
            places.append(frame - 1)
            flipped.append(ends != also_ends)
            in_step = ends == also_ends
        else:
            in_step = ends and also_ends
    index = torch.tensor(places, dtype=torch.long, device=margins.device)
    return Decisions(margins[index], torch.tensor(flipped, dtype=torch.bool, device=margins.device))
