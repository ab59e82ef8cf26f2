"""Training: the loop that codecs and recognisers share (log, validate, save, resume), and the training of codecs."""

import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flexicodec.config import from_dict, to_dict
from flexicodec.models.flexicodec.model import FlexiCodec
from flexicodec.parallel import default_settings
from flexicodec.training.checkpoints import CheckpointFolder, restore_random_state, save_random_state
from flexicodec.training.config import CalibratedRange, TrainingConfig
from flexicodec.training.data import Batch, FeatureCache, read_manifests, training_batches, validation_clips
from flexicodec.training.data.clip_cache import cache_file
from flexicodec.training.discriminators.config import AdversarialConfig
from flexicodec.training.gan_losses import generator_losses
from flexicodec.training.generator import Generated
from flexicodec.training.logging import (
    Progress,
    TrainingMetrics,
    end_run,
    log_histogram,
    make_accelerator,
    start_trackers,
)
from flexicodec.training.logging.validation import save_samples, validate
from flexicodec.training.losses import weighted_sum
from flexicodec.training.optim import update_average
from flexicodec.training.rate_sampling import SampledRates, calibrate_threshold_range, rate_config_for, sample_rates
from flexicodec.training.training_state import TrainingState, set_training

log = logging.getLogger(__name__)

# Settings that may differ between a run and its continuation without a warning.
FREE_SETTINGS = {
    *("output", "trackers", "log_every", "sample_every", "validate_every", "eval_every", "save_every"),
    *("keep_last", "keep_best", "export_half", "max_bad_steps", "compile"),
}


@default_settings()
def train(config: TrainingConfig) -> Path:
    """Train a codec until `config.steps`, or resume the run in `config.output`; return the folder of the model."""
    return CodecTrainer(config).train()


