"""Attention over padded batches, global or within a band, and the rotary positions that go with it.

The band is worked through block by block, so memory grows linearly with the sequence; what a clip gets out of either
form does not depend on its padding or on the clips it is batched with.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

from flexicodec.nn import onednn

MAX_EXPLICIT_STEPS = 512  # whose scores are written out: with 8 heads 4 MiB a clip in half precision
MIN_BLOCK = 16  # steps; narrower query blocks cost more in calls than they save in arithmetic


def attention(
    query: Float[Tensor, "batch heads steps head_dim"],
    key: Float[Tensor, "batch heads steps head_dim"],
    value: Float[Tensor, "batch heads steps head_dim"],
    valid: Bool[Tensor, "batch steps"] | None = None,
    window: int | None = None,
    scale: float | None = None,
) -> Float[Tensor, "batch heads steps head_dim"]:
    """Attend from every valid step to every valid step, or to those at most `window` steps away.

    Args:
        valid: which steps are; all of them when None. The others are neither seen nor answered: the output there is
            zero. Callers make it once for all their layers, so that a GPU is not asked layer by layer.
        window: step i attends to j iff |i - j| <= window, in O(steps * window) time and memory; None is global.
        scale: factor on the scores, head_dim ** -0.5 when None.
    """
    if valid is not None:
        query, key, value = (x.masked_fill(~valid[:, None, :, None], 0) for x in (query, key, value))
    return attend(query, key, value, valid, window, scale)


def attend(
    query: Float[Tensor, "batch heads steps head_dim"],
    key: Float[Tensor, "batch heads steps head_dim"],
    value: Float[Tensor, "batch heads steps head_dim"],
    valid: Bool[Tensor, "batch steps"] | None = None,
    window: int | None = None,
    scale: float | None = None,
) -> Float[Tensor, "batch heads steps head_dim"]:
    """Do the same for callers who keep the padding at moderate values."""
    assert window is None or window >= 0, window
    steps = query.shape[2]
    if window is not None and torch.compiler.is_exporting():  # one form for every length
        out = _attend_in_blocks(query, key, value, valid, window, scale)
    elif window is None or window >= steps - 1:
        mask = None if valid is None else _key_mask(valid)
        out = sdpa(query, key, value, mask, scale)
    elif steps <= max(window, MIN_BLOCK) + 2 * window:  # a single block would see it all
        mask = _band_mask(valid, steps, window, query.device)
        out = sdpa(query, key, value, mask, scale)
    else:
        out = _attend_in_blocks(query, key, value, valid, window, scale)
    return out if valid is None else out.masked_fill(~valid[:, None, :, None], 0)


def sdpa(
    query: Float[Tensor, "batch heads queries head_dim"],
    key: Float[Tensor, "batch heads steps head_dim"],
    value: Float[Tensor, "batch heads steps head_dim"],
    mask: Bool[Tensor, "..."] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "batch heads queries head_dim"]:
    """Attend to what `mask` shows, to everything when None, however many heads and steps there are.

    In half precision PyTorch's own kernel for the CPU takes up to three times as long as the products in it do by
    themselves, so the scores of not too many steps are written out; in float32 it is the faster way.
    """
    if (
        query.dtype == torch.float32
        or not onednn.can_use_onednn(query)
        or max(query.shape[2], key.shape[2]) > MAX_EXPLICIT_STEPS
    ):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    query = query * (query.shape[-1] ** -0.5 if scale is None else scale)
    weights = query @ key.mT
    if mask is not None:
        weights = weights.masked_fill_(~mask, -torch.inf)
    return weights.softmax(-1) @ value


def _key_mask(valid: Bool[Tensor, "batch steps"]) -> Bool[Tensor, "batch 1 1 steps"]:
    """Show every query the valid keys; an empty item sees its padding, because a softmax over nothing is NaN."""
    return (valid | ~valid.any(dim=1, keepdim=True))[:, None, None]


def _band_mask(
    valid: Bool[Tensor, "batch steps"] | None, steps: int, window: int, device: torch.device
) -> Bool[Tensor, "*batch steps steps"]:
    """Show every query the valid keys in its band, and itself even in the padding, so that no softmax is empty."""
    step = torch.arange(steps, device=device)
    distance = (step - step[:, None]).abs()
    band = distance <= window
    return band if valid is None else ((band & valid[:, None]) | (distance == 0))[:, None]


def _attend_in_blocks(
    query: Float[Tensor, "batch heads steps head_dim"],
    key: Float[Tensor, "batch heads steps head_dim"],
    value: Float[Tensor, "batch heads steps head_dim"],
    valid: Bool[Tensor, "batch steps"] | None,
    window: int,
    scale: float | None,
) -> Float[Tensor, "batch heads steps head_dim"]:
    """Attend within the band, one batch entry per block of queries.

    # queries        | block 0 | block 1 | block 2 |         block = max(window, MIN_BLOCK) steps
    # keys of 1   [window| block 1 |window]                  span = block + 2 * window steps
    """
    batch, _, steps, _ = query.shape
    block = max(window, MIN_BLOCK)
    span = block + 2 * window
    blocks = (steps + block - 1) // block
    fill = blocks * block - steps

    queries = F.pad(query, (0, 0, 0, fill)).unflatten(2, (blocks, block))
    keys, values = (_spans(F.pad(x, (0, 0, block, fill + block)), 2, block, window) for x in (key, value))
    queries, keys, values = (x.transpose(1, 2).flatten(0, 1) for x in (queries, keys, values))

    if valid is None:
        valid = torch.ones(1, steps, dtype=torch.bool, device=query.device)
    in_reach = _spans(F.pad(valid, (block, fill + block)), 1, block, window)
    offset = torch.arange(span, device=query.device) - window - torch.arange(block, device=query.device)[:, None]
    # As above: every query sees itself, even in the padding.
    mask = (in_reach[:, :, None] & (offset.abs() <= window)) | (offset == 0)
    mask = mask.expand(batch, -1, -1, -1).flatten(0, 1)[:, None]

    out = sdpa(queries, keys, values, mask, scale)
    return out.unflatten(0, (batch, blocks)).transpose(1, 2).flatten(2, 3)[:, :, :steps]


def _spans(x: Tensor, axis: int, block: int, window: int) -> Tensor:
    """Split an axis into blocks, with the `window` steps before and behind each; the first and last block fall away."""
    blocks = x.unflatten(axis, (-1, block))
    count = blocks.shape[axis] - 2
    before, own, behind = (blocks.narrow(axis, start, count) for start in range(3))
    reach = before.narrow(axis + 1, block - window, window), own, behind.narrow(axis + 1, 0, window)
    return torch.cat(reach, dim=axis + 1)


def rope_frequencies(positions: Int[Tensor, "*batch steps"], head_dim: int) -> Complex[Tensor, "*batch steps half_dim"]:
    """Tabulate the turns of `rotary` as unit complex numbers: once per forward pass, for all layers.

    The angles are float64 where the device has it: in float32 they would be off by 1e-3 after ten minutes, and the same
    speech would then look different early and late in a clip.
    """
    precise = torch.float32 if positions.device.type == "mps" else torch.float64
    pairs = torch.arange(0, head_dim, 2, dtype=precise, device=positions.device)
    angles = positions[..., None].to(precise) * 10000.0 ** (-pairs / head_dim)
    if torch.compiler.is_exporting():  # runtimes have no complex numbers, and sines in float32 alone: wrap first
        angles = (angles - (2 * math.pi) * torch.floor(angles / (2 * math.pi))).float()
        return torch.cat([angles.cos(), angles.sin()], dim=-1)
    return torch.complex(angles.cos().float(), angles.sin().float())


def apply_rope(
    x: Float[Tensor, "*shape dim"], turns: Complex[Tensor, "*#shape half_dim"]
) -> Float[Tensor, "*shape dim"]:
    """Turn the adjacent pairs of the last axis, read as complex numbers (far faster than slicing them apart)."""
    if torch.compiler.is_exporting():
        (cos, sin), (real, imaginary) = turns.chunk(2, dim=-1), x.unflatten(-1, (-1, 2)).unbind(-1)
        turned = real * cos - imaginary * sin, real * sin + imaginary * cos
        return torch.stack(turned, dim=-1).flatten(-2)
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)
