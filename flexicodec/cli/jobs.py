"""From what was typed to pairs of files, and through them one by one.

Outputs are planned before any work is done, so that a name that two inputs would share is found while nothing is lost.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from flexicodec.io_utils import BAD_FILE, find

WRITABLE_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")  # the first is the default
TOKEN_SUFFIXES = (".flxc",)

Job = tuple[Path, Path]  # source, target
Outcome = tuple[Job, str | Exception]  # a line on what was made, or why it was not


def add_arguments(parser: argparse.ArgumentParser, inputs: str, output: str, optional: bool = False) -> None:
    """Add the inputs, which may be left out if `optional`, and --output; the arguments name what they are."""
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
    """Pair every input file with the file to write.

    Args:
        inputs: Files and folders. Folders are searched for the suffixes in `read`, except where `output` lies in them.
        output: A file if it has a suffix and there is one input file; else a folder, made when needed.
        read: Suffixes of input files.
        written: Suffixes of output files; the first is given to files in an output folder.

    Raises:
        ValueError: Two inputs for one output, an output that is an input, or a file where a folder is needed.
    """
    if not inputs:
        raise ValueError("no inputs: name files or folders")
    folder = Path(output)
    if folder.suffix and not folder.is_dir() and not output.endswith(os.sep):
        if len(inputs) > 1 or inputs[0].is_dir():
            raise ValueError(f"several inputs need a folder as output; {output} has the suffix of a file")
        if folder.suffix.lower() not in written:
            raise ValueError(f"cannot write {output}: expected {' '.join(written)}, or a folder (end it with {os.sep})")
        jobs = [(inputs[0], folder)]
    elif folder.exists() and not folder.is_dir():
        raise ValueError(f"{output} is a file; expected a folder, or a name that ends in {' '.join(written)}")
    else:
        jobs = []
        for path in inputs:
            root = path if path.is_dir() else path.parent
            earlier = folder.resolve() if folder.resolve() != root.resolve() else None  # what an earlier run left there
            jobs += [
                (source, folder / source.relative_to(root).with_suffix(written[0]))
                for source in find(path, read)
                if not path.is_dir() or earlier not in source.resolve().parents
            ]
    _check(jobs)
    return jobs


def _check(jobs: Sequence[Job]) -> None:
    """See that no file is written twice, and none that is still to be read."""
    if not jobs:
        raise ValueError("no files to read outside the output folder")
    sources = {source.resolve() for source, _ in jobs}
    writers: dict[Path, Path] = {}
    for source, target in jobs:
        place = target.resolve()
        if place in writers:
            raise ValueError(f"{writers[place]} and {source} would both be written to {target}; give them two folders")
        if place in sources:
            raise ValueError(f"{target} is an input and would be overwritten; choose another output")
        writers[place] = source


def process(jobs: Sequence[Job], work: Callable[[Path, Path], str]) -> int:
    """Do `work(source, target)` for every job; it says in a line what was made. What follows is as for `report`."""
    return report(len(jobs), ((job, attempt(job, work)) for job in jobs))


def attempt(job: Job, work: Callable[[Path, Path], str]) -> str | Exception:
    """Do one job, its folder made, and return what it says or what a bad file raised."""
    source, target = job
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return work(source, target)
    except BAD_FILE as error:
        return error


def report(count: int, outcomes: Iterable[Outcome]) -> int:
    """Go through what becomes of so many jobs, with a progress bar on a terminal, and return the exit code.

    A bad file is reported and skipped. What was made is printed for a single file.
    """
    from tqdm import tqdm

    skipped = 0
    for (source, target), said in tqdm(outcomes, unit="file", total=count, disable=None if count > 1 else True):
        if isinstance(said, Exception):
            skipped += 1
            tqdm.write(f"flexicodec: skipped {source}: {one_line(said)}", file=sys.stderr)
        elif count == 1:
            print(f"{target}: {said}")
    if count > 1:
        print(f"{count - skipped} of {count} files written")
    return 1 if skipped else 0


def one_line(error: BaseException) -> str:
    """Return an error's message without line breaks, or its type if it says nothing."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.strerror}: {error.filename}"
    return " ".join(str(error).split()) or type(error).__name__
