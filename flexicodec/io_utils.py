"""File search, atomic writes, and the errors of bad files."""

import difflib
import gzip
import os
import uuid
import zlib
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

# Containers that mostly hold video.
MEDIA_SUFFIXES = (
    ".mp4",
    ".m4v",
    ".mov",
    ".mkv",
    ".avi",
    ".mpg",
    ".mpeg",
    ".wmv",
    ".flv",
    ".ogv",
    ".mts",
    ".3g2",
    ".vob",
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


def read_text(path: Path) -> str:
    """Decode a text file, plain or `.gz`: UTF-8, or UTF-16 with a byte order mark; lines end with a line feed."""
    data = path.read_bytes()
    if path.suffix.lower() == ".gz":
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path} is damaged gzip data ({error}); was it cut off?") from error
    is_utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        text = data.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is neither UTF-8 nor UTF-16 ({error}); is it Latin-1? `iconv -f latin1 -t utf-8` converts it"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


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
    """Yield a temporary path to write; rename it to `path` on success, remove it on failure.

    Raises:
        FileNotFoundError: The folder is missing.
    """
    target = Path(path).resolve()  # follows links, as open() does
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {os.fspath(path)}: the folder {target.parent} does not exist")
    part = target.with_name(f".{uuid.uuid4().hex}.part")
    try:
        yield part
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def needed_for(what: str, package: str, install: str | None = None) -> Iterator[None]:
    """Import a package inside; where that fails, say whether it is missing itself or something that it needs.

    Args:
        what: Needs the package, for the error.
        package: Its name for `import`.
        install: What pip installs; None means the package.

    Raises:
        ImportError: One of both.
    """
    try:
        yield
    except ImportError as error:
        if (error.name or "").partition(".")[0] == package:
            reason = f"{package}, which is not installed: pip install {install or package}"
        else:
            reason = f"{package}, which is installed and cannot be imported ({error}); what does it need?"
        raise ImportError(f"{what} needs {reason}") from error
