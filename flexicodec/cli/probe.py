"""`flexicodec probe`: fit small networks to a frozen codec's tokens, and say what these can tell."""

import argparse
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flexicodec.cli import options

if TYPE_CHECKING:
    from flexicodec.evaluation.probes import Representation

HELP = "measure what a small network can read off a codec's frozen tokens: the text, the speaker, any label"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments, those of each kind of probe apart."""
    tasks = parser.add_subparsers(dest="task", metavar="asr|classify", required=True)
    asr = tasks.add_parser("asr", help="write down what is said: character and word errors of a CTC probe")
    asr.add_argument("train", metavar="TRAIN", help="manifest of clips with texts to fit the probe to")
    asr.add_argument("test", metavar="EVAL", help="manifest of clips with texts to test it on")
    classify = tasks.add_parser("classify", help="name a label: accuracy of linear probes on pooled vectors")
    classify.add_argument("train", metavar="TRAIN", help="manifest of clips to fit the probe to")
    classify.add_argument(
        "test",
        metavar="EVAL",
        nargs="?",
        help="manifest of clips to test it on; without it TRAIN gives both: every speaker on both sides if the label "
        "is the speaker, else other speakers to test",
    )
    classify.add_argument("--label", default="speaker", help="field of the manifests to name (default: %(default)s)")
    classify.add_argument(
        "--min-clips", type=int, default=10, metavar="N", help="leave out rarer labels of TRAIN (default: %(default)s)"
    )
    classify.add_argument("--max-clips", type=int, metavar="N", help="take so many clips of each label at most")
    for task in (asr, classify):
        _add_shared(task)


def _add_shared(parser: argparse.ArgumentParser) -> None:
    rate = parser.add_mutually_exclusive_group()
    rate.add_argument("--frame-rate", type=float, nargs="+", metavar="HZ", help="tokens per second, a probe each")
    rate.add_argument("--threshold", type=float, nargs="+", metavar="TAU", help="merging thresholds, a probe each")
    parser.add_argument(
        "--policy", choices=("rate", "uniform", "variance"), help="how to spend --frame-rate (default: rate)"
    )
    options.add_codebooks(parser)
    parser.add_argument(
        "--bound",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also probe the encoders' features before merging and quantising (default: yes)",
    )
    parser.add_argument("--train-hours", type=float, metavar="H", help="draw so much of TRAIN (default: all)")
    parser.add_argument("--config", metavar="FILE", help="YAML file with sizes and settings of the probe")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="key=value", help="change settings: --set dim=256 fit.epochs=10"
    )
    parser.add_argument("--cache", metavar="DIR", help="where vectors are kept (default: OUT/cache)")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="folder for results.json and clips.jsonl")
    options.add_model(parser)


def run(args: argparse.Namespace) -> int:
    """Fit the probes, print a line for each, and return the exit code."""
    from flexicodec.config import apply_overrides, from_dict, load_yaml
    from flexicodec.evaluation import probes

    kind: Any = probes.ASRProbeConfig if args.task == "asr" else probes.ClassifyProbeConfig
    config = from_dict(kind, apply_overrides(load_yaml(args.config) if args.config else {}, args.set))
    codec = options.load_codec(args)
    read: Any = _asr if args.task == "asr" else _classify
    probe: Any = probes.probe_asr if args.task == "asr" else probes.probe_classify
    results = probe(
        codec,
        *read(args, config.fit.seed),
        representations(args),
        config,
        cache=args.cache or f"{args.output}/cache",
        progress=sys.stderr.isatty(),
    )
    probes.write_results(args.output, codec, results, config)
    for result in results:
        print(_line(args.task, result))
    return 0


def representations(args: argparse.Namespace) -> list["Representation"]:
    """List what is to be probed, the bound first."""
    from flexicodec.evaluation.probes import Representation

    plain = Representation(policy=args.policy, codebooks=args.codebooks)
    rated = [replace(plain, frame_rate=rate) for rate in args.frame_rate or ()]
    rated += [replace(plain, threshold=threshold) for threshold in args.threshold or ()]
    bound = [Representation(codebooks=args.codebooks, continuous=True)] if args.bound else []
    return bound + (rated or [plain])


def _asr(args: argparse.Namespace, seed: int) -> tuple[Any, ...]:
    """Read the manifests."""
    from flexicodec.corpus import read_manifest
    from flexicodec.evaluation.probes import draw_hours

    train = read_manifest(args.train)
    drawn = draw_hours([utterance.duration for utterance in train], args.train_hours, seed)
    return [train[i] for i in drawn], read_manifest(args.test)


def _classify(args: argparse.Namespace, seed: int) -> tuple[Any, ...]:
    """Read the manifests and their labels, or share out one manifest."""
    from flexicodec.corpus import read_field, read_manifest
    from flexicodec.evaluation.probes import choose_clips, draw_hours, split_clips

    clips, labels = read_manifest(args.train), read_field(args.train, args.label)
    drawn = draw_hours([clip.duration for clip in clips], args.train_hours, seed)
    kept = choose_clips([labels[i] for i in drawn], args.min_clips, args.max_clips, seed)
    clips, labels = [clips[drawn[i]] for i in kept], [labels[drawn[i]] for i in kept]
    if args.test is not None:
        return clips, labels, read_manifest(args.test), read_field(args.test, args.label)
    speakers = None if args.label == "speaker" else [clip.speaker for clip in clips]
    sides = split_clips(labels, speakers, seed=seed)
    return tuple([each[i] for i in side] for side in sides for each in (clips, labels))


def _line(task: str, result: Any) -> str:
    """Say in a line what came out."""
    name = f"{result.representation!s:<14} {result.frame_rate:6.2f} Hz"
    if task == "asr":
        return f"{name}  CER {result.cer}  WER {result.wer}"
    return (
        f"{name}  {result.pooling:<9}  accuracy {result.accuracy}  balanced {result.balanced}  "
        f"chance {result.chance:.3f}, {result.classes} labels"
    )
