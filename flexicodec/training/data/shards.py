"""Tar shards in WebDataset's layout, for corpora that do not fit on a local disk.

A shard is a plain tar file that any WebDataset reader takes. The files of a clip are adjacent and share their name up
to the first dot: `000017.flac`, and `000017.json` with `duration` and optionally `text`, `speaker` and `corpus`.
Transcripts in `.txt` are read too, and a missing duration is taken from the audio's header. `write_shards` also writes
an index, `shard-000000.index.jsonl`, which saves reading the headers of the tar.

webdataset's own pipelines cannot resume exactly, and give processes unequal shares. Here every process follows the same
order, and reads only the bytes of its own clips. So shards must be seekable files on a local or mounted file system.
An epoch takes the shards in random order, in blocks of at least `shuffle_buffer` clips, and the clips of each block in
random order. A resumed run skips whole blocks by counting.
"""

import glob
import io
import json
import logging
import math
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Float
from tqdm import tqdm

from flexicodec.corpus.audio_reading import UNREADABLE, read_duration, read_header, read_span, read_utterance, to_int16
from flexicodec.corpus.manifest import Filter, Utterance, known_fields
from flexicodec.io_utils import AUDIO_SUFFIXES, replacing
from flexicodec.training.data.sampler import Clips, Purpose, rng_for

_log = logging.getLogger(__name__)


# ------------------------------------------------------------------------------------------------------- training clips


@dataclass(frozen=True)
class ShardSource:
    """Clips from tar shards, of which at least `shuffle_buffer` are shuffled together."""

    shards: Sequence[Path]
    sample_rate: int
    seed: int
    shuffle_buffer: int
    wanted: Filter
    _seconds: dict[Path, Float[np.ndarray, " clips"]] = field(default_factory=dict)

    def blocks(self, epoch: int) -> Iterator[Clips]:
        """Yield the clips of an epoch in blocks."""
        block: list[Path] = []
        clips = 0
        for position in rng_for(Purpose.SHARDS, self.seed, epoch).permutation(len(self.shards)):
            block.append(self.shards[position])  # durations are known from the index, without reading audio
            clips += len(self.seconds(self.shards[position]))
            if clips >= self.shuffle_buffer:
                yield _ShardClips(self, block)
                block = []
                clips = 0
        if block:
            yield _ShardClips(self, block)

    def seconds(self, shard: Path) -> Float[np.ndarray, " clips"]:
        """Return the durations of a shard's clips; these stay in memory, the entries do not."""
        if shard not in self._seconds:
            entries = _recent_entries(shard)
            kept = self.wanted.select([entry.utterance for entry in entries], str(shard))
            self._seconds[shard] = np.array([entries[index].utterance.duration for index in kept])
        return self._seconds[shard]

    def entries(self, shard: Path) -> list["ShardEntry"]:
        """Return the entries of the same clips."""
        entries = _recent_entries(shard)
        return [entries[index] for index in self.wanted.indices([entry.utterance for entry in entries])]


class _ShardClips:
    """The clips of a few shards."""

    def __init__(self, source: ShardSource, shards: Sequence[Path]):
        self.source = source
        self.shards = shards
        self.seconds: Float[np.ndarray, " clips"] = np.concatenate([source.seconds(shard) for shard in shards])
        self._entries: list[ShardEntry] | None = None

    def text(self, clip: int) -> str | None:
        return self._entry(clip).utterance.text

    def read(self, clip: int, first: int = 0, samples: int | None = None) -> Float[np.ndarray, " samples"]:
        with self._entry(clip).open() as file:
            return read_span(file, self.source.sample_rate, first=first, samples=samples)

    def _entry(self, clip: int) -> "ShardEntry":
        if self._entries is None:  # only of blocks that are read: resuming skips others
            self._entries = [entry for shard in self.shards for entry in self.source.entries(shard)]
        return self._entries[clip]


