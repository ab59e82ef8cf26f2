"""`flexicodec analyze`: compare the tokens of a corpus with its phones, and write a report."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flexicodec
from flexicodec.cli import options
from flexicodec.cli.file_jobs import one_line

if TYPE_CHECKING:
    from flexicodec.analysis.run_study import StudyResults
    from flexicodec.corpus import Utterance

HELP = "report on frame rate against phone rate, token contents, boundaries and bitrates"

DEFAULT_RATES = [8.33, 6.25, 4.0]
REASONS_PRINTED = 5  # of clips without phones


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add = parser.add_argument
    add("manifest", metavar="MANIFEST", type=Path, help="JSONL manifest, with alignments if there are any")
    add(
        *("-o", "--output"), required=True, metavar="REPORT", type=Path,
        help="folder for report.html, its figures, and numbers.json",
    )  # fmt: skip
    options.add_model(parser)
    add(
        "--frame-rate", nargs="+", type=float, metavar="HZ", default=[],
        help="tokens per second of the whole corpus, at one threshold that is fitted to it (default: 8.33 6.25 4, "
        "unless thresholds are given)",
    )  # fmt: skip
    add("--threshold", nargs="+", type=float, metavar="TAU", default=[], help="thresholds to use as they are")
    add("--per-clip", action="store_true", help="also encode every clip at exactly each frame rate")
    add(
        "--policy", nargs="+", metavar="NAME", default=[],
        help="further merging policies whose distortion is compared, such as joint or centroid:cap=6 (docs/merging.md)",
    )  # fmt: skip
    options.add_codebooks(parser)
    add("--limit", type=int, metavar="N", help="most clips to use, evenly spread over the manifest")
    add(
        "--phones", choices=("alignment", "counts", "recogniser"),
        help="source of phones: alignments or counts of the manifest, or the text aligned by a CTC recogniser, in "
        "symbols of its own such as letters (default: the first of these that there is)",
    )  # fmt: skip
    add(
        "--align", choices=("pocketsphinx", "hama"),
        help="find phones where the manifest has no alignment (extra instruments): pocketsphinx aligns English texts, "
        "hama recognises phones without a text; TextGrids are kept beside the manifest, in NAME.ALIGNER",
    )  # fmt: skip
    add(
        "--counting", choices=("all", "speech", "merged"), default="speech",
        help="phones that count: all labels, all but silences, or the latter with TIMIT's closures joined to their "
        "releases (default: %(default)s)",
    )  # fmt: skip
    add("--recogniser", metavar="DIR", help="folder of a `train-asr` recogniser (default: the one that ships)")
    add(
        "--transcriber", metavar="SPEC",
        help="add transcripts of a recogniser: ctc:recognizer-mini, sensevoice:DIR, whisper:ID_OR_DIR, ...",
    )  # fmt: skip
    add("--processes", type=int, default=1, metavar="N", help="processes to use (default: %(default)s)")
    add("--resamples", type=int, default=10_000, metavar="N", help="bootstrap resamples (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="random seed (default: %(default)s)")
    add(
        "--textgrids", action="store_true",
        help="also write a TextGrid for every clip: tokens of each setting, phones, words and transcript",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Write the report; return 1 if a clip is unreadable, or if expected phones are missing in all clips."""
    from flexicodec.analysis.collect import collect, save_textgrids
    from flexicodec.analysis.report import write_report
    from flexicodec.analysis.run_study import StudyOptions, run_study
    from flexicodec.asr import Recognizer
    from flexicodec.corpus import read_manifest
    from flexicodec.statistics import check_resamples

    check_resamples(args.resamples)
    utterances = read_manifest(args.manifest)
    refused: dict[str, str] = {}
    if args.align is not None:
        utterances, refused = _align(args, utterances)
    codec = options.load_codec(args)
    frame_rates = args.frame_rate
    if not frame_rates and not args.threshold:
        frame_rates = DEFAULT_RATES
    recognizer = None
    if args.recogniser is not None:
        recognizer = Recognizer.load(args.recogniser, args.device)
    transcribe = None
    if args.transcriber is not None:
        transcribe = _Transcribe(args.transcriber, codec.sample_rate, args.device)

    data = collect(
        codec,
        utterances,
        frame_rates=frame_rates,
        thresholds=args.threshold,
        per_clip=args.per_clip,
        policies=args.policy,
        num_codebooks=args.codebooks,
        source=args.phones,
        recognizer=recognizer,
        transcribe=transcribe,
        limit=args.limit,
        processes=args.processes,
        progress=True,
    )
    if refused:
        # Why they were not aligned says more than that they have no alignment.
        reasons = tuple((name, refused.get(name, reason)) for name, reason in data.without_phones)
        data = replace(data, without_phones=reasons)
    study = run_study(data, StudyOptions(args.resamples, seed=args.seed, counting=args.counting, progress=True))
    names = ("model", "limit", "counting", "resamples", "seed", "transcriber", "align")
    about = {name: getattr(args, name) for name in names}
    about |= {"manifest": str(args.manifest), "fingerprint": codec.fingerprint}
    about["flexicodec_lab_version"] = flexicodec.__version__
    files = write_report(study, about, args.output)
    if args.textgrids:
        save_textgrids(data, args.output / "textgrids")
    return _print(study, files[0], expected=args.phones is not None or any(map(_has_phones, utterances)))


