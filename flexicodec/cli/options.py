"""Options that several verbs share, so that each means the same everywhere, and what they are turned into."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import flexicodec

if TYPE_CHECKING:
    from flexicodec import Codec, Tokens
    from flexicodec.models.precision import Precision


class Rate(TypedDict):
    """How finely to encode: keyword arguments of `Codec.encode`."""

    threshold: float | None
    frame_rate: float | None
    num_codebooks: int | None


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add --model and what goes with it."""
    parser.add_argument(
        "--model",
        default="flexicodec-mini",
        help="name, folder, .nemo file or hub id of the model (default: %(default)s)",
    )
    add_placement(parser)


def add_placement(parser: argparse.ArgumentParser) -> None:
    """Add where the model's parts come from and go to."""
    parser.add_argument(
        "--sensevoice",
        metavar="DIR",
        help="folder with SenseVoiceSmall's model.pt, for released FlexiCodec weights that come without it",
    )
    parser.add_argument("--device", help="torch device to run on, such as cpu or cuda:0 (default: cpu)")


def add_rate(parser: argparse.ArgumentParser) -> None:
    """Add the two ways to choose a rate, of which one may be used, and the number of codebooks."""
    rate = parser.add_mutually_exclusive_group()
    rate.add_argument(
        "--frame-rate", type=float, metavar="HZ", help="tokens per second, met as exactly as a clip allows"
    )
    rate.add_argument(
        "--threshold",
        type=float,
        metavar="TAU",
        help="merge neighbouring frames more similar than this; 1 never merges (default: the model's own)",
    )
    add_codebooks(parser)


def add_codebooks(parser: argparse.ArgumentParser) -> None:
    """Add the number of acoustic codebooks."""
    parser.add_argument(
        "--codebooks", type=int, metavar="K", help="acoustic codebooks to use, 0 for semantic codes only (default: all)"
    )


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Add how precisely to compute, and whether to compile."""
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="bfloat16 is faster, flips a few codes and adds a little noise (default: %(default)s)",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile parts of the model first, some ten seconds, for speed; on the CPU, with a C++ compiler",
    )


def load_codec(args: argparse.Namespace, parts: str = "all") -> "Codec":
    """Load the model that was asked for, or the parts of it that a verb needs.

    Raises:
        ValueError: torch cannot use the device, or what `flexicodec.load` raises.
    """
    import torch

    try:
        torch.zeros(1, device=args.device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {args.device!r} cannot be used: {error}") from error
    codec = flexicodec.load(args.model, sensevoice=args.sensevoice, device=args.device, parts=parts)
    if getattr(args, "compile", False):
        codec.compile()
    return codec


def chosen_rate(args: argparse.Namespace, codec: "Codec") -> Rate:
    """Return the asked rate after letting the codec judge it on a second of silence.

    A value the model does not take is so one error, and not one for each file.
    """
    import torch

    rate = Rate(threshold=args.threshold, frame_rate=args.frame_rate, num_codebooks=args.codebooks)
    codec.encode(torch.zeros(1, codec.sample_rate), **rate)
    return rate


def encode_file(codec: "Codec", path: Path, rate: Rate, precision: "Precision") -> "Tokens":
    """Read a recording, mixed to mono, and encode it."""
    audio = flexicodec.read_audio(path, sample_rate=codec.sample_rate, channels="mix")
    return codec.encode(audio, **rate, precision=precision)
