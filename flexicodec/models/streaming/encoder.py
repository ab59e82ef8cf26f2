"""Streams the other way: audio in as it comes, tokens out as soon as they are decided.

    with codec.streaming_encoder(threshold=0.6) as stream:
        for samples in microphone:               # any number of them
            send(stream.encode(samples))         # the tokens that are decided by now, or None
        send(stream.flush())

As in `streaming`, what a stream remembers is a value, the model knows nothing of it, and streams of a batch that stand
alike are heard side by side. `Tokens.concat` puts the pieces together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from flexicodec.audio import as_batch
from flexicodec.models.streaming.state import StreamBatch, Windows
from flexicodec.nn import streaming
from flexicodec.tokens import Tokens

if TYPE_CHECKING:
    from flexicodec.models.codec import Codec

STREAM_WINDOWS = Windows(10.0, 2.5)  # of models with global attention: twice the work of the whole, half the wait


@streaming.register_state
@dataclass(frozen=True)
class EncoderOptions:
    """What a stream was opened with.

    Attributes:
        policy: Which neighbours share a token; None where none ever do.
        max_duration: Most frames per token; None for no cap.
        num_codebooks: Acoustic codebooks.
        margins: Whether tokens say how far each decision was from another.
        windows: Where attention is global.
    """

    policy: Any = None
    max_duration: int | None = 1
    num_codebooks: int = 0
    margins: bool = False
    windows: Windows = STREAM_WINDOWS


@dataclass(frozen=True)
class EndOfClip:
    """What has to be known where a clip ends.

    Attributes:
        samples: Of the clip.
        frames: Of the clip that are not out yet.
    """

    samples: int
    frames: int


class StreamingTokenizer(Protocol):
    """What a family offers to a streaming encoder: ears that may listen to several clips at once, and a hand for each.

    Attributes:
        exact: Whether all tokens in a row are those of the whole clip, wherever margins are above float noise.
        info: For `Tokens.info`.
    """

    exact: bool
    info: dict[str, Any]

    def latency(self, frames_per_token: float) -> float:
        """Return the seconds from the start of a token of so many frames to when it is out, if computing took none."""

    def initial_encoders_state(self) -> Any:
        """Stand before the first sample."""

    def initial_tokenizer_state(self) -> Any:
        """Stand before the first frame."""

    def hear(
        self, audio: Float[Tensor, "batch 1 samples"], state: Any, ending: EndOfClip | None
    ) -> tuple[Float[Tensor, "batch dim frames"], Any]:
        """Take the next samples of clips that stand alike, and give the features of the frames that are ready."""

    def write(
        self, features: Float[Tensor, "1 dim frames"], state: Any, last: bool
    ) -> tuple[dict[str, Any] | None, Any]:
        """Take the next frames of a clip, and give the tokens that are decided, as arguments of `Tokens`."""


@streaming.register_state
@dataclass(frozen=True)
class StreamingEncoderState:
    """Where one clip of a stream stands.

    Attributes:
        hearing: Of the ears.
        writing: Of the hand.
        samples: That came.
        frames: That were heard.
        given: Frames of the tokens that are out.
        ended: Nothing follows.
    """

    hearing: Any
    writing: Any
    samples: int = 0
    frames: int = 0
    given: int = 0
    ended: bool = False


class StreamingEncoder(StreamBatch):
    """A stream of audio that becomes a stream of tokens; made by `Codec.streaming_encoder`.

    Args:
        codec: Whose tokens they are.
        writer: How that family hears and writes.
        settings: What the writer was made with.
        batch_size: Streams side by side.

    Attributes:
        codec: Whose tokens they are.
        settings: What it was opened with.
        exact: Whether the pieces in a row are `codec.encode` of all the audio, whatever the chunks; codes whose margins
            are near float noise may differ, as they may between any two machines.
        state: Where it stands, a value; see `StreamState`.
    """

    def __init__(
        self, codec: "Codec", writer: StreamingTokenizer, settings: EncoderOptions, batch_size: int = 1
    ) -> None:
        self._writer, self.exact = writer, writer.exact
        super().__init__(codec, settings, batch_size, codec.fingerprint)

    @property
    def latency_seconds(self) -> float:
        """Longest time from the start of a token's sound to when it comes out, if computing took none.

        Tokens wait for other tokens, so it takes all of them to last longest; see `latency_at`.
        """
        longest = self.settings.max_duration
        return self._writer.latency(float("inf") if longest is None else longest)

    def latency_at(self, frame_rate: float) -> float:
        """Return the latency in seconds where tokens come at this rate in Hz, evenly."""
        return self._writer.latency(self.codec.base_frame_rate / frame_rate)

    # ------------------------------------------------------------------------------------------------------- the stream

    def encode(self, audio: Any) -> Tokens | None:
        """Take the next samples of the one stream, and give the tokens that are decided by now; None for none.

        Args:
            audio: [S] or [1, S] at the codec's rate, a tensor or array, float in [-1, 1] or int16; S may be 0.

        Raises:
            ValueError: There are several streams, the stream has ended, or what `encode` raises for such audio.
        """
        self._check_single("encode")
        return self.encode_each(audio)[0]

    def flush(self) -> Tokens | None:
        """End the one stream, and give the tokens that are left; None where no sample came."""
        self._check_single("flush")
        return self.flush_each()[0]

    def encode_each(self, audio: Any, lengths: Any = None, items: Sequence[int] | None = None) -> list[Tokens | None]:
        """Do what `encode` does for several streams.

        Args:
            audio: [B, S], a row for each.
            lengths: Valid samples of each row; None means all.
            items: Which streams the rows belong to; None: one for each, in order.

        Raises:
            ValueError: As for `encode`, or not as many rows as streams.
        """
        chosen = self._choose(items)
        batch, counts = as_batch(
            audio,
            lengths,
            sample_rate=None,
            target_sample_rate=self.codec.sample_rate,
            device=self.codec.device,
            minimum=0,
        )
        if len(batch) != len(chosen):
            raise ValueError(f"{len(batch)} rows of audio for {len(chosen)} streams; say which with items=")
        rows = [row[None, None, :count] for row, count in zip(batch, counts.tolist(), strict=True)]
        return self._take(chosen, rows, last=False)

    def flush_each(self, items: Sequence[int] | None = None) -> list[Tokens | None]:
        """End these streams, or all, and give the tokens that are left. To go on they have to be reset."""
        chosen = self._choose(items)
        return self._take(chosen, [torch.zeros(1, 1, 0, device=self.codec.device)] * len(chosen), last=True)

    # ---------------------------------------------------------------------------------------------------------- inside

    def _fresh(self) -> StreamingEncoderState:
        return StreamingEncoderState(self._writer.initial_encoders_state(), self._writer.initial_tokenizer_state())

    def _check_single(self, name: str) -> None:
        if self.batch_size != 1:
            raise ValueError(f"{name} is for one stream, and here are {self.batch_size}; use {name}_each")

    def _take(self, chosen: list[int], rows: list[Tensor], last: bool) -> list[Tokens | None]:
        """Hear what came, those that stand alike side by side, and write it down clip by clip."""
        every: list[StreamingEncoderState] = list(self.state.items)
        results: list[Tokens | None] = [None] * len(chosen)
        with torch.no_grad(), torch.autocast(self.codec.device.type, enabled=False):
            for group in self._alike(chosen, rows, last):
                items = [chosen[index] for index in group]
                if last and not every[items[0]].samples:
                    every[items[0]] = replace(every[items[0]], ended=True)
                    continue
                audio = torch.cat([rows[index] for index in group])
                heard, after = self._hear([every[item] for item in items], audio, last)
                for row, (index, item) in enumerate(zip(group, items, strict=True)):
                    results[index], every[item] = self._write(heard[row : row + 1], after[row], last)
        self.state = replace(self.state, items=tuple(every))
        return results

    def _alike(self, chosen: list[int], rows: list[Tensor], last: bool) -> list[list[int]]:
        groups: dict[Any, list[int]] = {}
        for index, item in enumerate(chosen):
            if not last and not rows[index].shape[-1]:
                continue
            key = index if last else (rows[index].shape[-1], streaming.signature(self.state.items[item].hearing))
            groups.setdefault(key, []).append(index)
        return list(groups.values())

    def _hear(
        self, before: list[StreamingEncoderState], audio: Float[Tensor, "batch 1 samples"], last: bool
    ) -> tuple[Float[Tensor, "batch dim frames"], list[StreamingEncoderState]]:
        ending = None
        if last:
            samples = before[0].samples
            ending = EndOfClip(samples, self.codec.num_frames(samples) - before[0].frames)
        heard, hearing = self._writer.hear(audio, streaming.batch([each.hearing for each in before]), ending)
        after = [
            replace(each, hearing=own, samples=each.samples + audio.shape[-1], frames=each.frames + heard.shape[-1])
            for each, own in zip(before, streaming.unbatch(hearing, len(before)), strict=True)
        ]
        return heard, after

    def _write(
        self, heard: Float[Tensor, "1 dim frames"], before: StreamingEncoderState, last: bool
    ) -> tuple[Tokens | None, StreamingEncoderState]:
        written, writing = self._writer.write(heard, before.writing, last)
        if last:
            after = replace(before, hearing=None, writing=None, ended=True)
        else:
            after = replace(before, writing=writing)
        if written is None:
            return None, after
        size, frames = self.codec.frame_size, int(written["durations"].sum())
        samples = before.samples - before.given * size if last else frames * size
        form = replace(self.codec.format, max_duration=self.settings.max_duration)
        tokens = Tokens(**written, audio_lengths=[samples], format=form, info=self._writer.info)
        return tokens, replace(after, given=before.given + frames)
