"""`flexicodec encode --stream`: samples on stdin, tokens out as soon as they are decided.

Samples are what `decode --stream` writes, lines of tokens what it reads: 16-bit little-endian mono without a header in,
a JSON object for the tokens that were decided together out.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, BinaryIO

from flexicodec.cli import options

if TYPE_CHECKING:
    import numpy as np

    from flexicodec import Tokens

BLOCK = 2**16  # bytes read at most at once
EPILOG = """\
streams:
  With --stream, stdin is 16-bit samples, little-endian, mono, at the codec's rate, without a header. Tokens go to -o
  ("-" for stdout, or a .jsonl file) as they are decided, a JSON object a line, as decode --stream reads them:

  {"semantic": [17, 40], "acoustic": [[3, 8], [250, 1]], "durations": [2, 1]}

  The last line also says how many samples its audio has, as "audio_lengths". How long a sound waits is
  said on stderr. --frame-rate is held by moving the threshold, and so only on average.

  arecord -t raw -f S16_LE -c 1 -r 16000 | flexicodec encode --stream -o - | flexicodec decode --stream -o heard.wav
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --stream."""
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    parser.add_argument("--stream", action="store_true", help="encode samples from stdin as they come, see below")


def run(args: argparse.Namespace) -> int:
    """Encode stdin and return the exit code.

    Raises:
        ValueError: Files were given as well, the output is no stream, or a choice does not go with the codec.
    """
    if args.inputs:
        raise ValueError("encode --stream reads samples from stdin; leave out the files")
    if args.output != "-" and not args.output.endswith(".jsonl"):
        raise ValueError(f"cannot stream tokens to {args.output}: expected - for stdout, or a .jsonl file")
    codec = options.load_codec(args)
    rate = options.Rate(threshold=args.threshold, frame_rate=args.frame_rate, num_codebooks=args.codebooks)
    with ExitStack() as stack:
        stream = stack.enter_context(codec.streaming_encoder(**rate))
        out = sys.stdout if args.output == "-" else stack.enter_context(open(args.output, "w"))
        kind, latency = "exact" if stream.exact else "not exact", f"{stream.latency_seconds:.3g} s"
        print(f"{codec.sample_rate} Hz, {kind}, latency up to {latency}", file=sys.stderr, flush=True)
        write = _line_writer(out.write, codec.format.max_duration == 1)
        for samples in read_samples(sys.stdin.buffer):
            write(stream.encode(samples))
            out.flush()
        write(stream.flush(), last=True)
        out.flush()
    return 0


def read_samples(source: BinaryIO) -> "Iterator[np.ndarray]":
    """Read 16-bit little-endian samples as they come, never half of one.

    Raises:
        ValueError: The input ends inside a sample.
    """
    import numpy as np

    rest = b""
    while block := source.read1(BLOCK):  # type: ignore[attr-defined]
        block, even = rest + block, len(rest + block) // 2 * 2
        rest = block[even:]
        if even:
            yield np.frombuffer(block[:even], "<i2").astype(np.int16)
    if rest:
        raise ValueError("stdin ends in the middle of a 16-bit sample; is it raw audio of another format?")


def _line_writer(write: Callable[[str], object], fixed_rate: bool) -> "Callable[..., None]":
    """Return what writes tokens as a line of JSON, without what the codec has not."""

    def write_line(tokens: "Tokens | None", last: bool = False) -> None:
        if tokens is None:
            return
        fields: dict[str, Any] = {}
        if tokens.semantic is not None:
            fields["semantic"] = tokens.semantic[0].tolist()
        if tokens.num_codebooks:
            fields["acoustic"] = tokens.acoustic[0].tolist()
        if not fixed_rate:
            fields["durations"] = tokens.durations[0].tolist()
        if last and tokens.audio_lengths is not None:
            fields["audio_lengths"] = int(tokens.audio_lengths)
        write(json.dumps(fields) + "\n")

    return write_line
