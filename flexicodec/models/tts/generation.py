"""Generation of tokens and durations from text, for batches of any prompts: a step gives every item its next token.

Items are padded on the left, which relative positions do not notice, so that a batch equals each item alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flexicodec.models.tts.ar import NO_DURATION, ARBatch, AutoregressiveTTS
from flexicodec.models.tts.sampling import GREEDY, Sampling, draw, repeats, unrestricted
from flexicodec.nn.masking import length_mask

CONTROL_POSITIONS = 3  # start, rate, task
TOKENS_PER_TEXT_ID = 20  # upstream's limit


@dataclass(frozen=True)
class GenerationConfig:
    """Settings of `generate`.

    Attributes:
        tokens: How tokens are drawn.
        durations: How durations are drawn.
        min_tokens: The end is not drawn before.
        max_tokens: Most tokens of an item; None for 20 times its text.
        max_duration: Longest duration in frames; None for the model's.
        max_frames: Stop behind the token with which an item has so many frames; None for no such limit.
        seed: Of all items, or one for each. An item depends on its own seed only.
        compatible: Upstream's ways: an unknown rate has no position, durations that no codec has can be drawn, and the
            last token before the limit gets no duration.
    """

    tokens: Sampling = Sampling()
    durations: Sampling = GREEDY
    min_tokens: int = 0
    max_tokens: int | None = None
    max_duration: int | None = None
    max_frames: int | None = None
    seed: int | Sequence[int] = 0
    compatible: bool = False

    def __post_init__(self) -> None:
        if self.min_tokens < 0:
            raise ValueError(f"min_tokens is {self.min_tokens}; expected 0 or more")
        for name in ("max_tokens", "max_duration", "max_frames"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected 1 or more, or None")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens {self.min_tokens} is above max_tokens {self.max_tokens}")


SETTINGS = GenerationConfig()


@dataclass(frozen=True)
class Step:
    """One step of a batch.

    Attributes:
        token_logits: As the head gives them.
        duration_logits: Of the tokens of the step before; None at the first step.
        tokens: Drawn now; the end's id where an item has ended.
        durations: Frames of the tokens of the step before; 0 where there was none.
        reached_limit: Items that have been stopped before their end so far.
    """

    token_logits: Float[Tensor, "batch ids"]
    duration_logits: Float[Tensor, "batch classes"] | None
    tokens: Int[Tensor, " batch"]
    durations: Int[Tensor, " batch"]
    reached_limit: Bool[Tensor, " batch"]


@dataclass(frozen=True)
class Generated:
    """Generated tokens.

    Attributes:
        tokens: Semantic codes, 0 past an item's length.
        durations: Frames of each, 0 past an item's length, and for a last token without one (`compatible`).
        lengths: Tokens of each item.
        reached_limit: Items that were stopped before their end.
    """

    tokens: Int[Tensor, "batch tokens"]
    durations: Int[Tensor, "batch tokens"]
    lengths: Int[Tensor, " batch"]
    reached_limit: Bool[Tensor, " batch"]


def generate(model: AutoregressiveTTS, prompts: ARBatch, config: GenerationConfig = SETTINGS) -> Generated:
    """Generate until all items have ended.

    Args:
        model: In eval mode.
        prompts: Text, the reference's included, and the tokens of the reference.
        config: Settings.

    Raises:
        ValueError: A text without ids, ids or durations out of range, an unknown threshold, or a prompt that leaves no
            room for tokens.
    """
    steps = list(generate_steps(model, prompts, config))
    drawn = torch.stack([step.tokens for step in steps], dim=1)
    is_token = drawn != model.config.end
    # The duration of a token is known one step later.
    durations = torch.stack([step.durations for step in steps], dim=1)
    durations = F.pad(durations[:, 1:], (0, 1))
    lengths = is_token.sum(1)
    longest = int(lengths.max())
    tokens = drawn.masked_fill(~is_token, 0)
    return Generated(tokens[:, :longest], durations[:, :longest], lengths, steps[-1].reached_limit)


@torch.no_grad()
def generate_steps(model: AutoregressiveTTS, prompts: ARBatch, config: GenerationConfig) -> Iterator[Step]:
    """Generate step by step, as `generate` does; tokens can be decoded while others are generated."""
    end = model.config.end
    _check_prompts(model, prompts)
    batch = len(prompts.text)
    device = prompts.text.device
    generators = item_generators(config.seed, batch)

    max_tokens = _max_tokens(model, prompts, config)

    # All sequences end at the last position of the prefix.
    sequences = model.embed(prompts, rate_slot=not config.compatible)
    longest = max(map(len, sequences))
    starts = torch.tensor([longest - len(sequence) for sequence in sequences], device=device)
    prefix = torch.stack([F.pad(sequence, (0, 0, longest - len(sequence), 0)) for sequence in sequences])
    padding = starts if bool(starts.any()) else None
    caches = model.lm.new_caches()
    hidden = model.lm(prefix, padding, caches)[:, -1]

    # What is known of each item
    previous = _last_durations(prompts)
    frames = torch.zeros(batch, dtype=torch.long, device=device)
    running = torch.ones(batch, dtype=torch.bool, device=device)
    reached_limit = torch.zeros_like(running)
    drawn: list[Tensor] = []
    index = 0
    while True:
        # The duration of the token that was the input
        token_logits = model.token_head(hidden).float()
        duration_logits = None
        durations = torch.zeros_like(frames)
        if index > 0:
            duration_logits = model.duration_head(hidden).float()
            allowed = _allowed_durations(model, duration_logits, config)
            previous = draw(allowed, config.durations, generators)
            durations = previous.masked_fill(~running, 0)
            frames = frames + durations

        # The next token, unless the item is at its limit
        at_limit = running & (index >= max_tokens)
        if config.max_frames is not None:
            at_limit |= running & (frames >= config.max_frames)
        running = running & ~at_limit
        choices = token_logits
        if index < config.min_tokens:
            choices = token_logits.index_fill(1, torch.tensor([end], device=device), -torch.inf)
        tokens = draw(choices, config.tokens, generators)
        for row in repeats(tokens, drawn, config.tokens):
            tokens[row] = draw(choices[row : row + 1], unrestricted(config.tokens), generators[row : row + 1])[0]
        drawn.append(tokens)
        tokens = tokens.masked_fill(~running, end)
        running = running & (tokens != end)
        if config.compatible:  # the last token's duration would take one more step
            at_limit |= running & (index + 1 >= max_tokens)
            running = running & ~at_limit
        reached_limit = reached_limit | at_limit
        yield Step(token_logits, duration_logits, tokens, durations, reached_limit)
        if not bool(running.any()):
            return
        # Items that have ended go on with any token; nobody reads it.
        x = model.embed_tokens(tokens.masked_fill(~running, 0)[:, None], previous[:, None])
        hidden = model.lm(x, padding, caches)[:, -1]
        index += 1


def _check_prompts(model: AutoregressiveTTS, prompts: ARBatch) -> None:
    config = model.config
    check_prompts(
        "ids",
        prompts.text_lengths,
        prompts.token_lengths,
        text_id=(prompts.text, 0, config.text_vocabulary - 1),
        token=(prompts.tokens, 0, config.codebook_size - 1),
        duration=(prompts.durations, 1, config.max_duration),
    )


def check_prompts(
    unit: str,
    text_lengths: Int[Tensor, " batch"],
    token_lengths: Int[Tensor, " batch"],
    **parts: tuple[Tensor, int, int],
) -> None:
    """Refuse what a model's embeddings do not have.

    Args:
        unit: What texts consist of, for the message.
        text_lengths: Units of text of each item.
        token_lengths: Tokens of each item.
        parts: Integers [batch, steps] by what they are, with the lowest and highest one; `text_id` has `text_lengths`.
    """
    if bool((text_lengths < 1).any()):
        raise ValueError(f"a text has no {unit}; expected at least one")
    for name, (values, lowest, highest) in parts.items():
        lengths = text_lengths if name == "text_id" else token_lengths
        valid = values[length_mask(lengths, values.shape[1])]
        wrong = valid[(valid < lowest) | (valid > highest)]
        if len(wrong):
            raise ValueError(
                f"{name.replace('_', ' ')} {int(wrong[0])} of a prompt is out of range; this model has {lowest} to "
                f"{highest}"
            )


def item_generators(seed: int | Sequence[int], batch: int) -> list[torch.Generator]:
    """Make a random generator for each item of a batch."""
    seeds = list(seed) if isinstance(seed, Sequence) else [int(seed)] * batch
    if len(seeds) != batch:
        raise ValueError(f"{len(seeds)} seeds for {batch} items; give one for each, or one for all")
    return [torch.Generator().manual_seed(each) for each in seeds]


def _max_tokens(model: AutoregressiveTTS, prompts: ARBatch, config: GenerationConfig) -> Int[Tensor, " batch"]:
    """Most tokens of each item, as far as there are positions."""
    text_lengths = prompts.text_lengths
    prefix = CONTROL_POSITIONS + int((text_lengths + prompts.token_lengths).max())
    room = model.config.max_positions - prefix
    if room < 1:
        raise ValueError(
            f"text and reference take {prefix} positions and leave no room for tokens; this model has "
            f"{model.config.max_positions}"
        )
    if config.max_tokens is not None:
        return torch.full_like(text_lengths, config.max_tokens).clamp(max=room)
    return (TOKENS_PER_TEXT_ID * text_lengths).clamp(max=room)


def _last_durations(prompts: ARBatch) -> Int[Tensor, " batch"]:
    """Duration of each prompt's last token, `NO_DURATION` without a prompt."""
    padded = F.pad(prompts.durations, (1, 0), value=NO_DURATION)
    return padded.gather(1, prompts.token_lengths[:, None])[:, 0]


def _allowed_durations(
    model: AutoregressiveTTS, logits: Float[Tensor, "batch classes"], config: GenerationConfig
) -> Float[Tensor, "batch classes"]:
    """Exclude durations that tokens cannot have; add the logarithms of class weights, as upstream does."""
    if model.duration_weights is not None:
        logits = logits + model.duration_weights.log()
    if config.compatible:
        return logits
    longest = model.config.max_duration if config.max_duration is None else config.max_duration
    classes = torch.arange(logits.shape[1], device=logits.device)
    return logits.masked_fill((classes < 1) | (classes > longest), -torch.inf)
