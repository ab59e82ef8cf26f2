"""Semantic codes as digits of FSQ: embeddings that add a vector for each digit, and heads that choose digit by digit.

With levels (8, 8, 8) a code is digit 0 + 8 * digit 1 + 64 * digit 2. So 5 tables of 8 vectors stand for 32,768 codes,
for most of which small data have no example. A codebook whose codes are not digits is one digit ("flat").
"""

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flexicodec.models.tts.sampling import Sampling, draw


def code_digits(codes: Int[Tensor, "*items"], levels: Sequence[int]) -> list[Int[Tensor, "*items"]]:
    """Split codes into their digits, the least significant first, as `flexicodec.quantize.fsq` numbers them."""
    digits = []
    for level in levels:
        digits.append(codes % level)
        codes = codes // level
    return digits


class CodeEmbedding(nn.Module):
    """The sum of a vector for each digit of a code.

    Args:
        levels: Values of each digit.
        dim: Width.
        std: Standard deviation of the initial sum.
    """

    def __init__(self, levels: Sequence[int], dim: int, std: float = 1.0) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.tables = nn.ModuleList(nn.Embedding(level, dim) for level in levels)
        for weight in self.parameters():
            nn.init.normal_(weight, std=std / len(self.levels) ** 0.5)

    def forward(self, codes: Int[Tensor, "*items"]) -> Float[Tensor, "*items dim"]:
        """Embed codes."""
        return torch.stack(self.each(codes)).sum(0)

    def each(self, codes: Int[Tensor, "*items"]) -> list[Float[Tensor, "*items dim"]]:
        """Return the vector of each digit."""
        digits = code_digits(codes, self.levels)
        return [table(digit) for table, digit in zip(self.tables, digits, strict=True)]


class CodeHead(nn.Module):
    """Probabilities of the next code, or of the end, which is one more value of the first digit.

    Args:
        levels: Values of each digit.
        dim: Width of the hidden states.
        hidden_dim: Width inside.
        chained: Digits see those before them: p(digit j | state, digits < j); otherwise they are independent given the
            state.
    """

    def __init__(self, levels: Sequence[int], dim: int, hidden_dim: int, *, chained: bool = True) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.project = nn.Linear(dim, hidden_dim)
        is_seen = chained and len(self.levels) > 1
        self.seen = CodeEmbedding(self.levels[:-1], hidden_dim) if is_seen else None
        sizes = [self.levels[0] + 1, *self.levels[1:]]
        self.inner = nn.ModuleList(nn.Linear(hidden_dim, hidden_dim) for _ in sizes)
        self.outer = nn.ModuleList(nn.Linear(hidden_dim, size) for size in sizes)

    def nats(
        self, hidden: Float[Tensor, "steps dim"], codes: Int[Tensor, " steps"], is_end: Bool[Tensor, " steps"]
    ) -> Float[Tensor, " steps"]:
        """Return -log p of codes, or of the end, each given the state before it."""
        state = self.project(hidden)
        seen = [] if self.seen is None else self.seen.each(codes)
        total = torch.zeros(len(codes), device=hidden.device)
        for digit, values in enumerate(code_digits(codes, self.levels)):
            if digit == 0:
                values = values.masked_fill(is_end, self.levels[0])
            found = F.cross_entropy(self._logits(digit, state), values, reduction="none")
            # The end has no further digits.
            total = total + (found if digit == 0 else found.masked_fill(is_end, 0.0))
            if digit < len(seen):
                state = state + seen[digit]
        return total

    def draw(
        self,
        hidden: Float[Tensor, "batch dim"],
        sampling: Sampling,
        generators: Sequence[torch.Generator],
        *,
        end_allowed: bool = True,
    ) -> tuple[Int[Tensor, " batch"], Bool[Tensor, " batch"]]:
        """Draw a code for each item, digit by digit; `sampling` applies to each digit.

        Returns:
            Codes, 0 where the end was drawn, and where it was.
        """
        state = self.project(hidden)
        codes = torch.zeros(len(hidden), dtype=torch.long, device=hidden.device)
        is_end = torch.zeros_like(codes, dtype=torch.bool)
        for digit, level in enumerate(self.levels):
            logits = self._logits(digit, state)
            if digit == 0 and not end_allowed:
                logits = logits[:, :level]
            values = draw(logits, sampling, generators)
            if digit == 0:
                is_end = values == level
                values = values.masked_fill(is_end, 0)
            codes = codes + values * prod(self.levels[:digit])
            if self.seen is not None and digit < len(self.seen.tables):
                state = state + self.seen.tables[digit](values)
        return codes.masked_fill(is_end, 0), is_end

    def _logits(self, digit: int, state: Float[Tensor, "steps hidden"]) -> Float[Tensor, "steps values"]:
        return self.outer[digit](F.silu(self.inner[digit](F.silu(state)))).float()


class DurationHead(nn.Module):
    """Probabilities of a token's duration, given the state before the token and its code: both are of one step.

    Args:
        levels: Values of each digit of a code.
        dim: Width of the hidden states.
        hidden_dim: Width inside.
        max_duration: Longest duration, in frames.
    """

    def __init__(self, levels: Sequence[int], dim: int, hidden_dim: int, max_duration: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, hidden_dim)
        self.seen = CodeEmbedding(levels, hidden_dim)
        self.outer = nn.Sequential(nn.SiLU(), nn.Linear(hidden_dim, hidden_dim), nn.SiLU())
        self.logits = nn.Linear(hidden_dim, max_duration)

    def forward(
        self, hidden: Float[Tensor, "steps dim"], codes: Int[Tensor, " steps"]
    ) -> Float[Tensor, "steps durations"]:
        """Return the logits of durations 1, 2, ..."""
        return self.logits(self.outer(self.project(hidden) + self.seen(codes))).float()
