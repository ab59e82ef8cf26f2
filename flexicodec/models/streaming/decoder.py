"""Streams: tokens in as they come, audio out as soon as it is known.

    with codec.streaming_decoder() as stream:
        for tokens in source:                    # one token, or as many as there are
            play(stream.decode(tokens))
        play(stream.flush())

What a stream remembers is in its state, which is a value: kept, stored, moved to another device or put into another
stream. The model knows nothing of it, so that any number of streams may run on one. A batch of streams is a batch of
such states: items that stand alike are computed side by side, and each may begin, pause and end as it likes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from flexicodec.models.streaming.state import ItemState, Progress, StreamBatch
from flexicodec.nn import streaming
from flexicodec.nn.stages import Stage
from flexicodec.tokens import Tokens

if TYPE_CHECKING:
    from flexicodec.models.codec import Codec


@streaming.register_state
@dataclass(frozen=True)
class DecoderOptions:
    """How a decoder streams.

    Attributes:
        lookahead_frames: Frames that a frame waits for before it is given out. None: all that it depends on, where
            that is known, and the stream is exact. Fewer cost quality, as a frame is then decoded as if the clip ended
            with those; and time, as layers that are not causal decode what is not sure yet anew for every chunk.
        chunk_tokens: With fewer, give audio after every so many tokens. The more, the less is decoded anew.
        context_frames: Where attention is global: how many frames it sees before those that it gives,
        ahead_frames: how many behind them,
        stride_frames: and how many it gives at a time.
    """

    lookahead_frames: int | None = None
    chunk_tokens: int = 1
    context_frames: int = 64
    ahead_frames: int = 24
    stride_frames: int = 8

    def __post_init__(self) -> None:
        least = {"chunk_tokens": 1, "stride_frames": 1, "lookahead_frames": 0, "context_frames": 0, "ahead_frames": 0}
        for name, minimum in least.items():
            value = getattr(self, name)
            if value is None and name == "lookahead_frames":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
                raise ValueError(f"{name} is {value!r}, expected a whole number, {minimum} or more")


class StreamingDecoder(StreamBatch):
    """A stream of tokens that becomes a stream of audio; made by `Codec.streaming_decoder`.

    Args:
        codec: Whose tokens they are.
        batch_size: Streams side by side.
        settings: How.

    Attributes:
        codec: Whose tokens they are.
        settings: How it streams.
        exact: Whether all audio in a row equals `codec.decode` of all tokens, to float noise, whatever the chunks.
        lookahead_tokens: Tokens that a token waits for,
        lookahead_frames: and the frames behind these that it waits for.
    """

    def __init__(self, codec: "Codec", batch_size: int = 1, settings: DecoderOptions | None = None) -> None:
        settings = settings or DecoderOptions()
        self._stages: tuple[Stage, ...] = tuple(codec.stream_stages(settings))
        super().__init__(codec, settings, batch_size, codec.decoder_fingerprint)
        self.lookahead_tokens = sum(stage.lookahead for stage in self._stages if stage.per_item)
        self.lookahead_frames = sum(stage.lookahead for stage in self._stages if not stage.per_item)
        wanted = self.settings.lookahead_frames
        self._early = wanted is not None and wanted < self._frames(self.lookahead_tokens) + self.lookahead_frames
        if self._early:
            assert wanted is not None
            self.lookahead_tokens, self.lookahead_frames = 0, wanted
        self.exact = not self._early and all(stage.exact for stage in self._stages)

    @property
    def latency_seconds(self) -> float:
        """Longest time from the start of a sound to when its samples come out, if computing took none.

        That is the look-ahead, and the token that has to be complete. Where tokens may last several frames, it takes
        all of them to last longest; see `latency_at`.
        """
        return self._latency(self._frames(1))

    def latency_at(self, frame_rate: float) -> float:
        """Return the latency in seconds where tokens come at this rate in Hz, evenly."""
        return self._latency(self.codec.base_frame_rate / frame_rate)

    def _latency(self, frames_per_token: float) -> float:
        tokens = self.lookahead_tokens + (self.settings.chunk_tokens if self._early else 1)
        return (tokens * frames_per_token + self.lookahead_frames) / self.codec.base_frame_rate

    def _frames(self, tokens: int) -> float:
        """Return how many frames so many tokens last at most."""
        longest = self.codec.format.max_duration
        return tokens * (inf if longest is None else longest) if tokens else 0

    # ------------------------------------------------------------------------------------------------------- the stream

    def decode(
        self, tokens: Tokens, last: bool = False, items: Sequence[int] | None = None
    ) -> Float[Tensor, "batch samples"]:
        """Decode the next tokens of each stream, as far as they are ready.

        Args:
            tokens: A clip for each stream, of any number of tokens, also of none. How long their audio is
                (`audio_lengths`) counts where they are the last: the stream then ends with it.
            last: Nothing follows: give all that is left. A stream that ended has to be reset before it goes on.
            items: Which streams the clips belong to; None: one for each, in order.

        Returns:
            What is new, zeros behind where one gives less than another; `decode_each` keeps them apart.

        Raises:
            ValueError: The tokens belong to another model, are not as many as streams, or a stream has ended.
        """
        return pad_sequence(self.decode_each(tokens, last, items), batch_first=True)

    def flush(self, items: Sequence[int] | None = None) -> Float[Tensor, "batch samples"]:
        """End these streams, or all, and give the audio that is left."""
        return pad_sequence(self.decode_each(None, True, items), batch_first=True)

    def decode_each(
        self, tokens: Tokens | None, last: bool = False, items: Sequence[int] | None = None
    ) -> list[Float[Tensor, " samples"]]:
        """Do what `decode` does, without padding; no tokens at all: see `flush`.

        Raises:
            ValueError: As for `decode`.
        """
        chosen = self._choose(items)
        device = self.codec.device
        ends: list[int | None] = [None] * len(chosen)
        inputs = torch.zeros(len(chosen), self._stages[0].channels, 0, device=device)
        durations: list[list[int]] = [[] for _ in chosen]
        if tokens is not None:
            self.codec.check_tokens(tokens, may_be_empty=True)
            if len(tokens) != len(chosen):
                raise ValueError(f"{len(tokens)} clips of tokens for {len(chosen)} streams; say which with items=")
            durations = [[each for each in row if each] for row in tokens.durations.tolist()]
            if last and tokens.audio_lengths is not None:
                before = [self.state.items[item].frames * self.codec.frame_size for item in chosen]
                ends = [start + length for start, length in zip(before, tokens.audio_lengths.tolist(), strict=True)]
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            if tokens is not None and any(durations):
                inputs = self.codec.stream_inputs(tokens.to(device))
            work = [
                _Work(self.state.items[item], inputs[row : row + 1, :, : len(durations[row])], durations[row])
                for row, item in enumerate(chosen)
            ]
            while any(each.inputs.shape[-1] for each in work):
                self._take(work, last)
            if last:
                for each in work:
                    each.sure, each.early = None, False
                self._run(work, last=True)
        every, audio = list(self.state.items), []
        for item, each, end in zip(chosen, work, ends, strict=True):
            audio.append(each.audio if end is None else _fit(each.audio, max(0, end - _samples_given(every[item]))))
            every[item] = each.item(ended=last)
        self.state = replace(self.state, items=tuple(every))
        return audio

    # ---------------------------------------------------------------------------------------------------------- inside

    def _fresh(self) -> ItemState:
        return ItemState(tuple(Progress(stage.initial_state()) for stage in self._stages))

    def _take(self, work: "list[_Work]", last: bool) -> None:
        """Take tokens: all there are, or as many as there may be until audio has to be given ahead of its time."""
        grid = self.settings.chunk_tokens if self._early else None
        active = [each for each in work if each.inputs.shape[-1]]
        for each in active:
            each.take(grid)
            each.early = grid is not None and each.tokens % grid == 0 and not (last and not each.inputs.shape[-1])
        self._run(active, last=False)

    def _run(self, work: "list[_Work]", last: bool) -> None:
        """Send what came through all stages; at each, items that stand alike go side by side."""
        for index, stage in enumerate(self._stages):
            alike: dict[Any, list[_Work]] = {}
            for row, each in enumerate(work):
                sizes = [None if x is None else x.shape[-1] for x in (each.sure, each.likely)]
                key = row if stage.per_item else (*sizes, each.early, streaming.signature(each.stages[index].state))
                alike.setdefault(key, []).append(each)
            for group in alike.values():
                self._step(index, group, last)

    def _step(self, index: int, work: "list[_Work]", last: bool) -> None:
        """Run one stage on items that stand alike."""
        # outputs of a stage    | given before | sure | likely |    where sure ends with the look-ahead; what is likely
        #                                                           helps the next stage to look ahead, and is dropped
        stage, first = self._stages[index], work[0]
        state = streaming.batch([each.stages[index].state for each in work])
        outputs: list[Tensor] = []
        if first.sure is not None or last:
            y, state = stage.step(
                _batched_inputs([each.sure for each in work], stage.channels, first.inputs), state, last
            )
            outputs.append(y)
        exact = sum(y.shape[-1] for y in outputs)
        if first.early:  # as if the clip ended here; the state after that is dropped
            likely = _batched_inputs([each.likely for each in work], stage.channels, first.inputs)
            outputs.append(stage.step(likely, state, True)[0])
        every = torch.cat(outputs, dim=-1) if outputs else None
        unit = self.codec.frame_size if index == len(self._stages) - 1 else 1
        for row, (each, after) in enumerate(zip(work, streaming.unbatch(state, len(work)), strict=True)):
            early = each.early and not stage.per_item
            until = (each.frames - self.lookahead_frames) * unit if early else 0
            each.advance(index, after, None if every is None else every[row : row + 1], exact, until)


def _samples_given(item: ItemState) -> int:
    """Samples that a stream has given."""
    return item.stages[-1].given


def _batched_inputs(inputs: "Sequence[Tensor | None]", channels: int, like: Tensor) -> Tensor:
    """Join the inputs of items that stand alike; None stands for no steps."""
    return torch.cat([like.new_zeros(1, channels, 0) if x is None else x for x in inputs])


def _fit(audio: Tensor, samples: int) -> Tensor:
    """Cut audio, or fill it up with zeros."""
    return F.pad(audio, (0, max(0, samples - len(audio))))[:samples]


class _Work:
    """One item's part of a call: what is still to be taken, where it stands, and what it has given."""

    def __init__(self, item: ItemState, inputs: Tensor, durations: list[int]) -> None:
        self.stages, self.tokens, self.frames = list(item.stages), item.tokens, item.frames
        self.inputs, self.durations = inputs, durations
        self.early = False  # give what is not sure yet
        self.sure: Tensor | None = None  # inputs of the stage whose turn it is,
        self.likely: Tensor | None = None  # and those behind them, as they would be if the clip ended here
        self.audio = inputs.new_zeros(0)

    def take(self, grid: int | None) -> None:
        """Take the next tokens: all, or as many as there are until their number is a multiple of `grid`."""
        count = self.inputs.shape[-1]
        if grid is not None:
            count = min(count, grid - self.tokens % grid)
        self.sure, self.inputs, self.likely = self.inputs[..., :count], self.inputs[..., count:], None
        frames, self.durations = sum(self.durations[:count]), self.durations[count:]
        self.tokens, self.frames = self.tokens + count, self.frames + frames

    def advance(self, index: int, state: Any, outputs: Tensor | None, exact: int, until: int) -> None:
        """Hand a stage's outputs, `exact` of which are so, on to the next one, from where that stopped."""
        before = self.stages[index]
        ready, given = before.ready + exact, before.given
        if outputs is None:
            self.sure = self.likely = None
        else:
            end = min(before.ready + outputs.shape[-1], max(ready, until))
            self.sure = outputs[..., given - before.ready : end - before.ready] if end > given else None
            given = max(given, end)
            rest = outputs[..., given - before.ready :]
            self.likely = rest if rest.shape[-1] else None
        self.stages[index] = Progress(state, ready, given)
        if index == len(self.stages) - 1 and self.sure is not None:
            self.audio = torch.cat([self.audio, self.sure[0, 0]])

    def item(self, ended: bool) -> ItemState:
        """Say where the item stands now."""
        return ItemState(() if ended else tuple(self.stages), self.tokens, self.frames, ended)
