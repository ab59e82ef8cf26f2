"""`flexicodec evaluate`: codecs on a manifest, measured clip by clip, with intervals, a report and plots."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexicodec.cli import options
from flexicodec.io_utils import describe_missing

if TYPE_CHECKING:
    from flexicodec.corpus import Utterance
    from flexicodec.evaluation.metrics.suite import MetricConfig
    from flexicodec.evaluation.paper_protocol import PaperList
    from flexicodec.evaluation.run import EvaluationConfig, Results
    from flexicodec.evaluation.systems import Sweep

HELP = "measure codecs on a manifest: quality, intelligibility and rate, with intervals and plots"
NONE = "none"
ALL = "all"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("manifest", metavar="MANIFEST", help="JSONL manifest; with --protocol paper also a folder")
    folder = "folder for rows and report; a run goes on"
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="RESULTS", help=folder)
    models = (
        "name, folder, .nemo file or hub id; transformers:FOLDER for its EnCodec, DAC, Mimi and X-Codec; may be given "
        "several times (default: flexicodec-mini)"
    )
    parser.add_argument("--model", action="append", metavar="[NAME=]MODEL", help=models)
    options.add_placement(parser)
    rates = parser.add_argument_group("operating points, all combinations that a model has")
    rates.add_argument("--frame-rate", nargs="+", type=float, metavar="HZ", help="tokens per second of every clip")
    rates.add_argument("--threshold", nargs="+", type=float, metavar="TAU", help="merging thresholds")
    rates.add_argument("--policy", nargs="+", metavar="NAME", help=f"{options.POLICY_HELP}; several are compared")
    codebooks = "acoustic codebooks: 0 for semantic codes only, or all (default)"
    rates.add_argument("--codebooks", nargs="+", metavar="K", help=codebooks)
    measured = parser.add_argument_group(f"what is measured ({NONE} leaves a kind out)")
    measured.add_argument("--metrics", nargs="+", metavar="NAME", help="signal metrics (default: all)")
    recognisers = "recognisers (default: moonshine, English only; without the extra instruments recognizer-mini)"
    measured.add_argument("--transcriber", nargs="+", metavar="SPEC", help=recognisers)
    measured.add_argument("--normaliser", metavar="NAME", help="normaliser of texts (default: english, or basic)")
    measured.add_argument("--language", metavar="CODE", help="language of the recognisers, or all (default: en)")
    measured.add_argument("--speaker-encoder", nargs="+", metavar="SPEC", help="for speaker similarity (default: ge2e)")
    measured.add_argument(
        "--mos",
        nargs="+",
        metavar="SPEC",
        help="predictors of opinion scores (default: distillmos, and dnsmos where it is installed)",
    )
    perturbed = "also measure how much tokens change: noise:20db gain:-6db codec:opus16 shift:40ms"
    measured.add_argument("--perturb", nargs="+", default=[], metavar="KIND:VALUE", help=perturbed)
    measured.add_argument("--protocol", choices=("paper",), help="the FlexiCodec paper's list, settings and metrics")
    work = parser.add_argument_group("how")
    limit = "measure N clips, spread over the manifest; a higher N goes on from a lower"
    work.add_argument("--limit", type=int, metavar="N", help=limit)
    work.add_argument("--processes", type=int, default=1, metavar="N", help="side by side (default: %(default)s)")
    seconds = "audio in a batch (default: %(default)g)"
    work.add_argument("--batch-seconds", type=float, default=60.0, metavar="S", help=seconds)
    work.add_argument("--resamples", type=int, default=10_000, metavar="N", help="for intervals (default: %(default)s)")
    work.add_argument("--parquet", action="store_true", help="write the rows as rows.parquet too (needs pyarrow)")
    tokens = "keep every clip's tokens (.flxc) and report the rate of an entropy coder"
    work.add_argument("--tokens", action="store_true", help=tokens)


def run(args: argparse.Namespace) -> int:
    """Measure, report, and return 1 if a clip failed."""
    if args.parquet:
        import pyarrow  # noqa: F401  (before the work, not after it)
    from flexicodec.evaluation.paper_protocol import comparison
    from flexicodec.evaluation.report import REPORT_NAME, notes, terminal_table, write_report
    from flexicodec.evaluation.results_store import PARQUET_NAME, write_parquet
    from flexicodec.evaluation.run import evaluate_corpus
    from flexicodec.statistics import check_resamples

    check_resamples(args.resamples)
    config = _config(args)
    utterances, paper_clips = _clips(args)
    models = args.model or ["flexicodec-mini"]
    results = evaluate_corpus(utterances, models, args.output, config, progress=sys.stderr.isatty())
    for note in results.notes:
        print(f"flexicodec: {note}", file=sys.stderr)
    if len(results.failed) == len(results.rows):  # nothing to report
        _report_failures(results)
        return 1
    # The report goes into the folder, its main table to the terminal.
    if args.parquet:
        write_parquet(args.output / PARQUET_NAME, results.rows)
    more = None if paper_clips is None else (lambda summary: comparison(summary, paper_clips))
    summary = write_report(args.output, args.resamples, more)
    parts = [terminal_table(summary), notes(summary), more(summary) if more else ""]
    print("\n\n".join(part for part in parts if part))
    print(f"\n{args.output / REPORT_NAME}: {results.measured} rows measured, {len(results.rows)} in all")
    if results.seconds:
        spent = ", ".join(f"{name} {seconds:.1f}" for name, seconds in results.seconds.items())
        print(f"seconds per instrument, over all processes: {spent}")
    return _report_failures(results)


def _clips(args: argparse.Namespace) -> "tuple[list[Utterance], PaperList | None]":
    """Read the clips, and choose among them."""
    from flexicodec.corpus import read_manifest
    from flexicodec.evaluation.paper_protocol import paper_list

    paper_clips = paper_list(args.manifest) if args.protocol else None
    utterances = paper_clips.utterances if paper_clips else read_manifest(args.manifest)
    if args.limit is not None and args.limit < 1:
        raise ValueError(f"--limit is {args.limit}; expected 1 or more")
    chosen = [utterances[index] for index in spread(len(utterances), args.limit)]
    if not any(utterance.path.exists() for utterance in chosen):
        raise ValueError(
            f"none of the {len(chosen)} recordings of {args.manifest} is there; the first: "
            f"{describe_missing(chosen[0].path)}; paths in a manifest are relative to its folder"
        )
    if paper_clips is not None:
        paper_clips = replace(paper_clips, utterances=chosen)
    return chosen, paper_clips


def spread(count: int, limit: int | None) -> list[int]:
    """Choose indices spread over a list, in van der Corput's order: a higher limit keeps those of a lower one."""
    bits = max(1, (count - 1).bit_length())
    order = (int(f"{index:0{bits}b}"[::-1], 2) for index in range(2**bits))
    return sorted([index for index in order if index < count][:limit])


