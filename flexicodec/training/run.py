"""What every training run shares: its accelerator and its learning rate."""

import math

import torch
from accelerate import Accelerator


def learning_rate_factor(step: int, warmup: int, steps: int) -> float:
    """Linear warm-up, then a cosine from one to a hundredth."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))


def single_process(mixed_precision: str) -> Accelerator:
    """Make the accelerator of a run; steps here call a model's rooms one by one, past what would join gradients.

    Raises:
        ValueError: There are several processes.
    """
    accelerator = Accelerator(mixed_precision=mixed_precision, cpu=not torch.cuda.is_available())
    if accelerator.num_processes > 1:
        raise ValueError(f"started as {accelerator.num_processes} processes; training runs in one process so far")
    return accelerator
