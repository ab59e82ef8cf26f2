"""`flexicodec train`, `train-asr`, `train-tts` and `manifest`: train models, and prepare the speech for it.

`accelerate launch -m flexicodec.training`, `-m flexicodec.training.asr` and `-m flexicodec.training.tts` train on many
GPUs.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexicodec.cli.file_jobs import one_line
from flexicodec.cli.options import Verb

if TYPE_CHECKING:
    from flexicodec.corpus import Utterance

MOST_NAMED = 20  # clips that are named one by one where they cannot be read


def _config_arguments(example: str) -> Callable[[argparse.ArgumentParser], None]:
    """Make the function that adds a config and overrides such as `example`."""

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("config", help="YAML file; its base: names the file it builds on")
        parser.add_argument("overrides", nargs="*", metavar="key=value", help=f"e.g. {example}")
        parser.add_argument("--print-config", action="store_true", help="print the resolved config and do nothing")

    return add_arguments


def _print_config(config: Any) -> int:
    from flexicodec.config import dump_yaml, to_dict

    print(dump_yaml(to_dict(config)), end="")
    return 0


def train(args: argparse.Namespace) -> int:
    """Train a codec and print where the model is."""
    if args.print_config:
        from flexicodec.config import apply_overrides, from_dict, load_yaml
        from flexicodec.training.config import TrainingConfig

        return _print_config(from_dict(TrainingConfig, apply_overrides(load_yaml(args.config), args.overrides)))
    from flexicodec.training.__main__ import main

    main([args.config, *args.overrides])
    return 0


def train_asr(args: argparse.Namespace) -> int:
    """Train a recogniser and print where it is."""
    from flexicodec.training.asr import trainer as asr

    config = asr.read_config(args.config, args.overrides)
    if args.print_config:
        return _print_config(config)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(asr.train(config))
    return 0


def train_tts(args: argparse.Namespace) -> int:
    """Train text to speech and print where the model is."""
    from flexicodec.config import apply_overrides, from_dict, load_yaml
    from flexicodec.training.tts.config import SpeechTrainingConfig

    config = from_dict(SpeechTrainingConfig, apply_overrides(load_yaml(args.config), args.overrides))
    if args.print_config:
        return _print_config(config)
    from flexicodec.training.tts.trainer import train as train_speech

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(train_speech(config))
    return 0


def add_manifest_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `manifest`."""
    folder_help = (
        "Kaldi data directory, published corpus (docs/corpora.md has the list) or any folder of audio; or a list, "
        "lhotse cuts, Parquet, tars"
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help=folder_help)
    output_help = "JSONL manifest to write (default: FOLDER.jsonl)"
    parser.add_argument("-o", "--output", metavar="OUT", type=Path, help=output_help)
    parser.add_argument("--shards", metavar="DIR", type=Path, help="folder to write tar shards (WebDataset layout) to")
    clips_help = "clips per shard (default: %(default)s)"
    parser.add_argument("--clips-per-shard", type=int, metavar="N", default=500, help=clips_help)
    layout_help = "layout of the folder: kaldi, librispeech, ..., or plain (default: detected from its files)"
    parser.add_argument("--layout", metavar="NAME", default="auto", help=layout_help)
    alignments_help = "folder of TextGrids, as MFA writes it, where they do not lie beside the audio"
    parser.add_argument("--alignments", metavar="DIR", type=Path, help=alignments_help)
    parser.add_argument("--check", action="store_true", help="decode every clip, not only its header")


