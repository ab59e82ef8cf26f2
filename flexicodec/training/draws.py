"""What is drawn for every item: how it is merged, and which of its codes it is decoded from.

A draw is a function of (seed, step, item) alone, items being numbered over the whole run; neither ranks nor batch sizes
nor the global random state have a say.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from flexicodec.calibration import fit_threshold
from flexicodec.merging import POLICIES, MergingPolicy, Threshold, cosine_similarities
from flexicodec.models.flexicodec.config import FlexiCodecConfig
from flexicodec.models.flexicodec.network import Features, FlexiCodecNetwork
from flexicodec.training.config import CalibratedRange, DropoutConfig, RateConfig, TrainingConfig

UNMERGED = RateConfig(threshold_range=(1.0, 1.0))  # where a model has nothing to merge with
UNDROPPED = DropoutConfig(semantic_only_share=0.0, all_codebooks_share=1.0)  # where codes mean something together only


@dataclass(frozen=True)
class Draws:
    """One entry per item.

    Attributes:
        policies: How each item is merged.
        num_codebooks: Acoustic codebooks each item uses.
        keeps_semantic: Whether it is decoded from its semantic code as well.
    """

    policies: list[MergingPolicy]
    num_codebooks: Int[Tensor, " batch"]
    keeps_semantic: Bool[Tensor, " batch"]

    def to(self, device: torch.device) -> "Draws":
        """Move the tensors."""
        return Draws(self.policies, self.num_codebooks.to(device), self.keeps_semantic.to(device))


def what_varies(config: TrainingConfig) -> tuple[RateConfig, DropoutConfig]:
    """Say what of a run's rates and dropout goes for its model."""
    if not isinstance(config.model, FlexiCodecConfig):
        return UNMERGED, UNDROPPED
    return (config.rates if config.model.merging else UNMERGED), config.dropout


def draw(
    rates: RateConfig,
    dropout: DropoutConfig,
    threshold_range: tuple[float, float],
    num_codebooks: int,
    items: Sequence[int],
    *,
    seed: int,
    step: int,
) -> Draws:
    """Draw policy, rate and depth of each item.

    Args:
        rates: How merging varies.
        dropout: How the codes in use vary.
        threshold_range: Range of tau, calibrated where the config asks for that.
        num_codebooks: Acoustic codebooks there are.
        items: Numbers of the items over the whole run.
        seed: Of the run.
        step: Optimiser step the items belong to.
    """
    policies, counts, kept = [], [], []
    for item in items:
        random = np.random.default_rng([seed, step, int(item), 1])
        policies.append(_policy(rates, threshold_range, random))
        counts.append(_count(dropout, num_codebooks, random))
        kept.append(counts[-1] == 0 or random.random() >= dropout.semantic_dropout)
    return Draws(policies, torch.tensor(counts), torch.tensor(kept))


def merge_items(
    policies: Sequence[MergingPolicy], features: Features, sample_rate: int, max_duration: int | None
) -> Int[Tensor, "batch tokens"]:
    """Let every item be merged by its own policy; thresholds run as one batch."""
    tau = [i for i, policy in enumerate(policies) if isinstance(policy, Threshold)]
    groups: list[tuple[MergingPolicy, list[int]]] = []
    if tau:
        groups.append((Threshold([_value(policies[i]) for i in tau]), tau))
    groups += [(policy, [i]) for i, policy in enumerate(policies) if not isinstance(policy, Threshold)]
    seconds = features.audio_lengths.cpu().double() / sample_rate
    found: dict[int, Int[Tensor, " tokens"]] = {}
    for policy, rows in groups:
        durations = policy(
            features.similarities[rows],
            features.lengths[rows],
            seconds=seconds[rows],
            features=features.semantic[rows],
            max_duration=max_duration,
        )
        found.update(zip(rows, durations, strict=True))
    return _pad([found[i] for i in range(len(policies))])


@torch.no_grad()
def calibrated_range(
    codec: FlexiCodecNetwork, batches: Iterable[tuple[Tensor, Tensor]], wanted: CalibratedRange
) -> tuple[float, float]:
    """Find the thresholds that give the slowest and the fastest rate wanted, with this codec's frozen encoder.

    Args:
        codec: The model.
        batches: Audio [B, S] and its lengths.
        wanted: The rates.
    """
    similarities, lengths, seconds = [], [], []
    for audio, audio_lengths in batches:
        frames = codec.frame_counts(audio_lengths)
        found = cosine_similarities(codec.encode_semantic(audio, audio_lengths, frames), frames).cpu()
        similarities += list(found)
        lengths += frames.tolist()
        seconds += (audio_lengths.cpu().double() / codec.sample_rate).tolist()
    longest = max(len(row) for row in similarities)
    similarities = [torch.nn.functional.pad(row, (0, longest - len(row))) for row in similarities]
    low, high = (
        fit_threshold(similarities, lengths, seconds, rate, codec.max_duration).threshold
        for rate in sorted(wanted.frame_rates)
    )
    return low, high


def _policy(rates: RateConfig, threshold_range: tuple[float, float], random: np.random.Generator) -> MergingPolicy:
    names, shares = zip(*sorted(rates.policies.items()), strict=True)
    name = names[int(random.choice(len(names), p=np.array(shares) / sum(shares)))]
    unmerged, threshold = random.random() < rates.unmerged_share, float(random.uniform(*threshold_range))
    frame_rate = float(random.uniform(*rates.frame_rate_range))
    if unmerged:
        return Threshold(1.0)
    return Threshold(threshold) if name == "threshold" else POLICIES[name](frame_rate)


def _count(dropout: DropoutConfig, num_codebooks: int, random: np.random.Generator) -> int:
    depth, some = random.random(), int(random.integers(1, num_codebooks + 1))
    if depth < dropout.semantic_only_share:
        return 0
    return num_codebooks if depth < dropout.semantic_only_share + dropout.all_codebooks_share else some


def _value(policy: MergingPolicy) -> float:
    assert isinstance(policy, Threshold)
    assert isinstance(policy.threshold, float)
    return policy.threshold


def _pad(rows: list[Int[Tensor, " tokens"]]) -> Int[Tensor, "batch tokens"]:
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return padded[:, : int((padded > 0).sum(1).max())]
