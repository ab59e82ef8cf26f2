"""Any source of clips as a file of lines, a clip a line, which units are stretches of; and the audio of such a line.

A manifest in JSONL that states all durations is used where it lies. Everything else `corpus` reads is listed once in
the folder of tokens: compressed manifests, tables and other tools' lists, folders, and tars, which are read in place.
"""

import gzip
import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flexicodec.corpus.audio_reading import read_span, read_utterance
from flexicodec.corpus.layouts.scan import scan
from flexicodec.corpus.lists.fields import audio_name, folded
from flexicodec.corpus.lists.lhotse_cuts import cut_utterances
from flexicodec.corpus.lists.packed import packed_files, unpack
from flexicodec.corpus.lists.read import UnreadableClip, is_cut, row_utterance, with_unique_ids
from flexicodec.corpus.lists.rows import EXPECTED, ListRow, list_rows
from flexicodec.corpus.lists.tar_shards import ShardEntry, entry_of, scan_tar
from flexicodec.corpus.manifest import SHARD_FIELDS, Utterance, known_fields, write_manifest
from flexicodec.corpus.token_tables import HASH_BYTES
from flexicodec.io_utils import describe_missing, replacing
from flexicodec.token_corpus.marks import Marks

LISTED = "manifest.jsonl"  # in the folder of tokens
EXTRACTED = "audio"  # likewise: of Parquet files with audio in them
SHARD_KEY = "shard"  # of rows whose audio lies inside a tar

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class UnitClip:
    """A clip of a unit, which reads itself and notes that it does.

    Attributes:
        place: Among the clips of its unit.
        name: Path of its audio as the manifest has it.
        utterance: What the manifest says of it.
        entry: Where in a tar it lies; None for a file of its own.
        marks: Told before and after reading.
        audio_hash: Of the samples that were read.
    """

    place: int
    name: str
    utterance: Utterance
    entry: ShardEntry | None = None
    marks: Marks | None = None
    audio_hash: bytes | None = None

    def read(self, sample_rate: int) -> Float[Tensor, "1 samples"]:
        """Read the clip as mono."""
        if self.marks is not None:
            self.marks.begin([self.place])
        try:
            audio = self._audio(sample_rate)
        finally:  # a bad clip is no death
            if self.marks is not None:
                self.marks.end([self.place])
        self.audio_hash = blake2b(audio.tobytes(), digest_size=HASH_BYTES).digest()
        return torch.from_numpy(audio)[None]

    def _audio(self, sample_rate: int) -> Float[np.ndarray, " samples"]:
        if self.entry is None:
            return read_utterance(self.utterance, sample_rate)
        duration = self.utterance.duration if self.entry.is_part else None
        with self.entry.open() as file:
            return read_span(file, sample_rate, self.utterance.start, duration, channel=self.utterance.channel)


def line_clip(line: bytes, place: int, folder: Path, marks: Marks | None = None) -> UnitClip:
    """Make the clip of a line of a planned manifest; `folder` is the one its paths are relative to."""
    row = json.loads(line)
    if SHARD_KEY in row:
        entry = entry_of(Path(row[SHARD_KEY]), row)
        return UnitClip(place, str(entry.utterance.path), entry.utterance, entry, marks)
    row = folded(row)
    name = audio_name(row)
    if row.get("duration") == 0:  # not stated, and its file's header cannot be read: reading says why
        row = {**row, "duration": 1e-9}
    utterance, _ = row_utterance(row, folder, {})
    return UnitClip(place, name, utterance, marks=marks)


# ------------------------------------------------------------------------------------------------------ other sources


def is_plain(source: Path) -> bool:
    """Tell whether a source is JSONL with a clip a line, by its first line; other lines are seen while planning."""
    if not source.is_file() or source.suffix == ".gz" or packed_files(source):
        return False
    with source.open("rb") as file:
        first = next((line for line in file if line.strip()), b"")
    try:
        row = json.loads(first.decode("utf-8-sig"))
    except ValueError:
        return False
    return _begins_plain(row)


def states_clip(row: dict[str, Any]) -> bool:
    """Tell whether a row of JSONL is a single clip whose duration it states; a bad row is a `ValueError`."""
    if SHARD_KEY in row:
        return True
    if "segments" in row or is_cut(ListRow("", row), Path()):
        return False
    _, is_stated = row_utterance(folded(row), Path(), _NoFiles())
    return is_stated