def _config(args: argparse.Namespace) -> "EvaluationConfig":
    from flexicodec.evaluation.run import EvaluationConfig

    return EvaluationConfig(
        measures=_metrics(args),
        sweep=_sweep(args),
        batch_seconds=args.batch_seconds,
        processes=args.processes,
        device=args.device,
        sensevoice=args.sensevoice,
        perturbations=tuple(dict.fromkeys(args.perturb)),
        keep_tokens=args.tokens,
    )


def _sweep(args: argparse.Namespace) -> "Sweep":
    from flexicodec.evaluation import paper_protocol
    from flexicodec.evaluation.systems import Sweep

    if args.protocol:
        if args.frame_rate or args.threshold or args.policy or args.codebooks:
            raise ValueError(
                "--protocol paper has its own thresholds and codebooks; leave --frame-rate, --threshold, "
                "--policy and --codebooks out"
            )
        return paper_protocol.SWEEP
    try:
        codebooks = tuple(None if count == ALL else int(count) for count in args.codebooks or [ALL])
    except ValueError as error:
        raise ValueError(f"--codebooks is {' '.join(args.codebooks)}; expected whole numbers, or {ALL}") from error
    return Sweep(
        frame_rates=tuple(args.frame_rate or ()),
        thresholds=tuple(args.threshold or ()),
        policies=tuple(args.policy or (None,)),
        codebooks=codebooks,
    )


def _metrics(args: argparse.Namespace) -> "MetricConfig":
    """Change the default metrics, or the paper's, by the options that were given."""
    from flexicodec.asr.text import primary_language
    from flexicodec.evaluation import paper_protocol
    from flexicodec.evaluation.metrics.suite import MetricConfig, default_measures

    changed: dict[str, Any] = {}
    given = {
        "metrics": args.metrics,
        "transcribers": args.transcriber,
        "speaker_encoders": args.speaker_encoder,
        "mos": args.mos,
    }
    for field, names in given.items():
        if names is not None:
            changed[field] = () if names == [NONE] else tuple(names)
    if args.normaliser is not None:
        changed["normaliser"] = args.normaliser
    if args.language is not None:
        changed["language"] = None if args.language == ALL else args.language
    base = paper_protocol.METRICS if args.protocol else default_measures()
    language = changed.get("language", base.language)
    if not args.protocol and primary_language(language) not in ("en", None):
        # The default recogniser and normaliser are for English.
        base = replace(base, normaliser=MetricConfig.normaliser)
        if args.transcriber is None:
            base = replace(base, transcribers=())
            print(
                f"flexicodec: no error rates: there is no default recogniser for the language {language!r}; name one "
                "with --transcriber",
                file=sys.stderr,
            )
    return replace(base, **changed)


def _report_failures(results: "Results") -> int:
    """Print which clips failed, the first ones by name, and return the exit code."""
    reasons = {row["id"]: row["error"] for row in results.failed}
    for name in list(reasons)[:5]:
        print(f"flexicodec: failed {name}: {reasons[name]}", file=sys.stderr)
    if not reasons:
        return 0
    print(
        f"flexicodec: {len(results.failed)} of {len(results.rows)} rows failed, of {len(reasons)} "
        f"{'clip' if len(reasons) == 1 else 'clips'}; they are tried again when the command is",
        file=sys.stderr,
    )
    return 1
