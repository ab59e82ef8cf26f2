"""CTC decoding: greedy collapse, and forced alignment of a known text (Graves et al. 2006).

A path is a symbol or the blank at every output; dropping repeats, then blanks, gives the text.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLANK = 0
NO_SYMBOL = -1


def collapse(path: Sequence[int]) -> list[int]:
    """Drop repeats, then blanks.

    >>> collapse([3, 3, 0, 3, 5, 0])
    [3, 3, 5]
    """
    return [code for i, code in enumerate(path) if code != BLANK and (i == 0 or path[i - 1] != code)]


@torch.no_grad()
def forced_path(
    log_probs: Float[Tensor, "batch outputs symbols"],
    lengths: Int[Tensor, " batch"],
    targets: Sequence[Sequence[int]],
) -> list[Int[Tensor, " outputs"] | None]:
    """Find the most likely path that collapses to each target (codes without blanks), by the Viterbi algorithm.

    Returns:
        For each item, per valid output, the position in the target it emits, or -1 for the blank; None where the target
        needs more outputs than there are.
    """
    # A state per symbol, with blanks around:    target  a b b
    # a step stays, goes to the next state,      states  - a - b - b -
    # or skips a blank between unlike symbols            0 1 2 3 4 5 6
    log_probs = log_probs.detach().cpu()
    lengths = lengths.cpu()
    batch, outputs = log_probs.shape[:2]
    counts = torch.tensor([len(target) for target in targets], device="cpu")
    width = int(counts.max())
    labels = torch.zeros(batch, width, dtype=torch.long, device="cpu")
    for row, target in zip(labels, targets, strict=True):
        row[: len(target)] = torch.tensor(target, dtype=torch.long, device="cpu")
    states = torch.full((batch, 2 * width + 1), BLANK, device="cpu")
    states[:, 1::2] = labels
    skips = torch.zeros_like(states, dtype=torch.bool)
    skips[:, 3::2] = labels[:, 1:] != labels[:, :-1]

    # Forward: the best score of every state, and by which move (0, 1 or 2 states) it was reached.
    score = log_probs.new_full(states.shape, -torch.inf)
    score[:, :2] = log_probs[:, 0].gather(1, states[:, :2])
    moves = torch.zeros(batch, outputs, states.shape[1], dtype=torch.uint8, device="cpu")
    for output in range(1, outputs):
        next_state = _shifted(score, 1)
        skipping = _shifted(score, 2).masked_fill(~skips, -torch.inf)
        best, move = torch.stack([score, next_state, skipping]).max(dim=0)
        live = (output < lengths)[:, None]
        score = torch.where(live, best + log_probs[:, output].gather(1, states), score)
        moves[:, output] = torch.where(live, move, 0)

    # Backward from the better of the two last states.
    rows = torch.arange(batch, device="cpu")
    last = 2 * counts
    ends = torch.stack([last, (last - 1).clamp(min=0)])
    reached, choice = score[rows, ends].max(dim=0)
    state = ends[choice, rows]
    path = torch.zeros(batch, outputs, dtype=torch.long, device="cpu")
    for output in reversed(range(outputs)):
        path[:, output] = state
        state = state - moves[rows, output, state].long()
    positions = torch.where(path % 2 == 1, path // 2, NO_SYMBOL)
    found: list[Int[Tensor, " outputs"] | None] = [None] * batch
    for i in torch.isfinite(reached).nonzero()[:, 0].tolist():
        found[i] = positions[i, : int(lengths[i])]
    return found


def _shifted(score: Float[Tensor, "batch states"], steps: int) -> Float[Tensor, "batch states"]:
    """Score of the state that is `steps` before each."""
    return torch.nn.functional.pad(score, (steps, 0), value=-torch.inf)[:, : score.shape[1]]
