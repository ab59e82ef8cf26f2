"""A learned cost of tokens: what a recogniser loses where these frames share one.

A small network was fitted to the losses of Moonshine's decoder on merged features (experiments/merging/token_cost.py):
each loss, in nats of the transcript, was attributed to the tokens whose frames the decoder attends to. It reads
squared errors along the directions that the decoder's cross-attention passes on, and what a token's mean, its first and
last frame and the frames around it are.
"""

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flexicodec.weights import WEIGHTS_NAME, load_exactly, read_weights

SHIPPED = "token-cost"  # folder in the package's assets
LONGEST = 8  # frames of the tokens it was fitted to
DIM = 288  # of Moonshine's features
DIRECTIONS = 64  # that are computed, in the order of their variance,
ALONE = 24  # whose errors count one by one; those of the others are summed up,
OF_MEAN = 32  # of a token's mean
OF_FRAMES = 16  # and of the frames at its edges
HIDDEN = 48
HALF_ERROR = 0.25  # of a token, in mean energies of a frame, at which half the correction counts
SCALE = 3.0  # brings the inputs near unit variance


class TokenCost(nn.Module):
    """Costs of all tokens of up to `LONGEST` frames: a weighted squared error, and a perceptron's correction."""

    projection: Tensor
    mean: Tensor  # of the projected frames of speech
    error_weights: Tensor

    def __init__(self) -> None:
        super().__init__()
        inputs = ALONE + 2 + OF_MEAN + 4 * OF_FRAMES + LONGEST
        self.register_buffer("projection", torch.zeros(DIRECTIONS, DIM))
        self.register_buffer("mean", torch.zeros(DIRECTIONS))
        self.register_buffer("error_weights", torch.zeros(ALONE + 1))
        layers = [nn.Linear(inputs, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN // 2), nn.GELU()]
        self.perceptron = nn.Sequential(*layers, nn.Linear(HIDDEN // 2, 1))

    def forward(self, frames: Float[Tensor, "dim frames"], longest: int = LONGEST) -> list[Float[Tensor, " starts"]]:
        """Return the costs of tokens of 1, 2, ... `longest` frames at each first frame, in nats."""
        costs = []
        for duration, (errors, inputs) in enumerate(self.tokens(frames, longest), start=1):
            correction = self.perceptron(inputs)[:, 0].double() * certainty(errors)
            costs.append(errors @ self.error_weights.double() * duration**0.5 + correction)
        return costs

    def tokens(
        self, frames: Float[Tensor, "dim frames"], longest: int = LONGEST
    ) -> Iterator[tuple[Float[Tensor, "starts errors"], Float[Tensor, "starts inputs"]]]:
        """Describe all tokens of 1, 2, ... frames, by their first frames: their errors, and the network's inputs."""
        x = (self.projection @ frames.float()).T - self.mean
        sums = F.pad(x.double(), (0, 0, 1, 0)).cumsum(0)
        squares = F.pad(x.double().square(), (0, 0, 1, 0)).cumsum(0)
        around = F.pad(x[:, :OF_FRAMES], (0, 0, 1, 1))
        for duration in range(1, min(longest, len(x)) + 1):
            starts = len(x) - duration + 1
            total = sums[duration:] - sums[:-duration]
            error = (squares[duration:] - squares[:-duration] - total.square() / duration).clamp(min=0)
            errors = torch.cat([error[:, :ALONE], error[:, ALONE:].sum(1, keepdim=True)], dim=1)
            mean = (total / duration).float()
            edges = [x[:starts], x[duration - 1 :], around[:starts], around[duration + 1 :]]
            near = [each[:, :OF_FRAMES] - mean[:, :OF_FRAMES] for each in edges]
            which = F.one_hot(torch.full((starts,), duration - 1), LONGEST).float()
            scaled = [SCALE * each for each in (errors.sqrt().float(), mean[:, :OF_MEAN], *near)]
            yield errors, torch.cat([scaled[0], errors.sum(1, keepdim=True).float(), *scaled[1:], which], dim=1)


def certainty(errors: Float[Tensor, "tokens errors"]) -> Float[Tensor, " tokens"]:
    """Return how much of the correction counts: nothing where frames are equal, as nothing is lost there."""
    total = errors.sum(1)
    return total / (total + HALF_ERROR)


@cache
def shipped_cost() -> TokenCost:
    """Load the network that ships with the package, on the CPU."""
    model = TokenCost()
    state = read_weights(Path(str(files("flexicodec") / "assets" / SHIPPED / WEIGHTS_NAME)))
    load_exactly(model, {name: each.float() for name, each in state.items()})
    return model.requires_grad_(False).eval()


@torch.no_grad()
def recognition_costs(
    features: Float[Tensor, "batch dim frames"], lengths: list[int], longest: int
) -> list[Float[np.ndarray, "batch starts"]]:
    """Tabulate the costs of all windows; see `window_costs`.

    Raises:
        ValueError: Features of another width than Moonshine's, or tokens longer than it was fitted to.
    """
    if features.shape[1] != DIM:
        raise ValueError(
            f"features have {features.shape[1]} channels, but the cost 'recognition' is one of Moonshine's features, "
            f"which have {DIM}; choose variance or joint for models with another semantic encoder"
        )
    if longest > LONGEST:
        raise ValueError(
            f"the cost 'recognition' knows tokens of at most {LONGEST} frames, but up to {longest} are allowed; "
            f"set cap={LONGEST}"
        )
    model = shipped_cost()
    num_frames = max(lengths)
    windows = [np.zeros((len(lengths), num_frames - duration + 1)) for duration in range(1, longest + 1)]
    # Clip by clip, so that padding and other clips cannot matter
    for row, length in enumerate(lengths):
        frames = features[row, :, :length].detach().to("cpu", torch.float32)
        for window, costs in zip(windows, model(frames, longest), strict=False):
            window[row, : len(costs)] = costs.numpy()
    return windows
