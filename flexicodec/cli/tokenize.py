"""`flexicodec tokenize` and `merge`: the tokens of a whole corpus as Parquet, and larger files of them."""

import argparse
import sys
from pathlib import Path
from typing import Any

from flexicodec.cli import options
from flexicodec.cli.options import Verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `tokenize`."""
    source_help = "manifest (JSONL), or what `manifest` takes: another tool's list, a folder, tars, Parquet with audio"
    parser.add_argument("source", metavar="MANIFEST", type=Path, help=source_help)
    output_help = "folder for the tokens; one that is there is gone on with"
    parser.add_argument("-o", "--output", required=True, metavar="DIR", type=Path, help=output_help)
    rate_help = "tokens per second; several make tokens at each, from the same features"
    parser.add_argument("--frame-rate", type=float, nargs="+", metavar="HZ", default=[], help=rate_help)
    threshold_help = "merge neighbouring frames more similar than this; several, and beside rates, too"
    parser.add_argument("--threshold", type=float, nargs="+", metavar="TAU", default=[], help=threshold_help)
    policy_help = "how to spend --frame-rate: rate (default), uniform, variance or running"
    parser.add_argument("--policy", metavar="NAME", help=policy_help)
    options.add_codebooks(parser)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="as for encode (default: float32)")
    options.add_model(parser)
    batch_help = "audio per batch, a setting of all units (default: 640 on a GPU, else 0: one by one)"
    parser.add_argument("--batch-seconds", type=float, metavar="S", help=batch_help)
    unit_help = "audio per unit, that is per file (default: 4, and 0.25 on a CPU)"
    parser.add_argument("--unit-hours", type=float, metavar="H", help=unit_help)
    margins_help = "count tokens with a decision that float noise could turn (column fragile_tokens)"
    parser.add_argument("--margins", action="store_true", default=None, help=margins_help)
    ids_help = "path: name clips by path and start, where ids repeat (default: id)"
    parser.add_argument("--ids", choices=("id", "path"), help=ids_help)
    parser.add_argument("--extend", action="store_true", help="add the lines by which the manifest grew at its end")
    processes_help = "worker processes (default: one a GPU, or one a core)"
    parser.add_argument("--processes", type=int, metavar="N", help=processes_help)
    workers_help = "threads that read files, in each process (default: up to 8 on a GPU, else 0)"
    parser.add_argument("--workers", type=int, metavar="N", help=workers_help)
    parser.add_argument("--part", metavar="K/N", help="only every N-th unit from the K-th on (from 0), of a job array")
    ray_help = "run on a Ray cluster: its address, or auto: RAY_ADDRESS, or one started on this machine (extra `ray`)"
    parser.add_argument("--ray", metavar="ADDRESS", help=ray_help)
    plan_help = "write the plan only, for engines that call `run_unit` themselves"
    parser.add_argument("--plan-only", action="store_true", help=plan_help)


def run(args: argparse.Namespace) -> int:
    """Tokenise a corpus, say what was done, and return 1 if clips are bad."""
    from tqdm import tqdm

    from flexicodec.token_corpus.local import LocalEngine
    from flexicodec.token_corpus.worker import Job

    settings = {name: getattr(args, name) for name in ("precision", "batch_seconds", "unit_hours", "margins", "ids")}
    job = Job(
        source=str(args.source),
        folder=str(args.output),
        model=args.model,
        sensevoice=args.sensevoice,
        device=args.device,
        choices=_choices(args),
        settings={name: value for name, value in settings.items() if value is not None},
        part=args.part,
        extend=args.extend,
        workers=args.workers,
    )
    bar = tqdm(unit="unit", disable=True if args.plan_only else None)

    def told(reply: dict[str, Any]) -> None:
        if "ready" in reply:
            bar.reset(len(reply["ready"]["todo"]))
        else:
            bar.update()

    with bar:
        if args.ray is None:
            done = LocalEngine(job, args.processes, told).run(args.plan_only)
        else:
            from flexicodec.token_corpus.ray_cluster import run_on_ray

            done = run_on_ray(job, args.ray, args.processes, told, args.plan_only)
    return _report(done, args)


def _choices(args: argparse.Namespace) -> list[dict[str, Any]] | None:
    """Return a choice for each rate and threshold; None where nothing is said."""
    rates = [{"frame_rate": rate, "policy": args.policy} for rate in args.frame_rate]
    thresholds = [{"threshold": threshold} for threshold in args.threshold]
    if args.policy is not None and not rates:
        raise ValueError("--policy says how a --frame-rate is spent; give both")
    chosen: list[dict[str, Any]] = [*rates, *thresholds]
    if args.codebooks is None:
        return chosen or None
    return [{**choice, "num_codebooks": args.codebooks} for choice in chosen or [{}]]


def _report(done: dict[str, Any], args: argparse.Namespace) -> int:
    count = sum(done["reasons"].values())
    for name, reason, message in done["bad"]:
        print(f"flexicodec: no tokens of {name}: {reason}: {message}", file=sys.stderr)
    if count > len(done["bad"]):
        print(f"flexicodec: and of {count - len(done['bad'])} more (info lists them)", file=sys.stderr)
    for reason, left_out in done["left_out"].items():
        print(f"flexicodec: left out {left_out}: {reason}", file=sys.stderr)
    reasons = ", ".join(f"{number} {reason}" for reason, number in done["reasons"].items())
    print(
        f"{args.output}: {done['done']} of {done['units']} units, {done['clips'] - count} clips, "
        f"{done['seconds'] / 3600:.2f} hours" + (f"; bad clips: {count} ({reasons})" if count else "")
    )
    return 1 if count else 0


def add_merge_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `merge`."""
    parser.add_argument("tokens", metavar="TOKENS", type=Path, help="folder that `tokenize` made, all units done")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", type=Path, help="new folder for the files")
    parser.add_argument("--megabytes", type=float, metavar="MB", default=512.0, help="size of a file (default: 512)")


def merge(args: argparse.Namespace) -> int:
    """Join the files of units into larger ones."""
    from flexicodec.token_corpus.exports import merge_files

    for path in merge_files(args.tokens, args.output, args.megabytes):
        print(path)
    return 0


TOKENIZE = Verb(
    "encode a corpus to Parquet tables of tokens, in units that any number of jobs share", add_arguments, run
)
MERGE = Verb("join the tables of a folder of tokens into a few large files", add_merge_arguments, merge)
