"""Codebook rows that nobody uses, and how they come back to life.

A row that is never the nearest gets no gradient and stays where it is; in short runs most of a deep residual quantiser
dies that way. SoundStream (arXiv 2107.03312) restarts such rows from the batch, and so does this.
"""

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim import Optimizer

from flexicodec.quantize import Quantized, ResidualVectorQuantizer

TOKENS = 4096  # newest features kept, for rows that need a new place
EVIDENCE = 4  # tokens a stage must have coded, per row, before a row counts as unused; by chance 1 in 50 still would be


class Reseeder:
    """Watches a residual quantiser at work and puts rows that nobody used onto features at hand.

    What it does depends on the items alone, and not on how many processes they are spread over.

    Args:
        quantizer: What to watch; detach with `close`.
        seed: Of the choice of features.

    Attributes:
        items: Numbers of the items that the quantiser sees next; to be set before each forward pass.
    """

    def __init__(self, quantizer: ResidualVectorQuantizer, seed: int):
        self.quantizer, self.seed = quantizer, seed
        self.items: Int[Tensor, " batch"] | None = None
        device = next(quantizer.parameters()).device
        self.use = torch.zeros(quantizer.num_codebooks, quantizer.codebook_size, device=device)
        self.features = torch.zeros(0, quantizer.dim, device=device)
        self.origin = torch.zeros(0, dtype=torch.int64, device=device)  # the item that each feature is of
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
        assert self.items is not None
        valid = torch.arange(latents.shape[2], device=latents.device) < lengths[:, None]
        valid = valid & latents.detach().isfinite().all(dim=1)  # a step that is to be skipped leaves no trace
        for stage, codes in enumerate(output.codes.unbind(dim=1)):
            used = valid & (counts > stage)[:, None]
            self.use[stage] += torch.bincount(codes[used], minlength=self.use.shape[1])
        origin = self.items.to(valid.device)[:, None].expand_as(valid)[valid]
        features = latents.detach().float().transpose(1, 2)[valid]
        self.origin, self.features = _newest(torch.cat([self.origin, origin]), torch.cat([self.features, features]))

    @torch.no_grad()
    def reseed(self, step: int, accelerator: Accelerator) -> list[Int[Tensor, " rows"]]:
        """Move the rows that no process used since their stage was last looked at; stages with little to go by wait.

        All processes have to call this together.

        Args:
            step: Keys the choice.
            accelerator: Of the run.

        Returns:
            For every stage, which rows were moved.
        """
        moved: list[Tensor] = []
        use, _, features = self._together(accelerator)
        random = torch.Generator().manual_seed(int(np.random.default_rng([self.seed, step, 2]).integers(2**62)))
        for stage, quantizer in enumerate(self.quantizer.stages):
            dead = (use[stage] == 0).nonzero()[:, 0]
            if len(features) and use[stage].sum() >= EVIDENCE * self.quantizer.codebook_size:
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

    def _together(
        self, accelerator: Accelerator
    ) -> tuple[Float[Tensor, "stages rows"], Int[Tensor, " tokens"], Float[Tensor, "tokens dim"]]:
        """What all processes have seen, in the order of the items."""
        if accelerator.num_processes == 1:
            return self.use, self.origin, self.features
        use = accelerator.reduce(self.use, reduction="sum")
        origin = accelerator.gather(accelerator.pad_across_processes(self.origin, pad_index=-1))
        features = accelerator.gather(accelerator.pad_across_processes(self.features))
        return use, *_newest(origin[origin >= 0], features[origin >= 0])

    def state_dict(self, accelerator: Accelerator) -> dict[str, Tensor]:
        """What resuming needs, of all processes together; all have to call this."""
        use, origin, features = self._together(accelerator)
        return {"use": use, "origin": origin, "features": features}

    def load_state_dict(self, state: dict[str, Tensor], accelerator: Accelerator) -> None:
        """Take it up again, in any number of processes: the first one remembers for all."""
        if accelerator.is_main_process:
            device = self.use.device
            self.use, self.features = state["use"].to(device), state["features"].to(device)
            self.origin = state["origin"].to(device)


def _newest(
    origin: Int[Tensor, " tokens"], features: Float[Tensor, "tokens dim"]
) -> tuple[Int[Tensor, " kept"], Float[Tensor, "kept dim"]]:
    """Sort features by their items and keep the last."""
    order = origin.argsort(stable=True)[-TOKENS:]
    return origin[order], features[order]


@torch.no_grad()
def forget_rows(optimizer: Optimizer, weight: Tensor, rows: Int[Tensor, " rows"]) -> None:
    """Reset an Adam's memory of some rows of a weight, which now stand elsewhere."""
    state = optimizer.state.get(weight)
    if state and len(rows):
        state["exp_avg"][rows] = 0.0
        state["exp_avg_sq"][rows] = state["exp_avg_sq"].mean()
