"""The game between codec and discriminators: what each side minimises, one value per item.

An item's scores cover its padding too, which is silent in both recordings: train on crops where that matters.

Least squares as in LSGAN (arXiv 1611.04076); hinge as in SoundStream (arXiv 2107.03312), EnCodec and NeMo, where the
generator gains nothing from scores above 1. Feature matching is HiFi-GAN's (arXiv 2010.05646).
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from flexicodec.training.discriminators.shared import Judgement

Game = Literal["lsgan", "hinge"]
RELATIVE_FLOOR = 1e-3


def discriminator_loss(
    real: Sequence[Judgement], fake: Sequence[Judgement], kind: Game, *, average: bool = False
) -> Float[Tensor, " batch"]:
    """Say how far the discriminators are from scoring real audio 1 and decoded audio 0 (least squares) or -1 (hinge).

    Args:
        real: Judgements of real audio, one per discriminator.
        fake: Judgements of decoded audio, without gradients to the codec.
        kind: Name of the game.
        average: Take the mean over discriminators and over the two sides, as NeMo does, and not the sums.
    """
    _check(kind)
    losses = []
    for r, f in zip(real, fake, strict=True):
        if kind == "lsgan":
            losses.append(_item_mean((1 - r.scores).square()) + _item_mean(f.scores.square()))
        else:
            losses.append(_item_mean(F.relu(1 - r.scores)) + _item_mean(F.relu(1 + f.scores)))
    return _combine(losses, average) / (2 if average else 1)


def adversarial_loss(fake: Sequence[Judgement], kind: Game, *, average: bool = False) -> Float[Tensor, " batch"]:
    """Say how far decoded audio is from a score of 1.

    Args:
        fake: Judgements of decoded audio, one per discriminator.
        kind: Name of the game.
        average: Take the mean over discriminators, and not the sum.
    """
    _check(kind)
    shortfalls = [1 - judgement.scores for judgement in fake]
    return _combine(
        [_item_mean(shortfall.square() if kind == "lsgan" else F.relu(shortfall)) for shortfall in shortfalls], average
    )


def feature_matching_loss(
    real: Sequence[Judgement], fake: Sequence[Judgement], *, relative: bool = False, average: bool = False
) -> Float[Tensor, " batch"]:
    """Mean absolute distance of each hidden layer's features; those of the real audio are the fixed target.

    Args:
        real: Judgements of real audio, one per discriminator.
        fake: Judgements of decoded audio.
        relative: Divide each distance by the mean size of the real features, both taken along the last axis (period or
            frequency).
        average: Take the mean over each discriminator's layers and then over discriminators, and not the sums.
    """
    losses = []
    for r, f in zip(real, fake, strict=True):
        layers = [_distance(a.detach(), b, relative) for a, b in zip(r.features, f.features, strict=True)]
        losses.append(_combine(layers, average))
    return _combine(losses, average)


def _distance(real: Tensor, fake: Tensor, relative: bool) -> Float[Tensor, " batch"]:
    distance = (fake - real).abs()
    if relative:
        distance = distance.mean(dim=-1) / (real.abs().mean(dim=-1) + RELATIVE_FLOOR)
    return _item_mean(distance)


def _item_mean(values: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
    return values.flatten(1).mean(dim=1)


def _combine(losses: list[Float[Tensor, " batch"]], average: bool) -> Float[Tensor, " batch"]:
    total = torch.stack(losses)
    return total.mean(dim=0) if average else total.sum(dim=0)


def _check(kind: str) -> None:
    if kind not in get_args(Game):
        raise ValueError(f"kind of game is {kind!r}, expected one of {', '.join(get_args(Game))}")
