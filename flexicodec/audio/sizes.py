"""Sizes in the headers of WAV, AIFF, AU and CAF that do not fit the samples behind them, and parts of files as files.

A recorder writes the size of its samples when it stops. One that was killed leaves 0, or the size at its last update.
"""

import io
import struct
from typing import IO, NamedTuple

LARGEST_TEXTS = 2**16  # bytes of a chunk such as title and artist, behind the samples
UNKNOWN = b"\xff" * 4  # the size that streams carry: libsndfile reads to the end of the file

# Magic number > size of the file's header, byte order and format of a chunk's size, identifier of the samples
_CHUNKED = {
    b"RIFF": (12, "<I", b"data"),
    b"RIFX": (12, ">I", b"data"),
    b"RF64": (12, "<I", b"data"),
    b"FORM": (12, ">I", b"SSND"),
    b"caff": (8, ">q", b"data"),
}


class Samples(NamedTuple):
    """Where a file has its samples: the first byte, the size in the header, and whether chunks follow them."""

    begin: int
    size: int
    followed: bool


class Window(io.RawIOBase):
    """Bytes `begin` to `end` of a file as a file of their own.

    Args:
        file: The file; it stays open.
        begin: Its first byte.
        end: Behind its last byte; None is the file's end.
        head: Bytes in place of the first ones.
        size: A larger size to claim; bytes beyond the end read as zeros.
    """

    def __init__(self, file: IO[bytes], begin: int = 0, end: int | None = None, head: bytes = b"", size: int = 0):
        super().__init__()
        self._file = file
        self._begin = begin
        self._length = (file.seek(0, io.SEEK_END) if end is None else end) - begin
        self._head = head
        self._size = max(size, self._length)
        self._position = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position in the window."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read as many bytes as the buffer and the window have."""
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._size - self._position))
        content = self._head[self._position : self._position + count]
        begin = self._position + len(content)
        end = min(self._position + count, self._length)
        if begin < end:
            self._file.seek(self._begin + begin)
            content += self._file.read(end - begin)
        view[:count] = content.ljust(count, b"\0")
        self._position += count
        return count


def find_samples(file: IO[bytes]) -> Samples | None:
    """Find the samples by the header, or return None if it is of another kind, or has none."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    magic = file.read(4)
    if magic == b".snd":
        begin, samples = struct.unpack(">II", file.read(8))
        return Samples(begin, samples, False)
    if magic not in _CHUNKED:
        return None
    position, kind, wanted = _CHUNKED[magic]
    found: Samples | None = None
    # Chunks follow one another: an identifier of 4 printable characters, a size, and the content, padded to even bytes.
    while position + 8 <= size:
        file.seek(position)
        identifier = file.read(4)
        content = file.read(struct.calcsize(kind))
        if len(content) < struct.calcsize(kind) or not all(32 <= byte < 127 for byte in identifier):
            break
        (count,) = struct.unpack(kind, content)
        begin = file.tell()
        if found is not None:
            # What follows is a chunk if it ends in the file.
            return found._replace(followed=0 <= count <= size - begin)
        if identifier == wanted:
            found = Samples(begin, count, False)
        position = begin + max(0, count)
        position += position % 2 if magic != b"caff" else 0
    return found


def without_size(file: IO[bytes], samples: Samples) -> Window:
    """Return a file as if its header did not say how many samples there are, so that all are read."""
    file.seek(0)
    head = bytearray(file.read(samples.begin))
    magic = bytes(head[:4])
    if magic == b".snd":
        head[8:12] = UNKNOWN
    elif magic == b"caff":
        struct.pack_into(">q", head, samples.begin - 8, file.seek(0, io.SEEK_END) - samples.begin)
    elif magic == b"FORM":
        # 0 frames in COMM and 0 bytes in SSND are AIFF's unknown size to libsndfile.
        comm = head.find(b"COMM", 12)
        head[comm + 10 : comm + 14] = bytes(4)
        head[samples.begin - 4 : samples.begin] = bytes(4)
    else:
        head[:4] = b"RIFF" if magic == b"RF64" else magic
        head[samples.begin - 4 : samples.begin] = UNKNOWN
    return Window(file, end=_end_of_samples(file, samples.begin), head=bytes(head))


def _end_of_samples(file: IO[bytes], begin: int) -> int:
    """Return where samples of unknown size end: at a chunk of texts that ends the file, or at its end."""
    size = file.seek(0, io.SEEK_END)
    tail_begin = max(begin, size - LARGEST_TEXTS)
    file.seek(tail_begin)
    tail = file.read()
    at = tail.rfind(b"LIST")
    if 0 <= at <= len(tail) - 8 and struct.unpack_from("<I", tail, at + 4)[0] == len(tail) - at - 8:
        return tail_begin + at
    return size
