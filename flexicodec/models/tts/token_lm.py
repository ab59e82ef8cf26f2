"""A decoder-only language model of text and tokens: transformers' layers, with embeddings and heads of our own.

    start  rate  h e l l o  speech  token 1  token 2  ...         inputs
                              |        |        |
                           code 1   code 2     end                what is predicted there
                         duration 1 duration 2                    by a head that sees code 1, code 2

A token is one step: vectors of its code and duration are added up as the input of the next, so that no duration lags
behind its code and none is missing at the end.
"""

from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flexicodec.lm.presets import RateEmbedding
from flexicodec.models.tts.digits import CodeEmbedding, CodeHead, DurationHead
from flexicodec.nn.masking import length_mask

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONTROLS = 2  # start, speech
INITIAL = 0.02  # standard deviation of input embeddings, as of those of language models


@dataclass(frozen=True)
class BackboneConfig:
    """The transformer: Llama's layers of these sizes, or any decoder-only model of transformers.

    Attributes:
        num_layers: Layers.
        dim: Width.
        num_heads: Attention heads.
        feedforward_dim: Hidden width of the gated feed-forward networks.
        dropout: Of inputs and attention weights, in training.
        transformers: Config of another model of transformers as JSON, with its `model_type`; the sizes above are then
            without effect. `warm_start` of a training run sets it.
    """

    num_layers: int = 8
    dim: int = 384
    num_heads: int = 6
    feedforward_dim: int = 1024
    dropout: float = 0.1
    transformers: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.transformers is None and self.dim % (2 * self.num_heads):
            raise ValueError(f"dim {self.dim} does not split into {self.num_heads} heads of even size")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; expected a share below 1")

    def build(self) -> "PreTrainedModel":
        """Make the transformer with random weights."""
        from transformers import AutoConfig, AutoModel, LlamaConfig

        if self.transformers is not None:
            config = AutoConfig.for_model(**self.transformers)
        else:
            config = LlamaConfig(
                vocab_size=1,
                hidden_size=self.dim,
                num_hidden_layers=self.num_layers,
                num_attention_heads=self.num_heads,
                intermediate_size=self.feedforward_dim,
                attention_dropout=self.dropout,
                bos_token_id=None,
                eos_token_id=None,
            )
        return AutoModel.from_config(config, attn_implementation="sdpa")


@dataclass(frozen=True)
class CodeSpace:
    """Codes and durations of a codec.

    Attributes:
        levels: Values of each digit of a code; one digit for codes that have none.
        max_duration: Longest duration, in frames.
    """

    levels: tuple[int, ...]
    max_duration: int

    @property
    def size(self) -> int:
        """Number of codes."""
        return prod(self.levels)


@dataclass(frozen=True)
class TokenLMConfig:
    """The language model.

    Attributes:
        backbone: The transformer.
        codes: "chained": digits of a code that see those before them; "independent": digits given the state alone;
            "flat": one id for each code.
        head_dim: Width inside the heads.
        max_positions: Longest sequence of text, prompt and tokens.
    """

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    codes: Literal["chained", "independent", "flat"] = "chained"
    head_dim: int = 256
    max_positions: int = 4096

    def __post_init__(self) -> None:
        if self.head_dim < 1 or self.max_positions < 1:
            raise ValueError(f"head_dim {self.head_dim} and max_positions {self.max_positions} must be at least 1")


@dataclass(frozen=True)
class LMBatch:
    """Texts with tokens: what is learnt, or, in generation, the text and tokens of prompts.

    Attributes:
        text: Ids, padded with any.
        text_lengths: Valid ids.
        codes: Semantic codes, padded with any.
        durations: Frames per token.
        token_lengths: Valid tokens; 0 without a prompt.
        frame_rate: Tokens per second of the utterance, 0 where it is not said.
    """

    text: Int[Tensor, "batch letters"]
    text_lengths: Int[Tensor, " batch"]
    codes: Int[Tensor, "batch tokens"]
    durations: Int[Tensor, "batch tokens"]
    token_lengths: Int[Tensor, " batch"]
    frame_rate: Float[Tensor, " batch"]

    def to(self, device: torch.device | str) -> "LMBatch":
        """Move the tensors."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items()})


class LMNats(NamedTuple):
    """-log p of each item's codes with their end, and of its durations."""

    codes: Float[Tensor, " batch"]
    durations: Float[Tensor, " batch"]


