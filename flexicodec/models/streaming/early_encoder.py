"""Streaming encoder with a short look-ahead: tokens before all they depend on is known, sooner and not exact.

Every few frames the stream is encoded as if the clip ended here. Features that are old enough are used, and codes of
tokens likewise; the states stay those of the exact stream, which continues from what is final.
"""

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flexicodec.models.streaming.encoder import (
    EncoderOptions,
    EndOfClip,
    StreamingEncoder,
    StreamingEncoderState,
    StreamingTokenizer,
)
from flexicodec.tokens import Tokens

if TYPE_CHECKING:
    from flexicodec.models.codec import Codec


class EarlyStreamingEncoder(StreamingEncoder):
    """A `StreamingEncoder` whose tokens wait for at most `settings.lookahead_frames`.

    Each look at `settings.chunk_frames` new frames encodes the look-ahead again: longer chunks cost latency and save
    computation. Where the look-ahead holds all that tokens depend on, they are those of the exact stream.
    """

    def __init__(
        self,
        codec: "Codec",
        tokenizer: StreamingTokenizer,
        settings: EncoderOptions,
        batch_size: int = 1,
        encode_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(codec, tokenizer, settings, batch_size, encode_options)
        assert settings.lookahead_frames is not None
        self._lookahead: int = settings.lookahead_frames
        # What the longest token depends on, beside itself and the frames that say where it ends
        longest = inf if settings.max_duration is None else settings.max_duration
        needed = tokenizer.latency(longest) * codec.base_frame_rate - longest - tokenizer.frames_behind
        self.exact = tokenizer.exact and self._lookahead >= needed

    def _latency(self, frames_per_token: float) -> float:
        frames = frames_per_token + self._tokenizer.frames_behind + self._lookahead + self.settings.chunk_frames - 1
        return min(super()._latency(frames_per_token), frames / self.codec.base_frame_rate)

    def _step(self, chosen: list[int], rows: list[Tensor], last: bool) -> list[Tokens | None]:
        """Encode new samples stream by stream, up to the end of each chunk of frames."""
        every: list[StreamingEncoderState] = list(self.state.items)
        results = []
        with torch.no_grad(), torch.autocast(self.codec.device.type, enabled=False):
            for item, audio in zip(chosen, rows, strict=True):
                pieces = []
                for part in [audio] if last else self._until_looks(audio, every[item].samples):
                    tokens, every[item] = self._advance(every[item], part, last)
                    pieces += [] if tokens is None else [tokens]
                results.append(Tokens.concat(pieces) if pieces else None)
        self.state = replace(self.state, items=tuple(every))
        return results

    def _until_looks(self, audio: Tensor, samples: int) -> tuple[Tensor, ...]:
        """Cut audio behind so many samples where tokens are looked for, so that a caller's chunks change nothing."""
        size = self.settings.chunk_frames * self.codec.frame_size
        cuts = list(range(size - samples % size, audio.shape[-1], size))
        return torch.tensor_split(audio, cuts, dim=-1)

    def _advance(
        self, before: StreamingEncoderState, audio: Tensor, last: bool
    ) -> tuple[Tokens | None, StreamingEncoderState]:
        """Encode the next samples of one stream, which end at a look or before it."""
        if last and not before.samples:  # no clip, no tokens
            return None, replace(before, ended=True)
        features, (after,) = self._encode_features([before], audio, last)
        # Final features, without those whose early versions were used.
        used = min(before.early_frames, features.shape[-1])
        features = features[..., used:]
        early_frames = before.early_frames - used
        is_look = not last and after.samples % (self.settings.chunk_frames * self.codec.frame_size) == 0
        if is_look:
            # The others, as if the clip ended here: those of frames that are old enough are used.
            ending = EndOfClip(after.samples, self.codec.num_frames(after.samples) - after.frames)
            likely, _ = self._tokenizer.encode_features(audio[..., :0], after.encoders, ending)
            due = after.samples // self.codec.frame_size - self._lookahead - after.frames
            end = max(early_frames, min(due, likely.shape[-1]))
            features = torch.cat([features, likely[..., early_frames:end]], dim=-1)
            early_frames = end
            ahead = likely[..., end:]

        # Tokens whose codes are final, and those that wait for later ones, again as if the clip ended here.
        final, tokenizer = self._tokenizer.emit_tokens(features, before.tokenizer, last)
        found = [] if final is None else [final]
        num_final = sum(each["durations"].shape[1] for each in found)
        if is_look and (pending := self._tokenizer.pending_tokens(tokenizer)):
            likely_tokens, _ = self._tokenizer.emit_tokens(ahead, tokenizer, True)
            assert likely_tokens is not None
            found.append(_select(likely_tokens, 0, pending))
        # Of these, new ones that are old enough.
        new = None
        count = 0
        if found:
            every = _join(found)
            known = before.early_tokens
            ends = before.emitted_frames + every["durations"][0, known:].cumsum(0)
            old_enough = known + int((ends <= after.samples // self.codec.frame_size - self._lookahead).sum())
            new = _select(every, known, max(num_final, old_enough))
            count = new["durations"].shape[1]
        if last:
            after = replace(after, encoders=None, tokenizer=None, ended=True)
        else:
            early_tokens = before.early_tokens + count - num_final
            after = replace(after, tokenizer=tokenizer, early_frames=early_frames, early_tokens=early_tokens)
        return self._tokens(new if count else None, after, last)


def _select(arguments: dict[str, Any], start: int, end: int | None) -> dict[str, Any]:
    """Cut tokens out of arguments of `Tokens`."""
    return {name: None if codes is None else codes[..., start:end] for name, codes in arguments.items()}


def _join(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Concatenate arguments of `Tokens` in time."""
    joined = {}
    for name, codes in found[0].items():
        joined[name] = None if codes is None else torch.cat([each[name] for each in found], dim=-1)
    return joined
