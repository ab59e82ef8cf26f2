"""SpecAugment (arXiv 1904.08779) without time warping: masks over mels and frames against overfitting.

The masks of an item are a function of (seed, item) alone, items being numbered over the whole run.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

FRAMES_PER_MASK = 40  # 2.4 s
PURPOSE = 0x5A  # separates these random numbers from others of the same seed and item


@dataclass(frozen=True)
class MaskingConfig:
    """SpecAugment's masks."""

    mel_masks: int = 2
    mel_mask_width: int = 20  # most mels of a mask
    time_mask_share: float = 0.15  # largest share of every 40 frames (2.4 s) that one mask in time may take


def mask_features(
    features: Float[Tensor, "batch frames dim"],
    lengths: Sequence[int],
    items: Sequence[int],
    num_mels: int,
    config: MaskingConfig,
    seed: int,
) -> Float[Tensor, "batch frames dim"]:
    """Set bands of mels and spans of frames in stacked, zero-mean features to zero."""
    batch, frames, dim = features.shape
    keep = np.ones((batch, frames, num_mels), dtype=np.float32)
    for row, length, item in zip(keep, lengths, items, strict=True):
        rng = np.random.default_rng([seed, item, PURPOSE])
        for _ in range(config.mel_masks):
            width = rng.integers(0, min(config.mel_mask_width, num_mels) + 1)
            start = rng.integers(0, num_mels - width + 1)
            row[:, start : start + width] = 0.0
        longest = round(min(FRAMES_PER_MASK, length) * config.time_mask_share)
        for _ in range(max(1, length // FRAMES_PER_MASK)):
            width = rng.integers(0, longest + 1)
            start = rng.integers(0, max(1, length - width))
            row[start : start + width] = 0.0
    # A mask covers its mels in all stacked frames.
    return features * torch.from_numpy(keep).to(features.device).repeat(1, 1, dim // num_mels)
