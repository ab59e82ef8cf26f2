"""What moves the weights and keeps them steady: optimisers, schedules, running means."""

import math

import torch
from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from flexicodec.training.config import OptimConfig


def make_optimizer(module: nn.Module, config: OptimConfig, learning_rate: float | None = None) -> Optimizer:
    """Make the config's optimiser over everything that is trained in a module."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    rate = learning_rate or config.learning_rate
    if config.optimizer == "adam":
        return Adam(trained, lr=rate, betas=config.betas)
    return AdamW(trained, lr=rate, betas=config.betas, weight_decay=config.weight_decay)


def learning_rate_factor(config: OptimConfig, step: int, steps: int) -> float:
    """Share of the peak learning rate at a step: linear warm-up, whose first step is not lost, then the schedule.

    A function of the step, so that nothing has to be kept of it when a run is resumed.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    after = step - config.warmup_steps
    if config.schedule == "exponential":
        return config.decay ** (after // config.epoch_steps)
    progress = min(1.0, after / max(1, steps - config.warmup_steps))
    return config.final_share + (1 - config.final_share) * 0.5 * (1 + math.cos(math.pi * progress))


def make_average(module: nn.Module, decay: float | None) -> AveragedModel | None:
    """Make the running mean of a module's weights, or None."""
    if decay is None:
        return None
    return AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(decay))


@torch.no_grad()
def update_average(average: AveragedModel, module: nn.Module) -> None:
    """Take a module's weights into their running mean; buffers (a VQ's codebook, say) are means already, and copied."""
    average.update_parameters(module)
    for mean, value in zip(average.module.buffers(), module.buffers(), strict=True):
        mean.copy_(value)
