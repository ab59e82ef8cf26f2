"""The encoder of Moonshine (arXiv 2410.15608): convolutions on raw audio and transformer blocks, 41.67 frames a second.

Parameters have the names of transformers' `MoonshineModel`, and features are equal to its features for a clip alone.
There padding leaks into the valid frames, through the group norm's statistics and through a mask of ceil(samples / 384)
frames where the clip has fewer. Here neither happens, so a clip has the same features in any batch.

With windows for attention and for the group norm, chunks of a stream have the features of the whole clip too: rotary
positions count only by their differences.
"""

from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor, nn

from flexicodec.encoders.base import MOONSHINE_FRAME_SIZE, SAMPLE_RATE, MoonshineConfig
from flexicodec.nn.attention import apply_rope, attention, rope_frequencies, sdpa, window_sides, within
from flexicodec.nn.masking import length_mask, valid_steps, zero_padding
from flexicodec.nn.onednn import Linear, conv1d, onednn_dtype
from flexicodec.nn.transformer import AttentionState, step_in_window

KERNELS = (127, 7, 3)
STRIDES = (64, 3, 2)
FIRST_FRAME = 895  # samples of the first frame
STEPS_PER_FRAME = 6  # of the first convolution, where the group norm is
STEPS_OF_FRAME = 13  # that a frame is computed from


def num_frames(samples: Int[Tensor, " batch"], convolutions: int = 3) -> Int[Tensor, " batch"]:
    """Count the outputs of the first convolutions; by default, the encoder's frames."""
    for kernel, stride in zip(KERNELS[:convolutions], STRIDES, strict=False):
        samples = torch.div(samples - kernel, stride, rounding_mode="floor") + 1
    return samples.clamp(min=0)


