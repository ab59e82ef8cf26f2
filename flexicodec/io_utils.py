"""Files found and files replaced: which ones hold audio, and how to write one at once or not at all."""

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au", ".w64", ".caf")

# What a bad file can raise on its way through a codec: refused content, an unreadable disk, torch's out-of-memory.
BAD_FILE = (ValueError, OSError, RuntimeError)


def find(path: Path, suffixes: Sequence[str] = AUDIO_SUFFIXES) -> list[Path]:
    """List the files under a folder that have one of the suffixes, sorted; a file is itself, whatever its name.

    Raises:
        ValueError: A folder without such files.
    """
    if not path.is_dir():
        return [path]
    files = (file for file in path.rglob("*") if file.suffix.lower() in suffixes and file.is_file())
    found = sorted(file for file in files if not file.name.startswith("."))
    if not found:
        raise ValueError(f"no files to read in {path} (looked for {' '.join(suffixes)})")
    return found


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Offer a new name beside `path` to write; put it in the place of `path` on success, remove it on failure."""
    target = Path(path).resolve()  # through a link, as open() would
    part = target.with_name(f".{uuid.uuid4().hex}.part")
    try:
        yield part
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
