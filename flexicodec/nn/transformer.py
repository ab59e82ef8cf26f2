"""The pre-norm transformer of the aggregators and of the bottleneck before the decoder.

Its layer equals upstream's (rotary positions, layer scale, no biases, no final norm), with padding masked and an
optional attention window for models that must not depend on the length of the clip.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor, nn

from flexicodec.nn.attention import apply_rope, attention, rope_frequencies, sdpa
from flexicodec.nn.masking import valid_steps, zero_padding
from flexicodec.nn.onednn import Linear
from flexicodec.nn.streaming import append, register_state, run_in_chunks

STREAM_BLOCK = 64  # steps of a stream that are computed at once, so that memory does not grow with the chunk


@dataclass(frozen=True)
class TransformerConfig:
    """Size of one transformer.

    Attributes:
        num_layers: Number of layers.
        dim: Width of the residual stream.
        num_heads: Attention heads; `dim` divides into them, and each is of even size for the rotary pairs.
        feedforward_dim: Hidden width of the feed-forward networks.
        window: Steps to either side that attention covers; None covers all.
        layer_scale_init: Initial gain of both halves of a layer.
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
class AttentionState:
    """State of an attention layer with a window.

    Attributes:
        projected: Queries, keys and values side by side, before rotation, of the latest steps: the pending ones, and
            before them as many as these look back to. None before the first chunk.
        pending: Residual stream of the steps whose lookahead is not complete.
    """

    projected: Float[Tensor, "batch buffered 3*dim"] | None = None
    pending: Float[Tensor, "batch pending dim"] | None = None


def step_in_window(
    x: Float[Tensor, "batch new in_dim"],
    state: AttentionState,
    last: bool,
    reach: tuple[int, int],
    project: Callable[[Tensor], Tensor],
    compute: Callable[[Tensor, Tensor, int], Tensor],
) -> tuple[Float[Tensor, "batch ready dim"], AttentionState]:
    """Run the next steps of a layer with windowed attention; those whose window is not complete become pending.

    # projected     | context | pending | new |       as much context as the first pending step looks back to
    # outputs                 | ready   | ahead |     ready outputs, and the steps they look ahead to

    Args:
        x: New steps, any number.
        state: State before them.
        last: The stream ends with `x`.
        reach: Steps before and after its own that an output depends on.
        project: Computes queries, keys and values side by side, before rotation.
        compute: Computes the layer's outputs from these, the ready steps of `x` and the number of context steps. It is
            also called without ready steps.
    """
    back, ahead = reach
    projected = append(state.projected, project(x), dim=1)
    pending = append(state.pending, x, dim=1)
    context = projected.shape[1] - pending.shape[1]
    ready = pending.shape[1] if last else max(0, pending.shape[1] - ahead)
    y = compute(projected[:, : context + ready + ahead], pending[:, :ready], context)
    done = max(0, context + ready - back)
    return y, AttentionState(projected[:, done:].clone(), pending[:, ready:].clone())


