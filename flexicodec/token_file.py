"""The `.flxc` file format: a header dict and layers of integers to bytes and back, without pickle.

Layout (all numbers big-endian, offsets in bytes):

    0      4  magic, the ASCII letters FLXC
    4      1  version, 1
    5      4  H, length of the header, at most 1 MiB
    9      H  header, one JSON object in UTF-8
    9+H    4  CRC32 (zlib's) of everything before it
    13+H      layer 0, layer 1, ... without gaps, and nothing after the last one

The JSON object holds the caller's keys and two of the file's own: `tokens`, the number of integers in every layer, and
`bits`, a list with the width of each layer's integers, 0 to 32. A layer is

    ceil(tokens * bits / 8)  bytes: the integers one after another, each with its most significant bit first, across
                             the borders of bytes; the last byte is filled up with zero bits
    4                        bytes: CRC32 of these bytes, continued from the CRC before (the header's for layer 0), so
                             that a layer moved to another place or another file does not match

A width of 0 stands for zeros and costs only the CRC. Where a layer starts follows from the header, so that the layers
before the end of a truncated file can still be read. Sizes are checked before memory is allocated.

A clip of tokens (`pack_clip`, `unpack_clip`) has the header keys of `HEADER_KEYS`, `samples` (length of the audio, or
null) and `info`. Its layers are the semantic codes (of width 0 for codecs without), the durations less one, and one
layer per acoustic codebook. Widths are the bits of the format, or for uncapped durations those of the clip's longest.
"""

import json
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from flexicodec.io_utils import replacing
from flexicodec.token_format import TokenFormat, check_kept

MAGIC = b"FLXC"
VERSION = 1
MAX_HEADER_BYTES = 2**20
MAX_TOKENS = 2**24  # two weeks at 12.5 Hz
MAX_BITS = 32

# key in the header -> field of TokenFormat
HEADER_KEYS = {
    "model": "model",
    "fingerprint": "fingerprint",
    "rate": "sample_rate",
    "frame": "frame_size",
    "semantic": "semantic_codebook_size",
    "acoustic": "acoustic_codebook_size",
    "max_duration": "max_duration",
    "parallel": "parallel_codebooks",
}

_PREAMBLE = struct.Struct(">4sBI")
_CRC = struct.Struct(">I")


# ----------------------------------------------------------------------------------------------------- a clip of tokens


def pack_clip(
    format: TokenFormat,
    samples: int | None,
    info: dict[str, Any],
    semantic: Int[np.ndarray, " tokens"] | None,
    acoustic: Int[np.ndarray, "codebooks tokens"],
    durations: Int[np.ndarray, " tokens"],
) -> bytes:
    """Write one clip of 1 to `MAX_TOKENS` tokens."""
    header = {key: getattr(format, name) for key, name in HEADER_KEYS.items()} | {"samples": samples, "info": info}
    if semantic is None:
        semantic = np.zeros_like(durations)
    duration_bits = format.duration_bits
    if duration_bits is None:
        duration_bits = int(durations.max() - 1).bit_length()
    layers = [(semantic, format.semantic_bits), (durations - 1, duration_bits)]
    layers += [(codes, format.acoustic_bits) for codes in acoustic]
    return pack(header, layers)


def unpack_clip(data: bytes, acoustic: int | None) -> dict[str, Any]:
    """Read one clip, or only its first `acoustic` codebooks; returns the arguments of `Tokens` by name.

    Raises:
        ValueError: Not such a file, truncated or altered in the part that is read, or fewer codebooks than asked.
    """
    header = unpack_header(data)
    # The checksum is right, which does not make the header true: anybody may have written it.
    expected = {*HEADER_KEYS, "samples", "info"}
    if header.fields.keys() != expected:
        odd = sorted(header.fields.keys() ^ expected)
        raise ValueError(f"the header lacks or has too much: {odd}; was it written by another program?")
    format = TokenFormat(**{name: header.fields[key] for key, name in HEADER_KEYS.items()})
    available = len(header.bits) - 2
    widths = [format.semantic_bits, format.duration_bits] + [format.acoustic_bits] * available
    if available < 0 or any(b is not None and a != b for a, b in zip(header.bits, widths, strict=True)):
        raise ValueError(f"layers of {list(header.bits)} bits do not go with {format}; the header is wrong")
    if acoustic is None:
        acoustic = available
    check_kept(acoustic, available, format)
    semantic, durations, *codes = unpack_layers(data, header, 2 + acoustic)
    return {
        "semantic": None if format.semantic_codebook_size is None else semantic,
        "acoustic": np.stack(codes) if codes else None,
        "durations": durations + 1,
        "audio_lengths": header.fields["samples"],
        "format": format,
        "info": header.fields["info"],
    }


