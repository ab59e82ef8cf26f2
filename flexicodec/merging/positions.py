"""Merging and unmerging that know where in its token a frame is.

A mean forgets the order of a token's frames, and repeating a vector cannot bring it back. Here a token is computed from
its frames side by side, and each of its frames gets a vector of its own back. Both ends have to know positions: either
alone gains nothing.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from flexicodec.merging.durations import merge, unmerge
from flexicodec.nn.onednn import Linear, init_linear

START_GAIN = 0.5  # of the last linear layers: tokens start near the mean; .05 learns more slowly (experiments/mini)


@dataclass(frozen=True)
class PositionConfig:
    """A `PositionAggregator` and its `PositionUnmerger`.

    Attributes:
        positions: Places in a token. A longer token's frames share them: neighbours are averaged, or get one vector.
        hidden_dim: Width inside the aggregator.
        unmerge_dim: Width inside the unmerger, which serves the sum of both streams (if both streams have one, the
            acoustic stream's is built); None for none.
    """

    positions: int
    hidden_dim: int = 512
    unmerge_dim: int | None = 768

    def __post_init__(self) -> None:
        if min(self.positions, self.hidden_dim, 1 if self.unmerge_dim is None else self.unmerge_dim) < 1:
            raise ValueError(f"every number in {self} must be at least 1; unmerge_dim may be null for no unmerger")


def place_durations(durations: Int[Tensor, "batch tokens"], positions: int) -> Int[Tensor, "batch tokens*positions"]:
    """Count the frames in each place of every token: 1 in each for a start, more where a token exceeds the places.

    # positions 4:   duration 3 -> 1 1 1 0      duration 6 -> 1 2 1 2      duration 0 -> 0 0 0 0
    """
    place = torch.arange(positions, device=durations.device)
    lengths = durations.long()[..., None]
    alone = (place < lengths).long()
    shared = (place + 1) * lengths // positions - place * lengths // positions
    return torch.where(lengths > positions, shared, alone).flatten(1)


class PositionPerceptron(nn.Module):
    """Two linear layers on each token's vector, the hidden one shifted by a vector learnt for the token's duration.

    Args:
        input_dim: Width of the vectors.
        output_dim: Width of the outputs.
        hidden_dim: Width between the layers.
        longest: Longest duration that is told from others.
    """

    def __init__(self, input_dim: int, output_dim: int, hidden_dim: int, longest: int) -> None:
        super().__init__()
        self.linear1 = init_linear(Linear(input_dim, hidden_dim))
        self.duration = nn.Embedding(longest + 1, hidden_dim)
        self.linear2 = init_linear(Linear(hidden_dim, output_dim), START_GAIN)

    def forward(
        self, x: Float[Tensor, "batch tokens input_dim"], durations: Int[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch tokens output_dim"]:
        """Map each token's vector; durations are at most `longest`."""
        hidden = self.linear1(x) + self.duration(durations)
        output: Tensor = self.linear2(F.gelu(hidden))
        return output


class PositionAggregator(nn.Module):
    """Put a token's frames side by side, zeros behind them, and map them to one vector, which is added to their mean.

    Args:
        input_dim: Width of the features.
        config: Number of frames side by side, and the width inside.
    """

    def __init__(self, input_dim: int, config: PositionConfig) -> None:
        super().__init__()
        self.positions = config.positions
        width = config.positions * input_dim
        self.perceptron = PositionPerceptron(width, input_dim, config.hidden_dim, config.positions)

    def forward(
        self,
        features: Float[Tensor, "batch dim frames"],
        durations: Int[Tensor, "batch tokens"],
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch dim tokens"]:
        """See `MeanAggregator.forward`."""
        assert lengths is None or bool((lengths == durations.sum(dim=1)).all()), (lengths, durations)
        features = features.to(self.perceptron.linear1.weight.dtype)  # which an encoder may have left in half precision
        places = merge(features, place_durations(durations, self.positions))
        # [B, D, N * P] to [B, N, P * D]
        side_by_side = places.unflatten(2, (durations.shape[1], self.positions)).permute(0, 2, 3, 1).flatten(2)
        added = self.perceptron(side_by_side, durations.clamp(max=self.positions)).mT
        return merge(features, durations) + added.masked_fill(durations[:, None] == 0, 0.0)


class PositionUnmerger(nn.Module):
    """Give each frame of a token a vector of its own: the token's, what a perceptron adds, and an embedding.

    Args:
        dim: Width of the latents.
        hidden_dim: Width inside the perceptron.
        positions: Vectors per token.
    """

    def __init__(self, dim: int, hidden_dim: int, positions: int) -> None:
        super().__init__()
        self.positions = positions
        self.perceptron = PositionPerceptron(dim, positions * dim, hidden_dim, positions)
        # One vector for each place in tokens of each duration
        self.embedding = nn.Parameter(torch.zeros(positions + 1, positions, dim))

    def forward(
        self,
        latents: Float[Tensor, "batch dim tokens"],
        durations: Int[Tensor, "batch tokens"],
        num_frames: int | None = None,
    ) -> Float[Tensor, "batch dim frames"]:
        """See `unmerge`; in float32, as all that looks codes up."""
        lengths = durations.long().clamp(max=self.positions)
        with torch.autocast(latents.device.type, enabled=False):
            rows = latents.to(self.embedding.dtype).mT
            added = self.perceptron(rows, lengths).unflatten(2, self.embedding.shape[1:])
            vectors = rows[:, :, None] + added + self.embedding[lengths]
        # [B, N, P, D] to [B, D, N * P]
        return unmerge(vectors.flatten(1, 2).mT, place_durations(durations, self.positions), num_frames)
