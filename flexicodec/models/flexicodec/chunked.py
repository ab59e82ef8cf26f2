"""Clips one at a time, and long ones piece by piece, so that memory and time grow with the clips and not with squares.

What is carried from piece to piece is what a stream carries; see `Windows` for what is not exact then.
"""

from fractions import Fraction
from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from flexicodec.models.flexicodec import streaming_decode
from flexicodec.models.flexicodec.network import Features, FlexiCodecNetwork
from flexicodec.models.flexicodec.streaming_encode import StreamedQuantizers, StreamedSemanticEncoder
from flexicodec.models.precision import Precision, autocast
from flexicodec.models.streaming.decoder import DecoderOptions
from flexicodec.models.streaming.state import Windows
from flexicodec.quantize import Quantized
from flexicodec.tokens import Tokens

if TYPE_CHECKING:
    from flexicodec.encoders.sanm import SanmEncoder

PIECE_FRAMES = 256  # about 20 s: what is taken at once
PADDED_SHARE = 0.1  # of a batch on the CPU, where a batch is no faster than its clips and more than this is a waste


def runs_clip_by_clip(codec: FlexiCodecNetwork, lengths: Int[Tensor, " batch"], windows: Windows | None) -> bool:
    """Tell whether clips of so many frames are taken one at a time: long ones are, and ragged batches on the CPU."""
    if codec.device.type != "cpu":
        return any(is_long(codec, lengths, windows))
    padded = 1 - float(lengths.sum()) / max(1, len(lengths) * int(lengths.max()))
    return padded > PADDED_SHARE or any(is_long(codec, lengths, windows))


def is_long(codec: FlexiCodecNetwork, lengths: Int[Tensor, " batch"], windows: Windows | None) -> list[bool]:
    """Tell of each clip of so many frames whether it is taken in pieces."""
    limit = float("inf") if windows is None else windows.seconds * codec.base_frame_rate
    return [length > limit for length in lengths.tolist()]


def listen(
    codec: FlexiCodecNetwork,
    audio: Float[Tensor, "batch samples"],
    audio_lengths: Int[Tensor, " batch"],
    frames: Int[Tensor, " batch"],
    windows: Windows | None,
    precision: Precision = "float32",
) -> Float[Tensor, "batch semantic_dim frames"]:
    """Do what `codec.listen` does, a clip at a time, long ones in pieces."""
    heard = []
    for i, (long, samples, count) in enumerate(
        zip(is_long(codec, frames, windows), audio_lengths.tolist(), frames.tolist(), strict=True)
    ):
        row = slice(i, i + 1)
        if long and windows is not None:
            with autocast(precision, audio.device):
                heard.append(_listen(codec, audio[row, :samples], count, windows)[0].float())
        else:
            heard.append(codec.encode_semantic(audio[row, :samples], audio_lengths[row], frames[row], precision)[0])
    return pad_sequence([each.T for each in heard], batch_first=True).mT


def hear(
    codec: FlexiCodecNetwork,
    audio: Float[Tensor, "batch samples"],
    audio_lengths: Int[Tensor, " batch"],
    frames: Int[Tensor, " batch"],
) -> Float[Tensor, "batch acoustic_dim frames"]:
    """Do what `codec.hear` does, a clip at a time."""
    rows = zip(audio, audio_lengths, frames, strict=True)
    heard = [codec.hear(clip[None, : int(length)], length[None], count[None])[0] for clip, length, count in rows]
    return pad_sequence([each.T for each in heard], batch_first=True).mT


def sound(
    codec: FlexiCodecNetwork, frames: Float[Tensor, "batch dim frames"], lengths: Int[Tensor, " batch"]
) -> tuple[Float[Tensor, "batch samples"], Int[Tensor, " batch"]]:
    """Do what `codec.sound` does, a clip at a time."""
    clips = [
        codec.sound(clip[None, :, : int(length)], length[None]) for clip, length in zip(frames, lengths, strict=True)
    ]
    audio = pad_sequence([clip[0] for clip, _ in clips], batch_first=True)
    return audio, torch.cat([length for _, length in clips])


def _listen(
    codec: FlexiCodecNetwork, audio: Float[Tensor, "1 samples"], frames: int, windows: Windows
) -> Float[Tensor, "1 semantic_dim frames"]:
    """Hear one clip in pieces."""
    ratio, lengths = None, torch.tensor([audio.shape[1]])
    if codec.config.geometry == "released":
        encoder = cast("SanmEncoder", codec.semantic_encoder)
        ratio = Fraction(int(encoder.front_end.num_frames(lengths)), frames)
    stage = StreamedSemanticEncoder(codec, windows, ratio)
    state, done = stage.initial_state(), 0
    features = audio.new_zeros(1, codec.semantic_encoder.dim, frames)
    audio = torch.nn.functional.pad(audio, (0, int(codec.semantic_input_lengths(lengths)) - audio.shape[1]))
    pieces = audio[:, None].float().split(PIECE_FRAMES * codec.frame_size, dim=-1)
    for index, piece in enumerate(pieces):
        y, state = stage.step(piece, state, frames - done if index == len(pieces) - 1 else None)
        features[..., done : done + y.shape[-1]] = y
        done += y.shape[-1]
    assert done == frames
    return features