class Trainer(ABC):
    """A run that logs, validates, saves checkpoints and resumes exactly; a subclass has the model and its step."""

    sample_rate: int  # Hz of the training audio
    saves_validated = False  # whether every validation is followed by a checkpoint, so that the best can be kept

    def __init__(self, config: Any, accumulation: int, validate_every: int, keep_best: int = 0) -> None:
        self.config = config
        self.accumulation = accumulation
        self.validate_every = validate_every
        self.checkpoints = CheckpointFolder(Path(config.output) / "checkpoints", config.keep_last, keep_best)
        self.step = 0  # optimiser steps done
        self.bad_steps = 0  # steps in a row, up to now, that were skipped
        self.resumed = self.checkpoints.newest()
        if self.resumed is not None:
            log.info("resuming at step %d from %s", self.resumed.step, self.resumed.folder)
            compare_configs(with_defaults(type(config), self.resumed.config()), to_dict(config))
            self.step = self.resumed.step
        self.accelerator = make_accelerator(config, start=False)
        self.device = self.accelerator.device

    @abstractmethod
    def batches(self, start: int) -> Iterator[Any]:
        """Make this process's batches from global batch number `start` on; their `lengths` are samples."""

    @abstractmethod
    def update(self, batches: Sequence[Any]) -> None:
        """Do one optimiser step on the batches of its passes."""

    @abstractmethod
    def log_metrics(self, progress: Progress) -> None:
        """Log the metrics since the last call."""

    @abstractmethod
    def validate(self) -> tuple[dict[str, float], float] | None:
        """Compute the validation metrics, and the one that ranks checkpoints; None without validation data."""

    @abstractmethod
    def weights_and_state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the contents of a checkpoint; all processes call this together."""

    @abstractmethod
    def finish(self, folder: Path) -> None:
        """Unwrap what Accelerate prepared, and write the finished model in the main process."""

    def train(self) -> Path:
        """Run to the end and return the folder of the finished model."""
        self.run()
        folder = Path(self.config.output) / "model"
        self.finish(folder)
        end_run(self.accelerator)
        return folder

    def run(self) -> None:
        """Train until `config.steps`."""
        config = self.config
        if self.resumed is not None:
            restore_random_state(self.resumed.folder, self.accelerator.process_index)
        self.accelerator.wait_for_everyone()
        with self.accelerator.main_process_first():  # the first process makes the cache of decoded audio
            batches = self.batches(start=self.step * self.accumulation)
        # Nothing is written before all that can be refused is there.
        start_trackers(self.accelerator, config, self.step)
        with Progress(self.accelerator, config.steps, self.step) as progress:
            while self.step < config.steps:
                taken = [next(batches) for _ in range(self.accumulation)]
                self.update(taken)
                self.step += 1
                samples = sum(int(batch.lengths.sum()) for batch in taken)
                progress.advance(samples / self.sample_rate)
                self._log_and_save(progress)

    def is_due(self, every: int | None) -> bool:
        """Tell whether something that happens every n steps happens now; the last step is always due."""
        return every is not None and (self.step % every == 0 or self.step == self.config.steps)

    def _log_and_save(self, progress: Progress) -> None:
        if self.is_due(self.config.log_every):
            self.log_metrics(progress)
        validation = None
        if self.is_due(self.validate_every):
            with progress.paused():
                scores = self.validate()
            if scores is not None:
                metrics, validation = scores
                progress.log(metrics, self.step)
        due = self.is_due(self.config.save_every) or (self.saves_validated and validation is not None)
        if due and self.bad_steps == 0:  # so that the newest checkpoint is a good one
            with progress.paused():
                self.save(validation)

    def save(self, validation: float | None = None) -> None:
        """Write a checkpoint, with the random state of every process."""
        accelerator = self.accelerator
        weights, state = self.weights_and_state()
        if accelerator.is_main_process:
            self.checkpoints.begin(self.step)
        accelerator.wait_for_everyone()
        save_random_state(self.checkpoints.part(self.step), accelerator.process_index)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            config = to_dict(self.config)
            self.checkpoints.finish(self.step, config=config, weights=weights, state=state, validation=validation)
        accelerator.wait_for_everyone()

    def _sync_gradients(self, module: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Exchange gradients between processes in the last pass of a step only."""
        return contextlib.nullcontext() if last else self.accelerator.no_sync(module)

    def _check_finite(self, finite: bool) -> None:
        """Count the steps that were skipped, and stop after too many in a row."""
        if finite:
            self.bad_steps = 0
            return
        self.bad_steps += 1
        log.warning("step %d: a loss or gradient is not finite; the step is skipped", self.step + 1)
        if self.bad_steps >= self.config.max_bad_steps:
            kept = self.checkpoints.all()
            good = f"the last good checkpoint is {kept[-1].folder}" if kept else "there is no checkpoint yet"
            raise FloatingPointError(
                f"losses or gradients were not finite in {self.bad_steps} steps in a row, up to step {self.step + 1}; "
                f"{good}; lower learning_rate or grad_clip, or look at the data of these steps"
            )


def with_defaults(config_type: type, held: dict[str, Any]) -> dict[str, Any]:
    """Add the defaults of settings that did not exist yet when a checkpoint was written."""
    try:
        return to_dict(from_dict(config_type, held))
    except ValueError:  # settings that exist no more
        return held


