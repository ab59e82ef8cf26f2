"""From the frozen encoder's frame rate to the codec's grid, each item on its own clock."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def resample_frames(
    features: Float[Tensor, "batch dim source_frames"],
    source_lengths: Int[Tensor, " batch"],
    target_lengths: Int[Tensor, " batch"],
    ratio: float | None,
) -> Float[Tensor, "batch dim frames"]:
    """Resample features along time; zero past each item's end.

    Output j lies at (j + 1/2) * ratio - 1/2 of the source and is interpolated linearly between its neighbours there,
    the last frame standing in for what lies beyond. Whole ratios above one average that many frames instead.

    Args:
        features: At the encoder's rate, zero past each item's end.
        source_lengths: Valid frames of each item.
        target_lengths: Frames wanted of each item.
        ratio: Source frames per target frame; None takes each item's own source_length / target_length, which is
            upstream's clip-dependent resize.
    """
    num_frames = int(target_lengths.max())
    if ratio is not None and ratio > 1 and float(ratio).is_integer():
        resized = _average(features, source_lengths, int(ratio), num_frames)
    else:
        resized = _interpolate(features, source_lengths, target_lengths, ratio, num_frames)
    valid = torch.arange(num_frames, device=features.device) < target_lengths[:, None]
    return resized.masked_fill(~valid[:, None], 0.0)


def _interpolate(
    features: Float[Tensor, "batch dim source_frames"],
    source_lengths: Int[Tensor, " batch"],
    target_lengths: Int[Tensor, " batch"],
    ratio: float | None,
    num_frames: int,
) -> Float[Tensor, "batch dim frames"]:
    device = features.device
    source_lengths, target_lengths = source_lengths.cpu(), target_lengths.cpu()  # not every device has float64
    if ratio is None:
        scale = source_lengths.double() / target_lengths.clamp(min=1).double()
    else:
        scale = torch.full(target_lengths.shape, ratio, dtype=torch.float64)
    centre = torch.arange(num_frames, dtype=torch.float64) + 0.5
    position = (scale[:, None] * centre - 0.5).clamp(min=0)
    last = (source_lengths - 1)[:, None]
    left = torch.minimum(position.floor().long(), last)
    right = torch.minimum(left + 1, last)
    weight = (position - left).clamp(0, 1).to(device, features.dtype)
    return torch.lerp(_nearest(features, left.to(device)), _nearest(features, right.to(device)), weight[:, None])


def _average(
    features: Float[Tensor, "batch dim source_frames"],
    source_lengths: Int[Tensor, " batch"],
    ratio: int,
    num_frames: int,
) -> Float[Tensor, "batch dim frames"]:
    index = torch.arange(num_frames * ratio, device=features.device)
    picked = _nearest(features, torch.minimum(index, (source_lengths - 1)[:, None]))
    return picked.unflatten(-1, (num_frames, ratio)).mean(-1)


def _nearest(
    features: Float[Tensor, "batch dim source_frames"], index: Int[Tensor, "batch picked"]
) -> Float[Tensor, "batch dim picked"]:
    return features.gather(2, index[:, None].expand(-1, features.shape[1], -1))
