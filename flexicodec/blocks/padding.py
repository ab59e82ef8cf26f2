"""Which steps of a padded batch are real, and zeros for the rest.

Every part that mixes time stands on these two lines, so that a clip in a batch gives what it gives alone.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def valid_steps(lengths: Int[Tensor, " batch"] | None, steps: int) -> Bool[Tensor, "batch steps"] | None:
    """Mark the steps before each item's length; None when there is no padding, so that the fast paths stay open."""
    if lengths is None or bool((lengths >= steps).all()):
        return None
    return torch.arange(steps, device=lengths.device) < lengths[:, None]


def zero_padding(
    x: Float[Tensor, "batch dim steps"], valid: Bool[Tensor, "batch steps"] | None
) -> Float[Tensor, "batch dim steps"]:
    """Put zeros wherever `valid` is False, whatever stood there; change nothing when it is None."""
    return x if valid is None else x.masked_fill(~valid[:, None], 0)
