"""Tar shards in WebDataset's layout, for corpora that do not fit on a local disk.

A shard is a plain tar file that any WebDataset reader takes: `000017.flac`, and `000017.json` with `duration` and what
else is known of the clip. `corpus.tar_shards` finds the clips, of other tools' tars too. `write_shards` also writes an
index, `shard-000000.index.jsonl`, which saves reading the headers of the tar.

webdataset's own pipelines cannot resume exactly, and give processes unequal shares. Here every process follows the same
order, and reads only the bytes of its own clips. So shards must be seekable files on a local or mounted file system.
An epoch takes the shards in random order, in blocks of at least `shuffle_buffer` clips, and the clips of each block in
random order. A resumed run skips whole blocks by counting.
"""

import glob
import io
import json
import logging
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Float
from tqdm import tqdm

from flexicodec.corpus.audio_reading import UNREADABLE, read_header, read_span, read_utterance, to_int16
from flexicodec.corpus.lists.tar_shards import ShardEntry, entry_of, scan_tar
from flexicodec.corpus.manifest import Filter, Utterance, known_fields, own_id
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

    def entries(self, shard: Path) -> list[ShardEntry]:
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
        entry = self._entry(clip)
        utterance = entry.utterance
        duration = utterance.duration if entry.is_part else None
        with entry.open() as file:
            return read_span(
                file, self.source.sample_rate, utterance.start, duration, first, samples, utterance.channel
            )

    def features(self, clip: int, first: int, samples: int) -> None:
        return None  # there is no cache of features for shards

    def _entry(self, clip: int) -> ShardEntry:
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


# ------------------------------------------------------------------------------------------------------------- indexes


def read_entries(shard: Path) -> list[ShardEntry]:
    """List the clips of a shard, in its order, from its index or else from the tar's headers."""
    index = index_path(shard)
    if index.exists():
        with index.open(encoding="utf-8") as file:
            if json.loads(next(file))["tar_bytes"] == shard.stat().st_size:
                return [entry_of(shard, json.loads(line)) for line in file]
        _log.warning("%s is of another %s; the tar is read instead", index, shard.name)
    listing = scan_tar(shard)
    listing.log(shard)
    return listing.entries


_recent_entries = lru_cache(maxsize=16)(read_entries)


def index_path(shard: Path) -> Path:
    """Name the index of a shard."""
    return shard.with_suffix(".index.jsonl")


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

    Whole files are copied, with all channels; parts of files become 16-bit FLAC at the file's rate, of their channel or
    the mean of all.
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
                entries = scan_tar(part).entries
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
                suffix, audio, fields = _encoded_clip(utterance)
            except UNREADABLE as error:
                unreadable.append((utterance, str(error)))
                continue
            _add(tar, f"{number:09d}{suffix}", audio)
            _add(tar, f"{number:09d}.json", json.dumps(fields, ensure_ascii=False).encode())
    return unreadable


def _encoded_clip(utterance: Utterance) -> tuple[str, bytes, dict[str, Any]]:
    """Return suffix and bytes of a clip, its file if the clip is all of it, else a FLAC file; and its JSON fields."""
    rate, frames = read_header(utterance.path)
    seconds = frames / rate
    suffix = utterance.path.suffix.lower()
    fields = known_fields(utterance)
    if (name := own_id(utterance)) is not None:
        fields["id"] = name
    # Manifests round durations: within 2 ms it is the whole file.
    if utterance.start == 0 and abs(utterance.duration - seconds) < 0.002 and suffix in AUDIO_SUFFIXES:
        return suffix, utterance.path.read_bytes(), {"duration": seconds, **fields}

    # A part of a file, or a format that shards do not take.
    audio = read_utterance(utterance, rate)
    buffer = io.BytesIO()
    soundfile.write(buffer, to_int16(audio), rate, format="FLAC")
    fields.pop("channel", None)  # the only one that was written
    return ".flac", buffer.getvalue(), {"duration": len(audio) / rate, **fields}


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _write_index(shard: Path, entries: Sequence[ShardEntry]) -> None:
    # The first row identifies the shard: an index of another one is not used.
    rows: list[dict[str, Any]] = [{"tar_bytes": shard.stat().st_size}]
    for entry in entries:
        row: dict[str, Any] = {"name": entry.utterance.path.name, "offset": entry.offset, "size": entry.size}
        row |= {"duration": entry.utterance.duration, **known_fields(entry.utterance)}
        if (name := own_id(entry.utterance)) is not None:
            row["id"] = name
        rows.append(row)
    with replacing(index_path(shard)) as part:
        part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
