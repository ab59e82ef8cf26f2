"""Train a recogniser: SAN-M under CTC, the frozen encoder of codecs of our own and an offline recogniser.

    flexicodec train-asr CONFIG [key=value ...]
    accelerate launch -m flexicodec.training.asr CONFIG [key=value ...]

Both do the same. A step weighs every symbol alike, over all processes and accumulated passes.
"""

import argparse
import contextlib
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from accelerate.utils import gather_object
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from flexicodec.asr import Recognizer, RecognizerConfig, SentencePieceConfig, Vocabulary, train_pieces
from flexicodec.config import apply_overrides, from_dict, load_yaml, to_dict
from flexicodec.corpus import Utterance, read_manifest
from flexicodec.io_utils import replacing
from flexicodec.training.checkpoints import CheckpointFolder
from flexicodec.training.config import DataConfig, OptimConfig
from flexicodec.training.data import Batch, read_manifests, training_batches, utterance_batches
from flexicodec.training.monitor import Progress, make_accelerator, part
from flexicodec.training.optim import learning_rate_factor, make_optimizer
from flexicodec.training.spec_augment import MaskingConfig, mask_features

log = logging.getLogger(__name__)

EVAL_BATCH_SECONDS = 60.0


@dataclass(frozen=True)
class ASRTrainingConfig:
    """A whole run.

    Attributes:
        output: Folder for checkpoints, curves and the finished recogniser (`model` in it).
        model: The recogniser. A SentencePiece vocabulary without a model gets one made from the manifests' texts.
        data: Speech with texts, whole utterances (`crop_seconds: null`). Clips without a text that the vocabulary can
            spell are left out and counted. All of `validation` is transcribed, in full length.
        eval_corpora: Corpora of the validation manifest that count; () for all.
        speeds: Factors to change speed and pitch of clips by, each equally likely (Ko et al., Interspeech 2015).
        masking: Holes in the features.
        steps: Optimiser steps.
        learning_rate: Peak, after `warmup_steps` and before a cosine down to a hundredth.
        warmup_steps: Linear warm-up.
        weight_decay: AdamW's.
        dropout: In the encoder's blocks.
        grad_clip: Largest gradient norm.
        accumulation: Forward passes per step.
        normalisation_clips: Clips from which the features' means and deviations are taken.
        mixed_precision: "no" or "bf16"; the front end and the loss stay in float32.
        trackers: Where curves go; see `TrainingConfig`.
        log_every: Steps between rows of the curves.
        eval_every: Steps between transcripts of the validation speech.
        save_every: Steps between checkpoints.
        keep_last: Checkpoints kept.
        max_bad_steps: Steps in a row with a gradient that is not finite after which the run stops.
    """

    output: str
    model: RecognizerConfig
    data: DataConfig
    eval_corpora: tuple[str, ...] = ()
    speeds: tuple[float, ...] = (0.9, 1.0, 1.0, 1.1)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    steps: int = 3000
    learning_rate: float = 1.5e-3
    warmup_steps: int = 300
    weight_decay: float = 0.01
    dropout: float = 0.0
    grad_clip: float = 5.0
    accumulation: int = 1
    normalisation_clips: int = 300
    mixed_precision: Literal["no", "bf16"] = "no"
    seed: int = 0
    trackers: tuple[str, ...] = ("tensorboard", "jsonl")
    log_every: int = 50
    eval_every: int = 1000
    save_every: int = 1000
    keep_last: int = 2
    max_bad_steps: int = 10

    def __post_init__(self) -> None:
        if self.data.crop_seconds is not None:
            raise ValueError(
                f"data.crop_seconds is {self.data.crop_seconds}, but a text belongs to a whole utterance; write null"
            )


class CTCLoss(nn.Module):
    """The loss, as the module that processes share gradients through.

    Args:
        recognizer: What is trained.
    """

    def __init__(self, recognizer: Recognizer):
        super().__init__()
        self.recognizer = recognizer

    def forward(
        self,
        features: Float[Tensor, "batch frames in_dim"],
        lengths: Int[Tensor, " batch"],
        targets: Int[Tensor, "batch symbols"],
        target_lengths: Int[Tensor, " batch"],
    ) -> Float[Tensor, " batch"]:
        """Negative log-likelihood of each item's symbols; zero where a clip is too short for them."""
        log_probs, outputs = self.recognizer(features, lengths)
        with torch.autocast(log_probs.device.type, enabled=False):
            rows = log_probs.transpose(0, 1)
            return F.ctc_loss(rows, targets, outputs, target_lengths, reduction="none", zero_infinity=True)


