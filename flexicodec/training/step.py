"""One generator step, readable beside the paper: encode at random rates, decode, and say how far off it was."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from flexicodec.merging import Threshold, cosine_similarities, merge
from flexicodec.models.flexicodec.model import Features, FlexiCodec
from flexicodec.training.config import LossWeights, RateConfig
from flexicodec.training.data import Batch
from flexicodec.training.losses import MultiScaleMelLoss, feature_alignment_loss


@dataclass(frozen=True)
class ItemChoices:
    """What is drawn for every item of a batch: tau, and how many acoustic codebooks."""

    thresholds: list[float]
    num_codebooks: Int[Tensor, " batch"]


def draw_choices(rates: RateConfig, num_codebooks: int, batch: int, seed: int, step: int) -> ItemChoices:
    """Draw rate and depth per item, as a function of (seed, step, item) alone."""
    thresholds, counts = [], []
    for item in range(batch):
        random = np.random.default_rng([seed, step, item, 1])
        low, high = rates.threshold_range
        unmerged = random.random() < rates.unmerged_share
        thresholds.append(1.0 if unmerged else float(random.uniform(low, high)))
        depth = random.random()
        if depth < rates.semantic_only_share:
            counts.append(0)
        elif depth < rates.semantic_only_share + rates.all_codebooks_share:
            counts.append(num_codebooks)
        else:
            counts.append(int(random.integers(1, num_codebooks + 1)))
    return ItemChoices(thresholds, torch.tensor(counts))


def generator_losses(
    model: FlexiCodec, batch: Batch, choices: ItemChoices, mel_loss: MultiScaleMelLoss
) -> tuple[dict[str, Float[Tensor, ""]], Float[Tensor, "batch samples"], Int[Tensor, "batch tokens"]]:
    """Run the codec on crops and compare.

    Returns:
        Losses by the names of `LossWeights`, the decoded audio, and the durations that were used.
    """
    frames = model.frame_counts(batch.lengths)
    semantic = model.listen(batch.audio, batch.lengths, frames)
    acoustic = model.hear(batch.audio, batch.lengths, frames)
    features = Features(semantic, acoustic, cosine_similarities(semantic, frames), frames, batch.lengths)

    durations = Threshold(choices.thresholds)(features.similarities, frames, max_duration=model.max_duration)
    meaning, sound = model.quantize(features, durations, choices.num_codebooks)
    audio, lengths = model.synthesize(meaning.latents + sound.latents, durations)

    samples = min(audio.shape[1], batch.audio.shape[1])
    lengths = torch.minimum(lengths, batch.lengths)
    losses = {
        "mel": mel_loss(audio[:, :samples], batch.audio[:, :samples], lengths),
        "alignment": feature_alignment_loss(meaning.latents, merge(semantic, durations), (durations > 0).sum(1)),
        **meaning.losses,
        **sound.losses,
    }
    return losses, audio, durations


def weighted_sum(losses: dict[str, Float[Tensor, ""]], weights: LossWeights) -> Float[Tensor, ""]:
    """Add the losses up, each by its weight."""
    return torch.stack([getattr(weights, name) * value for name, value in losses.items()]).sum()
