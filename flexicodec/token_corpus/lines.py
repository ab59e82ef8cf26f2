"""The lines of a manifest, cut into units of some hours.

One pass over the lines keeps 12 bytes of each: a CRC, so that a manifest that changed is refused by its line, and a
hash of the id, so that ids are known to be unique. Ten million lines take a minute of one core and 200 MB.
"""

import hashlib
import json
import zlib
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flexicodec.corpus.lists.rows import EXPECTED
from flexicodec.corpus.manifest import SHARD_FIELDS, default_id
from flexicodec.token_corpus.listing import UnitClip, line_clip, states_clip

NATIVE_KEYS = {"path", "start", "duration", "id", "alignment", "sentence", *SHARD_FIELDS}
IDS = ("id", "path")  # what names a clip: its id, or path and start
NAMED = 3  # repeated ids in an error

LONGEST = 1e9  # seconds; NaN and infinity are no durations
_NUMBERS = (int, float)


class NotPlain(Exception):
    """A line is no single clip of stated duration, so that the list has to be written anew."""


@dataclass(eq=False)
class Lines:
    """Units of a manifest: byte offset, lines and seconds of each, and a CRC of every line."""

    offsets: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    crcs: "array[int]" = field(default_factory=lambda: array("I"))
    sha256: str = ""
    size: int = 0
    clips: int = 0

    def to_bytes(self) -> bytes:
        """Return the content of `units.json`."""
        seconds = [round(each, 6) for each in self.seconds]
        return json.dumps({"offsets": self.offsets, "lines": self.lines, "seconds": seconds}).encode()


def plan_lines(manifest: Path, unit_seconds: float, ids: str, earlier: Lines | None = None) -> Lines:
    """Cut a manifest into units where `unit_seconds` are reached; a longer recording is a unit.

    Args:
        manifest: JSONL, a clip a line.
        unit_seconds: Seconds of a unit.
        ids: One of `IDS`.
        earlier: Units of the same manifest before it grew; they are kept, and the last one stays short.

    Raises:
        ValueError: A bad line, by its number; ids that repeat.
    """
    found = Lines()
    hashes = array("q")
    digest = hashlib.sha256()
    offset = 0
    filled = 0.0
    kept = np.cumsum(earlier.lines).tolist() if earlier is not None else []  # lines at which units of before end
    with manifest.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not found.offsets or filled >= unit_seconds or (kept and number == kept[0] + 1):
                if kept and number == kept[0] + 1:
                    del kept[0]
                found.offsets.append(offset)
                found.lines.append(0)
                found.seconds.append(0.0)
                filled = 0.0
            digest.update(line)
            offset += len(line)
            found.lines[-1] += 1
            text = line.rstrip(b"\r\n")
            found.crcs.append(zlib.crc32(text))
            if not text.strip():
                continue
            name, seconds = _read_line(text, manifest, number, ids)
            hashes.append(hash(name))
            found.seconds[-1] += seconds
            filled += 0.0 if kept else seconds  # units of before end where they ended
            found.clips += 1
    if not found.clips:
        raise ValueError(f"{manifest} lists no utterances")
    found.sha256 = digest.hexdigest()
    found.size = offset
    _check_unique(hashes, manifest, ids)
    return found


def _read_line(line: bytes, manifest: Path, number: int, ids: str) -> tuple[str, float]:
    """Return id and seconds of a clip."""
    if number == 1:
        line = line.removeprefix(b"\xef\xbb\xbf")
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{manifest}:{number}: {EXPECTED} ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(f"{manifest}:{number}: {EXPECTED} (it is {type(row).__name__})")
    # Manifests as this package writes them take a quarter of the time of others.
    duration: Any = row.get("duration")
    start: Any = row.get("start", 0.0)
    if row.keys() <= NATIVE_KEYS and type(row.get("path")) is str and type(duration) in _NUMBERS:
        if 0 < duration < LONGEST and type(start) in _NUMBERS and 0 <= start and "://" not in row["path"]:
            name = row.get("id") if ids == "id" else None
            if type(name) is not str or not name:
                name = name if type(name) is int else _default_id(row["path"], start, row.get("channel"))
            return str(name), float(duration)
    return _read_other_line(line, row, manifest, number, ids)


def _read_other_line(line: bytes, row: dict[str, Any], manifest: Path, number: int, ids: str) -> tuple[str, float]:
    try:
        if row.get("duration") != 0 and not states_clip(row):
            raise NotPlain
        clip = line_clip(line, 0, manifest.parent)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{manifest}:{number}: {EXPECTED} ({error})") from error
    return clip_id(clip, ids), clip.utterance.duration


def _default_id(path: str, start: float, channel: Any) -> str:
    """Do what `default_id` does, fast where a path is usual."""
    stem, dot, suffix = path.rpartition(".")
    usual = dot and suffix.isalnum() and stem and stem[-1] not in "/." and not start and channel is None
    return stem if usual else default_id(path, start, channel)


def clip_id(clip: UnitClip, ids: str) -> str:
    """Return what names a clip: its id, or its path as the manifest has it and its start."""
    utterance = clip.utterance
    return utterance.id if ids == "id" else default_id(clip.name, utterance.start, utterance.channel)


def _check_unique(hashes: "array[int]", manifest: Path, ids: str) -> None:
    """Refuse ids that occur more than once; equal hashes are looked up in the manifest."""
    values = np.frombuffer(hashes, dtype=np.int64).copy()
    values.sort()
    twice = set(values[:-1][values[1:] == values[:-1]].tolist())
    if not twice:
        return
    lines_of: dict[str, list[int]] = {}
    with manifest.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                name, _ = _read_line(line.rstrip(b"\r\n"), manifest, number, ids)
                if hash(name) in twice:
                    lines_of.setdefault(name, []).append(number)
    repeated = {name: numbers for name, numbers in lines_of.items() if len(numbers) > 1}
    if repeated:
        shown = [f"{name!r} in lines {numbers[0]} and {numbers[1]}" for name, numbers in repeated.items()]
        slip = "--ids path names clips by path and start" if ids == "id" else "is a clip listed twice?"
        raise ValueError(f"{manifest}: {len(repeated)} ids occur more than once ({', '.join(shown[:NAMED])}); {slip}")
