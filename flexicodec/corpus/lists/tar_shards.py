"""Clips in tar shards: WebDataset's layout, Emilia's, and lhotse's Shar; found by the tar's headers, read in place.

The files of a clip have one name and known suffixes, wherever they are in the tar: `000017.flac`, `000017.json` with
the fields of a list's row (`fields.py`), `000017.txt` with the text. WebDataset ends a name at its first dot; here it
goes up to the suffix, so that `utt.1.a.flac` and `utt.1.b.flac` are two clips, and WebDataset's rule joins what is left
(`17.audio.flac` and `17.meta.json`). A Shar's `recording.000000.tar` takes ids and texts from `cuts.000000.jsonl.gz`.
"""

import io
import json
import logging
import math
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from flexicodec.corpus.audio_reading import TOLERANCE, UNREADABLE, read_duration
from flexicodec.corpus.lists.fields import TIME_KEYS, clip_times, folded, known_values
from flexicodec.corpus.lists.lhotse_cuts import cut_fields, cut_source, load_cuts
from flexicodec.corpus.manifest import SHARD_FIELDS, Utterance
from flexicodec.io_utils import AUDIO_SUFFIXES

DESCRIPTIONS = (".json", ".txt")  # files that say what is spoken
ROUNDING = 0.002  # seconds of a time in a description
SHAR_RECORDING = "recording"  # the field with the audio of a Shar's cuts
SHAR_AUDIO = (*AUDIO_SUFFIXES, ".original")  # lhotse names audio so that it did not encode itself

_log = logging.getLogger(__name__)


class FileSlice(io.RawIOBase):
    """Part of a file as a file of its own, so that a decoder reads only the bytes it needs."""

    def __init__(self, path: Path, offset: int, size: int, name: str):
        super().__init__()
        self._file = path.open("rb", buffering=0)  # libsndfile has buffers of its own
        self._offset = offset
        self._size = size
        self._name = name
        self._position = 0

    def __str__(self) -> str:
        return self._name

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position in the part."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read as many bytes as the buffer and the part have."""
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._size - self._position))
        self._file.seek(self._offset + self._position)
        count = self._file.readinto(view[:count]) or 0
        self._position += count
        return count

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


@dataclass(frozen=True)
class ShardEntry:
    """A clip in a shard: bytes `offset` to `offset + size` are its audio file, `shard.tar/000017.flac` its path.

    `is_part` says that the clip is only the utterance's time of that file.
    """

    shard: Path
    utterance: Utterance
    offset: int
    size: int
    is_part: bool = False

    def open(self) -> FileSlice:
        """Open its audio."""
        return FileSlice(self.shard, self.offset, self.size, str(self.utterance.path))


@dataclass(frozen=True)
class ShardListing:
    """Clips of a shard; `unreadable` are clips that were left out, and `passed_over` counts members that are none."""

    entries: list[ShardEntry] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)

    def log(self, shard: Path) -> None:
        """Log what was left out, and why."""
        for name, reason in self.unreadable:
            _log.warning("left out %s/%s: %s", shard, name, reason)
        if self.passed_over:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.passed_over.items())
            _log.warning("%s: %d clips; passed over members: %s", shard, len(self.entries), reasons)


class _Member(NamedTuple):
    """A file in a tar; `clip` is its name without suffix, and how many files of that name came before."""

    name: str
    clip: tuple[str, int]
    suffix: str
    offset: int
    size: int


def scan_tar(shard: Path) -> ShardListing:
    """List the clips of a tar by its headers; what has no audio, no duration or lies beyond a torn end is left out."""
    listing = ShardListing()
    members = list(_members(shard, listing))
    cuts = _shar_cuts(shard)
    audio: dict[tuple[str, int], _Member] = {}
    for member in members:
        if member.suffix in (AUDIO_SUFFIXES if cuts is None else SHAR_AUDIO):
            if audio.setdefault(member.clip, member) is not member:
                listing.passed_over[f"second audio file of a clip ({member.suffix})"] += 1
    if cuts is not None:
        _add_shar_clips(listing, shard, audio, cuts)
        return listing
    descriptions = _descriptions(members, audio, listing)
    for clip, member in audio.items():
        try:
            listing.entries.append(_clip_entry(shard, member, descriptions.get(clip, {})))
        except (*UNREADABLE, KeyError, TypeError) as error:
            listing.unreadable.append((member.name, str(error)))
    return listing


