"""Train a recogniser: SAN-M with a CTC loss, which becomes a codec's frozen encoder and transcribes offline.

A step weights all symbols equally, over all processes and accumulated passes.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate.utils import gather_object
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from flexicodec.asr import PhoneConfig, Recognizer, RecognizerConfig, SentencePieceConfig, Vocabulary, train_pieces
from flexicodec.config import apply_overrides, from_dict, load_yaml
from flexicodec.corpus import Utterance, read_manifest
from flexicodec.evaluation.metrics.asr import error_rates
from flexicodec.io_utils import replacing
from flexicodec.parallel import default_settings
from flexicodec.training.asr.spec_augment import MaskingConfig, mask_features
from flexicodec.training.config import DataConfig, OptimConfig
from flexicodec.training.data import Batch, read_manifests, training_batches, utterance_batches
from flexicodec.training.logging import Progress
from flexicodec.training.optim import OptimizedModule
from flexicodec.training.trainer import Trainer

log = logging.getLogger(__name__)

EVAL_BATCH_SECONDS = 60.0


@dataclass(frozen=True)
class ASRTrainingConfig:
    """A training run of a recogniser."""

    output: str  # folder for checkpoints, curves and the finished recogniser (`model` in it)
    model: RecognizerConfig  # a SentencePiece vocabulary without a model gets one made from the manifests' texts
    # Whole utterances with texts (`crop_seconds: null`). Clips without a text that the vocabulary can spell are dropped
    # and counted. All of `validation` is transcribed, in full length.
    data: DataConfig
    eval_corpora: tuple[str, ...] = ()  # corpora of the validation manifest to evaluate on; () for all
    speeds: tuple[float, ...] = (0.9, 1.0, 1.0, 1.1)  # speed perturbation (Ko et al., Interspeech 2015), equally likely
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    steps: int = 3000  # optimiser steps
    learning_rate: float = 1.5e-3  # peak, after `warmup_steps` and before a cosine down to a hundredth
    warmup_steps: int = 300
    weight_decay: float = 0.01
    dropout: float = 0.0  # in the encoder's blocks
    grad_clip: float = 5.0  # largest gradient norm
    accumulation: int = 1  # forward passes per step
    normalisation_clips: int = 300  # clips to take the features' means and deviations from
    mixed_precision: Literal["no", "bf16"] = "no"  # front end and loss stay in float32
    seed: int = 0
    trackers: tuple[str, ...] = ("tensorboard", "jsonl")  # see `TrainingConfig`
    log_every: int = 50
    eval_every: int = 1000  # steps between evaluations on the validation speech
    save_every: int = 1000
    keep_last: int = 2  # checkpoints kept
    max_bad_steps: int = 10  # steps in a row with a gradient that is not finite before the run stops

    def __post_init__(self) -> None:
        if self.data.crop_seconds is not None:
            raise ValueError(
                f"data.crop_seconds is {self.data.crop_seconds}, but a text belongs to a whole utterance; write null"
            )


class CTCLoss(nn.Module):
    """The recogniser and its loss as one module, so that data parallelism has one forward pass."""

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
class ASRBatch:
    """A batch of masked features and the codes of their texts, padded with zeros."""

    features: Float[Tensor, "batch frames in_dim"]
    lengths: Int[Tensor, " batch"]
    targets: Int[Tensor, "batch symbols"]
    target_lengths: Int[Tensor, " batch"]


@default_settings()
def train(config: ASRTrainingConfig) -> Path:
    """Train a recogniser until `config.steps`, or resume the run in `config.output`; return the folder of the model."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        return ASRTrainer(config).train()


