"""What is measured on held-out clips while a codec trains, and kept to listen to."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor

from flexicodec.models.codec import Codec
from flexicodec.models.flexicodec.model import FlexiCodec
from flexicodec.training.losses import MultiScaleMelLoss
from flexicodec.training.monitor import log_samples

MERGED_RATE = 6.25  # Hz; besides the unmerged rate
SAMPLES = 4  # clips to listen to

Clips = list[Float[Tensor, " samples"]]


def validation_rates(codec: Codec) -> dict[str, dict[str, Any]]:
    """Say at which rates a codec is validated, as arguments of `encode`."""
    full = f"{codec.base_frame_rate:.4g}hz"
    if not isinstance(codec, FlexiCodec) or codec.config.merging is None:
        return {full: {}}
    rates: dict[str, dict[str, Any]] = {full: {"threshold": 1.0}}
    if codec.max_duration is None or codec.base_frame_rate / codec.max_duration <= MERGED_RATE:
        rates[f"{MERGED_RATE:g}hz"] = {"frame_rate": MERGED_RATE}
    return rates


@torch.no_grad()
def validate(accelerator: Accelerator, codec: Codec, clips: Clips) -> dict[str, float]:
    """Measure the mel loss at fixed rates with all codebooks, the clips shared among processes.

    Returns:
        `validation/mel_12.5hz` and the like, and their mean, `validation/mel`.
    """
    mel_loss = MultiScaleMelLoss(codec.sample_rate)
    mine = clips[accelerator.process_index :: accelerator.num_processes]
    found = {}
    for name, choice in validation_rates(codec).items():
        total = torch.zeros((), device=accelerator.device)
        for clip in mine:
            audio = clip[None].to(accelerator.device)
            total += mel_loss(codec.decode(codec.encode(audio, **choice)), audio).sum()
        found[f"validation/mel_{name}"] = float(accelerator.reduce(total, "sum")) / len(clips)
    return found | {"validation/mel": float(np.mean(list(found.values())))}


@torch.no_grad()
def sample(accelerator: Accelerator, codec: Codec, clips: Clips, step: int, output: str | Path) -> None:
    """Keep a few clips, decoded at the last of the validation rates, with pictures of their tokens."""
    choice = list(validation_rates(codec).values())[-1]
    clips = clips[:SAMPLES]
    tokens = [codec.encode(clip[None].to(accelerator.device), **choice) for clip in clips]
    decoded = [codec.decode(one)[0].cpu() for one in tokens]
    log_samples(accelerator, step, codec.sample_rate, clips, decoded, tokens, Path(output))
