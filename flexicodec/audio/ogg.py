"""Ogg files: several streams one after the other, FLAC in Ogg, and where a stream ends.

libsndfile 1.2.2 reads the first stream of a chained file, and no FLAC in Ogg that was written without going back.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

TAIL = 2**18  # bytes at a file's end that are searched for another stream
LARGEST_PAGE = 27 + 255 + 255 * 255  # bytes


class Page(NamedTuple):
    """Where a page and its body are in the file, and what its header says (RFC 3533, section 6)."""

    begin: int
    body: int
    end: int
    first_of_stream: bool
    granule: int
    serial: int


def read_pages(file: IO[bytes], position: int = 0) -> Iterator[Page]:
    """List the pages from a position on, up to the first bytes that are none."""
    size = file.seek(0, io.SEEK_END)
    while position < size:
        header = _read_at(file, position, 27 + 255)
        if len(header) < 27 or not header.startswith(b"OggS"):
            return
        flags, granule, serial = struct.unpack_from("<BqI", header, 5)
        body = position + 27 + header[26]
        end = body + sum(header[27 : 27 + header[26]])
        yield Page(position, body, end, bool(flags & 2), granule, serial)
        position = end


def find_links(file: IO[bytes]) -> list[tuple[int, int]]:
    """Return begin and end of each link of a chained file; streams side by side are one link."""
    size = file.seek(0, io.SEEK_END)
    if not _may_be_chained(file):
        return [(0, size)]
    begins = []
    was_first = False
    for page in read_pages(file):
        if page.first_of_stream and not was_first:
            begins.append(page.begin)
        was_first = page.first_of_stream
    if not begins:  # a tag in front
        return [(0, size)]
    return list(zip(begins, [*begins[1:], size], strict=True))


def _may_be_chained(file: IO[bytes]) -> bool:
    """Return whether the file's end is of another stream than its beginning, without reading what is between.

    Links should have serial numbers of their own. Those of a file joined to itself do not; there positions go back.
    """
    size = file.seek(0, io.SEEK_END)
    serials = set()
    behind = 0  # of the pages that open the first streams
    for page in read_pages(file):
        if not page.first_of_stream:
            behind = page.begin
            break
        serials.add(page.serial)
    tail_begin = max(behind, size - TAIL)
    tail = _read_at(file, tail_begin)
    last = tail.rfind(b"OggS\0")
    if last < 0 or len(tail) < last + 18:
        return False
    if re.search(rb"OggS\0[\2\3\6\7]", tail) or struct.unpack_from("<I", tail, last + 14)[0] not in serials:
        return True
    granules = []
    if tail_begin > behind:
        for quarter in (1, 2, 3):
            content = _read_at(file, size * quarter // 4, LARGEST_PAGE)
            first = content.find(b"OggS\0")
            if 0 <= first < len(content) - 18:
                granules.append(struct.unpack_from("<q", content, first + 6)[0])
    granules.append(struct.unpack_from("<q", tail, last + 6)[0])
    known = [granule for granule in granules if granule >= 0]  # -1 where no packet ends
    return known != sorted(known)


def extract_flac(file: IO[bytes]) -> bytes | None:
    """Return a FLAC file in Ogg as native FLAC, or None if it is none.

    The packets of the mapping are those of a native file behind 9 bytes of its own (RFC 9639, section 10.1); the last
    page says how many samples there are, which encoders that cannot go back leave out of STREAMINFO.
    """
    pages = list(read_pages(file))
    if not pages or not _read_at(file, pages[0].body, 5) == b"\x7fFLAC":
        return None
    pages = [page for page in pages if page.serial == pages[0].serial]
    stream = b"".join(_read_at(file, page.body, page.end - page.body) for page in pages)[9:]
    return flac_with_total(stream, max(page.granule for page in pages))


def flac_with_total(stream: bytes, samples: int) -> bytes:
    """Write a number of samples, 36 bits, to STREAMINFO, the first block of metadata (RFC 9639, section 8.2)."""
    total = (stream[21] & 0xF0) << 32 | samples
    return stream[:21] + total.to_bytes(5, "big") + stream[26:]


def set_end(pages: bytes, granule: int) -> bytes:
    """Set the position at which the last page ends, and with it the length of the stream."""
    last = pages.rfind(b"OggS\0")
    page = bytearray(pages[last:])
    struct.pack_into("<q", page, 6, granule)
    page[22:26] = bytes(4)
    # Ogg's checksum is zlib's of bytes whose bits are reversed, without its inversions.
    reverse = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
    checksum = zlib.crc32(page.translate(reverse), 0xFFFFFFFF) ^ 0xFFFFFFFF
    struct.pack_into("<I", page, 22, int(f"{checksum:032b}"[::-1], 2))
    return pages[:last] + page


def _read_at(file: IO[bytes], position: int, count: int = -1) -> bytes:
    file.seek(position)
    return file.read(count)
