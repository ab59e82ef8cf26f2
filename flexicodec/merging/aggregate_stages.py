"""Aggregators as streams: the frames and durations of the tokens that are complete in, a vector for each token out."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flexicodec.merging.aggregators import MeanAggregator, QueryAggregator, gather_steps, interleave
from flexicodec.merging.durations import merge
from flexicodec.nn.stages import TransformerStage, WindowStage
from flexicodec.nn.streaming import register_state


@register_state
@dataclass(frozen=True)
class AggregateState:
    """Where an aggregator stands in a stream.

    Attributes:
        transformer: Where its transformer stands; None for a mean.
        is_query: Which steps of the sequence, among those that wait for what lies ahead, are queries.
    """

    transformer: Any
    is_query: Bool[Tensor, "batch waiting"]


class AggregateStage:
    """An aggregator on a stream of tokens, of one clip at a time.

    Args:
        aggregator: Whose weights are used.
        dim: Width of the features.
        context: Where attention is global: steps (frames, and a query behind each token) that it sees before those
            that come out,
        ahead: behind them,
        stride: and that come out at a time.

    Attributes:
        exact: Whether all vectors in a row are those of the whole clip.
        lookahead: Steps that a query sees behind itself.
    """

    def __init__(self, aggregator: nn.Module, dim: int, context: int, ahead: int, stride: int) -> None:
        self.aggregator, self.dim = aggregator, dim
        self.stage: TransformerStage | WindowStage | None = None
        if isinstance(aggregator, QueryAggregator) and aggregator.transformer.config.window is not None:
            self.stage = TransformerStage(aggregator.transformer, dim)
        elif isinstance(aggregator, QueryAggregator):
            self.stage = WindowStage(aggregator.transformer, dim, context, ahead, stride)
        else:
            assert isinstance(aggregator, MeanAggregator), aggregator
        self.exact = self.stage is None or self.stage.exact
        self.lookahead = 0 if self.stage is None else self.stage.lookahead

    def initial_state(self, device: torch.device) -> AggregateState:
        """Stand before the first token."""
        inner = None if self.stage is None else self.stage.initial_state()
        return AggregateState(inner, torch.zeros(1, 0, dtype=torch.bool, device=device))

    def step(
        self,
        frames: Float[Tensor, "1 dim frames"],
        durations: Int[Tensor, "1 tokens"],
        state: AggregateState,
        last: bool,
    ) -> tuple[Float[Tensor, "1 dim ready"], AggregateState]:
        """Merge the next tokens, any number; `last` says that nothing follows, and brings what is left."""
        assert int(durations.sum()) == frames.shape[-1], "a token comes when all of its frames are there"
        if self.stage is None:
            return merge(frames, durations), state
        sequence, is_query = frames, state.is_query
        if durations.shape[1]:
            assert isinstance(self.aggregator, QueryAggregator)
            queries = merge(frames, durations) + self.aggregator.query_embedding
            order, places = interleave(durations, frames.shape[-1])
            sequence = gather_steps(torch.cat((frames, queries), dim=-1), order)
            fresh = torch.zeros(1, sequence.shape[-1], dtype=torch.bool, device=frames.device)
            is_query = torch.cat([is_query, fresh.scatter_(1, places, True)], dim=1)
        y, inner = self.stage.step(sequence, state.transformer, last)
        ready = y.shape[-1]
        return y[..., is_query[0, :ready]], AggregateState(inner, is_query[:, ready:].clone())
