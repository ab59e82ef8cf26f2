"""Sampling of each item's merging policy, rate and number of codebooks.

A sample is a function of (seed, step, item) alone, items being numbered over the whole run. It depends on neither ranks
nor batch sizes nor the global random state.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from flexicodec.calibration import fit_threshold
from flexicodec.merging import MergingPolicy, Threshold, cosine_similarities, make_policy
from flexicodec.merging.registry import needed_setting, rate_setting, with_rates
from flexicodec.models.flexicodec.config import FlexiCodecConfig
from flexicodec.models.flexicodec.network import Features, FlexiCodecNetwork
from flexicodec.training.config import CalibratedRange, DropoutConfig, RateConfig, TrainingConfig

PURPOSE = 1  # separates these random numbers from others of the same seed, step and item
UNMERGED = RateConfig(threshold_range=(1.0, 1.0))
ALL_CODES = DropoutConfig(semantic_only_share=0.0, all_codebooks_share=1.0)


@dataclass(frozen=True)
class SampledRates:
    """Rates and codebook dropout of a batch, one entry per item."""

    policies: list[MergingPolicy]
    num_codebooks: Int[Tensor, " batch"]  # acoustic codebooks the item is decoded from
    keeps_semantic: Bool[Tensor, " batch"]  # whether it is decoded from its semantic codes as well
    unquantized: Bool[Tensor, " batch"]  # whether it is decoded from acoustic features instead of their codes

    def to(self, device: torch.device) -> "SampledRates":
        """Move the tensors."""
        tensors = (self.num_codebooks, self.keeps_semantic, self.unquantized)
        return SampledRates(self.policies, *(tensor.to(device) for tensor in tensors))


def rate_config_for(config: TrainingConfig) -> tuple[RateConfig, DropoutConfig]:
    """Return the rates and dropout that apply to a run's model: a NanoCodec neither merges nor drops codes."""
    if not isinstance(config.model, FlexiCodecConfig):
        return UNMERGED, ALL_CODES
    if config.model.merging is None:
        return UNMERGED, config.dropout
    return config.rates, config.dropout


def sample_rates(
    rates: RateConfig,
    dropout: DropoutConfig,
    threshold_range: tuple[float, float],
    num_codebooks: int,
    items: Sequence[int],
    *,
    seed: int,
    step: int,
) -> SampledRates:
    """Sample policy, rate and number of codebooks of each item; `threshold_range` is calibrated where asked for."""
    names = sorted(rates.policies)
    shares = np.array([rates.policies[name] for name in names])
    policies: list[MergingPolicy] = []
    counts = []
    kept = []
    unquantized = []
    for item in items:
        # The order of these random numbers is part of exact resume: every item consumes all of them.
        rng = np.random.default_rng([seed, step, int(item), PURPOSE])
        name = names[int(rng.choice(len(names), p=shares / sum(shares)))]
        unmerged = rng.random() < rates.unmerged_share
        threshold = float(rng.uniform(*threshold_range))
        frame_rate = float(rng.uniform(*rates.frame_rate_range))
        if unmerged:
            policies.append(Threshold(1.0))
        else:
            control = needed_setting(name)
            sampled = {"threshold": threshold, "frame_rate": frame_rate}
            policies.append(make_policy(name, **{control: sampled[control]} if control else {}))

        # Dropout of codebooks
        share = rng.random()
        count = int(rng.integers(1, num_codebooks + 1))
        whole = dropout.semantic_only_share + dropout.all_codebooks_share
        as_is = whole <= share < whole + dropout.unquantized_share
        if share < dropout.semantic_only_share:
            count = 0
        elif share < whole or as_is:
            count = num_codebooks
        counts.append(count)
        unquantized.append(as_is)
        kept.append(count == 0 or rng.random() >= dropout.semantic_dropout)
    return SampledRates(policies, torch.tensor(counts), torch.tensor(kept), torch.tensor(unquantized))


def merge_items(
    policies: Sequence[MergingPolicy], features: Features, sample_rate: int, max_duration: int | None
) -> Int[Tensor, "batch tokens"]:
    """Merge every item by its own policy and return the durations."""
    # Policies that differ in their rate or threshold alone run as one batch.
    groups: dict[MergingPolicy, tuple[list[float], list[int]]] = {}
    for row, policy in enumerate(policies):
        values, rows = groups.setdefault(with_rates(policy, 1.0), ([], []))
        values.append(getattr(policy, rate_setting(policy)))
        rows.append(row)

    seconds = features.audio_lengths.cpu().double() / sample_rate
    durations: dict[int, Int[Tensor, " tokens"]] = {}
    for group, (values, rows) in groups.items():
        policy = with_rates(group, values)
        merged = policy(
            features.similarities[rows],
            features.lengths[rows],
            seconds=seconds[rows],
            max_duration=max_duration,
            **{name: each[rows] for name, each in features.for_policy(policy).items()},
        )
        durations.update(zip(rows, merged, strict=True))

    # Policies pad their durations differently; cut to the item with most tokens.
    padded = torch.nn.utils.rnn.pad_sequence([durations[row] for row in range(len(policies))], batch_first=True)
    most_tokens = int((padded > 0).sum(dim=1).max())
    return padded[:, :most_tokens]


@torch.no_grad()
def calibrate_threshold_range(
    codec: FlexiCodecNetwork, batches: Iterable[tuple[Tensor, Tensor]], wanted: CalibratedRange
) -> tuple[float, float]:
    """Find the thresholds that give the slowest and the fastest wanted rate on batches of audio [B, S] and lengths."""
    similarities: list[Tensor] = []
    lengths: list[int] = []
    seconds: list[float] = []
    for audio, audio_lengths in batches:
        frames = codec.frame_counts(audio_lengths)
        semantic = codec.encode_semantic(audio, audio_lengths, frames)
        similarities += cosine_similarities(semantic, frames).cpu()
        lengths += frames.tolist()
        seconds += (audio_lengths.cpu().double() / codec.sample_rate).tolist()
    slowest, fastest = sorted(wanted.frame_rates)
    low = fit_threshold(similarities, lengths, seconds, slowest, codec.max_duration)
    high = fit_threshold(similarities, lengths, seconds, fastest, codec.max_duration)
    return low.threshold, high.threshold
