"""GAN losses of generator and discriminators, one value per item, and metrics of their balance.

Least squares as in LSGAN (arXiv 1611.04076); hinge as in SoundStream (arXiv 2107.03312), EnCodec and NeMo, where the
generator gains nothing from scores above 1. Feature matching is HiFi-GAN's (arXiv 2010.05646). "Fake" audio is decoded.

An item's scores cover its padding too, which is silent in both recordings: train on crops where that matters.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flexicodec.training.discriminators.config import AdversarialConfig
from flexicodec.training.discriminators.layers import DiscriminatorOutput
from flexicodec.training.discriminators.multi_discriminator import Discriminators
from flexicodec.training.generator import Generated

GANLoss = Literal["lsgan", "hinge"]
Outputs = Sequence[DiscriminatorOutput]  # one per discriminator
PerItem = Float[Tensor, " batch"]

RELATIVE_FLOOR = 1e-3
LOSS_OVER_CHANCE = "balance/loss_over_chance"  # key of the metric in the log
# Real audio should score 1 and decoded audio this; MIDDLE is halfway between.
FAKE_SCORE: dict[GANLoss, float] = {"lsgan": 0.0, "hinge": -1.0}
MIDDLE: dict[GANLoss, float] = {"lsgan": 0.5, "hinge": 0.0}
CHANCE: dict[GANLoss, float] = {"lsgan": 0.5, "hinge": 2.0}  # least loss of one score for all audio


def generator_losses(
    generated: Generated, discriminators: Discriminators | None, config: AdversarialConfig | None
) -> dict[str, PerItem]:
    """Collect all losses of the generator, with adversarial ones if there are discriminators.

    The discriminators' own weights get no gradient from this.
    """
    losses = dict(generated.losses)
    if discriminators is None or config is None:
        return losses
    # Their weights are frozen for this pass, so that only the audio gets a gradient.
    trained = [parameter for parameter in discriminators.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        fake = discriminators(generated.audio)
        with torch.no_grad():
            real = discriminators(generated.reference)
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
    losses["adversarial"] = adversarial_loss(fake, config.loss, average=config.average)
    losses["feature_matching"] = feature_matching_loss(real, fake, relative=config.relative, average=config.average)
    return losses


class DiscriminatorLoss(nn.Module):
    """The discriminators and their loss on a batch, in one forward pass for data parallelism."""

    def __init__(self, discriminators: Discriminators, config: AdversarialConfig):
        super().__init__()
        self.discriminators = discriminators
        self.config = config

    def forward(
        self, real: Float[Tensor, "batch samples"], fake: Float[Tensor, "batch samples"]
    ) -> tuple[PerItem, dict[str, PerItem]]:
        """Return the discriminators' loss and the metrics of `gan_balance`."""
        # One pass over both sides. Features serve the generator alone.
        outputs = self.discriminators(torch.cat([real, fake.detach()]))
        real_outputs = [DiscriminatorOutput(output.scores[: len(real)], []) for output in outputs]
        fake_outputs = [DiscriminatorOutput(output.scores[len(real) :], []) for output in outputs]
        loss = discriminator_loss(real_outputs, fake_outputs, self.config.loss, average=self.config.average)
        return loss, gan_balance(real_outputs, fake_outputs, self.config.loss)


def discriminator_loss(real: Outputs, fake: Outputs, kind: GANLoss, *, average: bool = False) -> PerItem:
    """Distance of the scores from 1 for real audio and from 0 (lsgan) or -1 (hinge) for decoded audio.

    `average` takes the mean over discriminators and over the two sides, as NeMo does, not the sums.
    """
    losses = []
    for one, other in zip(real, fake, strict=True):
        losses.append(_penalty(1 - one.scores, kind) + _penalty(other.scores - FAKE_SCORE.get(kind, 0.0), kind))
    sides = 2 if average else 1
    return _combine(losses, average) / sides


def adversarial_loss(fake: Outputs, kind: GANLoss, *, average: bool = False) -> PerItem:
    """Distance of decoded audio's scores from 1; `average` takes the mean over discriminators, not the sum."""
    return _combine([_penalty(1 - output.scores, kind) for output in fake], average)


def feature_matching_loss(real: Outputs, fake: Outputs, *, relative: bool = False, average: bool = False) -> PerItem:
    """Mean absolute distance of each hidden layer's features; those of the real audio are the fixed target.

    `relative` divides each distance by the mean magnitude of the real features, both taken along the last axis (period
    or frequency). `average` takes the mean over each discriminator's layers and then over discriminators, not the sums.
    """
    # Items of a batch are averaged apart, so that a loss stays one value per item.
    losses = []
    for one, other in zip(real, fake, strict=True):
        layers = []
        for target, features in zip(one.features, other.features, strict=True):
            distance = (features - target.detach()).abs()
            if relative:
                distance = distance.mean(dim=-1) / (target.detach().abs().mean(dim=-1) + RELATIVE_FLOOR)
            layers.append(_item_mean(distance))
        losses.append(_combine(layers, average))
    return _combine(losses, average)


@torch.no_grad()
def gan_balance(real: Outputs, fake: Outputs, kind: GANLoss) -> dict[str, PerItem]:
    """Metrics of the discriminators, averaged over them.

    `accuracy` is the share of scores on the right side of the middle; `loss_over_chance` is the discriminators' loss
    relative to the least that one score for all audio would cost.
    """
    accuracies = []
    for one, other in zip(real, fake, strict=True):
        right = _item_mean((one.scores > MIDDLE[kind]).float()) + _item_mean((other.scores < MIDDLE[kind]).float())
        accuracies.append(right / 2)
    return {
        "real_score": _combine([_item_mean(output.scores.float()) for output in real], average=True),
        "fake_score": _combine([_item_mean(output.scores.float()) for output in fake], average=True),
        "accuracy": _combine(accuracies, average=True),
        "loss_over_chance": discriminator_loss(real, fake, kind) / (len(real) * CHANCE[kind]),
    }


def _penalty(distance: Float[Tensor, "batch ..."], kind: GANLoss) -> PerItem:
    """Average the squares (lsgan) or the positive part (hinge) over each item's scores."""
    if kind == "lsgan":
        return _item_mean(distance.square())
    if kind == "hinge":
        return _item_mean(F.relu(distance))
    raise ValueError(f"loss is {kind!r}, expected one of {', '.join(get_args(GANLoss))}")


def _item_mean(values: Float[Tensor, "batch ..."]) -> PerItem:
    return values.flatten(1).mean(dim=1)


def _combine(losses: list[PerItem], average: bool) -> PerItem:
    total = torch.stack(losses)
    return total.mean(dim=0) if average else total.sum(dim=0)
