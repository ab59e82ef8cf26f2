"""Padded batches: masks from lengths, zeroing, cutting, and reflection at each item's own end."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def length_mask(lengths: Int[Tensor, " batch"], steps: int, start: int = 0) -> Bool[Tensor, "batch steps"]:
    """Mark the steps before each item's length; the first one is step `start` of the clip."""
    return torch.arange(start, start + steps, device=lengths.device) < lengths[:, None]


def valid_steps(lengths: Int[Tensor, " batch"] | None, steps: int) -> Bool[Tensor, "batch steps"] | None:
    """Return the `length_mask`, or None where nothing is padding: layers are faster without a mask."""
    # An exported graph is good for any lengths, so it always has the mask.
    if lengths is None or (not torch.compiler.is_exporting() and bool((lengths >= steps).all())):
        return None
    return length_mask(lengths, steps)


def zero_padding(
    x: Float[Tensor, "batch dim steps"], valid: Bool[Tensor, "batch steps"] | None
) -> Float[Tensor, "batch dim steps"]:
    """Set `x` to zero where `valid` is False, also NaN and Inf; None changes nothing."""
    return x if valid is None else x.masked_fill(~valid[:, None], 0)


def fit_lengths(
    audio: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"], wanted: Int[Tensor, " batch"]
) -> Float[Tensor, "batch wanted"]:
    """Cut decoded clips to their lengths, or extend them by zeros; the result is as wide as the longest.

    Args:
        audio: Decoded clips.
        lengths: Valid samples of each.
        wanted: Samples that each should have.
    """
    # wanted 5, valid 3    x x x 0 0
    samples = int(wanted.max())
    audio = F.pad(audio, (0, samples - audio.shape[-1]))  # a negative number cuts
    return audio.masked_fill(~length_mask(torch.minimum(wanted, lengths), samples), 0.0)


def mirror_ends(
    x: Float[Tensor, "batch dim steps"], ends: Int[Tensor, " batch"], width: int, repeat: bool
) -> Float[Tensor, "batch dim steps"]:
    """Pad each item in place behind its own end by at most `width` steps, by reflection or by repeating its last step.

    Args:
        x: A padded batch, or a chunk of one.
        ends: Steps of `x` that belong to each item. A chunk may begin and stop anywhere, so they may be negative or
            exceed its length; steps whose source lies outside the chunk stay as they are.
        width: Steps to write.
        repeat: Repeat the last step instead of reflecting.
    """
    steps = torch.arange(width, device=x.device)
    targets = ends.to(x.device)[:, None] + steps
    sources = targets - 1 - steps if repeat else targets - 2 * (steps + 1)
    if torch.compiler.is_exporting():  # whole clips, so all sources exist
        mirrored = x.gather(2, sources[:, None].expand(-1, x.shape[1], -1))
        return x.scatter(2, targets[:, None].expand(-1, x.shape[1], -1), mirrored)
    items, places = ((sources >= 0) & (targets < x.shape[-1])).nonzero(as_tuple=True)
    x[items, :, targets[items, places]] = x[items, :, sources[items, places]]
    return x
