"""The flow-matching decoder: repeated semantic codes and a prompt of mel frames to mel frames, after Voicebox.

A bidirectional transformer estimates the velocity along straight paths from noise (t = 0) to mel frames (t = 1). Its
norms are scaled by the time, and these scales depend on nothing else, so a sampler computes them once for all its
steps.
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor, nn

from flexicodec.models.tts.config import FlowMatchingConfig
from flexicodec.nn.attention import apply_rope, rope_frequencies, sdpa
from flexicodec.nn.masking import length_mask
from flexicodec.nn.onednn import Linear

NORM_EPS = 1e-6
EXPANSION = 4  # hidden width of all perceptrons over their width
SMALLEST_TIME = 1e-5  # in training
LONGEST_PROMPT = 0.4  # of the frames of a training item


class AdaptiveRMSNorm(nn.Module):
    """A root-mean-square norm whose gain is a linear map of the time embedding.

    Args:
        dim: Width of features and time embedding.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gain = Linear(dim, dim)
        nn.init.zeros_(self.gain.weight)
        nn.init.ones_(self.gain.bias)

    def forward(
        self, x: Float[Tensor, "batch frames dim"], gain: Float[Tensor, "#batch dim"]
    ) -> Float[Tensor, "batch frames dim"]:
        """Normalise, with a gain that `self.gain` made."""
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + NORM_EPS)
        return (normed * gain[:, None]).to(x.dtype)


