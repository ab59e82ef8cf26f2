"""Optimisers, learning rate schedules, the running mean of weights, and the restart of dead codebook rows."""

import math

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from flexicodec.quantize import Quantized, ResidualVectorQuantizer
from flexicodec.training.config import OptimConfig

PURPOSE = 2  # separates the restarter's random numbers from others of the same seed and step
KEPT_TOKENS = 4096  # newest features kept, onto which dead rows are moved
MIN_TOKENS_PER_ROW = 4  # a stage must code so many before a row counts as dead; 1 in 50 rows is unused by chance then


def make_optimizer(module: nn.Module, config: OptimConfig, learning_rate: float | None = None) -> Optimizer:
    """Make the config's optimiser for all parameters of a module that are trained."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    rate = learning_rate or config.learning_rate
    # One pass over the weights; on a CPU the default takes three times as long.
    if config.optimizer == "adam":
        return Adam(trained, lr=rate, betas=config.betas, fused=True)
    return AdamW(trained, lr=rate, betas=config.betas, weight_decay=config.weight_decay, fused=True)


def learning_rate_factor(config: OptimConfig, step: int, steps: int) -> float:
    """Learning rate at a step relative to the peak: linear warm-up, then the schedule.

    A function of the step alone, so a resumed run needs no schedule state.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    after = step - config.warmup_steps
    if config.schedule == "exponential":
        return config.decay ** (after // config.epoch_steps)
    progress = min(1.0, after / max(1, steps - config.warmup_steps))
    return config.final_share + (1 - config.final_share) * 0.5 * (1 + math.cos(math.pi * progress))


class OptimizedModule:
    """A module, its optimiser and its learning rate."""

    def __init__(self, module: nn.Module, config: OptimConfig, steps: int, learning_rate: float | None = None):
        self.bare = module
        self.module = module  # the one to call: Accelerate's wrapper of it, once it is prepared
        self.config = config
        self.steps = steps
        self.peak = learning_rate or config.learning_rate
        self.optimizer = make_optimizer(module, config, self.peak)

    @property
    def learning_rate(self) -> float:
        """The current learning rate."""
        return self.optimizer.param_groups[0]["lr"]

    @property
    def share_of_peak(self) -> float:
        """The current learning rate over its peak."""
        return self.learning_rate / self.peak

    def set_learning_rate(self, step: int) -> None:
        """Set the learning rate of a step."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.peak * learning_rate_factor(self.config, step, self.steps)

    def optimizer_step(self, accelerator: Accelerator, finite: bool = True) -> tuple[bool, float]:
        """Clip the gradients and take the step, unless losses or gradients of any process are not finite.

        Returns:
            Whether the step was taken, and the gradient norm before clipping.
        """
        max_norm = math.inf if self.config.grad_clip is None else self.config.grad_clip
        norm = float(accelerator.clip_grad_norm_(self.bare.parameters(), max_norm))
        finite = finite and math.isfinite(norm)
        if accelerator.num_processes > 1:
            flag = torch.tensor(float(finite), device=accelerator.device)
            finite = float(accelerator.reduce(flag, "sum")) == accelerator.num_processes
        if finite:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return finite, norm


def make_average(module: nn.Module, decay: float | None) -> AveragedModel | None:
    """Make the running mean of a module's weights, or None."""
    if decay is None:
        return None
    return AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(decay))


@torch.no_grad()
def update_average(average: AveragedModel, module: nn.Module) -> None:
    """Update the running mean; buffers (the codebook of a VQ, say) are running means already and are copied."""
    average.update_parameters(module)
    for mean, value in zip(average.module.buffers(), module.buffers(), strict=True):
        mean.copy_(value)


def learnable_tokens(
    latents: Float[Tensor, "batch dim tokens"], lengths: Int[Tensor, " batch"]
) -> Bool[Tensor, "batch tokens"]:
    """Mark the tokens that codebooks learn from: no padding, and none of a step that will be skipped (not finite)."""
    valid = torch.arange(latents.shape[2], device=latents.device) < lengths[:, None]
    return valid & latents.detach().isfinite().all(dim=1)


