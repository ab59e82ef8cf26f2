"""Attention over padded batches, global or within a window, and rotary position embeddings.

Windows are computed block by block, so memory grows linearly with the sequence. The output for a clip depends neither
on its padding nor on the clips it is batched with.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

from flexicodec.nn import onednn

MAX_EXPLICIT_STEPS = 512  # longest sequence whose scores are written out: with 8 heads 4 MiB a clip in half precision
Window = int | tuple[int, int] | None  # steps to either side, or to the left and to the right; None is global
MIN_BLOCK = 16  # steps; narrower query blocks cost more in calls than they save in arithmetic


def attention(
    query: Float[Tensor, "batch heads steps head_dim"],
    key: Float[Tensor, "batch heads steps head_dim"],
    value: Float[Tensor, "batch heads steps head_dim"],
    valid: Bool[Tensor, "batch steps"] | None = None,
    window: Window = None,
) -> Float[Tensor, "batch heads steps head_dim"]:
    """Attend from every valid step to every valid step, or to those at most `window` steps away.

    Args:
        query: Finite also in the padding, as all callers' are: what they are computed from was zeroed there.
        key: As `query`.
        value: As `query`.
        valid: Mask of the valid steps, None for all. Others get no weight, and their output is zero. Made once for all
            layers, because on a GPU it waits for the device.
        window: Step i attends to j iff i - left <= j <= i + right, in O(steps * window) time and memory; None is
            global.
    """
    sides = window_sides(window)
    steps = query.shape[2]
    if sides is not None and torch.compiler.is_exporting():  # one form for every length
        out = _attend_in_blocks(query, key, value, valid, *sides)
    elif sides is None or min(sides) >= steps - 1:
        mask = None
        if valid is not None:  # an item without valid steps attends to its padding: a softmax over nothing is NaN
            mask = (valid | ~valid.any(dim=1, keepdim=True))[:, None, None]
        out = sdpa(query, key, value, mask)
    elif steps <= max(*sides, MIN_BLOCK) + sum(sides):  # a single block would span everything
        step = torch.arange(steps, device=query.device)
        offset = step - step[:, None]
        mask = within(offset, sides)
        if valid is not None:  # every step attends to itself even in the padding, so that no softmax is empty
            mask = ((mask & valid[:, None]) | (offset == 0))[:, None]
        out = sdpa(query, key, value, mask)
    else:
        out = _attend_in_blocks(query, key, value, valid, *sides)
    return out if valid is None else out.masked_fill(~valid[:, None, :, None], 0)


def window_sides(window: Window) -> tuple[int, int] | None:
    """Return the steps that a window covers to the left and to the right; None where it is global."""
    sides = (window, window) if isinstance(window, int) else window
    assert sides is None or min(sides) >= 0, window
    return sides


def within(offset: Int[Tensor, "*shape"], sides: tuple[int, int]) -> Bool[Tensor, "*shape"]:
    """Mark the offsets, key minus query in steps, that a window covers."""
    return (offset >= -sides[0]) & (offset <= sides[1])


def sdpa(
    query: Float[Tensor, "batch heads queries head_dim"],
    key: Float[Tensor, "batch heads steps head_dim"],
    value: Float[Tensor, "batch heads steps head_dim"],
    mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "batch heads queries head_dim"]:
    """Run scaled dot-product attention where `mask` is True, everywhere when None.

    In half precision PyTorch's kernel for the CPU takes up to three times as long as its matrix products do by
    themselves, so the scores of short sequences are written out; in float32 the kernel is faster.
    """
    if (
        query.dtype == torch.float32
        or onednn.onednn_dtype(query) is None
        or max(query.shape[2], key.shape[2]) > MAX_EXPLICIT_STEPS
    ):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    query = query * query.shape[-1] ** -0.5
    weights = query @ key.mT
    if mask is not None:
        weights = weights.masked_fill_(~mask, -torch.inf)
    return weights.softmax(-1) @ value


def _attend_in_blocks(
    query: Float[Tensor, "batch heads steps head_dim"],
    key: Float[Tensor, "batch heads steps head_dim"],
    value: Float[Tensor, "batch heads steps head_dim"],
    valid: Bool[Tensor, "batch steps"] | None,
    left: int,
    right: int,
) -> Float[Tensor, "batch heads steps head_dim"]:
    """Attend within the band, one batch entry per block of queries.

    # queries        | block 0 | block 1 | block 2 |         block = max(left, right, MIN_BLOCK) steps
    # keys of 1     [left| block 1 |right]                   span = left + block + right steps
    """
    batch, _, steps, _ = query.shape
    block = max(left, right, MIN_BLOCK)
    span = left + block + right
    blocks = (steps + block - 1) // block
    fill = blocks * block - steps

    # Queries in blocks, keys and values in overlapping spans, both on the batch axis.
    queries = rearrange(F.pad(query, (0, 0, 0, fill)), "b h (n q) d -> (b n) h q d", q=block)
    margins = (left, fill + right)
    keys = F.pad(key, (0, 0, *margins)).unfold(2, span, block)
    keys = rearrange(keys, "b h n d s -> (b n) h s d")
    values = F.pad(value, (0, 0, *margins)).unfold(2, span, block)
    values = rearrange(values, "b h n d s -> (b n) h s d")

    # Valid keys within the window, and every query itself even in the padding, so that no softmax is empty.
    if valid is None:
        valid = torch.ones(1, steps, dtype=torch.bool, device=query.device)
    valid_keys = F.pad(valid, margins).unfold(1, span, block)
    offset = torch.arange(span, device=query.device) - left - torch.arange(block, device=query.device)[:, None]
    mask = (valid_keys[:, :, None] & within(offset, (left, right))) | (offset == 0)
    mask = mask.expand(batch, -1, -1, -1).flatten(0, 1)[:, None]

    # Blocks back to one sequence, without the steps that filled the last one.
    out = sdpa(queries, keys, values, mask)
    return rearrange(out, "(b n) h q d -> b h (n q) d", b=batch, n=blocks)[:, :, :steps]


def rope_frequencies(positions: Int[Tensor, "*batch steps"], head_dim: int) -> Complex[Tensor, "*batch steps half_dim"]:
    """Compute rotary position factors as unit complex numbers, once per forward pass for all layers.

    Angles are float64 where the device supports it: in float32 they would be off by 1e-3 after ten minutes, and the
    same speech would then look different early and late in a clip.
    """
    precise = torch.float32 if positions.device.type == "mps" else torch.float64
    pairs = torch.arange(0, head_dim, 2, dtype=precise, device=positions.device)
    angles = positions[..., None].to(precise) * 10000.0 ** (-pairs / head_dim)
    if torch.compiler.is_exporting():  # runtimes have no complex numbers, and sines in float32 alone: wrap first
        angles = (angles - (2 * math.pi) * torch.floor(angles / (2 * math.pi))).float()
        return torch.cat([angles.cos(), angles.sin()], dim=-1)
    return torch.complex(angles.cos().float(), angles.sin().float())


def apply_rope(
    x: Float[Tensor, "*shape dim"], frequencies: Complex[Tensor, "*#shape half_dim"]
) -> Float[Tensor, "*shape dim"]:
    """Rotate adjacent pairs of the last axis, as complex numbers (far faster than slicing them apart)."""
    if torch.compiler.is_exporting():
        cos, sin = frequencies.chunk(2, dim=-1)
        real, imaginary = x.unflatten(-1, (-1, 2)).unbind(-1)
        rotated = [real * cos - imaginary * sin, real * sin + imaginary * cos]
        return torch.stack(rotated, dim=-1).flatten(-2)
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * frequencies).flatten(-2).to(x.dtype)
