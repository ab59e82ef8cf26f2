"""Tar shards in WebDataset's layout: what lies where in them.

A shard is a plain tar file. Files of a clip stand together and share their name up to the first dot: `000017.flac` and
`000017.json`, which holds `duration` and, where known, `text`, `speaker` and `corpus`; transcripts in `.txt` are read
too, and a missing duration is asked from the audio's header. Any WebDataset reader takes these shards.

Beside a shard that `write_shards` made lies an index, `shard-000000.index.jsonl`, that saves walking through the tar.
"""

import io
import json
import logging
import math
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexicodec.corpus.manifest import Utterance
from flexicodec.corpus.reading import UNREADABLE, seconds_of
from flexicodec.io_utils import AUDIO_SUFFIXES

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Member:
    """A clip in a shard.

    Attributes:
        shard: The tar file.
        utterance: What it is; its path names the file in the shard, as `shard.tar/000017.flac`.
        offset: Where its audio begins, in bytes.
        size: Bytes of its audio.
    """

    shard: Path
    utterance: Utterance
    offset: int
    size: int

    def open(self) -> "Window":
        """Open its audio."""
        return Window(self.shard, self.offset, self.size, str(self.utterance.path))


class Window(io.RawIOBase):
    """A stretch of a file as a file of its own, so that a decoder reads only the bytes it needs."""

    def __init__(self, path: Path, offset: int, size: int, name: str):
        super().__init__()
        self._file, self._offset, self._size, self._name = path.open("rb", buffering=0), offset, size, name
        self._position = 0

    def __str__(self) -> str:
        return self._name

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """It can be searched."""
        return True

    def tell(self) -> int:
        """Where in the stretch reading goes on."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place in the stretch."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read what fits into the buffer and lies in the stretch."""
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


def members(shard: Path) -> list[Member]:
    """List the clips of a shard, in its order, from its index or else from the tar's headers.

    A clip whose duration cannot be found, and whatever follows a torn end, is left out with a warning.

    Raises:
        ValueError: The file is no plain tar file; compressed ones cannot be searched.
    """
    index = index_path(shard)
    if index.exists():
        with index.open(encoding="utf-8") as file:
            if json.loads(next(file))["tar_bytes"] == shard.stat().st_size:
                rows = (json.loads(line) for line in file)
                return [_member(shard, row["name"], row["offset"], row["size"], row) for row in rows]
        _log.warning("%s is of another %s; the tar is read instead", index, shard.name)
    return list(walk(shard))


def index_path(shard: Path) -> Path:
    """Where the index of a shard lies."""
    return shard.with_suffix(".index.jsonl")


def walk(shard: Path) -> Iterator[Member]:
    """Go through a tar from header to header, as `members` does without an index."""
    try:
        with tarfile.open(shard, "r:") as tar:
            held: dict[str, tarfile.TarInfo] = {}
            key = None
            while (info := _next(tar, shard)) is not None:
                folder, _, name = info.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                if (folder, stem) != key:
                    yield from _clip(tar, shard, held)
                    held, key = {}, (folder, stem)
                if info.isfile():
                    held[f".{suffix.lower()}"] = info
            yield from _clip(tar, shard, held)
    except tarfile.ReadError as error:
        raise ValueError(f"{shard} is no plain tar file ({error}); compressed shards have to be unpacked") from error


def _next(tar: tarfile.TarFile, shard: Path) -> tarfile.TarInfo | None:
    try:
        info = tar.next()
    except tarfile.ReadError as error:
        _log.warning("%s is torn: %s; what follows is left out", shard, error)
        return None
    tar.members = []  # type: ignore[attr-defined]  # or else tarfile keeps every header
    return info


def _clip(tar: tarfile.TarFile, shard: Path, held: dict[str, tarfile.TarInfo]) -> Iterator[Member]:
    """Yield the clip that a group of files makes, if it is one."""
    audio = next((info for suffix, info in held.items() if suffix in AUDIO_SUFFIXES), None)
    if audio is None:
        return
    known: dict[str, Any] = {}
    try:
        if ".txt" in held:
            known["text"] = _content(tar, held[".txt"]).decode().strip()
        if ".json" in held:
            known.update(json.loads(_content(tar, held[".json"])))
        if "duration" not in known:
            with Window(shard, audio.offset_data, audio.size, f"{shard}/{audio.name}") as window:
                known["duration"] = seconds_of(window)
        yield _member(shard, audio.name, audio.offset_data, audio.size, known)
    except (*UNREADABLE, KeyError, TypeError) as error:
        _log.warning("left out %s/%s: %s", shard, audio.name, error)


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(info)
    assert file is not None
    return file.read()


def _member(shard: Path, name: str, offset: int, size: int, known: dict[str, Any]) -> Member:
    text, speaker, corpus = known.get("text"), known.get("speaker"), known.get("corpus")
    duration = float(known["duration"])
    if not (math.isfinite(duration) and duration > 0):
        raise ValueError(f"its duration is {duration}; expected seconds above 0")
    utterance = Utterance(shard / name, duration, text=text, speaker=speaker, corpus=corpus)
    return Member(shard, utterance, offset, size)