# --------------------------------------------------------------------------------------------------- header and layers


@dataclass(frozen=True)
class Header:
    """The checked header of a file."""

    fields: dict[str, Any]  # the caller's keys, as given to `pack`
    tokens: int  # integers in every layer
    bits: tuple[int, ...]  # width of each layer's integers
    start: int  # byte at which layer 0 begins
    crc: int  # checksum of the header, from which the first layer's continues

    def layer_bytes(self, layer: int) -> int:
        """Return the number of packed bytes of a layer, its CRC not counted."""
        return (self.tokens * self.bits[layer] + 7) // 8


def pack(fields: dict[str, Any], layers: Sequence[tuple[np.ndarray, int]]) -> bytes:
    """Write a header and layers of equally many integers.

    Args:
        fields: Keys of the caller, with JSON values; `tokens` and `bits` are reserved.
        layers: Pairs of a one-dimensional integer array and the width of its integers in bits.
    """
    taken = {"tokens", "bits"} & fields.keys()
    if taken:
        raise ValueError(f"header keys {sorted(taken)} belong to the file format; choose other names")
    counts = sorted({len(values) for values, _ in layers})
    if len(counts) != 1 or counts[0] > MAX_TOKENS:
        raise ValueError(f"layers hold {counts} integers, expected one common count of at most {MAX_TOKENS}")
    own = {"tokens": counts[0], "bits": [bits for _, bits in layers]}
    try:
        text = json.dumps({**fields, **own}, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except TypeError as error:
        raise ValueError(f"the header must hold JSON values only: {error}") from error
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"the header takes {len(text)} bytes, more than {MAX_HEADER_BYTES}")
    head = _PREAMBLE.pack(MAGIC, VERSION, len(text)) + text
    crc = zlib.crc32(head)
    parts = [head, _CRC.pack(crc)]
    for values, bits in layers:
        packed = pack_integers(values, bits)
        crc = zlib.crc32(packed, crc)
        parts += [packed, _CRC.pack(crc)]
    return b"".join(parts)


def unpack_header(data: bytes) -> Header:
    """Read and check the header; the layers may be missing."""
    if len(data) < _PREAMBLE.size or not data.startswith(MAGIC):
        raise ValueError(f"not a .flxc file: it starts with {data[:4]!r}, expected {MAGIC!r}, in {len(data)} bytes")
    _, version, size = _PREAMBLE.unpack_from(data)
    if version != VERSION:
        raise ValueError(f".flxc version {version}, this reader knows {VERSION}; was it written by a newer release?")
    end = _PREAMBLE.size + size
    if size > MAX_HEADER_BYTES or len(data) < end + _CRC.size:
        raise ValueError(f"the header should end at byte {end + _CRC.size} but there are {len(data)}; is it cut short?")
    crc = zlib.crc32(data[:end])
    if _CRC.unpack_from(data, end)[0] != crc:
        raise ValueError("the header does not match its checksum; the file was altered")
    return _checked_header(data[_PREAMBLE.size : end], end + _CRC.size, crc)


