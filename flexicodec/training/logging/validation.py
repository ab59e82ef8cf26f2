"""Validation loss and audio samples on held-out clips while a codec trains."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor

from flexicodec.models.codec import Codec
from flexicodec.models.flexicodec.model import FlexiCodec
from flexicodec.training.logging.media import log_samples
from flexicodec.training.losses import MultiScaleMelLoss

MERGED_RATE = 6.25  # Hz; in addition to the unmerged rate
NUM_SAMPLES = 4  # clips to keep as audio

Clips = list[Float[Tensor, " samples"]]


def validation_rates(codec: Codec) -> dict[str, dict[str, Any]]:
    """Return the rates to validate at, as keyword arguments of `encode` by the names of their log keys."""
    full = f"{codec.base_frame_rate:.4g}hz"
    if not isinstance(codec, FlexiCodec) or codec.config.merging is None:
        return {full: {}}
    rates: dict[str, dict[str, Any]] = {full: {"threshold": 1.0}}
    if codec.max_duration is None or codec.base_frame_rate / codec.max_duration <= MERGED_RATE:
        rates[f"{MERGED_RATE:g}hz"] = {"frame_rate": MERGED_RATE}
    return rates


@torch.no_grad()
def validate(accelerator: Accelerator, codec: Codec, clips: Clips) -> dict[str, float]:
    """Compute the mel loss at fixed rates with all codebooks; the clips are shared among processes.

    Clips are at `codec.output_sample_rate`, the encoders get them resampled.

    Returns:
        `validation/mel_12.5hz` and the like, and their mean, `validation/mel`.
    """
    mel_loss = MultiScaleMelLoss(codec.output_sample_rate)
    mine = clips[accelerator.process_index :: accelerator.num_processes]
    scores = {}
    for name, options in validation_rates(codec).items():
        total = torch.zeros((), device=accelerator.device)
        for clip in mine:
            audio = clip[None].to(accelerator.device)
            tokens = codec.encode(audio, sample_rate=codec.output_sample_rate, **options)
            decoded = codec.decode(tokens)[:, : audio.shape[1]]  # resampled lengths are rounded up, both ways
            total += mel_loss(decoded, audio).sum()
        scores[f"validation/mel_{name}"] = float(accelerator.reduce(total, "sum")) / len(clips)
    return scores | {"validation/mel": float(np.mean(list(scores.values())))}


@torch.no_grad()
def save_samples(accelerator: Accelerator, codec: Codec, clips: Clips, step: int, output: str | Path) -> None:
    """Save a few clips decoded at the last of the validation rates, with plots of their tokens."""
    options = list(validation_rates(codec).values())[-1]
    clips = clips[:NUM_SAMPLES]
    rate = codec.output_sample_rate
    tokens = [codec.encode(clip[None].to(accelerator.device), sample_rate=rate, **options) for clip in clips]
    decoded = [codec.decode(one)[0, : len(clip)].cpu() for one, clip in zip(tokens, clips, strict=True)]
    log_samples(accelerator, step, rate, clips, decoded, tokens, Path(output))
