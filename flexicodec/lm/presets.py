"""Embeddings and heads of token streams, which sit below and above any decoder-only transformer, and known presets.

hidden = llama(inputs_embeds=streams(batch), attention_mask=attention_mask(batch)).last_hidden_state
loss = streams.loss(hidden, batch)
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flexicodec.lm.batches import IGNORED, PackedBatch
from flexicodec.lm.layout import Layout
from flexicodec.lm.layouts import flexicodec_tts_layout, flexislm_layout, frames_layout, moshi_layout
from flexicodec.token_format import TokenFormat

LARGEST_RATE = 15.0  # Hz, of the sinusoids of `RateEmbedding`


class RateEmbedding(nn.Module):
    """A vector for the tokens per second of a clip, from sinusoids; a learned one where the rate is not known (0)."""

    frequencies: Tensor

    def __init__(self, dim: int, num_sinusoids: int = 64):
        super().__init__()
        # Periods from twice the largest rate down to a hundredth of it.
        frequencies = math.pi * torch.logspace(0, 2, num_sinusoids // 2) / LARGEST_RATE
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.linear = nn.Linear(num_sinusoids, dim)
        self.unknown = nn.Parameter(torch.zeros(dim))

    def forward(self, frame_rate: Float[Tensor, "batch steps"]) -> Float[Tensor, "batch steps dim"]:
        """Embed rates in Hz."""
        angles = frame_rate[..., None] * self.frequencies
        known = self.linear(torch.cat([angles.sin(), angles.cos()], -1))
        return torch.where(frame_rate[..., None] > 0, known, self.unknown)


class SpeechStreams(nn.Module):
    """A table and a head for each stream of a layout; the embeddings of all streams are added.

    Attributes:
        loss_weights: Of each stream in the loss.
    """

    def __init__(
        self,
        layout: Layout,
        dim: int,
        *,
        loss_weights: Sequence[float] | None = None,
        rate_condition: bool = False,
        tied: bool = False,
    ):
        """Make small random weights.

        Args:
            dim: Width of the transformer.
            rate_condition: Add an embedding of the clip's tokens per second to every step.
            tied: Heads use the weights of the tables.
        """
        super().__init__()
        self.layout = layout
        self.loss_weights = (1.0,) * len(layout.streams) if loss_weights is None else tuple(loss_weights)
        if len(self.loss_weights) != len(layout.streams):
            raise ValueError(f"{len(self.loss_weights)} loss weights for {len(layout.streams)} streams")
        self.tables = nn.ModuleList()
        self.heads = nn.ModuleList()
        for stream in layout.streams:
            table = nn.Embedding(stream.num_ids, dim)
            head = nn.Linear(dim, stream.num_ids, bias=False)
            nn.init.normal_(table.weight, std=0.02)
            nn.init.normal_(head.weight, std=0.02)
            if tied:
                head.weight = table.weight
            self.tables.append(table)
            self.heads.append(head)
        self.rate = RateEmbedding(dim) if rate_condition else None

    def forward(self, batch: PackedBatch) -> Float[Tensor, "batch steps dim"]:
        """Embed every step."""
        ids = self._with_streams(batch.ids)
        embedded = self.tables[0](ids[:, 0])
        for stream in range(1, len(self.tables)):
            embedded = embedded + self.tables[stream](ids[:, stream])
        if self.rate is not None:
            embedded = embedded + self.rate(batch.frame_rate)
        return embedded

    def logits(self, hidden: Float[Tensor, "*batch dim"]) -> list[Float[Tensor, "*batch ids"]]:
        """Score the ids of the next step, for each stream."""
        return [head(hidden) for head in self.heads]

    def nats(
        self, hidden: Float[Tensor, "batch steps dim"], batch: PackedBatch
    ) -> Float[Tensor, "batch streams steps"]:
        """Return -log p of every id given the steps before it; 0 where nothing is predicted (`PackedBatch.labels`)."""
        labels = self._with_streams(batch.labels())
        losses = torch.zeros(labels.shape, dtype=torch.float32, device=hidden.device)
        for stream, head in enumerate(self.heads):
            # Scores are computed where they are needed only: a step has tens of thousands of them.
            rows, steps = (labels[:, stream] != IGNORED).nonzero(as_tuple=True)
            scores = head(hidden[rows, steps - 1])
            found = F.cross_entropy(scores.float(), labels[rows, stream, steps], reduction="none")
            losses = losses.index_put((rows, torch.full_like(rows, stream), steps), found)
        return losses

    def loss(self, hidden: Float[Tensor, "batch steps dim"], batch: PackedBatch) -> Float[Tensor, ""]:
        """Add up the mean of each stream over what is predicted, by its weight."""
        counts = (self._with_streams(batch.labels()) != IGNORED).sum((0, 2)).clamp(min=1)
        means = self.nats(hidden, batch).sum((0, 2)) / counts
        return (means * means.new_tensor(self.loss_weights)).sum()

    @staticmethod
    def _with_streams(ids: Tensor) -> Tensor:
        return ids if ids.ndim == 3 else ids[:, None]


# ------------------------------------------------------------------------------------------------------------- presets


class Preset(NamedTuple):
    """How a published model, or a kind of them, lays out tokens and weighs its losses."""

    layout: Callable[[TokenFormat, int], Layout]
    loss_weights: tuple[float, ...] | None = None
    rate_condition: bool = True


def preset(name: str, format: TokenFormat, dim: int, num_codebooks: int = 0, *, tied: bool = False) -> SpeechStreams:
    """Make the embeddings and heads of a preset.

    Args:
        name: flexislm, flexicodec-tts, delayed or frames.
        format: Of the codec's tokens.
        dim: Width of the transformer.
        num_codebooks: Acoustic codebooks, in `delayed` only.
    """
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    if num_codebooks and name != "delayed":
        raise ValueError(f"{name} has no acoustic codebooks, and {num_codebooks} are asked; delayed has them")
    if format.semantic_codebook_size is None and name != "delayed":
        raise ValueError(f"{name} needs semantic codes, which this codec does not have; use delayed")
    chosen = PRESETS[name]
    return SpeechStreams(
        chosen.layout(format, num_codebooks),
        dim,
        loss_weights=chosen.loss_weights,
        rate_condition=chosen.rate_condition,
        tied=tied,
    )


PRESETS = {
    "flexislm": Preset(flexislm_layout, loss_weights=(1.0, 0.1)),
    "flexicodec-tts": Preset(flexicodec_tts_layout),
    "delayed": Preset(moshi_layout),
    "frames": Preset(frames_layout, rate_condition=False),
}
