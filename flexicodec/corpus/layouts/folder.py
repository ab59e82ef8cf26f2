"""A folder of speech: its files, from one walk, and what a layout says about each clip in it."""

import gzip
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from flexicodec.audio import OpenedAudio
from flexicodec.corpus.alignments.alignment import ALIGNMENT_SUFFIXES, is_alignment
from flexicodec.io_utils import AUDIO_SUFFIXES

# Suffixes that are known to be of audio that is not read, or has no header to read it by.
AUDIO_NOT_READ = tuple(
    suffix
    for suffix in (
        *(
            ".m4a",
            ".m4b",
            ".mp4",
            ".m4v",
            ".mov",
            ".3gp",
            ".aac",
            ".ac3",
            ".wma",
            ".asf",
            ".amr",
            ".awb",
            ".webm",
            ".mkv",
        ),
        *(".mka", ".ape", ".wv", ".tta", ".mpc", ".dts", ".dsf", ".spx", ".shn", ".rm", ".ra", ".raw", ".pcm", ".sln"),
    )
    if suffix not in AUDIO_SUFFIXES
)
PACKED = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".zip", ".parquet", ".arrow", ".ark")  # files that may hold audio
AUDIO_FOLDER = re.compile("wav|audio|flac|mp3|ogg|opus|sph|clips|speech|sound", re.IGNORECASE)  # names of folders
TELLING_NAME = re.compile(r"\D.{5}|.{5}\D")  # six characters or more, not all of them digits: not "1" or "sa1"


@dataclass(frozen=True)
class Entry:
    """A clip as a layout lists it, its audio not yet opened; the fields are those of `Utterance`.

    Attributes:
        name: What messages call it.
        end: Seconds into the file; None is its end.
        problem: Why it cannot be used, where that is known already.
        seconds: Duration that a list states, to be compared with the audio's.
    """

    name: str
    path: Path
    start: float = 0.0
    end: float | None = None
    text: str | None = None
    speaker: str | None = None
    id: str = ""
    language: str | None = None
    alignment: Path | None = None
    sentence: str | None = None
    channel: int | None = None
    speaker_guessed: bool = False
    problem: str | None = None
    seconds: float | None = None


@dataclass
class Listing:
    """What a layout lists: entries, what it leaves out (reason to count), and remarks for the user."""

    entries: list[Entry] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)

    def add(self, other: "Listing") -> None:
        """Append another listing."""
        self.entries += other.entries
        self.left_out += other.left_out
        self.remarks += other.remarks


class Folder:
    """The files of a folder at any depth, in order of their paths.

    Attributes:
        audio: Files that can be read by their suffix.
        alignments: TextGrids and the like, see `alignment.is_alignment`.
        others: All further files: lists, texts.
        left_out: Audio that is not read, by reason.
    """

    def __init__(self, root: Path):
        self.root = root
        self.audio: list[Path] = []
        self.alignments: list[Path] = []
        self.others: list[Path] = []
        self.left_out: Counter[str] = Counter()
        links = 0
        files = []
        for folder, folders, names in os.walk(root):
            links += sum(os.path.islink(os.path.join(folder, name)) for name in folders)
            files += [Path(folder, name) for name in names]
        for path in sorted(files):
            self._add(path)
        if links:
            self.left_out["links to folders, which are not followed"] = links
        self._by_stem: dict[str, list[Path]] = {}
        for path in self.audio:
            self._by_stem.setdefault(path.stem, []).append(path)

    def _add(self, path: Path) -> None:
        """File a path under what its name says."""
        name = path.name.lower()
        if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file():
            if name.startswith("."):
                self.left_out["hidden audio files (the name begins with a dot)"] += 1
            else:
                self.audio.append(path)
        elif path.suffix.lower() in AUDIO_SUFFIXES:
            self.left_out["links to audio files that are not there"] += 1
        elif name.endswith(AUDIO_NOT_READ):
            self.left_out[f"{path.suffix.lower()} files: audio that is not read (convert it to FLAC, say)"] += 1
        elif name.endswith(PACKED):
            self.left_out[f"{path.suffix.lower()} files, which are not unpacked"] += 1
        elif path.suffix.lower() in ALIGNMENT_SUFFIXES and not name.startswith(".") and is_alignment(path):
            self.alignments.append(path)
        else:
            self.others.append(path)

    def audio_of(self, path: Path) -> Path | None:
        """Return the audio file that a list names: this one, one with another suffix, or the only one so called."""
        if path.is_file():
            return path
        known = path.suffix.lower() in (*AUDIO_SUFFIXES, *AUDIO_NOT_READ)  # the name may be without, and have dots
        stem = path.stem if known else path.name
        same_name = self._by_stem.get(stem, [])
        beside = [found for found in same_name if found.parent == path.parent]
        if beside:
            return beside[-1]
        return same_name[0] if len(same_name) == 1 else None


