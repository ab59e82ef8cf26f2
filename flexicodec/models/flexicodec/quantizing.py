"""The rooms between frames and codes as a stream: complete tokens in, their codes out when all that they see is there.

A long clip is quantised so to bound memory, and a stream because it cannot be otherwise.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flexicodec.blocks.states import known
from flexicodec.merging.aggregate import MeanAggregator
from flexicodec.merging.aggregate_stages import AggregateStage, AggregateState
from flexicodec.models.flexicodec.rooms import FlexiCodecRooms
from flexicodec.models.precision import Precision, working_in
from flexicodec.quantize import Quantized, Quantizer


@dataclass(frozen=True)
class Coded:
    """Codes of some tokens of one clip.

    Attributes:
        durations: Frames per token.
        semantic: Semantic codes.
        acoustic: Acoustic codes.
        semantic_margins: See `Margins`; None unless asked for.
        acoustic_margins: See `Margins`; None unless asked for.
    """

    durations: Int[Tensor, "1 tokens"]
    semantic: Int[Tensor, "1 tokens"]
    acoustic: Int[Tensor, "1 codebooks tokens"]
    semantic_margins: Float[Tensor, "1 tokens"] | None
    acoustic_margins: Float[Tensor, "1 codebooks tokens"] | None


@known
@dataclass(frozen=True)
class QuantizeState:
    """Where a clip stands on its way to codes.

    Attributes:
        merging: Of the semantic and the acoustic aggregator.
        refining: Of the ConvNeXt stacks before and behind the semantic quantiser.
        durations: Of the tokens that wait.
        semantic: Semantic codes of the tokens that wait, as far as they are known.
        margins: Of these codes.
        meaning: Semantic latents of the tokens that wait, as far as they are known.
        sound: Merged acoustic features of the tokens that wait, as far as they are known.
    """

    merging: tuple[AggregateState, AggregateState]
    refining: tuple[tuple[Tensor | None, ...], tuple[Tensor | None, ...]]
    durations: Int[Tensor, "1 waiting"]
    semantic: Int[Tensor, "1 ready"]
    margins: Float[Tensor, "1 ready"] | None
    meaning: Float[Tensor, "1 dim ready"]
    sound: Float[Tensor, "1 dim ready"]


class QuantizeStage:
    """What `FlexiCodecRooms.quantize` does to whole clips, done to the next tokens of one.

    Args:
        codec: Whose rooms.
        num_codebooks: Acoustic codebooks, 0 for none.
        margins: Tell also how far each code was from being another.
        windows: For aggregators with global attention: frames that they see before those that come out, behind them,
            and that come out at a time.
        precision: In which aggregators work.

    Attributes:
        exact: Whether all codes in a row are those of the whole clip.
    """

    def __init__(
        self,
        codec: FlexiCodecRooms,
        num_codebooks: int,
        margins: bool,
        windows: tuple[int, int, int],
        precision: Precision = "float32",
    ) -> None:
        self.codec, self.num_codebooks, self.margins, self.precision = codec, num_codebooks, margins, precision
        self.semantic_dim, self.dim = codec.semantic_encoder.dim, codec.config.acoustic.latent_dim
        steps = [2 * frames for frames in windows]  # of the aggregators: a frame, or the query behind a token
        for_sound = codec.acoustic_aggregator if num_codebooks else MeanAggregator()  # not run then
        self.aggregators = (
            AggregateStage(codec.semantic_aggregator, self.semantic_dim, *steps),
            AggregateStage(for_sound, self.dim, *steps),
        )
        self.exact = all(each.exact for each in self.aggregators[: 2 if num_codebooks else 1])

    def lookahead_tokens(self, frames_per_token: float) -> float:
        """Count the tokens behind a token that its codes wait for, where tokens last so many frames."""
        meaning, sound = (-(-each.lookahead // (frames_per_token + 1)) for each in self.aggregators)
        meaning += self.codec.semantic_encoder_stack.reach
        if not self.num_codebooks:
            return meaning
        return max(meaning + self.codec.semantic_decoder_stack.reach, sound)

    def initial_state(self) -> QuantizeState:
        """Stand before the first token."""
        codec, device = self.codec, self.codec.device
        nothing, blank = torch.zeros(1, 0, device=device), torch.zeros(1, self.dim, 0, device=device)
        return QuantizeState(
            (self.aggregators[0].initial_state(device), self.aggregators[1].initial_state(device)),
            (
                codec.semantic_encoder_stack.initial_state(),
                codec.semantic_decoder_stack.initial_state() if self.num_codebooks else (),
            ),
            nothing.long(),
            nothing.long(),
            nothing if self.margins else None,
            blank,
            blank,
        )

    def step(
        self,
        frames: Float[Tensor, "1 both_dims frames"],
        durations: Int[Tensor, "1 tokens"],
        state: QuantizeState,
        last: bool,
    ) -> tuple[Coded, QuantizeState]:
        """Quantise the next tokens, any number; both features of their frames come side by side."""
        codec, (for_meaning, for_sound) = self.codec, state.merging
        with working_in(self.precision, frames.device):
            merged, for_meaning = self.aggregators[0].step(frames[:, : self.semantic_dim], durations, for_meaning, last)
        refined, before = codec.semantic_encoder_stack.step(merged.float(), state.refining[0], last)
        coded = self._quantize(codec.semantic_quantizer, refined, 1)
        semantic, margins = _join(state.semantic, coded.codes[:, 0]), state.margins
        if margins is not None and coded.margins is not None:
            margins = _join(margins, coded.margins[:, 0])

        behind, meaning, sound, ready = state.refining[1], state.meaning, state.sound, semantic.shape[1]
        if self.num_codebooks:
            new, behind = codec.semantic_decoder_stack.step(coded.latents, behind, last)
            meaning = _join(meaning, new)
            with working_in(self.precision, frames.device):
                new, for_sound = self.aggregators[1].step(frames[:, self.semantic_dim :], durations, for_sound, last)
            sound = _join(sound, new.float())
            ready = min(meaning.shape[-1], sound.shape[-1])
            rest = sound[..., :ready] - meaning[..., :ready]
        else:
            rest = sound.new_zeros(1, self.dim, ready)
        fine = self._quantize(codec.acoustic_quantizer, rest, self.num_codebooks)

        durations = _join(state.durations, durations)
        queues = (durations, semantic, margins, meaning, sound)
        state = QuantizeState(
            (for_meaning, for_sound),
            (before, behind),
            *(None if queue is None else queue[..., ready:].clone() for queue in queues),  # type: ignore[arg-type]
        )
        known_margins = None if margins is None else margins[:, :ready]
        return Coded(durations[:, :ready], semantic[:, :ready], fine.codes, known_margins, fine.margins), state

    def _quantize(self, quantizer: Quantizer, latents: Float[Tensor, "1 dim tokens"], rows: int) -> Quantized:
        if latents.shape[-1]:
            return quantizer(latents, None, rows, self.margins)
        none = latents.new_zeros(1, rows, 0)
        return Quantized(latents.new_zeros(1, quantizer.dim, 0), none.long(), {}, none if self.margins else None)


def _join(before: Tensor, behind: Tensor) -> Tensor:
    return torch.cat([before, behind], dim=-1)