def rotary_factors(positions: Int[Tensor, " steps"], config: MoonshineConfig) -> Complex[Tensor, "steps half_dim"]:
    """Compute rotary positions for `apply_rope`; the last dimensions of each head are not rotated."""
    factors = rope_frequencies(positions, config.rotary_dim)
    still = (config.dim // config.num_heads - config.rotary_dim) // 2
    if torch.compiler.is_exporting():  # cosines, then sines
        cos, sin = factors.chunk(2, dim=-1)
        return torch.cat([F.pad(cos, (0, still), value=1.0), F.pad(sin, (0, still))], dim=-1)
    return torch.cat([factors, factors.new_ones(len(positions), still)], dim=-1)


class MoonshineEncoder(nn.Module):
    """Moonshine's encoder; a `SemanticEncoder`."""

    sample_rate = SAMPLE_RATE
    frame_rate = SAMPLE_RATE / MOONSHINE_FRAME_SIZE

    def __init__(self, config: MoonshineConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MoonshineConfig()
        self.dim = dim = config.dim
        self.conv1 = nn.Conv1d(1, dim, KERNELS[0], STRIDES[0], bias=False)
        self.groupnorm = nn.GroupNorm(1, dim)
        self.conv2 = nn.Conv1d(dim, 2 * dim, KERNELS[1], STRIDES[1])
        self.conv3 = nn.Conv1d(2 * dim, dim, KERNELS[2], STRIDES[2])
        self.layers = nn.ModuleList([EncoderLayer(config, window_sides(window)) for window in config.layer_windows])
        self.layer_norm = nn.LayerNorm(dim, bias=False)
        # Steps of the first convolution to both sides that the group norm covers.
        sides = window_sides(config.norm_window)
        self.norm_sides = None if sides is None else (sides[0] * STEPS_PER_FRAME, sides[1] * STEPS_PER_FRAME)

    @property
    def blocks(self) -> list["EncoderLayer"]:
        """Its blocks, with their type."""
        return cast(list[EncoderLayer], list(self.layers))

    @property
    def reach(self) -> tuple[int, int] | None:
        """Samples before the first and after the last of a frame's 384 that its features depend on, zeros not counted.

        None where a window is the whole clip. What comes after is the latency of a stream.
        """
        if self.norm_sides is None:
            return None
        before, after = self.norm_sides[0] * STRIDES[0], self.norm_sides[1] * STRIDES[0]
        for block in self.blocks:
            if block.sides is None:
                return None
            before += block.sides[0] * MOONSHINE_FRAME_SIZE
            after += block.sides[1] * MOONSHINE_FRAME_SIZE
        padding = self.config.left_padding
        return before + padding, after + FIRST_FRAME - MOONSHINE_FRAME_SIZE - padding

    def num_frames(self, audio_lengths: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """Count the frames of each item."""
        return num_frames(audio_lengths + self.config.left_padding)

    def forward(
        self, audio: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch dim frames"], Int[Tensor, " batch"]]:
        """Encode audio at 16 kHz.

        Args:
            audio: Samples; what lies past an item's length changes nothing.
            lengths: Valid samples of each item. An item shorter than 895 samples, less `left_padding`, has no frames.

        Returns:
            Features, zero past each item's frames, and the number of its frames.
        """
        left = self.config.left_padding
        frames = self.num_frames(lengths)
        lengths = lengths + left
        right = 0  # exported graphs take clips of a codec frame or more
        if not torch.compiler.is_exporting():
            right = max(0, FIRST_FRAME - left - audio.shape[1])
        audio = F.pad(audio, (left, right))
        audio = audio.masked_fill(~length_mask(lengths, audio.shape[1]), 0)  # padding may be NaN
        x = self._convolve(audio, lengths).mT
        valid = valid_steps(frames, x.shape[1])
        frequencies = rotary_factors(torch.arange(x.shape[1], device=x.device), self.config)
        for layer in self.layers:
            x = layer(x, frequencies, valid)
        return zero_padding(self.layer_norm(x).mT, valid), frames

    def _convolve(
        self, audio: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch dim frames"]:
        # A convolution's valid outputs depend on valid inputs alone, so only the norm needs a mask.
        x = self.first_convolution(audio[:, None])
        rows = norm_rows(x)
        valid = valid_steps(num_frames(lengths, 1), x.shape[2])
        if valid is not None:
            rows = rows * valid[:, None]
        return self.last_convolutions(self.normalise(x, rows))

    def first_convolution(self, audio: Float[Tensor, "batch 1 samples"]) -> Float[Tensor, "batch dim steps"]:
        """Compute what the group norm normalises, every 4 ms; in float32, as everything that is added to."""
        if torch.compiler.is_exporting():
            return torch.tanh(self.conv1(audio))
        # A product with overlapping windows takes less than half the time of a convolution of one channel.
        windows = audio[:, 0].unfold(-1, KERNELS[0], STRIDES[0])
        return torch.tanh(F.linear(windows, self.conv1.weight[:, 0])).float().mT

    def last_convolutions(self, x: Float[Tensor, "batch dim steps"]) -> Float[Tensor, "batch dim frames"]:
        """Compute the inputs of the blocks from normalised steps."""
        return F.gelu(_convolve(self.conv3, F.gelu(_convolve(self.conv2, x)))).float()

    def normalise(
        self, x: Float[Tensor, "batch dim steps"], rows: Float[Tensor, "batch 3 all_steps"], first: int = 0
    ) -> Float[Tensor, "batch dim steps"]:
        """Apply the group norm, with the mean and variance over all channels of the steps within the window.

        Args:
            x: Steps to normalise.
            rows: Of `norm_rows`, of these and the steps around them; zero for steps that do not count.
            first: Which of these is the first of `x`.
        """
        # Differences of running sums, in float64 where the device has it: chunks have the sums of the whole clip.
        precise = torch.float32 if x.device.type == "mps" else torch.float64
        sums = F.pad(rows.to(precise).cumsum(-1), (1, 0))
        if self.norm_sides is None:
            inside = sums[..., -1:]
        else:
            left, right = self.norm_sides
            step = torch.arange(first, first + x.shape[2], device=x.device)
            inside = sums[..., (step + right + 1).clamp(max=rows.shape[2])] - sums[..., (step - left).clamp(min=0)]
        total, squares, count = inside.split(1, dim=1)
        count = (count * x.shape[1]).clamp(min=1)
        mean = total / count
        variance = (squares / count - mean.square()).clamp(min=0)
        norm = self.groupnorm
        scale = torch.rsqrt(variance + norm.eps).float()
        return torch.addcmul(norm.bias[:, None], (x - mean.float()) * scale, norm.weight[:, None])


def _convolve(layer: nn.Conv1d, x: Float[Tensor, "batch in_dim steps"]) -> Float[Tensor, "batch out_dim out_steps"]:
    """Convolve without padding, by oneDNN where possible."""
    dtype = onednn_dtype(x)
    if dtype is None:
        return layer(x)
    return conv1d(x.to(dtype), layer.weight, layer.bias, layer.stride[0])


def norm_rows(x: Float[Tensor, "batch dim steps"]) -> Float[Tensor, "batch 3 steps"]:
    """Compute what statistics over steps are made of: sum, sum of squares, and a one to count by."""
    return torch.stack([x.sum(1), x.square().sum(1), torch.ones_like(x[:, 0])], dim=1)


class MoonshineAttention(nn.Module):
    """Projections of multi-head attention, of the encoder and of the decoder."""

    def __init__(self, config: MoonshineConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q_proj = Linear(config.dim, config.dim, bias=False)
        self.k_proj = Linear(config.dim, config.dim, bias=False)
        self.v_proj = Linear(config.dim, config.dim, bias=False)
        self.o_proj = Linear(config.dim, config.dim, bias=False)

    def heads(self, name: str, x: Float[Tensor, "batch steps dim"]) -> Float[Tensor, "batch heads steps head_dim"]:
        """Project to queries, keys or values by the projection of this name."""
        return rearrange(getattr(self, name)(x), "b t (h d) -> b h t d", h=self.num_heads)

    def rotated(
        self, name: str, x: Float[Tensor, "batch steps dim"], frequencies: Complex[Tensor, "steps half_dim"]
    ) -> Float[Tensor, "batch heads steps head_dim"]:
        """Project to queries or keys, with rotary positions."""
        return apply_rope(self.heads(name, x), frequencies)

    def merge(self, x: Float[Tensor, "batch heads steps head_dim"]) -> Float[Tensor, "batch steps dim"]:
        """Project the heads' outputs."""
        return self.o_proj(rearrange(x, "b h t d -> b t (h d)"))


class FeedForward(nn.Module):
    """Two linear layers; `gated` is the decoder's, with a gate beside the inner values."""

    def __init__(self, config: MoonshineConfig, gated: bool = False) -> None:
        super().__init__()
        self.gated = gated
        self.fc1 = Linear(config.dim, config.feedforward_dim * (1 + gated))
        self.fc2 = Linear(config.feedforward_dim, config.dim)

    def forward(self, x: Float[Tensor, "batch steps dim"]) -> Float[Tensor, "batch steps dim"]:
        """Transform each step."""
        x = self.fc1(x)
        if not self.gated:
            return self.fc2(F.gelu(x))
        inner, gate = x.chunk(2, dim=-1)
        return self.fc2(F.silu(gate) * inner)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each after a layer norm.

    Args:
        config: Sizes.
        sides: Frames to the left and to the right that attention covers; None is the whole clip.
    """

    def __init__(self, config: MoonshineConfig, sides: tuple[int, int] | None) -> None:
        super().__init__()
        self.config = config
        self.sides = sides
        self.self_attn = MoonshineAttention(config)
        self.mlp = FeedForward(config)
        self.input_layernorm = nn.LayerNorm(config.dim, bias=False)
        self.post_attention_layernorm = nn.LayerNorm(config.dim, bias=False)

    def forward(
        self,
        x: Float[Tensor, "batch steps dim"],
        frequencies: Complex[Tensor, "steps half_dim"],
        valid: Bool[Tensor, "batch steps"] | None,
    ) -> Float[Tensor, "batch steps dim"]:
        """Transform the frames; `valid` marks those that are attended to, None for all."""
        normed = self.input_layernorm(x)
        heads = self.self_attn
        query = heads.rotated("q_proj", normed, frequencies)
        key = heads.rotated("k_proj", normed, frequencies)
        return self._finish(x, attention(query, key, heads.heads("v_proj", normed), valid, self.sides))

    def step(
        self, x: Float[Tensor, "batch new dim"], state: AttentionState, last: bool
    ) -> tuple[Float[Tensor, "batch ready dim"], AttentionState]:
        """Run the next frames of a stream; only with a window."""
        assert self.sides is not None
        return step_in_window(x, state, last, self.sides, self._project, self._compute_ready)

    def _project(self, x: Float[Tensor, "batch steps dim"]) -> Float[Tensor, "batch steps 3*dim"]:
        normed = self.input_layernorm(x)
        heads = self.self_attn
        return torch.cat([heads.q_proj(normed), heads.k_proj(normed), heads.v_proj(normed)], dim=-1)

    def _compute_ready(self, projected: Tensor, x: Float[Tensor, "batch ready dim"], context: int) -> Tensor:
        assert self.sides is not None
        if not x.shape[1]:
            return x
        ready = slice(context, context + x.shape[1])
        steps = torch.arange(projected.shape[1], device=x.device)
        frequencies = rotary_factors(steps, self.config)
        heads = self.self_attn.num_heads
        query, key, value = rearrange(projected, "b t (three h d) -> three b h t d", three=3, h=heads)
        query = apply_rope(query[:, :, ready], frequencies[ready])
        mask = within(steps - steps[ready, None], self.sides)
        return self._finish(x, sdpa(query, apply_rope(key, frequencies), value, mask))

    def _finish(self, x: Float[Tensor, "batch steps dim"], attended: Tensor) -> Float[Tensor, "batch steps dim"]:
        x = x + self.self_attn.merge(attended)
        return x + self.mlp(self.post_attention_layernorm(x))
