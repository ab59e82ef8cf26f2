"""Audio out of files: the stretch that is wanted and no more, at the rate that is wanted.

A part of a clip is the same as that part of the whole clip: exactly at the file's own rate, to within what a resampling
filter sees past its margin at another, and to 1e-3 where an Opus decoder starts in the middle.
"""

import io
import math
from pathlib import Path
from typing import TypeAlias

import numpy as np
import soundfile
import torch
from jaxtyping import Float

from flexicodec.audio import LOUDEST, resample, resampled_length
from flexicodec.corpus.manifest import Utterance

AudioFile: TypeAlias = Path | io.IOBase

UNREADABLE = (ValueError, OSError)  # what a bad clip raises here
TOLERANCE = 0.1  # seconds that a manifest may promise beyond a file's end: rounding, and estimates of MP3 headers
MARGIN = 0.05  # seconds read on both sides for the resampling filter
# MP3 and Vorbis are decoded from the file's start up to here. libsndfile 1.2 jumps to a place in them imperfectly: MP3
# misses bits of earlier frames, and the last page of Vorbis comes some hundred samples early.
JUMP_SECONDS = 60.0


def read_utterance(
    utterance: Utterance, sample_rate: int, first: int = 0, samples: int | None = None
) -> Float[np.ndarray, " samples"]:
    """Read a clip, or a part of it, as mono; several channels are averaged.

    Args:
        utterance: The clip.
        sample_rate: Hz wanted; `first` and `samples` count at this rate.
        first: Where in the clip to begin.
        samples: How many at most; fewer come where the clip ends. None reads to its end.

    Raises:
        OSError: The file is missing or cannot be opened.
        ValueError: It is damaged, no audio, shorter than the manifest says, or holds NaN, Inf or values no recording
            has.
    """
    if not utterance.path.is_file():
        raise FileNotFoundError(f"no such audio file: {utterance.path}")
    return read_stretch(utterance.path, sample_rate, utterance.start, utterance.duration, first, samples)


def read_stretch(
    file: AudioFile,
    sample_rate: int,
    start: float = 0.0,
    duration: float | None = None,
    first: int = 0,
    samples: int | None = None,
) -> Float[np.ndarray, " samples"]:
    """Do what `read_utterance` does, for a path or an open file, `duration` None meaning to the file's end."""
    try:
        with soundfile.SoundFile(file) as opened:
            rate = opened.samplerate
            begin, end = _bounds(opened, start, duration)
            available = resampled_length(end - begin, rate, sample_rate)
            last = available if samples is None else min(available, first + samples)
            if not 0 <= first < last:
                raise ValueError(f"has {available} samples at {sample_rate} Hz; nothing can be read from {first} on")
            common = math.gcd(rate, sample_rate)
            up, down = sample_rate // common, rate // common
            margin = 0 if up == down else math.ceil(MARGIN * sample_rate)
            # Resampling begins where samples of both rates fall together, so that parts and wholes agree.
            block = max(0, first - margin) // up
            begin_read = begin + block * down
            end_read = min(end, begin - (-(last + margin) * down // up))
            audio = _frames(opened, begin_read, end_read - begin_read)
    except (soundfile.SoundFileError, TypeError, MemoryError, ValueError) as error:
        raise ValueError(f"cannot read {file}: {getattr(error, 'error_string', error)}") from error
    audio = resample(torch.from_numpy(audio), rate, sample_rate).numpy()
    return audio[first - block * up : last - block * up]


def header(file: AudioFile) -> tuple[int, int]:
    """Ask an audio file for its sample rate and its number of frames.

    Raises:
        ValueError: It cannot be opened, is no audio, or holds none.
    """
    try:
        with soundfile.SoundFile(file) as opened:
            rate, frames = opened.samplerate, opened.frames
    except (soundfile.SoundFileError, TypeError) as error:
        raise ValueError(f"cannot read {file}: {getattr(error, 'error_string', error)}") from error
    if not 0 < frames < 2**62:  # libsndfile's word for an unknown number is the largest there is
        raise ValueError(f"cannot read {file}: it holds {'0' if frames <= 0 else 'an unknown number of'} samples")
    return rate, frames


def seconds_of(file: AudioFile) -> float:
    """Ask an audio file's header for its duration; raises what `header` does."""
    rate, frames = header(file)
    return frames / rate


def _bounds(opened: soundfile.SoundFile, start: float, duration: float | None) -> tuple[int, int]:
    """First frame of a clip and the one after its last, in the file."""
    rate, begin = opened.samplerate, round(start * opened.samplerate)
    end = opened.frames if duration is None else begin + round(duration * rate)
    if end - opened.frames > TOLERANCE * rate:
        raise ValueError(f"the clip is said to end at {end / rate:.3f} s but the file at {opened.frames / rate:.3f} s")
    end = min(end, opened.frames)
    if end <= begin:
        raise ValueError(f"the clip is said to begin at {start:.3f} s but the file ends at {end / rate:.3f} s")
    return begin, end


def _frames(opened: soundfile.SoundFile, begin: int, count: int) -> Float[np.ndarray, " frames"]:
    """Read frames and average their channels."""
    unsteady = opened.format == "MP3" or opened.subtype == "VORBIS"
    ahead = begin if unsteady and begin < JUMP_SECONDS * opened.samplerate else 0
    if begin > ahead:
        opened.seek(begin)
    frames = opened.read(ahead + count, dtype="float32", always_2d=True)
    if len(frames) < ahead + count:
        raise ValueError(f"only {len(frames)} of {ahead + count} frames from {begin - ahead} on can be read")
    audio = frames[ahead:].mean(axis=1)
    if not np.isfinite(audio).all():
        raise ValueError("it holds NaN or Inf")
    if (peak := float(np.abs(audio).max())) > LOUDEST:
        raise ValueError(f"it reaches {peak:g} where 1 is full scale")
    return audio
