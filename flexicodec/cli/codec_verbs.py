"""`flexicodec encode`, `decode`, `reconstruct`, `calibrate` and `export`: what a codec does to files."""

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import flexicodec
from flexicodec.cli import file_jobs, options, streaming
from flexicodec.cli.options import Verb
from flexicodec.io_utils import AUDIO_SUFFIXES

if TYPE_CHECKING:
    from flexicodec import Tokens
    from flexicodec.models.batch_encode import FileResult

CHECKED_SECONDS = 5  # of audio, when an exported model is compared with the original
AUDIO_OUTPUT = "an audio file (.wav, .flac, ...)"


def add_encode_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `encode`."""
    file_jobs.add_file_arguments(parser, inputs="audio files", output="a .flxc file", optional=True)
    options.add_rate(parser)
    options.add_precision(parser)
    options.add_model(parser)
    batch_help = "audio per batch; 0 takes files one by one (default: 640 on a GPU, else 0, which is no slower)"
    parser.add_argument("--batch-seconds", type=float, metavar="S", help=batch_help)
    workers_help = "threads that read files ahead, 0 for none (default: up to 8 on a GPU, else 0)"
    parser.add_argument("--workers", type=int, metavar="N", help=workers_help)
    streaming.add_encode_arguments(parser)


def encode(args: argparse.Namespace) -> int:
    """Encode every input, or stdin, and return the exit code."""
    if args.stream:
        _check_stream_precision(args)
        return streaming.encode(args)
    _refuse_stream_options(args, "chunk_frames", "encoded")
    # Files are planned before the model is loaded, and the rate is tried before the first file is read.
    planned = file_jobs.plan(args.inputs, args.output, AUDIO_SUFFIXES, file_jobs.TOKEN_SUFFIXES)
    codec = options.load_codec(args, "encode")
    rate = options.chosen_rate(args, codec)

    from flexicodec.models.batch_encode import encode_files

    results = encode_files(
        codec,
        [source for source, _ in planned],
        in_order=False,
        batch_seconds=args.batch_seconds,
        workers=args.workers,
        precision=args.precision,
        **rate,
    )
    outcomes = ((planned[each.index], file_jobs.attempt(planned[each.index], partial(_save, each))) for each in results)
    return file_jobs.report(len(planned), outcomes, args.inputs)


def _save(encoded: "FileResult", _: Path, target: Path) -> "Tokens":
    tokens = encoded.result()
    tokens.save(target)
    return tokens


def add_decode_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `decode`."""
    file_jobs.add_file_arguments(parser, inputs=".flxc files", output=AUDIO_OUTPUT, optional=True)
    options.add_codebooks(parser)
    options.add_precision(parser)
    options.add_model(parser)
    streaming.add_decode_arguments(parser)


def decode(args: argparse.Namespace) -> int:
    """Decode every input, or stdin, and return the exit code; a file of another model is skipped."""
    if args.stream:
        _check_stream_precision(args)
        return streaming.decode(args)
    _refuse_stream_options(args, "chunk_tokens", "decoded")
    planned = file_jobs.plan(args.inputs, args.output, file_jobs.TOKEN_SUFFIXES, file_jobs.WRITABLE_SUFFIXES)
    codec = options.load_codec(args, "decode")

    def decode_file(source: Path, target: Path) -> "Tokens":
        tokens = flexicodec.Tokens.load(source, acoustic=args.codebooks)
        flexicodec.write_audio(target, codec.decode(tokens, precision=args.precision), codec.output_sample_rate)
        return tokens

    return file_jobs.run_jobs(planned, decode_file)


def _refuse_stream_options(args: argparse.Namespace, chunk: str, done: str) -> None:
    if args.lookahead is not None or getattr(args, chunk) is not None:
        raise ValueError(f"--lookahead and --{chunk.replace('_', '-')} are for --stream; files are {done} whole")


def _check_stream_precision(args: argparse.Namespace) -> None:
    if args.precision != "float32":
        raise ValueError("--precision is for files; streams are computed in float32")


