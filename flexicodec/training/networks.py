"""Both networks of a run with all that moves them: made, put into checkpoints, taken out again, exported."""

import copy
import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from flexicodec.models.flexicodec.model import FlexiCodec
from flexicodec.models.nanocodec.config import NanoCodecConfig
from flexicodec.models.nanocodec.model import NanoCodec
from flexicodec.nn.conv import apply_weight_norm, remove_weight_norm
from flexicodec.quantize import ResidualVectorQuantizer
from flexicodec.training.checkpoints import Checkpoint
from flexicodec.training.config import TrainingConfig
from flexicodec.training.discriminators import Discriminators
from flexicodec.training.generators import make_generator
from flexicodec.training.init import init_encoder, init_nanocodec, init_quantizer
from flexicodec.training.init_from import init_discriminators, init_from
from flexicodec.training.optim import learning_rate_factor, make_average, make_optimizer
from flexicodec.training.reseed import Reseeder, forget_rows
from flexicodec.training.step import Judge

log = logging.getLogger(__name__)

TrainableCodec = FlexiCodec | NanoCodec


def build_codec(config: TrainingConfig, fresh: bool = True) -> TrainableCodec:
    """Make the codec as it is trained: with its starting weights, and the convolutions weight-normalised.

    Args:
        config: Of the run.
        fresh: Whether to fill the weights; a checkpoint brings its own.
    """
    torch.manual_seed(config.seed)
    codec: TrainableCodec
    if isinstance(config.model, NanoCodecConfig):
        codec = NanoCodec(config.model)
        if fresh:
            init_nanocodec(codec)
    else:
        codec = FlexiCodec(config.model)
        if fresh:
            init_encoder(codec.encoder)
            if isinstance(codec.acoustic_quantizer, ResidualVectorQuantizer):
                init_quantizer(codec.acoustic_quantizer)
    if fresh:
        init_from(codec, config.init_from)
    apply_weight_norm(codec.encoder)
    apply_weight_norm(codec.decoder)
    codec.train()
    return codec


