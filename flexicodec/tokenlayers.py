"""What a `.flxc` file holds of one clip of tokens: the keys of its header, and which layer is what.

`tokenfile` says how header and layers become bytes; what was read is held against `TokenFormat` by `Tokens`.
"""

from typing import Any

import numpy as np
from jaxtyping import Int

from flexicodec import tokenfile
from flexicodec.tokenformat import TokenFormat, check_kept

# header of a .flxc file -> field of TokenFormat
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


def pack(
    format: TokenFormat,
    samples: int | None,
    info: dict[str, Any],
    semantic: Int[np.ndarray, " tokens"] | None,
    acoustic: Int[np.ndarray, "codebooks tokens"],
    durations: Int[np.ndarray, " tokens"],
) -> bytes:
    """Write one clip.

    The header holds the format under the keys of `HEADER_KEYS`, `samples` (length of the audio, or null) and `info`.
    The layers are the semantic codes (of width 0 for codecs without), the durations less one, and then one per acoustic
    codebook; their widths are the bits of the format, or for uncapped durations those of the clip's longest.

    Raises:
        ValueError: more than `tokenfile.MAX_TOKENS` tokens.
    """
    header = {key: getattr(format, name) for key, name in HEADER_KEYS.items()} | {"samples": samples, "info": info}
    width = format.duration_bits
    layers = [
        (np.zeros_like(durations) if semantic is None else semantic, format.semantic_bits),
        (durations - 1, int(durations.max() - 1).bit_length() if width is None else width),
    ]
    return tokenfile.pack(header, [*layers, *((codes, format.acoustic_bits) for codes in acoustic)])


def unpack(data: bytes, acoustic: int | None) -> dict[str, Any]:
    """Read one clip, or only its first `acoustic` codebooks; the arguments of `Tokens` by name.

    Raises:
        ValueError: not such a file, truncated or altered in what is read, or more codebooks asked than it has.
    """
    header = tokenfile.unpack_header(data)
    format, samples, info = _read_fields(header.fields)
    available = len(header.bits) - 2
    expected = [format.semantic_bits, format.duration_bits] + [format.acoustic_bits] * available
    if available < 0 or any(b is not None and a != b for a, b in zip(header.bits, expected, strict=True)):
        raise ValueError(f"layers of {list(header.bits)} bits do not go with {format}; the header is wrong")
    acoustic = available if acoustic is None else acoustic
    check_kept(acoustic, available, format)
    semantic, durations, *codes = tokenfile.unpack_layers(data, header, 2 + acoustic)
    return {
        "semantic": None if format.semantic_codebook_size is None else semantic,
        "acoustic": np.stack(codes) if codes else None,
        "durations": durations + 1,
        "audio_lengths": samples,
        "format": format,
        "info": info,
    }


def _read_fields(header: dict[str, Any]) -> tuple[TokenFormat, int | None, dict[str, Any]]:
    """Read the header of a file, whose checksum was right but which anybody may have written."""
    expected = {*HEADER_KEYS, "samples", "info"}
    if header.keys() != expected:
        odd = sorted(header.keys() ^ expected)
        raise ValueError(f"the header lacks or has too much: {odd}; was it written by another program?")
    format = TokenFormat(**{name: header[key] for key, name in HEADER_KEYS.items()})
    return format, header["samples"], header["info"]
