"""The causal transformer with relative positions (ESPnet's, after Transformer-XL) that reads text and predicts tokens.

A score depends on the distance of two steps through a projection of its sinusoid. These projections do not depend on
the input, so they are computed once for all calls; keys and values of a sequence that grows are kept in a cache.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flexicodec.models.tts.config import CausalStackConfig
from flexicodec.nn.onednn import Linear, cached

ACTIVATIONS = {"relu": F.relu, "silu": F.silu}
FIRST_CAPACITY = 256  # steps that caches and projected positions have room for; doubled as needed


def capacity_for(steps: int) -> int:
    """Round up to `FIRST_CAPACITY` times a power of two."""
    capacity = FIRST_CAPACITY
    while capacity < steps:
        capacity *= 2
    return capacity


class KeyValueCache:
    """Keys and values of one layer, of the steps so far.

    Attributes:
        steps: Number of steps so far.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._held: Tensor | None = None  # [2, batch, heads, capacity, head_dim]

    def append(
        self, keys: Float[Tensor, "batch heads new head_dim"], values: Float[Tensor, "batch heads new head_dim"]
    ) -> tuple[Float[Tensor, "batch heads all head_dim"], Float[Tensor, "batch heads all head_dim"]]:
        """Add the next steps, and return all of them."""
        steps = self.steps + keys.shape[2]
        held = self._held
        if held is None or held.shape[3] < steps:
            batch, heads, _, head_dim = keys.shape
            grown = keys.new_zeros(2, batch, heads, capacity_for(steps), head_dim)
            if held is not None:
                grown[:, :, :, : self.steps] = held[:, :, :, : self.steps]
            self._held = held = grown
        held[0, :, :, self.steps : steps] = keys
        held[1, :, :, self.steps : steps] = values
        self.steps = steps
        return held[0, :, :, :steps], held[1, :, :, :steps]


