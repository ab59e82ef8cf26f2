"""Who is winning, generator or discriminators: scores, accuracy, and the discriminators' loss beside that of guessing.

A game that one side has won teaches neither.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from flexicodec.training.adversarial import Game, discriminator_loss
from flexicodec.training.discriminators.shared import Judgement

# What scores stand between real and fake, and the least loss of a discriminator that gives all audio the same score.
MIDDLE: dict[Game, float] = {"lsgan": 0.5, "hinge": 0.0}
CHANCE: dict[Game, float] = {"lsgan": 0.5, "hinge": 2.0}

LOSS_OVER_CHANCE = "balance/loss_over_chance"
TOO_STRONG, TOO_WEAK = 0.1, 0.95  # times chance
ROWS_TO_LEARN = 10  # new discriminators do worse than chance at first


@torch.no_grad()
def balance(real: Sequence[Judgement], fake: Sequence[Judgement], kind: Game) -> dict[str, Float[Tensor, " batch"]]:
    """Measure the discriminators, one value per item, the mean over discriminators.

    Args:
        real: Judgements of real audio, one per discriminator.
        fake: Judgements of decoded audio.
        kind: Name of the game.

    Returns:
        real_score and fake_score; accuracy, the share of scores on the right side of the middle between real and fake;
        loss_over_chance, the discriminators' loss as a multiple of the least loss of discriminators that give all audio
        the same score.
    """
    middle = MIDDLE[kind]
    right = [(_mean(r.scores > middle) + _mean(f.scores < middle)) / 2 for r, f in zip(real, fake, strict=True)]
    return {
        "real_score": torch.stack([_mean(judgement.scores) for judgement in real]).mean(dim=0),
        "fake_score": torch.stack([_mean(judgement.scores) for judgement in fake]).mean(dim=0),
        "accuracy": torch.stack(right).mean(dim=0),
        "loss_over_chance": discriminator_loss(real, fake, kind) / (len(real) * CHANCE[kind]),
    }


def _mean(values: Tensor) -> Float[Tensor, " batch"]:
    return values.float().flatten(1).mean(dim=1)


class BalanceAlarm:
    """Says so when one side wins for a whole row of the curves, once, and again when that is over.

    Discriminators that lose are called out only after `ROWS_TO_LEARN` rows with an adversary.
    """

    def __init__(self) -> None:
        self._rows = 0
        self._state = "balanced"

    def __call__(self, row: Mapping[str, float]) -> str | None:
        """Look at the next row, and return a line for the user if there is something new to say."""
        share = row.get(LOSS_OVER_CHANCE)
        if share is None:  # no adversary in these steps
            return None
        self._rows += 1
        state = "balanced"
        if share < TOO_STRONG:
            state = "strong"
        elif share > TOO_WEAK and self._rows > ROWS_TO_LEARN:
            state = "weak"
        if state == self._state:
            return None
        self._state = state
        meaning = {
            "strong": "they are hardly ever wrong, and the codec learns little from them (docs/training.md)",
            "weak": "they cannot tell decoded audio from real, and teach the codec nothing (docs/training.md)",
            "balanced": "the game is balanced again",
        }
        return f"the discriminators' loss is {share:.2f} times that of guessing: {meaning[state]}"
