"""Streaming encoder: audio in chunks of any size, tokens as soon as they are final.

    with codec.streaming_encoder(threshold=0.6) as stream:
        for samples in microphone:               # any number of them
            send(stream.encode(samples))         # the tokens that are final by now, or None
        send(stream.flush())

As in `decoder`, a stream's state is a value outside the model, and streams of a batch are computed together where their
states have equal shapes. `Tokens.concat` joins the pieces.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from flexicodec.audio import as_batch
from flexicodec.models.fingerprint import inference_call
from flexicodec.models.streaming.state import StreamBatch, Windows
from flexicodec.nn import streaming
from flexicodec.tokens import TokenFormat, Tokens

if TYPE_CHECKING:
    from flexicodec.models.codec import Codec

STREAM_WINDOWS = Windows(10.0, 2.5)  # for global attention: twice the computation of the whole clip, half the latency


@streaming.register_state
@dataclass(frozen=True)
class EncoderOptions:
    """Options of a streaming encoder.

    Attributes:
        policy: Merging policy; None for one frame per token.
        max_duration: Most frames per token; None for no cap.
        num_codebooks: Acoustic codebooks.
        margins: Whether tokens say how far each decision was from another.
        windows: For global attention.
        lookahead_frames: Frames behind a token that it waits for at most; see `EarlyStreamingEncoder`. None waits for
            all that it depends on.
        chunk_frames: With `lookahead_frames`: tokens are looked for after so many frames each.
    """

    policy: Any = None
    max_duration: int | None = 1
    num_codebooks: int = 0
    margins: bool = False
    windows: Windows = STREAM_WINDOWS
    lookahead_frames: int | None = None
    chunk_frames: int = 4

    def __post_init__(self) -> None:
        for name, least in (("lookahead_frames", 0), ("chunk_frames", 1)):
            value = getattr(self, name)
            is_count = isinstance(value, int) and not isinstance(value, bool) and value >= least
            if not is_count and not (value is None and name == "lookahead_frames"):
                raise ValueError(f"{name} is {value!r}; expected a whole number of frames, {least} or more")
        if self.margins and self.lookahead_frames is not None:
            raise ValueError("margins need all that a token depends on; leave out lookahead_frames, or margins")


@dataclass(frozen=True)
class EndOfClip:
    """Size of a clip, known at its end.

    Attributes:
        samples: Of the clip.
        frames: Of the clip whose features are still to be returned.
    """

    samples: int
    frames: int


class StreamingTokenizer(Protocol):
    """What a codec family implements: encoders on a batch of clips, and policy and quantizers on each clip.

    Attributes:
        exact: The concatenated tokens equal those for the whole clip, wherever margins are above float noise.
        info: For `Tokens.info`.
        frames_behind: Frames behind a token that say where it ends.
    """

    exact: bool
    info: dict[str, Any]
    frames_behind: int

    def latency(self, frames_per_token: float) -> float:
        """Return the seconds from the start of a token of so many frames to its output, without computing time."""

    def initial_encoders_state(self) -> Any:
        """Return the encoders' state before the first sample."""

    def initial_tokenizer_state(self) -> Any:
        """Return the state of policy and quantizers before the first frame."""

    def encode_features(
        self, audio: Float[Tensor, "batch 1 samples"], state: Any, ending: EndOfClip | None
    ) -> tuple[Float[Tensor, "batch dim frames"], Any]:
        """Encode the next samples of clips in equal states; returns the features of complete frames."""

    def emit_tokens(
        self, features: Float[Tensor, "1 dim frames"], state: Any, last: bool
    ) -> tuple[dict[str, Any] | None, Any]:
        """Merge and quantize the next frames of a clip; returns arguments of `Tokens`, None for no token."""

    def pending_tokens(self, state: Any) -> int:
        """Count the tokens whose ends are known, and whose codes wait for later tokens."""


