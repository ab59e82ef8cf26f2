"""Count, log, save and resume: everything around the step."""

import json
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from flexicodec.blocks.conv import apply_weight_norm, remove_weight_norm
from flexicodec.config import to_dict
from flexicodec.files import replacing
from flexicodec.models.flexicodec.model import FlexiCodec
from flexicodec.models.flexicodec.semantic import SanmEncoder
from flexicodec.quantize import ResidualVectorQuantizer
from flexicodec.training.asr import first_blocks
from flexicodec.training.config import CodecTrainingConfig
from flexicodec.training.data import AudioStore, RandomCrops, read_manifest
from flexicodec.training.init import init_encoder, init_quantizer
from flexicodec.training.losses import MultiScaleMelLoss
from flexicodec.training.run import learning_rate_factor, single_process
from flexicodec.training.step import draw_choices, generator_losses, weighted_sum

CHECKPOINT = "checkpoint.pt"


def build_model(config: CodecTrainingConfig) -> FlexiCodec:
    """Make the codec around its frozen encoder, with the convolutions weight-normalised for training."""
    torch.manual_seed(config.seed)
    model = FlexiCodec(config.model)
    assert isinstance(model.semantic_encoder, SanmEncoder)
    model.semantic_encoder.load_state_dict(first_blocks(load_file(config.asr_weights), model.semantic_encoder.config))
    init_encoder(model.encoder)
    if isinstance(model.acoustic_quantizer, ResidualVectorQuantizer):
        init_quantizer(model.acoustic_quantizer)
    apply_weight_norm(model.encoder)
    apply_weight_norm(model.decoder)
    model.train()
    return model


def train(config: CodecTrainingConfig) -> Path:
    """Train until `config.steps`, going on from the checkpoint in `config.output` where there is one.

    Returns:
        The folder of the finished model, which `flexicodec.load` opens.
    """
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    accelerator = single_process(config.mixed_precision)
    model = build_model(config)
    trained = [p for p in model.parameters() if p.requires_grad]
    optim = config.optim
    optimizer = torch.optim.AdamW(trained, lr=optim.learning_rate, betas=optim.betas, weight_decay=optim.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, optim.warmup_steps, config.steps)
    )
    start = _resume(output / CHECKPOINT, model, optimizer, schedule)
    model, optimizer = accelerator.prepare(model, optimizer)
    bare: FlexiCodec = accelerator.unwrap_model(model)

    store = AudioStore(read_manifest(config.data.manifest), config.data.audio_cache)
    crops = RandomCrops(store, config.data.batch_size, config.data.crop_seconds, config.seed)
    mel_loss = MultiScaleMelLoss(bare.sample_rate)
    seen: dict[str, list[float]] = defaultdict(list)
    started, seconds = time.monotonic(), 0.0
    with (output / "log.jsonl").open("a") as log:
        for step in range(start, config.steps):
            batch = crops.batch(step).to(accelerator.device)
            choices = draw_choices(config.rates, bare.num_codebooks, len(batch.lengths), config.seed, step)
            with accelerator.autocast():
                losses, _, durations = generator_losses(bare, batch, choices, mel_loss)
            total = weighted_sum(losses, config.losses)
            accelerator.backward(total)
            norm = accelerator.clip_grad_norm_(trained, optim.grad_clip)
            if torch.isfinite(norm):
                optimizer.step()
            else:
                seen["skipped"].append(1.0)
            schedule.step()
            optimizer.zero_grad()

            seconds += float(batch.lengths.sum()) / bare.sample_rate
            for name, value in losses.items():
                seen[name].append(value.item())
            seen["grad_norm"].append(float(norm))
            seen["frames_per_token"].append(float(durations.sum()) / float((durations > 0).sum()))
            if (step + 1) % config.log_every == 0:
                elapsed = time.monotonic() - started
                row = {name: round(float(np.mean(values)), 4) for name, values in seen.items()}
                row |= {"step": step + 1, "minutes": round(elapsed / 60, 2), "speed": round(seconds / elapsed, 2)}
                log.write(json.dumps(row) + "\n")
                log.flush()
                accelerator.print(row)
                seen.clear()
            if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
                _save(output / CHECKPOINT, bare, optimizer, schedule, step + 1, config)
    return export(config)


def export(config: CodecTrainingConfig) -> Path:
    """Write the model of the latest checkpoint, weight norm folded, in half precision."""
    model = build_model(config)
    held = torch.load(Path(config.output) / CHECKPOINT, weights_only=True)
    model.load_state_dict(held["model"])
    remove_weight_norm(model.encoder)
    remove_weight_norm(model.decoder)
    return model.save_pretrained(Path(config.output) / "model", dtype=torch.float16)


def _save(
    path: Path, model: FlexiCodec, optimizer: Optimizer, schedule: LRScheduler, step: int, config: CodecTrainingConfig
) -> None:
    held = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "step": step,
        "config": json.dumps(to_dict(config)),
    }
    with replacing(path) as part:
        torch.save(held, part)


def _resume(path: Path, model: FlexiCodec, optimizer: Optimizer, schedule: LRScheduler) -> int:
    if not path.exists():
        return 0
    held = torch.load(path, weights_only=True)
    model.load_state_dict(held["model"])
    optimizer.load_state_dict(held["optimizer"])
    schedule.load_state_dict(held["schedule"])
    return int(held["step"])
