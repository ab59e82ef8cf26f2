"""What a training run is: model, data, losses and schedule, each with the defaults of the CPU-sized recipe."""

from dataclasses import dataclass, field

from flexicodec.models.flexicodec.config import FlexiCodecConfig


@dataclass(frozen=True)
class DataConfig:
    """Where speech comes from.

    Attributes:
        manifest: JSONL manifest (see `flexicodec.training.data.read_manifest`).
        audio_cache: File that keeps the decoded audio between runs; None decodes anew.
        batch_size: Crops per step and process.
        crop_seconds: Length of a crop.
    """

    manifest: str
    audio_cache: str | None = None
    batch_size: int = 6
    crop_seconds: float = 1.6


@dataclass(frozen=True)
class LossWeights:
    """Factors of the losses; the names are those of the curves."""

    mel: float = 1.0
    commitment: float = 0.25
    codebook: float = 1.0
    alignment: float = 1.0


@dataclass(frozen=True)
class RateConfig:
    """How merging and quantiser depth vary from item to item.

    Attributes:
        threshold_range: tau is drawn uniformly from here for every item.
        unmerged_share: Probability that an item is not merged at all.
        semantic_only_share: Probability that an item uses no acoustic codebook.
        all_codebooks_share: Probability that an item uses all of them; else 1 .. all, uniformly.
    """

    threshold_range: tuple[float, float] = (0.8, 1.0)
    unmerged_share: float = 0.2
    semantic_only_share: float = 0.125
    all_codebooks_share: float = 0.25


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with warm-up and a cosine down to a hundredth of the peak."""

    learning_rate: float = 5e-4
    betas: tuple[float, float] = (0.8, 0.99)
    weight_decay: float = 0.01
    warmup_steps: int = 300
    grad_clip: float = 10.0


@dataclass(frozen=True)
class CodecTrainingConfig:
    """A whole run.

    Attributes:
        output: Folder for checkpoints, the log and the finished model.
        asr_weights: Encoder weights from `flexicodec.training.asr`, frozen here.
        steps: Optimiser steps.
        mixed_precision: "no" or "bf16" (Accelerate's names); the frozen encoder and the quantisers stay in float32.
    """

    output: str
    asr_weights: str
    model: FlexiCodecConfig
    data: DataConfig
    losses: LossWeights = field(default_factory=LossWeights)
    rates: RateConfig = field(default_factory=RateConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    steps: int = 8000
    mixed_precision: str = "no"
    seed: int = 0
    log_every: int = 50
    save_every: int = 500