def find_shards(patterns: Sequence[str]) -> list[Path]:
    """List the files that paths and glob patterns name, sorted, each once."""
    found: set[Path] = set()
    for pattern in patterns:
        if "://" in pattern or pattern.startswith("pipe:"):
            raise ValueError(f"shards {pattern!r} are no files; mount where they are (streams are not seekable)")
        matches = glob.glob(pattern, recursive=True)
        if not matches:
            raise ValueError(f"no shards match {pattern!r} (expected a path or a glob pattern such as 'speech/*.tar')")
        found.update(Path(match) for match in matches)
    _log.info("%d shards", len(found))
    return sorted(found)


# -------------------------------------------------------------------------------------------------- entries of a shard


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
    """A clip in a shard: bytes `offset` to `offset + size` are its audio file, `shard.tar/000017.flac` its path."""

    shard: Path
    utterance: Utterance
    offset: int
    size: int

    def open(self) -> FileSlice:
        """Open its audio."""
        return FileSlice(self.shard, self.offset, self.size, str(self.utterance.path))


def read_entries(shard: Path) -> list[ShardEntry]:
    """List the clips of a shard, in its order, from its index or else from the tar's headers."""
    index = index_path(shard)
    if index.exists():
        with index.open(encoding="utf-8") as file:
            if json.loads(next(file))["tar_bytes"] == shard.stat().st_size:
                return [_entry(shard, json.loads(line)) for line in file]
        _log.warning("%s is of another %s; the tar is read instead", index, shard.name)
    return list(scan_tar(shard))


_recent_entries = lru_cache(maxsize=16)(read_entries)


def index_path(shard: Path) -> Path:
    """Name the index of a shard."""
    return shard.with_suffix(".index.jsonl")


def scan_tar(shard: Path) -> Iterator[ShardEntry]:
    """List the clips of a tar by its headers; a clip without duration or beyond a torn end is left out and logged."""
    try:
        with tarfile.open(shard, "r:") as tar:
            # Adjacent files with the same folder and name are a clip.
            for _, group in groupby(_headers(tar, shard), key=lambda info: _split(info.name)[:2]):
                files = {"." + _split(info.name)[2].lower(): info for info in group if info.isfile()}
                audio = next((suffix for suffix in files if suffix in AUDIO_SUFFIXES), None)
                if audio is None:
                    continue
                try:
                    yield _tar_entry(tar, shard, files, files[audio])
                except (*UNREADABLE, KeyError, TypeError) as error:
                    _log.warning("left out %s/%s: %s", shard, files[audio].name, error)
    except tarfile.ReadError as error:
        raise ValueError(f"{shard} is no plain tar file ({error}); compressed shards have to be unpacked") from error


