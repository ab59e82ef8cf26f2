"""Formats of alignment files by suffix: which reader each has, what is refused, and files of many utterances."""

import difflib
import os
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from flexicodec.corpus.alignments.alignment import SHARED_SUFFIXES, Changes, Segment, Track
from flexicodec.corpus.alignments.grids import read_csv, read_json, read_textgrid
from flexicodec.corpus.alignments.lines import (
    ROUNDED,
    SHARED_PHONE,
    Line,
    numbered,
    parse_ctm,
    parse_htk,
    parse_timit,
    parse_xlabel,
)
from flexicodec.io_utils import read_text

WORDS_BESIDE = {".phn": (".wrd", ".WRD"), ".phones": (".words", ".WORDS")}
TURNS_ONLY = "turns of speakers without phones; align the speech first, with MFA, say"
REFUSED = {
    ".wrd": "TIMIT words; name the .phn beside it",
    ".words": "Buckeye words; name the .phones beside it",
    ".stm": f"NIST STM: {TURNS_ONLY}",
    ".rttm": f"NIST RTTM: {TURNS_ONLY}",
    ".eaf": "an ELAN document; export it as a Praat TextGrid",
    ".par": "a BAS Partitur file; let WebMAUS write a TextGrid",
    ".srt": "subtitles without phones; align the speech first",
    ".vtt": "subtitles without phones; align the speech first",
    ".txt": "plain text; if it is a CTM or HTK's labels, rename it to .ctm or .lab",
}
"""What files of other formats hold and what to do, by suffix."""


def file_suffix(path: Path) -> str:
    """Return the suffix in lower case, without `.gz`; Kaldi's lists named just "ctm" have that as their suffix."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix or f".{name}"


# ----------------------------------------------------------------------------------------- files of many utterances


@dataclass(frozen=True)
class Utterances:
    """Lines of a file by the id of their utterance."""

    lines: dict[str, list[Line]]
    channels: frozenset[str] = frozenset()  # of all lines of a CTM


def split_utterances(path: Path) -> Utterances:
    """Split a CTM or MLF by utterance; the last two files are kept, since each clip reads from the same one."""
    state = os.stat(path)
    return _split(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=2)
def _split(path: Path, changed: int, size: int) -> Utterances:
    lines = numbered(read_text(path))
    return _split_mlf(path, lines) if file_suffix(path) == ".mlf" else _split_ctm(path, lines)


def _split_ctm(path: Path, lines: Sequence[Line]) -> Utterances:
    """Split lines `utterance channel start duration label ...`; lines that start with ;; are comments."""
    found: dict[str, list[Line]] = {}
    channels: set[str] = set()
    for number, line in lines:
        fields = line.split(maxsplit=2)
        if not fields or line.startswith(";;"):
            continue
        found.setdefault(fields[0], []).append((number, line))
        channels.update(fields[1:2])
    return Utterances(found, frozenset(channels))


def _split_mlf(path: Path, lines: Sequence[Line]) -> Utterances:
    """Split HTK's master label file: a line `"*/name.lab"`, the labels, and a line with a dot."""
    written = [(number, line.strip()) for number, line in lines if line.strip()]
    if not written or written[0][1] != "#!MLF!#":
        raise ValueError(f"{path} is no HTK master label file; expected #!MLF!# in its first line")
    found: dict[str, list[Line]] = {}
    name = None
    for number, line in written[1:]:
        if name is None:
            if not re.fullmatch('"[^"]+"', line):
                raise ValueError(f'{path}, line {number}: {line!r} names no file; expected "*/name.lab" in quotes')
            # HTK fills in the folder that "*" stands for.
            name = re.sub(r"\.(\w+|\*)$", "", line[1:-1]).removeprefix("*/")
            if name in found:
                raise ValueError(f"{path}, line {number}: {name!r} is there twice")
            found[name] = []
        elif line == ".":
            name = None
        else:
            found[name].append((number, line))
    if name is not None:
        raise ValueError(f"{path} ends inside {name!r}, without the dot after its labels; was the file cut off?")
    return Utterances(found)