class RelativeAttention(nn.Module):
    """Causal attention: score(i, j) = ((q_i + u) k_j + (q_i + v) W p_(i-j)) / sqrt(head_dim), j <= i.

    Args:
        dim: Width of the features.
        num_heads: They divide `dim`.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = Linear(dim, dim)
        self.k_proj = Linear(dim, dim)
        self.v_proj = Linear(dim, dim)
        self.out_proj = Linear(dim, dim)
        self.position_proj = Linear(dim, dim, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(num_heads, dim // num_heads))  # u
        self.position_bias = nn.Parameter(torch.zeros(num_heads, dim // num_heads))  # v

    def forward(
        self,
        x: Float[Tensor, "batch new dim"],
        attended: Bool[Tensor, "#batch 1 new all"] | None,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "batch new dim"]:
        """Attend from every new step to those that `attended` marks, all for None, and to no later ones."""
        queries = self._heads(self.q_proj(x))
        keys = self._heads(self.k_proj(x))
        values = self._heads(self.v_proj(x))
        if cache is not None:
            keys, values = cache.append(keys, values)

        # Scores by content, and by distance: column r of `by_distance` is for the key r steps back.
        steps = keys.shape[2]
        by_content = (queries + self.content_bias[:, None]) @ keys.mT
        by_distance = (queries + self.position_bias[:, None]) @ self.projected_positions(steps).mT
        scores = (by_content + _to_keys(by_distance)) * queries.shape[-1] ** -0.5
        if attended is not None:
            scores = scores.masked_fill(~attended, -torch.inf)
        out = scores.softmax(-1) @ values
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def projected_positions(self, steps: int) -> Float[Tensor, "heads distances head_dim"]:
        """Project the sinusoids of the distances 0 to steps - 1; outside training they are kept for later calls."""
        weight: Tensor = self.position_proj.weight
        if torch.is_grad_enabled():
            return self._project(weight, steps)
        capacity = capacity_for(steps)
        table = cached(weight, f"positions to {capacity}", lambda values: self._project(values, capacity))
        return table[:, :steps]

    def _project(self, weight: Float[Tensor, "dim dim"], steps: int) -> Float[Tensor, "heads distances head_dim"]:
        table = sinusoids(steps, weight.shape[1]).to(weight.device, weight.dtype)
        return F.linear(table, weight).unflatten(-1, (self.num_heads, -1)).transpose(0, 1).contiguous()

    def _heads(self, x: Float[Tensor, "batch steps dim"]) -> Float[Tensor, "batch heads steps head_dim"]:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def sinusoids(steps: int, dim: int) -> Float[Tensor, "steps dim"]:
    """Sines of the distances 0, 1, ... at even places, cosines at odd ones."""
    rates = torch.exp(torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") * (-math.log(10000.0) / dim))
    angles = torch.arange(steps, dtype=torch.float32, device="cpu")[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def _to_keys(by_distance: Float[Tensor, "batch heads new all"]) -> Float[Tensor, "batch heads new all"]:
    """Put scores by distance under the keys that are that far back; what is under later keys has no meaning.

    # distance of 4 keys    of the last query   3 2 1 0
    #                       of the one before   2 1 0 -      each row is the flipped row, moved by one more step
    """
    new, steps = by_distance.shape[2:]
    flipped = by_distance.flip(-1)
    if new == 1:
        return flipped
    # Row i of the padded matrix, read with a row length of one less, starts i steps earlier.
    width = steps + new
    rows = F.pad(flipped, (0, new)).flatten(2)[..., new - 1 : new - 1 + new * (width - 1)]
    return rows.unflatten(-1, (new, width - 1))[..., :steps]


class CausalLayer(nn.Module):
    """Pre-norm attention and feed-forward network.

    Args:
        config: Size of the stack.
    """

    def __init__(self, config: CausalStackConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim)
        self.attention = RelativeAttention(config.dim, config.num_heads)
        self.norm2 = nn.LayerNorm(config.dim)
        self.linear1 = Linear(config.dim, config.feedforward_dim)
        self.linear2 = Linear(config.feedforward_dim, config.dim)
        self.activation = ACTIVATIONS[config.activation]
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "batch new dim"],
        attended: Bool[Tensor, "#batch 1 new all"] | None,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "batch new dim"]:
        """See `RelativeAttention.forward`."""
        x = x + self.dropout(self.attention(self.norm1(x), attended, cache))
        hidden = self.dropout(self.activation(self.linear1(self.norm2(x))))
        return x + self.dropout(self.linear2(hidden))


class CausalStack(nn.Module):
    """Layers and a final norm.

    Args:
        config: Size of the stack.
    """

    def __init__(self, config: CausalStackConfig) -> None:
        super().__init__()
        self.scale = math.sqrt(config.dim)
        self.layers = nn.ModuleList(CausalLayer(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "batch new dim"],
        starts: Int[Tensor, " batch"] | None = None,
        caches: list[KeyValueCache] | None = None,
    ) -> Float[Tensor, "batch new dim"]:
        """Compute the outputs of new steps; padding on the right needs no mask, since nothing looks ahead.

        Args:
            x: The new steps.
            starts: First step of each item where items are padded on the left; None for 0.
            caches: Of earlier steps, one per layer (`new_caches`); the new steps are added.
        """
        attended = self._attended(x, starts, caches)
        x = self.dropout(x * self.scale)
        for index, layer in enumerate(self.layers):
            x = layer(x, attended, None if caches is None else caches[index])
        return self.norm(x)

    def new_caches(self) -> list[KeyValueCache]:
        """Make empty caches."""
        return [KeyValueCache() for _ in self.layers]

    def _attended(
        self, x: Tensor, starts: Int[Tensor, " batch"] | None, caches: list[KeyValueCache] | None
    ) -> Bool[Tensor, "#batch 1 new all"] | None:
        """Mask of the keys that each new step attends to, None for all."""
        new = x.shape[1]
        if new == 1 and starts is None:
            return None
        first = caches[0].steps if caches else 0
        key = torch.arange(first + new, device=x.device)
        query = key[first:, None]
        attended = (key <= query)[None, None]
        if starts is not None:  # padding attends to itself, so that no softmax is empty
            attended = (attended & (key >= starts[:, None, None, None])) | (key == query)
        return attended
