"""The encoder of Moonshine (arXiv 2410.15608): convolutions on raw audio and transformer blocks, 41.67 frames a second.

Parameters have the names of transformers' `MoonshineModel`, and features are equal to its features for a clip alone.
There padding leaks into the valid frames, through the group norm's statistics and through a mask of ceil(samples / 384)
frames where the clip has fewer. Here neither happens, so a clip has the same features in any batch.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor, nn

from flexicodec.encoders.base import MoonshineConfig
from flexicodec.nn.attention import apply_rope, attention
from flexicodec.nn.masking import length_mask, valid_steps, zero_padding

KERNELS = (127, 7, 3)
STRIDES = (64, 3, 2)
FRAME_SIZE = 384  # samples from one frame to the next
FIRST_FRAME = 895  # samples of the first frame


def num_frames(samples: Int[Tensor, " batch"], convolutions: int = 3) -> Int[Tensor, " batch"]:
    """Count the outputs of the first convolutions; by default, the encoder's frames."""
    for kernel, stride in zip(KERNELS[:convolutions], STRIDES, strict=False):
        samples = torch.div(samples - kernel, stride, rounding_mode="floor") + 1
    return samples.clamp(min=0)


def rotary_factors(positions: Int[Tensor, " steps"], config: MoonshineConfig) -> Complex[Tensor, "steps half_dim"]:
    """Compute rotary positions for `apply_rope`, with the float32 angles that the weights were trained with."""
    pairs = torch.arange(0, config.rotary_dim, 2, device=positions.device).float()
    angles = positions[:, None].float() * (1.0 / 10000.0 ** (pairs / config.rotary_dim))
    if torch.compiler.is_exporting():  # runtimes have no complex numbers
        return torch.cat([angles.cos(), angles.sin()], dim=-1)
    return torch.complex(angles.cos(), angles.sin())


class MoonshineEncoder(nn.Module):
    """Moonshine's encoder; a `SemanticEncoder`."""

    sample_rate = 16_000
    frame_rate = sample_rate / FRAME_SIZE

    def __init__(self, config: MoonshineConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MoonshineConfig()
        self.dim = dim = config.dim
        self.conv1 = nn.Conv1d(1, dim, KERNELS[0], STRIDES[0], bias=False)
        self.groupnorm = nn.GroupNorm(1, dim)
        self.conv2 = nn.Conv1d(dim, 2 * dim, KERNELS[1], STRIDES[1])
        self.conv3 = nn.Conv1d(2 * dim, dim, KERNELS[2], STRIDES[2])
        self.layers = nn.ModuleList([EncoderLayer(config, window) for window in config.layer_windows])
        self.layer_norm = nn.LayerNorm(dim, bias=False)

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
        lengths = lengths + left
        audio = F.pad(audio, (left, max(0, FIRST_FRAME - left - audio.shape[1])))
        audio = audio.masked_fill(~length_mask(lengths, audio.shape[1]), 0)  # padding may be NaN
        x = self._convolve(audio, lengths)
        frames = num_frames(lengths)
        valid = valid_steps(frames, x.shape[2])
        positions = torch.arange(x.shape[2], device=x.device)
        frequencies = rotary_factors(positions, self.config)
        x = x.mT
        for layer in self.layers:
            x = layer(x, frequencies, valid)
        return zero_padding(self.layer_norm(x).mT, valid), frames

    def _convolve(
        self, audio: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch dim frames"]:
        # A convolution's valid outputs depend on valid inputs alone, so only the norm needs a mask.
        x = torch.tanh(self.conv1(audio[:, None]))
        x = self._normalise(x, valid_steps(num_frames(lengths, 1), x.shape[2]))
        x = F.gelu(self.conv2(x))
        return F.gelu(self.conv3(x))

    def _normalise(
        self, x: Float[Tensor, "batch dim steps"], valid: Bool[Tensor, "batch steps"] | None
    ) -> Float[Tensor, "batch dim steps"]:
        """Apply the group norm with the mean and variance of each item's valid steps."""
        norm = self.groupnorm
        if valid is None:
            return norm(x)
        count = (valid.sum(dim=1) * x.shape[1]).clamp(min=1)[:, None, None]
        inside = valid[:, None]
        mean = x.masked_fill(~inside, 0).sum(dim=(1, 2), keepdim=True) / count
        x = x - mean
        variance = x.masked_fill(~inside, 0).square().sum(dim=(1, 2), keepdim=True) / count
        return x * torch.rsqrt(variance + norm.eps) * norm.weight[:, None] + norm.bias[:, None]


class MoonshineAttention(nn.Module):
    """Projections of multi-head attention, of the encoder and of the decoder; only the first dimensions are rotated."""

    def __init__(self, config: MoonshineConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.rotary_dim = config.rotary_dim
        self.q_proj = nn.Linear(config.dim, config.dim, bias=False)
        self.k_proj = nn.Linear(config.dim, config.dim, bias=False)
        self.v_proj = nn.Linear(config.dim, config.dim, bias=False)
        self.o_proj = nn.Linear(config.dim, config.dim, bias=False)

    def heads(self, name: str, x: Float[Tensor, "batch steps dim"]) -> Float[Tensor, "batch heads steps head_dim"]:
        """Project to queries, keys or values by the projection of this name."""
        return rearrange(getattr(self, name)(x), "b t (h d) -> b h t d", h=self.num_heads)

    def rotated(
        self,
        name: str,
        x: Float[Tensor, "batch steps dim"],
        frequencies: Complex[Tensor, "steps half_dim"],
    ) -> Float[Tensor, "batch heads steps head_dim"]:
        """Project to queries or keys, with rotary positions."""
        x = self.heads(name, x)
        return torch.cat([apply_rope(x[..., : self.rotary_dim], frequencies), x[..., self.rotary_dim :]], dim=-1)

    def merge(self, x: Float[Tensor, "batch heads steps head_dim"]) -> Float[Tensor, "batch steps dim"]:
        """Project the heads' outputs."""
        return self.o_proj(rearrange(x, "b h t d -> b t (h d)"))


class FeedForward(nn.Module):
    """Two linear layers; `gated` is the decoder's, with a gate beside the inner values."""

    def __init__(self, config: MoonshineConfig, gated: bool = False) -> None:
        super().__init__()
        self.gated = gated
        self.fc1 = nn.Linear(config.dim, config.feedforward_dim * (1 + gated))
        self.fc2 = nn.Linear(config.feedforward_dim, config.dim)

    def forward(self, x: Float[Tensor, "batch steps dim"]) -> Float[Tensor, "batch steps dim"]:
        """Transform each step."""
        x = self.fc1(x)
        if not self.gated:
            return self.fc2(F.gelu(x))
        inner, gate = x.chunk(2, dim=-1)
        return self.fc2(F.silu(gate) * inner)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each after a layer norm."""

    def __init__(self, config: MoonshineConfig, window: int | None) -> None:
        super().__init__()
        self.window = window
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
        x = x + heads.merge(attention(query, key, heads.heads("v_proj", normed), valid, self.window))
        return x + self.mlp(self.post_attention_layernorm(x))
