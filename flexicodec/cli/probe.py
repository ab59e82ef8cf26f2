"""`flexicodec probe`: fit small networks to a frozen codec's token vectors and print their error rates or accuracy."""

import argparse
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flexicodec.cli import options

if TYPE_CHECKING:
    from flexicodec.evaluation.probes import Representation

HELP = "measure what a small network can read off a codec's frozen tokens: the text, the speaker, any label"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments, by kind of probe."""
    tasks = parser.add_subparsers(dest="task", metavar="asr|classify", required=True)
    asr = tasks.add_parser("asr", help="transcribe: character and word error rates of a CTC probe")
    asr.add_argument("train", metavar="TRAIN", help="manifest of clips with texts to fit the probe to")
    asr.add_argument("test", metavar="EVAL", help="manifest of clips with texts to test it on")
    classify = tasks.add_parser("classify", help="predict a label: accuracy of a linear probe on mean vectors")
    classify.add_argument("train", metavar="TRAIN", help="manifest of clips to fit the probe to")
    classify.add_argument(
        "test",
        metavar="EVAL",
        nargs="?",
        help="manifest of clips to test it on; without it TRAIN is split: every speaker on both sides if the label is "
        "the speaker, else other speakers to test",
    )
    classify.add_argument("--label", default="speaker", help="field of the manifests to predict (default: %(default)s)")
    classify.add_argument(
        "--min-clips", type=int, default=10, metavar="N", help="leave out rarer labels of TRAIN (default: %(default)s)"
    )
    classify.add_argument("--max-clips", type=int, metavar="N", help="use at most this many clips of each label")
    for task in (asr, classify):
        _add_shared(task)


def _add_shared(parser: argparse.ArgumentParser) -> None:
    rate = parser.add_mutually_exclusive_group()
    rate.add_argument("--frame-rate", type=float, nargs="+", metavar="HZ", help="tokens per second, a probe each")
    rate.add_argument("--threshold", type=float, nargs="+", metavar="TAU", help="merging thresholds, a probe each")
    parser.add_argument("--policy", metavar="NAME[:SETTING=VALUE,...]", help=options.POLICY_HELP)
    options.add_codebooks(parser)
    parser.add_argument(
        "--bound",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also probe the encoders' features before merging and quantising (default: yes)",
    )
    parser.add_argument("--train-hours", type=float, metavar="H", help="sample this much of TRAIN (default: all)")
    parser.add_argument("--config", metavar="FILE", help="YAML file with sizes and settings of the probe")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="key=value", help="change settings: asr --set dim=256 fit.epochs=10"
    )
    parser.add_argument("--cache", metavar="DIR", help="folder for cached vectors (default: OUT/cache)")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="folder for results.json and clips.jsonl")
    options.add_model(parser)


def run(args: argparse.Namespace) -> int:
    """Fit the probes, print a line for each, and return the exit code."""
    from flexicodec.config import apply_overrides, from_dict, load_yaml
    from flexicodec.evaluation import probes

    # Settings first: a slip in them should not wait for the model.
    settings = apply_overrides(load_yaml(args.config) if args.config else {}, args.set)
    shared: Any = {"cache": args.cache or f"{args.output}/cache", "progress": sys.stderr.isatty()}
    wanted = representations(args)
    config: Any
    results: Any
    if args.task == "asr":
        config = from_dict(probes.ASRProbeConfig, settings)
        codec = options.load_codec(args)
        train, test = _clips(args, config.fit.seed)
        results = probes.probe_asr(codec, train, test, wanted, config, **shared)
    else:
        config = from_dict(probes.ClassifyProbeConfig, settings)
        codec = options.load_codec(args)
        train, labels, test, test_labels = _labelled_clips(args, config.seed)
        results = probes.probe_classify(codec, train, labels, test, test_labels, wanted, config, **shared)
    probes.write_results(args.output, codec, results, config)
    # A line per representation, the name padded so that columns align.
    for result in results:
        line = f"{result.representation!s:<14} {result.frame_rate:6.2f} Hz"
        if args.task == "asr":
            print(f"{line}  CER {result.cer}  WER {result.wer}")
        else:
            print(
                f"{line}  accuracy {result.accuracy}  balanced {result.balanced}  chance {result.chance:.3f}, "
                f"{result.classes} labels"
            )
    return 0


def representations(args: argparse.Namespace) -> list["Representation"]:
    """List the representations to probe, the bound first."""
    from flexicodec.evaluation.probes import Representation

    # One per rate, or the model's own rate; the bound takes no rate.
    plain = Representation(policy=args.policy, codebooks=args.codebooks)
    found = [replace(plain, frame_rate=rate) for rate in args.frame_rate or ()]
    found += [replace(plain, threshold=threshold) for threshold in args.threshold or ()]
    if not found:
        found = [plain]
    if args.bound:
        found.insert(0, Representation(codebooks=args.codebooks, continuous=True))
    return found


def _clips(args: argparse.Namespace, seed: int) -> Any:
    """Read training and test clips."""
    from flexicodec.corpus import read_manifest
    from flexicodec.evaluation.probes import sample_hours

    train = read_manifest(args.train)
    sampled = sample_hours([utterance.duration for utterance in train], args.train_hours, seed)
    return [train[i] for i in sampled], read_manifest(args.test)


def _labelled_clips(args: argparse.Namespace, seed: int) -> Any:
    """Read training clips and labels, and test clips and labels, or split one manifest into both."""
    from flexicodec.corpus import read_field, read_manifest
    from flexicodec.evaluation.probes import choose_clips, sample_hours, split_clips

    clips = read_manifest(args.train)
    labels = read_field(args.train, args.label)
    guessed = sum(clip.speaker_guessed for clip in clips)
    if guessed:
        print(
            f"flexicodec: the speakers of {guessed} clips of {args.train} are guesses from folder names",
            file=sys.stderr,
        )
    # First hours, then labels: indices into the sample, and from there into the manifest.
    sampled = sample_hours([clip.duration for clip in clips], args.train_hours, seed)
    chosen = choose_clips([labels[i] for i in sampled], args.min_clips, args.max_clips, seed)
    clips = [clips[sampled[i]] for i in chosen]
    labels = [labels[sampled[i]] for i in chosen]
    if args.test is not None:
        return clips, labels, read_manifest(args.test), read_field(args.test, args.label)
    # Speakers have to be on both sides to be recognised; for other labels they must not be.
    speakers = None if args.label == "speaker" else [clip.speaker for clip in clips]
    train, test = split_clips(labels, speakers, seed)
    return [clips[i] for i in train], [labels[i] for i in train], [clips[i] for i in test], [labels[i] for i in test]
