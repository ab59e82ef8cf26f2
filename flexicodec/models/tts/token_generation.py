"""Generation of tokens from text with a `TokenLM`, for batches of any prompts, with a cache of keys and values.

Sequences are padded on the left, which rotary positions do not notice, and every item has its own random generator: a
batch equals each item alone.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from flexicodec.models.tts.generation import Generated, GenerationConfig, check_prompts, item_generators
from flexicodec.models.tts.sampling import draw, repeats, unrestricted
from flexicodec.models.tts.token_lm import LMBatch, TokenLM
from flexicodec.nn.masking import length_mask

SPARE_FRAMES = 25  # an item's default limit of frames: so many,
FRAMES_PER_LETTER = 3  # and so many for each letter of its text
SETTINGS = GenerationConfig(min_tokens=1)


@torch.no_grad()
def generate_tokens(model: TokenLM, prompts: LMBatch, config: GenerationConfig = SETTINGS) -> Generated:
    """Generate until all items have ended; each token with its duration, so that a limit leaves whole tokens.

    Args:
        model: In eval mode.
        prompts: Text, the reference's included, and the tokens of the reference; `frame_rate` is the one asked for.
        config: Settings. `max_frames` is by default 25 and 3 for each letter.

    Raises:
        ValueError: A text without letters, ids, codes or durations out of range, or no positions left for tokens.
    """
    from transformers import DynamicCache

    check_prompts(
        "letters",
        prompts.text_lengths,
        prompts.token_lengths,
        text_id=(prompts.text, 0, model.text_embedding.num_embeddings - 1),
        code=(prompts.codes, 0, model.space.size - 1),
        duration=(prompts.durations, 1, model.space.max_duration),
    )
    generators = item_generators(config.seed, len(prompts.text))
    limit = _frame_limits(prompts, config)
    max_tokens = _token_limits(model, prompts, config)

    # All sequences end at the last position of the prefix.
    sequences = model.embed(prompts)
    longest = max(map(len, sequences))
    x = torch.stack([F.pad(sequence, (0, 0, longest - len(sequence), 0)) for sequence in sequences])
    mask = length_mask(torch.tensor([len(sequence) for sequence in sequences], device=x.device), longest).flip(1)
    cache = DynamicCache(config=model.backbone.config)
    hidden = model.hidden(x, mask, cache)[:, -1]

    frames = torch.zeros(len(x), dtype=torch.long, device=x.device)
    running = torch.ones_like(frames, dtype=torch.bool)
    reached_limit = torch.zeros_like(running)
    codes: list[Tensor] = []
    durations: list[Tensor] = []
    allowed = _allowed_durations(model, config)
    while True:
        # Items at their limit stop with what they have.
        at_limit = running & ((frames >= limit) | (len(codes) >= max_tokens))
        reached_limit |= at_limit
        running &= ~at_limit
        code, ended = _draw_codes(model, hidden, codes, config, generators)
        running &= ~ended
        if not bool(running.any()):
            break
        # The duration sees the code.
        logits = model.duration_head(hidden, code)[:, :allowed]
        duration = draw(logits, config.durations, generators) + 1
        codes.append(code.masked_fill(~running, 0))
        durations.append(duration.masked_fill(~running, 0))
        frames += durations[-1]
        # Items that have ended go on with any token; nobody reads it.
        x = model.embed_tokens(code[:, None], duration[:, None])
        mask = F.pad(mask, (0, 1), value=True)
        hidden = model.hidden(x, mask, cache)[:, -1]
    empty = frames.new_zeros(len(frames), 0)
    made = torch.stack(durations, dim=1) if durations else empty
    return Generated(
        torch.stack(codes, dim=1) if codes else empty, made, lengths=(made > 0).sum(1), reached_limit=reached_limit
    )


def _draw_codes(
    model: TokenLM,
    hidden: Tensor,
    before: Sequence[Tensor],
    config: GenerationConfig,
    generators: Sequence[torch.Generator],
) -> tuple[Tensor, Tensor]:
    """Draw codes and ends; codes that repeat too often once more."""
    end_allowed = len(before) >= config.min_tokens
    code, ended = model.code_head.draw(hidden, config.tokens, generators, end_allowed=end_allowed)
    again = [row for row in repeats(code, before, config.tokens) if not ended[row]]
    if again:
        own = [generators[row] for row in again]
        plain = unrestricted(config.tokens)
        code[again], ended[again] = model.code_head.draw(hidden[again], plain, own, end_allowed=end_allowed)
    return code, ended


def _allowed_durations(model: TokenLM, config: GenerationConfig) -> int:
    longest = model.space.max_duration
    return longest if config.max_duration is None else min(longest, config.max_duration)


def _frame_limits(prompts: LMBatch, config: GenerationConfig) -> Int[Tensor, " batch"]:
    if config.max_frames is not None:
        return torch.full_like(prompts.text_lengths, config.max_frames)
    return SPARE_FRAMES + FRAMES_PER_LETTER * prompts.text_lengths


def _token_limits(model: TokenLM, prompts: LMBatch, config: GenerationConfig) -> Int[Tensor, " batch"]:
    """Most tokens of each item, as far as there are positions."""
    prefix = prompts.text_lengths + prompts.token_lengths + 3  # start, rate, speech
    free = model.config.max_positions - prefix
    if bool((free < 1).any()):
        raise ValueError(
            f"text and reference take {int(prefix.max())} positions and leave no room for tokens; this model has "
            f"{model.config.max_positions}; speak the text in parts"
        )
    return free if config.max_tokens is None else free.clamp(max=config.max_tokens)
