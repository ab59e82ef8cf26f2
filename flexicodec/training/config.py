"""Configs of a training run: model, data, rates, losses, discriminators, optimiser, schedule.

Frozen dataclasses, one per topic; a YAML file holds what differs from the defaults (`flexicodec.config.load_yaml`
follows its `base:`). A part that is None is left out.
"""

from dataclasses import dataclass, field
from typing import Literal

from flexicodec.merging.registry import needed_setting
from flexicodec.models.flexicodec.config import FlexiCodecConfig
from flexicodec.models.nanocodec.config import NanoCodecConfig
from flexicodec.training.discriminators.config import AdversarialConfig


@dataclass(frozen=True)
class AugmentationConfig:
    """Augmentation of clips before they are encoded; the codec must reproduce the result. All off by default."""

    gain_db: tuple[float, float] = (0.0, 0.0)  # range of a random gain
    loudness_dbfs: float | None = None  # RMS level that every clip is brought to before the gain
    noise_manifest: str | None = None  # JSONL manifest of noise to add
    noise_share: float = 0.0  # probability that a clip gets noise
    noise_snr_db: tuple[float, float] = (5.0, 30.0)
    codec_share: float = 0.0  # probability that a clip first goes through a lossy codec of libsndfile
    codecs: tuple[Literal["opus", "vorbis", "mp3"], ...] = ("opus", "vorbis", "mp3")


@dataclass(frozen=True)
class DataConfig:
    """Training and validation speech, and how it is cut and batched."""

    manifest: tuple[str, ...] = ()  # JSONL manifests or lhotse cuts, see `flexicodec.corpus.manifest`
    shards: tuple[str, ...] = ()  # instead: WebDataset tar shards, paths or glob patterns, read as a stream
    validation: str | None = None  # manifest of held-out speech
    validation_clips: int = 32  # how many of its clips to use, spread evenly
    validation_seconds: float = 6.0  # longer clips are cut to their first seconds
    batch_size: int = 6  # crops per forward pass and process
    crop_seconds: float | None = 1.6  # None trains on whole utterances, bucketed by duration
    batch_seconds: float = 60.0  # of whole utterances: audio per forward pass and process, padding included
    min_seconds: float = 0.2  # shorter utterances are dropped, and counted
    max_seconds: float = 30.0  # longer ones are dropped when training on whole utterances
    audio_cache: str | None = None  # decoded audio kept between runs: a file, or a folder (with / behind) of files
    feature_cache: str | None = None  # the same of the frozen encoder's features, for crops without noise and codecs
    workers: int = 0  # reading processes per training process; 0 reads in the training process itself
    shuffle_buffer: int = 1000  # clips held to shuffle a stream of shards
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)


@dataclass(frozen=True)
class CalibratedRange:
    """A range of tau to be found for the frozen encoder: the thresholds that give these rates."""

    frame_rates: tuple[float, float] = (4.0, 12.0)  # Hz, slowest and fastest
    clips: int = 64  # training clips to measure on


@dataclass(frozen=True)
class RateConfig:
    """Distribution of merging over items (arXiv 2510.00981, section 3.2: tau uniform from 0.7 to 1)."""

    threshold_range: tuple[float, float] | CalibratedRange = (0.7, 1.0)  # of the others; tau is uniform in here
    frame_rate_range: tuple[float, float] = (3.0, 12.5)  # Hz; of policies that take a frame rate
    # Names of `merging.registry`, with settings behind a colon, to shares of items
    policies: dict[str, float] = field(default_factory=lambda: {"threshold": 1.0})
    unmerged_share: float = 0.0  # probability that an item is not merged at all

    def __post_init__(self) -> None:
        if isinstance(self.threshold_range, tuple):
            low, high = self.threshold_range
            if not -1 <= low <= high <= 1:
                raise ValueError(
                    f"threshold_range is {self.threshold_range}, expected two cosines, the lower one first"
                )
        if not 0 < self.frame_rate_range[0] <= self.frame_rate_range[1]:
            raise ValueError(f"frame_rate_range is {self.frame_rate_range}, expected two rates in Hz, the lower first")
        _check_share("unmerged_share", self.unmerged_share)
        for text in self.policies:
            needed_setting(text)
        if not self.policies or min(self.policies.values()) < 0 or sum(self.policies.values()) <= 0:
            raise ValueError(f"policies is {self.policies}, expected shares of at least 0 that are not all 0")


