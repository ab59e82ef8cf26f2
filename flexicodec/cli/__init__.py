"""The command line: verbs that parse arguments, call the public API and print.

Nothing heavy is imported until a verb runs, so that `flexicodec --help` stays fast.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

import flexicodec
from flexicodec.cli import analyze, codec_verbs, demo, evaluate, info, pack, probe, tokenize, train, tts, verify
from flexicodec.cli.file_jobs import one_line
from flexicodec.cli.options import Verb

VERBS = {  # in the order of --help
    "encode": codec_verbs.ENCODE,
    "decode": codec_verbs.DECODE,
    "reconstruct": codec_verbs.RECONSTRUCT,
    "tokenize": tokenize.TOKENIZE,
    "merge": tokenize.MERGE,
    "info": Verb(info.HELP, info.add_arguments, info.run),
    "calibrate": codec_verbs.CALIBRATE,
    "evaluate": Verb(evaluate.HELP, evaluate.add_arguments, evaluate.run),
    "analyze": Verb(analyze.HELP, analyze.add_arguments, analyze.run),
    "demo": demo.DEMO,
    "verify": Verb(verify.HELP, verify.add_arguments, verify.run),
    "export": codec_verbs.EXPORT,
    "manifest": train.MANIFEST,
    "pack": Verb(pack.HELP, pack.add_arguments, pack.run),
    "tts": Verb(tts.HELP, tts.add_arguments, tts.run),
    "probe": Verb(probe.HELP, probe.add_arguments, probe.run),
    "train": train.TRAIN,
    "train-asr": train.TRAIN_ASR,
    "train-tts": train.TRAIN_TTS,
}
# What the library raises for bad input and missing files.
USER_ERRORS = (ValueError, OSError, ImportError, FloatingPointError)


class _Parser(argparse.ArgumentParser):
    """Prints errors in one line, like every other error of the command."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"flexicodec: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the whole command; `args.run` is the function of the chosen verb."""
    parser = _Parser(
        prog="flexicodec",
        description="Encode speech to tokens at a chosen frame rate, and decode them.",
        epilog="`flexicodec VERB --help` lists a verb's options. Exit codes: 0 all done, 1 files were skipped, which "
        "are named, 2 nothing was tried: a wrong option, model or list of files.",
    )
    parser.add_argument("--version", action="version", version=f"flexicodec {flexicodec.__version__}")
    subparsers = parser.add_subparsers(metavar="VERB", required=True)
    for name, verb in VERBS.items():
        description = verb.help[0].upper() + verb.help[1:] + "."
        subparser = subparsers.add_parser(name, help=verb.help, description=description)
        verb.add_arguments(subparser)
        subparser.set_defaults(run=verb.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (`sys.argv[1:]` if None) and return its exit code."""
    args = build_parser().parse_args(argv)
    try:
        return args.run(args)
    except USER_ERRORS as error:
        print(f"flexicodec: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
