"""`flexicodec analyze`: hold the tokens of a corpus against what is said in it, and write a report."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexicodec.cli import options
from flexicodec.cli.file_jobs import one_line

if TYPE_CHECKING:
    from flexicodec.analysis.study import Study

HELP = "report on frame rate against phone rate, what tokens hold, where they start, and what they cost"

TOLD = 5  # clips without phones of which the reason is printed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "manifest", metavar="MANIFEST", type=Path, help="JSONL manifest, with alignments if there are any"
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="REPORT", type=Path,
        help="folder for report.html, report.md with its figures, and numbers.json",
    )  # fmt: skip
    options.add_model(parser)
    parser.add_argument(
        "--frame-rate", nargs="+", type=float, metavar="HZ", default=[],
        help="tokens per second of the whole corpus, at one threshold that is fitted to it (default: 8.33 6.25 4, "
        "where no threshold is given)",
    )  # fmt: skip
    parser.add_argument(
        "--threshold", nargs="+", type=float, metavar="TAU", default=[], help="thresholds to use as they are"
    )
    parser.add_argument(
        "--per-clip", action="store_true", help="also meet each frame rate exactly in every clip, where it cannot vary"
    )
    options.add_codebooks(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="clips at most, spread evenly over the manifest")
    _add_phones(parser)
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="side by side (default: %(default)s)")
    parser.add_argument(
        "--resamples", type=int, default=10_000, metavar="N", help="of the bootstrap (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all drawing (default: %(default)s)")
    parser.add_argument(
        "--textgrids", action="store_true",
        help="also write a TextGrid for every clip: tokens of each setting beside phones, words and transcript",
    )  # fmt: skip


def _add_phones(parser: argparse.ArgumentParser) -> None:
    """Add where phones and transcripts come from."""
    parser.add_argument(
        "--phones", choices=("alignment", "counts", "recogniser"),
        help="where phones come from: the manifest's alignments or counts, or a CTC recogniser that lays the text "
        "along the sound and gives its own symbols, letters, say (default: the first of these that there is)",
    )  # fmt: skip
    parser.add_argument(
        "--counting", choices=("all", "speech", "merged"), default="speech",
        help="phones that count: every label, all but silences, or with TIMIT's closures joined to their releases too "
        "(default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--recogniser", metavar="DIR", help="folder of a `train-asr` recogniser (default: the one that ships)"
    )
    parser.add_argument(
        "--transcriber", metavar="SPEC",
        help="write down what a recogniser hears too: ctc:recognizer-mini, sensevoice:DIR, whisper:ID_OR_DIR, ...",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Gather, ask, write, and return 1 if a clip could not be read, or no phones be had that were asked for."""
    from flexicodec.analysis.asking import study
    from flexicodec.analysis.gather import gather
    from flexicodec.analysis.report import make_report, write
    from flexicodec.analysis.study import Options
    from flexicodec.analysis.tiers import save_textgrids
    from flexicodec.asr import Recognizer
    from flexicodec.corpus import read_manifest
    from flexicodec.statistics import check_resamples

    check_resamples(args.resamples)
    utterances, codec = read_manifest(args.manifest), options.load_codec(args)
    rates = args.frame_rate or ([] if args.threshold else [8.33, 6.25, 4.0])
    gathered = gather(
        codec,
        utterances,
        frame_rates=rates,
        thresholds=args.threshold,
        per_clip=args.per_clip,
        num_codebooks=args.codebooks,
        source=args.phones,
        recognizer=None if args.recogniser is None else Recognizer.load(args.recogniser, args.device),
        transcribe=None if args.transcriber is None else _Listener(args.transcriber, codec.sample_rate, args.device),
        limit=args.limit,
        processes=args.processes,
        progress=sys.stderr.isatty(),
    )
    found = study(
        gathered, Options(args.resamples, seed=args.seed, counting=args.counting, progress=sys.stderr.isatty())
    )
    files = write(make_report(found, _about(args, codec)), args.output)
    if args.textgrids:
        save_textgrids(gathered, args.output / "textgrids")
    for name, reason in gathered.unread:
        print(f"flexicodec: skipped {name}: {one_line(ValueError(reason))}", file=sys.stderr)
    for name, reason in gathered.without_phones[:TOLD]:
        print(f"flexicodec: without {gathered.unit}: {name}: {one_line(ValueError(reason))}", file=sys.stderr)
    if (more := len(gathered.without_phones) - TOLD) > 0:
        print(f"flexicodec: and {more} more, which the report lists", file=sys.stderr)
    print(f"{files[0]}: {_summary(found)}")
    wanted = args.phones is not None or any(u.alignment is not None or u.num_phones is not None for u in utterances)
    if wanted and not gathered.with_phones:
        print(
            f"flexicodec: none of {len(gathered.clips)} clips has {gathered.unit} ({gathered.source}), so that the "
            "report says nothing of them",
            file=sys.stderr,
        )
        return 1
    return 1 if gathered.unread else 0


def _about(args: argparse.Namespace, codec: Any) -> dict[str, Any]:
    """Say what made the numbers."""
    import flexicodec

    return {
        "model": args.model,
        "fingerprint": codec.fingerprint,
        "manifest": str(args.manifest),
        "limit": args.limit,
        "counting": args.counting,
        "resamples": args.resamples,
        "seed": args.seed,
        "transcriber": args.transcriber,
        "flexicodec_lab_version": flexicodec.__version__,
    }


class _Listener:
    """A recogniser that hears clips at the codec's rate; in another process it is opened again.

    Args:
        spec: See `open_transcriber`.
        sample_rate: Of the clips, Hz.
        device: For the model.

    Raises:
        ValueError: It cannot be had.
    """

    def __init__(self, spec: str, sample_rate: int, device: str | None):
        from flexicodec.evaluation.metrics.asr import open_transcriber

        self.choice = spec, sample_rate, device
        self.sample_rate, self.transcriber = sample_rate, open_transcriber(spec, device)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Listener, self.choice

    def __call__(self, audio: Any) -> str:
        import torch

        from flexicodec.audio import resample

        heard = resample(torch.as_tensor(audio), self.sample_rate, self.transcriber.sample_rate)
        return self.transcriber.transcribe([heard.numpy()])[0]


def _summary(found: "Study") -> str:
    """Say in a line what was looked at, and what became of it."""
    gathered = found.gathered
    without = f", {len(gathered.without_phones)} without {gathered.unit}" if gathered.without_phones else ""
    said = f"{len(gathered.clips)} clips, {gathered.seconds / 3600:.2f} hours{without}, {len(gathered.unread)} skipped"
    over_speech = found.main.phone_rate.get("speech")
    if over_speech is None:
        return said
    r = over_speech.pearson.bca
    return f"{said}; tokens against {gathered.unit} per second of speech at {found.main.setting.name}: r = {r}"