@dataclass(frozen=True)
class Lesson:
    """A batch made ready for the loss.

    Attributes:
        features: From the front end, with holes.
        lengths: Valid frames.
        targets: Codes of the texts, padded with zeros.
        target_lengths: Codes of each.
        skipped: Clips that could not be read and were replaced.
    """

    features: Float[Tensor, "batch frames in_dim"]
    lengths: Int[Tensor, " batch"]
    targets: Int[Tensor, "batch symbols"]
    target_lengths: Int[Tensor, " batch"]
    skipped: int


def train(config: ASRTrainingConfig) -> Path:
    """Train until `config.steps`, going on from the newest whole checkpoint in `config.output` where there is one.

    Returns:
        The folder of the finished recogniser, which `Recognizer.load` opens.

    Raises:
        ValueError: The config or the data do not go together, or a checkpoint there is of another model.
        FloatingPointError: Gradients stopped being finite.
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        trainer = ASRTrainer(config)
        trainer.run()
        folder = Path(config.output) / "model"
        if trainer.accelerator.is_main_process:
            trainer.recognizer.save(folder)
        trainer.release()
        part(trainer.accelerator)
    return folder


class ASRTrainer:
    """A run: the recogniser, what moves it, the data, and the counters.

    Args:
        config: Of the run.
    """

    def __init__(self, config: ASRTrainingConfig):
        self.config = config
        self.checkpoints = CheckpointFolder(Path(config.output) / "checkpoints", config.keep_last, keep_best=0)
        found = self.checkpoints.newest()
        if found is not None and found.config()["model"] != to_dict(config)["model"]:
            raise ValueError(f"{found.folder} is a checkpoint of another model; choose another output")
        self.step, self.bad_steps = found.step if found else 0, 0
        self.accelerator = make_accelerator(cast(Any, config), self.step)
        self.device = self.accelerator.device

        torch.manual_seed(config.seed)
        self.recognizer = Recognizer(self._with_pieces(), dropout=config.dropout)
        if found is None:
            first = self._batches(replace(config.data, workers=0))  # the same in every process
            clips = (row[:length] for batch in first for row, length in zip(batch.audio, batch.lengths, strict=True))
            fit_normalisation(self.recognizer, islice(clips, config.normalisation_clips))
        self.recognizer.to(self.device).train()
        self.optim = OptimConfig(
            learning_rate=config.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=config.weight_decay,
            warmup_steps=config.warmup_steps,
            final_share=0.01,
        )
        self.optimizer = make_optimizer(self.recognizer, self.optim)
        if found is not None:
            self.recognizer.load_state_dict(found.weights("recognizer") or {})
            self.optimizer.load_state_dict(found.state()["optimizer"])
        self.loss = self.accelerator.prepare_model(CTCLoss(self.recognizer))
        self.heard = self._validation()
        self._forget()

    def run(self) -> None:
        """Train to the end."""
        config, accelerator = self.config, self.accelerator
        batches = self._batches(
            config.data,
            start=self.step * config.accumulation,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
        )
        with Progress(accelerator, config.steps, self.step) as progress:
            while self.step < config.steps:
                taken = [next(batches) for _ in range(config.accumulation)]
                self.update([self.lesson(batch) for batch in taken])
                self.step += 1
                progress.advance(sum(int(batch.lengths.sum()) for batch in taken) / self.recognizer.sample_rate)
                self._look(progress)

    def release(self) -> None:
        """Take the recogniser back from Accelerate."""
        self.loss = CTCLoss(self.recognizer)

    def lesson(self, batch: Batch) -> Lesson:
        """Turn a batch's speech into features with holes, and spell its texts."""
        config = self.config
        codes = [self.recognizer.vocabulary.encode(text or "") or [] for text in batch.texts]
        assert all(codes), "batches hold what `is_spellable` lets through"
        targets = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in codes], batch_first=True)
        with torch.no_grad():
            features, lengths = self.recognizer.features(batch.audio.to(self.device), batch.lengths.to(self.device))
        num_mels = config.model.encoder.front_end.num_mels
        return Lesson(
            mask_features(features, lengths.tolist(), batch.items.tolist(), num_mels, config.masking, config.seed),
            lengths,
            targets.to(self.device),
            torch.tensor([len(row) for row in codes], device=self.device),
            batch.skipped,
        )

    def update(self, lessons: Sequence[Lesson]) -> None:
        """Do one optimiser step."""
        config, accelerator = self.config, self.accelerator
        # Dropout is the one draw from torch's own generator.
        noise = np.random.SeedSequence([config.seed, self.step, accelerator.process_index])
        torch.manual_seed(int(noise.generate_state(1)[0]))
        mine = torch.stack([lesson.target_lengths.sum() for lesson in lessons]).sum()
        symbols = int(accelerator.reduce(mine, "sum"))
        for index, lesson in enumerate(lessons):
            last = index == len(lessons) - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(self.loss):
                loss = self.loss(lesson.features, lesson.lengths, lesson.targets, lesson.target_lengths).sum()
                accelerator.backward(loss * (accelerator.num_processes / symbols))
            self.seen += torch.tensor([loss.item(), lesson.target_lengths.sum().item(), lesson.skipped])
        norm = float(accelerator.clip_grad_norm_(self.recognizer.parameters(), config.grad_clip))
        self.norms.append(norm)
        if finite := math.isfinite(norm):
            for group in self.optimizer.param_groups:
                group["lr"] = config.learning_rate * learning_rate_factor(self.optim, self.step, config.steps)
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._mind(finite)

    def _mind(self, finite: bool) -> None:
        """Stop after too many steps that were not finite."""
        self.bad_steps = 0 if finite else self.bad_steps + 1
        if not finite:
            log.warning("step %d: a gradient is not finite; the step is skipped", self.step + 1)
        if self.bad_steps >= self.config.max_bad_steps:
            raise FloatingPointError(
                f"gradients were not finite in {self.bad_steps} steps in a row, up to step {self.step + 1}; "
                f"checkpoints are in {self.checkpoints.folder}; lower learning_rate or grad_clip, or look at the data"
            )

    # -------------------------------------------------------------------------------------------- what is seen of it

    def _look(self, progress: Progress) -> None:
        """Log, evaluate and save where it is time to."""
        config, step = self.config, self.step
        last = step == config.steps
        if step % config.log_every == 0 or last:
            progress.log(self._row(), step)
        rates = None
        if self.heard and (step % config.eval_every == 0 or last):
            with progress.paused():
                rates = self.evaluate()
            progress.log(rates, step)
        if step % config.save_every == 0 or last:
            with progress.paused():
                self.save(rates["validation/cer"] if rates else None)

    def _row(self) -> dict[str, float]:
        loss, symbols, skipped = self.accelerator.reduce(self.seen.to(self.device), "sum").tolist()
        row = {
            "loss/ctc": loss / symbols,
            "grad_norm": float(np.mean(self.norms)),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "data/replaced": skipped,
        }
        self._forget()
        return row

    def _forget(self) -> None:
        """Begin a new row: sums of losses, symbols and replaced clips; gradient norms."""
        self.seen, self.norms = torch.zeros(3), cast(list[float], [])

    def evaluate(self) -> dict[str, float]:
        """Transcribe the validation speech, shared among processes, and count errors."""
        accelerator, recognizer = self.accelerator, self.recognizer
        mine = self.heard[accelerator.process_index :: accelerator.num_processes]
        pairs: list[tuple[str, str]] = []
        recognizer.eval()
        for batch in utterance_batches(mine, recognizer.sample_rate, EVAL_BATCH_SECONDS):
            references = [recognizer.vocabulary.reference(text or "") or "" for text in batch.texts]
            pairs += zip(references, recognizer.transcribe(batch.audio, batch.lengths), strict=True)
        recognizer.train()
        rates = error_rates(*zip(*gather_object(pairs), strict=True))
        return {f"validation/{name}": rate for name, rate in rates.items()}

    def save(self, validation: float | None = None) -> None:
        """Write a checkpoint."""
        if self.accelerator.is_main_process:
            self.checkpoints.begin(self.step)
            self.checkpoints.finish(
                self.step,
                config=to_dict(self.config),
                weights={"recognizer": self.recognizer.state_dict()},
                state={"optimizer": self.optimizer.state_dict()},
                validation=validation,
            )
        self.accelerator.wait_for_everyone()

    # ------------------------------------------------------------------------------------------------ before it starts

    def _with_pieces(self) -> RecognizerConfig:
        """Give the recogniser's config, with a SentencePiece model made where one is needed."""
        model = self.config.model
        vocabulary = model.vocabulary
        if not isinstance(vocabulary, SentencePieceConfig) or vocabulary.model is not None:
            return model
        path = Path(self.config.output) / "sentencepiece.model"
        if self.accelerator.is_main_process and not path.is_file():
            spoken = read_manifests(self.config.data.manifest)
            pieces = train_pieces((utterance.text for utterance in spoken if utterance.text), vocabulary.size)
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as part:
                part.write_bytes(pieces)
        self.accelerator.wait_for_everyone()
        return replace(model, vocabulary=replace(vocabulary, model=str(path.resolve())))

    def _batches(self, data: DataConfig, **share: int) -> Iterator[Batch]:
        """Make batches of clips with usable texts."""
        with self.accelerator.main_process_first():  # which makes the cache, if there is to be one
            return training_batches(
                data,
                sample_rate=self.recognizer.sample_rate,
                seed=self.config.seed,
                keep=partial(is_spellable, self.recognizer.vocabulary),
                speeds=self.config.speeds,
                **share,
            )

    def _validation(self) -> list[Utterance]:
        """List the utterances to transcribe."""
        config = self.config
        if config.data.validation is None:
            return []
        there = [u for u in read_manifest(config.data.validation) if u.text]
        there = [u for u in there if not config.eval_corpora or u.corpus in config.eval_corpora]
        spelt = [u for u in there if is_spellable(self.recognizer.vocabulary, u)]
        if not spelt:
            raise ValueError(
                f"{config.data.validation} has {len(there)} clips with text"
                f"{' of ' + ', '.join(config.eval_corpora) if config.eval_corpora else ''}, and none that the "
                "vocabulary can spell"
            )
        if len(spelt) < len(there):
            log.warning("%d of %d validation texts cannot be spelt", len(there) - len(spelt), len(there))
        return spelt


