"""File search, atomic writes, and the errors of bad files."""

import difflib
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au", ".w64", ".caf")

# Exceptions of a bad file on its way through a codec: invalid content, an unreadable disk, torch's out-of-memory.
BAD_FILE = (ValueError, OSError, RuntimeError)


def find(path: Path, suffixes: Sequence[str] = AUDIO_SUFFIXES) -> list[Path]:
    """List the files below a folder that have one of the suffixes, sorted; a file is returned whatever its name."""
    if not path.is_dir():
        return [path]
    found = []
    for file in sorted(path.rglob("*")):
        if file.suffix.lower() in suffixes and not file.name.startswith(".") and file.is_file():
            found.append(file)
    if not found:
        raise ValueError(f"no files to read in {path} (looked for {' '.join(suffixes)})")
    return found


def describe_missing(path: str | os.PathLike[str]) -> str:
    """Say that a file or folder is missing, with the nearest name beside it or the folder that is missing too."""
    path = Path(path)
    parent = path.parent
    if not parent.is_dir():
        return f"{path} is missing (and so is its folder {parent})"
    close = difflib.get_close_matches(path.name, [each.name for each in parent.iterdir()], 1)
    return f"{path} is missing" + (f" (did you mean {parent / close[0]}?)" if close else "")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path to write; rename it to `path` on success, remove it on failure."""
    target = Path(path).resolve()  # follows links, as open() does
    part = target.with_name(f".{uuid.uuid4().hex}.part")
    try:
        yield part
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