class Learner:
    """A network, its optimiser and its learning rate.

    Args:
        module: The network.
        config: Of the run.
        learning_rate: Peak; None takes the config's.
    """

    def __init__(self, module: nn.Module, config: TrainingConfig, learning_rate: float | None = None):
        self.bare = self.module = module
        self.config = config
        self.peak = learning_rate or config.optim.learning_rate
        self.optimizer: Optimizer = make_optimizer(module, config.optim, self.peak)

    def set_rate(self, step: int) -> None:
        """Set the learning rate of a step."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.peak * learning_rate_factor(self.config.optim, step, self.config.steps)

    def clip(self, accelerator: Accelerator) -> float:
        """Clip the gradients' norm, where the config wants that, and say what it was."""
        largest = self.config.optim.grad_clip
        norm = accelerator.clip_grad_norm_(self.bare.parameters(), math.inf if largest is None else largest)
        return float(norm)

    def move(self, finite: bool) -> None:
        """Take the step, if it is finite, and forget the gradients."""
        if finite:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class Networks:
    """The codec, its discriminators where there are any, and what belongs to them.

    Attributes:
        codec: The model in training.
        heads: What is trained beside it and not exported, by name.
        codebook_sizes: Rows of the semantic codebook, None where there is none, and of each acoustic one.
        average: Running mean of its weights, or None.
        generator: The codec and its losses, as a learner.
        judge: The discriminators and their loss, as a learner, or None.
        reseeder: Watches the acoustic codebooks, or None.
    """

    def __init__(self, config: TrainingConfig, accelerator: Accelerator, fresh: bool = True):
        self.config = config
        self.codec = build_codec(config, fresh).to(accelerator.device)
        generator = make_generator(self.codec, config).to(accelerator.device)
        self.generator, self.heads = Learner(generator, config), generator.heads
        self.codebook_sizes = generator.codebook_sizes
        self.average = make_average(self.codec, config.optim.ema_decay)
        quantizer = getattr(self.codec, "acoustic_quantizer", None)
        self.reseeder: Reseeder | None = None
        if config.optim.reseed_every and isinstance(quantizer, ResidualVectorQuantizer):
            self.reseeder = Reseeder(quantizer, config.seed)
        self.discriminators: Discriminators | None = None
        self.judge: Learner | None = None
        if config.adversarial is not None:
            torch.manual_seed(config.seed + 1)
            self.discriminators = Discriminators(config.adversarial, self.codec.sample_rate).to(accelerator.device)
            if fresh and config.adversarial.init_from is not None:
                init_discriminators(self.discriminators, config.adversarial.init_from)
            judge = Judge(self.discriminators, config.adversarial)
            self.judge = Learner(judge, config, config.adversarial.learning_rate)

    def prepare(self, accelerator: Accelerator) -> None:
        """Hand the networks to Accelerate: data parallelism, autocast, compilation."""
        if self.config.compile:
            self.codec.encoder.compile()
            self.codec.decoder.compile()
        for learner in (self.generator, self.judge):
            if learner is not None:
                learner.module = accelerator.prepare_model(learner.bare)

    def reseed(self, step: int, accelerator: Accelerator) -> int:
        """Put codebook rows that nobody used onto features at hand, in the running mean too; says how many."""
        if self.reseeder is None:
            return 0
        moved = self.reseeder.reseed(step, accelerator)
        for stage, rows in enumerate(moved):
            weight = self.reseeder.quantizer.stages[stage].codebook.weight
            forget_rows(self.generator.optimizer, weight, rows)
            if self.average is not None:
                mean = cast(FlexiCodec, self.mean_codec(self.average)).acoustic_quantizer
                assert isinstance(mean, ResidualVectorQuantizer)
                mean.stages[stage].codebook.weight.data[rows] = weight.data[rows]
        return sum(len(rows) for rows in moved)

    def averaged(self) -> TrainableCodec:
        """Give the codec with the weights that count, the running mean where there is one, in eval mode."""
        codec = self.codec if self.average is None else self.mean_codec(self.average)
        codec.eval()
        return codec

    @staticmethod
    def mean_codec(average: AveragedModel) -> TrainableCodec:
        """Give the codec that holds the running mean."""
        return cast(TrainableCodec, average.module)

    def weights(self) -> dict[str, Mapping[str, Tensor]]:
        """All weights by the names of checkpoint files."""
        found: dict[str, Mapping[str, Tensor]] = {"generator": self.codec.state_dict()}
        found |= {name: head.state_dict() for name, head in self.heads.items()}
        if self.average is not None:
            found["average"] = self.average.state_dict()
        if self.discriminators is not None:
            found["discriminators"] = self.discriminators.state_dict()
        return found

    def state(self, accelerator: Accelerator) -> dict[str, Any]:
        """What resuming needs beside the weights; all processes have to ask for it."""
        return {
            "generator": self.generator.optimizer.state_dict(),
            "judge": self.judge.optimizer.state_dict() if self.judge else None,
            "reseeder": self.reseeder.state_dict(accelerator) if self.reseeder else None,
        }

    def load(self, checkpoint: Checkpoint, accelerator: Accelerator) -> None:
        """Take up a checkpoint, exactly.

        Raises:
            ValueError: It lacks something that the config asks for.
        """
        modules: dict[str, nn.Module | None] = {
            "generator": self.codec,
            **self.heads,
            "average": self.average,
            "discriminators": self.discriminators,
        }
        for name, module in modules.items():
            if module is None:
                continue
            weights = checkpoint.weights(name)
            if weights is None:
                raise ValueError(
                    f"{checkpoint.folder} holds no {name}, which this config has; to begin something new from its "
                    "weights, name it in init_from and choose another output"
                )
            module.load_state_dict(weights)
        state = checkpoint.state()
        self.generator.optimizer.load_state_dict(state["generator"])
        if self.judge is not None:
            self.judge.optimizer.load_state_dict(state["judge"])
        if self.reseeder is not None and state["reseeder"] is not None:
            self.reseeder.load_state_dict(state["reseeder"], accelerator)

    def release(self) -> None:
        """Take the networks back from Accelerate."""
        for learner in (self.generator, self.judge):
            if learner is not None:
                learner.module = learner.bare

    def export(self, folder: str | Path, threshold_range: tuple[float, float], half: bool) -> Path:
        """Write the model that counts for `flexicodec.load`, weight norm folded.

        Args:
            folder: Where to.
            threshold_range: Range of tau it was trained with, which its config then tells.
            half: Store it in half precision.
        """
        codec = copy.deepcopy(self.averaged())
        if isinstance(codec, FlexiCodec) and codec.config.merging is not None:
            merging = replace(codec.config.merging, threshold_range=threshold_range)
            codec.config = replace(codec.config, merging=merging)
        remove_weight_norm(codec.encoder)
        remove_weight_norm(codec.decoder)
        return codec.save_pretrained(folder, dtype=torch.float16 if half else None)
