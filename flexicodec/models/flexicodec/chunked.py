"""Long clips encoded and decoded in pieces with carried state, so that memory is linear in their length.

The state is that of a stream. Overlapping windows (`SlidingWindow`) stand in for global attention; see `Windows`.
model.py decides which clips are long; the functions here take one of them.
"""

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from flexicodec.models.codec import Precision, autocast
from flexicodec.models.flexicodec import streaming_decode
from flexicodec.models.flexicodec.network import Features, FlexiCodecNetwork, QuantizedTokens
from flexicodec.models.flexicodec.streaming_encode import StreamedQuantizers, StreamedSemanticEncoder
from flexicodec.models.streaming.decoder import DecoderOptions
from flexicodec.models.streaming.state import Windows
from flexicodec.tokens import Tokens

if TYPE_CHECKING:
    from flexicodec.encoders.sanm import SanmEncoder

PIECE_FRAMES = 256  # about 20 s


def encode_semantic(
    codec: FlexiCodecNetwork,
    audio: Float[Tensor, "1 samples"],
    audio_lengths: Int[Tensor, " 1"],
    frames: Int[Tensor, " 1"],
    windows: Windows,
    precision: Precision = "float32",
) -> Float[Tensor, "1 semantic_dim frames"]:
    """Do what `codec.encode_semantic` does to one clip, in pieces."""
    count = int(frames)
    ratio = None
    if codec.config.geometry == "released":
        # Each clip's features are stretched to its frame count.
        sanm = cast("SanmEncoder", codec.semantic_encoder)
        ratio = Fraction(int(sanm.front_end.num_frames(audio_lengths)), count)
    encoder = StreamedSemanticEncoder(codec, windows, ratio)
    state = encoder.initial_state()

    samples, _ = codec.input_lengths(audio_lengths, frames)
    audio = F.pad(audio, (0, int(samples) - audio.shape[1]))
    pieces = audio[:, None].float().split(PIECE_FRAMES * codec.frame_size, dim=-1)
    features = audio.new_zeros(1, codec.semantic_encoder.dim, count)
    done = 0
    with autocast(precision, audio.device):
        for index, piece in enumerate(pieces):
            # The last piece ends the clip: all frames that are left.
            remaining = count - done if index == len(pieces) - 1 else None
            y, state = encoder.step(piece, state, remaining)
            features[..., done : done + y.shape[-1]] = y
            done += y.shape[-1]
    assert done == count
    return features


def quantize(
    codec: FlexiCodecNetwork, features: Features, durations: Int[Tensor, "1 tokens"], num_codebooks: int
) -> Iterator[QuantizedTokens]:
    """Do what `codec.quantize` does to one clip, in pieces."""
    assert features.windows is not None
    semantic = features.semantic
    acoustic = features.acoustic
    if acoustic is None:
        if num_codebooks:
            raise ValueError("these features were made with acoustic=False; they only serve num_codebooks=0")
        acoustic = semantic.new_zeros(1, codec.config.acoustic.latent_dim, semantic.shape[-1])
    steps = features.windows.steps(codec.base_frame_rate)
    quantizers = StreamedQuantizers(codec, num_codebooks, steps, features.precision)
    state = quantizers.initial_state()

    start = 0
    pieces = durations.split(PIECE_FRAMES, dim=1)
    for index, piece in enumerate(pieces):
        # A piece is a number of tokens; their durations say which frames are theirs.
        end = start + int(piece.sum())
        frames = torch.cat([semantic[..., start:end], acoustic[..., start:end]], dim=1)
        tokens, state = quantizers.step(frames, piece, state, index == len(pieces) - 1)
        yield tokens
        start = end


def smooth(
    codec: FlexiCodecNetwork, tokens: Tokens, windows: Windows, precision: Precision = "float32"
) -> Float[Tensor, "1 dim frames"]:
    """Dequantize, unmerge and smooth one clip, in pieces."""
    context, ahead, stride = windows.steps(codec.base_frame_rate)
    settings = DecoderOptions(context_frames=context, ahead_frames=ahead, stride_frames=stride)
    *stages, _ = streaming_decode.stages(codec, settings)
    states = [stage.initial_state() for stage in stages]

    pieces = streaming_decode.inputs(codec, tokens).split(PIECE_FRAMES, dim=-1)
    frames = pieces[0].new_zeros(1, codec.config.acoustic.latent_dim, int(tokens.frame_lengths))
    done = 0
    for index, x in enumerate(pieces):
        for place, stage in enumerate(stages):
            # The first stage unmerges what was dequantized, in float32.
            with autocast(precision if place else "float32", codec.device):
                x, states[place] = stage.step(x, states[place], index == len(pieces) - 1)
        frames[..., done : done + x.shape[-1]] = x
        done += x.shape[-1]
    assert done == frames.shape[-1]
    return frames