def entry_of(shard: Path, row: dict[str, Any]) -> ShardEntry:
    """Make an entry of its row in an index: `name`, `offset`, `size`, `duration` and what is known of the utterance."""
    duration = float(row["duration"])
    if not (math.isfinite(duration) and duration > 0):
        raise ValueError(f"its duration is {duration}; expected seconds above 0")
    known = {name: row[name] for name in SHARD_FIELDS if row.get(name) is not None}
    start = float(row.get("start", 0.0))
    utterance = Utterance(shard / row["name"], duration, start, id=row.get("id") or "", **known)
    return ShardEntry(shard, utterance, row["offset"], row["size"], is_part="start" in row)


def place_in_file(start: float, duration: float | None, seconds: float) -> tuple[float, float]:
    """Return start and duration within an audio file that came with its description, where both state times.

    The times may be those of a longer recording, of which the file is the clip: then it has their duration.
    """
    length = seconds - start if duration is None else duration
    fits = start > 0 and start + length <= seconds + ROUNDING
    if abs(length - seconds) <= TOLERANCE and not fits:
        return 0.0, seconds
    if start + length > seconds + TOLERANCE or not length > 0:
        raise ValueError(f"it is said to be {length:g} s from {start:g} s on, but its audio has {seconds:g} s")
    return start, length


def _members(shard: Path, listing: ShardListing) -> Iterator[_Member]:
    """Yield the files of a tar, up to where it is torn."""
    seen: Counter[str] = Counter()
    try:
        with tarfile.open(shard, "r:") as tar:
            for info in _headers(tar, shard):
                base = info.name.rpartition("/")[2]
                if info.isdir():
                    continue
                if not info.isreg() or base.startswith("."):
                    listing.passed_over["hidden file" if info.isreg() else "link"] += 1
                    continue
                name = info.name.removeprefix("./")
                stem, suffix = _split(name)
                yield _Member(name, (stem, seen[name]), suffix, info.offset_data, info.size)
                seen[name] += 1
    except tarfile.ReadError as error:
        raise ValueError(f"{shard} is no plain tar file ({error}); compressed shards have to be unpacked") from error


