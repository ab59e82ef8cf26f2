"""Count, log, save and resume: everything around the step."""

import contextlib
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from flexicodec.config import to_dict
from flexicodec.models.flexicodec.model import FlexiCodec
from flexicodec.training.checkpoints import Checkpoint, CheckpointFolder, restore_random_state, save_random_state
from flexicodec.training.config import CalibratedRange, TrainingConfig
from flexicodec.training.data import Batch, training_batches, validation_clips
from flexicodec.training.discriminators.config import AdversarialConfig
from flexicodec.training.draws import Draws, calibrated_range, draw, what_varies
from flexicodec.training.monitor import Curves, Progress, log_histogram, make_accelerator, part
from flexicodec.training.networks import Learner, Networks
from flexicodec.training.optim import update_average
from flexicodec.training.step import Generated, generator_losses, weighted_sum
from flexicodec.training.validation import sample, validate

log = logging.getLogger(__name__)

FREE_KEYS = (  # may differ between a run and its continuation without a word
    *("output", "trackers", "log_every", "sample_every", "validate_every", "save_every"),
    *("keep_last", "keep_best", "export_half", "max_bad_steps", "compile"),
)


def train(config: TrainingConfig) -> Path:
    """Train until `config.steps`, going on from the newest whole checkpoint in `config.output` where there is one.

    Returns:
        The folder of the finished model, which `flexicodec.load` opens.

    Raises:
        ValueError: The config, the data or the weights to start from do not go together, or a checkpoint there is
            of another model.
        FloatingPointError: Losses or gradients stopped being finite.
    """
    trainer = Trainer(config)
    trainer.run()
    folder = Path(config.output) / "model"
    if trainer.accelerator.is_main_process:
        trainer.networks.export(folder, trainer.threshold_range, config.export_half)
    trainer.networks.release()
    part(trainer.accelerator)
    return folder


