"""`flexicodec calibrate`: find the threshold that gives a corpus the asked frame rate on average."""

import argparse
from pathlib import Path

import flexicodec
from flexicodec.cli import files, options

HELP = "find the threshold that gives a folder of speech a frame rate on average"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("inputs", nargs="+", metavar="FOLDER", type=Path, help="folders of speech, or audio files")
    parser.add_argument("--frame-rate", required=True, type=float, metavar="HZ", help="tokens per second to aim at")
    options.add_model(parser)


def run(args: argparse.Namespace) -> int:
    """Calibrate, print the threshold and what it gives, and return the exit code."""
    paths = [file for path in args.inputs for file in files.find(path, files.AUDIO_SUFFIXES)]
    found = flexicodec.calibrate(options.load_codec(args), paths, args.frame_rate)
    print(f"threshold {found.threshold:.6g}")
    print(f"frame rate {found.mean:.3f} Hz, standard deviation {found.std:.3f} Hz over {found.n} clips")
    return 0
