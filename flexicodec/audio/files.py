"""Whole audio files as waveforms: reading and writing; `opened` reads parts.

Damaged files raise an error that names them.
"""

import io
import os
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flexicodec.audio import ogg
from flexicodec.audio.batches import (
    Channels,
    as_tensor,
    check_channel_count,
    check_channels,
    check_sample_rate,
    resample,
    to_float32,
)
from flexicodec.audio.opened import AudioSource, OpenedAudio
from flexicodec.io_utils import replacing

EXAMPLE = Path(__file__).parents[1] / "assets" / "example.flac"  # the recording that ships: LibriSpeech 7021-85628-0027
FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
WRITE_BLOCK = 65536  # samples
OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)
OPUS_RATE = 48_000  # Hz of positions in Opus files
OPUS_PACKET = 960  # samples at that rate: 20 ms
OPUS_DELAY = 312  # samples at that rate that libsndfile's encoder puts in front, and its header tells to skip


def read_audio(
    source: AudioSource, sample_rate: int | None = None, channels: Channels = "error"
) -> Float[Tensor, "1 samples"]:
    """Read an audio file as mono float32, full scale at 1.

    Args:
        source: A path, the bytes of a file, or a file object, which is read from its first byte and stays open. Of
            anything libsndfile reads: WAV, FLAC, Ogg, Opus, MP3, AIFF, SPHERE, ...; with the extra `av` also M4A, AAC,
            WebM, WMA and others. docs/corpora.md has the table.
        sample_rate: Hz to resample to; None keeps the file's own rate.
        channels: `"mix"` averages the channels; `"error"` refuses files with more than one.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is empty, damaged or no audio, or has several channels and `channels` is `"error"`. (A WAV
            or Ogg file whose end is missing still reads as a shorter one.)
    """
    check_channels(channels)
    if sample_rate is not None:
        sample_rate = check_sample_rate(sample_rate)
    name = _name(source)
    if isinstance(source, str | os.PathLike):
        _check_path(Path(source))
    try:
        with OpenedAudio(source) as opened:
            file_rate = opened.rate
            samples = opened.read()
    except ValueError as error:
        raise ValueError(f"cannot read {name} as audio: {error}") from error
    if len(samples) == 0:
        raise ValueError(f"{name} holds 0 samples of audio")
    if channels == "error" and samples.shape[1] > 1:
        raise ValueError(f'{name} has {samples.shape[1]} channels; pass channels="mix" to average them')
    audio = torch.from_numpy(samples.mean(axis=1, keepdims=True).T.copy())
    return audio if sample_rate is None else resample(audio, file_rate, sample_rate)


def example_audio(sample_rate: int | None = None) -> Float[Tensor, "1 samples"]:
    """Read the recording that ships with the package, 8.5 s of read English at 16 kHz; the file is `EXAMPLE`.

    Args:
        sample_rate: Hz to resample to; None keeps 16 kHz.
    """
    return read_audio(EXAMPLE, sample_rate)


def _name(source: AudioSource) -> str:
    if isinstance(source, bytes):
        return f"a file of {len(source)} bytes"
    return str(getattr(source, "name", "an open file") if isinstance(source, io.IOBase) else source)


def _check_path(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(f"no such audio file: {path}")
    if not path.is_file():
        raise ValueError(f"{path} is not a file; pass the files in it one by one")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes); did a download or copy stop early?")


def write_audio(
    path: str | os.PathLike[str], audio: Tensor | np.ndarray, sample_rate: int, subtype: str | None = None
) -> None:
    """Write audio to a file whose suffix names the format: .wav, .flac, .ogg (Vorbis), .opus or .mp3.

    WAV and FLAC hold 16-bit samples by default, rounded to nearest with full scale at 32768 as in `read_audio`, so that
    16-bit audio survives a round trip bit for bit. Values outside [-1, 1] are clipped, except with the subtypes
    `"FLOAT"` and `"DOUBLE"`. Opus takes 8000, 12000, 16000, 24000 and 48000 Hz, and refuses others: `resample` first.
    The file appears whole or not at all.

    Args:
        path: The file, in a folder that exists.
        audio: `[S]`, `[1, S]` or stereo `[2, S]`, channels first, float or int16/int32. A batch of clips is no file:
            write each clip that `split` returns.
        sample_rate: Hz.
        subtype: A libsndfile encoding such as `"FLOAT"` or `"PCM_24"` instead of the format's default.
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
    if len(waves) > 2:
        raise ValueError(
            f"cannot write {path} ({container}/{subtype}, {sample_rate} Hz, {len(waves)} channels): a file has one "
            "clip, mono or stereo; write a batch clip by clip, as flexicodec.split(audio, lengths) gives them"
        )
    waves = to_float32(waves, "channel, sample").cpu()
    if subtype == "PCM_16":  # libsndfile floors, which would shift all samples by half a step
        waves = (waves * 2**15).round().clamp(-(2**15), 2**15 - 1).to(torch.int16)
    elif subtype not in ("FLOAT", "DOUBLE"):
        waves = waves.clamp(-1, 1)
    samples = np.ascontiguousarray(waves.T.numpy())
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder of {path} does not exist")
    try:
        with replacing(path) as part:
            if subtype == "OPUS":
                part.write_bytes(encode_opus(samples, sample_rate))
            else:
                _write_blocks(part, samples, sample_rate, container, subtype)
    except (soundfile.SoundFileError, ValueError) as error:
        raise ValueError(
            f"cannot write {path} ({container}/{subtype}, {sample_rate} Hz, {samples.shape[1]} channels): "
            f"{getattr(error, 'error_string', error)}"
        ) from error


def _write_blocks(
    target: Path | io.BytesIO,
    samples: Float[np.ndarray, "samples channels"],
    sample_rate: int,
    container: str,
    subtype: str,
    **settings: float | None,
) -> None:
    import soundfile

    channels = samples.shape[1]
    with soundfile.SoundFile(target, "w", sample_rate, channels, subtype, format=container, **settings) as file:
        # Block by block: libsndfile 1.2 overflows its stack on one long Vorbis write.
        for start in range(0, len(samples), WRITE_BLOCK):
            file.write(samples[start : start + WRITE_BLOCK])


def encode_opus(
    samples: Float[np.ndarray, "samples channels"], sample_rate: int, compression_level: float | None = None
) -> bytes:
    """Return an Opus file whose packets are all of 20 ms, and whose last page ends it where the samples end.

    libsndfile 1.2.2 ends a file with a packet as short as it can be, 2.5 to 10 ms, and what is decoded of that may be
    noise of twice full scale. `compression_level` is libsndfile's, 0 to 1.
    """
    if sample_rate not in OPUS_RATES:
        raise ValueError(f"Opus only supports {', '.join(map(str, OPUS_RATES))} Hz; resample to one of these")
    per_sample = OPUS_RATE // sample_rate
    missing = -(OPUS_DELAY + len(samples) * per_sample) % OPUS_PACKET // per_sample
    padded = np.pad(samples, ((0, missing), (0, 0)), mode="symmetric")  # goes on without a step
    buffer = io.BytesIO()
    _write_blocks(buffer, padded, sample_rate, "OGG", "OPUS", compression_level=compression_level)
    return ogg.set_end(buffer.getvalue(), OPUS_DELAY + len(samples) * per_sample)
