"""How far decisions about tokens were from the other outcome (see `Margins`), computed after the fact.

Encoding does not depend on anything here: boundaries are compared with the policy's rule, and codes with the
quantizers' rules (`Quantizer.margins`).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from flexicodec.code_margins import Margins
from flexicodec.merging import ExactRate, MergingPolicy, Threshold, Uniform
from flexicodec.merging.policies import Seconds


def boundary_margins(
    policy: MergingPolicy | None,
    similarities: Float[Tensor, "batch pairs"],
    lengths: Int[Tensor, " batch"],
    *,
    seconds: Seconds | None = None,
    max_duration: int | None = None,
) -> Float[Tensor, "batch pairs"]:
    """Compute how far each pair of neighbouring frames was from the other decision, given all those before it.

    Args:
        policy: The rule that decided; None for durations from elsewhere. A policy of your own may have a method
            `margins`, called with the arguments below.
        similarities: As for the policy's call, and so are the others.

    Returns:
        Distances in the unit of similarities: inf where nothing can flip and past each clip's last pair, NaN for
        policies that cannot tell.
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
        margins = policy.margins(similarities, lengths, seconds=seconds, max_duration=max_duration)
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