class VelocityLayer(nn.Module):
    """Llama's layer without a causal mask, with adaptive norms.

    Args:
        dim: Width.
        num_heads: Attention heads.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = AdaptiveRMSNorm(dim)
        self.q_proj = Linear(dim, dim, bias=False)
        self.k_proj = Linear(dim, dim, bias=False)
        self.v_proj = Linear(dim, dim, bias=False)
        self.out_proj = Linear(dim, dim, bias=False)
        self.norm2 = AdaptiveRMSNorm(dim)
        self.gate_proj = Linear(dim, EXPANSION * dim, bias=False)
        self.up_proj = Linear(dim, EXPANSION * dim, bias=False)
        self.down_proj = Linear(EXPANSION * dim, dim, bias=False)

    def forward(
        self,
        x: Float[Tensor, "batch frames dim"],
        gains: tuple[Tensor, Tensor],
        rope: Complex[Tensor, "frames half_dim"],
        attended: Bool[Tensor, "batch 1 1 frames"] | None,
    ) -> Float[Tensor, "batch frames dim"]:
        """Attend to the frames that `attended` marks, all for None; padding attends as well, and nobody to it."""
        y = self.norm1(x, gains[0])
        queries = apply_rope(self._heads(self.q_proj(y)), rope)
        keys = apply_rope(self._heads(self.k_proj(y)), rope)
        out = sdpa(queries, keys, self._heads(self.v_proj(y)), attended)
        x = x + self.out_proj(out.transpose(1, 2).flatten(2))
        y = self.norm2(x, gains[1])
        return x + self.down_proj(F.silu(self.gate_proj(y)) * self.up_proj(y))

    def _heads(self, x: Float[Tensor, "batch frames dim"]) -> Float[Tensor, "batch heads frames head_dim"]:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


@dataclass(frozen=True)
class FlowDraws:
    """What a training step draws for a batch.

    Attributes:
        t: Time of each item.
        noise: Start of the path.
        prompt_lengths: Frames of each item that are given, 0 for none.
        is_dropped: Items without prompt and codes.
    """

    t: Float[Tensor, " batch"]
    noise: Float[Tensor, "batch frames dim"]
    prompt_lengths: Int[Tensor, " batch"]
    is_dropped: Bool[Tensor, " batch"]


@dataclass(frozen=True)
class FlowLoss:
    """Loss of a batch and what it was computed of.

    Attributes:
        loss: Mean absolute error of the velocity over the frames of `counted`.
        velocity: Estimated.
        target: To be estimated.
        noisy: Input of the network.
        counted: Valid frames behind the prompts.
        alignment: Output of `config.alignment_layer`, for `AlignmentHead`.
    """

    loss: Float[Tensor, ""]
    velocity: Float[Tensor, "batch frames dim"]
    target: Float[Tensor, "batch frames dim"]
    noisy: Float[Tensor, "batch frames dim"]
    counted: Bool[Tensor, "batch frames"]
    alignment: Float[Tensor, "batch frames width"]


class VelocityDecoder(nn.Module):
    """Estimates velocities; a subclass says how codes are embedded.

    Args:
        config: Sizes.
    """

    def __init__(self, config: FlowMatchingConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.time_mlp = _perceptron(dim, dim, dim)
        self.condition_mlp = _perceptron(dim, dim, dim)
        self.input_mlp = _perceptron(config.output_dim, dim, dim)
        self.layers = nn.ModuleList(VelocityLayer(dim, config.num_heads) for _ in range(config.num_layers))
        self.norm = AdaptiveRMSNorm(dim)
        self.output_mlp = _perceptron(dim, dim, config.output_dim)

    # ---------------------------------------------------------------------------------------------------- the network

    def embed_codes(self, codes: Int[Tensor, "batch codes *fields"]) -> Float[Tensor, "batch frames dim"]:
        """Embed what is known of each codec frame, at the frames of the output."""
        raise NotImplementedError

    def embed_times(self, t: Float[Tensor, " times"]) -> Float[Tensor, "times dim"]:
        """Embed times in [0, 1]."""
        return self.time_mlp(time_sinusoids(t, self.config.dim).to(self.norm.gain.weight.dtype))

    def time_gains(self, t: Float[Tensor, " times"]) -> list[Float[Tensor, "times dim"]]:
        """Compute the gains of all norms: two per layer, then the last one's."""
        embedded = self.embed_times(t)
        gains = []
        for layer in cast(list[VelocityLayer], list(self.layers)):
            gains += [layer.norm1.gain(embedded), layer.norm2.gain(embedded)]
        return [*gains, self.norm.gain(embedded)]

    def step_times(self, steps: int) -> Float[Tensor, " steps"]:
        """Return the times at which a sampler of so many equal steps asks for velocities: the middle of each step."""
        return (torch.arange(steps) + 0.5) / steps

    def velocity(
        self,
        x: Float[Tensor, "batch frames output"],
        gains: list[Float[Tensor, "#batch dim"]],
        condition: Float[Tensor, "#batch frames dim"],
        valid: Bool[Tensor, "batch frames"] | None = None,
        hidden: list[Tensor] | None = None,
    ) -> Float[Tensor, "batch frames output"]:
        """Estimate the velocity.

        Args:
            x: Noisy frames, clean ones where they are given.
            gains: Of `time_gains`.
            condition: Of `condition_mlp`.
            valid: Frames that are no padding; None for all.
            hidden: A list that the outputs of all layers are appended to.
        """
        # The condition is added to the input; there is no other.
        h = self.input_mlp(x.to(condition.dtype)) + condition
        rope = rope_frequencies(torch.arange(x.shape[1], device=x.device), self.config.dim // self.config.num_heads)
        attended = None
        if valid is not None:  # an item without valid frames attends to its padding: a softmax over nothing is NaN
            attended = (valid | ~valid.any(dim=1, keepdim=True))[:, None, None]
        for index, layer in enumerate(self.layers):
            h = layer(h, (gains[2 * index], gains[2 * index + 1]), rope, attended)
            if hidden is not None:
                hidden.append(h)
        return self.output_mlp(self.norm(h, gains[-1])).float()

    # --------------------------------------------------------------------------------------------------------- training

    def draw(
        self,
        lengths: Int[Tensor, " batch"],
        frames: int,
        generator: torch.Generator | None = None,
        *,
        compatible: bool = False,
    ) -> FlowDraws:
        """Draw times, noise and prompts for a batch.

        Args:
            lengths: Valid frames of each item.
            frames: Frames with padding.
            generator: On the CPU.
            compatible: Upstream's way: prompts as long as the padded batch allows, so that short items may have no
                frame left, and all items or none without prompt and codes.
        """
        # In upstream's order: times, noise, who is dropped, prompts.
        batch = len(lengths)
        t = torch.rand(batch, generator=generator).clamp(SMALLEST_TIME, 1.0)
        if self.config.schedule == "cos":
            t = 1 - torch.cos(t * math.pi / 2)
        noise = torch.randn(batch, frames, self.config.output_dim, generator=generator)
        dropped = torch.rand(1 if compatible else batch, generator=generator) <= self.config.drop_probability
        prompts = []
        for length in [frames] if compatible else lengths.tolist():
            lowest = min(length // 4, 5)
            highest = max(lowest + 1, int(LONGEST_PROMPT * length))
            prompts.append(torch.randint(lowest, highest, (batch if compatible else 1,), generator=generator))
        is_dropped = dropped.expand(batch)
        prompt_lengths = torch.cat(prompts).masked_fill(is_dropped, 0)
        device = lengths.device
        return FlowDraws(t.to(device), noise.to(device), prompt_lengths.to(device), is_dropped.to(device))

    def forward(
        self,
        codes: Int[Tensor, "batch codes *fields"],
        frames: Float[Tensor, "batch frames output"],
        lengths: Int[Tensor, " batch"],
        draws: FlowDraws,
    ) -> FlowLoss:
        """Compute the loss of a batch.

        Args:
            codes: A code per codec frame, 0 past the end.
            frames: Mel frames, or another target of as many frames as the codes stand for.
            lengths: Valid frames.
            draws: Of `draw`.
        """
        total = frames.shape[1]
        condition = self.embed_codes(codes)[:, :total]
        if condition.shape[1] != total:
            raise ValueError(f"{total} frames are more than {codes.shape[1]} codes stand for ({condition.shape[1]})")
        # Prompts are clean; everything else is on the way from noise at t = 0 to the frames at t = 1.
        valid = length_mask(lengths, total)
        given = length_mask(draws.prompt_lengths, total)
        t = draws.t[:, None, None]
        remaining = 1 - self.config.sigma
        noisy = torch.where(given[..., None], frames, (1 - remaining * t) * draws.noise + t * frames)
        target = frames - remaining * draws.noise
        # A dropped condition is zero before its perceptron, whose biases still act.
        condition = self.condition_mlp(condition * ~draws.is_dropped[:, None, None])
        hidden: list[Tensor] = []
        velocity = self.velocity(noisy, self.time_gains(draws.t), condition, valid, hidden)
        counted = valid & ~given
        loss = (velocity - target).abs().mean(-1)[counted].mean()
        alignment = hidden[min(self.config.alignment_layer, len(hidden) - 1)]
        return FlowLoss(loss, velocity, target, noisy, counted, alignment)


class FlowMatchingDecoder(VelocityDecoder):
    """The released architecture, 362,860,672 parameters at its default sizes.

    Args:
        config: Sizes.
    """

    def __init__(self, config: FlowMatchingConfig) -> None:
        super().__init__(config)
        self.code_embedding = nn.Embedding(config.codebook_size, config.dim)

    def embed_codes(self, codes: Int[Tensor, "batch codes"]) -> Float[Tensor, "batch frames dim"]:
        """Look up codes and repeat them to the frames of the output."""
        return self.code_embedding(codes).repeat_interleave(self.config.frames_per_code, dim=1)


class AlignmentHead(nn.Module):
    """Compares hidden features with semantic ones, in training only (REPA, arXiv 2410.06940).

    Args:
        dim: Width of the hidden features.
        feature_dim: Channels of the semantic features.
        hidden_dim: Inner width.
    """

    def __init__(self, dim: int = 1024, feature_dim: int = 512, hidden_dim: int = 2048) -> None:
        super().__init__()
        self.mlp = nn.Sequential(Linear(dim, hidden_dim), nn.SiLU(), Linear(hidden_dim, feature_dim))

    def forward(
        self,
        hidden: Float[Tensor, "batch frames dim"],
        features: Float[Tensor, "batch feature_dim codes"],
        lengths: Int[Tensor, " batch"],
    ) -> Float[Tensor, ""]:
        """Compute 1 - cosine, averaged over codec frames with a valid frame.

        Args:
            hidden: Output of a layer.
            features: Semantic features on the codec's grid.
            lengths: Valid frames of `hidden`.
        """
        per_code = hidden.shape[1] // features.shape[2]
        pooled = hidden[:, : per_code * features.shape[2]].unflatten(1, (-1, per_code)).mean(2)
        distance = 1 - F.cosine_similarity(self.mlp(pooled), features.mT, dim=-1)
        valid = length_mask(lengths, hidden.shape[1]).float()
        counted = F.interpolate(valid[:, None], size=features.shape[2], mode="linear")[:, 0] > 0
        return distance[counted].mean()


def time_sinusoids(t: Float[Tensor, " times"], dim: int) -> Float[Tensor, "times dim"]:
    """Sines, then cosines, of times in [0, 1]; unlike elsewhere these are not multiplied by 1000."""
    half = dim // 2
    rates = torch.exp(torch.arange(half, device=t.device) * (-math.log(10000.0) / (half - 1)))
    angles = t.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def _perceptron(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(Linear(inputs, EXPANSION * width), nn.SiLU(), Linear(EXPANSION * width, outputs))
