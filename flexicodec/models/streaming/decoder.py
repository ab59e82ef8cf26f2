"""Streaming decoder: tokens in as they arrive, audio out as soon as it is final.

    with codec.streaming_decoder() as stream:
        for tokens in source:                    # one token, or as many as there are
            play(stream.decode(tokens))
        play(stream.flush())

A stream's state is a value outside the model: it can be copied, saved, moved to another device or loaded into another
stream, and any number of streams share one model. A batch of streams is a batch of such states. Items in equal states
are computed together, and each may begin, pause and end at any time.
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

from flexicodec.models.fingerprint import inference_call
from flexicodec.models.streaming.state import ItemState, ModuleProgress, StreamBatch
from flexicodec.nn import streaming
from flexicodec.nn.streaming import StreamingModule
from flexicodec.tokens import Tokens

if TYPE_CHECKING:
    from flexicodec.models.codec import Codec


@streaming.register_state
@dataclass(frozen=True)
class DecoderOptions:
    """Options of a streaming decoder.

    Attributes:
        lookahead_frames: Frames that a frame waits for before its audio is returned. None: all it depends on, where
            that is limited, and the stream is exact. Fewer cost quality, as a frame is then decoded as if the clip
            ended with those; and time, as layers that are not causal decode frames that are not final again with every
            chunk.
        chunk_tokens: With `lookahead_frames`, return audio after every so many tokens. More save computation.
        context_frames: For global attention: frames of a window before those it outputs.
        ahead_frames: For global attention: frames of a window after those it outputs.
        stride_frames: For global attention: frames a window outputs.
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
    """A stream from tokens to audio; made by `Codec.streaming_decoder`.

    Args:
        codec: The model of the tokens.
        batch_size: Streams side by side.
        settings: Options.

    Attributes:
        codec: The model of the tokens.
        settings: Its options.
        exact: The concatenated audio equals `codec.decode` of all tokens to float noise, whatever the chunks.
        lookahead_tokens: Tokens that a token waits for.
        lookahead_frames: Frames behind these tokens that it waits for.
    """

    model = "decoder_fingerprint"

    def __init__(self, codec: "Codec", batch_size: int = 1, settings: DecoderOptions | None = None) -> None:
        settings = settings or DecoderOptions()
        self._modules: tuple[StreamingModule, ...] = tuple(codec.stream_stages(settings))
        super().__init__(codec, settings, batch_size)
        self.lookahead_tokens = sum(module.lookahead for module in self._modules if module.per_item)
        self.lookahead_frames = sum(module.lookahead for module in self._modules if not module.per_item)

        # Early: return audio before all it depends on is known.
        wanted = self.settings.lookahead_frames
        needed = self._frames(self.lookahead_tokens) + self.lookahead_frames
        self._early = wanted is not None and wanted < needed
        if self._early:
            assert wanted is not None
            self.lookahead_tokens = 0
            self.lookahead_frames = wanted
        self.exact = not self._early and all(module.exact for module in self._modules)

    @property
    def latency_seconds(self) -> float:
        """Longest time from the start of a token's audio to its output, without computing time.

        It is the look-ahead and the token, which has to be complete. Where tokens may last several frames, this assumes
        the longest; see `latency_at`.
        """
        return self._latency(self._frames(1))

    def latency_at(self, frame_rate: float) -> float:
        """Return the latency in seconds for evenly spaced tokens at this rate in Hz."""
        return self._latency(self.codec.base_frame_rate / frame_rate)

    def _latency(self, frames_per_token: float) -> float:
        tokens = self.lookahead_tokens + (self.settings.chunk_tokens if self._early else 1)
        return (tokens * frames_per_token + self.lookahead_frames) / self.codec.base_frame_rate

    def _frames(self, tokens: int) -> float:
        """Return the most frames that so many tokens last."""
        if not tokens:
            return 0
        longest = self.codec.format.max_duration
        return inf if longest is None else tokens * longest

    # ------------------------------------------------------------------------------------------------------- the stream

    def decode(
        self, tokens: Tokens, last: bool = False, items: Sequence[int] | None = None
    ) -> Float[Tensor, "batch samples"]:
        """Decode the next tokens of each stream; returns the audio that is final.

        Args:
            tokens: A clip per stream, of any number of tokens, also 0. Where their `audio_lengths` end before their
                frames, the samples behind are kept back: returned if more tokens come, and dropped at the end.
            last: The streams end with these tokens: return all remaining audio. A stream that has ended must be reset
                before it goes on.
            items: Streams of the clips; None: all streams, in order.

        Returns:
            New audio, zero-padded where items differ; `decode_each` does not pad.

        Raises:
            ValueError: The tokens belong to another model, are not as many as streams, or a stream has ended; or the
                model's weights changed since the streams began.
        """
        return pad_sequence(self.decode_each(tokens, last, items), batch_first=True)

    def flush(self, items: Sequence[int] | None = None) -> Float[Tensor, "batch samples"]:
        """End these streams, or all, and return their remaining audio."""
        return pad_sequence(self.decode_each(None, True, items), batch_first=True)

    @inference_call
    def decode_each(
        self, tokens: Tokens | None, last: bool = False, items: Sequence[int] | None = None
    ) -> list[Float[Tensor, " samples"]]:
        """Do what `decode` does, without padding; None means no tokens, as in `flush`.

        Raises:
            ValueError: As for `decode`.
        """
        # Check the tokens; their durations without padding.
        self._check_weights()
        chosen = self._choose(items)
        device = self.codec.device
        inputs = torch.zeros(len(chosen), self._modules[0].channels, 0, dtype=torch.float32, device=device)
        durations: list[list[int]] = [[] for _ in chosen]
        if tokens is not None:
            self.codec.check_tokens(tokens, may_be_empty=True)
            if len(tokens) != len(chosen):
                raise ValueError(f"{len(tokens)} clips of tokens for {len(chosen)} streams; say which with items=")
            durations = [[each for each in row if each] for row in tokens.durations.tolist()]
        lengths = None if tokens is None else tokens.audio_lengths

        # All tokens through all modules, then what is left in them.
        if tokens is not None and any(durations):
            inputs = self.codec.stream_inputs(tokens.to(device))
        work = []
        for row, item in enumerate(chosen):
            own = inputs[row : row + 1, :, : len(durations[row])]
            each = _ItemWork(self.state.items[item], own, durations[row])
            if durations[row]:
                before = each.frames * self.codec.output_frame_size
                each.end = None if lengths is None else before + self.codec.output_lengths(int(lengths[row]))
            work.append(each)
        while any(each.inputs.shape[-1] for each in work):
            self._take(work, last)
        if last:
            for each in work:
                each.final = None
                each.early = False
            self._run(work, last=True)

        # Cut to the clips' lengths, and store the new states.
        every = list(self.state.items)
        audio = []
        for item, each in zip(chosen, work, strict=True):
            audio.append(each.release(last))
            every[item] = each.item(ended=last)
        self.state = replace(self.state, items=tuple(every))
        return audio

    # ---------------------------------------------------------------------------------------------------------- inside

    def _initial_item(self) -> ItemState:
        return ItemState(tuple(ModuleProgress(module.initial_state()) for module in self._modules))

    def _take(self, work: "list[_ItemWork]", last: bool) -> None:
        """Decode the next tokens: all there are, or if early as many as until audio is due."""
        grid = self.settings.chunk_tokens if self._early else None
        active = [each for each in work if each.inputs.shape[-1]]
        for each in active:
            each.take(grid)
            is_end = last and not each.inputs.shape[-1]
            each.early = grid is not None and each.tokens % grid == 0 and not is_end
        self._run(active, last=False)

    def _run(self, work: "list[_ItemWork]", last: bool) -> None:
        """Run all modules; items in equal states form a batch, for each module anew."""
        for index, module in enumerate(self._modules):
            groups: dict[Any, list[_ItemWork]] = {}
            for row, each in enumerate(work):
                key: Any = row
                if not module.per_item:
                    sizes = [None if x is None else x.shape[-1] for x in (each.final, each.likely)]
                    key = (*sizes, each.early, streaming.signature(each.modules[index].state))
                groups.setdefault(key, []).append(each)
            for group in groups.values():
                self._step(index, group, last)

    def _step(self, index: int, work: "list[_ItemWork]", last: bool) -> None:
        """Run one module on items in equal states."""
        # outputs    | passed on before | final | likely |    `final` are those whose look-ahead is complete, and if
        # early                                                     those `lookahead_frames` old; the next module uses
        # `likely`                                                     as look-ahead only
        module = self._modules[index]
        first = work[0]
        state = streaming.batch([each.modules[index].state for each in work])

        # Final outputs, whose state is kept.
        outputs: list[Tensor] = []
        num_final = 0
        if first.final is not None or last:
            x = _batched([each.final for each in work], module.channels, first.inputs)
            y, state = module.step(x, state, last)
            outputs.append(y)
            num_final = y.shape[-1]

        # Likely outputs: as if the clip ended here. The state after that is dropped.
        if first.early:
            x = _batched([each.likely for each in work], module.channels, first.inputs)
            outputs.append(module.step(x, state, True)[0])

        every = torch.cat(outputs, dim=-1) if outputs else None
        outputs_per_frame = self.codec.output_frame_size if index == len(self._modules) - 1 else 1
        for row, (each, after) in enumerate(zip(work, streaming.unbatch(state, len(work)), strict=True)):
            due = 0
            if each.early and not module.per_item:
                due = (each.frames - self.lookahead_frames) * outputs_per_frame
            each.advance(index, after, None if every is None else every[row : row + 1], num_final, due)


