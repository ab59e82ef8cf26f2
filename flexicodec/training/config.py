"""What a training run is: model, data, rates, losses, adversary, optimiser and the run itself.

One frozen dataclass a question; a YAML file says what differs from the defaults (`flexicodec.config.load_yaml` follows
its `base:`). A part that is None is absent.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

from flexicodec.models.flexicodec.config import FlexiCodecConfig
from flexicodec.models.nanocodec.config import NanoCodecConfig
from flexicodec.training.discriminators.config import AdversarialConfig

Policy = Literal["threshold", "rate", "uniform", "variance"]


@dataclass(frozen=True)
class AugmentationConfig:
    """What is done to a clip before the codec hears it; the codec has to reproduce the result. All off by default.

    Attributes:
        gain_db: Range of a random gain, in dB; (0, 0) for none.
        loudness_dbfs: Bring every clip to this RMS level before the gain; None leaves it.
        noise_manifest: JSONL manifest of noise to add; None for none.
        noise_share: Probability that a clip gets noise.
        noise_snr_db: Range of the signal-to-noise ratio.
        codec_share: Probability that a clip goes through a lossy codec of libsndfile first.
        codecs: Which ones.
    """

    gain_db: tuple[float, float] = (0.0, 0.0)
    loudness_dbfs: float | None = None
    noise_manifest: str | None = None
    noise_share: float = 0.0
    noise_snr_db: tuple[float, float] = (5.0, 30.0)
    codec_share: float = 0.0
    codecs: tuple[Literal["opus", "vorbis", "mp3"], ...] = ("opus", "vorbis", "mp3")


@dataclass(frozen=True)
class DataConfig:
    """Where speech comes from, and in which pieces.

    Attributes:
        manifest: JSONL manifests, or lhotse cuts; see `flexicodec.corpus.manifest`.
        shards: Tar shards in WebDataset layout instead, as paths or glob patterns, read as a stream.
        validation: Manifest of the speech to validate on; None for no validation.
        validation_clips: Clips of it to use, spread evenly; their first `validation_seconds` count.
        validation_seconds: Longest stretch of a validation clip.
        batch_size: Crops per forward pass and process.
        crop_seconds: Length of a crop; None trains on whole utterances, bucketed by duration.
        batch_seconds: For whole utterances: audio per forward pass and process, padding included.
        min_seconds: Shorter utterances are left out (and counted).
        max_seconds: Longer ones are left out where whole utterances are asked for.
        audio_cache: File that keeps decoded audio between runs; None reads the files every time.
        workers: Processes that read audio, per training process; 0 reads in the training process itself.
        shuffle_buffer: Clips held for shuffling a stream of shards.
        augmentation: What is done to clips.
    """

    manifest: tuple[str, ...] = ()
    shards: tuple[str, ...] = ()
    validation: str | None = None
    validation_clips: int = 32
    validation_seconds: float = 6.0
    batch_size: int = 6
    crop_seconds: float | None = 1.6
    batch_seconds: float = 60.0
    min_seconds: float = 0.2
    max_seconds: float = 30.0
    audio_cache: str | None = None
    workers: int = 0
    shuffle_buffer: int = 1000
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)


@dataclass(frozen=True)
class CalibratedRange:
    """A range of tau found from the frozen encoder at hand: the thresholds that give these rates.

    Attributes:
        frame_rates: Hz, slowest and fastest.
        clips: Clips of the training data to measure on.
    """

    frame_rates: tuple[float, float] = (4.0, 12.0)
    clips: int = 64


@dataclass(frozen=True)
class RateConfig:
    """How merging varies from item to item (arXiv 2510.00981, section 3.2: tau drawn from 0.7 to 1).

    Attributes:
        threshold_range: tau is drawn uniformly from here for every item; or how to find the range.
        frame_rate_range: Hz; a target rate is drawn uniformly from here by the policies that spend a rate.
        policies: Shares of the policies items are merged by; "threshold" uses tau, the others a rate.
        unmerged_share: Probability that an item is not merged at all.
    """

    threshold_range: tuple[float, float] | CalibratedRange = (0.7, 1.0)
    frame_rate_range: tuple[float, float] = (3.0, 12.5)
    policies: dict[str, float] = field(default_factory=lambda: {"threshold": 1.0})
    unmerged_share: float = 0.0

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
        unknown = set(self.policies) - set(get_args(Policy))
        if unknown:
            raise ValueError(f"policies names {sorted(unknown)}, expected {', '.join(get_args(Policy))}")
        if not self.policies or min(self.policies.values()) < 0 or sum(self.policies.values()) <= 0:
            raise ValueError(f"policies is {self.policies}, expected shares of at least 0 that are not all 0")


@dataclass(frozen=True)
class DropoutConfig:
    """Which codes an item is decoded from.

    Attributes:
        semantic_only_share: Probability that an item uses no acoustic codebook.
        all_codebooks_share: Probability that an item uses all of them; else 1 .. all, uniformly.
        semantic_dropout: Probability that the semantic latents of an item with acoustic codes are dropped.
    """

    semantic_only_share: float = 0.125
    all_codebooks_share: float = 0.0
    semantic_dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("semantic_only_share", "all_codebooks_share", "semantic_dropout"):
            _check_share(name, getattr(self, name))
        if self.semantic_only_share + self.all_codebooks_share > 1:
            raise ValueError(
                f"semantic_only_share {self.semantic_only_share} and all_codebooks_share {self.all_codebooks_share} "
                "add up to more than 1"
            )


@dataclass(frozen=True)
class LossWeights:
    """Factors of the losses; the names are those of the curves, and a weight of 0 leaves the loss out.

    The defaults are upstream FlexiCodec's (specs: 15 mel, 1 adversarial, 2 feature matching, 0.25 commitment, 1
    codebook, 15 alignment, 1 REPA); its mel loss is twice the sum of L1 distances, so 15 there is 30 here. Weights of
    losses that a model does not have (commitment, codebook and alignment of a NanoCodec) mean nothing.

    Attributes:
        mel: L1 of log10 mel spectrograms, summed over windows (DAC).
        adversarial: What the discriminators' scores cost.
        feature_matching: Distance of what their layers make of decoded and of real audio.
        commitment: Distance of features to their codes, which the features pay for.
        codebook: The same, which the codebook pays for.
        alignment: Distance of the semantic stream to the frozen features.
        repa: Representation alignment of the bottleneck's output.
        log_mel: L1 of log(mel + 1) spectrograms, mean over windows (LFSC, as all that follow).
        log_mel_squared: The same with squared differences.
        stft: L1 of log(magnitude + 1) spectrograms, mean over windows.
        waveform: Mean absolute difference of samples.
        waveform_squared: Mean squared difference of samples.
        si_sdr: Negative scale-invariant ratio of signal to distortion, in dB.
        speaker: Negative cosine of speaker embeddings (NanoCodec); needs `reconstruction.speaker_encoder`.
    """

    mel: float = 30.0
    adversarial: float = 1.0
    feature_matching: float = 2.0
    commitment: float = 0.25
    codebook: float = 1.0
    alignment: float = 15.0
    repa: float = 0.0
    log_mel: float = 0.0
    log_mel_squared: float = 0.0
    stft: float = 0.0
    waveform: float = 0.0
    waveform_squared: float = 0.0
    si_sdr: float = 0.0
    speaker: float = 0.0


@dataclass(frozen=True)
class ReconstructionConfig:
    """How decoded audio is held against the original; `LossWeights` says how much each comparison counts.

    Attributes:
        windows: STFT windows in samples, of all losses on spectrograms; the hop is a quarter.
        num_mels: Mel bands of each window.
        compatible: Let LFSC's losses hear what lies past the lengths, as NeMo's do; to compare numbers.
        speaker_encoder: Folder or file with the weights of H/ASP, for `losses.speaker`; see `training.speaker`.
    """

    windows: tuple[int, ...] = (32, 64, 128, 256, 512, 1024, 2048)
    num_mels: tuple[int, ...] = (5, 10, 20, 40, 80, 160, 320)
    compatible: bool = False
    speaker_encoder: str | None = None

    def __post_init__(self) -> None:
        if not self.windows or len(self.windows) != len(self.num_mels):
            raise ValueError(
                f"{len(self.windows)} windows but {len(self.num_mels)} numbers of mels; give one number per window"
            )


@dataclass(frozen=True)
class OptimConfig:
    """What moves both networks, its schedule, and what keeps it steady.

    Attributes:
        optimizer: "adamw", or "adam" without weight decay.
        learning_rate: Peak.
        betas: Of the running means of gradients and of their squares.
        weight_decay: AdamW's; 0 for "adam".
        warmup_steps: Linear warm-up, of both networks.
        schedule: "cosine" down to `final_share` of the peak at the last step, or "exponential".
        final_share: Where the cosine ends.
        decay: Factor of the exponential, per epoch.
        epoch_steps: Steps of an epoch, after which the exponential falls at once. It is a count of steps and not of the
            data, so that a run keeps its schedule when its manifest grows; 1 falls at every step.
        grad_clip: Largest gradient norm, of each network; None clips nothing.
        ema_decay: Of the running mean of the generator's weights, which is what gets validated and exported; None for
            no mean.
        accumulation: Forward passes per step.
        reseed_every: Steps between looks for codebook rows that nobody uses, which are put onto features at hand; None
            for no look.
    """

    optimizer: Literal["adamw", "adam"] = "adamw"
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.8, 0.99)
    weight_decay: float = 0.01
    warmup_steps: int = 1000
    schedule: Literal["cosine", "exponential"] = "cosine"
    final_share: float = 0.1
    decay: float = 0.999996
    epoch_steps: int = 1
    grad_clip: float | None = 1.0
    ema_decay: float | None = 0.999
    accumulation: int = 1
    reseed_every: int | None = None

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
    """Weights to start from.

    Attributes:
        source: A model's name or folder, a training checkpoint, a recogniser's folder, a SenseVoice or SSL folder, the
            peer's released file, or NeMo's `.nemo` archive.
        parts: Parts of the codec to take (names of its modules, "encoder" and "decoder", say); () takes all it has.
        allow_missing: Shell patterns of keys that the source may lack; they keep their fresh values.
        allow_extra: Shell patterns of keys of the source that may go unused.
    """

    source: str
    parts: tuple[str, ...] = ()
    allow_missing: tuple[str, ...] = ()
    allow_extra: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainingConfig:
    """A whole run.

    Attributes:
        output: Folder for checkpoints, curves, samples and the finished model.
        model: What is trained. Its parts tell which family it is: an encoder, decoder and quantizer make a NanoCodec,
            anything else a FlexiCodec.
        init_from: Weights to start from, applied in order.
        rates: How merging varies; of no account where a model never merges.
        dropout: How the codes in use vary; of no account where they only mean something together.
        steps: Optimiser steps.
        mixed_precision: "no" or "bf16" (Accelerate's names); frozen encoder, quantisers and discriminators stay in
            float32.
        compile: `torch.compile` the convolutional encoder and decoder; their first step then takes minutes.
        trackers: Where curves go: names that Accelerate knows; "jsonl" writes `curves.jsonl`.
        log_every: Steps between rows of the curves.
        sample_every: Steps between audio samples and pictures; None for none.
        validate_every: Steps between validations.
        save_every: Steps between checkpoints.
        keep_last: Checkpoints kept.
        keep_best: Best checkpoints kept besides, by validation loss.
        export_half: Store the finished model in half precision.
        max_bad_steps: Steps in a row with a loss or gradient that is not finite after which the run stops.
    """

    output: str
    model: FlexiCodecConfig | NanoCodecConfig
    data: DataConfig
    init_from: tuple[InitConfig, ...] = ()
    rates: RateConfig = field(default_factory=RateConfig)
    dropout: DropoutConfig = field(default_factory=DropoutConfig)
    losses: LossWeights = field(default_factory=LossWeights)
    reconstruction: ReconstructionConfig = field(default_factory=ReconstructionConfig)
    adversarial: AdversarialConfig | None = field(default_factory=AdversarialConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    steps: int = 800_000
    mixed_precision: Literal["no", "bf16"] = "no"
    compile: bool = False
    seed: int = 0
    trackers: tuple[str, ...] = ("tensorboard", "jsonl")
    log_every: int = 50
    sample_every: int | None = 5000
    validate_every: int = 5000
    save_every: int = 1000
    keep_last: int = 2
    keep_best: int = 1
    export_half: bool = False
    max_bad_steps: int = 10

    def __post_init__(self) -> None:
        _check_counts(self, 1, "steps", "log_every", "validate_every", "save_every", "sample_every", "max_bad_steps")


def _check_counts(config: object, least: int, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}, expected {least} or more")


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}, expected a probability")
