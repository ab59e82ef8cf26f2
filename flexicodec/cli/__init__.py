"""The command line: one file per verb, which parses, calls the public API and prints.

Nothing heavy is imported until a verb runs, so that `flexicodec --help` answers at once.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

import flexicodec
from flexicodec.cli import (
    analyze,
    calibrate,
    decode,
    encode,
    evaluate,
    export,
    info,
    manifest,
    probe,
    reconstruct,
    train,
    train_asr,
    verify,
)
from flexicodec.cli.jobs import one_line

VERBS = {
    "encode": encode,
    "decode": decode,
    "reconstruct": reconstruct,
    "info": info,
    "calibrate": calibrate,
    "evaluate": evaluate,
    "analyze": analyze,
    "verify": verify,
    "export": export,
    "manifest": manifest,
    "probe": probe,
    "train": train,
    "train-asr": train_asr,
}


class _Parser(argparse.ArgumentParser):
    """Say what is wrong in one line, as every other error of the command is said."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"flexicodec: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the whole command; the chosen verb's module ends up in `args.verb`."""
    parser = _Parser(
        prog="flexicodec",
        description="Speech to tokens at a chosen frame rate, and back.",
        epilog="`flexicodec VERB --help` lists a verb's options. Exit codes: 0 all done, 1 some files were skipped, "
        "2 nothing could be done.",
    )
    parser.add_argument("--version", action="version", version=f"flexicodec {flexicodec.__version__}")
    subparsers = parser.add_subparsers(metavar="VERB", required=True)
    for name, verb in VERBS.items():
        subparser = subparsers.add_parser(name, help=verb.HELP, description=verb.HELP[0].upper() + verb.HELP[1:] + ".")
        verb.add_arguments(subparser)
        subparser.set_defaults(verb=verb)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (`sys.argv[1:]` if None) and return its exit code."""
    args = build_parser().parse_args(argv)
    try:
        return args.verb.run(args)
    except (
        ValueError,
        OSError,
        ImportError,
        FloatingPointError,
    ) as error:  # what the library raises for bad input and missing files
        print(f"flexicodec: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
