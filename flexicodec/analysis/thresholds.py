"""The similarity threshold behind tokens that were asked for by rate.

A rate is met by cutting where neighbours differ most, which is what a threshold of the right height does too.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flexicodec.merging import Threshold
from flexicodec.tokens import Tokens


def effective_threshold(tokens: Tokens, similarities: Float[Tensor, " pairs"]) -> float | None:
    """Find the threshold that gives the tokens of a clip: the highest similarity at which frames were kept apart.

    Boundaries that only keep a token within `max_duration` do not count.

    Args:
        tokens: Of one clip.
        similarities: Cosine of each of its frames with the next one.

    Returns:
        The threshold, -1 if all boundaries are due to `max_duration`; None where no threshold gives these tokens, which
        were then made evenly, or elsewhere.
    """
    similarities = similarities.detach().cpu()
    apart = boundaries(tokens)
    lowest_merged = float(similarities[~apart].min()) if (~apart).any() else 2.0
    chosen = similarities[apart & (similarities < lowest_merged)]
    threshold = float(chosen.max()) if len(chosen) else -1.0
    rule = Threshold(threshold)
    durations = rule(similarities[None], tokens.frame_lengths.cpu(), max_duration=tokens.format.max_duration)
    return threshold if torch.equal(durations, tokens[0].durations.cpu()) else None


def boundaries(tokens: Tokens) -> Bool[Tensor, " pairs"]:
    """Tell for each pair of neighbouring frames of a clip whether a new token starts between them."""
    apart = torch.zeros(int(tokens.frame_lengths[0]), dtype=torch.bool)
    apart[tokens[0].durations[0].cpu().cumsum(0) - 1] = True  # the last frame of each token
    return apart[:-1]
