"""Similarities of neighbouring frames, durations (frames per token), and merging and unmerging by them.

Durations of a batch are integers [B, N], padded with 0 on the right; they sum to the item's frames:

    frames     a a b b b c
    starts     1 0 1 0 0 1
    durations  2   3     1     (0 0 ... padding)

Similarities are computed once; any number of rates is then chosen from them (policies.py).
"""

from collections.abc import Sequence
from numbers import Integral

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flexicodec.nn.masking import length_mask


def cosine_similarities(
    features: Float[Tensor, "batch dim frames"], lengths: Int[Tensor, " batch"] | None = None
) -> Float[Tensor, "batch frames-1"]:
    """Compare every frame with the next one.

    Entry t is the cosine between frames t and t + 1 (arXiv 2510.00981), computed in float32 whatever the features come
    in, and clamped to [-1, 1]: rounding often puts a frame's cosine with itself above 1, and then even a threshold of 1
    would merge. A frame of zeros has similarity 0 to everything.

    Args:
        features: semantic features; what lies past `lengths` does not matter.
        lengths: valid frames of every item; None means all of them.

    Returns:
        Similarities, 0 where one of the two frames lies at or past the item's length; no entries for a single frame.
    """
    # Frames become rows: a row's sums are then formed alike in a short and in a long (padded) batch.
    frames = features.float().mT.contiguous()
    similarities = F.cosine_similarity(frames[:, :-1], frames[:, 1:], dim=-1, eps=1e-8).clamp(-1.0, 1.0)
    if lengths is None:
        return similarities
    second_is_valid = length_mask(lengths, frames.shape[1])[:, 1:]
    return torch.where(second_is_valid, similarities, 0.0)


LONGEST = 2**31 - 1  # frames a cap may name
LONGEST_EXPORTED = 2048  # frames of a token that an exported graph can take the mean of; every doubling costs a round


def check_max_duration(max_duration: int | None) -> int | None:
    """Return the cap on a token's frames, None for no cap; ValueError for anything but a positive integer or None."""
    if max_duration is None:
        return None
    if isinstance(max_duration, bool) or not isinstance(max_duration, Integral) or max_duration < 1:
        raise ValueError(
            f"max_duration is {max_duration!r}, but a token holds a whole number of frames, at least 1; "
            "None (not 0) lifts the cap"
        )
    if max_duration > LONGEST:
        raise ValueError(f"max_duration is beyond {LONGEST} frames; None lifts the cap")
    return int(max_duration)


def chop_runs(starts: Bool[Tensor, "batch frames"], max_duration: int | None) -> Bool[Tensor, "batch frames"]:
    """Cut runs of frames that exceed `max_duration`, from left to right: 20 frames at a cap of 8 become 8, 8, 4.

    This is upstream's rule (`max_tokens_per_group`): a token also starts where the index inside the run is a multiple
    of the cap. Frame 0 always starts a run.
    """
    if max_duration is None:
        return starts
    frame = torch.arange(starts.shape[-1], device=starts.device)
    run_start = torch.where(starts, frame, 0).cummax(-1).values
    return starts | ((frame - run_start) % max_duration == 0)


def durations_from_starts(
    starts: Bool[Tensor, "batch frames"], lengths: Int[Tensor, " batch"] | None = None
) -> Int[Tensor, "batch tokens"]:
    """Count the frames from every token's start to the next one.

    Frame 0 starts a token whatever `starts` says, and frames at or past the length belong to none. As many tokens come
    back as the item with the most of them has.
    """
    valid = torch.ones_like(starts) if lengths is None else length_mask(lengths, starts.shape[1])
    starts = F.pad(starts[:, 1:], (1, 0), value=True) & valid
    num_tokens = int(starts.sum(-1).max())
    index = torch.where(valid, starts.cumsum(-1) - 1, num_tokens)  # frames of the padding go to one slot too many
    counts = index.new_zeros(len(starts), num_tokens + 1)
    return counts.scatter_add_(1, index, torch.ones_like(index))[:, :-1]


def token_index(durations: Int[Tensor, "batch tokens"], num_frames: int) -> Int[Tensor, "batch frames"]:
    """Say for every frame which token it belongs to; frames past the item's total get N, one past the last token."""
    ends = durations.long().cumsum(-1)
    if torch.compiler.is_exporting():  # runtimes have no searchsorted; this counts the ends so far as well
        marks = ends.new_zeros(ends.shape[0], num_frames + 1)
        marks = marks.scatter_add(1, ends.clamp(max=num_frames), torch.ones_like(ends))
        return marks.cumsum(-1)[:, :num_frames]
    frames = torch.arange(num_frames, device=durations.device).expand(len(durations), -1)
    return torch.searchsorted(ends, frames.contiguous(), right=True)