def _headers(tar: tarfile.TarFile, shard: Path) -> Iterator[tarfile.TarInfo]:
    try:
        while (info := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # or else tarfile keeps every header
            yield info
    except tarfile.ReadError as error:
        _log.warning("%s is torn: %s; what follows is left out", shard, error)


def _split(name: str) -> tuple[str, str]:
    """Split a name into clip and suffix, at a known suffix or else the last dot."""
    suffix = PurePosixPath(name).suffix
    return name.removesuffix(suffix), suffix.lower()


def _descriptions(
    members: list[_Member], audio: dict[tuple[str, int], _Member], listing: ShardListing
) -> dict[tuple[str, int], dict[str, _Member]]:
    """Assign JSON and text files to clips, and count the others."""
    # By WebDataset's rule a clip's name ends at the first dot.
    by_first_dot: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for stem, occurrence in audio:
        by_first_dot.setdefault((_to_first_dot(stem), occurrence), []).append((stem, occurrence))
    found: dict[tuple[str, int], dict[str, _Member]] = {}
    others = []
    for member in members:
        if member.suffix in DESCRIPTIONS and member.clip in audio:
            found.setdefault(member.clip, {})[member.suffix] = member
        elif audio.get(member.clip) is not member and member.suffix not in AUDIO_SUFFIXES:
            others.append(member)
    for member in others:
        clips = by_first_dot.get((_to_first_dot(member.clip[0]), member.clip[1]), [])
        if member.suffix not in DESCRIPTIONS:
            listing.passed_over[f"{member.suffix or 'without suffix'}"] += 1
        elif len(clips) != 1 or member.suffix in found.get(clips[0], {}):
            listing.passed_over[f"{member.suffix} of no clip or of several"] += 1
        else:
            found.setdefault(clips[0], {})[member.suffix] = member
    return found


def _to_first_dot(stem: str) -> str:
    folder, slash, base = stem.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _clip_entry(shard: Path, audio: _Member, descriptions: dict[str, _Member]) -> ShardEntry:
    row: dict[str, Any] = {"name": audio.name, "offset": audio.offset, "size": audio.size, "id": audio.clip[0]}
    if ".txt" in descriptions:
        row["text"] = _content(shard, descriptions[".txt"]).decode().strip()
    described: dict[str, Any] = {}
    if ".json" in descriptions:
        content = json.loads(_content(shard, descriptions[".json"]))
        if not isinstance(content, dict):
            raise ValueError(f"{descriptions['.json'].name} holds a {type(content).__name__}; expected an object")
        described = folded(content)
    row.update(known_values(described))
    # The audio is the clip, unless the description says that it starts or ends elsewhere.
    start, duration = clip_times(described)
    has_position = any(TIME_KEYS[key][0] != "duration" for key in described if key in TIME_KEYS)
    if duration is None or has_position:
        with FileSlice(shard, audio.offset, audio.size, f"{shard}/{audio.name}") as file:
            seconds = read_duration(file)
        start, duration = place_in_file(start, duration, seconds)
        if (start, duration) != (0.0, seconds):
            row["start"] = start
    return entry_of(shard, {**row, "duration": duration})


def _content(shard: Path, member: _Member) -> bytes:
    with shard.open("rb") as file:
        file.seek(member.offset)
        return file.read(member.size)


# --------------------------------------------------------------------------------------------------------- lhotse Shar


def shar_field(shard: Path) -> tuple[str, Path] | None:
    """Return which field of a Shar's cuts a tar holds, and the file of the cuts; None for other tars."""
    match = re.fullmatch(r"(\w+)\.(\d+)\.tar", shard.name)
    if match is None:
        return None
    for suffix in (".jsonl.gz", ".jsonl"):
        cuts = shard.with_name(f"cuts.{match[2]}{suffix}")
        if cuts.is_file():
            return match[1], cuts
    return None


def _shar_cuts(shard: Path) -> dict[str, tuple[str, Any]] | None:
    """Return the cuts of a Shar's tar by id, None where it is another tar."""
    found = shar_field(shard)
    if found is None:
        return None
    field_name, cuts = found
    if field_name != SHAR_RECORDING:
        raise ValueError(f"{shard} holds {field_name} of a lhotse Shar; name its {SHAR_RECORDING}.*.tar only")
    return {cut.id: (where, cut) for where, cut in load_cuts(cuts)}


def _add_shar_clips(
    listing: ShardListing, shard: Path, audio: dict[tuple[str, int], _Member], cuts: dict[str, tuple[str, Any]]
) -> None:
    found = set()
    for (name, _), member in audio.items():
        found.add(name)
        if name not in cuts:
            listing.unreadable.append((member.name, "its Shar has no such cut"))
            continue
        where, cut = cuts[name]
        row = {"name": member.name, "offset": member.offset, "size": member.size, "duration": cut.duration}
        try:
            _, channel = cut_source(cut)
            row.update({**cut_fields(cut), "channel": channel})
            if cut.start > 0:
                row["start"] = cut.start
            listing.entries.append(entry_of(shard, row))
        except ValueError as error:
            listing.unreadable.append((member.name, f"{where} {error}"))
    listing.unreadable.extend((name, "it has no audio in the tar") for name in cuts if name not in found)
