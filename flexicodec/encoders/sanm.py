"""SAN-M, the encoder of SenseVoice and of our own recognisers, from audio to features.

A block is self-attention with an FSMN memory, which is a depthwise convolution over the values, and a feed-forward
network (arXiv 2006.01713). Parameters have the names of transformers' `FunAsrNanoEncoder`, and features are equal to
its features; importing that class would cost twice as much time as importing torch.
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flexicodec.encoders.base import FrontEndConfig, SanmConfig
from flexicodec.encoders.fbank import KaldiFbank
from flexicodec.nn.attention import attention, sdpa
from flexicodec.nn.masking import length_mask, valid_steps, zero_padding
from flexicodec.nn.onednn import Linear
from flexicodec.nn.streaming import SlidingWindow, SlidingWindowState, register_state, run_in_chunks
from flexicodec.nn.transformer import STREAM_BLOCK, AttentionState, step_in_window

NUM_PROMPT_EMBEDDINGS = 16
INITIAL_STD = 0.02  # of all weights, as in transformers


class SanmEncoder(nn.Module):
    """SAN-M encoder over stacked filterbanks at 16.67 Hz (SenseVoice, arXiv 2407.04051).

    Args:
        config: Sizes and options.
        dropout: Used only when such an encoder is trained; a codec's encoder is frozen and in eval mode.
    """

    frame_rate = KaldiFbank.sample_rate / (KaldiFbank.frame_shift * FrontEndConfig.stride)

    def __init__(self, config: SanmConfig | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config = config or SanmConfig()
        self.dim = config.dim
        self.front_end = KaldiFbank(config.front_end)
        if config.prompt:
            self.prompt = nn.Embedding(NUM_PROMPT_EMBEDDINGS, config.front_end.dim)
        layers = nn.ModuleList(SanmLayer(config, index, dropout) for index in range(config.num_layers))
        self.encoder = nn.ModuleDict({"layers": layers})
        layers.apply(_initialise)

    @property
    def layers(self) -> list["SanmLayer"]:
        """Its blocks, with their type."""
        return cast(list[SanmLayer], list(self.encoder["layers"]))  # type: ignore[call-overload]

    def forward(
        self, audio: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch dim frames"], Int[Tensor, " batch"]]:
        """Encode audio at 16 kHz, clips of at least one 25 ms window; returns features and valid frames."""
        features, frame_lengths = self.front_end(audio, lengths)
        return self.encode(features, frame_lengths).transpose(1, 2), frame_lengths

    def encode(
        self, features: Float[Tensor, "batch frames in_dim"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch frames dim"]:
        """Run the blocks on front-end features; zero past each item's end."""
        # The prompt's rows take the first positions.
        num_prompts = len(self.config.prompt)
        first = torch.full((1,), 1 + num_prompts, device=features.device)
        hidden = self.embed(features, first)
        if num_prompts:
            hidden = torch.cat([self.embed_prompt(features.shape[0]), hidden], dim=1)
        valid = valid_steps(lengths + num_prompts, hidden.shape[1])  # once: on a GPU it waits for the device
        for layer in self.encoder["layers"]:  # type: ignore[attr-defined]
            hidden = layer(hidden, valid)
        hidden = hidden[:, num_prompts:]
        return hidden.masked_fill(~length_mask(lengths, hidden.shape[1])[..., None], 0.0)

    def embed(
        self, features: Float[Tensor, "batch steps in_dim"], first: Int[Tensor, " #batch"]
    ) -> Float[Tensor, "batch steps in_dim"]:
        """Scale, and add positions from `first` on, counted from one."""
        features = features * self.config.dim**0.5
        if self.config.positions:
            features = features + sinusoidal_positions(first, *features.shape[1:])
        return features

    def embed_prompt(self, batch: int) -> Float[Tensor, "batch prompt in_dim"]:
        """Return the prompt's rows as the first steps of each item."""
        device = self.front_end.shift.device
        if not self.config.prompt:
            return torch.zeros(batch, 0, self.config.front_end.dim, dtype=torch.float32, device=device)
        rows = self.prompt(torch.tensor(self.config.prompt, device=device)).expand(batch, -1, -1)
        return self.embed(rows, torch.ones(1, dtype=torch.long, device=device))


