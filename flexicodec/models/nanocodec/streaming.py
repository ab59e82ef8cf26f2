"""Streaming encoder of NanoCodec and LFSC: the convolutions carry their state, and every frame is a token."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from flexicodec.models.margins import fixed_rate_margins
from flexicodec.models.streaming.encoder import EncoderOptions, EndOfClip
from flexicodec.nn.dac import ConvStack, ConvStackState
from flexicodec.nn.streaming import run_in_chunks
from flexicodec.quantize import GroupedFSQ

CHUNK_FRAMES = 64  # that the convolutions compute at once


class NanoCodecStreamingTokenizer:
    """Encoder and quantizer on a stream; see `StreamingTokenizer`.

    Args:
        encoder: The convolutions.
        quantizer: Of their frames.
        settings: How to encode.
        sample_rate: Hz.
    """

    exact = True
    frames_behind = 0  # every frame is a token

    def __init__(self, encoder: ConvStack, quantizer: GroupedFSQ, settings: EncoderOptions, sample_rate: int) -> None:
        self.encoder = encoder
        self.quantizer = quantizer
        self.settings = settings
        self.sample_rate = sample_rate
        self.info: dict[str, Any] = {}

    def latency(self, frames_per_token: float) -> float:
        """Return the token's seconds and the look-ahead."""
        return (self.encoder.inputs_per_frame * frames_per_token + self.encoder.lookahead) / self.sample_rate

    def initial_encoders_state(self) -> ConvStackState:
        """Return the encoder's state before the first sample."""
        return self.encoder.initial_state()

    def initial_tokenizer_state(self) -> None:
        """Return None: nothing is carried from frame to frame."""

    def encode_features(
        self, audio: Float[Tensor, "batch 1 samples"], state: ConvStackState, ending: EndOfClip | None
    ) -> tuple[Float[Tensor, "batch dim frames"], ConvStackState]:
        """Run the convolutions on the next samples."""
        size = self.encoder.inputs_per_frame
        if ending is not None:
            audio = F.pad(audio, (0, -ending.samples % size))
        return run_in_chunks(self.encoder.step, audio, state, ending is not None, CHUNK_FRAMES * size)

    def emit_tokens(
        self, features: Float[Tensor, "1 dim frames"], state: None, last: bool
    ) -> tuple[dict[str, Any] | None, None]:
        """Quantize the next frames; returns arguments of `Tokens`, None for no frame."""
        if not features.shape[-1]:
            return None, None
        coded = self.quantizer(features)
        durations = torch.ones_like(coded.codes[:, 0])
        margins = None
        if self.settings.margins:
            margins = fixed_rate_margins(self.quantizer.margins(features, coded.codes))
        return {"acoustic": coded.codes, "durations": durations, "margins": margins}, None

    def pending_tokens(self, _: None) -> int:
        """Return 0: a frame's codes depend on its features alone."""
        return 0