def _begins_plain(row: Any) -> bool:
    """Tell whether a list begins with such a row; what is wrong with others is said where they are listed."""
    try:
        return isinstance(row, dict) and states_clip(row)
    except (TypeError, ValueError):
        return False


class _NoFiles(dict[Path, float]):
    """Durations of files for `row_utterance`, which reads no header then."""

    def __contains__(self, path: object) -> bool:
        return True

    def __missing__(self, path: Path) -> float:
        return float("inf")


def unpack_manifest(source: Path, folder: Path) -> bool:
    """Unpack a manifest as `LISTED` into the folder of tokens, if it is one, with a clip a line by its first line."""
    if not source.name.lower().endswith(".jsonl.gz"):
        return False
    first = next(list_rows(source), None)
    if first is None or not _begins_plain(dict(first.fields)):
        return False
    with replacing(folder / LISTED) as part, gzip.open(source) as packed, part.open("wb") as file:
        shutil.copyfileobj(packed, file, 2**20)
    return True


def list_source(source: Path, folder: Path) -> dict[str, int]:
    """Write a source as `LISTED` into the folder of tokens; return counts of what was left out, by reason."""
    target = folder / LISTED
    packed_paths = packed_files(source)
    if packed_paths:
        return _list_packed(packed_paths, source, folder)
    if source.is_dir():
        listing = scan(source)
        left_out = dict(listing.left_out)
        if listing.unreadable:
            left_out["files that cannot be read"] = len(listing.unreadable)
        utterances, _ = with_unique_ids(listing.utterances)
        write_manifest(target, utterances)
        return left_out
    if not source.is_file():
        raise FileNotFoundError(describe_missing(source))
    write_manifest(target, _listed_utterances(source))
    return {}


def _listed_utterances(source: Path) -> Iterator[Utterance]:
    """Read a list row by row; a clip whose duration is nowhere to be found has duration 0, and turns out bad."""
    rows = list_rows(source)
    first = next(rows, None)
    if first is None:
        raise ValueError(f"{source} lists no utterances")
    if is_cut(first, source):
        yield from cut_utterances(source)
        return
    file_seconds: dict[Path, float] = {}
    for where, fields in chain([first], rows):
        row = folded(fields)
        try:
            utterance, _ = row_utterance(row, source.parent, file_seconds)
        except UnreadableClip:
            utterance, _ = row_utterance({**row, "duration": 1e-9}, source.parent, file_seconds)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {EXPECTED} ({error})") from error
        yield utterance


def _list_packed(paths: list[Path], source: Path, folder: Path) -> dict[str, int]:
    """List the clips of tars, and extract those of tables; ids that repeat are replaced by paths."""
    left_out: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    for path in paths:
        if path.suffix.lower() != ".tar":
            listing = unpack(path, folder / EXTRACTED / path.name)
            left_out.update({f"rows of tables: {reason}": n for reason, n in listing.left_out.items()})
            left_out["rows of tables that cannot be read"] += len(listing.unreadable)
            rows += [_file_row(utterance) for utterance in listing.utterances]
            continue
        shard = path.resolve()
        scanned = scan_tar(shard)
        left_out.update({f"members of tars: {reason}": n for reason, n in scanned.passed_over.items()})
        left_out["clips of tars that cannot be read"] += len(scanned.unreadable)
        rows += [_shard_row(entry) for entry in scanned.entries]
    counts = Counter(row["id"] for row in rows)
    with replacing(folder / LISTED) as part, part.open("w", encoding="utf-8") as file:
        for row in rows:
            if counts[row["id"]] > 1:
                row["id"] = f"{row.get(SHARD_KEY, '')}/{row.get('name', row.get('path'))}".lstrip("/")
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    if not rows:
        raise ValueError(f"{source} holds no clips ({dict(left_out)})")
    return {reason: count for reason, count in left_out.items() if count}


def _shard_row(entry: ShardEntry) -> dict[str, Any]:
    utterance = entry.utterance
    row: dict[str, Any] = {SHARD_KEY: str(entry.shard), "name": utterance.path.relative_to(entry.shard).as_posix()}
    row |= {"offset": entry.offset, "size": entry.size, "duration": utterance.duration, "id": utterance.id}
    if entry.is_part:
        row["start"] = utterance.start
    return row | known_fields(utterance)


def _file_row(utterance: Utterance) -> dict[str, Any]:
    row: dict[str, Any] = {
        "path": str(utterance.path.resolve()),
        "start": utterance.start,
        "duration": utterance.duration,
    }
    return row | {"id": utterance.id} | known_fields(utterance, SHARD_FIELDS)