def _align(args: argparse.Namespace, utterances: "list[Utterance]") -> "tuple[list[Utterance], dict[str, str]]":
    """Align the clips that will be used, and print what was refused; the reasons are returned by id."""
    from flexicodec.analysis.collect import evenly_spaced
    from flexicodec.analysis.forced_alignment import align_utterances, alignment_folder

    chosen = evenly_spaced(utterances, args.limit)
    folder = alignment_folder(args.manifest, args.align)
    result = align_utterances(chosen, folder, args.align, args.processes, True)
    line = f"{result.folder}: {result.aligned} clips aligned, {result.kept} had an alignment"
    if result.refused:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in result.reasons.items())
        line += f", {len(result.refused)} refused: {reasons}"
    print(line, file=sys.stderr)
    for name, reason in result.refused[:REASONS_PRINTED]:
        print(f"flexicodec: not aligned: {name}: {one_line(ValueError(reason))}", file=sys.stderr)
    return list(result.utterances), dict(result.refused)


def _has_phones(utterance: "Utterance") -> bool:
    return utterance.alignment is not None or utterance.num_phones is not None


def _print(study: "StudyResults", page: Path, expected: bool) -> int:
    """Print a summary and the clips left out; return the exit code."""
    data = study.data
    for name, reason in data.unread:
        print(f"flexicodec: skipped {name}: {one_line(ValueError(reason))}", file=sys.stderr)
    for name, reason in data.without_phones[:REASONS_PRINTED]:
        print(f"flexicodec: without {data.unit}: {name}: {one_line(ValueError(reason))}", file=sys.stderr)
    more = len(data.without_phones) - REASONS_PRINTED
    if more > 0:
        print(f"flexicodec: and {more} more, which the report lists", file=sys.stderr)
    for what, (count, clips) in data.alignment_changes.items():
        print(f"flexicodec: in alignments: {count} {what}, of {clips} clips", file=sys.stderr)

    line = f"{page}: {len(data.clips)} clips, {data.seconds / 3600:.2f} hours"
    if data.without_phones:
        line += f", {len(data.without_phones)} without {data.unit}"
    line += f", {len(data.unread)} skipped"
    over_speech = study.main.phone_rate.get("speech")
    if over_speech is not None:
        line += f"; tokens against {data.unit} per second of speech at {study.main.setting.name}: "
        line += f"r = {over_speech.pearson.bca}"
    print(line)
    if expected and not data.with_phones:
        print(
            f"flexicodec: none of {len(data.clips)} clips has {data.unit} ({data.source}); the report has no results "
            "on them",
            file=sys.stderr,
        )
        return 1
    return int(bool(data.unread))


class _Transcribe:
    """Transcribe clips at the codec's sample rate; loads the model again in another process."""

    def __init__(self, spec: str, sample_rate: int, device: str | None):
        from flexicodec.evaluation.metrics.asr import open_transcriber

        self.arguments = (spec, sample_rate, device)
        self.transcriber = open_transcriber(spec, device)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Transcribe, self.arguments

    def __call__(self, audio: Any) -> str:
        import torch

        from flexicodec.audio import resample

        _, sample_rate, _ = self.arguments
        resampled = resample(torch.as_tensor(audio), sample_rate, self.transcriber.sample_rate)
        return self.transcriber.transcribe([resampled.numpy()])[0]
