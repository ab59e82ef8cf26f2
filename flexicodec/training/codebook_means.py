"""Learning of codebooks whose rows are running means of what they code (`EuclideanRVQ`).

For the first steps items are decoded from features as they are. K-means on recent features then starts all stages, and
from there on each row follows the mean of the residuals that it codes. Rows that are hardly used move next to those
used most, and take half of their tokens. (A residual of the batch would be too far out: in many dimensions the mean of
several residuals is shorter than any one, and so nearer to all others.) The result depends on the items alone, not on
how many processes they are spread over.
"""

from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flexicodec.quantize import EuclideanRVQ, Quantized
from flexicodec.quantize.rvq import nearest_by_distance
from flexicodec.training.config import CodebookConfig
from flexicodec.training.optim import learnable_tokens

PURPOSE = 3  # separates these random numbers from others of the same seed and step
SPLIT = 0.01  # distance of the halves of a row to where it was, over the deviation of what its stage codes
LEAST_COUNT = 0.5  # tokens a row of k-means counts for, if it coded none


@dataclass
class _Coded:
    """Tokens that were quantized: features, codes, the stages in use, and the number of each one's item."""

    features: Float[Tensor, "tokens dim"]
    codes: Int[Tensor, "tokens stages"]
    active: Bool[Tensor, "tokens stages"]
    origin: Int[Tensor, " tokens"]


