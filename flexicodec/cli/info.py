"""`flexicodec info`: contents of a token file or of a folder of tokens, or parts and config of a model."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import flexicodec
from flexicodec.cli import file_jobs, options
from flexicodec.cli.printing import Row, describe_load, describe_model, print_rows
from flexicodec.io_utils import AUDIO_SUFFIXES

if TYPE_CHECKING:
    from flexicodec import Codec, Tokens

HELP = "show what a token file, a folder of tokens or a model holds; write tokens' times, or clips of a folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "model", metavar="WHAT", help="a .flxc or .nemo file, a folder of tokens, or name, folder or hub id of a model"
    )
    parser.add_argument("--textgrid", metavar="OUT", type=Path, help="write the tokens' times as a TextGrid, for Praat")
    parser.add_argument("--ctm", metavar="OUT", type=Path, help="write them as CTM: file 1 start duration frames:code")
    parser.add_argument("--extract", metavar="DIR", type=Path, help="write clips of a folder of tokens as .flxc files")
    parser.add_argument("--choice", metavar="NAME", help="which of its rates: 6.25hz, or what its folder is called")
    parser.add_argument("--id", nargs="+", metavar="ID", help="only these clips")
    options.add_placement(parser)


def run(args: argparse.Namespace) -> int:
    """Print a token file or a model and return the exit code."""
    path = Path(args.model)
    if (path / "dataset.json").is_file():
        return show_folder(args, path)
    if args.extract or args.choice or args.id:
        raise ValueError(f"--extract, --choice and --id are for folders that `tokenize` made; {path} is none")
    if path.suffix.lower() in file_jobs.TOKEN_SUFFIXES:
        tokens = flexicodec.Tokens.load(path)
        print_rows(describe_file(path, tokens))
        write_times(args, path, tokens)
        return 0
    if args.textgrid or args.ctm:
        raise ValueError(f"--textgrid and --ctm need a .flxc file, whose tokens they write; {path} is none")
    if path.is_file() and path.suffix.lower() in AUDIO_SUFFIXES:
        raise ValueError(f"{path} is a recording; info shows .flxc files and models")
    print_model(args.model, options.load_codec(args))
    return 0


def write_times(args: argparse.Namespace, path: Path, tokens: "Tokens") -> None:
    """Write the tokens' times to the files asked for."""
    from flexicodec.analysis.token_timeline import save_ctm, save_textgrid

    if args.textgrid:
        save_textgrid(tokens, args.textgrid)
    if args.ctm:
        save_ctm(tokens, args.ctm, "_".join(unquote(path.stem).split()))  # `evaluate` quotes ids for its files


def describe_file(path: Path, tokens: "Tokens") -> list[Row]:
    """List a token file's header, sizes and rates."""
    form = tokens.format
    size = path.stat().st_size
    seconds = float(tokens.seconds[0])
    samples = "unknown" if tokens.audio_lengths is None else int(tokens.audio_lengths[0])
    durations = f"1 to {form.max_duration} frames"
    if form.max_duration is None:
        durations = "any number of frames"
    elif form.max_duration == 1:
        durations = "one frame each"
    return [
        ("file", f"{path}, {size} bytes, {8 * size / seconds / 1000:.3f} kbps with its header"),
        ("seconds", f"{seconds:.3f}"),
        ("samples", f"{samples} at {form.sample_rate} Hz"),
        ("frames", f"{int(tokens.frame_lengths[0])} at {form.base_frame_rate:g} Hz ({form.frame_size} samples each)"),
        ("tokens", f"{int(tokens.token_lengths[0])}, of {durations}"),
        ("frame rate", f"{float(tokens.frame_rates[0]):.3f} Hz"),
        ("bitrate", f"{float(tokens.bitrates_kbps[0]):.3f} kbps of codes and durations"),
        ("semantic", "none" if form.semantic_codebook_size is None else f"{form.semantic_codebook_size} codes"),
        ("acoustic", f"{tokens.num_codebooks} codebooks of {form.acoustic_codebook_size} codes"),
        ("model", form.model or "not named"),
        ("fingerprint", form.fingerprint or "unknown"),
        ("made with", ", ".join(f"{name} {value}" for name, value in tokens.info.items()) or "not noted"),
    ]


def show_folder(args: argparse.Namespace, path: Path) -> int:
    """Print what a folder of tokens holds, or write its clips to files."""
    from flexicodec.corpus import TokenDataset
    from flexicodec.token_corpus.exports import extract
    from flexicodec.token_corpus.summary import describe, summarize

    if args.textgrid or args.ctm:
        raise ValueError(f"--textgrid and --ctm need a .flxc file; --extract writes those of {path}")
    if args.extract:
        print(f"{extract(path, args.extract, args.choice, args.id)} files written")
        return 0
    dataset = TokenDataset.open(path)
    found = summarize(dataset)
    print_rows(describe(dataset, found))
    for name, reason, message in found.bad:
        print(f"bad  {name}: {reason}: {message}")
    return 0


def decoder_context(codec: "Codec") -> Row:
    """Say on how much of a clip decoded audio depends: what chunks have to repeat, and streams wait for."""
    try:
        stream = codec.streaming_decoder()
    except NotImplementedError:  # a family of somebody else's
        return "context", "not known"
    before = codec.decoder_context_frames
    if before is None:
        return "context", "the whole clip, in decoding"
    tokens = f", {stream.lookahead_tokens} tokens" if stream.lookahead_tokens else ""
    return "context", f"decoding needs {before} frames before{tokens} and {stream.lookahead_frames} frames after"


def print_model(name: str, codec: "Codec") -> None:
    """Print a model's identity, the size of its parts, and its config as the YAML it can be built from."""
    from flexicodec.config import dump_yaml
    from flexicodec.hub import parameter_counts

    # Sizes of the parts below the total, which `describe_model` lists.
    parts = [(f"  {part}", f"{count:,}") for part, count in parameter_counts(codec).items() if part != "total"]
    report = getattr(codec, "load_report", None)
    loaded = [] if report is None else describe_load(report)
    print_rows([*describe_model(name, codec), decoder_context(codec), *parts, *loaded])
    print("config")
    text = dump_yaml(codec.config_dict(), width=100, flow=None)
    print("".join(f"  {line}\n" for line in text.splitlines()), end="")