class Trainer:
    """A run: networks, data and counters.

    Args:
        config: Of the run.
    """

    def __init__(self, config: TrainingConfig):
        self.config = config
        self.checkpoints = CheckpointFolder(Path(config.output) / "checkpoints", config.keep_last, config.keep_best)
        found = self.checkpoints.newest()
        if found is not None:
            log.info("going on from step %d of %s", found.step, found.folder)
            compare_configs(found.config(), to_dict(config))
        self.step, self.bad_steps = found.step if found else 0, 0
        self.accelerator = make_accelerator(config, self.step)
        self.device = self.accelerator.device
        self.networks = Networks(config, self.accelerator, fresh=found is None)
        self.codec = self.networks.codec
        self.rates, self.dropout = what_varies(config)
        if found is not None:
            self.networks.load(found, self.accelerator)
        self.threshold_range = self._threshold_range(found)
        self.networks.prepare(self.accelerator)
        self.validation = validation_clips(config.data, self.codec.sample_rate) if config.data.validation else []
        if found is not None:
            restore_random_state(found.folder, self.accelerator.process_index)
        self.accelerator.wait_for_everyone()

    def run(self) -> None:
        """Train to the end."""
        config, accelerator = self.config, self.accelerator
        passes = config.optim.accumulation
        with accelerator.main_process_first():  # it makes the cache of decoded audio, where there is one
            batches = training_batches(
                config.data,
                sample_rate=self.codec.sample_rate,
                seed=config.seed,
                rank=accelerator.process_index,
                world=accelerator.num_processes,
                start=self.step * passes,
            )
        semantic_size, acoustic_size = self.networks.codebook_sizes
        curves = Curves(
            self.codec.num_codebooks, acoustic_size, semantic_size, self.codec.max_duration, self.codec.base_frame_rate
        )
        with Progress(accelerator, config.steps, self.step) as progress:
            while self.step < config.steps:
                taken = [next(batches) for _ in range(passes)]
                self.update([batch.to(self.device) for batch in taken], curves)
                self.step += 1
                progress.advance(sum(int(batch.lengths.sum()) for batch in taken) / self.codec.sample_rate)
                self._look(curves, progress)

    # ------------------------------------------------------------------------------------------------------ the step

    def update(self, batches: Sequence[Batch], curves: Curves) -> None:
        """Do one optimiser step: the discriminators learn first, then the generator hears their judgement.

        With several batches (accumulation) the discriminators learn from all of them before the generator hears
        anything, so that the step equals that of one larger batch; audio is then decoded twice.
        """
        config, networks = self.config, self.networks
        scale = self.accelerator.num_processes / sum(batch.global_items for batch in batches)
        for learner in (networks.generator, networks.judge):
            if learner is not None:
                learner.set_rate(self.step)
        draws = [self._draw(batch) for batch in batches]
        made = self._generate(batches[0], draws[0]) if len(batches) == 1 else None
        game = self._game()
        finite = True
        if networks.judge is not None and game is not None and (self.step - game.start_step) % game.every == 0:
            finite = self._teach_discriminators(networks.judge, batches, draws, made, scale, curves)
        for index, (batch, drawn) in enumerate(zip(batches, draws, strict=True)):
            with self._exchange(networks.generator, index == len(batches) - 1):
                result = made or self._generate(batch, drawn)
                losses = generator_losses(result, networks.discriminators if game else None, game)
                total = weighted_sum(losses, config.losses)
                self.accelerator.backward(total.sum() * scale)
            finite = finite and bool(total.isfinite().all())
            shown = {name: loss for name, loss in losses.items() if getattr(config.losses, name)}
            _count(curves, batch, drawn, result, shown | {"total": total})
        norm = networks.generator.clip(self.accelerator)
        curves.add_value("grad_norm/generator", norm)
        finite = self._agree(finite and math.isfinite(norm))
        networks.generator.move(finite)
        if finite and networks.average is not None:
            update_average(networks.average, self.codec)
        if finite and config.optim.reseed_every and (self.step + 1) % config.optim.reseed_every == 0:
            curves.add_value("codebook/reseeded", float(networks.reseed(self.step, self.accelerator)))
        self._mind(finite, curves)

    def _teach_discriminators(
        self,
        judge: Learner,
        batches: Sequence[Batch],
        draws: Sequence[Draws],
        made: Generated | None,
        scale: float,
        curves: Curves,
    ) -> bool:
        """Do the discriminators' step; says whether all of it was finite."""
        finite = True
        for index, (batch, drawn) in enumerate(zip(batches, draws, strict=True)):
            with self._exchange(judge, index == len(batches) - 1):
                result = made
                if result is None:
                    with torch.no_grad():
                        result = self._generate(batch, drawn)
                loss, scores = judge.module(result.reference, result.audio)
                self.accelerator.backward(loss.sum() * scale)
            finite = finite and bool(loss.isfinite().all())
            curves.add_losses({"discriminator": loss.detach().sum()}, len(batch.lengths))
            sums = {name: score.sum() for name, score in scores.items()}
            curves.add_losses(sums, len(batch.lengths), group="balance")
        norm = judge.clip(self.accelerator)
        curves.add_value("grad_norm/discriminator", norm)
        finite = self._agree(finite and math.isfinite(norm))
        judge.move(finite)
        return finite

    def _generate(self, batch: Batch, drawn: Draws) -> Generated:
        """Let the generator make audio of a batch."""
        if self.networks.reseeder is not None:
            self.networks.reseeder.items = batch.items
        return self.networks.generator.module(batch.audio, batch.lengths, drawn)

    def _agree(self, finite: bool) -> bool:
        """Say whether a step was finite in all processes."""
        if self.accelerator.num_processes == 1:
            return finite
        flag = torch.tensor(float(finite), device=self.device)
        return float(self.accelerator.reduce(flag, "sum")) == self.accelerator.num_processes

    def _game(self) -> AdversarialConfig | None:
        """Give the adversary's config where there is an adversary by now."""
        game = self.config.adversarial
        return game if game is not None and self.step >= game.start_step else None

    def _exchange(self, learner: Learner, last: bool) -> AbstractContextManager[Any]:
        """Let processes exchange gradients in the last pass only."""
        return contextlib.nullcontext() if last else self.accelerator.no_sync(learner.module)

    def _draw(self, batch: Batch) -> Draws:
        config = self.config
        drawn = draw(
            self.rates,
            self.dropout,
            self.threshold_range,
            self.codec.num_codebooks,
            batch.items.tolist(),
            seed=config.seed,
            step=self.step,
        )
        return drawn.to(self.device)

    def _mind(self, finite: bool, curves: Curves) -> None:
        """Count steps that were not finite, and stop after too many in a row."""
        curves.add_value("skipped", float(not finite))
        self.bad_steps = 0 if finite else self.bad_steps + 1
        if not finite:
            log.warning("step %d: a loss or gradient is not finite; the step is skipped", self.step + 1)
        if self.bad_steps >= self.config.max_bad_steps:
            here = self.checkpoints.all()
            good = f"the last good checkpoint is {here[-1].folder}" if here else "there is no checkpoint yet"
            raise FloatingPointError(
                f"losses or gradients were not finite in {self.bad_steps} steps in a row, up to step {self.step + 1}; "
                f"{good}; lower optim.learning_rate or optim.grad_clip, or look at the data of these steps"
            )

    def _threshold_range(self, found: Checkpoint | None) -> tuple[float, float]:
        """Settle the range of tau, from the frozen encoder at hand where the config asks for that, and only once."""
        wanted = self.rates.threshold_range
        if not isinstance(wanted, CalibratedRange):
            return wanted
        if found is not None and found.config()["rates"]["threshold_range"] == to_dict(wanted):
            low, high = found.state()["threshold_range"]
            return low, high
        assert isinstance(self.codec, FlexiCodec)  # for no other has rates to calibrate
        low, high = calibrated_range(self.codec, self._some_clips(wanted.clips), wanted)
        log.info("tau is drawn from %.3f to %.3f, which gives %s Hz", low, high, wanted.frame_rates)
        return low, high

    def _some_clips(self, count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        with self.accelerator.main_process_first():
            batches = training_batches(self.config.data, sample_rate=self.codec.sample_rate, seed=self.config.seed)
        while count > 0:
            batch = next(batches).to(self.device)
            yield batch.audio, batch.lengths
            count -= len(batch.lengths)

    # ------------------------------------------------------------------------------------------------ what is kept

    def _look(self, curves: Curves, progress: Progress) -> None:
        """Log, validate, sample and save where it is time to."""
        config, step = self.config, self.step
        last = step == config.steps
        if step % config.log_every == 0 or last:
            rate = self.networks.generator.optimizer.param_groups[0]["lr"]
            progress.log(curves.row(self.accelerator) | {"learning_rate": rate}, step)
            log_histogram(self.accelerator, step, "duration", curves.duration_histogram)
        with progress.paused():
            validation = None
            if self.validation and (step % config.validate_every == 0 or last):
                scores = validate(self.accelerator, self.networks.averaged(), self.validation)
                validation = scores["validation/mel"]
                progress.log(scores, step)
            if self.validation and config.sample_every and (step % config.sample_every == 0 or last):
                if self.accelerator.is_main_process:
                    sample(self.accelerator, self.networks.averaged(), self.validation, step, config.output)
                self.accelerator.wait_for_everyone()
            self.codec.train()
            due = step % config.save_every == 0 or validation is not None or last
            if due and self.bad_steps == 0:  # so that the newest checkpoint is a good one
                self.save(validation)

    def save(self, validation: float | None = None) -> None:
        """Write a checkpoint; every process keeps its own random state in it."""
        accelerator = self.accelerator
        state = self.networks.state(accelerator) | {"threshold_range": list(self.threshold_range)}
        if accelerator.is_main_process:
            self.checkpoints.begin(self.step)
        accelerator.wait_for_everyone()
        save_random_state(self.checkpoints.part(self.step), accelerator.process_index)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            self.checkpoints.finish(
                self.step,
                config=to_dict(self.config),
                weights=self.networks.weights(),
                state=state,
                validation=validation,
            )
        accelerator.wait_for_everyone()


def compare_configs(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Say in the log what changed since a checkpoint was written.

    Raises:
        ValueError: The model changed.
    """
    changed = sorted(key for key in now if key not in FREE_KEYS and before.get(key) != now[key])
    if "model" in changed:
        raise ValueError(
            "the checkpoint in this output folder is of another model; choose another output, and name the checkpoint "
            "in init_from to start from its weights"
        )
    if changed:
        log.warning("going on with other settings than the checkpoint was made with: %s", ", ".join(changed))


def _count(curves: Curves, batch: Batch, drawn: Draws, made: Generated, losses: dict[str, torch.Tensor]) -> None:
    curves.add_losses({name: loss.detach().sum() for name, loss in losses.items()}, len(batch.lengths))
    if bool(losses["total"].isfinite().all()):  # codes of what is no number are none
        curves.add_tokens(made.semantic, made.acoustic, made.durations, drawn.num_codebooks)
    curves.add_count("data/replaced", batch.skipped)
