"""From frames to one vector per token: the plain mean, or a transformer that asks a question after every token.

Both take the same call, so that a config may choose between them; the mean alone is the paper's ablation.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flexicodec.merging.durations import merge, token_index
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
            durations: frames per token, 0 marks padding.
            lengths: valid frames per item; `durations` sum to them, so they may be left out.
        """
        assert lengths is None or bool((lengths == durations.sum(dim=1)).all()), (lengths, durations)
        return merge(features, durations)


class QueryAggregator(nn.Module):
    """Append a query to every token's frames, run a transformer over all of it, and read it at the queries.

    A query starts as the mean of its token plus one learned vector; frames and queries share one axis of positions
    (arXiv 2510.00981; upstream's `agg_use_mean_pooling_init`).

    Args:
        input_dim: width of the features.
        config: the transformer; its window counts interleaved positions, so a look of w reaches fewer than w frames.
    """

    def __init__(self, input_dim: int, config: TransformerConfig) -> None:
        super().__init__()
        self.query_embedding = nn.Parameter(0.02 * torch.randn(1, input_dim, 1))
        self.transformer = Transformer(config, input_dim)

    def forward(
        self,
        features: Float[Tensor, "batch dim frames"],
        durations: Int[Tensor, "batch tokens"],
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch dim tokens"]:
        """Return one vector per token, zeros for padding tokens.

        Args:
            durations: frames per token, 0 marks padding.
            lengths: valid frames per item; `durations` sum to them, so they may be left out.
        """
        assert lengths is None or bool((lengths == durations.sum(dim=1)).all()), (lengths, durations)
        queries = merge(features, durations) + self.query_embedding
        order, query_positions = interleave(durations, features.shape[-1])

        sequence = gather_steps(torch.cat((features, queries), dim=-1), order)
        sequence = self.transformer(sequence, durations.sum(dim=1) + (durations > 0).sum(dim=1))
        return gather_steps(sequence, query_positions)


def interleave(
    durations: Int[Tensor, "batch tokens"], num_frames: int
) -> tuple[Int[Tensor, "batch sequence"], Int[Tensor, "batch tokens"]]:
    """Lay out the frames of token 1, query 1, the frames of token 2, query 2, ..., and after them all padding.

    # durations 2 3      frames a a b b b, queries A B, one padding token C (duration 0) and one padding frame .
    # sequence  a a A b b b B C .

    Args:
        durations: frames per token, 0 marks padding.
        num_frames: frames per item, padding included.

    Returns:
        Where in [frames, queries] each step of the sequence comes from (sequence = frames + tokens), and where in the
        sequence each query stands.
    """
    frame = torch.arange(num_frames, device=durations.device)
    token = torch.arange(durations.shape[1], device=durations.device)
    # A frame moves right by the queries before it; for padding frames token_index counts every query there is.
    frame_positions = frame + token_index(durations, num_frames)
    query_positions = durations.cumsum(dim=1) + token
    positions = torch.cat((frame_positions, query_positions), dim=1)
    return positions.argsort(dim=1), query_positions  # positions is a permutation; this is its inverse


def gather_steps(
    x: Float[Tensor, "batch dim steps"], index: Int[Tensor, "batch picked"]
) -> Float[Tensor, "batch dim picked"]:
    """Pick steps of each item by index."""
    return x.gather(2, index[:, None].expand(-1, x.shape[1], -1))
