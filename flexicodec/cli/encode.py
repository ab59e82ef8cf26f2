"""`flexicodec encode`: recordings in, a token file out for each."""

import argparse
from pathlib import Path

from flexicodec.cli import jobs, options
from flexicodec.files import AUDIO_SUFFIXES

HELP = "turn recordings into token files (.flxc)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    jobs.add_arguments(parser, inputs="audio files", output="a .flxc file")
    options.add_rate(parser)
    options.add_model(parser)


def run(args: argparse.Namespace) -> int:
    """Encode every input and return the exit code."""
    planned = jobs.plan(args.inputs, args.output, AUDIO_SUFFIXES, jobs.TOKEN_SUFFIXES)
    codec = options.load_codec(args, "encode")
    rate = options.chosen_rate(args, codec)

    def encode(source: Path, target: Path) -> str:
        tokens = options.encode_file(codec, source, rate)
        tokens.save(target)
        return str(tokens)

    return jobs.process(planned, encode)
