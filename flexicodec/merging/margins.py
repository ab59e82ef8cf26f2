"""How far boundaries were from falling otherwise; every policy that can tell has a method `margins` of its own."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flexicodec.merging.policies import MergingPolicy, Seconds


def boundary_margins(
    policy: MergingPolicy,
    similarities: Float[Tensor, "batch pairs"],
    lengths: Int[Tensor, " batch"],
    *,
    seconds: Seconds | None = None,
    max_duration: int | None = None,
) -> Float[Tensor, "batch pairs"]:
    """Tell how far each pair of neighbours was from being kept together instead of apart, or apart instead of together.

    That is in the unit of similarities, and supposes that what was decided before stays; arguments are those of the
    policy's call.

    Returns:
        inf where nothing can flip and past each clip's last pair, NaN from policies that cannot tell.
    """
    margins = getattr(policy, "margins", None)
    found = torch.full_like(similarities, torch.nan)
    if margins is not None:
        found = margins(similarities, lengths, seconds=seconds, max_duration=max_duration)
    inside = torch.arange(similarities.shape[1], device=similarities.device) + 1 < lengths[:, None]
    return found.masked_fill(~inside, torch.inf)