class TokenLM(nn.Module):
    """The language model.

    Args:
        config: Sizes.
        space: Codes of the codec.
        letters: Size of the text's alphabet.
    """

    def __init__(self, config: TokenLMConfig, space: CodeSpace, letters: int) -> None:
        super().__init__()
        self.config = config
        self.space = space
        self.backbone = config.backbone.build()
        dim = self.backbone.config.hidden_size
        self.backbone.set_input_embeddings(None)  # inputs are embedded here
        levels = (space.size,) if config.codes == "flat" else space.levels
        # Inputs
        self.text_embedding = nn.Embedding(letters, dim)
        self.controls = nn.Embedding(CONTROLS, dim)
        self.rate = RateEmbedding(dim)
        self.code_embedding = CodeEmbedding(levels, dim, INITIAL)
        self.duration_embedding = nn.Embedding(space.max_duration, dim)
        for table in (self.text_embedding, self.controls, self.duration_embedding):
            nn.init.normal_(table.weight, std=INITIAL)
        self.dropout = nn.Dropout(config.backbone.dropout)
        # Outputs
        self.code_head = CodeHead(levels, dim, config.head_dim, chained=config.codes == "chained")
        self.duration_head = DurationHead(levels, dim, config.head_dim, space.max_duration)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.controls.weight.device

    def embed(self, batch: LMBatch) -> list[Float[Tensor, "positions dim"]]:
        """Embed every item's sequence, without padding."""
        start, speech = self.controls.weight.split(1)
        rates = self.rate(batch.frame_rate[:, None].to(start.device)).to(start.dtype)
        texts = self.text_embedding(batch.text)
        tokens = self.embed_tokens(batch.codes, batch.durations.clamp(min=1))
        sequences = []
        lengths = zip(batch.text_lengths.tolist(), batch.token_lengths.tolist(), strict=True)
        for row, (letters, count) in enumerate(lengths):
            parts = [start, rates[row], texts[row, :letters], speech, tokens[row, :count]]
            sequences.append(self.dropout(torch.cat(parts)))
        return sequences

    def embed_tokens(
        self, codes: Int[Tensor, "batch tokens"], durations: Int[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """Embed tokens whose durations are known."""
        return self.code_embedding(codes) + self.duration_embedding(durations - 1)

    def hidden(
        self, x: Float[Tensor, "batch new dim"], mask: Bool[Tensor, "batch positions"], cache: Any = None
    ) -> Float[Tensor, "batch new dim"]:
        """Run the transformer.

        Args:
            x: The next positions.
            mask: Positions that are no padding, those in the cache included. Always given: without it some versions of
                transformers take jumps of positions for packed documents, and with a mask of the new ones alone they
                attend to the wrong ones, in silence.
            cache: transformers' cache of the positions before.
        """
        out = self.backbone(
            inputs_embeds=x.to(self.backbone.dtype),
            attention_mask=mask.long(),
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return out.last_hidden_state.float()

    def forward(self, batch: LMBatch) -> LMNats:
        """Compute -log p of every item's tokens."""
        # Padded on the right; causal attention does not see it.
        sequences = self.embed(batch)
        lengths = torch.tensor([len(each) for each in sequences], device=batch.text.device)
        x = nn.utils.rnn.pad_sequence(sequences, batch_first=True)
        hidden = self.hidden(x, length_mask(lengths, x.shape[1]))

        # States from "speech" on predict the codes and the end; of N tokens there are N + 1.
        steps = torch.arange(batch.codes.shape[1] + 1, device=lengths.device)
        counted = steps <= batch.token_lengths[:, None]
        rows, places = counted.nonzero(as_tuple=True)
        before = hidden[rows, (lengths - batch.token_lengths - 1)[rows] + places]
        is_end = places == batch.token_lengths[rows]
        codes = F.pad(batch.codes, (0, 1))[rows, places].masked_fill(is_end, 0)
        code_nats = self.code_head.nats(before, codes, is_end)

        # The durations of all but the end
        kept = ~is_end
        logits = self.duration_head(before[kept], codes[kept])
        duration_nats = F.cross_entropy(logits, batch.durations[rows[kept], places[kept]] - 1, reduction="none")
        zeros = torch.zeros(len(lengths), device=lengths.device)
        return LMNats(zeros.index_add(0, rows, code_nats), zeros.index_add(0, rows[kept], duration_nats))
