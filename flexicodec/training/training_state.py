"""The networks of a codec run with their optimisers: built, written to checkpoints, resumed, exported."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from flexicodec.models.flexicodec.model import FlexiCodec
from flexicodec.models.nanocodec.config import NanoCodecConfig
from flexicodec.models.nanocodec.model import NanoCodec
from flexicodec.nn.conv import apply_weight_norm, remove_weight_norm
from flexicodec.nn.dac import DACEncoder
from flexicodec.quantize import EuclideanRVQ, ResidualVectorQuantizer
from flexicodec.training.checkpoints import Checkpoint
from flexicodec.training.codebook_means import CodebookMeans
from flexicodec.training.config import TrainingConfig
from flexicodec.training.discriminators.multi_discriminator import Discriminators
from flexicodec.training.gan_losses import DiscriminatorLoss
from flexicodec.training.generator import make_generator
from flexicodec.training.initialization import (
    init_discriminators,
    init_encoder,
    init_from,
    init_nanocodec,
    init_quantizer,
)
from flexicodec.training.optim import DeadCodeRestarter, OptimizedModule, make_average, reset_adam_rows

TrainableCodec = FlexiCodec | NanoCodec


def build_codec(config: TrainingConfig, fresh: bool = True) -> TrainableCodec:
    """Build the codec in its training form: weight-normed convolutions, and initial weights unless `fresh` is False."""
    torch.manual_seed(config.seed)
    codec: TrainableCodec
    if isinstance(config.model, NanoCodecConfig):
        codec = NanoCodec(config.model)
        if fresh:
            init_nanocodec(codec)
    else:
        codec = FlexiCodec(config.model)
        if fresh:
            if isinstance(codec.encoder, DACEncoder):  # others start from weights that keep features' size already
                init_encoder(codec.encoder)
            if isinstance(codec.acoustic_quantizer, ResidualVectorQuantizer):
                init_quantizer(codec.acoustic_quantizer)
    if fresh:
        init_from(codec, config.init_from)
    # Weight norm rounds weights, so that what is not trained goes without.
    if config.trained == "all":
        apply_weight_norm(codec.encoder)
    apply_weight_norm(codec.decoder)
    for name, module in codec.named_children():
        if config.trained == "decoder" and name in codec.token_modules:
            module.requires_grad_(False)
    set_training(codec, config)
    return codec


def set_training(codec: TrainableCodec, config: TrainingConfig) -> None:
    """Put the modules that are trained in training mode, and the others in eval mode."""
    codec.train()
    for name, module in codec.named_children():
        if config.trained == "decoder" and name in codec.token_modules:
            module.eval()


class TrainingState:
    """The codec, its discriminators, their optimisers, and the running mean of the codec's weights."""

    def __init__(self, config: TrainingConfig, accelerator: Accelerator, fresh: bool = True):
        self.config = config
        self.codec = build_codec(config, fresh).to(accelerator.device)
        generator = make_generator(self.codec, config).to(accelerator.device)
        self.heads = generator.heads
        self.codebook_sizes = generator.codebook_sizes
        self.generator = OptimizedModule(generator, config.optim, config.steps)  # the codec with its losses
        self.average = make_average(self.codec, config.optim.ema_decay)

        # Codebooks that are trained are also restarted, or learnt as running means.
        quantizer = getattr(self.codec, "acoustic_quantizer", None) if config.trained == "all" else None
        self.restarter: DeadCodeRestarter | None = None
        if config.optim.reseed_every and isinstance(quantizer, ResidualVectorQuantizer):
            self.restarter = DeadCodeRestarter(quantizer, config.seed)
        self.means: CodebookMeans | None = None
        if isinstance(quantizer, EuclideanRVQ):
            self.means = CodebookMeans(quantizer, config.codebooks, config.seed)

        self.discriminators: Discriminators | None = None
        self.adversary: OptimizedModule | None = None  # the discriminators with their loss
        if config.adversarial is not None:
            torch.manual_seed(config.seed + 1)
            self.discriminators = Discriminators(config.adversarial, self.codec.output_sample_rate).to(
                accelerator.device
            )
            if fresh and config.adversarial.init_from is not None:
                init_discriminators(self.discriminators, config.adversarial.init_from)
            loss = DiscriminatorLoss(self.discriminators, config.adversarial)
            self.adversary = OptimizedModule(loss, config.optim, config.steps, config.adversarial.learning_rate)

    @property
    def optimized(self) -> list[OptimizedModule]:
        """Generator and, where there is one, adversary."""
        return [self.generator] if self.adversary is None else [self.generator, self.adversary]

    def prepare(self, accelerator: Accelerator) -> None:
        """Let Accelerate wrap the modules: data parallelism, autocast; compile them if the config asks for it."""
        if self.config.compile:
            self.codec.encoder.compile()
            self.codec.decoder.compile()
        for optimized in self.optimized:
            optimized.module = accelerator.prepare_model(optimized.bare)

    def release(self) -> None:
        """Unwrap the modules."""
        for optimized in self.optimized:
            optimized.module = optimized.bare

    def restart_dead_codes(self, step: int, accelerator: Accelerator) -> int:
        """Restart dead codebook rows, in the running mean too, and return their number."""
        if self.restarter is None:
            return 0
        moved = self.restarter.restart(step, accelerator)
        for stage, rows in enumerate(moved):
            weight = self.restarter.quantizer.stages[stage].codebook.weight
            reset_adam_rows(self.generator.optimizer, weight, rows)
            if self.average is not None:
                mean = cast(FlexiCodec, self.average.module).acoustic_quantizer
                assert isinstance(mean, ResidualVectorQuantizer)
                with torch.no_grad():  # a write that PyTorch counts, as one through `.data` is not
                    mean.stages[stage].codebook.weight[rows] = weight[rows]
        return sum(len(rows) for rows in moved)

    def averaged_codec(self) -> TrainableCodec:
        """Return the codec to validate and export, in eval mode: the running mean where there is one."""
        codec = self.codec if self.average is None else cast(TrainableCodec, self.average.module)
        codec.eval()
        return codec

    # ------------------------------------------------------------------------------------------------- checkpoints

    def weights(self) -> dict[str, Mapping[str, Tensor]]:
        """Return all weights by the names of their files in a checkpoint."""
        return {name: module.state_dict() for name, module in self._modules().items()}

    def _modules(self) -> dict[str, nn.Module]:
        modules: dict[str, nn.Module] = {"generator": self.codec, **self.heads}
        if self.average is not None:
            modules["average"] = self.average
        if self.discriminators is not None:
            modules["discriminators"] = self.discriminators
        return modules

    def optimizer_state(self, accelerator: Accelerator) -> dict[str, Any]:
        """Return what resuming needs beside the weights; all processes call this together."""
        return {
            "generator": self.generator.optimizer.state_dict(),
            "judge": self.adversary.optimizer.state_dict() if self.adversary else None,
            "reseeder": self.restarter.state_dict(accelerator) if self.restarter else None,
            "codebook_means": self.means.state_dict() if self.means else None,
        }

    def load(self, checkpoint: Checkpoint, accelerator: Accelerator) -> None:
        """Load everything from a checkpoint, exactly."""
        for name, module in self._modules().items():
            weights = checkpoint.weights(name)
            if weights is None:
                raise ValueError(
                    f"{checkpoint.folder} has no {name} weights, which this config needs; to start a new run from its "
                    "weights, name it in init_from and choose another output"
                )
            module.load_state_dict(weights)
        state = checkpoint.state()
        self.generator.optimizer.load_state_dict(state["generator"])
        if self.adversary is not None:
            self.adversary.optimizer.load_state_dict(state["judge"])
        if self.restarter is not None and state["reseeder"] is not None:
            self.restarter.load_state_dict(state["reseeder"], accelerator)
        if self.means is not None:
            self.means.load_state_dict(state["codebook_means"])

    def export(self, folder: str | Path, threshold_range: tuple[float, float], half: bool) -> Path:
        """Write the averaged model for `flexicodec.load`, weight norm folded and its range of tau in the config."""
        codec = copy.deepcopy(self.averaged_codec())
        if isinstance(codec, FlexiCodec) and codec.config.merging is not None:
            merging = replace(codec.config.merging, threshold_range=threshold_range)
            codec.config = replace(codec.config, merging=merging)
        if self.config.trained == "all":
            remove_weight_norm(codec.encoder)
        remove_weight_norm(codec.decoder)
        return codec.save_pretrained(folder, dtype=torch.float16 if half else None)
