"""Options that several verbs share, so that each means the same everywhere, and what is made of their values."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypedDict

import flexicodec

if TYPE_CHECKING:
    from flexicodec import Codec

POLICY_HELP = (
    "rule that decides which frames share a token, such as variance or centroid:threshold=0.9 (docs/merging.md)"
)
MODEL_HELP = "name, folder, .nemo file or hub id of the model"


class Verb(NamedTuple):
    """A verb of the command: its help text, its arguments, and what it does; `run` returns the exit code."""

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


class Rate(TypedDict, total=False):
    """The rate to encode at: keyword arguments of `Codec.encode`; without a policy where none was given."""

    threshold: float | None
    frame_rate: float | None
    policy: str | None
    num_codebooks: int | None


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add --model, --sensevoice and --device."""
    parser.add_argument("--model", default="flexicodec-mini", help=f"{MODEL_HELP} (default: %(default)s)")
    add_placement(parser)


def add_placement(parser: argparse.ArgumentParser) -> None:
    """Add --sensevoice and --device."""
    sensevoice_help = "folder with SenseVoiceSmall's model.pt, for released FlexiCodec weights that lack it"
    parser.add_argument("--sensevoice", metavar="DIR", help=sensevoice_help)
    parser.add_argument("--device", help="torch device to run on, such as cpu or cuda:0 (default: cpu)")


def add_rate(parser: argparse.ArgumentParser) -> None:
    """Add --frame-rate and --threshold, of which one may be used, --policy and --codebooks."""
    rate = parser.add_mutually_exclusive_group()
    rate_help = "tokens per second, met as exactly as a clip allows"
    rate.add_argument("--frame-rate", type=float, metavar="HZ", help=rate_help)
    threshold_help = "merge neighbouring frames more similar than this; 1 never merges (default: the model's own)"
    rate.add_argument("--threshold", type=float, metavar="TAU", help=threshold_help)
    parser.add_argument("--policy", metavar="NAME[:SETTING=VALUE,...]", help=POLICY_HELP)
    add_codebooks(parser)


def add_codebooks(parser: argparse.ArgumentParser) -> None:
    """Add --codebooks."""
    codebooks_help = "acoustic codebooks to use, 0 for semantic codes only (default: all)"
    parser.add_argument("--codebooks", type=int, metavar="K", help=codebooks_help)


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Add --precision and --compile."""
    precisions = ("float32", "bfloat16")
    precision_help = "bfloat16 is faster, changes a few codes and adds a little noise (default: %(default)s)"
    parser.add_argument("--precision", choices=precisions, default="float32", help=precision_help)
    compile_help = "compile parts of the model first, some ten seconds, for speed; on the CPU, with a C++ compiler"
    parser.add_argument("--compile", action="store_true", help=compile_help)


def load_codec(args: argparse.Namespace, parts: str = "all") -> "Codec":
    """Load the model that the arguments name, or the parts of it that a verb needs."""
    from flexicodec.hub import check_device

    check_device(args.device)
    codec = flexicodec.load(args.model, sensevoice=args.sensevoice, device=args.device, parts=parts)
    if getattr(args, "compile", False):
        codec.compile()
    return codec


def given_rate(args: argparse.Namespace) -> Rate:
    """Return the rate that the arguments of `add_rate` name."""
    rate = Rate(threshold=args.threshold, frame_rate=args.frame_rate, num_codebooks=args.codebooks)
    if args.policy is not None:
        rate["policy"] = args.policy
    return rate


def chosen_rate(args: argparse.Namespace, codec: "Codec") -> Rate:
    """Return the rate after encoding a second of silence with it: a bad value is one error, and not one per file."""
    import torch

    rate = given_rate(args)
    codec.encode(torch.zeros(1, codec.sample_rate, dtype=torch.float32, device="cpu"), **rate)
    return rate