def unpack_layers(data: bytes, header: Header, count: int | None = None) -> list[np.ndarray]:
    """Read and check the first `count` layers, all of them by default, as int64 arrays of `header.tokens` values.

    Bytes behind these layers may be missing, and are not checked except for their number, which may not be too large.
    """
    available = len(header.bits)
    if count is None:
        count = available
    if not 0 <= count <= available:
        raise ValueError(f"asked for {count} layers, the file has {available}")
    whole = header.start + sum(header.layer_bytes(layer) + _CRC.size for layer in range(available))
    if len(data) > whole:
        raise ValueError(f"{len(data)} bytes, but by its header the file ends after {whole}; was something appended?")
    layers = []
    start = header.start
    crc = header.crc
    for layer in range(count):
        end = start + header.layer_bytes(layer)
        if len(data) < end + _CRC.size:
            raise ValueError(
                f"layer {layer} of {available} should end at byte {end + _CRC.size} but there are {len(data)}; "
                f"the file is cut short, only the {layer} layers before can be read"
            )
        packed = data[start:end]
        crc = zlib.crc32(packed, crc)
        if _CRC.unpack_from(data, end)[0] != crc:
            raise ValueError(f"layer {layer} of {available} does not match its checksum; the file was altered")
        layers.append(unpack_integers(packed, header.tokens, header.bits[layer]))
        start = end + _CRC.size
    return layers


def pack_integers(values: np.ndarray, bits: int) -> bytes:
    """Pack integers at a width of `bits` (0 to 32), most significant bit first, the last byte filled with zeros."""
    if not 0 <= bits <= MAX_BITS:
        raise ValueError(f"a width of {bits} bits, expected 0 to {MAX_BITS}")
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise ValueError(f"a layer of shape {values.shape} and type {values.dtype}, expected integers along one axis")
    if values.size and not (0 <= int(values.min()) and int(values.max()) < 2**bits):
        raise ValueError(f"values from {values.min()} to {values.max()} do not fit into {bits} bits")
    # Every value becomes a row of 32 bits, of which the last ones are kept.
    rows = np.unpackbits(values.astype(">u4").view(np.uint8).reshape(-1, 4), axis=1)
    return np.packbits(rows[:, MAX_BITS - bits :]).tobytes()


def unpack_integers(packed: bytes, count: int, bits: int) -> np.ndarray:
    """Unpack `count` integers of `bits` bits as int64; the reverse of `pack_integers`."""
    if len(packed) != (count * bits + 7) // 8:
        raise ValueError(f"{count} integers of {bits} bits do not take {len(packed)} bytes")
    flat = np.unpackbits(np.frombuffer(packed, np.uint8))
    if flat[count * bits :].any():
        raise ValueError("the bits behind the last integer are not zero; the file was altered")
    rows = np.zeros((count, MAX_BITS), np.uint8)
    rows[:, MAX_BITS - bits :] = flat[: count * bits].reshape(count, bits)
    return np.packbits(rows, axis=1).view(">u4").reshape(count).astype(np.int64)


def write(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file, which appears whole or not at all."""
    with replacing(path) as part:
        part.write_bytes(data)


def _checked_header(text: bytes, start: int, crc: int) -> Header:
    """Parse the JSON of a header and bound the memory that its numbers ask for."""
    try:
        fields = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the header is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"the header is a JSON {type(fields).__name__}, expected an object")
    tokens = fields.pop("tokens", None)
    bits = fields.pop("bits", None)
    if type(tokens) is not int or not 0 <= tokens <= MAX_TOKENS:
        raise ValueError(f"the header claims {tokens!r} tokens, expected 0 to {MAX_TOKENS}")
    if not isinstance(bits, list) or not all(type(width) is int and 0 <= width <= MAX_BITS for width in bits):
        raise ValueError(f"the header claims layers of {bits!r} bits, expected a list of widths from 0 to {MAX_BITS}")
    # Layers of width 0 take no bytes, so the length of the file does not bound their unpacked size.
    if tokens * bits.count(0) > MAX_TOKENS:
        raise ValueError(f"the header claims {bits.count(0)} layers of {tokens} integers without a bit for them")
    return Header(fields, tokens, tuple(bits), start, crc)
