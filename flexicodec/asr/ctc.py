"""CTC without a training step: reading off the likeliest symbols, and laying a known text along the outputs.

Both follow Graves et al. (2006): a path names a symbol or the blank at every output; dropping repeats, then blanks,
gives the text.
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
    """Find the likeliest path that collapses to each target.

    Args:
        log_probs: Of symbols at outputs.
        lengths: Valid outputs of each item.
        targets: Codes, without blanks.

    Returns:
        For each item, per valid output, the position in the target it emits, or -1 for the blank; None where no path
        is short enough, because the target needs more outputs than there are.
    """
    # A symbol a state, with blanks around:      target  a b b
    # a step stays, goes to the next state,      states  - a - b - b -
    # or skips a blank between unlike symbols            0 1 2 3 4 5 6
    log_probs, lengths = log_probs.detach().cpu(), lengths.cpu()
    batch, outputs = log_probs.shape[:2]
    counts = torch.tensor([len(target) for target in targets])
    width = int(counts.max())
    labels = torch.zeros(batch, width, dtype=torch.long)
    for row, target in zip(labels, targets, strict=True):
        row[: len(target)] = torch.tensor(target, dtype=torch.long)
    states = torch.full((batch, 2 * width + 1), BLANK)
    states[:, 1::2] = labels
    skips = torch.zeros_like(states, dtype=torch.bool)
    skips[:, 3::2] = labels[:, 1:] != labels[:, :-1]

    score = torch.full(states.shape, -torch.inf)
    score[:, :2] = log_probs[:, 0].gather(1, states[:, :2])
    moves = torch.zeros(batch, outputs, states.shape[1], dtype=torch.uint8)
    for output in range(1, outputs):
        one, two = (_behind(score, steps) for steps in (1, 2))
        best, move = torch.stack([score, one, two.masked_fill(~skips, -torch.inf)]).max(dim=0)
        live = (output < lengths)[:, None]
        score = torch.where(live, best + log_probs[:, output].gather(1, states), score)
        moves[:, output] = torch.where(live, move, 0)

    rows = torch.arange(batch)
    last = 2 * counts
    ends = torch.stack([last, (last - 1).clamp(min=0)])
    reached, choice = score[rows, ends].max(dim=0)
    state = ends[choice, rows]
    path = torch.zeros(batch, outputs, dtype=torch.long)
    for output in reversed(range(outputs)):
        path[:, output] = state
        state = state - moves[rows, output, state].long()
    positions = torch.where(path % 2 == 1, path // 2, NO_SYMBOL)
    possible = torch.isfinite(reached).tolist()
    return [positions[i, : int(lengths[i])] if possible[i] else None for i in range(batch)]


def _behind(score: Float[Tensor, "batch states"], steps: int) -> Float[Tensor, "batch states"]:
    """The score of the state so many before each."""
    return torch.nn.functional.pad(score, (steps, 0), value=-torch.inf)[:, : score.shape[1]]
