"""`flexicodec decode --stream`: tokens on stdin, audio out as it comes.

A line of input is a JSON object with one token, or with several; the keys are those of `Tokens`:

    {"semantic": 17, "acoustic": [3, 250, 9], "durations": 2}
    {"semantic": [17, 40], "acoustic": [[3, 8], [250, 1], [9, 77]], "durations": [2, 1]}

Codecs without semantic codes leave them out, those of a fixed rate the durations. `acoustic` has an entry for each
codebook, in the second form a row of codes each; it may be left out too. Every line is decoded when it comes; when
input ends, what is left comes out.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

from flexicodec.cli import options

if TYPE_CHECKING:
    import torch

    from flexicodec import Codec, Tokens

KEYS = ("semantic", "acoustic", "durations")
RAW_SUFFIXES = (".raw", ".pcm")
EPILOG = """\
streams:
  With --stream, each line of stdin is a JSON object with one token or with several:

  {"semantic": 17, "acoustic": [3, 250], "durations": 2}
  {"semantic": [17, 40], "acoustic": [[3, 8], [250, 1]], "durations": [2, 1]}

  What a codec has not is left out. Audio goes to -o as it comes: 16-bit samples, little-endian, mono, at the codec's
  rate, without a header to "-" (stdout) and to .raw or .pcm, with one to .wav. How long a sound waits is said on
  stderr.

  tokens | flexicodec decode --stream --lookahead 8 -o - | aplay -t raw -f S16_LE -c 1 -r 16000
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --stream and what goes with it."""
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    group = parser.add_argument_group("streams")
    group.add_argument("--stream", action="store_true", help="decode tokens from stdin as they come, see below")
    group.add_argument(
        "--lookahead",
        type=int,
        metavar="FRAMES",
        help="frames a sound waits for; fewer than all it depends on cost quality (default: all, where that is finite)",
    )
    group.add_argument(
        "--chunk-tokens", type=int, metavar="N", help="with fewer, give audio after every N tokens (default: 1)"
    )


def run(args: argparse.Namespace) -> int:
    """Decode stdin and return the exit code.

    Raises:
        ValueError: Files were given as well, or a line of stdin makes no tokens.
    """
    if args.inputs:
        raise ValueError("decode --stream reads tokens from stdin; leave out the files")
    with _sink(args.output) as open_sink:
        codec = options.load_codec(args, "decode")
        write = open_sink(codec.sample_rate)
        chosen = {"lookahead_frames": args.lookahead, "chunk_tokens": args.chunk_tokens}
        settings = {name: value for name, value in chosen.items() if value is not None}
        with codec.streaming_decoder(**settings) as stream:
            kind, latency = "exact" if stream.exact else "not exact", f"{stream.latency_seconds:.3g} s"
            print(f"{codec.sample_rate} Hz, {kind}, latency up to {latency}", file=sys.stderr, flush=True)
            for tokens in read_lines(sys.stdin, codec, args.codebooks):
                write(stream.decode(tokens))
            write(stream.flush())
    return 0


def read_lines(lines: Iterable[str], codec: "Codec", codebooks: int | None) -> Iterator["Tokens"]:
    """Turn lines into tokens of a codec, one clip each; empty ones are passed over.

    Raises:
        ValueError: A line that makes none, with its number.
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            tokens = _tokens(json.loads(line), codec)
            if codebooks is not None and codebooks < tokens.num_codebooks:
                tokens = tokens.keep(acoustic=codebooks)
            codec.check_tokens(tokens)
        except ValueError as error:
            raise ValueError(f"line {number} of stdin: {error}") from error
        yield tokens


def _tokens(fields: Any, codec: "Codec") -> "Tokens":
    import flexicodec

    if not isinstance(fields, dict) or not fields or not set(fields) <= set(KEYS):
        raise ValueError(f"expected a JSON object with {', '.join(KEYS)}, got {json.dumps(fields)[:60]}")
    values = {name: value for name, value in fields.items() if value is not None}
    if not any(isinstance(value, list) for name, value in values.items() if name != "acoustic"):
        rows = values.get("acoustic", [])
        if not (isinstance(rows, list) and any(isinstance(row, list) for row in rows)):  # a single token
            values = {name: [value] for name, value in values.items() if name != "acoustic"}
            if rows:
                values["acoustic"] = [[code] for code in rows] if isinstance(rows, list) else rows
    return flexicodec.Tokens(**values, format=codec.format)


@contextmanager
def _sink(output: str) -> Iterator[Callable[[int], Callable[["torch.Tensor"], None]]]:
    """Open where audio goes; what is yielded takes the sample rate and returns what writes [1, S]."""
    import soundfile

    suffix = output[output.rfind(".") :].lower() if "." in output else ""
    if output != "-" and suffix not in (".wav", *RAW_SUFFIXES):
        raise ValueError(f"cannot stream to {output}: expected - for stdout, .wav, {' or '.join(RAW_SUFFIXES)}")
    opened: list[Any] = []

    def open_sink(sample_rate: int) -> Callable[["torch.Tensor"], None]:
        if suffix == ".wav":
            file = soundfile.SoundFile(output, "w", sample_rate, 1, "PCM_16")
            opened.append(file)

            def write(audio: "torch.Tensor") -> None:
                file.write(_to_int16(audio))
                file.flush()

            return write
        raw: BinaryIO = sys.stdout.buffer if output == "-" else open(output, "wb")
        if output != "-":
            opened.append(raw)

        def write_raw(audio: "torch.Tensor") -> None:
            raw.write(_to_int16(audio).astype("<i2").tobytes())
            raw.flush()

        return write_raw

    try:
        yield open_sink
    finally:
        for file in opened:
            file.close()


def _to_int16(audio: "torch.Tensor") -> Any:
    return (audio[0].cpu().double() * 32768).round().clamp(-32768, 32767).short().numpy()
