"""An opened audio file, whose length, parts and whole agree for every format.

Most files are libsndfile's alone. Some it reads in part, or not at all: their streams are found first, by the rules of
`ogg`, `mpeg` and `sizes`, and follow one another.
"""

import io
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np

from flexicodec.audio import flac, mpeg, ogg, sizes
from flexicodec.audio.streams import UNKNOWN_LENGTH, Block, InOrder, Seekable, Stream, open_with_av, sound_blocks

if TYPE_CHECKING:
    import soundfile

AudioSource: TypeAlias = str | os.PathLike[str] | bytes | io.IOBase
# Formats and encodings in which libsndfile says that it can seek, and fails, or is off by a sample at the end.
FORWARD_ONLY = {"SDS", "PAF", "DWVW_12", "DWVW_16", "DWVW_24"}
LARGEST_MPEG = 2**40  # bytes; libsndfile estimates a length from it, which only has to be long enough
BYTES_PER_SAMPLE = {"PCM_S8": 1, "PCM_U8": 1, "ULAW": 1, "ALAW": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4}
BYTES_PER_SAMPLE |= {"FLOAT": 4, "DOUBLE": 8}
HAVE_SIZES = {"WAV", "WAVEX", "AIFF", "AU"}  # formats whose headers count the bytes of their samples
FREE_BYTES = 1024  # beside the samples, for other chunks: not worth a look
SECOND_RIFF = 61  # libsndfile's error where a second WAV file follows the first


class OpenedAudio:
    """An audio file: `read(begin, count)` is that part of the whole, and `frames` how much there is.

    Attributes:
        rate: Hz.
        channels: Number of channels.
        frames: Samples per channel.
    """

    def __init__(self, source: AudioSource):
        """Open a path, the bytes of a file, or a file object, which is read from its first byte and stays open.

        Raises:
            ValueError: It is no audio, or of a kind that cannot be read; the message does not name the source.
        """
        self._stack = ExitStack()
        try:
            with _reasons():
                self._streams = _open(source, self._stack)
        except BaseException:
            self._stack.close()
            raise
        kinds = sorted({(stream.rate, stream.channels) for stream in self._streams})
        if len(kinds) > 1:
            self._stack.close()
            found = " and ".join(f"{rate} Hz with {channels} channels" for rate, channels in kinds)
            raise ValueError(f"it holds {len(self._streams)} streams one after the other, of {found}; split it")
        self.rate, self.channels = kinds[0]
        self.frames = sum(stream.frames for stream in self._streams)

    def read(self, begin: int = 0, count: int | None = None) -> Block:
        """Read float32 frames, full scale at 1; `count` None reads to the end.

        Raises:
            ValueError: The file is damaged: it has fewer than it promises.
        """
        end = self.frames if count is None else begin + count
        assert 0 <= begin <= end <= self.frames
        blocks = []
        offset = 0
        for stream in self._streams:
            first = max(begin - offset, 0)
            wanted = min(end - offset, stream.frames) - first
            if wanted > 0:
                with _reasons():
                    block = stream.read(first, wanted)
                if len(block) < wanted:
                    readable = offset + first + len(block)
                    raise ValueError(
                        f"it promises {self.frames} samples but only {readable} can be read; is it damaged?"
                    )
                blocks.append(block)
            offset += stream.frames
        if len(blocks) == 1:
            return blocks[0]
        return np.concatenate(blocks) if blocks else np.zeros((0, self.channels), np.float32)

    def close(self) -> None:
        """Close what was opened here."""
        self._stack.close()

    def __enter__(self) -> "OpenedAudio":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def _reasons() -> Iterator[None]:
    """Turn the errors of reading into a `ValueError` that says the reason."""
    import soundfile

    try:
        yield
    except (soundfile.SoundFileError, TypeError, MemoryError) as error:  # TypeError: headerless files such as .raw
        reason = getattr(error, "error_string", "") or str(error)
        if "flac decoder" in reason:
            reason = f"its FLAC frames break off ({reason.removeprefix('Error : ')}); is it damaged or cut off?"
        raise ValueError(reason) from error


# -------------------------------------------------------------------------------------------------------------- opening


def _open(source: AudioSource, stack: ExitStack) -> list[Stream]:
    """Open the streams of a file; `stack` closes what they need."""
    import soundfile

    file: Any = source
    if isinstance(source, bytes):
        file = io.BytesIO(source)
    elif isinstance(source, str | os.PathLike):
        file = Path(source)
    elif not file.seekable():
        file = io.BytesIO(file.read())

    def content() -> Any:
        """Return the open file, at its first byte."""
        opened = stack.enter_context(file.open("rb")) if isinstance(file, Path) else file
        opened.seek(0)
        return opened

    try:
        sound = stack.enter_context(soundfile.SoundFile(file if isinstance(file, Path) else content()))
    except soundfile.LibsndfileError as error:
        return _open_unknown(content(), error, stack)
    if isinstance(file, Path):
        return _streams(sound, file, content, stack)
    # libsndfile counts on the position where it left the file.
    position = file.tell()
    streams = _streams(sound, file, content, stack)
    file.seek(position)
    return streams


