"""What moves the weights and keeps them steady: optimisers, schedules, running means, reseeded codebooks."""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from flexicodec.quantize import Quantized, ResidualVectorQuantizer
from flexicodec.training.config import OptimConfig

RESEED_TOKENS = 4096  # features kept for rows that need a new place
RESEED_EVIDENCE = (
    4  # tokens a stage must have coded, per row, before a row counts as unused: by chance 1 in 50 would be
)


def make_optimizer(module: nn.Module, config: OptimConfig, learning_rate: float | None = None) -> AdamW:
    """Make AdamW over everything that is trained in a module."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return AdamW(
        trained, lr=learning_rate or config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
    )


def learning_rate_factor(config: OptimConfig, step: int, steps: int) -> float:
    """Share of the peak learning rate at a step: linear warm-up, whose first step is not lost, then the schedule.

    A function of the step, so that nothing has to be kept of it when a run is resumed.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    after = step - config.warmup_steps
    if config.schedule == "exponential":
        return config.decay**after
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


class Reseeder:
    """Watches a residual quantiser at work and puts rows that nobody used onto features at hand.

    A row that is never the nearest gets no gradient and stays where it is; in short runs most of a deep residual
    quantiser dies that way. (SoundStream, arXiv 2107.03312, restarts such rows from the batch likewise.)

    Args:
        quantizer: What to watch; detach with `close`.
        seed: Of the choice of features.
    """

    def __init__(self, quantizer: ResidualVectorQuantizer, seed: int):
        self.quantizer, self.seed = quantizer, seed
        device = next(quantizer.parameters()).device
        self.use = torch.zeros(quantizer.num_codebooks, quantizer.codebook_size, device=device)
        self.features = torch.zeros(0, quantizer.dim, device=device)
        self._handle = quantizer.register_forward_hook(self._watch, with_kwargs=True)

    def close(self) -> None:
        """Stop watching."""
        self._handle.remove()

    def _watch(
        self, quantizer: nn.Module, inputs: tuple[Tensor, ...], options: dict[str, Tensor], output: Quantized
    ) -> None:
        if not torch.is_grad_enabled():  # validation, or a pass that only the discriminators learn from
            return
        latents, lengths, counts = inputs
        valid = torch.arange(latents.shape[2], device=latents.device) < lengths[:, None]
        for stage, codes in enumerate(output.codes.unbind(dim=1)):
            used = valid & (counts > stage)[:, None]
            self.use[stage] += torch.bincount(codes[used], minlength=self.use.shape[1])
        features = latents.detach().float().transpose(1, 2)[valid]
        self.features = torch.cat([self.features, features])[-RESEED_TOKENS:]

    @torch.no_grad()
    def reseed(self, step: int, gather: Callable[[Tensor], Tensor], reduce: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """Move the rows that no process used since their stage was last looked at; stages with little to go by wait.

        Args:
            step: Keys the choice.
            gather: Concatenates a tensor of equal shape over all processes.
            reduce: Sums a tensor over all processes.

        Returns:
            For every stage, which rows were moved.
        """
        moved: list[Tensor] = []
        use, features = reduce(self.use), self._together(gather)
        random = torch.Generator().manual_seed(int(np.random.default_rng([self.seed, step, 2]).integers(2**62)))
        for stage, quantizer in enumerate(self.quantizer.stages):
            dead = (use[stage] == 0).nonzero()[:, 0]
            if len(features) and use[stage].sum() >= RESEED_EVIDENCE * self.quantizer.codebook_size:
                self.use[stage] = 0.0
                encoded = nn.functional.linear(features, quantizer.in_proj.weight, quantizer.in_proj.bias)
                order = torch.randperm(len(encoded), generator=random).to(encoded.device)[: len(dead)]
                dead = dead[torch.randperm(len(dead), generator=random).to(dead.device)[: len(order)]]
                quantizer.codebook.weight[dead] = encoded[order]
            else:
                dead = dead[:0]
            moved.append(dead)
            if len(features):
                active = torch.ones(len(features), 1, dtype=torch.bool, device=features.device)
                features = features - quantizer.quantize_tokens(features, active).latents
        return moved

    def _together(self, gather: Callable[[Tensor], Tensor]) -> Float[Tensor, "tokens dim"]:
        """All processes' features; they hold different numbers of them, so the newest of each as far as all have."""
        count = int(gather(torch.tensor([len(self.features)], device=self.features.device)).min())
        return gather(self.features[len(self.features) - count :].contiguous()) if count else self.features[:0]

    def state_dict(self) -> dict[str, Tensor]:
        """What resuming needs."""
        return {"use": self.use, "features": self.features}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take it up again."""
        device = self.use.device
        self.use, self.features = state["use"].to(device), state["features"].to(device)


@torch.no_grad()
def forget_rows(optimizer: Optimizer, weight: Tensor, rows: Int[Tensor, " rows"]) -> None:
    """Reset an Adam's memory of some rows of a weight, which now stand elsewhere."""
    state = optimizer.state.get(weight)
    if state and len(rows):
        state["exp_avg"][rows] = 0.0
        state["exp_avg_sq"][rows] = state["exp_avg_sq"].mean()
