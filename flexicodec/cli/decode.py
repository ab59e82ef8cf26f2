"""`flexicodec decode`: token files in, a recording out for each.

The codec refuses tokens that another model made; here that is a skipped file with the codec's own words.
"""

import argparse
from pathlib import Path

import flexicodec
from flexicodec.cli import files, options

HELP = "turn token files (.flxc) back into recordings"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    files.add_arguments(parser, inputs=".flxc files", output="an audio file (.wav, .flac, ...)")
    options.add_codebooks(parser)
    options.add_model(parser)


def run(args: argparse.Namespace) -> int:
    """Decode every input and return the exit code."""
    jobs = files.plan(args.inputs, args.output, files.TOKEN_SUFFIXES, files.WRITABLE_SUFFIXES)
    codec = options.load_codec(args)

    def decode(source: Path, target: Path) -> str:
        tokens = flexicodec.Tokens.load(source, acoustic=args.codebooks)
        flexicodec.write_audio(target, codec.decode(tokens), codec.sample_rate)
        return str(tokens)

    return files.process(jobs, decode)