def _batched(inputs: "Sequence[Tensor | None]", channels: int, like: Tensor) -> Tensor:
    """Concatenate the inputs of items; None means no steps."""
    return torch.cat([like.new_zeros(1, channels, 0) if x is None else x for x in inputs])


class _ItemWork:
    """One item during a call.

    Args:
        item: Its state.
        inputs: New tokens' inputs to the first module.
        durations: New tokens' durations.
    """

    def __init__(self, item: ItemState, inputs: Tensor, durations: list[int]) -> None:
        self.modules = list(item.modules)
        self.tokens = item.tokens
        self.frames = item.frames
        self.inputs = inputs
        self.durations = durations
        self.early = False  # return audio that is not final
        self.final: Tensor | None = None  # inputs of the next module
        self.likely: Tensor | None = None  # inputs behind these, as they would be if the clip ended here
        self.end = item.end
        self.audio = inputs.new_zeros(0) if item.held is None else item.held

    def take(self, grid: int | None) -> None:
        """Take the next tokens: all, or until their number is a multiple of `grid`."""
        count = self.inputs.shape[-1]
        if grid is not None:
            count = min(count, grid - self.tokens % grid)
        self.final = self.inputs[..., :count]
        self.likely = None
        self.inputs = self.inputs[..., count:]
        self.tokens += count
        self.frames += sum(self.durations[:count])
        self.durations = self.durations[count:]

    def advance(self, index: int, state: Any, outputs: Tensor | None, num_final: int, due: int) -> None:
        """Pass a module's outputs on to the next one, from where the last call stopped.

        Args:
            index: Which module.
            state: Its state after the final inputs.
            outputs: Its outputs, None for none.
            num_final: How many of them are final.
            due: Outputs to have been passed on in all, final or not.
        """
        before = self.modules[index]
        computed = before.computed + num_final
        passed_on = before.passed_on
        self.final = None
        self.likely = None
        # computed      | before.computed | num_final |            outputs begin at before.computed
        # passed on     | passed_on           | final | likely |    end is due, or where final outputs end
        if outputs is not None:
            end = min(before.computed + outputs.shape[-1], max(computed, due))
            if end > passed_on:
                self.final = outputs[..., passed_on - before.computed : end - before.computed]
                passed_on = end
            rest = outputs[..., passed_on - before.computed :]
            if rest.shape[-1]:
                self.likely = rest
        self.modules[index] = ModuleProgress(state, computed, passed_on)
        if index == len(self.modules) - 1 and self.final is not None:
            self.audio = torch.cat([self.audio, self.final[0, 0]])

    def release(self, last: bool) -> Tensor:
        """Take the audio to return, up to the end of the clip as known now; the last fills up what is missing."""
        if self.end is None:
            count = self.audio.shape[-1]
        else:
            start = self.modules[-1].passed_on - self.audio.shape[-1]
            count = max(0, self.end - start)
        missing = max(0, count - self.audio.shape[-1]) if last else 0
        released = F.pad(self.audio[:count], (0, missing))
        self.audio = self.audio[count:]
        return released

    def item(self, ended: bool) -> ItemState:
        """Return the item's state after the call."""
        if ended:
            return ItemState((), self.tokens, self.frames, ended)
        held = self.audio.clone() if self.audio.shape[-1] else None  # without the memory of what was returned
        return ItemState(tuple(self.modules), self.tokens, self.frames, ended, self.end, held)
