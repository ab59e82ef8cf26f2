"""Audio files in and out, as mono float32 or as channels of 16 bits; damaged ones are named and never half read."""

import os
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flexicodec.audio import (
    Channels,
    as_tensor,
    check_channel_count,
    check_channels,
    check_sample_rate,
    resample,
    to_float32,
)
from flexicodec.files import replacing

FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
WRITE_BLOCK = 65536  # samples


def read_audio(
    path: str | os.PathLike[str], sample_rate: int | None = None, channels: Channels = "error"
) -> Float[Tensor, "1 samples"]:
    """Read an audio file as mono float32, full scale at 1.

    Args:
        path: Anything libsndfile reads: WAV, FLAC, Ogg, Opus, MP3, AIFF, ...
        sample_rate: Hz to resample to; None keeps the file's own rate.
        channels: `"mix"` averages the channels; `"error"`, unless told otherwise, refuses files with more than one.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is empty, damaged or no audio, or has channels that were not to be mixed. (A WAV or Ogg
            file whose end is missing still reads as a shorter one.)
    """
    import soundfile

    check_channels(channels)
    if sample_rate is not None:
        sample_rate = check_sample_rate(sample_rate)
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such audio file: {path}")
    if not path.is_file():
        raise ValueError(f"{path} is not a file; pass the files in it one by one")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes); did a download or copy stop early?")
    try:
        with soundfile.SoundFile(path) as file:
            promised, file_rate = file.frames, file.samplerate
            # In one go: between reads soundfile seeks, and so steps over holes in a damaged file without a word.
            samples = file.read(dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, TypeError, MemoryError) as error:  # TypeError: headerless files such as .raw
        raise ValueError(f"cannot read {path} as audio: {error}") from error
    if len(samples) == 0:
        raise ValueError(f"{path} holds 0 samples of audio")
    if len(samples) < promised:
        raise ValueError(f"{path} promises {promised} samples but only {len(samples)} can be read; is it damaged?")
    if channels == "error" and samples.shape[1] > 1:
        raise ValueError(f'{path} has {samples.shape[1]} channels; pass channels="mix" to average them')
    audio = torch.from_numpy(samples.mean(axis=1, keepdims=True).T.copy())
    return audio if sample_rate is None else resample(audio, file_rate, sample_rate)


def write_audio(
    path: str | os.PathLike[str], audio: Tensor | np.ndarray, sample_rate: int, subtype: str | None = None
) -> None:
    """Write audio to a file whose suffix names the format: .wav, .flac, .ogg (Vorbis), .opus or .mp3.

    WAV and FLAC hold 16-bit samples by default, rounded to nearest with full scale at 32768 as `read_audio` has it, so
    16-bit audio survives a round trip bit for bit. Values outside [-1, 1] are clipped, except with the subtypes
    `"FLOAT"` and `"DOUBLE"`. The file appears whole or not at all: it is written beside its place, then renamed.

    Args:
        path: Where to; the folder must exist.
        audio: `[S]`, `[1, S]` or `[C, S]`, channels first, float or int16/int32.
        sample_rate: Hz.
        subtype: A libsndfile encoding such as `"FLOAT"` or `"PCM_24"` instead of the format's default.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: Unknown suffix, wrong shape, no samples, NaN or Inf, int16 values cast to float, or a rate, subtype
            or channel count that the format cannot hold.
    """
    import soundfile

    path = Path(path)
    sample_rate = check_sample_rate(sample_rate)
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"cannot tell the audio format of {path} from {path.suffix!r}; known: {', '.join(FORMATS)}")
    container, default_subtype = FORMATS[path.suffix.lower()]
    subtype = subtype or default_subtype
    waves = as_tensor(audio)
    if waves.ndim not in (1, 2) or waves.numel() == 0:
        raise ValueError(f"audio has shape {list(waves.shape)}; expected [S], [1, S] or [C, S] with at least 1 sample")
    waves = torch.atleast_2d(waves)
    check_channel_count(waves)
    waves = to_float32(waves, "channel, sample").cpu()
    if subtype == "PCM_16":  # libsndfile floors, which would shift everything by half a step
        waves = (waves * 2**15).round().clamp(-(2**15), 2**15 - 1).to(torch.int16)
    elif subtype not in ("FLOAT", "DOUBLE"):
        waves = waves.clamp(-1, 1)
    samples = np.ascontiguousarray(waves.T.numpy())
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder of {path} does not exist")
    try:
        with (
            replacing(path) as part,
            soundfile.SoundFile(part, "w", sample_rate, samples.shape[1], subtype, format=container) as file,
        ):
            # Block by block: libsndfile 1.2 overflows its stack on one long Vorbis write.
            for start in range(0, len(samples), WRITE_BLOCK):
                file.write(samples[start : start + WRITE_BLOCK])
    except (soundfile.SoundFileError, ValueError) as error:
        raise ValueError(
            f"cannot write {path} ({container}/{subtype}, {sample_rate} Hz, {samples.shape[1]} channels): "
            f"{getattr(error, 'error_string', error)}"
        ) from error