class SanmLayer(nn.Module):
    """One block: attention with FSMN memory, then a feed-forward network, both with layer norm before them.

    Args:
        config: Sizes.
        index: Which block. The first changes the width and has no residual around its attention; the last normalises
            its output.
        dropout: While training.
    """

    def __init__(self, config: SanmConfig, index: int, dropout: float) -> None:
        super().__init__()
        in_dim = config.front_end.dim if index == 0 else config.dim
        self.window = config.window
        self.dropout = dropout
        self.has_residual = in_dim == config.dim
        self.self_attn = SanmAttention(in_dim, config, dropout)
        self.mlp = SanmFeedForward(config, dropout)
        self.input_layernorm = nn.LayerNorm(in_dim, eps=1e-5)
        self.post_attention_layernorm = nn.LayerNorm(config.dim, eps=1e-5)
        is_last = index == config.num_layers - 1
        self.final_layernorm = nn.LayerNorm(config.dim, eps=1e-5) if is_last else nn.Identity()

    def forward(
        self, x: Float[Tensor, "batch steps in_dim"], valid: Bool[Tensor, "batch steps"] | None
    ) -> Float[Tensor, "batch steps dim"]:
        """Run a whole clip; `valid` None means no padding."""
        y = F.dropout(self.self_attn(self.input_layernorm(x), valid), self.dropout, self.training)
        if self.has_residual:
            y = x + y
        return self.final_layernorm(y + self.mlp(self.post_attention_layernorm(y)))

    @property
    def back(self) -> int:
        """Steps before its own that an output depends on."""
        return max(self.window or 0, self.self_attn.fsmn.left)

    @property
    def lookahead(self) -> int:
        """Steps after its own that an output depends on."""
        return max(self.window or 0, self.self_attn.fsmn.right)

    def step(
        self, x: Float[Tensor, "batch new in_dim"], state: AttentionState, last: bool
    ) -> tuple[Float[Tensor, "batch ready dim"], AttentionState]:
        """Run the next steps of a stream; only with a window."""
        reach = self.back, self.lookahead
        return step_in_window(x, state, last, reach, self._project, self._compute_ready)

    def _project(self, x: Float[Tensor, "batch new in_dim"]) -> Float[Tensor, "batch new 3*dim"]:
        return self.self_attn.project(self.input_layernorm(x))

    def _compute_ready(
        self, projected: Float[Tensor, "batch steps 3*dim"], x: Float[Tensor, "batch ready in_dim"], context: int
    ) -> Float[Tensor, "batch ready dim"]:
        if not x.shape[1]:
            return x.new_zeros(len(x), 0, self.self_attn.o_proj.out_features)
        y = self.self_attn.attend_within(projected, context, x.shape[1])
        if self.has_residual:
            y = x + y
        return self.final_layernorm(y + self.mlp(self.post_attention_layernorm(y)))