def compare_configs(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Log which settings changed since a checkpoint was written; another model is an error."""
    changed = sorted(key for key in now if key not in FREE_SETTINGS and before.get(key) != now[key])
    if "model" in changed:
        raise ValueError(
            "the checkpoint in this output folder is of another model; choose another output, and to start a codec "
            "from its weights name it in init_from"
        )
    if changed:
        log.warning("resuming with other settings than the checkpoint's: %s", ", ".join(changed))


class CodecTrainer(Trainer):
    """Training of a codec with reconstruction and GAN losses."""

    config: TrainingConfig
    saves_validated = True

    def __init__(self, config: TrainingConfig):
        super().__init__(config, config.optim.accumulation, config.validate_every, config.keep_best)
        self.state = TrainingState(config, self.accelerator, fresh=self.resumed is None)
        self.codec = self.state.codec
        self.sample_rate = self.codec.output_sample_rate  # the encoders get it resampled
        self.rates, self.dropout = rate_config_for(config)
        if self.resumed is not None:
            self.state.load(self.resumed, self.accelerator)
        self.threshold_range = self._find_threshold_range()
        self.state.prepare(self.accelerator)
        self.validation_clips = validation_clips(config.data, self.sample_rate)
        semantic_size, acoustic_size = self.state.codebook_sizes
        self.metrics = TrainingMetrics(
            self.codec.num_codebooks, acoustic_size, semantic_size, self.codec.max_duration, self.codec.base_frame_rate
        )

    def batches(self, start: int) -> Iterator[Batch]:
        """Make this process's batches."""
        data = self.config.data
        features = None
        cache = cache_file(data.feature_cache, data.manifest, "features")
        if cache is not None:
            if not isinstance(self.codec, FlexiCodec) or self.codec.config.geometry != "whole":
                raise ValueError(
                    "data.feature_cache is for a FlexiCodec of geometry 'whole', whose frames are those of its crops"
                )
            features = FeatureCache(read_manifests(data.manifest), cache, self.codec)
        return training_batches(
            data,
            sample_rate=self.sample_rate,
            input_rate=self.codec.sample_rate,
            seed=self.config.seed,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            start=start,
            features=features,
        )

    def _find_threshold_range(self) -> tuple[float, float]:
        """Return the range of tau, calibrated with the frozen encoder when a run starts if the config asks for it."""
        wanted = self.rates.threshold_range
        if not isinstance(wanted, CalibratedRange):
            return wanted
        if self.resumed is not None and self.resumed.config()["rates"]["threshold_range"] == to_dict(wanted):
            low, high = self.resumed.state()["threshold_range"]
            return low, high
        assert isinstance(self.codec, FlexiCodec)  # a NanoCodec never merges
        low, high = calibrate_threshold_range(self.codec, self._calibration_clips(wanted.clips), wanted)
        log.info("tau is sampled from %.3f to %.3f, which gives %s Hz", low, high, wanted.frame_rates)
        return low, high

    def _calibration_clips(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        with self.accelerator.main_process_first():  # the same clips in every process
            batches = training_batches(
                self.config.data,
                sample_rate=self.sample_rate,
                input_rate=self.codec.sample_rate,
                seed=self.config.seed,
            )
        while count > 0:
            batch = next(batches).to(self.device)
            yield batch.encoder_audio
            count -= len(batch.lengths)

    # ------------------------------------------------------------------------------------------------------- the step

    def update(self, batches: Sequence[Batch]) -> None:
        """Do one optimiser step of the discriminators, then one of the generator against their new weights.

        With several batches (accumulation) each network sees all of them before the next does, so that the step equals
        that of one larger batch; audio is then decoded twice.
        """
        config = self.config
        state = self.state
        batches = [batch.to(self.device) for batch in batches]
        # Losses are summed over items; this makes gradients the mean over all passes and processes.
        scale = self.accelerator.num_processes / sum(batch.global_items for batch in batches)
        for optimized in state.optimized:
            optimized.set_learning_rate(self.step)
        rates = [self._sample_rates(batch) for batch in batches]
        generated = self._generate(batches[0], rates[0]) if len(batches) == 1 else None

        finite = True
        adversarial = self.adversarial_config
        if adversarial is not None and (self.step - adversarial.start_step) % adversarial.every == 0:
            finite = self._discriminator_step(batches, rates, generated, scale)

        discriminators = None if adversarial is None else state.discriminators
        for index, (batch, sampled) in enumerate(zip(batches, rates, strict=True)):
            with self._sync_gradients(state.generator.module, last=index == len(batches) - 1):
                made = generated or self._generate(batch, sampled)
                losses = generator_losses(made, discriminators, adversarial)
                total = weighted_sum(losses, config.losses)
                self.accelerator.backward(total.sum() * scale)
            all_finite = bool(total.isfinite().all())
            finite = finite and all_finite
            # Losses are logged before weighting; those of weight 0 are not logged.
            logged = {name: loss for name, loss in losses.items() if getattr(config.losses, name)} | {"total": total}
            self._add_losses(logged, batch)
            if all_finite:  # otherwise the codes mean nothing
                self.metrics.add_tokens(made.semantic, made.acoustic, made.durations, sampled.num_codebooks)
            self.metrics.add_count("data/replaced", batch.skipped)

        finite, norm = state.generator.optimizer_step(self.accelerator, finite)
        self.metrics.add_value("grad_norm/generator", norm)
        if state.means is not None:
            moved = state.means.update(self.step, self.accelerator, finite, state.generator.share_of_peak)
            self.metrics.add_value("codebook/reseeded", float(moved))
        if finite and state.average is not None:
            update_average(state.average, self.codec)
        restart_every = config.optim.reseed_every
        if finite and restart_every and (self.step + 1) % restart_every == 0:
            restarted = state.restart_dead_codes(self.step, self.accelerator)
            self.metrics.add_value("codebook/reseeded", float(restarted))
        self.metrics.add_value("skipped", float(not finite))
        self._check_finite(finite)

    def _discriminator_step(
        self, batches: Sequence[Batch], rates: Sequence[SampledRates], generated: Generated | None, scale: float
    ) -> bool:
        """Do the discriminators' optimiser step; return whether all of it was finite."""
        adversary = self.state.adversary
        assert adversary is not None
        finite = True
        for index, (batch, sampled) in enumerate(zip(batches, rates, strict=True)):
            with self._sync_gradients(adversary.module, last=index == len(batches) - 1):
                made = generated
                if made is None:
                    with torch.no_grad():
                        made = self._generate(batch, sampled)
                loss, balance = adversary.module(made.reference, made.audio)
                self.accelerator.backward(loss.sum() * scale)
            finite = finite and bool(loss.isfinite().all())
            self._add_losses({"discriminator": loss}, batch)
            self._add_losses(balance, batch, group="balance")
        finite, norm = adversary.optimizer_step(self.accelerator, finite)
        self.metrics.add_value("grad_norm/discriminator", norm)
        return finite

    def _generate(self, batch: Batch, rates: SampledRates) -> Generated:
        for watcher in (self.state.restarter, self.state.means):
            if watcher is not None:
                watcher.items = batch.items
        return self.state.generator.module(
            batch.audio, batch.lengths, rates, batch.features, batch.inputs, batch.input_lengths
        )

    def _sample_rates(self, batch: Batch) -> SampledRates:
        rates = sample_rates(
            self.rates,
            self.dropout,
            self.threshold_range,
            self.codec.num_codebooks,
            batch.items.tolist(),
            seed=self.config.seed,
            step=self.step,
        )
        if self.state.means is not None and self.step < self.config.codebooks.start_step:
            rates = replace(rates, unquantized=rates.num_codebooks > 0)
        return rates.to(self.device)

    def _add_losses(self, losses: dict[str, Tensor], batch: Batch, group: str = "loss") -> None:
        sums = {name: loss.detach().sum() for name, loss in losses.items()}
        self.metrics.add_losses(sums, len(batch.lengths), group=group)

    @property
    def adversarial_config(self) -> AdversarialConfig | None:
        """The config of the adversarial losses from their first step on, None before."""
        config = self.config.adversarial
        return config if config is not None and self.step >= config.start_step else None

    # --------------------------------------------------------------------------------------- logs, checkpoints, export

    def log_metrics(self, progress: Progress) -> None:
        """Log the metrics since the last call, and the histogram of durations."""
        row = self.metrics.row(self.accelerator)
        progress.log(row | {"learning_rate": self.state.generator.learning_rate}, self.step)
        log_histogram(self.accelerator, self.step, "duration", self.metrics.duration_histogram)

    def _log_and_save(self, progress: Progress) -> None:
        super()._log_and_save(progress)
        if self.validation_clips and self.is_due(self.config.sample_every):
            with progress.paused():
                if self.accelerator.is_main_process:
                    codec = self.state.averaged_codec()
                    save_samples(self.accelerator, codec, self.validation_clips, self.step, self.config.output)
                self.accelerator.wait_for_everyone()
        set_training(self.codec, self.config)

    def validate(self) -> tuple[dict[str, float], float] | None:
        """Compute the mel loss of the validation clips."""
        if not self.validation_clips:
            return None
        scores = validate(self.accelerator, self.state.averaged_codec(), self.validation_clips)
        return scores, scores["validation/mel"]

    def weights_and_state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return all weights, the state of the optimisers, and the range of tau."""
        state = self.state.optimizer_state(self.accelerator)
        state["threshold_range"] = list(self.threshold_range)
        return self.state.weights(), state

    def finish(self, folder: Path) -> None:
        """Unwrap the networks, and write the model for `flexicodec.load`."""
        if self.accelerator.is_main_process:
            self.state.export(folder, self.threshold_range, self.config.export_half)
        self.state.release()