class ASRTrainer(Trainer):
    """Training of a recogniser with a CTC loss."""

    config: ASRTrainingConfig

    def __init__(self, config: ASRTrainingConfig):
        super().__init__(config, config.accumulation, config.eval_every)
        torch.manual_seed(config.seed)
        self.recognizer = Recognizer(self._model_config(), dropout=config.dropout)
        self.sample_rate = self.recognizer.sample_rate
        if self.resumed is None:
            self._fit_normalisation()
        self.recognizer.to(self.device).train()
        optim = OptimConfig(
            learning_rate=config.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=config.weight_decay,
            warmup_steps=config.warmup_steps,
            final_share=0.01,
            grad_clip=config.grad_clip,
        )
        self.loss = OptimizedModule(CTCLoss(self.recognizer), optim, config.steps)
        if self.resumed is not None:
            self.recognizer.load_state_dict(self.resumed.weights("recognizer") or {})
            self.loss.optimizer.load_state_dict(self.resumed.state()["optimizer"])
        self.loss.module = self.accelerator.prepare_model(self.loss.bare)
        self.validation = self._read_validation()
        self._reset_metrics()

    def _model_config(self) -> RecognizerConfig:
        """Return the recogniser's config; train its SentencePiece model on the texts if it has none."""
        model = self.config.model
        vocabulary = model.vocabulary
        if not isinstance(vocabulary, SentencePieceConfig) or vocabulary.model is not None:
            return model
        path = Path(self.config.output) / "sentencepiece.model"
        if self.accelerator.is_main_process and not path.is_file():
            utterances = read_manifests(self.config.data.manifest)
            pieces = train_pieces((utterance.text for utterance in utterances if utterance.text), vocabulary.size)
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as part:
                part.write_bytes(pieces)
        self.accelerator.wait_for_everyone()
        return replace(model, vocabulary=replace(vocabulary, model=str(path.resolve())))

    @torch.no_grad()
    def _fit_normalisation(self) -> None:
        """Set the front end's shift and scale to the mean and deviation of some clips' features."""
        with self.accelerator.main_process_first():
            batches = self.batches(0, workers=0, rank=0, world=1)  # the same in every process
        clips = (row[:length] for batch in batches for row, length in zip(batch.audio, batch.lengths, strict=True))
        stacked = []
        for clip in islice(clips, self.config.normalisation_clips):
            features, _ = self.recognizer.features(clip[None], torch.tensor([len(clip)]))
            stacked.append(features[0])
        features = torch.cat(stacked)
        front_end = self.recognizer.encoder.front_end
        front_end.shift.copy_(-features.mean(0))
        front_end.scale.copy_(1.0 / features.std(0).clamp(min=1e-3))

    def _read_validation(self) -> list[Utterance]:
        """List the utterances to transcribe."""
        config = self.config
        if config.data.validation is None:
            return []
        utterances = [utterance for utterance in read_manifest(config.data.validation) if utterance.text]
        if config.eval_corpora:
            utterances = [utterance for utterance in utterances if utterance.corpus in config.eval_corpora]
        spelt = [utterance for utterance in utterances if is_spellable(self.recognizer.vocabulary, utterance)]
        if not spelt:
            corpora = " of " + ", ".join(config.eval_corpora) if config.eval_corpora else ""
            raise ValueError(
                f"{config.data.validation} has {len(utterances)} clips with text{corpora}, and none that the "
                "vocabulary can spell"
            )
        if len(spelt) < len(utterances):
            log.warning("%d of %d validation texts cannot be spelt", len(utterances) - len(spelt), len(utterances))
        return spelt

    def batches(
        self, start: int, workers: int | None = None, rank: int | None = None, world: int | None = None
    ) -> Iterator[Batch]:
        """Make this process's batches of clips with usable texts."""
        data = self.config.data
        return training_batches(
            data if workers is None else replace(data, workers=workers),
            sample_rate=self.sample_rate,
            seed=self.config.seed,
            keep=partial(is_spellable, self.recognizer.vocabulary),
            speeds=self.config.speeds,
            rank=self.accelerator.process_index if rank is None else rank,
            world=self.accelerator.num_processes if world is None else world,
            start=start,
        )

    # ------------------------------------------------------------------------------------------------------- the step

    def prepare(self, batch: Batch) -> ASRBatch:
        """Compute a batch's features, mask them, and encode its texts."""
        config = self.config
        codes = [torch.tensor(self.recognizer.vocabulary.encode(text or "") or []) for text in batch.texts]
        assert all(map(len, codes)), "batches hold only what `is_spellable` lets through"
        with torch.no_grad():
            features, lengths = self.recognizer.features(batch.audio.to(self.device), batch.lengths.to(self.device))
        num_mels = config.model.encoder.front_end.num_mels
        return ASRBatch(
            mask_features(features, lengths.tolist(), batch.items.tolist(), num_mels, config.masking, config.seed),
            lengths,
            nn.utils.rnn.pad_sequence(codes, batch_first=True).to(self.device),
            torch.tensor([len(row) for row in codes], device=self.device),
        )

    def update(self, batches: Sequence[Batch]) -> None:
        """Do one optimiser step."""
        accelerator = self.accelerator
        prepared = [self.prepare(batch) for batch in batches]
        # Only dropout uses torch's generator; seeded by the step, it needs no state for exact resume.
        noise = np.random.SeedSequence([self.config.seed, self.step, accelerator.process_index])
        torch.manual_seed(int(noise.generate_state(1)[0]))
        mine = torch.stack([batch.target_lengths.sum() for batch in prepared]).sum()
        symbols = int(accelerator.reduce(mine, "sum"))
        for index, batch in enumerate(prepared):
            with self._sync_gradients(self.loss.module, last=index == len(prepared) - 1):
                loss = self.loss.module(batch.features, batch.lengths, batch.targets, batch.target_lengths).sum()
                accelerator.backward(loss * (accelerator.num_processes / symbols))
            self.sums += torch.tensor([loss.item(), batch.target_lengths.sum().item(), batches[index].skipped])
        self.loss.set_learning_rate(self.step)
        finite, norm = self.loss.optimizer_step(accelerator)
        self.norms.append(norm)
        self._check_finite(finite)

    # --------------------------------------------------------------------------------------- logs, checkpoints, export

    def log_metrics(self, progress: Progress) -> None:
        """Log the metrics since the last call."""
        loss, symbols, skipped = self.accelerator.reduce(self.sums.to(self.device), "sum").tolist()
        row = {
            "loss/ctc": loss / symbols,
            "grad_norm": float(np.mean(self.norms)),
            "learning_rate": self.loss.learning_rate,
            "data/replaced": skipped,
        }
        progress.log(row, self.step)
        self._reset_metrics()

    def _reset_metrics(self) -> None:
        self.sums = torch.zeros(3)  # losses, symbols, replaced clips
        self.norms: list[float] = []

    def validate(self) -> tuple[dict[str, float], float] | None:
        """Transcribe the validation speech, shared among processes, and compute error rates."""
        if not self.validation:
            return None
        accelerator = self.accelerator
        recognizer = self.recognizer
        mine = self.validation[accelerator.process_index :: accelerator.num_processes]
        pairs: list[tuple[str, str]] = []
        recognizer.eval()
        for batch in utterance_batches(mine, recognizer.sample_rate, EVAL_BATCH_SECONDS):
            references = [recognizer.vocabulary.reference(text or "") or "" for text in batch.texts]
            pairs += zip(references, recognizer.transcribe(batch.audio, batch.lengths), strict=True)
        recognizer.train()
        # Texts are counted as everywhere; phones have to stay as they are.
        texts, transcripts = zip(*gather_object(pairs), strict=True)
        is_phones = isinstance(self.config.model.vocabulary, PhoneConfig)
        rates = error_rates(texts, transcripts, str if is_phones else "basic")
        return {f"validation/{name}": rate for name, rate in rates.items()}, rates["cer"]

    def weights_and_state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the recogniser's weights and the optimiser's state."""
        return {"recognizer": self.recognizer.state_dict()}, {"optimizer": self.loss.optimizer.state_dict()}

    def finish(self, folder: Path) -> None:
        """Unwrap the recogniser, and write it for `Recognizer.load`."""
        if self.accelerator.is_main_process:
            self.recognizer.save(folder)
        self.loss.module = self.loss.bare


def is_spellable(vocabulary: Vocabulary, utterance: Utterance) -> bool:
    """Tell whether there is a text and the vocabulary has all of its symbols."""
    return bool(utterance.text and vocabulary.encode(utterance.text))


def read_config(path: str | Path, overrides: Iterable[str] = ()) -> ASRTrainingConfig:
    """Read a YAML config with `key=value` overrides."""
    return from_dict(ASRTrainingConfig, apply_overrides(load_yaml(path), overrides))
