"""File search, atomic writes, and the errors of bad files."""

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# What libsndfile reads, then what PyAV does (the extra `av`). Containers that mostly hold video (.mp4, .mkv) are read
# where they are named, but not searched for.
AUDIO_SUFFIXES = (
    *(".wav", ".wave", ".bwf", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".aiff", ".aif"),
    *(".aifc", ".au", ".snd", ".caf", ".sph", ".nist", ".voc", ".sf", ".ircam", ".8svx", ".svx", ".paf", ".pvf"),
    *(".avr", ".sds"),
    *(".m4a", ".m4b", ".aac", ".webm", ".weba", ".wma", ".mka", ".amr", ".3gp", ".wv", ".ape", ".ac3", ".tta"),
)

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
