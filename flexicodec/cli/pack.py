"""`flexicodec pack`: tokens of corpora to flat arrays for training."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from flexicodec.io_utils import describe_missing

if TYPE_CHECKING:
    from flexicodec.lm.packing import Tokenizer

HELP = "pack tokens of one rate, made by `tokenize`, for training language models"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("folders", nargs="+", metavar="TOKENS", help="folders that `tokenize` made, of one codec")
    output_help = "folder to write; what it holds of the same corpora is kept, and extended where they grew"
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help=output_help)
    rate_help = "tokens per second, or the name of a subfolder such as threshold-0.582 (default: the only one)"
    parser.add_argument("--frame-rate", metavar="HZ", help=rate_help)
    codebooks_help = "acoustic codebooks to keep, 0 for semantic codes only (default: all)"
    parser.add_argument("--codebooks", type=int, metavar="K", help=codebooks_help)
    tokenizer_help = "tokenizer.json, or folder with one, that gives the ids of texts (default: no texts)"
    parser.add_argument("--tokenizer", metavar="FILE", help=tokenizer_help)
    base_help = (
        "size of the text vocabulary, the rows of the model's embedding table (default: the tokenizer's ids, or 0)"
    )
    parser.add_argument("--base", type=int, metavar="N", help=base_help)


def run(args: argparse.Namespace) -> int:
    """Pack, print what there is, and return the exit code."""
    from flexicodec.lm.packing import pack

    tokenizer, size = (None, 0) if args.tokenizer is None else load_tokenizer(args.tokenizer)
    base = size if args.base is None else args.base
    packed = pack(
        args.folders, args.output, _rate(args.frame_rate), num_codebooks=args.codebooks, base=base, tokenizer=tokenizer
    )
    counts = packed.record
    form = packed.vocabulary.format
    hours = counts["samples"] / form.sample_rate / 3600
    print(
        f"{packed.folder}: {counts['clips']} clips, {hours:.2f} hours, {counts['tokens']} tokens "
        f"({counts['tokens'] / hours / 3600:.2f} Hz), {packed.vocabulary.num_codebooks} acoustic codebooks, "
        f"vocabulary of {packed.vocabulary.size} ids"
    )
    if tokenizer is not None:
        print(f"{counts['clips_without_text']} clips without text")
    return 0


def _rate(given: str | None) -> float | str | None:
    """Read a number, or leave the name of a subfolder as it is."""
    try:
        return None if given is None else float(given)
    except ValueError:
        return given


def load_tokenizer(name: str) -> "tuple[Tokenizer, int]":
    """Load a tokenizer.json; return what gives the ids of texts, without special ids, and how many ids it has."""
    from tokenizers import Tokenizer as Loaded

    path = Path(name)
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"{describe_missing(file)}; expected a tokenizer.json of the tokenizers library")
    try:
        loaded = Loaded.from_file(str(file))
    except Exception as error:  # what `tokenizers` raises is a plain Exception
        raise ValueError(f"{file} is no tokenizer.json: {error}") from error
    # A file may hold the truncation and padding of its last use, which would be applied here.
    loaded.no_truncation()
    loaded.no_padding()

    def ids(texts: list[str]) -> list[list[int]]:
        return [each.ids for each in loaded.encode_batch(texts, add_special_tokens=False)]

    return ids, max(loaded.get_vocab(with_added_tokens=True).values()) + 1