def quantize(
    codec: FlexiCodecNetwork,
    features: Features,
    durations: Int[Tensor, "batch tokens"],
    num_codebooks: int,
    margins: bool,
) -> tuple[Quantized, Quantized]:
    """Do what `codec.quantize` does, a clip at a time, long ones in pieces; latents are left out."""
    windows = features.windows
    sound = codec.acoustic_features(features, num_codebooks)
    results = []
    for i, long in enumerate(is_long(codec, features.lengths, windows)):
        own, frames = durations[i : i + 1], int(features.lengths[i])
        own = own[:, : int((own > 0).sum())]
        both = features.semantic[i : i + 1, :, :frames], sound[i : i + 1, :, :frames]
        if long and windows is not None:
            results.append(_quantize(codec, both, own, num_codebooks, margins, windows, features.precision))
        else:
            curve = features.similarities[i : i + 1, : frames - 1]
            alone = Features(*both, curve, *_lengths(features, i), precision=features.precision)
            results.append(codec.quantize(alone, own, num_codebooks, margins=margins))
    return _side_by_side([semantic for semantic, _ in results]), _side_by_side([acoustic for _, acoustic in results])


def _quantize(
    codec: FlexiCodecNetwork,
    both: tuple[Tensor, Tensor],
    durations: Int[Tensor, "1 tokens"],
    num_codebooks: int,
    margins: bool,
    windows: Windows,
    precision: Precision,
) -> tuple[Quantized, Quantized]:
    """Quantise one clip in pieces."""
    stage = StreamedQuantizers(codec, num_codebooks, margins, windows.steps(codec.base_frame_rate), precision)
    state, coded, start = stage.initial_state(), [], 0
    pieces = durations.split(PIECE_FRAMES, dim=1)
    for index, piece in enumerate(pieces):
        end = start + int(piece.sum())
        frames = torch.cat([each[..., start:end] for each in both], dim=1)
        some, state = stage.step(frames, piece, state, index == len(pieces) - 1)
        coded.append(some)
        start = end
    nothing = both[1].new_zeros(1, 0, durations.shape[1])

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(some, name) for some in coded], dim=-1)

    return (
        Quantized(nothing, joined("semantic")[:, None], {}, joined("semantic_margins")[:, None] if margins else None),
        Quantized(nothing, joined("acoustic"), {}, joined("acoustic_margins") if margins else None),
    )


def smooth(
    codec: FlexiCodecNetwork, tokens: Tokens, windows: Windows | None, precision: Precision = "float32"
) -> tuple[Float[Tensor, "batch dim frames"], Int[Tensor, " batch"]]:
    """Look up, unmerge and smooth, as `codec.lookup` and `codec.smooth` do, a clip at a time, long ones in pieces."""
    lengths, frames = tokens.frame_lengths, []
    for i, long in enumerate(is_long(codec, lengths, windows)):
        clip = tokens[i]
        if long and windows is not None:
            frames.append(_smooth(codec, clip, windows, precision)[0])
        else:
            assert clip.semantic is not None
            latents = codec.dequantize(clip.semantic, clip.acoustic, clip.token_lengths)
            with autocast(precision, codec.device):
                frames.append(codec.smooth(latents, clip.durations)[0][0])
    return pad_sequence([each.T for each in frames], batch_first=True).mT, lengths


def _smooth(
    codec: FlexiCodecNetwork, clip: Tokens, windows: Windows, precision: Precision
) -> Float[Tensor, "1 dim frames"]:
    """Smooth one clip in pieces; what is looked up comes in float32."""
    context, ahead, stride = windows.steps(codec.base_frame_rate)
    settings = DecoderOptions(context_frames=context, ahead_frames=ahead, stride_frames=stride)
    *stages, _ = streaming_decode.stages(codec, settings)
    states, done = [stage.initial_state() for stage in stages], 0
    pieces = streaming_decode.inputs(codec, clip).split(PIECE_FRAMES, dim=-1)
    frames = pieces[0].new_zeros(1, codec.config.acoustic.latent_dim, int(clip.frame_lengths))
    for index, x in enumerate(pieces):
        for place, stage in enumerate(stages):
            with autocast(precision if place else "float32", codec.device):
                x, states[place] = stage.step(x, states[place], index == len(pieces) - 1)
        frames[..., done : done + x.shape[-1]] = x
        done += x.shape[-1]
    assert done == frames.shape[-1]
    return frames


def _lengths(features: Features, i: int) -> tuple[Tensor, Tensor]:
    return features.lengths[i : i + 1], features.audio_lengths[i : i + 1]


def _side_by_side(results: list[Quantized]) -> Quantized:
    """Join the codes of clips, zeros in the padding."""
    longest = max(each.codes.shape[-1] for each in results)

    def joined(tensors: list[Tensor], value: float) -> Tensor:
        fill = [torch.nn.functional.pad(each, (0, longest - each.shape[-1]), value=value) for each in tensors]
        return torch.cat(fill)

    margins = [each.margins for each in results if each.margins is not None]
    codes = joined([each.codes for each in results], 0)
    nothing = codes.new_zeros(len(codes), 0, longest, dtype=torch.float32)
    return Quantized(nothing, codes, {}, joined(margins, torch.inf) if margins else None)
