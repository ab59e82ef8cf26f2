"""`flexicodec evaluate`: codecs on a manifest, measured clip by clip, with intervals, a report and plots."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from flexicodec.cli import options

if TYPE_CHECKING:
    from flexicodec.corpus import Utterance
    from flexicodec.evaluation.corpus import Plan, Results
    from flexicodec.evaluation.instruments import Measures
    from flexicodec.evaluation.protocol import PaperList
    from flexicodec.evaluation.systems import Sweep

HELP = "measure codecs on a manifest: quality, intelligibility and rate, with intervals and plots"
NONE, ALL = "none", "all"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("manifest", metavar="MANIFEST", help="JSONL manifest; with --protocol paper also a folder")
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="RESULTS", help="folder for rows and report; a run goes on"
    )
    parser.add_argument(
        "--model",
        action="append",
        metavar="[NAME=]MODEL",
        help="name, folder, .nemo file or hub id; transformers:FOLDER for its EnCodec, DAC, Mimi and X-Codec; may be "
        "given several times (default: flexicodec-mini)",
    )
    options.add_placement(parser)
    rates = parser.add_argument_group("operating points, all combinations that a model has")
    rates.add_argument("--frame-rate", nargs="+", type=float, metavar="HZ", help="tokens per second of every clip")
    rates.add_argument("--threshold", nargs="+", type=float, metavar="TAU", help="merging thresholds")
    rates.add_argument("--policy", nargs="+", metavar="NAME", help="how to spend a frame rate: rate, uniform, variance")
    rates.add_argument(
        "--codebooks", nargs="+", metavar="K", help="acoustic codebooks: 0 for semantic codes only, or all (default)"
    )
    measured = parser.add_argument_group(f"what is measured ({NONE} leaves a kind out)")
    measured.add_argument("--metrics", nargs="+", metavar="NAME", help="signal metrics (default: all)")
    measured.add_argument(
        "--transcriber", nargs="+", metavar="SPEC", help="recognisers (default: ctc:recognizer-mini, which is weak)"
    )
    measured.add_argument("--normaliser", metavar="NAME", help="of texts (default: basic)")
    measured.add_argument("--language", metavar="CODE", help="that the recognisers know, or all (default: en)")
    measured.add_argument("--speaker-encoder", nargs="+", metavar="SPEC", help="for speaker similarity (default: none)")
    measured.add_argument("--mos", nargs="+", metavar="SPEC", help="predictors of opinion scores (default: none)")
    measured.add_argument("--protocol", choices=("paper",), help="the FlexiCodec paper's list, settings and metrics")
    work = parser.add_argument_group("how")
    work.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="measure N clips, spread over the manifest; a higher N goes on from a lower",
    )
    work.add_argument("--processes", type=int, default=1, metavar="N", help="side by side (default: %(default)s)")
    work.add_argument(
        "--batch-seconds", type=float, default=60.0, metavar="S", help="audio a batch (default: %(default)g)"
    )
    work.add_argument("--resamples", type=int, default=10_000, metavar="N", help="for intervals (default: %(default)s)")
    work.add_argument("--parquet", action="store_true", help="write the rows as rows.parquet too (needs pyarrow)")
    work.add_argument(
        "--tokens",
        action="store_true",
        help="keep every clip's tokens (.flxc) and report what an entropy coder would make of them",
    )


def run(args: argparse.Namespace) -> int:
    """Measure, report, and return 1 if a clip failed."""
    if args.parquet:
        import pyarrow  # noqa: F401  (before the work, not after it)
    from flexicodec.evaluation.corpus import evaluate_corpus
    from flexicodec.evaluation.protocol import comparison
    from flexicodec.evaluation.report import REPORT_NAME, main_table, notes, write_report
    from flexicodec.evaluation.rows import PARQUET_NAME, write_parquet
    from flexicodec.statistics import check_resamples

    check_resamples(args.resamples)
    plan = _plan(args)
    utterances, clips = _clips(args)
    models = args.model or ["flexicodec-mini"]
    results = evaluate_corpus(utterances, models, args.output, plan, progress=sys.stderr.isatty())
    for note in results.notes:
        print(f"flexicodec: {note}", file=sys.stderr)
    if args.parquet:
        write_parquet(args.output / PARQUET_NAME, results.rows)
    more = None if clips is None else (lambda summary: comparison(summary, clips))
    summary = write_report(args.output, args.resamples, more)
    print("\n\n".join(part for part in (main_table(summary), notes(summary), more(summary) if more else "") if part))
    print(f"\n{args.output / REPORT_NAME}: {results.measured} rows measured, {len(results.rows)} in all")
    return _report_failures(results)


def _clips(args: argparse.Namespace) -> "tuple[list[Utterance], PaperList | None]":
    """Read the clips, and choose among them."""
    from flexicodec.corpus import read_manifest
    from flexicodec.evaluation.protocol import paper_list

    clips = paper_list(args.manifest) if args.protocol else None
    utterances = read_manifest(args.manifest) if clips is None else clips.utterances
    if args.limit is not None and args.limit < 1:
        raise ValueError(f"--limit is {args.limit}; expected 1 or more")
    chosen = [utterances[index] for index in spread(len(utterances), args.limit)]
    return chosen, None if clips is None else replace(clips, utterances=chosen)


def spread(count: int, limit: int | None) -> list[int]:
    """Choose clips all over a list, so that a higher limit keeps those of a lower one: in van der Corput's order."""
    bits = max(1, (count - 1).bit_length())
    order = (int(f"{index:0{bits}b}"[::-1], 2) for index in range(2**bits))
    return sorted([index for index in order if index < count][:limit])


