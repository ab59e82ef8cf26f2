"""Decoding for servers: requests that come and go, each with a decoder state of its own.

The call has the shape of the code-to-wave stage of vLLM-Omni, with durations beside the codes, since a token lasts a
number of frames: codes in by request, new samples out.

    stage = CodeToWave(codec)
    for ids, codes, durations, finished in batches:         # [B, K, N] with the semantic codebook first, [B, N]
        for request, audio in zip(ids, stage.decode(ids, codes, durations, finished)): ...

What a state holds is known from the streaming decoder, so the audio equals that of the whole clip. A server without
states repeats context instead (`chunked_decode_streaming`), of `Codec.decoder_context_frames`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flexicodec.models.streaming.decoder import StreamingDecoder
from flexicodec.tokens import Tokens

if TYPE_CHECKING:
    from flexicodec.models.codec import Codec

FRAMES = (32, 128, 512)  # clips that context is looked for in
_measured: "WeakKeyDictionary[Codec, int | None]" = WeakKeyDictionary()


class CodeToWave:
    """A decoder of many requests.

    Args:
        codec: The model; all requests share its weights.
        options: Of `Codec.streaming_decoder`, such as `lookahead_frames`.

    Attributes:
        total_upsample: Samples of audio per frame. How many a token has, its duration says.
        states: Decoder states of the requests that have begun and not finished, by id.
    """

    def __init__(self, codec: "Codec", **options: Any) -> None:
        self.codec = codec
        self.total_upsample = codec.output_frame_size
        self.states: dict[str, Any] = {}
        self._decoder: StreamingDecoder = codec.streaming_decoder(**options)
        self._start = self._decoder.state.items[0]

    def decode(
        self,
        request_ids: Sequence[str],
        codes: Int[Tensor, "batch codebooks tokens"],
        durations: Int[Tensor, "batch tokens"],
        finished: Sequence[bool] | None = None,
    ) -> list[Float[Tensor, " samples"]]:
        """Decode the next tokens of some requests; those in equal states are computed together.

        Args:
            request_ids: A new one begins a request.
            codes: Their next codes, the semantic codebook first, padded on the right. N may be 0.
            durations: Frames of each token; 0 is padding.
            finished: Which requests end with these tokens: their remaining audio is returned and their state dropped.

        Returns:
            New samples of each request; none where more tokens have to come first.

        Raises:
            ValueError: Ids repeat, or are not as many as clips, or the tokens are none of this model's. States then
                stay as they were.
        """
        ended = [False] * len(request_ids) if finished is None else list(finished)
        if len(set(request_ids)) < len(request_ids) or not len(request_ids) == len(ended) == len(codes):
            raise ValueError(
                f"{len(codes)} clips and {len(ended)} ends for request_ids {list(request_ids)}; expected one of each"
            )
        # The decoder's batch is that of this call. Requests that end are a call of their own.
        audio: list[Tensor] = [torch.empty(0)] * len(request_ids)
        states = dict(self.states)
        for last in (False, True):
            rows = [row for row, end in enumerate(ended) if end == last]
            if not rows:
                continue
            items = tuple(states.pop(request_ids[row], self._start) for row in rows)
            self._decoder.state = replace(self._decoder.state, items=items)
            decoded = self._decoder.decode_each(_tokens(self.codec, codes[rows], durations[rows]), last)
            for row, new, item in zip(rows, decoded, self._decoder.state.items, strict=True):
                audio[row] = new
                if not last:
                    states[request_ids[row]] = item
        self.states = states
        return audio

    def abort(self, request_id: str) -> None:
        """Drop the state of a request that will not go on."""
        self.states.pop(request_id, None)

    def chunked_decode_streaming(
        self,
        codes: Int[Tensor, "batch codebooks tokens"],
        durations: Int[Tensor, "batch tokens"],
        left_context_size: Sequence[int],
        right_context_size: Sequence[int] | None = None,
    ) -> list[Float[Tensor, "1 samples"]]:
        """Decode tokens together with context, and return the audio of those that are not context.

        Args:
            codes: [B, K, N] with the semantic codebook first.
            durations: Frames of each token; 0 is padding.
            left_context_size: Tokens at the start of each clip that are context; `Codec.decoder_context_frames` of
                them are enough at any rate.
            right_context_size: Tokens at its end that are; none at the end of a request. The decoders here look ahead,
                so chunks without are not those of the whole.
        """
        tokens = _tokens(self.codec, codes, durations)
        audio = self.codec.decode(tokens, windows=None)
        ends = tokens.durations.cumsum(1) * self.total_upsample
        counts = tokens.token_lengths
        left = torch.as_tensor(left_context_size, device=ends.device)
        right = torch.zeros_like(left) if right_context_size is None else torch.as_tensor(right_context_size).to(left)
        if bool((left + right > counts).any()) or bool((left < 0).any()) or bool((right < 0).any()):
            raise ValueError(f"contexts {left.tolist()} and {right.tolist()} of clips of {counts.tolist()} tokens")
        # Both bounds of every clip in a single wait for a GPU
        starts = torch.cat([torch.zeros_like(ends[:, :1]), ends], 1)
        bounds = torch.stack([starts.gather(1, left[:, None]), starts.gather(1, (counts - right)[:, None])], 1)
        return [row[None, first:end] for row, (first, end) in zip(audio, bounds[..., 0].tolist(), strict=True)]


def _tokens(codec: "Codec", codes: Tensor, durations: Tensor) -> Tokens:
    """Make tokens of codes with the semantic codebook first, where the model has one."""
    if codec.format.semantic_codebook_size is None:
        return Tokens(None, codes, durations, format=codec.format)
    return Tokens(codes[:, 0], codes[:, 1:], durations, format=codec.format)


def measure_context(codec: "Codec") -> int | None:
    """Measure on how many frames before its own decoded audio depends.

    Two clips of random codes that differ in their first half alone are decoded: the second half differs as far as
    context reaches. Every token lasts a frame, so layers on tokens count too.

    Returns:
        Frames, or None where attention spans the whole clip.
    """
    if codec not in _measured:
        _measured[codec] = _measure(codec) if codec.streaming_decoder().exact else None
    return _measured[codec]


def _measure(codec: "Codec") -> int | None:
    form = codec.format
    generator = torch.Generator().manual_seed(0)

    def draw(size: int, *shape: int) -> Tensor:
        return torch.randint(size, shape, generator=generator)

    for half in FRAMES:
        acoustic = draw(form.acoustic_codebook_size, codec.num_codebooks, 2 * half)
        size = form.semantic_codebook_size
        semantic = None if size is None else draw(size, 2 * half)
        decoded = []
        for _ in range(2):
            tokens = Tokens(semantic, acoustic, [1] * 2 * half, format=form)
            decoded.append(codec.decode(tokens, windows=None)[0])
            # The other clip has another first half.
            acoustic[:, :half] = draw(form.acoustic_codebook_size, codec.num_codebooks, half)
            if size is not None and semantic is not None:
                semantic[:half] = draw(size, half)
        differing = int((decoded[0] != decoded[1]).nonzero().max())
        context = differing // codec.output_frame_size + 1 - half
        if context < half:  # else it may go on behind the end
            return context
    return None