class Transformer(nn.Module):
    """A stack of layers on channel-first features; with `config.window` it is a `StreamingModule`.

    Bias-free projections lead in and out where the features are not `config.dim` wide.

    Args:
        config: Size of the stack.
        input_dim: Width of the features, `config.dim` when None.
    """

    exact = True
    per_item = False

    def __init__(self, config: TransformerConfig, input_dim: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.channels = config.dim if input_dim is None else input_dim
        projected = self.channels != config.dim
        self.input_projection = Linear(self.channels, config.dim, bias=False) if projected else nn.Identity()
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.num_layers))
        self.output_projection = Linear(config.dim, self.channels, bias=False) if projected else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "batch dim steps"],
        lengths: Int[Tensor, " batch"] | None = None,
        positions: Int[Tensor, "*batch steps"] | None = None,
    ) -> Float[Tensor, "batch dim steps"]:
        """Transform the valid steps of each item; the rest of the output is zero.

        Args:
            lengths: Valid steps per item, all of them when None.
            positions: For the rotary embedding, [steps] or [batch, steps]; 0, 1, 2, ... when None. Only their
                differences matter.
        """
        # Rotary factors and mask are the same for all layers.
        if positions is None:
            positions = torch.arange(x.shape[-1], device=x.device)
        frequencies = rope_frequencies(positions, self.config.dim // self.config.num_heads)
        valid = valid_steps(lengths, x.shape[-1])

        # Layers work on channels last.
        x = self.input_projection(zero_padding(x, valid).transpose(1, 2).contiguous())
        for layer in self.layers:
            x = layer(x, frequencies, valid)
        return zero_padding(self.output_projection(x).transpose(1, 2), valid).contiguous()

    @property
    def lookahead(self) -> int:
        """Steps after its own that an output depends on; only with a window is it limited."""
        assert self.config.window is not None
        return self.config.num_layers * self.config.window

    def initial_state(self) -> tuple[AttentionState, ...]:
        """Return the state before the first step of a stream."""
        return (AttentionState(),) * self.config.num_layers

    def step(
        self, x: Float[Tensor, "batch dim new"], state: tuple[AttentionState, ...], last: bool
    ) -> tuple[Float[Tensor, "batch dim ready"], tuple[AttentionState, ...]]:
        """Transform the next steps of a stream, any number; outputs are `lookahead` steps late.

        The outputs concatenated equal `forward` on the whole, and each is computed once.

        Args:
            x: New steps.
            state: From `initial_state` or the call before; it is not changed.
            last: The stream ends with `x`, and all remaining outputs are returned.
        """
        assert self.config.window is not None, "without a window no step is ready before the last one"
        return run_in_chunks(self._step, x, state, last, max(self.config.window, STREAM_BLOCK))

    def _step(
        self, x: Tensor, state: tuple[AttentionState, ...], last: bool
    ) -> tuple[Tensor, tuple[AttentionState, ...]]:
        x = self.input_projection(x.transpose(1, 2).contiguous())
        states = []
        for layer, layer_state in zip(cast(list[TransformerLayer], list(self.layers)), state, strict=True):
            x, layer_state = layer.step(x, layer_state, last)
            states.append(layer_state)
        return self.output_projection(x).transpose(1, 2).contiguous(), tuple(states)


class TransformerLayer(nn.Module):
    """Self-attention, then a feed-forward network, each normalised before and scaled per channel after."""

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
        frequencies: Complex[Tensor, "*batch steps half_head_dim"],
        valid: Bool[Tensor, "batch steps"] | None,
    ) -> Float[Tensor, "batch steps dim"]:
        """Run a whole clip, channels last; `valid` None means no padding."""
        query, key, value = self._rotated_heads(self.in_proj(self.norm1(x)), frequencies)
        heads = attention(query, key, value, valid, self.window)
        # Both halves are added to the residual stream, scaled per channel.
        x = torch.addcmul(x, self.scale1, self.out_proj(heads.transpose(1, 2).flatten(2)))
        return torch.addcmul(x, self.scale2, self.linear2(F.gelu(self.linear1(self.norm2(x)))))

    def step(
        self, x: Float[Tensor, "batch new dim"], state: AttentionState, last: bool
    ) -> tuple[Float[Tensor, "batch ready dim"], AttentionState]:
        """Run the next steps of a stream; those whose window is not complete become pending."""
        assert self.window is not None
        reach = self.window, self.window
        return step_in_window(x, state, last, reach, lambda new: self.in_proj(self.norm1(new)), self._compute_ready)

    def _compute_ready(
        self, projected: Float[Tensor, "batch steps 3*dim"], y: Float[Tensor, "batch ready dim"], context: int
    ) -> Float[Tensor, "batch ready dim"]:
        if y.shape[1]:
            heads = self._attend_within(projected, context, y.shape[1])
            y = torch.addcmul(y, self.scale1, self.out_proj(heads.transpose(1, 2).flatten(2)))
            y = torch.addcmul(y, self.scale2, self.linear2(F.gelu(self.linear1(self.norm2(y)))))
        return y

    def _attend_within(
        self, projected: Float[Tensor, "batch steps 3*dim"], first: int, count: int
    ) -> Float[Tensor, "batch heads count head_dim"]:
        """Attend from `count` steps from `first` on; only distances matter, so positions start anywhere."""
        assert self.window is not None
        # Outputs at `first`..`first + count`, keys and values wherever they are within the window.
        steps = torch.arange(projected.shape[1], device=projected.device)
        frequencies = rope_frequencies(steps, projected.shape[-1] // (3 * self.num_heads))
        query, key, value = self._rotated_heads(projected, frequencies)
        mask = (steps - steps[first : first + count, None]).abs() <= self.window
        return sdpa(query[:, :, first : first + count], key, value, mask)

    def _rotated_heads(
        self, projected: Float[Tensor, "batch steps 3*dim"], frequencies: Complex[Tensor, "*batch steps half_head_dim"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Split into queries, keys (both rotated) and values, [batch, heads, steps, head_dim] each."""
        # [batch, steps, 3, heads, head_dim]; rotate queries and keys in one go.
        heads = projected.unflatten(-1, (3, self.num_heads, -1))
        query_key = apply_rope(heads[:, :, :2], frequencies[..., None, None, :])
        query, key = query_key.transpose(1, 3).unbind(2)
        return query, key, heads[:, :, 2].transpose(1, 2)
