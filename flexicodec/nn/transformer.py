"""The pre-norm transformer that both the aggregators and the bottleneck before the decoder are made of.

It is upstream's layer exactly (rotary positions, layer scale, no biases, no final norm), with padding masked and an
optional attention window for models that must not depend on the length of the clip.
"""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor, nn

from flexicodec.nn.attention import apply_rope, attend, rope_frequencies, sdpa
from flexicodec.nn.masking import valid_steps, zero_padding
from flexicodec.nn.onednn import Linear
from flexicodec.nn.streaming import register_state

STREAM_BLOCK = 64  # steps of a stream that are taken at once, for memory that does not grow with the chunk


@dataclass(frozen=True)
class TransformerConfig:
    """Size of one transformer.

    Attributes:
        num_layers: how many.
        dim: width of the residual stream.
        num_heads: attention heads; `dim` divides into them, and each is of even size for the rotary pairs.
        feedforward_dim: hidden width of the feed-forward halves.
        window: steps a layer looks to either side; None looks everywhere.
        layer_scale_init: initial gain of both halves of a layer.
    """

    num_layers: int
    dim: int = 512
    num_heads: int = 8
    feedforward_dim: int = 2048
    window: int | None = None
    layer_scale_init: float = 0.01

    def __post_init__(self) -> None:
        for name in ("num_layers", "dim", "num_heads", "feedforward_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.dim % (2 * self.num_heads):
            raise ValueError(
                f"dim {self.dim} does not split into {self.num_heads} heads of even size, which rotary positions need; "
                f"it must be a multiple of {2 * self.num_heads}"
            )
        if self.window is not None and self.window < 0:
            raise ValueError(f"window must be None (global) or at least 0 steps to either side, got {self.window}")


@register_state
@dataclass(frozen=True)
class LayerState:
    """Where a layer with a window stands in a stream.

    Attributes:
        seen: queries, keys and values side by side, before rotation, of the last steps that came: those that wait for
            what they look ahead to, and as many before them as they look back to. None before the first chunk.
        waiting: the residual stream of the steps that wait.
    """

    seen: Float[Tensor, "batch kept 3*dim"] | None = None
    waiting: Float[Tensor, "batch waiting dim"] | None = None


class Transformer(nn.Module):
    """A stack of layers on channel-first features.

    Where the features are not `config.dim` wide, bias-free projections lead in and out.

    Args:
        config: size of the stack.
        input_dim: width of the features, `config.dim` when None.
    """

    def __init__(self, config: TransformerConfig, input_dim: int | None = None) -> None:
        super().__init__()
        self.config = config
        width = config.dim if input_dim is None else input_dim
        projected = width != config.dim
        self.input_projection = Linear(width, config.dim, bias=False) if projected else nn.Identity()
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.num_layers))
        self.output_projection = Linear(config.dim, width, bias=False) if projected else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "batch dim steps"],
        lengths: Int[Tensor, " batch"] | None = None,
        positions: Int[Tensor, "*batch steps"] | None = None,
    ) -> Float[Tensor, "batch dim steps"]:
        """Transform the valid steps of each item; the rest comes out as zeros.

        Args:
            lengths: valid steps per item, all of them when None.
            positions: for the rotary embedding, [steps] or [batch, steps]; 0, 1, 2, ... when None. Only their
                differences matter.
        """
        if positions is None:
            positions = torch.arange(x.shape[-1], device=x.device)
        turns = rope_frequencies(positions, self.config.dim // self.config.num_heads)
        valid = valid_steps(lengths, x.shape[-1])

        x = self.input_projection(zero_padding(x, valid).transpose(1, 2).contiguous())
        for layer in self.layers:
            x = layer(x, turns, valid)
        return zero_padding(self.output_projection(x).transpose(1, 2), valid).contiguous()

    @property
    def lookahead(self) -> int:
        """Steps that an output sees ahead of its own; only with a window is there an end to it."""
        assert self.config.window is not None
        return self.config.num_layers * self.config.window

    def initial_state(self) -> tuple[LayerState, ...]:
        """Stand before the first steps of a stream."""
        return (LayerState(),) * self.config.num_layers

    def step(
        self, x: Float[Tensor, "batch dim new"], state: tuple[LayerState, ...], last: bool
    ) -> tuple[Float[Tensor, "batch dim ready"], tuple[LayerState, ...]]:
        """Transform the next steps of a stream, any number; outputs come `lookahead` steps late.

        All of them in a row equal `forward` on the whole, whose every step is computed once.

        Args:
            x: new steps.
            state: from `initial_state` or the call before; it is not changed.
            last: nothing follows, so that the rest comes out.
        """
        assert self.config.window is not None, "without a window no step is ready before the last has come"
        pieces = x.split(max(self.config.window, STREAM_BLOCK), dim=-1)
        outputs = []
        for index, piece in enumerate(pieces):
            y, state = self._step(piece, state, last and index == len(pieces) - 1)
            outputs.append(y)
        return torch.cat(outputs, dim=-1), state

    def _step(self, x: Tensor, state: tuple[LayerState, ...], last: bool) -> tuple[Tensor, tuple[LayerState, ...]]:
        x = self.input_projection(x.transpose(1, 2).contiguous())
        states = []
        for layer, layer_state in zip(cast(list[TransformerLayer], list(self.layers)), state, strict=True):
            x, layer_state = layer.step(x, layer_state, last)
            states.append(layer_state)
        return self.output_projection(x).transpose(1, 2).contiguous(), tuple(states)


class TransformerLayer(nn.Module):
    """Self-attention, then a feed-forward half, each normalised before and scaled per channel after."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.num_heads = config.num_heads
        self.window = config.window
        self.norm1 = nn.LayerNorm(dim, eps=1e-5)
        self.in_proj = Linear(dim, 3 * dim, bias=False)  # rows: query, key, value, each head after head
        self.out_proj = Linear(dim, dim, bias=False)
        self.scale1 = nn.Parameter(torch.full((dim,), config.layer_scale_init))
        self.norm2 = nn.LayerNorm(dim, eps=1e-5)
        self.linear1 = Linear(dim, config.feedforward_dim, bias=False)
        self.linear2 = Linear(config.feedforward_dim, dim, bias=False)
        self.scale2 = nn.Parameter(torch.full((dim,), config.layer_scale_init))

    def forward(
        self,
        x: Float[Tensor, "batch steps dim"],
        turns: Complex[Tensor, "*batch steps half_head_dim"],
        valid: Bool[Tensor, "batch steps"] | None,
    ) -> Float[Tensor, "batch steps dim"]:
        """Add both halves to the residual stream (channel last here: the one axis order all its parts want)."""
        x = torch.addcmul(x, self.scale1, self.attend(self.norm1(x), turns, valid))
        return self._feed_forward(x)

    def _feed_forward(self, x: Float[Tensor, "batch steps dim"]) -> Float[Tensor, "batch steps dim"]:
        return torch.addcmul(x, self.scale2, self.linear2(F.gelu(self.linear1(self.norm2(x)))))

    def attend(
        self,
        x: Float[Tensor, "batch steps dim"],
        turns: Complex[Tensor, "*batch steps half_head_dim"],
        valid: Bool[Tensor, "batch steps"] | None,
    ) -> Float[Tensor, "batch steps dim"]:
        """Run multi-head self-attention on the normalised stream."""
        query_key_value = self.in_proj(x).unflatten(-1, (3, self.num_heads, -1))
        query_key = apply_rope(query_key_value[:, :, :2], turns[..., None, None, :])
        query, key = query_key.transpose(1, 3).unbind(2)
        value = query_key_value[:, :, 2].transpose(1, 2)
        return self.out_proj(attend(query, key, value, valid, self.window).transpose(1, 2).flatten(2))

    def step(
        self, x: Float[Tensor, "batch new dim"], state: LayerState, last: bool
    ) -> tuple[Float[Tensor, "batch ready dim"], LayerState]:
        """Run the next steps of a stream; those whose window is not all there yet wait."""
        # seen          | answered | waiting | new |         as many answered ones as the first to wait looks back to
        # ready                    | ready   |window|        what comes out now, and what that looks ahead to
        assert self.window is not None
        seen, waiting = self.in_proj(self.norm1(x)), x
        if state.seen is not None and state.waiting is not None:
            seen, waiting = torch.cat([state.seen, seen], dim=1), torch.cat([state.waiting, x], dim=1)
        answered = seen.shape[1] - waiting.shape[1]
        ready = waiting.shape[1] if last else max(0, waiting.shape[1] - self.window)
        y = waiting[:, :ready]
        if ready:
            attended = self._attend_within(seen[:, : answered + ready + self.window], answered, ready)
            y = self._feed_forward(torch.addcmul(y, self.scale1, attended))
        done = max(0, answered + ready - self.window)
        return y, LayerState(seen[:, done:].clone(), waiting[:, ready:].clone())

    def _attend_within(self, seen: Tensor, first: int, count: int) -> Tensor:
        """Answer `count` steps from `first` on; only distances matter, so places count from where `seen` begins."""
        assert self.window is not None
        steps = torch.arange(seen.shape[1], device=seen.device)
        split = seen.unflatten(-1, (3, self.num_heads, -1))
        turns = rope_frequencies(steps, split.shape[-1])
        query_key = apply_rope(split[:, :, :2], turns[:, None, None, :])
        query, key = query_key.transpose(1, 3).unbind(2)
        mask = (steps - steps[first : first + count, None]).abs() <= self.window
        out = sdpa(query[:, :, first : first + count], key, split[:, :, 2].transpose(1, 2), mask)
        return self.out_proj(out.transpose(1, 2).flatten(2))