def merge(
    features: Float[Tensor, "batch dim frames"], durations: Int[Tensor, "batch tokens"]
) -> Float[Tensor, "batch dim tokens"]:
    """Average the frames of each token.

    A duration of 0 marks padding; those tokens come out as zeros. Frames past an item's total are left out, whatever
    they hold. Half precision is summed in float32. Gradients flow to the frames.

    The sums are a segmented scan: in round k every frame adds the sum that ends 2^k frames earlier, if that frame is in
    the same token. Three rounds do for tokens of 8 frames. Unlike `scatter_add` on a GPU it adds in the same order at
    every call, and unlike differences of running sums it loses no precision on long clips.
    """
    dim, num_frames = features.shape[1:]
    durations = durations.long()
    ends = durations.cumsum(-1)
    if features.numel() == 0 or durations.numel() == 0:
        return features.new_zeros(len(features), dim, durations.shape[1])
    exporting = torch.compiler.is_exporting()
    assert exporting or int(ends[:, -1].max()) <= num_frames, "durations exceed the frames"

    # Index of each frame inside its token.
    first = F.pad(ends - durations, (0, 1)).gather(1, token_index(durations, num_frames))
    offset = (torch.arange(num_frames, device=features.device) - first)[:, None]  # of a frame inside its token
    sums = features.float() if features.dtype in (torch.float16, torch.bfloat16) else features
    # Doubling steps: after round k a sum covers 2^k frames of its token.
    step, longest = 1, LONGEST_EXPORTED if exporting else int(durations.max())
    while step < longest:
        earlier = F.pad(sums, (step, 0))[..., :num_frames]
        sums = sums + torch.where(offset >= step, earlier, 0.0)
        step *= 2

    # The sum at a token's last frame covers all of it.
    last = (ends - 1).clamp(min=0)[:, None].expand(-1, dim, -1)
    means = sums.gather(2, last) / durations.clamp(min=1)[:, None]
    return torch.where(durations[:, None] > 0, means, 0.0).to(features.dtype)


def unmerge(
    latents: Float[Tensor, "batch dim tokens"], durations: Int[Tensor, "batch tokens"], num_frames: int | None = None
) -> Float[Tensor, "batch dim frames"]:
    """Repeat each token's vector for as many frames as it lasts, by gathering; zeros follow past each item's total.

    `num_frames` is the length of the result, by default the longest item's total.
    """
    assert latents.shape[::2] == durations.shape, f"latents {latents.shape}, but durations {durations.shape}"
    if num_frames is None:
        num_frames = int(durations.sum(-1).max())
    index = token_index(durations, num_frames)[:, None].expand(-1, latents.shape[1], -1)
    return F.pad(latents, (0, 1)).gather(2, index)


class Repeater(nn.Module):
    """Repeat each token's vector, without any weights; see `unmerge`."""

    def forward(
        self,
        latents: Float[Tensor, "batch dim tokens"],
        durations: Int[Tensor, "batch tokens"],
        num_frames: int | None = None,
    ) -> Float[Tensor, "batch dim frames"]:
        """See `unmerge`."""
        return unmerge(latents, durations, num_frames)


def validate_durations(
    durations: Tensor | Sequence[int] | Sequence[Sequence[int]],
    lengths: Int[Tensor, " batch"],
    max_duration: int | None,
) -> Int[Tensor, "batch tokens"]:
    """Check durations that a caller made up against the frames they have to cover.

    Args:
        durations: [B, N], padded with 0 on the right, or [N] for a single clip; integers.
        lengths: frames of every item.
        max_duration: frames that a token may hold; None for no cap.

    Returns:
        The durations as int64 [B, N] on the device of `lengths`, without columns that are padding for every item.

    Raises:
        ValueError: wrong type or shape, negative values, a 0 before the end, a token over the cap, or a wrong sum.
    """
    max_duration = check_max_duration(max_duration)
    try:
        given = torch.as_tensor(durations, device=lengths.device)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"durations are no array of integers ({error}); pad shorter rows with 0") from error
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        raise ValueError(f"durations are {given.dtype}, but they count frames: integers; were they given in seconds?")
    batch = len(lengths)
    rows = given[None] if given.ndim == 1 and batch == 1 else given
    if rows.ndim != 2 or rows.shape[0] != batch:
        raise ValueError(
            f"durations have shape {tuple(given.shape)}, but {batch} clip(s) need [{batch}, tokens]"
            + ("; give every clip its own row, padded with 0" if given.ndim == 1 else "")
        )

    on_device = rows.long()
    rows, lengths = on_device.cpu(), lengths.cpu()  # one question to a GPU each, and not one per check
    if bool((rows < 0).any()):
        raise ValueError(f"durations hold {int(rows.min())}, but a token lasts at least 1 frame (0 marks padding)")
    if bool(((rows[:, :-1] == 0) & (rows[:, 1:] > 0)).any()):
        raise ValueError("durations hold a 0 before the last token; 0 marks padding and stands on the right only")
    longest = int(rows.max()) if rows.numel() else 0
    if max_duration is not None and longest > max_duration:
        raise ValueError(
            f"durations hold {longest}, but a token lasts at most max_duration={max_duration} frames; "
            "split it, or raise max_duration if the codec was trained for more"
        )
    # A single value past the length is enough to be wrong, and clamping there keeps the sum from overflowing.
    total = rows.clamp(max=int(lengths.max()) + 1).sum(-1)
    if bool((total != lengths).any()):
        item = int((total != lengths).nonzero()[0])
        raise ValueError(
            f"durations sum to {sum(rows[item].tolist())} frames but the audio has {int(lengths[item])} (item {item}); "
            "were they made from a resampled or differently trimmed copy?"
        )
    return on_device[:, : int((rows > 0).sum(-1).max())]
