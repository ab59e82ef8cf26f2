"""Streams of audio files, each with the rule by which its length, its parts and its whole agree.

`Seekable` is libsndfile's, which says where decoding has to begin. `InOrder` is decoded from its start every time, and
counted by decoding it: what libsndfile cannot seek in, or not count, and what PyAV decodes.
"""

import os
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    import soundfile

Block: TypeAlias = Float[np.ndarray, "frames channels"]

BLOCK = 65536  # frames
UNKNOWN_LENGTH = 2**62  # libsndfile's largest count stands for an unknown one
# MPEG audio is decoded from the start if a part begins before this, which is exact; later, from 1 s before the part,
# for the bits of earlier frames (8 kbit/s needs 0.5 s; without, samples are off by half of full scale).
MPEG_SEEK_FROM = 60  # seconds
# Vorbis: a seek into the last page lands some hundred samples early. A page has at most 255 packets.
VORBIS_LAST_PAGE = 30  # seconds
# Opus: libsndfile decodes 80 ms before a part, after which samples are right to 1e-3; but not those of a last packet of
# 2.5 to 10 ms, as libsndfile writes it, which need 1 s.
# Formats that PyAV may take a file for: no playlists, which name other files, and no text.
AV_FORMATS = "aac,ac3,amr,ape,asf,avi,caf,dsf,eac3,flac,loas,matroska,mov,mp3,mpegts,nistsphere,ogg,tta,wav,wv"


class Stream(Protocol):
    """What an opened file reads from."""

    rate: int
    channels: int
    frames: int

    def read(self, begin: int, count: int) -> Block:
        """Read frames; fewer if the stream is damaged."""


class Seekable:
    """A stream in which libsndfile finds positions, if decoding begins early enough."""

    def __init__(self, sound: "soundfile.SoundFile", frames: int | None = None):
        self._sound = sound
        self._subtype: str = sound.subtype
        self.rate: int = sound.samplerate
        self.channels: int = sound.channels
        self.frames: int = sound.frames if frames is None else frames
        self._position = 0  # asking soundfile for it is a seek

    def read(self, begin: int, count: int) -> Block:
        """Read all at once: between reads soundfile seeks, which passes over damage without an error."""
        start = self._start(begin, begin + count)
        if start != self._position:
            if self._subtype == "VORBIS":
                # A seek some 1000 to 30000 samples forward lands at a wrong place; from the start none does.
                self._sound.seek(0)
            self._sound.seek(start)
        self._position = begin + count
        return self._sound.read(begin - start + count, dtype="float32", always_2d=True)[begin - start :]

    def _start(self, begin: int, end: int) -> int:
        """Return the frame from which to decode, so that frames `begin` to `end` are right."""
        if self._subtype.startswith("MPEG"):
            return begin - self.rate if begin >= MPEG_SEEK_FROM * self.rate else 0
        if self._subtype == "VORBIS":
            return min(begin, max(0, self.frames - VORBIS_LAST_PAGE * self.rate))
        if self._subtype == "OPUS" and end > self.frames - self.rate // 50:
            return max(0, begin - self.rate)
        return begin


class InOrder:
    """A stream that is decoded from its start, every time, and counted by decoding it."""

    def __init__(self, rate: int, channels: int, blocks: Callable[[], Iterator[Block]]):
        self.rate = rate
        self.channels = channels
        self._blocks = blocks
        self.frames = sum(len(block) for block in blocks())

    def read(self, begin: int, count: int) -> Block:
        """Decode up to the end of the part, and keep the part."""
        kept = [np.zeros((0, self.channels), np.float32)]
        position = 0
        for block in self._blocks():
            kept.append(block[max(0, begin - position) : max(0, begin + count - position)])
            position += len(block)
            if position >= begin + count:
                break
        return np.concatenate(kept)


def sound_blocks(source: Any) -> Iterator[Block]:
    """Decode a file of libsndfile block by block, without a seek."""
    import soundfile

    if not isinstance(source, str | os.PathLike):
        source.seek(0)
    with soundfile.SoundFile(source) as sound:
        sound.seekable = lambda: False  # or else soundfile seeks after every block
        while len(block := sound.read(BLOCK, dtype="float32", always_2d=True)):
            yield block


def open_with_av(file: IO[bytes], reason: str) -> Stream:
    """Open a file with PyAV (FFmpeg), in formats that hold nothing but media."""
    try:
        import av
    except ImportError:
        raise ValueError(
            f"{reason} M4A, AAC, WebM, WMA and others are read with PyAV: pip install 'flexicodec-lab[av]'"
        ) from None

    def blocks() -> Iterator[Block]:
        file.seek(0)
        with av.open(file, options={"format_whitelist": AV_FORMATS}) as container:
            stream = container.streams.audio[0]
            left = _track_length(stream)
            resampler = av.AudioResampler("fltp", stream.layout, stream.rate)
            for frame in container.decode(stream):
                for converted in resampler.resample(frame):
                    block = converted.to_ndarray().T[:left]
                    left -= len(block)
                    yield block

    try:
        file.seek(0)
        with av.open(file, options={"format_whitelist": AV_FORMATS}) as container:
            if not container.streams.audio:
                raise ValueError("it holds no audio")
            stream = container.streams.audio[0]
            rate = stream.rate
            channels = stream.channels
            promised = _track_length(stream)
        part = InOrder(rate, channels, blocks)
    except av.FFmpegError as error:
        raise ValueError(f"neither libsndfile ({reason}) nor PyAV ({error.strerror}) can read it") from error
    if promised < UNKNOWN_LENGTH and part.frames < promised - rate // 10:
        raise ValueError(f"it promises {promised} samples but only {part.frames} can be read; is it damaged?")
    return part


def _track_length(stream: Any) -> int:
    """Return the samples of a track that counts them, as MP4's do: what a decoder has beyond them is padding."""
    if stream.duration is None or stream.time_base * stream.rate != 1:
        return UNKNOWN_LENGTH
    return int(stream.duration) + stream.rate // 1000  # MP4's edit lists round to 1 ms