# ------------------------------------------------------------------------------------------------------------- readers


def _read_timit(path: Path, changes: Changes) -> list[Track]:
    return _with_words_beside(path, lambda each, most: parse_timit(each, numbered(read_text(each)), changes, most))


def _read_buckeye(path: Path, changes: Changes) -> list[Track]:
    return _with_words_beside(path, lambda each, most: parse_xlabel(each, numbered(read_text(each))))


def _with_words_beside(path: Path, parse: Callable[[Path, float], tuple[Segment, ...]]) -> list[Track]:
    """Read a file of phones, and the words beside it."""
    tracks = [Track("phones", parse(path, ROUNDED), "phones")]
    for ending in WORDS_BESIDE[file_suffix(path)]:
        if path.with_suffix(ending).exists():
            return [*tracks, Track("words", parse(path.with_suffix(ending), SHARED_PHONE), "words")]
    return tracks


def _read_lab(path: Path, changes: Changes) -> list[Track]:
    lines = numbered(read_text(path))
    if lines[0][1].strip() == "#!MLF!#":
        raise ValueError(f"{path} is a master label file of HTK, with many clips; rename it to .mlf")
    if any(line.strip() == "#" for _, line in lines):
        return [Track("phones", parse_xlabel(path, lines), "phones")]
    return parse_htk(path, lines, changes)


READERS: dict[str, Callable[[Path, Changes], list[Track]]] = {
    ".textgrid": lambda path, changes: read_textgrid(path),
    ".phn": _read_timit,
    ".phones": _read_buckeye,
    ".lab": _read_lab,
    ".rec": _read_lab,
    ".json": lambda path, changes: read_json(path),
    ".csv": lambda path, changes: read_csv(path),
}
"""Readers of files of one clip by suffix."""


def utterance_ids(path: Path) -> Collection[str]:
    """Return the ids of the utterances of a CTM or MLF; none for a file of one clip."""
    return split_utterances(path).lines.keys() if file_suffix(path) in SHARED_SUFFIXES else ()


def read_tracks(path: Path, utterance: str | None, changes: Changes) -> list[Track]:
    """Read the tracks of one clip; `utterance` chooses it in a file of many."""
    suffix = file_suffix(path)
    if suffix in REFUSED:
        raise ValueError(f"{path} holds {REFUSED[suffix]}")
    if suffix in READERS:
        return READERS[suffix](path, changes)
    if suffix not in SHARED_SUFFIXES:
        known = ", ".join((".TextGrid", ".ctm", *list(READERS)[1:], ".mlf"))
        raise ValueError(f"{path} is no alignment that can be read; expected a file with one of the suffixes {known}")
    utterances = split_utterances(path)
    name = find_utterance(path, utterances.lines, utterance)
    lines = utterances.lines[name]
    if suffix == ".mlf":
        return parse_htk(path, lines, changes)
    return parse_ctm(path, lines, utterances.channels, changes)


def find_utterance(path: Path, names: Collection[str], wanted: str | None) -> str:
    """Return the name of an utterance as the file has it; a name in an MLF may have folders before it."""
    if not names:
        raise ValueError(f"{path} holds no utterances; is it empty?")
    if wanted is None and len(names) == 1:
        return next(iter(names))
    if wanted is None:
        raise ValueError(f"{path} holds {len(names)} utterances; say which one with utterance=")
    if wanted in names:
        return wanted
    ending = [name for name in names if name.endswith(f"/{wanted}")]
    if len(ending) == 1:
        return ending[0]
    if ending:
        raise ValueError(f"{path} has {wanted!r} in several folders: {', '.join(ending[:3])}; name the folder too")
    near = difflib.get_close_matches(wanted, names, n=1) if len(names) < 10_000 else []  # which takes seconds
    raise ValueError(f"{path} has no utterance {wanted!r}{f'; is it {near[0]!r}?' if near else ''}")
