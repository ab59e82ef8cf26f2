"""Flow matching to the latents that a codec decodes, one vector a frame of its grid: no mel frames and no vocoder.

The network is that of `flow_matching.py`. Each frame knows the code of its token, its place in it and its duration:

    token      7       9    5         code      7 7 7 9 5 5
    duration   3       1    2         place     0 1 2 0 0 1
                                      duration  3 3 3 1 2 2
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flexicodec.merging.durations import token_index
from flexicodec.models.tts.config import FlowMatchingConfig
from flexicodec.models.tts.digits import CodeEmbedding
from flexicodec.models.tts.flow_matching import VelocityDecoder
from flexicodec.models.tts.token_lm import CodeSpace

SMALLEST_DEVIATION = 1e-4  # of a channel; it is a constant then
SMALLEST_REST = 0.05  # of the way that is left, by which the distance to its end is divided


class LatentFlow(VelocityDecoder):
    """The decoder of tokens.

    Args:
        config: Sizes; `output_dim` is the width of the latents.
        space: Codes of the codec.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: FlowMatchingConfig, space: CodeSpace) -> None:
        if config.frames_per_code != 1:
            raise ValueError(f"frames_per_code is {config.frames_per_code}; latents have the frames of the codes: 1")
        super().__init__(config)
        self.code_embedding = CodeEmbedding(space.levels, config.dim)
        self.place_embedding = nn.Embedding(space.max_duration, config.dim)
        self.duration_embedding = nn.Embedding(space.max_duration, config.dim)
        # Of the training data, set before the first step.
        self.register_buffer("mean", torch.zeros(config.output_dim))
        self.register_buffer("deviation", torch.ones(config.output_dim))

    def embed_codes(self, codes: Int[Tensor, "batch frames fields"]) -> Float[Tensor, "batch frames dim"]:
        """Embed code, place and duration of each frame, as `frame_fields` lists them."""
        code, place, duration = codes.unbind(-1)
        return self.code_embedding(code) + self.place_embedding(place) + self.duration_embedding(duration - 1)

    def time_gains(self, t: Float[Tensor, " times"]) -> list[Float[Tensor, "times _"]]:
        """Compute the gains of all norms, and the times themselves."""
        return [*super().time_gains(t), t[:, None]]

    def velocity(
        self,
        x: Float[Tensor, "batch frames output"],
        gains: list[Float[Tensor, "#batch _"]],
        condition: Float[Tensor, "#batch frames dim"],
        valid: Bool[Tensor, "batch frames"] | None = None,
        hidden: list[Tensor] | None = None,
    ) -> Float[Tensor, "batch frames output"]:
        """Estimate the velocity from an estimate of the path's end (arXiv 2511.13720).

        The noise then need not pass through the network, whose width may be less than that of the latents.
        """
        end = super().velocity(x, gains[:-1], condition, valid, hidden)
        rest = (1 - gains[-1]).clamp(min=SMALLEST_REST)
        return (end - x) / rest[..., None]

    def step_times(self, steps: int) -> Float[Tensor, " steps"]:
        """Return the start of each step (Euler's method): a later time would overshoot an end that is estimated.

        The last of up to 20 steps then arrives at the estimate, which has no noise left.
        """
        return torch.arange(steps) / steps

    def fit(self, latents: Float[Tensor, "dim frames"]) -> None:
        """Take mean and deviation of each channel from frames of training data."""
        self.mean.copy_(latents.mean(1))
        self.deviation.copy_(latents.std(1).clamp(min=SMALLEST_DEVIATION))

    def standardise(self, latents: Float[Tensor, "batch dim frames"]) -> Float[Tensor, "batch frames dim"]:
        """Give every channel mean 0 and deviation 1."""
        return (latents.mT.float() - self.mean) / self.deviation

    def restore(self, frames: Float[Tensor, "batch frames dim"]) -> Float[Tensor, "batch dim frames"]:
        """Undo `standardise`."""
        return (frames.float() * self.deviation + self.mean).mT


def frame_fields(
    codes: Int[Tensor, "batch tokens"], durations: Int[Tensor, "batch tokens"]
) -> Int[Tensor, "batch frames 3"]:
    """List code, place in the token and duration for each frame; 0, 0 and 1 in the padding."""
    total = int(durations.sum(1).max())
    index = token_index(durations, total)
    is_frame = index < durations.shape[1]
    index = index.clamp(max=durations.shape[1] - 1)
    starts = (durations.cumsum(1) - durations).gather(1, index)
    place = torch.arange(total, device=codes.device) - starts
    fields = torch.stack([codes.gather(1, index), place, durations.gather(1, index)], dim=-1)
    return torch.where(is_frame[..., None], fields, fields.new_tensor([0, 0, 1]))
