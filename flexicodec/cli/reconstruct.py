"""`flexicodec reconstruct`: recordings through the codec and back, to hear what a rate keeps."""

import argparse
from pathlib import Path

import flexicodec
from flexicodec.cli import jobs, options
from flexicodec.io_utils import AUDIO_SUFFIXES

HELP = "encode and decode recordings at once, to hear what is kept"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    jobs.add_arguments(parser, inputs="audio files", output="an audio file (.wav, .flac, ...)")
    options.add_rate(parser)
    options.add_precision(parser)
    options.add_model(parser)


def run(args: argparse.Namespace) -> int:
    """Reconstruct every input and return the exit code."""
    planned = jobs.plan(args.inputs, args.output, AUDIO_SUFFIXES, jobs.WRITABLE_SUFFIXES)
    codec = options.load_codec(args)
    rate = options.chosen_rate(args, codec)

    def reconstruct(source: Path, target: Path) -> str:
        tokens = options.encode_file(codec, source, rate, args.precision)
        flexicodec.write_audio(target, codec.decode(tokens, precision=args.precision), codec.sample_rate)
        return str(tokens)

    return jobs.process(planned, reconstruct)
