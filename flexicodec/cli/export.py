"""`flexicodec export`: a model as ONNX graphs, held against what they were made from."""

import argparse

import flexicodec
from flexicodec.cli import options

HELP = "write a model as ONNX graphs for onnxruntime"
CHECKED_SECONDS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("model", metavar="MODEL", help="name, folder, .nemo file or hub id of the model")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="where to write the graphs")
    parser.add_argument(
        "--int8", action="store_true", help="transformer blocks in 8 bits: smaller, faster, and some codes flip"
    )
    parser.add_argument("--check", metavar="FILE", help="recording to compare with (default: one that ships)")
    options.add_placement(parser)


def run(args: argparse.Namespace) -> int:
    """Export, compare, print how far both agree, and return the exit code: 1 where they do not and should."""
    from importlib.resources import files

    from flexicodec.export.compare import compare
    from flexicodec.export.onnx import export
    from flexicodec.export.runtime import load_exported

    codec = options.load_codec(args).cpu()
    folder = export(codec, args.output, int8=args.int8)
    for file in sorted(folder.iterdir()):
        print(f"{file.name:28} {file.stat().st_size / 2**20:8.2f} MiB")
    heard = args.check or str(files("flexicodec") / "assets" / "example.flac")
    audio = flexicodec.read_audio(heard, sample_rate=codec.sample_rate, channels="mix")
    found = compare(codec, load_exported(folder), audio[:, : CHECKED_SECONDS * codec.sample_rate])
    print(f"against the model, on {heard}: {found}")
    return 0 if found.holds or args.int8 else 1
