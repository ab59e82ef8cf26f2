"""MPEG audio, layers I to III: the frames of a file, counted by their headers.

libsndfile 1.2.2 takes the length from a Xing header, or else estimates it from the bitrate of the first frame, and
reads no further. Streams have no such header; files joined by `cat` have several.
"""

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

# kbit/s of the indices 1 to 14 (ISO 11172-3, 2.4.2.3; ISO 13818-3), by version (MPEG-1, or 2 and 2.5) and layer
_KBPS = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_VERSIONS = {3: 1, 2: 2, 0: 4}  # MPEG-1, 2 and 2.5 by their bits: the sample rates are those of MPEG-1 divided by these
_SIDE_BYTES = {(1, 2): 32, (1, 1): 17, (2, 2): 17, (4, 2): 17, (2, 1): 9, (4, 1): 9}  # by version and channels
FIRST_BYTES = 256  # of a frame, enough for a Xing header
LARGEST_FRAME = 2881  # bytes
MOST_TAG_BYTES = 160  # of an ID3v1 tag, 128, and a little more: what may follow the bytes that a Xing header counts


class Frame(NamedTuple):
    """What the header of a frame says; `size` is in bytes, with the header."""

    size: int
    samples: int
    layer: int
    version: int
    rate: int
    channels: int


class Section(NamedTuple):
    """Frames that belong together, bytes `begin` to `end`; `samples` None where their Xing header is right."""

    begin: int
    end: int
    samples: int | None


@lru_cache(maxsize=256)
def read_frame(header: bytes) -> Frame | None:
    """Read the 4 bytes of a frame's header; None if they are none, or of free format."""
    if len(header) < 4 or header[0] != 0xFF or header[1] < 0xE0:
        return None
    version = _VERSIONS.get(header[1] >> 3 & 3)
    layer = 4 - (header[1] >> 1 & 3)
    bitrate_index = header[2] >> 4
    rate_index = header[2] >> 2 & 3
    if version is None or layer == 4 or bitrate_index in (0, 15) or rate_index == 3:
        return None
    rate = (44100, 48000, 32000)[rate_index] // version
    bits = 1000 * _KBPS[min(version, 2), layer][bitrate_index - 1]
    padding = header[2] >> 1 & 1
    channels = 1 if header[3] >> 6 == 3 else 2
    if layer == 1:
        return Frame((12 * bits // rate + padding) * 4, 384, layer, version, rate, channels)
    samples = 576 if layer == 3 and version > 1 else 1152
    return Frame(samples // 8 * bits // rate + padding, samples, layer, version, rate, channels)


def is_counted(first: bytes, size: int) -> bool:
    """Return whether a file's first frame is a Xing header that counts the bytes up to the file's end."""
    counts = _xing_counts(first)
    return counts is not None and 0 < size - MOST_TAG_BYTES <= counts[1]


def is_cut(head: bytes) -> bool:
    """Return whether a file's first bytes are MPEG audio that begins within a frame, as a recorded stream does."""
    sections = find_sections(head)
    return len(sections) == 1 and sections[0].begin < LARGEST_FRAME and sections[0].end > len(head) - LARGEST_FRAME


def find_sections(content: bytes) -> list[Section]:
    """List the sections of MPEG audio: each Xing header begins one, and without any all frames are one."""
    sections: list[list[tuple[int, Frame]]] = []
    for position, frame in _frames(content):
        if not sections or _xing_counts(content[position : position + FIRST_BYTES]) is not None:
            sections.append([])
        sections[-1].append((position, frame))
    return [_section(content, frames) for frames in sections]


def _section(content: bytes, frames: list[tuple[int, Frame]]) -> Section:
    """Describe frames that follow one another."""
    begin = frames[0][0]
    end = frames[-1][0] + frames[-1][1].size
    samples = sum(frame.samples for _, frame in frames)
    counts = _xing_counts(content[begin : begin + FIRST_BYTES])
    if counts is None:
        return Section(begin, end, samples)
    if len(frames) - 1 <= counts[0]:  # the header's own frame holds no audio
        return Section(begin, end, None)
    # More frames than it counts: without the header, they are all read.
    return Section(begin + frames[0][1].size, end, samples - frames[0][1].samples)


def _frames(content: bytes) -> Iterator[tuple[int, Frame]]:
    """List the frames with their positions; bytes between them, such as tags, are passed over."""
    position = 0
    in_step = False
    while 0 <= position < len(content) - 3:
        frame = read_frame(content[position : position + 4])
        if frame is not None and not in_step:
            # A header alone may be chance, two of a kind in a row are not.
            following = read_frame(content[position + frame.size : position + frame.size + 4])
            in_step = following is not None and following[2:] == frame[2:]
        if frame is not None and in_step and position + frame.size <= len(content):
            yield position, frame
            position += frame.size
            continue
        in_step = False
        tag = id3_size(content[position : position + 10])
        position = position + tag if tag else content.find(b"\xff", position + 1)
        if tag and not content.startswith((b"\xff", b"ID3"), position):
            position = content.find(b"\xff", position)


def id3_size(head: bytes) -> int:
    """Return the size of the ID3v2 tag that begins with these bytes, or 0."""
    if len(head) < 10 or not head.startswith(b"ID3"):
        return 0
    return 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])


def _xing_counts(content: bytes) -> tuple[int, int] | None:
    """Return the frames and bytes that a frame's Xing (or Info) header counts, 0 for unknown; None if it is no such."""
    frame = read_frame(content[:4])
    if frame is None or frame.layer != 3:
        return None
    at = 4 + _SIDE_BYTES[frame.version, frame.channels]  # behind the side information
    if content[at : at + 4] not in (b"Xing", b"Info") or len(content) < at + 16:
        return None
    flags, first, second = struct.unpack_from(">III", content, at + 4)
    frames = first if flags & 1 else 0
    size = (second if flags & 1 else first) if flags & 2 else 0
    return frames, size
