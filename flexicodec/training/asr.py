"""Train a small SAN-M encoder with a character CTC head: the frozen encoder of codecs of our own, and a recogniser.

A 60 ms frame holds up to two characters, so the head gives two outputs per frame.
"""

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from flexicodec.config import to_dict
from flexicodec.files import replacing
from flexicodec.models.flexicodec.semantic import SanmConfig, SanmEncoder
from flexicodec.training.data import AudioStore, BucketedUtterances, read_manifest
from flexicodec.training.run import learning_rate_factor, single_process

ALPHABET = " 'abcdefghijklmnopqrstuvwxyz"  # code 0 is CTC's blank
OUTPUTS_PER_FRAME = 2


@dataclass(frozen=True)
class ASRTrainingConfig:
    """Everything a run of `train` needs.

    Attributes:
        manifest: JSONL manifest of the training speech; clips without text are left out.
        eval_manifest: Speech to report the character error rate on.
        eval_corpora: Corpora of the eval manifest that count.
        output: Folder for the weights and the log.
        encoder: The model.
        steps: Optimiser steps.
        batch_seconds: Audio per step.
        learning_rate: Peak, after `warmup_steps` and before a cosine down to a hundredth.
        bf16: Autocast the blocks to bfloat16.
    """

    manifest: str
    eval_manifest: str
    output: str
    encoder: SanmConfig
    eval_corpora: tuple[str, ...] = ("librispeech_test_clean",)
    audio_cache: str | None = None
    steps: int = 3000
    batch_seconds: float = 64.0
    learning_rate: float = 1.5e-3
    warmup_steps: int = 300
    weight_decay: float = 0.01
    dropout: float = 0.1
    grad_clip: float = 5.0
    speeds: tuple[float, ...] = (0.9, 1.0, 1.0, 1.1)
    mel_masks: int = 2
    mel_mask_width: int = 20
    time_mask_share: float = 0.15
    bf16: bool = True
    seed: int = 0
    log_every: int = 50
    eval_every: int = 1000