def _plan(args: argparse.Namespace) -> "Plan":
    """Turn what was typed into a plan."""
    from flexicodec.evaluation.corpus import Plan

    return Plan(
        measures=_measures(args),
        sweep=_sweep(args),
        batch_seconds=args.batch_seconds,
        processes=args.processes,
        device=args.device,
        sensevoice=args.sensevoice,
        keep_tokens=args.tokens,
    )


def _sweep(args: argparse.Namespace) -> "Sweep":
    from flexicodec.evaluation import protocol
    from flexicodec.evaluation.systems import Sweep

    if args.protocol:
        if args.frame_rate or args.threshold or args.policy or args.codebooks:
            raise ValueError(
                "--protocol paper has its own thresholds and codebooks; leave --frame-rate, --threshold, "
                "--policy and --codebooks out"
            )
        return protocol.SWEEP
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


def _measures(args: argparse.Namespace) -> "Measures":
    from flexicodec.evaluation import protocol
    from flexicodec.evaluation.instruments import Measures

    base = protocol.MEASURES if args.protocol else Measures()
    given = {
        "metrics": _listed(args.metrics),
        "transcribers": _listed(args.transcriber),
        "speaker_encoders": _listed(args.speaker_encoder),
        "mos": _listed(args.mos),
        "normaliser": args.normaliser,
    }
    changed = {name: value for name, value in given.items() if value is not None}
    if args.language is not None:
        changed["language"] = None if args.language == ALL else args.language
    return replace(base, **changed)


def _listed(names: Sequence[str] | None) -> tuple[str, ...] | None:
    return () if names == [NONE] else None if names is None else tuple(names)


def _report_failures(results: "Results") -> int:
    """Say which clips failed, the first ones by name, and return the exit code."""
    failed = results.failed
    reasons = {row["id"]: row["error"] for row in failed}
    for name, reason in list(reasons.items())[:5]:
        print(f"flexicodec: failed {name}: {reason}", file=sys.stderr)
    if failed:
        print(
            f"flexicodec: {len(failed)} of {len(results.rows)} rows failed, of {len(reasons)} "
            f"{'clip' if len(reasons) == 1 else 'clips'}; they are tried again when the command is",
            file=sys.stderr,
        )
    return 1 if failed else 0
