"""`flexicodec decode`: token files in, a recording out for each.

The codec refuses tokens that another model made; here that is a skipped file with the codec's own words.
"""

import argparse
from pathlib import Path

import flexicodec
from flexicodec.cli import jobs, options, stream

HELP = "turn token files (.flxc), or a stream of tokens, back into recordings"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    jobs.add_arguments(parser, inputs=".flxc files", output="an audio file (.wav, .flac, ...)", optional=True)
    options.add_codebooks(parser)
    options.add_precision(parser)
    options.add_model(parser)
    stream.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Decode every input, or stdin, and return the exit code.

    Raises:
        ValueError: Options or inputs that do not go together.
    """
    if args.stream:
        if args.precision != "float32":
            raise ValueError("--precision is for files; streams are decoded in float32")
        return stream.run(args)
    if args.lookahead is not None or args.chunk_tokens is not None:
        raise ValueError("--lookahead and --chunk-tokens are for --stream; files are decoded whole")
    planned = jobs.plan(args.inputs, args.output, jobs.TOKEN_SUFFIXES, jobs.WRITABLE_SUFFIXES)
    codec = options.load_codec(args, "decode")

    def decode(source: Path, target: Path) -> str:
        tokens = flexicodec.Tokens.load(source, acoustic=args.codebooks)
        flexicodec.write_audio(target, codec.decode(tokens, precision=args.precision), codec.sample_rate)
        return str(tokens)

    return jobs.process(planned, decode)