def _streams(sound: "soundfile.SoundFile", file: Any, content: Callable[[], Any], stack: ExitStack) -> list[Stream]:
    """Return the streams of a file that libsndfile opens; `content` opens its bytes."""
    import soundfile

    container = sound.format
    subtype = sound.subtype
    if container == "FLAC":
        file_of_links = content()
        links = flac.find_links(file_of_links)
        if links != [(0, file_of_links.seek(0, io.SEEK_END))]:
            return _open_links(file_of_links, links, stack)
    if container == "OGG":
        file_of_links = content()
        links = ogg.find_links(file_of_links)
        if len(links) > 1:
            return _open_links(file_of_links, links, stack)
    if subtype.startswith("MPEG"):
        return _open_mpeg(sound, content(), stack)
    if sound.frames == 0 or (container in HAVE_SIZES and _is_larger(sound, subtype, file)):
        window = _with_all_samples(sound, content(), str(file) if isinstance(file, Path) else "a file")
        if window is not None:
            file = window
            sound = stack.enter_context(soundfile.SoundFile(window))
    in_order = container in FORWARD_ONLY or subtype in FORWARD_ONLY or not sound.seekable()
    if in_order or sound.frames >= UNKNOWN_LENGTH:
        return [InOrder(sound.samplerate, sound.channels, lambda: sound_blocks(file))]
    return [Seekable(sound)]


def _open_links(file: IO[bytes], links: list[tuple[int, int]], stack: ExitStack) -> list[Stream]:
    """Open the links of a chained Ogg file, or of joined FLAC files, one by one."""
    streams = []
    for begin, end in links:
        streams += _open(sizes.Window(file, begin, end), stack)
    return streams


def _open_mpeg(sound: "soundfile.SoundFile | None", file: IO[bytes], stack: ExitStack) -> list[Stream]:
    """Open MPEG audio, by itself or in a WAV file: as it is where a header counts its frames, else by its frames."""
    import soundfile

    # The samples of a WAV file, or the whole file.
    samples = sizes.find_samples(file)
    begin = 0 if samples is None else samples.begin
    size = file.seek(0, io.SEEK_END) - begin
    if samples is not None:
        size = min(size, samples.size)
    file.seek(begin)
    tag = mpeg.id3_size(file.read(10))
    file.seek(begin + tag)
    if sound is not None and samples is None and mpeg.is_counted(file.read(mpeg.FIRST_BYTES), size - tag):
        return [Seekable(sound)]
    file.seek(begin)
    content = file.read(size)
    sections = mpeg.find_sections(content)
    if not sections and sound is not None:
        return [Seekable(sound)]
    opened: list[Stream] = []
    for section in sections:
        claimed = 0 if section.samples is None else LARGEST_MPEG
        window = sizes.Window(io.BytesIO(content), section.begin, section.end, size=claimed)
        opened.append(Seekable(stack.enter_context(soundfile.SoundFile(window)), section.samples))
    return opened


def _is_larger(sound: "soundfile.SoundFile", subtype: str, file: Any) -> bool:
    """Return whether a file is so much larger than its samples that its header may be unfinished."""
    width = BYTES_PER_SAMPLE.get(subtype)
    if width is None:
        return False
    size = file.stat().st_size if isinstance(file, Path) else file.seek(0, io.SEEK_END)
    return size - sound.frames * sound.channels * width > FREE_BYTES


def _with_all_samples(sound: "soundfile.SoundFile", file: IO[bytes], name: str) -> sizes.Window | None:
    """Return a file whose header counts 0 samples as one that is read to its end; warn if it counts too few."""
    samples = sizes.find_samples(file)
    if samples is None or samples.followed:
        return None
    behind = file.seek(0, io.SEEK_END) - samples.begin
    if sound.frames == 0 and behind > 0:
        warnings.warn(
            f"{name} counts 0 samples in its header (was its recorder stopped?): the {behind} bytes behind it are read",
            stacklevel=2,
        )
        return sizes.without_size(file, samples)
    left = behind - samples.size
    if sound.frames > 0 and left > FREE_BYTES:
        warnings.warn(
            f"{name} counts {samples.size} bytes of samples in its header (was its recorder stopped?): {left} bytes "
            "behind them are not read; where that size is 0, they are",
            stacklevel=2,
        )
    return None


def _open_unknown(file: Any, error: "soundfile.LibsndfileError", stack: ExitStack) -> list[Stream]:
    """Open what libsndfile does not: with its header put right, or with PyAV."""
    import soundfile

    head = file.read(8192)
    if not head:
        raise ValueError("it is empty (0 bytes); did a download or copy stop early?")
    packed = re.search(rb"sample_coding +-s\d+ +(\S*(?:embedded|shorten)\S*)", head)
    if head.startswith(b"NIST_1A") and packed:
        raise ValueError(
            f"its samples are packed ({packed[1].decode('ascii', 'replace')}); unpack them with LDC's sph2pipe: "
            "sph2pipe -f wav IN.sph OUT.wav"
        )
    if head.startswith(b"version https://git-lfs"):
        raise ValueError("it is a pointer of Git LFS and no audio; run `git lfs pull` in its repository")
    if error.code == SECOND_RIFF:
        raise ValueError("it holds several WAV files one after the other; split it")
    if head.startswith(b"OggS"):
        links = ogg.find_links(file)
        if len(links) > 1:
            return _open_links(file, links, stack)
        native = ogg.extract_flac(file)
        if native is not None:
            return _open(native, stack)
    if mpeg.is_cut(head):
        return _open_mpeg(None, file, stack)
    samples = sizes.find_samples(file)
    if samples is not None and (head.startswith(b"RF64") or samples.size <= 0):  # CAF's unknown size is -1
        return [Seekable(stack.enter_context(soundfile.SoundFile(sizes.without_size(file, samples))))]
    return [open_with_av(file, error.error_string)]
