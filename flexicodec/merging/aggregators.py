"""Aggregators, from frames to one vector per token: the plain mean, or a transformer with a query for every token.

Both have the same interface, as has the one in `positions`, so that a config can choose; the mean alone is the paper's
ablation.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flexicodec.merging.durations import merge, token_index
from flexicodec.nn.streaming import SlidingWindow, StreamingModule, register_state
from flexicodec.nn.transformer import Transformer, TransformerConfig


class MeanAggregator(nn.Module):
    """Average the frames of each token."""

    def forward(
        self,
        features: Float[Tensor, "batch dim frames"],
        durations: Int[Tensor, "batch tokens"],
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch dim tokens"]:
        """Return one vector per token, zeros for padding tokens.

        Args:
            durations: Frames per token, 0 marks padding.
            lengths: Valid frames per item; `durations` sum to them, so they may be left out.
        """
        assert lengths is None or bool((lengths == durations.sum(dim=1)).all()), (lengths, durations)
        return merge(features, durations)


class QueryAggregator(nn.Module):
    """Append a query to every token's frames, run a transformer over both, and return its outputs at the queries.

    A query is the mean of its token plus a learned vector; frames and queries share one axis of positions (arXiv
    2510.00981; upstream's `agg_use_mean_pooling_init`).

    Args:
        input_dim: Width of the features.
        config: The transformer; its window counts interleaved positions, so w of them cover fewer than w frames.
    """

    def __init__(self, input_dim: int, config: TransformerConfig) -> None:
        super().__init__()
        self.query_embedding = nn.Parameter(torch.empty(1, input_dim, 1).normal_().mul_(0.02))
        self.transformer = Transformer(config, input_dim)

    def forward(
        self,
        features: Float[Tensor, "batch dim frames"],
        durations: Int[Tensor, "batch tokens"],
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch dim tokens"]:
        """See `MeanAggregator.forward`."""
        assert lengths is None or bool((lengths == durations.sum(dim=1)).all()), (lengths, durations)
        # An item's sequence is its frames and a query per token; the outputs at the queries are its tokens.
        queries = merge(features, durations) + self.query_embedding
        sequence, query_positions = interleave(features, queries, durations)
        sequence = self.transformer(sequence, durations.sum(dim=1) + (durations > 0).sum(dim=1))
        return sequence.gather(2, query_positions[:, None].expand(-1, sequence.shape[1], -1))


@register_state
@dataclass(frozen=True)
class AggregatorState:
    """State of a `StreamingAggregator`.

    Attributes:
        transformer: State of its transformer; None without one.
        is_query: Which pending steps of the transformer are queries.
    """

    transformer: Any
    is_query: Bool[Tensor, "batch pending"]


class StreamingAggregator:
    """An aggregator on a stream of tokens of one clip.

    A step here is a frame, or the query after a token.

    Args:
        aggregator: Its weights are used.
        dim: Width of the features.
        context: For global attention: steps of a window before those it outputs.
        ahead: For global attention: steps of a window after those it outputs.
        stride: For global attention: steps a window outputs.

    Attributes:
        exact: The concatenated outputs equal those for the whole clip.
        lookahead: Steps after its own that a query depends on.
    """

    def __init__(self, aggregator: nn.Module, dim: int, context: int, ahead: int, stride: int) -> None:
        self.aggregator = aggregator
        self.dim = dim
        self.exact = True
        self.lookahead = 0
        self.transformer: StreamingModule | None = None
        if isinstance(aggregator, QueryAggregator):
            transformer: StreamingModule = aggregator.transformer
            if aggregator.transformer.config.window is None:  # global attention: approximated by windows
                transformer = SlidingWindow(aggregator.transformer, dim, context, ahead, stride)
            self.transformer = transformer
            self.exact = transformer.exact
            self.lookahead = transformer.lookahead

    def initial_state(self, device: torch.device) -> AggregatorState:
        """Return the state before the first token."""
        inner = None if self.transformer is None else self.transformer.initial_state()
        return AggregatorState(inner, torch.zeros(1, 0, dtype=torch.bool, device=device))

    def step(
        self,
        frames: Float[Tensor, "1 dim frames"],
        durations: Int[Tensor, "1 tokens"],
        state: AggregatorState,
        last: bool,
    ) -> tuple[Float[Tensor, "1 dim ready"], AggregatorState]:
        """Aggregate the next tokens, any number; `last` ends the stream and returns all remaining vectors."""
        assert int(durations.sum()) == frames.shape[-1], "tokens come with all of their frames"
        if self.transformer is None:
            return self.aggregator(frames, durations), state  # which computes each token alone
        sequence = frames
        is_query = state.is_query
        if durations.shape[1]:
            assert isinstance(self.aggregator, QueryAggregator)
            # Every token's query behind its frames, and a mask that finds the queries again.
            queries = merge(frames, durations) + self.aggregator.query_embedding
            sequence, query_positions = interleave(frames, queries, durations)
            new = torch.zeros(1, sequence.shape[-1], dtype=torch.bool, device=frames.device)
            is_query = torch.cat([is_query, new.scatter_(1, query_positions, True)], dim=1)
        # Of the outputs that are ready, those at queries.
        y, inner = self.transformer.step(sequence, state.transformer, last)
        ready = y.shape[-1]
        return y[..., is_query[0, :ready]], AggregatorState(inner, is_query[:, ready:].clone())


def interleave(
    frames: Float[Tensor, "batch dim frames"],
    queries: Float[Tensor, "batch dim tokens"],
    durations: Int[Tensor, "batch tokens"],
) -> tuple[Float[Tensor, "batch dim sequence"], Int[Tensor, "batch tokens"]]:
    """Order the frames of token 1, query 1, the frames of token 2, query 2, ..., and after them all padding.

    # durations 2 3      frames a a b b b, queries A B, one padding token C (duration 0) and one padding frame .
    # sequence  a a A b b b B C .

    Args:
        frames: Features.
        queries: One per token.
        durations: Frames per token, 0 marks padding.

    Returns:
        The sequence (sequence = frames + tokens), and for each query its position in it.
    """
    num_frames = frames.shape[-1]
    frame = torch.arange(num_frames, device=durations.device)
    token = torch.arange(durations.shape[1], device=durations.device)
    # A frame moves right by the queries before it; for padding frames token_index counts every query there is.
    frame_positions = frame + token_index(durations, num_frames)
    query_positions = durations.cumsum(dim=1) + token
    order = torch.cat((frame_positions, query_positions), dim=1).argsort(dim=1)  # the inverse permutation
    both = torch.cat((frames, queries), dim=-1)
    # Not take_along_dim, which would fix the batch size of an exported graph.
    return both.gather(2, order[:, None].expand(-1, both.shape[1], -1)), query_positions
