"""`flexicodec manifest`: list a folder of speech for training, or pack it into tar shards."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flexicodec.cli.jobs import one_line

if TYPE_CHECKING:
    from flexicodec.corpus import Listing, Utterance

HELP = "list a folder of speech for training, or pack it into tar shards"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        type=Path,
        help="Kaldi data directory, LibriSpeech-like tree or any folder of audio; or a manifest (.jsonl, lhotse cuts "
        "too) to write anew or pack",
    )
    parser.add_argument(
        "-o", "--output", metavar="OUT", type=Path, help="JSONL manifest to write (default: FOLDER.jsonl)"
    )
    parser.add_argument("--shards", metavar="DIR", type=Path, help="folder to write tar shards (WebDataset layout) to")
    parser.add_argument(
        "--clips-per-shard", type=int, metavar="N", default=500, help="clips per shard (default: %(default)s)"
    )
    parser.add_argument(
        "--layout",
        choices=("auto", "kaldi", "librispeech", "plain"),
        default="auto",
        help="how the folder is laid out (default: told by its files)",
    )
    parser.add_argument("--check", action="store_true", help="decode every clip, not only its header")


def run(args: argparse.Namespace) -> int:
    """List, write, and return 1 if something could not be read."""
    if args.output is None and args.shards is None:
        if not args.folder.is_dir():
            raise ValueError("say where to write: -o OUT.jsonl for a manifest, --shards DIR for tar shards")
        args.output = args.folder.with_name(f"{args.folder.resolve().name}.jsonl")
    from flexicodec.corpus import write_manifest
    from flexicodec.training.data import write_shards

    listing = _listing(args)
    skipped = list(listing.unreadable)
    if not listing.utterances:
        raise ValueError(f"nothing in {args.folder} can be read; {_first(skipped)}")
    written = []
    if args.output is not None:
        write_manifest(args.output, listing.utterances)
        written.append(str(args.output))
    if args.shards is not None:
        shards = write_shards(listing.utterances, args.shards, args.clips_per_shard)
        skipped += [(str(utterance.path), reason) for utterance, reason in shards.unreadable]
        written.append(f"{len(shards.shards)} shards with {shards.clips} clips in {args.shards}")
    for name, reason in skipped:
        print(f"flexicodec: skipped {name}: {one_line(ValueError(reason))}", file=sys.stderr)
    print(f"{' and '.join(written)}: {listing.layout}, {_describe(listing.utterances)}, {len(skipped)} skipped")
    return 1 if skipped else 0


def _listing(args: argparse.Namespace) -> "Listing":
    from flexicodec.corpus import Listing, read_manifest, scan

    if args.folder.is_file():
        return Listing("manifest", read_manifest(args.folder), [])
    return scan(args.folder, args.layout, args.check)


def _describe(utterances: Sequence["Utterance"]) -> str:
    speakers = {utterance.speaker for utterance in utterances if utterance.speaker is not None}
    spoken = sum(utterance.text is not None for utterance in utterances)
    hours = sum(utterance.duration for utterance in utterances) / 3600
    return f"{len(utterances)} clips, {hours:.2f} hours, {len(speakers)} speakers, {spoken} with text"


def _first(skipped: Sequence[tuple[str, str]]) -> str:
    return f"the first: {skipped[0][0]}: {skipped[0][1]}" if skipped else "it lists nothing"
