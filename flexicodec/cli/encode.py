"""`flexicodec encode`: recordings in, a token file out for each; or samples in and tokens out as they come."""

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flexicodec.cli import jobs, options, stream_encode
from flexicodec.io_utils import AUDIO_SUFFIXES

if TYPE_CHECKING:
    from flexicodec.models.batch_encode import FileResult

HELP = "turn recordings into token files (.flxc), or a stream of samples into tokens"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    jobs.add_arguments(parser, inputs="audio files", output="a .flxc file", optional=True)
    options.add_rate(parser)
    options.add_precision(parser)
    options.add_model(parser)
    parser.add_argument(
        "--batch-seconds",
        type=float,
        metavar="S",
        help="audio to encode side by side, clips of like length together (default: 640 on a GPU; on the CPU 0, which "
        "takes files one by one and is no slower)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="threads that read files while others are encoded, 0 for none (default: up to 8 on a GPU, else 0)",
    )
    stream_encode.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Encode every input, or stdin, and return the exit code.

    Raises:
        ValueError: Options or inputs that do not go together.
    """
    if args.stream:
        if args.precision != "float32":
            raise ValueError("--precision is for files; streams are encoded in float32")
        return stream_encode.run(args)
    planned = jobs.plan(args.inputs, args.output, AUDIO_SUFFIXES, jobs.TOKEN_SUFFIXES)
    codec = options.load_codec(args, "encode")
    rate = options.chosen_rate(args, codec)

    from flexicodec.models.batch_encode import encode_files

    settings = {"batch_seconds": args.batch_seconds, "workers": args.workers, "precision": args.precision}
    done = encode_files(codec, [source for source, _ in planned], in_order=False, **settings, **rate)
    outcomes = ((planned[each.index], jobs.attempt(planned[each.index], partial(_save, each))) for each in done)
    return jobs.report(len(planned), outcomes)


def _save(encoded: "FileResult", _: Path, target: Path) -> str:
    tokens = encoded.result()
    tokens.save(target)
    return str(tokens)
