"""How a FlexiCodec encodes a stream: both encoders hear, a policy decides, and tokens are quantised as they end."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flexicodec.blocks.states import known
from flexicodec.margins import Margins
from flexicodec.merging import cosine_similarities
from flexicodec.models.flexicodec.listening import HearingStage, HearingState
from flexicodec.models.flexicodec.quantizing import Coded, QuantizeStage, QuantizeState
from flexicodec.models.flexicodec.rooms import FlexiCodecRooms
from flexicodec.models.streaming_encoder import EncoderSettings, Ending


@known
@dataclass(frozen=True)
class WritingState:
    """Where the hand stands in a stream.

    Attributes:
        policy: Of the policy; None before the first frame.
        unfinished: Frames of the token that is open.
        boundaries: Margins of the frames that are not out yet, as far as they are known.
        quantizing: Of the tokens that ended.
    """

    policy: Any
    unfinished: Float[Tensor, "1 dim frames"]
    boundaries: Float[Tensor, "1 frames"]
    quantizing: QuantizeState


class FlexiCodecWriter:
    """Ears and hand of a FlexiCodec's stream; see `TokenWriter`.

    A token ends when the frame behind it is known to start another: also one that is as long as a token may be, so that
    the last token of a clip always comes with its end.

    Args:
        codec: Whose rooms.
        settings: How to encode; the policy is causal.
        info: How tokens will have been made.
    """

    def __init__(self, codec: FlexiCodecRooms, settings: EncoderSettings, info: dict[str, Any]) -> None:
        self.codec, self.settings, self.policy = codec, settings, settings.policy
        self.hearing = HearingStage(codec, settings.windows)
        steps = settings.windows.steps(codec.base_frame_rate)
        self.quantizing = QuantizeStage(codec, settings.num_codebooks, settings.margins, steps)
        self.exact = self.hearing.exact and self.quantizing.exact
        windows = settings.windows
        said = {} if self.exact else {"window_seconds": windows.seconds, "overlap_seconds": windows.overlap_seconds}
        self.info = {**info, **said}

    def latency(self, frames_per_token: float) -> float:
        """See `TokenWriter`: the token, those that its codes wait for, the start of one more, and what these hear."""
        tokens = 1 + self.quantizing.lookahead_tokens(frames_per_token)
        frames = tokens * frames_per_token + 1
        return frames / self.codec.base_frame_rate + self.hearing.lookahead_samples / self.codec.sample_rate

    def hearing_state(self) -> HearingState:
        """See `TokenWriter`."""
        return self.hearing.initial_state()

    def writing_state(self) -> WritingState:
        """See `TokenWriter`."""
        blank = torch.zeros(1, self.codec.semantic_encoder.dim + self.quantizing.dim, 0, device=self.codec.device)
        return WritingState(None, blank, blank[:, 0], self.quantizing.initial_state())

    def hear(
        self, audio: Float[Tensor, "batch 1 samples"], state: HearingState, ending: Ending | None
    ) -> tuple[Float[Tensor, "batch both_dims frames"], HearingState]:
        """See `TokenWriter`."""
        return self.hearing.step(audio, state, ending)

    def write(
        self, features: Float[Tensor, "1 both_dims frames"], state: WritingState, last: bool
    ) -> tuple[dict[str, Any] | None, WritingState]:
        """See `TokenWriter`."""
        frames = torch.cat([state.unfinished, features], dim=-1)
        starts, boundaries, policy = self._decide(frames, state)
        # `unfinished` holds one token at most, so that all starts lie among the new frames
        edges = [0, *(starts.nonzero()[:, 0] + frames.shape[-1] - len(starts)).tolist(), frames.shape[-1]]
        edges = edges if last else edges[:-1]
        durations = torch.tensor([[b - a for a, b in zip(edges, edges[1:], strict=False)]], device=frames.device).long()
        end = edges[-1]
        coded, quantizing = self.quantizing.step(frames[..., :end], durations, state.quantizing, last)
        ready = int(coded.durations.sum())
        after = WritingState(policy, frames[..., end:].clone(), boundaries[:, ready:].clone(), quantizing)
        if not ready:
            return None, after
        return self._tokens(coded, boundaries[:, :ready]), after

    def _decide(
        self, frames: Float[Tensor, "1 both_dims frames"], state: WritingState
    ) -> tuple[Tensor, Float[Tensor, "1 frames"], Any]:
        """Compare the new frames with those before them, and say which of them start a token."""
        old = state.unfinished.shape[-1]
        meaning = frames[:, : self.codec.semantic_encoder.dim, max(0, old - 1) :]
        similarities = cosine_similarities(meaning)[0] if meaning.shape[-1] else meaning.new_zeros(0)
        policy = self.policy.initial_state() if state.policy is None and frames.shape[-1] else state.policy
        if not len(similarities):
            return torch.zeros(0, dtype=torch.bool), state.boundaries, policy
        starts, margins, policy = self.policy.step(similarities, policy, self.settings.max_duration)
        return starts, torch.cat([state.boundaries, margins[None]], dim=1), policy

    def _tokens(self, coded: Coded, boundaries: Float[Tensor, "1 frames"]) -> dict[str, Any]:
        margins = None
        if coded.acoustic_margins is not None:
            missing = int(coded.durations.sum()) - boundaries.shape[1]  # the last frame of a clip has no next one
            boundaries = torch.nn.functional.pad(boundaries, (0, missing), value=torch.inf)
            margins = Margins(boundaries, coded.acoustic_margins, coded.semantic_margins)
        return {
            "semantic": coded.semantic,
            "acoustic": coded.acoustic,
            "durations": coded.durations,
            "margins": margins,
        }
