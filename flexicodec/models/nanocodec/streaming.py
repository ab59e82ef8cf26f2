"""How NanoCodec and LFSC encode a stream: the convolutions carry their state, and every frame is a token."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from flexicodec.models.margins import fixed_rate_margins
from flexicodec.models.streaming.encoder import EncoderOptions, EndOfClip
from flexicodec.nn.dac import ConvStack
from flexicodec.nn.stages import ConvStage, ConvStageState
from flexicodec.quantize import GroupedFSQ

CHUNK_FRAMES = 64  # that the convolutions take at once


class NanoCodecStreamingTokenizer:
    """Ears and hand of a stream; see `StreamingTokenizer`.

    Args:
        encoder: The convolutions.
        quantizer: Of their frames.
        settings: How to encode.
        sample_rate: Hz.
    """

    exact = True

    def __init__(self, encoder: ConvStack, quantizer: GroupedFSQ, settings: EncoderOptions, sample_rate: int) -> None:
        self.stage, self.quantizer, self.settings = ConvStage(encoder), quantizer, settings
        self.sample_rate = sample_rate
        self.info: dict[str, Any] = {}

    def latency(self, frames_per_token: float) -> float:
        """See `StreamingTokenizer`."""
        return (self.stage.frame_inputs * frames_per_token + self.stage.lookahead) / self.sample_rate

    def initial_encoders_state(self) -> ConvStageState:
        """See `StreamingTokenizer`."""
        return self.stage.initial_state()

    def initial_tokenizer_state(self) -> None:
        """See `StreamingTokenizer`: nothing is remembered."""

    def hear(
        self, audio: Float[Tensor, "batch 1 samples"], state: ConvStageState, ending: EndOfClip | None
    ) -> tuple[Float[Tensor, "batch dim frames"], ConvStageState]:
        """See `StreamingTokenizer`."""
        size, outputs = self.stage.frame_inputs, []
        if ending is not None:
            audio = F.pad(audio, (0, -ending.samples % size))
        pieces = audio.split(CHUNK_FRAMES * size, dim=-1)
        for index, piece in enumerate(pieces):
            y, state = self.stage.step(piece, state, ending is not None and index == len(pieces) - 1)
            outputs.append(y)
        return torch.cat(outputs, dim=-1), state

    def write(
        self, features: Float[Tensor, "1 dim frames"], state: None, last: bool
    ) -> tuple[dict[str, Any] | None, None]:
        """See `StreamingTokenizer`."""
        if not features.shape[-1]:
            return None, None
        coded = self.quantizer(features)
        durations = torch.ones_like(coded.codes[:, 0])
        margins = None
        if self.settings.margins:
            margins = fixed_rate_margins(self.quantizer.margins(features, coded.codes))
        return {"acoustic": coded.codes, "durations": durations, "margins": margins}, None
