"""`flexicodec calibrate`: find the threshold that gives a corpus the asked frame rate on average."""

import argparse
import sys

import flexicodec
from flexicodec.cli import options

HELP = "find the threshold that gives a folder of speech a frame rate on average"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("inputs", nargs="+", metavar="FOLDER", help="folders of speech, or audio files")
    parser.add_argument("--frame-rate", required=True, type=float, metavar="HZ", help="tokens per second to aim at")
    options.add_model(parser)


def run(args: argparse.Namespace) -> int:
    """Calibrate, print the threshold and what it gives, and return the exit code."""
    codec = options.load_codec(args)
    found = flexicodec.calibrate(codec, args.inputs, args.frame_rate, progress=sys.stderr.isatty())
    for file_and_reason in found.skipped:
        print(f"flexicodec: skipped {file_and_reason}", file=sys.stderr)
    print(f"threshold {found.threshold:.6g}")
    print(f"frame rate {found.mean:.3f} Hz, standard deviation {found.std:.3f} Hz over {found.n} clips")
    return 1 if found.skipped else 0