class DeadCodeRestarter:
    """Count the codes that a residual quantiser uses, and move codebook rows that nobody used onto recent features.

    A row that is never the nearest gets no gradient, and most rows of a deep residual quantiser die that way in short
    runs. SoundStream (arXiv 2107.03312) restarts such rows from the batch. The result depends on the items alone, not
    on how many processes they are spread over.
    """

    def __init__(self, quantizer: ResidualVectorQuantizer, seed: int):
        self.quantizer = quantizer
        self.seed = seed
        self.items: Int[Tensor, " batch"] | None = None  # numbers of the items, to be set before each forward pass
        device = next(quantizer.parameters()).device
        self.use = torch.zeros(quantizer.num_codebooks, quantizer.codebook_size, device=device)
        self.features = torch.zeros(0, quantizer.dim, device=device)
        self.origin = torch.zeros(0, dtype=torch.int64, device=device)  # the item of each feature
        self._handle = quantizer.register_forward_hook(self._record, with_kwargs=True)

    def close(self) -> None:
        """Remove the hook."""
        self._handle.remove()

    def _record(
        self, quantizer: nn.Module, inputs: tuple[Tensor, ...], options: dict[str, Tensor], output: Quantized
    ) -> None:
        if not torch.is_grad_enabled():  # validation, or a pass for the discriminators only
            return
        latents, lengths, counts = inputs
        assert self.items is not None
        valid = learnable_tokens(latents, lengths)
        # Count the codes of each stage, for the items that use it.
        for stage, codes in enumerate(output.codes.unbind(dim=1)):
            used = valid & (counts > stage)[:, None]
            self.use[stage] += torch.bincount(codes[used], minlength=self.use.shape[1])
        # Keep the newest features.
        origin = self.items.to(valid.device)[:, None].expand_as(valid)[valid]
        features = latents.detach().float().transpose(1, 2)[valid]
        self.origin, self.features = _newest(torch.cat([self.origin, origin]), torch.cat([self.features, features]))

    @torch.no_grad()
    def restart(self, step: int, accelerator: Accelerator) -> list[Int[Tensor, " rows"]]:
        """Move the rows that no process has used since their stage was last checked; all processes call this together.

        Stages that have coded too few tokens since are left alone.

        Returns:
            For every stage, the rows that were moved.
        """
        moved: list[Tensor] = []
        use, _, features = self._gather(accelerator)
        seed = np.random.default_rng([self.seed, step, PURPOSE]).integers(2**62)
        generator = torch.Generator().manual_seed(int(seed))
        for stage, quantizer in enumerate(self.quantizer.stages):
            dead = (use[stage] == 0).nonzero()[:, 0]
            if len(features) and use[stage].sum() >= MIN_TOKENS_PER_ROW * self.quantizer.codebook_size:
                self.use[stage] = 0.0
                encoded = nn.functional.linear(features, quantizer.in_proj.weight, quantizer.in_proj.bias)
                # As many features as dead rows, both in random order; with few features some rows stay dead.
                order = torch.randperm(len(encoded), generator=generator).to(encoded.device)[: len(dead)]
                dead = dead[torch.randperm(len(dead), generator=generator).to(dead.device)[: len(order)]]
                quantizer.codebook.weight[dead] = encoded[order]
            else:
                dead = dead[:0]
            moved.append(dead)
            # The next stage codes what this one leaves over.
            if len(features):
                active = torch.ones(len(features), 1, dtype=torch.bool, device=features.device)
                features = features - quantizer.quantize_tokens(features, active).latents
        return moved

    def _gather(
        self, accelerator: Accelerator
    ) -> tuple[Float[Tensor, "stages rows"], Int[Tensor, " tokens"], Float[Tensor, "tokens dim"]]:
        """Collect use, origins and features of all processes, in the order of the items."""
        if accelerator.num_processes == 1:
            return self.use, self.origin, self.features
        use = accelerator.reduce(self.use, reduction="sum")
        origin = accelerator.gather(accelerator.pad_across_processes(self.origin, pad_index=-1))
        features = accelerator.gather(accelerator.pad_across_processes(self.features))
        return use, *_newest(origin[origin >= 0], features[origin >= 0])

    def state_dict(self, accelerator: Accelerator) -> dict[str, Tensor]:
        """Return the state of all processes together; all of them call this together."""
        use, origin, features = self._gather(accelerator)
        return {"use": use, "origin": origin, "features": features}

    def load_state_dict(self, state: dict[str, Tensor], accelerator: Accelerator) -> None:
        """Resume in any number of processes: the main one holds the state of all."""
        if accelerator.is_main_process:
            device = self.use.device
            self.use = state["use"].to(device)
            self.features = state["features"].to(device)
            self.origin = state["origin"].to(device)


def _newest(
    origin: Int[Tensor, " tokens"], features: Float[Tensor, "tokens dim"]
) -> tuple[Int[Tensor, " kept"], Float[Tensor, "kept dim"]]:
    """Sort features by their items and keep the last `KEPT_TOKENS`."""
    order = origin.argsort(stable=True)[-KEPT_TOKENS:]
    return origin[order], features[order]


@torch.no_grad()
def reset_adam_rows(optimizer: Optimizer, weight: Tensor, rows: Int[Tensor, " rows"]) -> None:
    """Reset Adam's running means for rows of a weight that were moved."""
    state = optimizer.state.get(weight)
    if state and len(rows):
        state["exp_avg"][rows] = 0.0
        state["exp_avg_sq"][rows] = state["exp_avg_sq"].mean()