class CTCModel(nn.Module):
    """A SAN-M encoder with a character head.

    Args:
        config: The encoder.
        dropout: In the encoder's blocks, while training.
    """

    def __init__(self, config: SanmConfig, dropout: float = 0.0):
        super().__init__()
        self.encoder = SanmEncoder(config, dropout=dropout)
        self.head = nn.Linear(config.dim, OUTPUTS_PER_FRAME * (len(ALPHABET) + 1))

    def forward(
        self, features: Float[Tensor, "batch frames in_dim"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch outputs symbols"], Int[Tensor, " batch"]]:
        """Log-probabilities of blank and characters, two rows per frame, and how many rows are valid."""
        logits = self.head(self.encoder.encode(features, lengths))
        rows = logits.unflatten(-1, (OUTPUTS_PER_FRAME, len(ALPHABET) + 1)).flatten(1, 2)
        return F.log_softmax(rows.float(), dim=-1), lengths * OUTPUTS_PER_FRAME

    def loss(
        self, features: Float[Tensor, "batch frames in_dim"], lengths: Int[Tensor, " batch"], texts: list[str]
    ) -> Tensor:
        """CTC loss per character."""
        log_probs, output_lengths = self(features, lengths)
        targets = [torch.tensor([ALPHABET.index(c) + 1 for c in text]) for text in texts]
        total = F.ctc_loss(
            log_probs.transpose(0, 1),
            torch.cat(targets).to(log_probs.device),
            output_lengths,
            torch.tensor([len(t) for t in targets], device=log_probs.device),
            reduction="sum",
            zero_infinity=True,
        )
        return total / sum(len(t) for t in targets)

    @torch.no_grad()
    def transcribe(self, audio: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]) -> list[str]:
        """Read off the likeliest characters (greedy CTC)."""
        log_probs, output_lengths = self(*self.encoder.front_end(audio, lengths))
        best = log_probs.argmax(-1)
        texts = []
        for row, length in zip(best.tolist(), output_lengths.tolist(), strict=True):
            codes = [c for i, c in enumerate(row[:length]) if c and (i == 0 or row[i - 1] != c)]
            texts.append("".join(ALPHABET[c - 1] for c in codes))
        return texts


def mask_features(
    features: Float[Tensor, "batch frames dim"],
    lengths: Int[Tensor, " batch"],
    config: ASRTrainingConfig,
    random: np.random.Generator,
) -> Float[Tensor, "batch frames dim"]:
    """SpecAugment (arXiv 1904.08779) on stacked features: blank bands of mels and stretches of frames."""
    batch, frames, dim = features.shape
    mels = config.encoder.front_end.num_mels
    keep = np.ones((batch, frames, mels), dtype=np.float32)
    for item in range(batch):
        for _ in range(config.mel_masks):
            width = random.integers(0, config.mel_mask_width + 1)
            start = random.integers(0, mels - width + 1)
            keep[item, :, start : start + width] = 0.0
        length = int(lengths[item])
        for _ in range(max(1, length // 40)):
            width = random.integers(0, max(1, round(min(40, length) * config.time_mask_share)) + 1)
            start = random.integers(0, max(1, length - width))
            keep[item, start : start + width] = 0.0
    return features * torch.from_numpy(keep).to(features.device).repeat(1, 1, dim // mels)


def character_errors(reference: str, hypothesis: str) -> int:
    """Levenshtein distance between two strings."""
    row = np.arange(len(hypothesis) + 1)
    codes = np.array([ord(c) for c in hypothesis])
    for i, char in enumerate(reference, start=1):
        candidate = np.minimum(row[1:] + 1, row[:-1] + (codes != ord(char))) if len(codes) else row[:0]
        candidate = np.concatenate([[i], candidate])
        row = np.minimum.accumulate(candidate - np.arange(len(candidate))) + np.arange(len(candidate))
    return int(row[-1])


def evaluate(model: CTCModel, store: AudioStore) -> float:
    """Character error rate of greedy transcripts over a store of transcribed clips."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    errors = characters = 0
    for batch in BucketedUtterances(store, batch_seconds=60.0, seed=0).epoch(0):
        for text, guess in zip(
            batch.texts, model.transcribe(batch.audio.to(device), batch.lengths.to(device)), strict=True
        ):
            errors += character_errors(text or "", guess)
            characters += len(text or "")
    model.train(was_training)
    return errors / characters


def fit_normalisation(model: CTCModel, store: AudioStore, clips: int = 300) -> None:
    """Set the front end's shift and scale to the mean and deviation of the features of some clips."""
    front_end = model.encoder.front_end
    index = np.random.default_rng(0).permutation(len(store))[:clips]
    stacked = torch.cat([front_end(torch.from_numpy(store[int(i)])[None])[0][0] for i in index])
    front_end.shift.copy_(-stacked.mean(0))
    front_end.scale.copy_(1.0 / stacked.std(0).clamp(min=1e-3))


def first_blocks(state: dict[str, Tensor], config: SanmConfig) -> dict[str, Tensor]:
    """Take an encoder of the first `config.num_layers` blocks out of the weights of a `CTCModel`.

    Where that leaves blocks out, the last one kept has no norm of its own in the file; it gets a plain one, without
    gain or shift.
    """
    kept = {}
    for name, tensor in state.items():
        block = re.match(r"encoder\.encoder\.layers\.(\d+)\.", name)
        if name.startswith("encoder.") and (block is None or int(block[1]) < config.num_layers):
            kept[name.removeprefix("encoder.")] = tensor
    norm = f"encoder.layers.{config.num_layers - 1}.final_layernorm."
    kept.setdefault(norm + "weight", torch.ones(config.dim))
    kept.setdefault(norm + "bias", torch.zeros(config.dim))
    return kept


def train(config: ASRTrainingConfig) -> float:
    """Train the encoder and head; writes `asr.safetensors`, `config.json` and `log.jsonl` to `config.output`.

    Returns:
        The character error rate on the eval corpora at the end.
    """
    torch.manual_seed(config.seed)
    accelerator = single_process("bf16" if config.bf16 else "no")
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    (output / "config.json").write_text(json.dumps(to_dict(config), indent=2))

    spoken = [u for u in read_manifest(config.manifest) if u.text and set(u.text) <= set(ALPHABET)]
    heard = [u for u in read_manifest(config.eval_manifest) if u.text and u.corpus in config.eval_corpora]
    store = AudioStore(spoken, config.audio_cache)
    eval_store = AudioStore(heard)
    data = BucketedUtterances(store, config.batch_seconds, config.seed, config.speeds)

    model = CTCModel(config.encoder, config.dropout)
    fit_normalisation(model, store)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, config.warmup_steps, config.steps)
    )
    model, optimizer = accelerator.prepare(model, optimizer)
    bare: CTCModel = accelerator.unwrap_model(model)

    def save() -> None:
        state = {k: v.detach().contiguous().clone() for k, v in bare.state_dict().items()}
        with replacing(output / "asr.safetensors") as part:
            save_file(state, part)

    step, epoch, started, seconds, losses = 0, 0, time.monotonic(), 0.0, []
    log = (output / "log.jsonl").open("a")
    while step < config.steps:
        for batch in (batch.to(accelerator.device) for batch in data.epoch(epoch)):
            with torch.no_grad():
                features, lengths = bare.encoder.front_end(batch.audio, batch.lengths)
            random = np.random.default_rng([config.seed, 1, step])
            features = mask_features(features, lengths, config, random)
            with accelerator.autocast():
                loss = bare.loss(features, lengths, [t or "" for t in batch.texts])
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), config.grad_clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            step += 1
            seconds += float(batch.lengths.sum()) / 16_000
            losses.append(loss.item())
            if step % config.log_every == 0:
                row = {
                    "step": step,
                    "loss": float(np.mean(losses)),
                    "seconds_per_second": round(seconds / (time.monotonic() - started), 1),
                    "minutes": round((time.monotonic() - started) / 60, 2),
                }
                losses = []
                if step % config.eval_every == 0:
                    row["cer"] = evaluate(bare, eval_store)
                    save()
                log.write(json.dumps(row) + "\n")
                log.flush()
                accelerator.print(row)
            if step >= config.steps:
                break
        epoch += 1
    rate = evaluate(bare, eval_store)
    save()
    log.write(json.dumps({"step": step, "cer": rate}) + "\n")
    log.close()
    return rate