def manifest(args: argparse.Namespace) -> int:
    """List a folder, write manifest or shards, say what was found, and return 1 if something could not be read."""
    # Without an output, a manifest beside the folder.
    if args.output is None and args.shards is None:
        if not args.folder.is_dir():
            raise ValueError("say where to write: -o OUT.jsonl for a manifest, --shards DIR for tar shards")
        args.output = args.folder.with_name(f"{args.folder.resolve().name}.jsonl")
    from flexicodec.corpus import read_list, scan, write_manifest
    from flexicodec.corpus.lists.packed import extracted_folder, packed_files, unpack
    from flexicodec.training.data import write_shards

    # What there is: utterances of a list, of files with audio in them, or of a folder.
    is_packed = bool(packed_files(args.folder))
    if (is_packed or args.folder.is_file()) and (args.layout != "auto" or args.alignments is not None):
        raise ValueError(f"--layout and --alignments are for folders of audio files, and {args.folder} is none")
    if is_packed:
        if args.output is None:
            raise ValueError(f"say -o OUT.jsonl; the audio in {args.folder} is written to a folder beside it")
        listing = unpack(args.folder, extracted_folder(args.output), args.check)
    elif args.folder.is_file():
        listing = read_list(args.folder, args.check)
    else:
        listing = scan(args.folder, args.layout, args.check, args.alignments)
    skipped = list(listing.unreadable)
    if not listing.utterances:
        left_out = ", ".join(f"{count} {reason}" for reason, count in listing.left_out.items())
        first = f"the first: {skipped[0][0]}: {skipped[0][1]}" if skipped else f"left out: {left_out or 'nothing'}"
        raise ValueError(f"nothing in {args.folder} can be read; {first}")

    # What is written of it, and a summary.
    written = []
    if args.output is not None:
        write_manifest(args.output, listing.utterances)
        written.append(str(args.output))
    if args.shards is not None:
        shards = write_shards(listing.utterances, args.shards, args.clips_per_shard)
        skipped += [(str(utterance.path), reason) for utterance, reason in shards.unreadable]
        written.append(f"{len(shards.shards)} shards with {shards.clips} clips in {args.shards}")
    for name, reason in skipped[:MOST_NAMED]:
        print(f"flexicodec: skipped {name}: {one_line(ValueError(reason))}", file=sys.stderr)
    if len(skipped) > MOST_NAMED:
        print(f"flexicodec: skipped {len(skipped) - MOST_NAMED} more", file=sys.stderr)
    print(f"{' and '.join(written)}: {listing.layout}, {_describe(listing.utterances)}, {len(skipped)} skipped")
    for reason, count in listing.left_out.items():
        print(f"left out: {count} {reason}")
    for remark in listing.remarks:
        print(f"note: {remark}")
    return 1 if skipped else 0


def _describe(utterances: Sequence["Utterance"]) -> str:
    """Count clips, hours, speakers, texts and alignments."""
    known = {utterance.known_speaker for utterance in utterances} - {None}
    guessed = {utterance.speaker for utterance in utterances if utterance.speaker_guessed}
    parts = [f"{len(utterances)} clips", f"{sum(utterance.duration for utterance in utterances) / 3600:.2f} hours"]
    if known or not guessed:
        parts.append(f"{len(known)} speakers")
    if guessed:
        parts.append(f"{len(guessed)} guessed speakers")
    parts.append(f"{sum(utterance.text is not None for utterance in utterances)} with text")
    aligned = sum(utterance.alignment is not None for utterance in utterances)
    if aligned:
        parts.append(f"{aligned} with alignment")
    return ", ".join(parts)


TRAIN = Verb(
    "train or fine-tune a codec from a YAML config, or resume a run",
    _config_arguments("optim.learning_rate=1e-4 model.merging=null"),
    train,
)
TRAIN_ASR = Verb(
    "train a speech recogniser, which can be a codec's semantic encoder, from a YAML config, or resume a run",
    _config_arguments("data.batch_seconds=256 steps=40000"),
    train_asr,
)
TRAIN_TTS = Verb(
    "train text to speech on a codec's tokens from a YAML config, or resume a run",
    _config_arguments("data.manifest=[DIR/train.jsonl] steps=40000"),
    train_tts,
)
MANIFEST = Verb("list a folder of speech for training, or pack it into tar shards", add_manifest_arguments, manifest)
