"""Config of a training run of text to speech."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from flexicodec.training.config import OptimConfig, RateConfig
from flexicodec.tts.speech_models import SpeechModelConfig

Part = Literal["lm", "flow"]


@dataclass(frozen=True)
class SpeechDataConfig:
    """Speech with texts: manifests that are encoded here, or a folder of `flexicodec tokenize`."""

    manifest: tuple[str, ...] = ()  # JSONL manifests; beside `tokens` they give the texts, by the clips' ids
    tokens: str | None = None  # the folder: all its rates are trained on, its clips' texts are those of its manifest
    validation: str | None = None  # held-out speech: a manifest, or, beside `tokens`, another such folder
    validation_clips: int = 64  # how many of it to use, spread evenly
    batch_seconds: float = 60.0  # of audio per forward pass and process, padding included
    min_seconds: float = 0.5  # shorter utterances are left out, and counted
    max_seconds: float = 20.0  # longer ones too
    feature_cache: str | None = None  # file for what the codec's encoders made of manifests; None: in `output`

    def __post_init__(self) -> None:
        if not self.manifest and self.tokens is None:
            raise ValueError("there are no data: name manifests in data.manifest, or a folder of tokens in data.tokens")
        if not self.batch_seconds > 0 or self.validation_clips < 1:
            raise ValueError(
                f"batch_seconds is {self.batch_seconds} and validation_clips {self.validation_clips}; expected both "
                "above 0"
            )


def _optim() -> OptimConfig:
    return OptimConfig(learning_rate=1e-3, betas=(0.9, 0.98), weight_decay=0.05, warmup_steps=500)


@dataclass(frozen=True)
class SpeechTrainingConfig:
    """A training run; both networks see the same batches."""

    output: str  # folder for checkpoints, curves and the finished model (`model` in it)
    data: SpeechDataConfig
    codec: str = "flexicodec-mini"  # name or folder; tokens of another one are refused
    model: SpeechModelConfig = field(default_factory=SpeechModelConfig)
    trained: tuple[Part, ...] = ("lm", "flow")  # the others keep the weights of `init_from`
    init_from: str | None = None  # a folder of `train-tts`, to start from its weights
    warm_start: str | None = None  # a decoder-only model of transformers, to start the language model's layers from
    # Rates of every item; None: the codec's own policy, 3 to 12.5 Hz. Folders of tokens have rates of their own.
    rates: RateConfig | None = None
    rate_dropout: float = 0.1  # probability that an item's rate is not said
    duration_weight: float = 1.0  # of the loss of durations, beside that of codes
    lm_optim: OptimConfig = field(default_factory=_optim)
    flow_optim: OptimConfig = field(default_factory=_optim)
    accumulation: int = 1  # forward passes per step
    statistics_clips: int = 200  # clips to take the latents' means and deviations from
    steps: int = 20_000  # optimiser steps
    mixed_precision: Literal["no", "bf16"] = "no"  # the codec stays in float32
    seed: int = 0
    trackers: tuple[str, ...] = ("tensorboard", "jsonl")  # see `TrainingConfig`
    log_every: int = 50
    validate_every: int = 1000
    save_every: int = 1000
    keep_last: int = 2  # checkpoints kept
    keep_best: int = 1  # best checkpoints kept in addition, by validation loss
    max_bad_steps: int = 10  # steps in a row with a gradient that is not finite before the run stops

    def __post_init__(self) -> None:
        unknown = set(self.trained) - set(get_args(Part))
        missing = [part for part in self.trained if getattr(self.model, part) is None]
        if not self.trained or unknown or missing:
            raise ValueError(
                f"trained is {self.trained}; expected some of lm and flow, and each of them in the model's config"
            )
        kept = [part for part in get_args(Part) if part not in self.trained and getattr(self.model, part) is not None]
        if kept and self.init_from is None:
            raise ValueError(
                f"{kept[0]} is not trained, and there is no init_from to take its weights from; name one, or write "
                f"model.{kept[0]}=null"
            )
        if self.init_from is not None and self.warm_start is not None:
            raise ValueError("init_from and warm_start were both given; each says where first weights come from")
        if not 0 <= self.rate_dropout <= 1:
            raise ValueError(f"rate_dropout is {self.rate_dropout}, expected a probability")
        if min(self.steps, self.accumulation, self.log_every, self.validate_every, self.save_every) < 1:
            raise ValueError("steps, accumulation, log_every, validate_every and save_every must be at least 1")