@dataclass(frozen=True)
class DropoutConfig:
    """Distribution of the codes that items are decoded from."""

    semantic_only_share: float = 0.125  # probability that an item uses no acoustic codebook
    all_codebooks_share: float = 0.0  # probability that it uses all; else 1 .. all, uniformly
    unquantized_share: float = 0.0  # probability that it uses acoustic features as they are
    semantic_dropout: float = 0.0  # probability that the semantic latents of an item with acoustic codes are dropped

    def __post_init__(self) -> None:
        for name in ("semantic_only_share", "all_codebooks_share", "unquantized_share", "semantic_dropout"):
            _check_share(name, getattr(self, name))
        if self.semantic_only_share + self.all_codebooks_share + self.unquantized_share > 1:
            raise ValueError(
                f"semantic_only_share {self.semantic_only_share}, all_codebooks_share {self.all_codebooks_share} and "
                f"unquantized_share {self.unquantized_share} add up to more than 1"
            )


@dataclass(frozen=True)
class CodebookConfig:
    """Learning of codebooks whose rows are running means: those of an RVQ with `codebook_dim: null`."""

    # Until then items are decoded from features as they are; then k-means starts the rows. 0: they are trained already.
    start_step: int = 700
    kmeans_tokens: int = 12_288  # newest tokens k-means works on
    kmeans_rounds: int = 6
    decay: float = 0.98  # of the running means; what is missing to 1 falls with the learning rate
    dead_use: float = 0.02  # rows used less, over the mean use, move next to the most used ones
    moves_per_step: int = 8  # most of these in a stage and step

    def __post_init__(self) -> None:
        _check_counts(self, 1, "kmeans_tokens", "kmeans_rounds")
        _check_counts(self, 0, "start_step", "moves_per_step")
        if not 0 <= self.decay < 1 or self.dead_use < 0:
            raise ValueError(f"{self} needs a decay from 0 to below 1 and a dead_use of 0 or more")


@dataclass(frozen=True)
class LossWeights:
    """Weights of the losses, named like their log keys; a weight of 0 leaves a loss out.

    The defaults are upstream FlexiCodec's (specs: 15 mel, 1 adversarial, 2 feature matching, 0.25 commitment, 1
    codebook, 15 alignment, 1 REPA); its mel loss is twice the sum of L1 distances, so 15 there is 30 here. Weights of
    losses that a model does not have (commitment, codebook and alignment of a NanoCodec) have no effect.
    """

    mel: float = 30.0  # L1 of log10 mel spectrograms, summed over windows (DAC)
    adversarial: float = 1.0  # of the discriminators' scores
    feature_matching: float = 2.0  # distance of the discriminators' features for decoded and real audio
    commitment: float = 0.25  # distance of features to their codes, with gradients to the features
    codebook: float = 1.0  # the same, with gradients to the codebook
    alignment: float = 15.0  # distance of the semantic stream to the frozen features
    residual: float = 0.0  # distance of the semantic latents to the acoustic features, with gradients to the former
    repa: float = 0.0  # representation alignment of the bottleneck's output
    mel_energy: float = 0.0  # L1 of half the logarithm of mel energies, mean over windows (specs/mini-v2.md)
    log_mel: float = 0.0  # L1 of log(mel + 1) spectrograms, mean over windows (LFSC, like all that follow)
    log_mel_squared: float = 0.0  # the same with squared differences
    stft: float = 0.0  # L1 of log(magnitude + 1) spectrograms, mean over windows
    waveform: float = 0.0  # mean absolute difference of samples
    waveform_squared: float = 0.0  # mean squared difference of samples
    si_sdr: float = 0.0  # negative scale-invariant signal-to-distortion ratio, in dB
    speaker: float = 0.0  # negative cosine of speaker embeddings (NanoCodec); needs reconstruction.speaker_encoder


