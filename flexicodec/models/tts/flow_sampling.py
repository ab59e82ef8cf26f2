"""Sampling of the flow-matching decoder: from noise to mel frames in a few steps, with classifier-free guidance."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flexicodec.models.tts.flow_matching import VelocityDecoder
from flexicodec.nn.masking import valid_steps

# Called with the number of a step, the frames before it, and both velocities (the second is None without guidance).
Trace = Callable[[int, Tensor, Tensor, Tensor | None], None]


@dataclass(frozen=True)
class FlowSamplingConfig:
    """Settings of `sample`.

    Attributes:
        steps: Evaluations of the network; twice as many with guidance.
        guidance: w in v + w (v - u), u being the velocity without prompt and codes; 0 does without. Elsewhere 1 + w is
            called the scale.
        rescale: Share of the guided velocity that is scaled to the deviation of the unguided one.
        compatible: Upstream's deviations, of the whole batch with its padding, so that items depend on one another.
    """

    steps: int = 15
    guidance: float = 2.0
    rescale: float = 0.75
    compatible: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; expected at least 1")
        if self.guidance < 0 or not 0 <= self.rescale <= 1:
            raise ValueError(
                f"guidance is {self.guidance} and rescale {self.rescale}; expected 0 or more, and a share from 0 to 1"
            )


SETTINGS = FlowSamplingConfig()


@torch.no_grad()
def sample(
    model: VelocityDecoder,
    codes: Int[Tensor, "batch codes *fields"],
    noise: Float[Tensor, "batch frames output"],
    prompt: Float[Tensor, "batch prompt output"] | None = None,
    lengths: Int[Tensor, " batch"] | None = None,
    config: FlowSamplingConfig = SETTINGS,
    trace: Trace | None = None,
) -> Float[Tensor, "batch frames output"]:
    """Sample the frames behind a prompt.

    Args:
        model: In eval mode.
        codes: A code per codec frame, of prompt and target.
        noise: Standard normal, of the target's frames.
        prompt: Frames that are given, equally many for each item.
        lengths: Valid target frames; None for all.
        config: Settings.
        trace: Called at every step.
    """
    # | prompt, given at every step | target, from noise to mel frames |
    given = noise[:, :0] if prompt is None else prompt
    total = given.shape[1] + noise.shape[1]
    embedded = model.embed_codes(codes)[:, :total]
    if embedded.shape[1] != total:
        raise ValueError(
            f"{given.shape[1]} prompt frames and {noise.shape[1]} target frames are more than the codes stand for "
            f"({embedded.shape[1]})"
        )
    valid = valid_steps(lengths, noise.shape[1])
    all_valid = None
    if valid is not None:
        all_valid = torch.cat([valid.new_ones(len(valid), given.shape[1]), valid], dim=1)

    # What does not change from step to step: gains of the norms, and the conditions.
    times = model.step_times(config.steps).to(noise.device)
    gains = model.time_gains(times)
    condition = model.condition_mlp(embedded)
    nothing = model.condition_mlp(torch.zeros_like(embedded[:1, :1])).expand(1, noise.shape[1], -1)
    x = noise
    for step in range(config.steps):
        step_gains = [gain[step : step + 1] for gain in gains]
        inputs = torch.cat([given, x], dim=1)
        with_codes = model.velocity(inputs, step_gains, condition, all_valid)[:, given.shape[1] :]
        # Without prompt and codes, the target alone is the whole sequence and begins at position 0.
        velocity = with_codes
        without = None
        if config.guidance > 0:
            without = model.velocity(x, step_gains, nothing, valid)
            velocity = _guided(with_codes, without, valid, config)
        if trace is not None:
            trace(step, x, with_codes, without)
        x = x + velocity / config.steps
    return x


def _guided(
    with_codes: Float[Tensor, "batch frames output"],
    without: Float[Tensor, "batch frames output"],
    valid: Bool[Tensor, "batch frames"] | None,
    config: FlowSamplingConfig,
) -> Float[Tensor, "batch frames output"]:
    """Move away from the velocity without codes, and keep most of the deviation (arXiv 2305.08891, section 3.4)."""
    # 1 + guidance is what others call the scale.
    guided = with_codes + config.guidance * (with_codes - without)
    if config.rescale == 0:
        return guided
    if config.compatible:
        ratio = with_codes.std() / guided.std()
    else:
        ratio = _item_deviation(with_codes, valid) / _item_deviation(guided, valid)
    return config.rescale * ratio * guided + (1 - config.rescale) * guided


def _item_deviation(
    x: Float[Tensor, "batch frames output"], valid: Bool[Tensor, "batch frames"] | None
) -> Float[Tensor, "batch 1 1"]:
    """Unbiased standard deviation of each item's valid frames."""
    if valid is None:
        return x.flatten(1).std(1)[:, None, None]
    deviations = [frames[mask].std() for frames, mask in zip(x, valid, strict=True)]
    return torch.stack(deviations)[:, None, None]
