"""The autoregressive model: text and the tokens of a reference voice to semantic tokens with durations.

A sequence is `[start] [rate] text [task] tokens`. The language model predicts the next token at every position from
`[task]` on, and the duration of a token at the token's own position, so that a token's embedding carries the duration
of the one before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from flexicodec.models.tts.causal_stack import CausalStack
from flexicodec.models.tts.config import ARConfig, ARLossConfig
from flexicodec.nn.masking import length_mask
from flexicodec.nn.onednn import Linear

START, TASK = 0, 1  # rows of `control_embedding`
NO_DURATION = 0  # row of `duration_embedding` before the first token
SAME_THRESHOLD = 1e-6  # two thresholds are one if they differ by less

Thresholds = float | Sequence[float | None] | None


@dataclass(frozen=True)
class ARBatch:
    """Padded sequences.

    Attributes:
        text: Text ids.
        text_lengths: Valid ones.
        tokens: Semantic codes.
        token_lengths: Valid ones; 0 for no tokens.
        durations: Frames of each token.
        thresholds: Merging threshold of each item, or of all; None where it is unknown.
    """

    text: Int[Tensor, "batch text"]
    text_lengths: Int[Tensor, " batch"]
    tokens: Int[Tensor, "batch tokens"]
    token_lengths: Int[Tensor, " batch"]
    durations: Int[Tensor, "batch tokens"]
    thresholds: Thresholds = None


@dataclass(frozen=True)
class ARLosses:
    """Losses of a batch: `total` is the sum of the other two; `accuracy` is that of tokens, ends included."""

    total: Float[Tensor, ""]
    token: Float[Tensor, ""]
    duration: Float[Tensor, ""]
    accuracy: Float[Tensor, ""]


class AutoregressiveTTS(nn.Module):
    """The released architecture, 432,235,531 parameters at its default sizes.

    Args:
        config: Sizes and losses.
    """

    duration_weights: Float[Tensor, " classes"] | None

    def __init__(self, config: ARConfig) -> None:
        super().__init__()
        self.config = config
        text_dim = config.text_encoder.dim
        dim = config.lm.dim
        self.text_embedding = nn.Embedding(config.text_vocabulary, text_dim)
        self.text_encoder = CausalStack(config.text_encoder)
        self.text_projection = Linear(text_dim, dim)
        self.control_embedding = nn.Embedding(2, dim)
        self.rate_projection = Linear(len(config.thresholds), dim) if config.thresholds else None
        self.speaker_projection = Linear(config.speaker_dim, dim)  # in released weights, and without a use
        self.token_embedding = nn.Embedding(config.codebook_size, dim)
        self.duration_embedding = nn.Embedding(config.duration_classes + 1, dim)
        self.lm = CausalStack(config.lm)
        self.token_head = Linear(dim, config.codebook_size + 1)
        self.duration_head = Linear(dim, config.duration_classes)
        self.register_buffer("duration_weights", None)  # of the loss "weighted"

    def forward(self, batch: ARBatch) -> ARLosses:
        """Compute the losses of a batch."""
        config = self.config
        x = pad_sequence(self.embed(batch), batch_first=True)
        hidden = self.lm(x)

        # The position of [task] and those of the tokens predict the tokens and their end.
        first = batch.text_lengths + 2
        position = torch.arange(x.shape[1], device=x.device)
        predicting = (position >= first[:, None]) & (position <= (first + batch.token_lengths)[:, None])
        targets = F.pad(batch.tokens, (0, 1)).scatter(1, batch.token_lengths[:, None], config.end)
        targets = targets[length_mask(batch.token_lengths + 1, targets.shape[1])]
        token_logits = self.token_head(hidden[predicting])
        token = token_loss(token_logits, targets, config.loss)
        token = token / (len(targets) if config.loss.per_token else len(batch.text))

        # Those of the tokens predict their durations.
        at_tokens = predicting & (position > first[:, None])
        durations = batch.durations[length_mask(batch.token_lengths, batch.durations.shape[1])]
        duration = duration_loss(self.duration_head(hidden[at_tokens]), durations, config.loss, self.duration_weights)
        accuracy = (token_logits.argmax(-1) == targets).float().mean()
        return ARLosses(token + duration, token, duration, accuracy)

    def embed(self, batch: ARBatch, *, rate_slot: bool = True) -> list[Float[Tensor, "steps dim"]]:
        """Embed the sequence of each item, without padding.

        Args:
            batch: The sequences.
            rate_slot: Give the rate a position where the threshold is unknown: a zero vector, as in training. Upstream
                leaves the position out when it generates.
        """
        text = self.text_projection(self.text_encoder(self.text_embedding(batch.text)))
        # Every token's embedding has the duration of the one before it.
        rates = self.embed_rates(batch.thresholds, len(batch.text))
        before = F.pad(batch.durations[:, :-1], (1, 0), value=NO_DURATION)
        tokens = self.embed_tokens(batch.tokens, before)
        control = self.control_embedding.weight
        sequences = []
        for row, (rate, is_known) in enumerate(zip(*rates, strict=True)):
            parts = [control[START, None]]
            if is_known or rate_slot:
                parts.append(rate[None])
            parts.append(text[row, : int(batch.text_lengths[row])])
            parts.append(control[TASK, None])
            parts.append(tokens[row, : int(batch.token_lengths[row])])
            sequences.append(torch.cat(parts))
        return sequences

    def embed_tokens(
        self, tokens: Int[Tensor, "batch tokens"], durations: Int[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """Embed tokens, each with the duration of the one before it (`NO_DURATION` for the first)."""
        return self.token_embedding(tokens) + self.duration_embedding(durations)

    def embed_rates(
        self, thresholds: Thresholds, batch: int
    ) -> tuple[Float[Tensor, "batch dim"], Bool[Tensor, " batch"]]:
        """Embed the rate of each item, a zero vector where it is unknown, and say where it is known.

        Raises:
            ValueError: A threshold that the model was not trained with.
        """
        given = thresholds if isinstance(thresholds, Sequence) else [thresholds] * batch
        if len(given) != batch:
            raise ValueError(f"{len(given)} thresholds for {batch} items; give one for each, or one for all")
        weight = self.token_embedding.weight
        one_hot = weight.new_zeros(batch, len(self.config.thresholds))
        known = []
        for row, threshold in enumerate(given):
            known.append(threshold is not None)
            if threshold is not None:
                one_hot[row, self._rate_index(threshold)] = 1
        is_known = torch.tensor(known, device=weight.device)
        if self.rate_projection is None:
            return weight.new_zeros(batch, weight.shape[1]), is_known
        return self.rate_projection(one_hot) * is_known[:, None], is_known

    def _rate_index(self, threshold: float) -> int:
        for index, known in enumerate(self.config.thresholds):
            if abs(threshold - known) < SAME_THRESHOLD:
                return index
        options = ", ".join(f"{known:g}" for known in self.config.thresholds) or "none: it has no rate"
        raise ValueError(f"threshold {threshold:g} is none of those this model was trained with ({options})")


def token_loss(
    logits: Float[Tensor, "targets ids"], targets: Int[Tensor, " targets"], config: ARLossConfig
) -> Float[Tensor, ""]:
    """Sum the smoothed cross-entropy over targets."""
    return _smoothed(logits, targets, config.label_smoothing).sum()


def duration_loss(
    logits: Float[Tensor, "tokens classes"],
    durations: Int[Tensor, " tokens"],
    config: ARLossConfig,
    weights: Float[Tensor, " classes"] | None = None,
) -> Float[Tensor, ""]:
    """Compute the loss of durations that `config` names, over the tokens of all items together."""
    if config.duration_loss == "label_smoothing":
        return _smoothed(logits, durations, config.duration_smoothing).sum()
    if config.duration_loss == "weighted" and weights is not None:
        logits = logits * weights
    each = F.cross_entropy(logits, durations, reduction="none")
    if config.duration_loss == "focal":
        each = config.focal_alpha * (1 - torch.exp(-each)) ** config.focal_gamma * each
    return each.mean()


def _smoothed(
    logits: Float[Tensor, "targets ids"], targets: Int[Tensor, " targets"], smoothing: float
) -> Float[Tensor, " targets"]:
    """Kullback-Leibler divergence from the targets, of which `smoothing` is spread over all other ids."""
    log_probabilities = logits.log_softmax(-1)
    # With the entropy of the targets, a constant, as upstream has it.
    share = smoothing / (logits.shape[-1] - 1)
    smooth = torch.full_like(log_probabilities, share).scatter(1, targets[:, None], 1 - smoothing)
    return (torch.xlogy(smooth, smooth) - smooth * log_probabilities).sum(-1)
