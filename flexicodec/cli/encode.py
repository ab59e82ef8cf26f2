"""`flexicodec encode`: recordings in, a token file out for each; or samples in and tokens out as they come."""

import argparse
from pathlib import Path

from flexicodec.cli import jobs, options, stream_encode
from flexicodec.files import AUDIO_SUFFIXES

HELP = "turn recordings into token files (.flxc), or a stream of samples into tokens"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    jobs.add_arguments(parser, inputs="audio files", output="a .flxc file", optional=True)
    options.add_rate(parser)
    options.add_model(parser)
    stream_encode.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Encode every input, or stdin, and return the exit code.

    Raises:
        ValueError: Options or inputs that do not go together.
    """
    if args.stream:
        return stream_encode.run(args)
    planned = jobs.plan(args.inputs, args.output, AUDIO_SUFFIXES, jobs.TOKEN_SUFFIXES)
    codec = options.load_codec(args, "encode")
    rate = options.chosen_rate(args, codec)

    def encode(source: Path, target: Path) -> str:
        tokens = options.encode_file(codec, source, rate)
        tokens.save(target)
        return str(tokens)

    return jobs.process(planned, encode)