@streaming.register_state
@dataclass(frozen=True)
class StreamingEncoderState:
    """State of one clip of a streaming encoder.

    Attributes:
        encoders: State of the encoders.
        tokenizer: State of policy and quantizers.
        samples: Samples so far.
        frames: Frames with final features so far.
        emitted_frames: Frames of the tokens so far.
        ended: The stream has ended.
        early_frames: Frames behind `frames` whose features were used before they were final.
        early_tokens: Tokens that were returned before their codes were final.
    """

    encoders: Any
    tokenizer: Any
    samples: int = 0
    frames: int = 0
    emitted_frames: int = 0
    ended: bool = False
    early_frames: int = 0
    early_tokens: int = 0


class StreamingEncoder(StreamBatch):
    """A stream from audio to tokens; made by `Codec.streaming_encoder`.

    Args:
        codec: The model.
        tokenizer: The family's implementation.
        settings: Options the tokenizer was made with.
        batch_size: Streams side by side.
        encode_options: Those of `Codec.encode` that ask for the same tokens of a whole clip.

    Attributes:
        codec: The model.
        settings: Its options.
        encode_options: As given. A rate in Hz is held by the policy "running", which cuts elsewhere than
            `encode(frame_rate=...)`: that ranks the frames of the whole clip.
        exact: The concatenated tokens equal `codec.encode(audio, **stream.encode_options)` of all the audio, whatever
            the chunks; codes whose margins are near float noise may differ, as between any two machines.
        state: A value; see `StreamState`.
    """

    model = "fingerprint"

    def __init__(
        self,
        codec: "Codec",
        tokenizer: StreamingTokenizer,
        settings: EncoderOptions,
        batch_size: int = 1,
        encode_options: dict[str, Any] | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self.exact = tokenizer.exact
        self.encode_options = encode_options or {}
        options = "".join(f", {name}={value!r}" for name, value in self.encode_options.items())
        self.reference = f"encode(audio{options})"
        super().__init__(codec, settings, batch_size)

    @property
    def latency_seconds(self) -> float:
        """Longest time from the start of a token's audio to its output, without computing time.

        Tokens depend on later tokens, so the longest latency needs all of them to be longest; see `latency_at`.
        """
        longest = self.settings.max_duration
        return self._latency(inf if longest is None else longest)

    def latency_at(self, frame_rate: float) -> float:
        """Return the latency in seconds for evenly spaced tokens at this rate in Hz."""
        return self._latency(self.codec.base_frame_rate / frame_rate)

    def _latency(self, frames_per_token: float) -> float:
        return self._tokenizer.latency(frames_per_token)

    # ------------------------------------------------------------------------------------------------------- the stream

    def encode(self, audio: Any) -> Tokens | None:
        """Encode the next samples of the only stream; returns the tokens that are final now, None for none.

        Args:
            audio: [S] or [1, S] at the codec's rate, a tensor or array, float in [-1, 1] or int16; S may be 0.

        Raises:
            ValueError: There are several streams, the stream has ended, or any error of `Codec.encode` for such audio.
        """
        self._check_single("encode")
        return self.encode_each(audio)[0]

    def flush(self) -> Tokens | None:
        """End the only stream and return its remaining tokens; None where it had no sample."""
        self._check_single("flush")
        return self.flush_each()[0]

    def encode_each(self, audio: Any, lengths: Any = None, items: Sequence[int] | None = None) -> list[Tokens | None]:
        """Do what `encode` does for several streams.

        Args:
            audio: [B, S], a row per stream.
            lengths: Valid samples of each row; None means all.
            items: Streams of the rows; None: all streams, in order.

        Raises:
            ValueError: As for `encode`, or the number of rows differs from that of the streams.
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
        # Every stream's own samples, [1, 1, samples].
        rows = [row[None, None, :count] for row, count in zip(batch, counts.tolist(), strict=True)]
        return self._step(chosen, rows, last=False)

    def flush_each(self, items: Sequence[int] | None = None) -> list[Tokens | None]:
        """End these streams, or all, and return their remaining tokens; `reset` starts them again."""
        chosen = self._choose(items)
        empty = torch.zeros(1, 1, 0, dtype=torch.float32, device=self.codec.device)
        return self._step(chosen, [empty] * len(chosen), last=True)

    # ---------------------------------------------------------------------------------------------------------- inside

    def _initial_item(self) -> StreamingEncoderState:
        tokenizer = self._tokenizer
        return StreamingEncoderState(tokenizer.initial_encoders_state(), tokenizer.initial_tokenizer_state())

    def _check_single(self, name: str) -> None:
        if self.batch_size != 1:
            raise ValueError(f"{name} is for one stream, and here are {self.batch_size}; use {name}_each")

    def _step(self, chosen: list[int], rows: list[Tensor], last: bool) -> list[Tokens | None]:
        """Encode new samples, `rows[i]` of stream `chosen[i]`."""
        every: list[StreamingEncoderState] = list(self.state.items)
        results: list[Tokens | None] = [None] * len(chosen)
        with torch.no_grad(), torch.autocast(self.codec.device.type, enabled=False):
            for group in self._groups(chosen, rows, last):
                items = [chosen[index] for index in group]
                if last and not every[items[0]].samples:  # no clip, no tokens
                    every[items[0]] = replace(every[items[0]], ended=True)
                    continue

                # Features as a batch, tokens clip by clip.
                audio = torch.cat([rows[index] for index in group])
                features, after = self._encode_features([every[item] for item in items], audio, last)
                for row, (index, item) in enumerate(zip(group, items, strict=True)):
                    results[index], every[item] = self._emit_tokens(features[row : row + 1], after[row], last)
        self.state = replace(self.state, items=tuple(every))
        return results

    def _groups(self, chosen: list[int], rows: list[Tensor], last: bool) -> list[list[int]]:
        """Group streams that can be a batch: equal shapes of samples and state, and none at its end."""
        groups: dict[Any, list[int]] = {}
        for index, item in enumerate(chosen):
            samples = rows[index].shape[-1]
            if not last and not samples:
                continue
            key = index if last else (samples, streaming.signature(self.state.items[item].encoders))
            groups.setdefault(key, []).append(index)
        return list(groups.values())

    def _encode_features(
        self, before: list[StreamingEncoderState], audio: Float[Tensor, "batch 1 samples"], last: bool
    ) -> tuple[Float[Tensor, "batch dim frames"], list[StreamingEncoderState]]:
        """Run the encoders on a batch of streams."""
        ending = None
        if last:
            samples = before[0].samples
            ending = EndOfClip(samples, self.codec.num_frames(samples) - before[0].frames)
        # One call for the batch, then a state for each stream again.
        state = streaming.batch([each.encoders for each in before])
        features, state = self._tokenizer.encode_features(audio, state, ending)
        after = []
        for each, encoders in zip(before, streaming.unbatch(state, len(before)), strict=True):
            samples = each.samples + audio.shape[-1]
            after.append(replace(each, encoders=encoders, samples=samples, frames=each.frames + features.shape[-1]))
        return features, after

    def _emit_tokens(
        self, features: Float[Tensor, "1 dim frames"], before: StreamingEncoderState, last: bool
    ) -> tuple[Tokens | None, StreamingEncoderState]:
        """Run policy and quantizers on one stream."""
        arguments, tokenizer = self._tokenizer.emit_tokens(features, before.tokenizer, last)
        if last:
            after = replace(before, encoders=None, tokenizer=None, ended=True)
        else:
            after = replace(before, tokenizer=tokenizer)
        return self._tokens(arguments, after, last)

    def _tokens(
        self, arguments: dict[str, Any] | None, state: StreamingEncoderState, last: bool
    ) -> tuple[Tokens | None, StreamingEncoderState]:
        """Make tokens of what the tokenizer returned, and count their frames."""
        if arguments is None:
            return None, state
        # The last tokens are as long as the audio that is left, others as long as their frames.
        size = self.codec.frame_size
        frames = int(arguments["durations"].sum())
        samples = state.samples - state.emitted_frames * size if last else frames * size
        tokens = Tokens(**arguments, audio_lengths=[samples], format=self._format(), info=self._tokenizer.info)
        return tokens, replace(state, emitted_frames=state.emitted_frames + frames)

    @inference_call
    def _format(self) -> TokenFormat:
        """Return the format of the tokens, where the weights are those that the stream began with."""
        self._check_weights()
        return replace(self.codec.format, max_duration=self.settings.max_duration)
