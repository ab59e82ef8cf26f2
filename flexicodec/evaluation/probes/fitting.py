"""What every probe shares: batches of vectors, their standardisation, and how the weights are found.

Everything is drawn from the seed, and the caller's random state stays as it is. A probe keeps the weights of the epoch
that does best on clips held out of the fit; the test clips are looked at once, afterwards.
"""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from flexicodec.corpus.bucketing import bucket_by_length
from flexicodec.evaluation.probes.features import ClipFeatures
from flexicodec.merging import unmerge

Spread = Literal["frames", "tokens"]
SMALLEST_DEVIATION = 1e-5  # of an input that never changes, such as the log duration of a codec that never merges


@dataclass(frozen=True)
class FitConfig:
    """How a probe is fitted.

    Attributes:
        epochs: Times that every clip is seen.
        batch_seconds: Speech in a batch, padding included.
        learning_rate: AdamW's, at its peak.
        warmup_share: Of all steps, over which the learning rate rises, before it falls along a cosine to 0.
        weight_decay: AdamW's.
        grad_clip: Largest gradient norm.
        validation_share: Of the clips, held out to choose the epoch.
        seed: Of weights, order, dropout and held-out clips.
    """

    epochs: int = 30
    batch_seconds: float = 120.0
    learning_rate: float = 1e-3
    warmup_share: float = 0.1
    weight_decay: float = 0.01
    grad_clip: float = 5.0
    validation_share: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs is {self.epochs}; expected 1 or more")
        for name in ("warmup_share", "validation_share"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a share between 0 and 1 (not percent)")


@dataclass(frozen=True)
class Fit:
    """How a fit went.

    Attributes:
        losses: Mean loss of each epoch.
        errors: On held-out clips after each epoch.
        best_epoch: The one whose weights were kept, counted from 1.
    """

    losses: tuple[float, ...]
    errors: tuple[float, ...]
    best_epoch: int


class Inputs:
    """Clips as a probe takes them.

    Args:
        features: Of the codec.
        spread: "frames" repeats each vector for as many frames as it stands for, so that a probe has a step every
            80 ms whatever the rate; "tokens" takes a step a vector.
        log_durations: Whether the logarithm of the duration is one more value of each vector.
        device: Where batches go.
    """

    def __init__(self, features: ClipFeatures, spread: Spread, log_durations: bool, device: torch.device):
        self.features, self.spread, self.log_durations, self.device = features, spread, log_durations, device
        self.dim = features.dim + log_durations

    def __len__(self) -> int:
        return len(self.features)

    def steps(self, i: int) -> int:
        """Count the steps of a clip."""
        durations = self.features.clip(i)[1]
        return int(durations.sum()) if self.spread == "frames" else len(durations)

    def batch(self, indices: Sequence[int]) -> tuple[Float[Tensor, "batch dim steps"], Int[Tensor, " batch"]]:
        """Lay clips side by side, zeros behind the shorter ones; also returns the valid steps of each."""
        clips = [tuple(map(torch.from_numpy, self.features.clip(i))) for i in indices]
        durations = pad_sequence([frames.long() for _, frames in clips], batch_first=True)
        values = pad_sequence([vectors.float() for vectors, _ in clips], batch_first=True).transpose(1, 2)
        if self.log_durations:
            values = torch.cat([values, durations.clamp(min=1).log()[:, None]], dim=1)
        values, durations = values.to(self.device), durations.to(self.device)
        if self.spread == "frames":
            return unmerge(values, durations), durations.sum(1)
        return values, (durations > 0).sum(1)

    def groups(
        self, indices: Sequence[int], batch_seconds: float, random: np.random.Generator | None = None
    ) -> list[list[int]]:
        """Group clips into batches; see `bucket_by_length`."""
        found = bucket_by_length(self.features.seconds[list(indices)], batch_seconds, random)
        return [[indices[i] for i in group] for group in found]


class Standardise(nn.Module):
    """Shift and scale every input to mean 0 and deviation 1 over the clips of a fit.

    Args:
        dim: Inputs of a step.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(dim))

    def fit(self, batches: Iterable[tuple[Float[Tensor, "batch dim steps"], Int[Tensor, " batch"]]]) -> None:
        """Take mean and deviation from the valid steps of batches."""
        total, squares = torch.zeros(2, *self.mean.shape, dtype=torch.float64, device=self.mean.device)
        count = 0
        for values, lengths in batches:
            valid = torch.arange(values.shape[-1], device=values.device) < lengths[:, None]
            steps = values.transpose(1, 2)[valid].double()
            total, squares, count = total + steps.sum(0), squares + steps.square().sum(0), count + len(steps)
        mean = total / count
        deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
        self.mean.copy_(mean)
        self.deviation.copy_(deviation.clamp(min=SMALLEST_DEVIATION))

    def forward(self, values: Float[Tensor, "batch dim steps"]) -> Float[Tensor, "batch dim steps"]:
        """Shift and scale; what stands at padding means nothing."""
        return (values - self.mean[:, None]) / self.deviation[:, None]


def hold_out(count: int, config: FitConfig) -> tuple[list[int], list[int]]:
    """Draw which of so many clips are fitted and which are held out to choose the epoch, at least one of each.

    Raises:
        ValueError: Fewer than two clips.
    """
    if count < 2:
        raise ValueError(f"{count} clip to fit a probe to; it takes 2 or more, of which one is held out")
    held = min(count - 1, max(1, round(config.validation_share * count)))
    order = np.random.default_rng([config.seed, 1]).permutation(count).tolist()
    return sorted(order[held:]), sorted(order[:held])


def fit(
    network: nn.Module,
    loss: Callable[[list[int]], Tensor],
    error: Callable[[], float],
    groups: Callable[[np.random.Generator], list[list[int]]],
    config: FitConfig,
    *,
    progress: bool = False,
) -> Fit:
    """Find a network's weights, and leave it with the best of them, in eval mode.

    Args:
        network: What is fitted, in place.
        loss: Mean loss of a batch of clips.
        error: On held-out clips, lower is better; called once an epoch, in eval mode and without gradients.
        groups: The batches of an epoch.
        config: See `FitConfig`.
        progress: Show a bar.

    Raises:
        FloatingPointError: The loss stopped being finite.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    random = np.random.default_rng([config.seed, 2])
    losses: list[float] = []
    errors: list[float] = []
    best = copy.deepcopy(network.state_dict())
    with tqdm(range(config.epochs), desc="fit", unit="epoch", disable=not progress) as epochs:
        for epoch in epochs:
            batches = groups(random)
            seen = []
            network.train()
            for number, index in enumerate(random.permutation(len(batches))):
                done = (epoch + (number + 1) / len(batches)) / config.epochs
                for part in optimizer.param_groups:
                    part["lr"] = config.learning_rate * _rate(done, config.warmup_share)
                value = loss(batches[index])
                if not torch.isfinite(value):
                    raise FloatingPointError(f"the loss is {value.item()} in epoch {epoch + 1}; lower learning_rate")
                optimizer.zero_grad(set_to_none=True)
                value.backward()
                nn.utils.clip_grad_norm_(network.parameters(), config.grad_clip)
                optimizer.step()
                seen.append(value.item())
            network.eval()
            with torch.no_grad():
                errors.append(error())
            losses.append(float(np.mean(seen)))
            epochs.set_postfix(loss=f"{losses[-1]:.3f}", error=f"{errors[-1]:.3f}")
            if errors[-1] <= min(errors):
                best = copy.deepcopy(network.state_dict())
    network.load_state_dict(best)
    best_epoch = max(i for i, value in enumerate(errors) if value == min(errors)) + 1
    return Fit(tuple(losses), tuple(errors), best_epoch)


def _rate(done: float, warmup: float) -> float:
    """Share of the peak learning rate when so much of all steps is done."""
    return done / warmup if done < warmup else 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))
