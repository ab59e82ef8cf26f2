"""Jobs of verbs that turn files into files: planned from the arguments, run one by one, reported.

Outputs are planned before any work is done, so that a name shared by two inputs is found while nothing is lost.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Union

from flexicodec.io_utils import AUDIO_SUFFIXES, BAD_FILE, MEDIA_SUFFIXES, find

if TYPE_CHECKING:
    from flexicodec import Tokens

WRITABLE_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")  # the first is the default
TOKEN_SUFFIXES = (".flxc",)

Job = tuple[Path, Path]  # source, target
Done = Union["Tokens", str]  # what was written, or a line about it
Outcome = tuple[Job, Done | Exception]  # or why there is none


def add_file_arguments(parser: argparse.ArgumentParser, inputs: str, output: str, optional: bool = False) -> None:
    """Add the inputs, which may be left out if `optional`, and --output; `inputs` and `output` describe the files."""
    count = "*" if optional else "+"
    parser.add_argument("inputs", nargs=count, metavar="IN", type=Path, help=f"{inputs}, or folders of them")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help=f"{output} for a single file, else a folder, which mirrors input folders; existing files are replaced",
    )


def plan(inputs: Sequence[Path], output: str, read: Sequence[str], written: Sequence[str]) -> list[Job]:
    """Pair every input file with the file to write; that must be no input, and no other job's.

    Args:
        inputs: Files and folders. Folders are searched for the suffixes in `read`, except where `output` is in them.
        output: A file if it has a suffix and there is one input file; else a folder.
        read: Suffixes of input files.
        written: Suffixes of output files; those in an output folder get the first.
    """
    if not inputs:
        raise ValueError("no inputs: name files or folders")
    target = Path(output)

    # One file to one file.
    if target.suffix and not target.is_dir() and not output.endswith(os.sep):
        if len(inputs) > 1 or inputs[0].is_dir():
            raise ValueError(f"several inputs need a folder as output; {output} has the suffix of a file")
        if target.suffix.lower() not in written:
            raise ValueError(f"cannot write {output}: expected {' '.join(written)}, or a folder (end it with {os.sep})")
        jobs = [(inputs[0], target)]
    # Files and folders to a folder.
    elif target.exists() and not target.is_dir():
        raise ValueError(f"{output} is a file; expected a folder, or a name that ends in {' '.join(written)}")
    else:
        jobs = []
        for path in inputs:
            root = path if path.is_dir() else path.parent
            # An output folder inside an input folder holds files of an earlier run.
            may_hold_outputs = path.is_dir() and target.resolve() != root.resolve()
            for source in find(path, read):
                if not (may_hold_outputs and target.resolve() in source.resolve().parents):
                    jobs.append((source, target / source.relative_to(root).with_suffix(written[0])))
    _check(jobs)
    return jobs


def _check(jobs: Sequence[Job]) -> None:
    """Check that no file is written twice, and none that is still to be read."""
    if not jobs:
        raise ValueError("no files to read outside the output folder")
    # Resolved, because one file may have several names.
    sources = {source.resolve() for source, _ in jobs}
    writers: dict[Path, Path] = {}
    for source, target in jobs:
        resolved = target.resolve()
        if resolved in writers:
            both = f"{writers[resolved]} and {source}"
            raise ValueError(f"{both} would both be written to {target}; write them to two folders")
        if resolved in sources:
            raise ValueError(f"{target} is an input and would be overwritten; choose another output")
        writers[resolved] = source


def run_jobs(jobs: Sequence[Job], work: Callable[[Path, Path], Done], inputs: Sequence[Path] = ()) -> int:
    """Do `work(source, target)`, which returns what it wrote, for every job, and `report`."""
    return report(len(jobs), ((job, attempt(job, work)) for job in jobs), inputs)


def attempt(job: Job, work: Callable[[Path, Path], Done]) -> Done | Exception:
    """Make the target's folder and do one job; return what it wrote, or the error of a bad file."""
    source, target = job
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return work(source, target)
    except BAD_FILE as error:
        return error


def report(count: int, outcomes: Iterable[Outcome], inputs: Sequence[Path] = ()) -> int:
    """Print the outcomes of `count` jobs, with a progress bar on a terminal, and return the exit code.

    A bad file is reported and skipped. What was written is described for a single file only; for several, the rates
    over all of them. Files in the folders among `inputs` that no job reads are counted by suffix.
    """
    from tqdm import tqdm

    skipped = 0
    written: list[Tokens] = []
    for (source, target), outcome in tqdm(outcomes, unit="file", total=count, disable=None if count > 1 else True):
        if isinstance(outcome, Exception):
            skipped += 1
            reason = one_line(outcome).removeprefix(f"{source}: ")  # errors of token files begin with the path
            tqdm.write(f"flexicodec: skipped {source}: {reason}", file=sys.stderr)
        elif count == 1:
            print(f"{target}: {outcome}")
        elif not isinstance(outcome, str):
            written.append(outcome)
    media, others = _left_out(inputs)
    for file in media:
        print(
            f"flexicodec: skipped {file}: its suffix is one of video; name the file to read its sound", file=sys.stderr
        )
    skipped += len(media)
    count += len(media)
    if count > 1:
        print(f"{count - skipped} of {count} files written{_rates(written)}{others}")
    return 1 if skipped else 0


def _rates(written: "Sequence[Tokens]") -> str:
    """Return the mean rates of tokens over all their audio."""
    if not written:
        return ""
    seconds = sum(float(tokens.seconds.sum()) for tokens in written)
    count = sum(int(tokens.token_lengths.sum()) for tokens in written)
    kilobits = sum(float((tokens.bitrates_kbps * tokens.seconds).sum()) for tokens in written)
    return f": {seconds:.1f} s of audio, {count / seconds:.2f} Hz, {kilobits / seconds:.2f} kbps"


def _left_out(inputs: Sequence[Path]) -> tuple[list[Path], str]:
    """Find video among files in folders; of others that are neither audio nor tokens, a count by suffix."""
    media = []
    others: Counter[str] = Counter()
    for folder in inputs:
        for file in sorted(folder.rglob("*")) if folder.is_dir() else []:
            suffix = file.suffix.lower()
            if not file.is_file() or file.name.startswith(".") or suffix in (*AUDIO_SUFFIXES, *TOKEN_SUFFIXES):
                continue
            if suffix in MEDIA_SUFFIXES:
                media.append(file)
            else:
                others[suffix or "no suffix"] += 1
    counts = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common())
    return media, f"; not read, as by name they are no audio: {counts}" if counts else ""


def one_line(error: BaseException) -> str:
    """Return an error's message without line breaks, or its type if it has none."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.strerror}: {error.filename}"
    return " ".join(str(error).split()) or type(error).__name__
