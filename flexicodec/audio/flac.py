"""FLAC files behind a tag, or joined by `cat`: libsndfile 1.2.2 reads the first one, and fails at some seeks."""

import io
import re
from typing import IO

from flexicodec.audio import mpeg

MARKER = b"fLaC"  # followed by STREAMINFO, the first block of metadata, of 34 bytes (RFC 9639, section 8)
FIRST_BLOCKS = (b"\0\0\0\x22", b"\x80\0\0\x22")
SEARCHED = 2**20  # bytes: smaller files are searched for a second one, without a look at the numbers of frames
SHARES = (0.29, 0.47, 0.61, 0.83)  # of the file: where it is probed; few equal files in a row have rising numbers there
PROBED = 2**16  # bytes read at a place, to find a frame there


def find_links(file: IO[bytes]) -> list[tuple[int, int]]:
    """Return begin and end of each of the FLAC files that follow one another, without a tag in front."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    begin = mpeg.id3_size(file.read(10))
    if size > SEARCHED and not _goes_on(file, begin, size):
        return [(begin, size)]
    file.seek(begin)
    content = file.read()
    begins = []
    at = content.find(MARKER)
    while at >= 0:
        if content[at + 4 : at + 8] in FIRST_BLOCKS:
            begins.append(begin + at)
        at = content.find(MARKER, at + 1)
    if not begins:  # behind a tag that is not ID3
        return [(0, size)]
    return list(zip(begins, [*begins[1:], size], strict=True))


def _goes_on(file: IO[bytes], begin: int, size: int) -> bool:
    """Return whether the numbers of frames at a few places are not those of one file, or cannot be told.

    Equal files in a row end as one of them does, but there the numbers go back in between.
    """
    # Samples of a frame and of the file, by STREAMINFO, and the first frame, behind all blocks of metadata.
    file.seek(begin + 8)
    info = file.read(18)
    samples_per_frame = int.from_bytes(info[2:4], "big")
    samples = int.from_bytes(info[13:], "big") & (2**36 - 1)
    first = begin + 4
    is_last = False
    while not is_last and first < size:
        file.seek(first)
        head = file.read(4)
        is_last = head[0] >= 128
        first += 4 + int.from_bytes(head[1:], "big")
    file.seek(first)
    # Frames begin with the same 3 bytes, then channels, then a number coded like UTF-8 (section 9.1); not the last one.
    frame = re.compile(re.escape(file.read(3)) + rb".([\x00-\x7f]|[\xc2-\xfe][\x80-\xbf]+)", re.DOTALL)
    numbers: list[int] = []
    places = [first + int((size - first) * share) for share in SHARES]
    for place in (*places, max(first, size - PROBED)):
        file.seek(place)
        found = [_number(match[1]) for match in frame.finditer(file.read(PROBED))]
        if not found:
            return True
        numbers.append(found[0] if len(numbers) < len(places) else found[-1])
    return numbers != sorted(numbers) or numbers[-1] != samples // max(samples_per_frame, 1) - 1


def _number(coded: bytes) -> int:
    """Decode a number: the first byte begins with as many ones as there are bytes, each other has 6 bits of it."""
    count = 8 - (coded[0] ^ 0xFF).bit_length()
    value = coded[0] & 0x7F >> count
    for byte in coded[1:count]:
        value = value << 6 | byte & 0x3F
    return value