def _headers(tar: tarfile.TarFile, shard: Path) -> Iterator[tarfile.TarInfo]:
    try:
        while (info := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # or else tarfile keeps every header
            yield info
    except tarfile.ReadError as error:
        _log.warning("%s is torn: %s; what follows is left out", shard, error)


def _split(name: str) -> tuple[str, str, str]:
    """Split a name into folder, clip and suffix."""
    folder, _, file = name.rpartition("/")
    clip, _, suffix = file.partition(".")
    return folder, clip, suffix


def _tar_entry(
    tar: tarfile.TarFile, shard: Path, files: dict[str, tarfile.TarInfo], audio: tarfile.TarInfo
) -> ShardEntry:
    fields: dict[str, Any] = {}
    if ".txt" in files:
        fields["text"] = _content(tar, files[".txt"]).decode().strip()
    if ".json" in files:
        fields.update(json.loads(_content(tar, files[".json"])))
    if "duration" not in fields:
        with FileSlice(shard, audio.offset_data, audio.size, f"{shard}/{audio.name}") as file:
            fields["duration"] = read_duration(file)
    return _entry(shard, {**fields, "name": audio.name, "offset": audio.offset_data, "size": audio.size})


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(info)
    assert file is not None
    return file.read()


def _entry(shard: Path, row: dict[str, Any]) -> ShardEntry:
    """Make an entry of a row of the index."""
    duration = float(row["duration"])
    if not (math.isfinite(duration) and duration > 0):
        raise ValueError(f"its duration is {duration}; expected seconds above 0")
    path = shard / row["name"]
    utterance = Utterance(path, duration, text=row.get("text"), speaker=row.get("speaker"), corpus=row.get("corpus"))
    return ShardEntry(shard, utterance, row["offset"], row["size"])


# -------------------------------------------------------------------------------------------------------------- writing


@dataclass(frozen=True)
class WrittenShards:
    """What `write_shards` wrote, and which utterances could not be read, with the reason."""

    shards: list[Path]
    clips: int
    unreadable: list[tuple[Utterance, str]]


def write_shards(
    utterances: Sequence[Utterance], folder: str | os.PathLike[str], clips_per_shard: int = 500, seed: int = 0
) -> WrittenShards:
    """Write `shard-000000.tar` and so on, in random order, because training shuffles only within a few shards.

    Whole files are copied; parts of files become 16-bit FLAC at the file's rate, channels averaged.
    """
    folder = Path(folder)
    if clips_per_shard < 1:
        raise ValueError(f"clips_per_shard is {clips_per_shard}, expected at least 1")
    if any(folder.glob("shard-*.tar")):
        raise ValueError(f"{folder} holds shards already; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)

    # Shard by shard, each with its index.
    order = np.random.default_rng(seed).permutation(len(utterances)).tolist()
    shards: list[Path] = []
    clips = 0
    unreadable: list[tuple[Utterance, str]] = []
    with tqdm(total=len(order), unit="clip", disable=None) as bar:
        for begin in range(0, len(order), clips_per_shard):
            shard = folder / f"shard-{begin // clips_per_shard:06d}.tar"
            numbered = {number: utterances[number] for number in order[begin : begin + clips_per_shard]}
            with replacing(shard) as part:
                unreadable += _write_tar(part, numbered, bar)
                # Offsets are read back from the headers, which also checks the file.
                entries = list(scan_tar(part))
            _write_index(shard, entries)
            shards.append(shard)
            clips += len(entries)
    if not clips:
        raise ValueError(f"none of {len(utterances)} utterances can be read; the first: {unreadable[0][1]}")
    return WrittenShards(shards, clips, unreadable)


def _write_tar(path: Path, numbered: dict[int, Utterance], bar: Any) -> list[tuple[Utterance, str]]:
    """Write clips, and return those that cannot be read."""
    unreadable = []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, utterance in numbered.items():
            bar.update()
            try:
                suffix, audio, seconds = _encoded_audio(utterance)
            except UNREADABLE as error:
                unreadable.append((utterance, str(error)))
                continue
            fields = {"duration": seconds, **known_fields(utterance)}
            _add(tar, f"{number:09d}{suffix}", audio)
            _add(tar, f"{number:09d}.json", json.dumps(fields, ensure_ascii=False).encode())
    return unreadable


def _encoded_audio(utterance: Utterance) -> tuple[str, bytes, float]:
    """Return suffix, bytes and seconds of a clip: its file if the clip is all of it, else a FLAC file."""
    rate, frames = read_header(utterance.path)
    seconds = frames / rate
    suffix = utterance.path.suffix.lower()
    # Manifests round durations: within 2 ms it is the whole file.
    if utterance.start == 0 and abs(utterance.duration - seconds) < 0.002 and suffix in AUDIO_SUFFIXES:
        return suffix, utterance.path.read_bytes(), seconds

    # A part of a file, or a format that shards do not take.
    audio = read_utterance(utterance, rate)
    buffer = io.BytesIO()
    soundfile.write(buffer, to_int16(audio), rate, format="FLAC")
    return ".flac", buffer.getvalue(), len(audio) / rate


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _write_index(shard: Path, entries: Sequence[ShardEntry]) -> None:
    # The first row identifies the shard: an index of another one is not used.
    rows: list[dict[str, Any]] = [{"tar_bytes": shard.stat().st_size}]
    for entry in entries:
        place = {"name": entry.utterance.path.name, "offset": entry.offset, "size": entry.size}
        rows.append({**place, "duration": entry.utterance.duration, **known_fields(entry.utterance)})
    with replacing(index_path(shard)) as part:
        part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
