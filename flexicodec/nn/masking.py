"""Which steps of a padded batch are real, and what stands for the rest.

Every part that mixes time stands on these lines, so that a clip in a batch gives what it gives alone.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def valid_steps(lengths: Int[Tensor, " batch"] | None, steps: int) -> Bool[Tensor, "batch steps"] | None:
    """Mark the steps before each item's length; None when there is no padding, so that the fast paths stay open."""
    if lengths is None or (not torch.compiler.is_exporting() and bool((lengths >= steps).all())):
        return None
    return torch.arange(steps, device=lengths.device) < lengths[:, None]


def zero_padding(
    x: Float[Tensor, "batch dim steps"], valid: Bool[Tensor, "batch steps"] | None
) -> Float[Tensor, "batch dim steps"]:
    """Put zeros wherever `valid` is False, whatever stood there; change nothing when it is None."""
    return x if valid is None else x.masked_fill(~valid[:, None], 0)


def mirror_ends(
    x: Float[Tensor, "batch dim steps"], ends: Int[Tensor, " batch"], width: int, repeat: bool
) -> Float[Tensor, "batch dim steps"]:
    """Continue each item in place behind its end, for `width` steps at most: backwards, or repeating its last step.

    Args:
        x: Items side by side.
        ends: Steps of `x` that belong to each item; a window of a stream may begin or stop anywhere, so they may be
            negative or more than there are. What would be continued from a step outside the window is left as it is.
        width: Steps to write.
        repeat: Repeat the last step; else go backwards from the one before it.
    """
    steps = torch.arange(width, device=x.device)
    targets = ends.to(x.device)[:, None] + steps
    sources = targets - 1 - steps if repeat else targets - 2 * (steps + 1)
    if torch.compiler.is_exporting():  # whole clips, so that all of these are there
        mirrored = x.gather(2, sources[:, None].expand(-1, x.shape[1], -1))
        return x.scatter(2, targets[:, None].expand(-1, x.shape[1], -1), mirrored)
    items, places = ((sources >= 0) & (targets < x.shape[-1])).nonzero(as_tuple=True)
    x[items, :, targets[items, places]] = x[items, :, sources[items, places]]
    return x