class SanmAttention(nn.Module):
    """Multi-head self-attention, with the FSMN memory of the values added to its output."""

    def __init__(self, in_dim: int, config: SanmConfig, dropout: float) -> None:
        super().__init__()
        dim = config.dim
        self.num_heads = config.num_heads
        self.window = config.window
        self.q_proj = Linear(in_dim, dim)
        self.k_proj = Linear(in_dim, dim)
        self.v_proj = Linear(in_dim, dim)
        self.o_proj = Linear(dim, dim)
        self.fsmn = FSMNMemory(dim, config.kernel_size, dropout)

    def forward(
        self, x: Float[Tensor, "batch steps in_dim"], valid: Bool[Tensor, "batch steps"] | None
    ) -> Float[Tensor, "batch steps dim"]:
        """Attend over a whole clip."""
        # To [batch, heads, steps, head_dim] and back; the memory uses the values before they are split.
        heads = (self.num_heads, -1)
        queries = self.q_proj(x).unflatten(-1, heads).transpose(1, 2)
        keys = self.k_proj(x).unflatten(-1, heads).transpose(1, 2)
        values = self.v_proj(x)
        out = attention(queries, keys, values.unflatten(-1, heads).transpose(1, 2), valid, self.window)
        out = self.o_proj(out.transpose(1, 2).flatten(2))
        memory = self.fsmn(zero_padding(values.transpose(1, 2), valid), self.fsmn.left, self.fsmn.right)
        return out + memory.transpose(1, 2)

    def project(self, x: Float[Tensor, "batch steps in_dim"]) -> Float[Tensor, "batch steps 3*dim"]:
        """Compute queries, keys and values side by side."""
        return torch.cat([self.q_proj(x), self.k_proj(x), self.v_proj(x)], dim=-1)

    def attend_within(
        self, projected: Float[Tensor, "batch steps 3*dim"], first: int, count: int
    ) -> Float[Tensor, "batch count dim"]:
        """Compute `count` outputs from step `first` on, from projections that cover their windows."""
        assert self.window is not None
        # [3, batch, heads, steps, head_dim]
        query, key, value = rearrange(projected, "b t (three h d) -> three b h t d", three=3, h=self.num_heads)
        steps = torch.arange(projected.shape[1], device=projected.device)
        mask = (steps - steps[first : first + count, None]).abs() <= self.window
        out = sdpa(query[:, :, first : first + count], key, value, mask)
        out = self.o_proj(out.transpose(1, 2).flatten(2))

        # The memory sees zeros beyond the clip's ends. Values are the last third of the projections.
        begin = first - self.fsmn.left
        end = first + count + self.fsmn.right
        near = projected[:, max(0, begin) : end, -self.o_proj.in_features :].transpose(1, 2)
        memory = self.fsmn(near, max(0, -begin), max(0, end - projected.shape[1]))
        return out + memory.transpose(1, 2)


