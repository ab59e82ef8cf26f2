"""Holes in features, which keep a recogniser from learning clips by heart.

The holes of an item are a function of (seed, item) alone, items being numbered over the whole run.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

STRETCH = 40  # frames (2.4 s) in which there is one hole in time
_PURPOSE = 0x5A  # keeps these draws apart from others of the same item


@dataclass(frozen=True)
class MaskingConfig:
    """SpecAugment (arXiv 1904.08779) without its warping.

    Attributes:
        mel_masks: Bands that are blanked.
        mel_mask_width: Most mels of a band.
        time_mask_share: Largest share of every 40 frames (2.4 s) that one hole in time may take.
    """

    mel_masks: int = 2
    mel_mask_width: int = 20
    time_mask_share: float = 0.15


def mask_features(
    features: Float[Tensor, "batch frames dim"],
    lengths: Sequence[int],
    items: Sequence[int],
    num_mels: int,
    config: MaskingConfig,
    seed: int,
) -> Float[Tensor, "batch frames dim"]:
    """Blank bands of mels and stretches of frames in stacked features, which are zero on average."""
    batch, frames, dim = features.shape
    keep = np.ones((batch, frames, num_mels), dtype=np.float32)
    for row, length, item in zip(keep, lengths, items, strict=True):
        random = np.random.default_rng([seed, item, _PURPOSE])
        for _ in range(config.mel_masks):
            width = random.integers(0, min(config.mel_mask_width, num_mels) + 1)
            start = random.integers(0, num_mels - width + 1)
            row[:, start : start + width] = 0.0
        longest = round(min(STRETCH, length) * config.time_mask_share)
        for _ in range(max(1, length // STRETCH)):
            width = random.integers(0, longest + 1)
            start = random.integers(0, max(1, length - width))
            row[start : start + width] = 0.0
    return features * torch.from_numpy(keep).to(features.device).repeat(1, 1, dim // num_mels)