class AudioHeaders(dict[Path, tuple[float, int]]):
    """Seconds and numbers of channels of audio files, each opened once; a `ValueError` where one cannot be."""

    def __missing__(self, path: Path) -> tuple[float, int]:
        try:
            with OpenedAudio(path) as opened:
                self[path] = opened.frames / opened.rate, opened.channels
        except ValueError as error:
            raise ValueError(f"cannot read {path}: {error}") from error
        return self[path]

    def channels(self, path: Path) -> int | None:
        """Return a file's number of channels; None where it cannot be read, which is said later."""
        try:
            return self[path][1]
        except (ValueError, OSError):
            return None


class Siblings:
    """Files looked up by name in either case; every folder is listed once."""

    def __init__(self) -> None:
        self._names: dict[Path, dict[str, str]] = {}

    def find(self, path: Path) -> Path | None:
        """Return the path as it is spelled on the disk; None if there is no such file."""
        if path.parent not in self._names:
            names = os.listdir(path.parent) if path.parent.is_dir() else []
            self._names[path.parent] = {name.lower(): name for name in names}
        if path.name in self._names[path.parent].values():
            return path
        name = self._names[path.parent].get(path.name.lower())
        return None if name is None else path.parent / name


def channel_number(name: str, first: int) -> int:
    """Return the number, from 0, of a channel that a list calls A, B, ... or counts from `first` on."""
    if len(name) == 1 and name.isalpha():
        return ord(name.upper()) - ord("A")
    if not name.isdigit() or int(name) < first:
        raise ValueError(f"channel is {name!r}; expected a letter from A or a number from {first}")
    return int(name) - first


def read_text(path: Path) -> str:
    """Read a text file, `.gz` too, in UTF-8, or in UTF-16 with its mark (lists of ESD)."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error}); convert it with iconv") from error


def text_beside(path: Path, siblings: Siblings) -> str | None:
    """Read the transcript of the same name as an audio file; None if there is none."""
    for suffix in (".normalized.txt", ".txt", ".lab"):
        beside = siblings.find(path.with_suffix(suffix))
        if beside is not None and not is_alignment(beside):
            return " ".join(read_text(beside).split())
    return None


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Read the lines that are not blank, with their numbers, without line ends and spaces around them."""
    lines = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            lines.append((number, line.strip(" \r\n")))
    return lines


# ------------------------------------------------------------------------------------------------------- alignments


def match_alignments(
    audio: Iterable[Path], root: Path, alignments: Iterable[Path], other_root: Path
) -> dict[Path, Path]:
    """Find the alignment of each audio file: one beside it, else one in a parallel folder, as MFA writes it.

    A parallel path is that of the audio but for one folder, see `_difference`. Where only one audio file and one
    alignment have a name, and it is no bare number, folders do not matter. Folders with audio belong to their own.
    """
    files = list(audio)
    by_name: dict[str, list[Path]] = {}
    for path in alignments:
        by_name.setdefault(path.stem.lower(), []).append(path)
    names = Counter(path.stem.lower() for path in files)
    folders = {path.parent for path in files}
    above = {folder for path in files for folder in path.parents}

    found: dict[Path, Path] = {}
    parallel: dict[Path, Path] = {}
    for path in files:
        candidates = by_name.get(path.stem.lower(), [])
        beside = [each for each in candidates if each.parent == path.parent]
        if beside:
            found[path] = min(beside, key=lambda each: ALIGNMENT_SUFFIXES.index(each.suffix.lower()))
            continue
        candidates = [each for each in candidates if each.parent not in folders]
        if names[path.stem.lower()] > 1 or len(candidates) > 1 or not TELLING_NAME.search(path.stem):
            differences = {each: _difference(path, root, each, other_root, above) for each in candidates}
            least = min(differences.values(), default=2)
            candidates = [each for each in candidates if differences[each] == least < 2]
        if len(candidates) == 1:
            parallel[path] = candidates[0]
    # One that fits two files alike is of neither for sure.
    claims: dict[Path, list[int]] = {}
    for path, each in parallel.items():
        claims.setdefault(each, []).append(_difference(path, root, each, other_root, above))
    for path, each in parallel.items():
        own = _difference(path, root, each, other_root, above)
        if own == min(claims[each]) and claims[each].count(own) == 1:
            found[path] = each
    return found


def _difference(path: Path, root: Path, other: Path, other_root: Path, above: set[Path]) -> int:
    """Compare the folders of audio and an alignment, below their roots.

    Returns:
        0 where they are equal. 1 where one is added or left out, or named otherwise: the innermost, if it is called wav
        or the like, or an outer one, if there is no audio (`above` has all folders with audio at any depth) below the
        other. 2 for all others, which may be of another speaker.
    """
    first = path.parent.relative_to(root).parts if path.is_relative_to(root) else ()
    second = other.parent.relative_to(other_root).parts
    longest = max(len(first), len(second))
    shortest = min(len(first), len(second))
    head = 0
    while head < shortest and first[head] == second[head]:
        head += 1
    tail = 0
    while tail < shortest - head and first[-1 - tail] == second[-1 - tail]:
        tail += 1
    if longest - head - tail != 1 or len(first) != len(second):
        return min(longest - head - tail, 2)
    is_outer = tail > 0 and other_root.joinpath(*second[: head + 1]) not in above
    return 1 if is_outer or AUDIO_FOLDER.search(first[head]) else 2