@dataclass(frozen=True)
class ReconstructionConfig:
    """Settings of the losses between decoded and original audio; `LossWeights` has their weights."""

    windows: tuple[int, ...] = (32, 64, 128, 256, 512, 1024, 2048)  # STFT windows in samples; the hop is a quarter
    num_mels: tuple[int, ...] = (5, 10, 20, 40, 80, 160, 320)  # one number per window
    compatible: bool = False  # LFSC's losses include what lies past the lengths, as NeMo's do, to compare numbers
    speaker_encoder: str | None = None  # folder or file with the weights of H/ASP, for losses.speaker

    def __post_init__(self) -> None:
        if not self.windows or len(self.windows) != len(self.num_mels):
            raise ValueError(
                f"{len(self.windows)} windows but {len(self.num_mels)} numbers of mels; give one number per window"
            )
        if any(window % 4 for window in self.windows):
            raise ValueError(f"windows is {self.windows}, expected multiples of 4 samples, of which hops are a quarter")


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser and schedule of both networks, and the running mean of the generator's weights.

    `epoch_steps` counts steps, not the data, so that a run keeps its schedule when its manifest grows.
    """

    optimizer: Literal["adamw", "adam"] = "adamw"  # "adam" has no weight decay
    learning_rate: float = 1e-4  # peak
    betas: tuple[float, float] = (0.8, 0.99)
    weight_decay: float = 0.01  # 0 for "adam"
    warmup_steps: int = 1000  # linear
    schedule: Literal["cosine", "exponential"] = "cosine"
    final_share: float = 0.1  # of the peak, at the end of the cosine
    decay: float = 0.999996  # factor of the exponential per epoch
    epoch_steps: int = 1  # steps after which the exponential falls at once
    grad_clip: float | None = 1.0  # largest gradient norm of each network; None for no clipping
    ema_decay: float | None = 0.999  # of the running mean, which is validated and exported; None for no mean
    accumulation: int = 1  # forward passes per step
    reseed_every: int | None = None  # steps between restarts of dead codebook rows; None for none

    def __post_init__(self) -> None:
        _check_counts(self, 1, "accumulation", "reseed_every", "epoch_steps")
        _check_counts(self, 0, "warmup_steps")
        if not self.learning_rate > 0 or (self.grad_clip is not None and not self.grad_clip > 0):
            raise ValueError(
                f"learning_rate is {self.learning_rate} and grad_clip {self.grad_clip}, expected both above 0"
            )
        if self.optimizer == "adam" and self.weight_decay:
            raise ValueError(
                f"optimizer is adam, which has no weight decay here, and weight_decay is {self.weight_decay}; write "
                "weight_decay: 0, or optimizer: adamw"
            )
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}, expected a number from 0 to below 1, or null for no mean")


@dataclass(frozen=True)
class InitConfig:
    """A source of weights to start from.

    `source` is a model's name or folder, a training checkpoint, a recogniser's, SenseVoice's or SSL model's folder, the
    file that upstream released, or a NeMo `.nemo` archive.
    """

    source: str
    parts: tuple[str, ...] = ()  # modules of the codec to load ("encoder", "decoder", ...); () for all
    allow_missing: tuple[str, ...] = ()  # shell patterns of keys the source may lack; they keep their fresh values
    allow_extra: tuple[str, ...] = ()  # shell patterns of keys of the source that may go unused


@dataclass(frozen=True)
class TrainingConfig:
    """A training run of a codec."""

    output: str  # folder for checkpoints, curves, samples and the finished model
    model: FlexiCodecConfig | NanoCodecConfig  # with encoder, decoder and quantizer: a NanoCodec; else a FlexiCodec
    data: DataConfig
    init_from: tuple[InitConfig, ...] = ()  # weights to start from, later sources over earlier ones
    # "decoder" trains the modules that tokens do not depend on: codes and fingerprint stay those of `init_from`.
    trained: Literal["all", "decoder"] = "all"
    rates: RateConfig = field(default_factory=RateConfig)  # ignored by models that never merge
    dropout: DropoutConfig = field(default_factory=DropoutConfig)  # ignored by a NanoCodec
    codebooks: CodebookConfig = field(default_factory=CodebookConfig)  # ignored by other quantizers
    losses: LossWeights = field(default_factory=LossWeights)
    reconstruction: ReconstructionConfig = field(default_factory=ReconstructionConfig)
    adversarial: AdversarialConfig | None = field(default_factory=AdversarialConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    steps: int = 800_000  # optimiser steps
    # Frozen encoder, quantisers and discriminators stay in float32 under bf16.
    mixed_precision: Literal["no", "bf16"] = "no"
    compile: bool = False  # the convolutional encoder and decoder; their first step then takes minutes
    seed: int = 0
    trackers: tuple[str, ...] = ("tensorboard", "jsonl")  # names of Accelerate's; "jsonl" writes curves.jsonl
    # Steps between rows of the log, saved samples (None for none), validations and checkpoints.
    log_every: int = 50
    sample_every: int | None = 5000
    validate_every: int = 5000
    save_every: int = 1000
    keep_last: int = 2  # checkpoints kept
    keep_best: int = 1  # best checkpoints kept in addition, by validation loss
    export_half: bool = False  # store the finished model in half precision
    max_bad_steps: int = 10  # steps in a row with a loss or gradient that is not finite before the run stops

    def __post_init__(self) -> None:
        _check_counts(self, 1, "steps", "log_every", "validate_every", "save_every", "sample_every", "max_bad_steps")
        if self.trained == "decoder" and not self.init_from:
            raise ValueError(
                "trained is 'decoder' and init_from is empty; name the codec whose tokens are to be decoded"
            )


def _check_counts(config: object, least: int, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}, expected {least} or more")


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}, expected a probability")
