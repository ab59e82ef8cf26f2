"""How alike neighbouring frames are: the only thing most merging policies look at.

One call serves any number of rates: thresholds and token counts are applied to its result afterwards (policies.py).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from flexicodec.merging.durations import valid_frames


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
    second_is_valid = valid_frames(lengths, frames)[:, 1:]
    return torch.where(second_is_valid, similarities, 0.0)
