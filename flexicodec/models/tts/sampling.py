"""Choosing an id from the logits of a language model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
        repetition_window: Repetition-aware sampling (VALL-E 2, arXiv 2406.05370): a code that is among so many before
            it too often is drawn again, of all codes. 0 does without. Applies to codes, not to durations.
        repetition_share: Share of the window from which it is too often.
    """

    temperature: float = 1.0
    top_k: int | None = 25
    top_p: float = 1.0
    repetition_window: int = 0
    repetition_share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; expected a positive number (top_k=1 is greedy)")
        if self.top_k is not None and (isinstance(self.top_k, bool) or self.top_k < 1):
            raise ValueError(f"top_k is {self.top_k}; expected a whole number of at least 1, or None for all ids")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; expected a probability above 0, at most 1")
        if self.repetition_window < 0 or not 0 < self.repetition_share <= 1:
            raise ValueError(
                f"repetition_window is {self.repetition_window} and repetition_share {self.repetition_share}; expected "
                "0 or more codes, and a share above 0, at most 1"
            )


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


def repeats(codes: Int[Tensor, " batch"], before: Sequence[Int[Tensor, " batch"]], sampling: Sampling) -> list[int]:
    """List the items whose code is too often among those before it; see `Sampling`.

    Args:
        codes: Drawn now.
        before: Those of all steps before.
        sampling: How.
    """
    window = before[len(before) - min(len(before), sampling.repetition_window) :]
    if not window:
        return []
    share = torch.stack([codes == each for each in window]).sum(0) / sampling.repetition_window
    return (share >= sampling.repetition_share).nonzero()[:, 0].tolist()


def unrestricted(sampling: Sampling) -> Sampling:
    """Return how a repeated code is drawn again."""
    return replace(sampling, top_k=None, top_p=1.0)