def add_reconstruct_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `reconstruct`."""
    file_jobs.add_file_arguments(parser, inputs="audio files", output=AUDIO_OUTPUT)
    options.add_rate(parser)
    options.add_precision(parser)
    options.add_model(parser)


def reconstruct(args: argparse.Namespace) -> int:
    """Encode and decode every input and return the exit code."""
    planned = file_jobs.plan(args.inputs, args.output, AUDIO_SUFFIXES, file_jobs.WRITABLE_SUFFIXES)
    codec = options.load_codec(args)
    rate = options.chosen_rate(args, codec)

    def reconstruct_file(source: Path, target: Path) -> "Tokens":
        audio = flexicodec.read_audio(source, sample_rate=codec.sample_rate, channels="mix")
        tokens = codec.encode(audio, **rate, precision=args.precision)
        flexicodec.write_audio(target, codec.decode(tokens, precision=args.precision), codec.output_sample_rate)
        return tokens

    return file_jobs.run_jobs(planned, reconstruct_file, args.inputs)


def add_calibrate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `calibrate`."""
    parser.add_argument("inputs", nargs="+", metavar="FOLDER", help="folders of speech, audio files or manifests")
    parser.add_argument("--frame-rate", required=True, type=float, metavar="HZ", help="tokens per second on average")
    policy_help = "rule whose threshold, or else price, is found (docs/merging.md; default: threshold)"
    parser.add_argument("--policy", metavar="NAME[:SETTING=VALUE,...]", help=policy_help)
    options.add_model(parser)


def calibrate(args: argparse.Namespace) -> int:
    """Print the threshold and the frame rate it gives, and return the exit code."""
    codec = options.load_codec(args)
    chosen = {} if args.policy is None else {"policy": args.policy}
    found = flexicodec.calibrate(codec, args.inputs, args.frame_rate, progress=sys.stderr.isatty(), **chosen)
    for file_and_reason in found.skipped:
        print(f"flexicodec: skipped {file_and_reason}", file=sys.stderr)
    print(f"threshold {found.threshold:.6g}" if args.policy is None else f"policy {found.policy}")
    print(f"frame rate {found.mean:.3f} Hz, standard deviation {found.std:.3f} Hz over {found.n} clips")
    return 1 if found.skipped else 0


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `export`."""
    parser.add_argument("model", metavar="MODEL", help=options.MODEL_HELP)
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="where to write the graphs")
    int8_help = "transformer blocks in 8 bits: smaller and faster, some codes change"
    parser.add_argument("--int8", action="store_true", help=int8_help)
    parser.add_argument("--check", metavar="FILE", help="recording to compare with (default: the example that ships)")
    options.add_placement(parser)


def export(args: argparse.Namespace) -> int:
    """Export, print how far the graphs agree with the model, and return 1 if they do not and should."""
    from flexicodec.export.compare import compare
    from flexicodec.export.onnx import export as export_onnx
    from flexicodec.export.runtime import load_exported

    codec = options.load_codec(args).cpu()
    print("flexicodec: exporting, which takes a minute or two", file=sys.stderr)
    start = time.perf_counter()
    folder = export_onnx(codec, args.output, int8=args.int8)
    print(f"flexicodec: exported in {time.perf_counter() - start:.0f} s; comparing with the model", file=sys.stderr)
    for file in sorted(folder.iterdir()):
        print(f"{file.name:28} {file.stat().st_size / 2**20:8.2f} MiB")
    recording = args.check or str(flexicodec.EXAMPLE)
    audio = flexicodec.read_audio(recording, sample_rate=codec.sample_rate, channels="mix")
    # 8 bits change codes, so that the comparison decides about success only without.
    found = compare(codec, load_exported(folder), audio[:, : CHECKED_SECONDS * codec.sample_rate])
    print(f"against the model, on {recording}: {found}")
    return 0 if found.holds or args.int8 else 1


ENCODE = Verb(
    "encode recordings to token files (.flxc), or a stream of samples to tokens", add_encode_arguments, encode
)
DECODE = Verb("decode token files (.flxc), or a stream of tokens, to audio", add_decode_arguments, decode)
RECONSTRUCT = Verb("encode and decode recordings, to compare them", add_reconstruct_arguments, reconstruct)
CALIBRATE = Verb(
    "find the threshold that gives a folder of speech a frame rate on average", add_calibrate_arguments, calibrate
)
EXPORT = Verb("write a model as ONNX graphs for onnxruntime", add_export_arguments, export)
