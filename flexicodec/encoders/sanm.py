"""SAN-M, the encoder of SenseVoice and of our own recognisers, from audio to features.

The blocks are transformers' (`FunAsrNanoEncoder`); the walk through them is ours, so that padding is masked, positions
fit any length and attention can be banded.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.models.fun_asr_nano.configuration_fun_asr_nano import FunAsrNanoEncoderConfig
from transformers.models.fun_asr_nano.modeling_fun_asr_nano import FunAsrNanoEncoder

from flexicodec.encoders.fbank import FrontEndConfig, KaldiFbank
from flexicodec.nn.attention import attention
from flexicodec.nn.masking import valid_steps
from flexicodec.nn.onednn import use_onednn_linears

SENSEVOICE_PROMPT = (0, 1, 2, 15)  # language auto, event, emotion, no inverse text normalisation
NUM_PROMPT_EMBEDDINGS = 16


@dataclass(frozen=True)
class SanmConfig:
    """A SAN-M encoder; the defaults are the 50 blocks of SenseVoice-Small that FlexiCodec uses.

    Attributes:
        num_layers: Blocks that are run (and held).
        dim: Width of the blocks and of the features.
        num_heads: Attention heads.
        feedforward_dim: Inner width of the feed-forward layers.
        kernel_size: Width of the FSMN memory, in frames.
        prompt: Rows of the prompt embedding put before the features, () for none. SenseVoice hears four.
        positions: Add sinusoidal positions, counted from the clip's start. Without them (our own models) the FSMN
            memory alone tells order, and a frame's features do not depend on where in a recording it stands.
        window: Frames to either side that attention sees; None means the whole clip, as in SenseVoice.
        front_end: The features it reads.
    """

    num_layers: int = 50
    dim: int = 512
    num_heads: int = 4
    feedforward_dim: int = 2048
    kernel_size: int = 11
    prompt: tuple[int, ...] = SENSEVOICE_PROMPT
    positions: bool = True
    window: int | None = None
    front_end: FrontEndConfig = field(default_factory=FrontEndConfig)

    def build(self) -> "SanmEncoder":
        """Make the encoder, with random weights."""
        return SanmEncoder(self)


class SanmEncoder(nn.Module):
    """SAN-M encoder over stacked filterbanks at 16.67 Hz (SenseVoice, arXiv 2407.04051).

    Args:
        config: Sizes and habits.
        dropout: Used only when such an encoder is trained; a codec's encoder is frozen and in eval mode.
    """

    frame_rate = KaldiFbank.sample_rate / (KaldiFbank.frame_shift * FrontEndConfig.stride)

    def __init__(self, config: SanmConfig | None = None, dropout: float = 0.0):
        super().__init__()
        self.config = config = config or SanmConfig()
        self.dim = config.dim
        self.front_end = KaldiFbank(config.front_end)
        if config.prompt:
            self.prompt = nn.Embedding(NUM_PROMPT_EMBEDDINGS, config.front_end.dim)
        self.encoder = FunAsrNanoEncoder(
            FunAsrNanoEncoderConfig(
                num_mel_bins=config.front_end.num_mels,
                num_stacked_frames=config.front_end.stack,
                hidden_size=config.dim,
                num_attention_heads=config.num_heads,
                intermediate_size=config.feedforward_dim,
                num_hidden_layers=config.num_layers,
                num_timestamp_prediction_layers=0,
                fsmn_kernel_size=config.kernel_size,
                hidden_dropout=dropout,
                attention_dropout=0.0,
                max_position_embeddings=2,
                attn_implementation=_ATTENTION,
            )
        )
        # Positions are computed for the length at hand; the table would be one more buffer that no checkpoint fills.
        self.encoder.position_embeddings = nn.Identity()
        use_onednn_linears(self.encoder)

    def forward(
        self, audio: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch dim frames"], Int[Tensor, " batch"]]:
        """Turn audio at 16 kHz, clips of at least one 25 ms window, into features and their valid frames."""
        features, frame_lengths = self.front_end(audio, lengths)
        return self.encode(features, frame_lengths).transpose(1, 2), frame_lengths

    def encode(
        self, features: Float[Tensor, "batch frames in_dim"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch frames dim"]:
        """Run the blocks over front-end features; zero past each item's end."""
        num_prompts = len(self.config.prompt)
        hidden = features
        if num_prompts:
            rows = torch.tensor(self.config.prompt, device=features.device)
            hidden = torch.cat([self.prompt(rows).expand(features.shape[0], -1, -1), features], dim=1)
        hidden = self.blocks(hidden, lengths + num_prompts)[:, num_prompts:]
        valid = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
        return hidden.masked_fill(~valid[..., None], 0.0)

    def blocks(
        self, hidden: Float[Tensor, "batch steps in_dim"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch steps dim"]:
        """Scale, add positions, and go through the blocks with padding masked."""
        first = torch.ones(1, dtype=torch.long, device=hidden.device)
        return self.walk(self.place(hidden, first), lengths)

    def place(
        self, hidden: Float[Tensor, "batch steps in_dim"], first: Int[Tensor, " #batch"]
    ) -> Float[Tensor, "batch steps in_dim"]:
        """Scale, and add positions from `first` on, counted from one."""
        hidden = hidden * self.config.dim**0.5
        if self.config.positions:
            hidden = hidden + sinusoidal_positions(first, *hidden.shape[1:])
        return hidden

    def walk(
        self, hidden: Float[Tensor, "batch steps in_dim"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch steps dim"]:
        """Go through the blocks with padding masked."""
        steps = hidden.shape[1]
        valid = torch.arange(steps, device=hidden.device) < lengths[:, None]
        mask = valid_steps(lengths, steps)  # asked once: the answer has to come from the device
        for layer in self.encoder.layers:
            hidden = layer(hidden, None, valid, mask=mask, window=self.config.window)
        return hidden


def sinusoidal_positions(first: Int[Tensor, " batch"], steps: int, dim: int) -> Float[Tensor, "batch steps dim"]:
    """FunASR's sinusoidal positions from `first` on, which counts from one: all sines before all cosines."""
    inverse = torch.exp(torch.arange(dim // 2, device=first.device).float() * -(math.log(10000.0) / (dim // 2 - 1)))
    positions = first[:, None] + torch.arange(steps, device=first.device)
    angles = positions.float()[..., None] * inverse
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def _masked_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Hand transformers' attention call to ours; the block passes `mask` and `window` through."""
    out = attention(query, key, value, kwargs["mask"], window=kwargs["window"], scale=scaling)
    return out.transpose(1, 2), None


_ATTENTION = "flexicodec"
AttentionInterface.register(_ATTENTION, _masked_attention)