@torch.no_grad()
def fit_codebooks(
    quantizer: EuclideanRVQ,
    tokens: Float[Tensor, "tokens dim"],
    rounds: int,
    generator: torch.Generator,
    from_scratch: bool = False,
) -> Float[Tensor, "stages codes"]:
    """Fit all stages by k-means, each on what the stages before leave over.

    Args:
        quantizer: Whose rows are replaced.
        tokens: Features to be coded.
        rounds: Of k-means, for each stage.
        generator: Of random numbers.
        from_scratch: Start from random tokens instead of the rows there are.

    Returns:
        Tokens that each row codes, at least `LEAST_COUNT`.
    """
    residual = tokens
    use = []
    for stage, rows in enumerate(quantizer.codebooks):
        if from_scratch:
            chosen = torch.randperm(len(residual), generator=generator).to(residual.device)
            rows.copy_(residual[chosen.repeat(-(-len(rows) // len(chosen)))[: len(rows)]])  # few tokens: some twice
        for _ in range(rounds):
            codes = nearest_by_distance(residual, rows)[1][:, 0]
            counts = torch.bincount(codes, minlength=len(rows))
            sums = torch.zeros_like(rows).index_add_(0, codes, residual)
            used = counts > 0
            rows[used] = sums[used] / counts[used, None]
            _split_busiest(rows, counts.float(), (~used).nonzero()[: len(rows) // 2, 0], residual, generator)
        codes = nearest_by_distance(residual, rows)[1][:, 0]
        residual = residual - quantizer.dequantize_stage(stage, codes)
        use.append(torch.bincount(codes, minlength=len(rows)).float().clamp(min=LEAST_COUNT))
    return torch.stack(use)


def _split_busiest(
    rows: Float[Tensor, "codes dim"],
    use: Float[Tensor, " codes"],
    dead: Int[Tensor, " dead"],
    coded: Float[Tensor, "tokens dim"],
    generator: torch.Generator,
) -> None:
    """Move each dead row next to one of those used most, and halve the use between the two, in place."""
    busiest = use.topk(len(dead)).indices
    noise = torch.randn(len(dead), rows.shape[1], generator=generator).to(rows.device)
    shift = SPLIT * coded.std(unbiased=False) * noise
    split = rows[busiest]
    rows[dead] = split + shift
    rows[busiest] = split - shift
    use[busiest] /= 2
    use[dead] = use[busiest]


class CodebookMeans:
    """Watch a quantizer in training, start its codebooks, and keep them running means."""

    def __init__(self, quantizer: EuclideanRVQ, config: CodebookConfig, seed: int):
        self.quantizer = quantizer
        self.config = config
        self.seed = seed
        self.items: Int[Tensor, " batch"] | None = None  # numbers of the items, to be set before each forward pass
        device = quantizer.codebooks.device
        # Use of each row, over the mean use of its stage's rows
        self.use = torch.ones(quantizer.num_codebooks, quantizer.codebook_size, device=device)
        self.kept = torch.zeros(0, quantizer.dim, device=device)  # newest features, for k-means
        self._coded: list[_Coded] = []
        quantizer.register_forward_hook(self._record, with_kwargs=True)

    def _record(
        self, quantizer: nn.Module, inputs: tuple[Tensor, ...], options: dict[str, Tensor], output: Quantized
    ) -> None:
        if not torch.is_grad_enabled():  # validation, or a pass for the discriminators only
            return
        latents, lengths, counts = inputs
        assert self.items is not None
        valid = learnable_tokens(latents, lengths)
        stages = torch.arange(self.quantizer.num_codebooks, device=latents.device)
        active = (stages < counts[:, None])[:, None].expand(*valid.shape, -1)
        self._coded.append(
            _Coded(
                latents.detach().float().mT[valid],
                output.codes.mT[valid],
                active[valid],
                self.items.to(valid.device)[:, None].expand_as(valid)[valid],
            )
        )

    @torch.no_grad()
    def update(self, step: int, accelerator: Accelerator, finite: bool = True, pace: float = 1.0) -> int:
        """Learn from the forward passes of a step, unless it was skipped; all processes call this together.

        Args:
            step: Number of the step.
            accelerator: Of the run.
            finite: Whether the step was taken.
            pace: Learning rate over its peak. As features settle, rows become means over more of them.

        Returns:
            Rows that were moved.
        """
        coded = self._gather(accelerator)
        self._coded = []
        if not finite:
            return 0
        config = self.config
        if step + 1 > config.start_step:
            return self._follow(coded, step, 1 - pace * (1 - config.decay))
        self.kept = torch.cat([self.kept, coded.features])[-config.kmeans_tokens :]
        if step + 1 == config.start_step:
            self._start(step)
        return 0

    def _gather(self, accelerator: Accelerator) -> _Coded:
        """Collect the tokens of all passes and processes, in the order of their items."""
        parts = [
            torch.cat([getattr(coded, name) for coded in self._coded])
            for name in ("features", "codes", "active", "origin")
        ]
        if accelerator.num_processes > 1:
            origin = accelerator.gather(accelerator.pad_across_processes(parts[3], pad_index=-1))
            parts = [accelerator.gather(accelerator.pad_across_processes(part))[origin >= 0] for part in parts[:3]]
            parts.append(origin[origin >= 0])
        order = parts[3].argsort(stable=True)
        features, codes, active, origin = (part[order] for part in parts)
        return _Coded(features, codes, active.bool(), origin)

    def _start(self, step: int) -> None:
        """Start all stages by k-means on the kept features."""
        if not len(self.kept):
            raise ValueError(f"no tokens were seen in {self.config.start_step} steps, so no codebook can be started")
        generator = self._generator(step)
        use = fit_codebooks(self.quantizer, self.kept, self.config.kmeans_rounds, generator, from_scratch=True)
        self.use = use / use.mean(dim=1, keepdim=True)
        self.kept = self.kept[:0]

    def _follow(self, coded: _Coded, step: int, decay: float) -> int:
        """Move the rows towards the mean of what they coded, and split the busiest into rows hardly used."""
        config = self.config
        quantizer = self.quantizer
        generator = self._generator(step)
        residual = coded.features
        moved = 0
        for stage in range(quantizer.num_codebooks):
            active = coded.active[:, stage]
            codes = coded.codes[active, stage]
            targets = residual[active]
            # Before the rows move: the next stage coded what these left over.
            residual = residual - quantizer.dequantize_stage(stage, coded.codes[:, stage])
            if not len(codes):
                continue
            rows, places, counts = torch.unique(codes, return_inverse=True, return_counts=True)
            weight = (1 - decay) * quantizer.codebook_size / len(codes)  # of a token; use stays 1 on average
            use = self.use[stage]
            use *= decay
            known = use[rows, None] * quantizer.codebooks[stage, rows]
            sums = torch.zeros_like(known).index_add_(0, places, targets)
            use[rows] += weight * counts
            quantizer.codebooks[stage, rows] = (known + weight * sums) / use[rows, None]

            dead = (use < config.dead_use).nonzero()[: min(config.moves_per_step, quantizer.codebook_size // 2), 0]
            _split_busiest(quantizer.codebooks[stage], use, dead, targets, generator)
            moved += len(dead)
        return moved

    def _generator(self, step: int) -> torch.Generator:
        seed = np.random.default_rng([self.seed, step, PURPOSE]).integers(2**62)
        return torch.Generator().manual_seed(int(seed))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state, which is the same in all processes."""
        return {"use": self.use, "kept": self.kept}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Resume in any number of processes."""
        self.use = state["use"].to(self.use.device)
        self.kept = state["kept"].to(self.kept.device)