class FSMNMemory(nn.Module):
    """Feedforward sequential memory: a depthwise convolution over time, added to its input.

    Args:
        dim: Channels.
        kernel_size: Steps it covers; with an even number one more after its own than before it.
        dropout: While training.
    """

    def __init__(self, dim: int, kernel_size: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv1d(dim, dim, kernel_size, groups=dim, bias=False)
        self.left = (kernel_size - 1) // 2
        self.right = kernel_size - 1 - self.left
        self.dropout = dropout

    def forward(
        self, values: Float[Tensor, "batch dim steps"], left: int, right: int
    ) -> Float[Tensor, "batch dim out"]:
        """Convolve values, after so many zeros before and behind them; no more zeros than the kernel covers."""
        memory = self.conv(F.pad(values, (left, right)))
        start = self.left - left
        return F.dropout(memory + values[..., start : start + memory.shape[-1]], self.dropout, self.training)


class SanmFeedForward(nn.Module):
    """Two linear layers with a ReLU between them."""

    def __init__(self, config: SanmConfig, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.fc1 = Linear(config.dim, config.feedforward_dim)
        self.fc2 = Linear(config.feedforward_dim, config.dim)

    def forward(self, x: Float[Tensor, "batch steps dim"]) -> Float[Tensor, "batch steps dim"]:
        """Map each step."""
        hidden = F.dropout(F.relu(self.fc1(x)), self.dropout, self.training)
        return F.dropout(self.fc2(hidden), self.dropout, self.training)


def _initialise(module: nn.Module) -> None:
    """Initialise a layer's weights as transformers does; norms keep their ones and zeros."""
    # In the order of transformers, so that a seed gives the same weights.
    if isinstance(module, nn.Linear | nn.Conv1d):
        nn.init.normal_(module.weight, std=INITIAL_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def sinusoidal_positions(first: Int[Tensor, " batch"], steps: int, dim: int) -> Float[Tensor, "batch steps dim"]:
    """Compute FunASR's sinusoidal positions from `first` on, which counts from one: all sines before all cosines."""
    inverse = torch.exp(torch.arange(dim // 2, device=first.device).float() * -(math.log(10000.0) / (dim // 2 - 1)))
    positions = first[:, None] + torch.arange(steps, device=first.device)
    angles = positions.float()[..., None] * inverse
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


@register_state
@dataclass(frozen=True)
class SanmState:
    """State of a `StreamingSanm`.

    Attributes:
        layers: One state per block, or that of the sliding window.
        position: Position of the next frame, counted from one; None without positions.
        prompt_left: Outputs still to come that belong to the prompt; None before the first step.
    """

    layers: tuple[AttentionState, ...] | SlidingWindowState
    position: Int[Tensor, " batch"] | None
    prompt_left: int | None = None


class StreamingSanm:
    """The blocks of a SAN-M encoder on a stream: stacked filterbanks [B, in_dim, T] to features [B, dim, T].

    With windowed attention every block carries its state, and the stream equals the whole clip to float noise. Global
    attention runs on a sliding window.

    Args:
        encoder: Its blocks are used.
        context: For global attention: frames of a window before those it outputs.
        ahead: For global attention: frames of a window after those it outputs.
        stride: For global attention: frames a window outputs.
    """

    per_item = False

    def __init__(self, encoder: SanmEncoder, context: int, ahead: int, stride: int) -> None:
        self.encoder = encoder
        self.channels = encoder.config.front_end.dim
        self.exact = encoder.config.window is not None
        self.windows = SlidingWindow(self._run_window, self.channels, context, ahead, stride, encoder.dim)
        self.lookahead = self.windows.lookahead
        if self.exact:
            self.lookahead = sum(layer.lookahead for layer in encoder.layers)

    def initial_state(self) -> SanmState:
        """Return the state before the first frame."""
        config = self.encoder.config
        layers: tuple[AttentionState, ...] | SlidingWindowState = self.windows.initial_state()
        if self.exact:
            layers = (AttentionState(),) * config.num_layers
        position = None
        if config.positions:
            position = torch.full((1,), 1 + len(config.prompt), device=self.encoder.front_end.shift.device)
        return SanmState(layers, position)

    def step(self, x: Tensor, state: SanmState, last: bool) -> tuple[Tensor, SanmState]:
        """Encode the next frames."""
        # Scaled input with positions, which go on from chunk to chunk.
        first = torch.ones(1, dtype=torch.long, device=x.device) if state.position is None else state.position
        hidden = self.encoder.embed(x.transpose(1, 2), first).transpose(1, 2)
        position = None if state.position is None else state.position + x.shape[-1]
        if isinstance(state.layers, SlidingWindowState):
            y, window = self.windows.step(hidden, state.layers, last)
            return y, SanmState(window, position)

        # The prompt goes before the first frames, and its outputs are dropped.
        prompt_left = state.prompt_left
        if prompt_left is None:
            prompt = self.encoder.embed_prompt(len(x)).transpose(1, 2)
            hidden = torch.cat([prompt, hidden], dim=-1)
            prompt_left = prompt.shape[-1]
        size = max(self.encoder.config.window or 0, STREAM_BLOCK)
        y, layers = run_in_chunks(self._run_layers, hidden, state.layers, last, size)
        dropped = min(prompt_left, y.shape[-1])
        return y[..., dropped:], SanmState(layers, position, prompt_left - dropped)

    def _run_layers(
        self, x: Tensor, states: tuple[AttentionState, ...], last: bool
    ) -> tuple[Tensor, tuple[AttentionState, ...]]:
        x = x.transpose(1, 2)
        after = []
        for layer, state in zip(self.encoder.layers, states, strict=True):
            x, state = layer.step(x, state, last)
            after.append(state)
        return x.transpose(1, 2), tuple(after)

    def _run_window(self, hidden: Float[Tensor, "batch in_dim steps"]) -> Float[Tensor, "batch dim steps"]:
        """Encode a window like a whole clip, after the prompt."""
        prompt = self.encoder.embed_prompt(len(hidden))
        steps = torch.cat([prompt, hidden.transpose(1, 2)], dim=1)
        for layer in self.encoder.layers:
            steps = layer(steps, None)
        return steps[:, prompt.shape[1] :].transpose(1, 2)
