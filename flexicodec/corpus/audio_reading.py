"""Reading a part of an audio file as mono at a chosen sample rate, in most formats without decoding the rest.

A part of a clip equals that part of the whole clip: exactly at the file's own rate, within the resampling filter's
response beyond `MARGIN` at another rate, and within 1e-3 where an Opus decoder starts in the middle.
"""

import io
import math
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int16

from flexicodec.audio import LOUDEST, OpenedAudio, resample, resampled_length
from flexicodec.corpus.manifest import Utterance

AudioFile: TypeAlias = Path | io.IOBase

UNREADABLE = (ValueError, OSError)  # errors of a bad clip
TOLERANCE = 0.1  # seconds a manifest may exceed a file: rounding, and estimates of MP3 headers
MARGIN = 0.05  # seconds read on both sides for the resampling filter


def read_utterance(
    utterance: Utterance, sample_rate: int, first: int = 0, samples: int | None = None
) -> Float[np.ndarray, " samples"]:
    """Read a clip, or a part of it, as mono: its channel, or the mean of all where it names none.

    Errors are those in `UNREADABLE`: a missing or damaged file, one shorter than the manifest says, NaN, or absurd
    levels.

    Args:
        utterance: The clip.
        sample_rate: Hz of the result; `first` and `samples` count at this rate.
        first: First sample within the clip.
        samples: Most samples to return, fewer at the clip's end; None reads to its end.
    """
    if not utterance.path.is_file():
        raise FileNotFoundError(f"no such audio file: {utterance.path}")
    return read_span(
        utterance.path, sample_rate, utterance.start, utterance.duration, first, samples, utterance.channel
    )


def read_span(
    file: AudioFile,
    sample_rate: int,
    start: float = 0.0,
    duration: float | None = None,
    first: int = 0,
    samples: int | None = None,
    channel: int | None = None,
) -> Float[np.ndarray, " samples"]:
    """Read a span of a path or an open file like `read_utterance`; `duration` None extends it to the file's end."""
    try:
        with OpenedAudio(file) as opened:
            rate = opened.rate
            if channel is not None and channel >= opened.channels:
                raise ValueError(f"channel {channel} is asked for, but it has {opened.channels} (they count from 0)")
            begin, end = _file_frames(opened, start, duration)
            available = resampled_length(end - begin, rate, sample_rate)
            last = available if samples is None else min(available, first + samples)
            if not 0 <= first < last:
                raise ValueError(f"has {available} samples at {sample_rate} Hz; nothing can be read from {first} on")

            # Resampling starts where samples of both rates coincide, so that a part equals that part of the whole:
            #   file rate    |--|--|--|--|--|--|     down = 3
            #   wanted rate  |----|----|----|--      up = 2      coincide every 3 and 2 samples
            common = math.gcd(rate, sample_rate)
            up = sample_rate // common
            down = rate // common
            margin = 0 if up == down else math.ceil(MARGIN * sample_rate)
            block = max(0, first - margin) // up
            read_begin = begin + block * down
            read_end = min(end, begin - (-(last + margin) * down // up))
            audio = _mono(opened.read(read_begin, read_end - read_begin), channel)
    except ValueError as error:
        raise ValueError(f"cannot read {file}: {error}") from error
    audio = resample(torch.from_numpy(audio), rate, sample_rate).numpy()
    return audio[first - block * up : last - block * up]


def read_header(file: AudioFile) -> tuple[int, int]:
    """Return an audio file's sample rate and number of frames; a `ValueError` if it has none or does not open.

    Formats whose header does not tell the truth are decoded or searched, so that `read_span` finds as many.
    """
    try:
        with OpenedAudio(file) as opened:
            rate = opened.rate
            frames = opened.frames
    except ValueError as error:
        raise ValueError(f"cannot read {file}: {error}") from error
    if frames <= 0:
        raise ValueError(f"cannot read {file}: it holds 0 samples")
    return rate, frames


def to_int16(audio: Float[np.ndarray, " samples"]) -> Int16[np.ndarray, " samples"]:
    """Round to 16 bits, full scale at 32768, and clip."""
    return (audio * 32768.0).round().clip(-32768.0, 32767.0).astype("<i2")


def read_duration(file: AudioFile) -> float:
    """Return an audio file's duration in seconds."""
    rate, frames = read_header(file)
    return frames / rate


def _file_frames(opened: OpenedAudio, start: float, duration: float | None) -> tuple[int, int]:
    """Return the range of the file's frames that a clip covers."""
    rate = opened.rate
    begin = round(start * rate)
    end = opened.frames if duration is None else begin + round(duration * rate)
    if end - opened.frames > TOLERANCE * rate:
        raise ValueError(f"the clip is said to end at {end / rate:.3f} s but the file at {opened.frames / rate:.3f} s")
    end = min(end, opened.frames)
    if end <= begin:
        raise ValueError(f"the clip is said to begin at {start:.3f} s but the file ends at {end / rate:.3f} s")
    return begin, end


def _mono(frames: Float[np.ndarray, "frames channels"], channel: int | None) -> Float[np.ndarray, " frames"]:
    """Return one channel of frames, or the mean of all, and check the result."""
    if channel is None and frames.shape[1] == 1:
        channel = 0  # the mean of one channel takes as long as decoding it
    audio = frames.mean(axis=1) if channel is None else frames[:, channel]
    if not np.isfinite(audio).all():
        raise ValueError("it holds NaN or Inf")
    peak = float(np.abs(audio).max())
    if peak > LOUDEST:
        raise ValueError(f"it reaches {peak:g} where 1 is full scale")
    return audio
