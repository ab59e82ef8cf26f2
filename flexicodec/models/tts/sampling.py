"""Choosing an id from the logits of a language model."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How ids are drawn.

    Attributes:
        temperature: Divides the logits.
        top_k: Keep only so many of the most probable ids; 1 takes the most probable one, None keeps all.
        top_p: Keep only the most probable ids that together have this probability.
    """

    temperature: float = 1.0
    top_k: int | None = 25
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; expected a positive number (top_k=1 is greedy)")
        if self.top_k is not None and (isinstance(self.top_k, bool) or self.top_k < 1):
            raise ValueError(f"top_k is {self.top_k}; expected a whole number of at least 1, or None for all ids")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; expected a probability above 0, at most 1")


GREEDY = Sampling(top_k=1)


def draw(
    logits: Float[Tensor, "batch ids"], sampling: Sampling, generators: Sequence[torch.Generator]
) -> Int[Tensor, " batch"]:
    """Draw an id for each item, with the item's own generator, so that items do not depend on one another.

    Args:
        logits: -inf excludes an id; at least one is finite.
        sampling: How.
        generators: On the CPU, one per item.
    """
    if sampling.top_k == 1:
        return logits.argmax(-1)
    scaled = logits.float().cpu() / sampling.temperature
    kept = scaled.shape[1] if sampling.top_k is None else min(sampling.top_k, scaled.shape[1])
    scores, ids = scaled.topk(kept)  # the most probable first
    probabilities = scores.softmax(-1)
    # An id is kept as long as those before it have less than `top_p` together.
    before = probabilities.cumsum(-1) - probabilities
    probabilities = probabilities.masked_fill(before >= sampling.top_p, 0)
    chosen = []
    for row, generator in zip(probabilities, generators, strict=True):
        chosen.append(torch.multinomial(row, 1, generator=generator))
    return ids.gather(1, torch.stack(chosen))[:, 0].to(logits.device)