def is_spellable(vocabulary: Vocabulary, utterance: Utterance) -> bool:
    """Tell whether there is a text and the vocabulary has all it takes to spell it."""
    return bool(utterance.text and vocabulary.encode(utterance.text))


@torch.no_grad()
def fit_normalisation(recognizer: Recognizer, clips: Iterable[Float[Tensor, " samples"]]) -> None:
    """Set the front end's shift and scale to the mean and deviation of the features of some clips."""
    front_end = recognizer.encoder.front_end
    stacked = []
    for clip in clips:
        stacked.append(recognizer.features(clip[None], torch.tensor([len(clip)]))[0][0])
    features = torch.cat(stacked)
    front_end.shift.copy_(-features.mean(0))
    front_end.scale.copy_(1.0 / features.std(0).clamp(min=1e-3))


def error_rates(references: Sequence[str], transcripts: Sequence[str]) -> dict[str, float]:
    """Count character and word errors (substitutions, deletions, insertions) per character and word of references.

    Raises:
        ImportError: jiwer is not installed.
    """
    try:
        import jiwer
    except ImportError as error:
        raise ImportError("error rates need jiwer: pip install flexicodec-lab[eval]") from error
    pair = list(references), list(transcripts)
    return {"cer": float(jiwer.cer(*pair)), "wer": float(jiwer.wer(*pair))}


def read_config(path: str | Path, overrides: Iterable[str] = ()) -> ASRTrainingConfig:
    """Read a YAML config with `key=value` overrides."""
    return from_dict(ASRTrainingConfig, apply_overrides(load_yaml(path), overrides))


def main() -> None:
    """Read the config, train, and say where the recogniser lies."""
    parser = argparse.ArgumentParser(prog="flexicodec.training.asr", description="Train a recogniser.")
    parser.add_argument("config", help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="with dots into parts: model.encoder.dim=128")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(train(read_config(arguments.config, arguments.overrides)))


if __name__ == "__main__":
    main()
