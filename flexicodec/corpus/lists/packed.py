"""Corpora with the audio inside: Parquet and Arrow files of Hugging Face datasets, and tar shards.

`unpack` writes the audio of each clip to a file as it is, so that every other part of the package reads files only.
"""

import io
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import soundfile
from tqdm import tqdm

from flexicodec.audio import OpenedAudio
from flexicodec.corpus.audio_reading import UNREADABLE, read_duration
from flexicodec.corpus.layouts.scan import LIST_SUFFIXES, ScanResult
from flexicodec.corpus.lists.fields import SYNONYMS, audio_name, check_unknown_times, clip_times, folded, known_values
from flexicodec.corpus.lists.read import PACKED_SUFFIXES, decoded, in_their_files, with_unique_ids
from flexicodec.corpus.lists.tar_shards import SHAR_RECORDING, place_in_file, scan_tar, shar_field
from flexicodec.corpus.manifest import Utterance, resolve_path
from flexicodec.io_utils import AUDIO_SUFFIXES, needed_for, replacing

FILES_NAMED = 10
ROWS_AT_ONCE = 16  # of a table, with their audio in memory
SUFFIX_OF_FORMAT = {"WAVEX": ".wav", "RF64": ".wav", "OGG": ".ogg"}  # names of libsndfile that are no suffix

SUFFIX_OF_MAGIC = {b"ftyp": ".m4a", b"\x1aE\xdf\xa3": ".webm", b"OggS": ".ogg", b"0&\xb2u": ".wma", b"\xff\xf1": ".aac"}

EXTRACTED = ".audio"  # suffix of folders of audio that was extracted

_log = logging.getLogger(__name__)


def packed_files(path: Path) -> list[Path]:
    """List the packed files of a folder, or a file if it is one; none where a folder also holds audio files."""
    if path.is_file():
        return [path] if path.name.lower().endswith(PACKED_SUFFIXES) else []
    found = []
    audio_files = 0
    other_fields: Counter[str] = Counter()  # of a Shar
    for file in sorted(path.rglob("*")):
        suffix = file.suffix.lower()
        if suffix not in (*AUDIO_SUFFIXES, *PACKED_SUFFIXES):
            continue
        # What was extracted is here again, and Hugging Face's caches hold the same rows.
        if f"{EXTRACTED}/" in file.relative_to(path).as_posix() or file.name.startswith((".", "cache-")):
            continue
        if suffix in AUDIO_SUFFIXES:
            audio_files += 1
            continue
        field = shar_field(file)
        if field is not None and field[0] != SHAR_RECORDING:
            other_fields[field[0]] += 1
        elif file.is_file():
            found.append(file)
    for name, count in other_fields.items():
        _log.warning("%s: passed over %d tars with %s of a lhotse Shar", path, count, name)
    if found and audio_files:
        _log.warning("%s has audio files; its %d Parquet, Arrow and tar files are passed over", path, len(found))
        return []
    return found


def extracted_folder(manifest: Path) -> Path:
    """Name the folder beside a manifest for the audio that it was extracted to."""
    return manifest.with_name(Path(manifest.name.removesuffix(".gz")).stem + EXTRACTED)


def unpack(source: Path, folder: Path, check: bool = False) -> ScanResult:
    """Write the audio of packed files below `folder`, and list its clips; existing files are replaced.

    Args:
        source: A Parquet, Arrow or tar file, or a folder of them.
        folder: Each packed file gets a folder in it.
        check: Decode every clip, not only its header.
    """
    listing = ScanResult("packed", [], [])
    left_out: Counter[str] = Counter()
    counts = []
    for file in tqdm(packed_files(source), unit="file", disable=None):
        below = Path(file.name) if source.is_file() else file.relative_to(source)
        unpack_file = _unpack_tar if file.suffix.lower() == ".tar" else _unpack_table
        found = unpack_file(file, folder / below.with_suffix(""))
        counts.append(f"{below} {len(found.utterances)}")
        listing.utterances.extend(found.utterances)
        listing.unreadable.extend(found.unreadable)
        left_out.update(found.left_out)
    listing.left_out.update(left_out)
    more = f", and {len(counts) - FILES_NAMED} more" if len(counts) > FILES_NAMED else ""
    listing.remarks.append(f"clips by file: {', '.join(counts[:FILES_NAMED])}{more}")
    if source.is_dir() and not any(utterance.text for utterance in listing.utterances):
        lists = sorted(path.name for path in source.iterdir() if path.name.lower().endswith(LIST_SUFFIXES))
        if lists:  # NeMo's tarred_audio_manifest.json
            listing.remarks.append(f"no clip has a text; lists beside the files are not read: {', '.join(lists)}")
    listing = in_their_files(listing)
    utterances, repeated = with_unique_ids(listing.utterances)
    if repeated:
        listing.remarks.append(f"{repeated} clips have ids that are not unique; they are named by their files")
    listing = replace(listing, utterances=utterances)
    return decoded(listing) if check else listing


def _unpack_tar(shard: Path, folder: Path) -> ScanResult:
    scanned = scan_tar(shard)
    unreadable = [(f"{shard}/{name}", reason) for name, reason in scanned.unreadable]
    left_out = {f"members of tars: {reason}": count for reason, count in scanned.passed_over.items()}
    listing = ScanResult("tar", [], unreadable, left_out)
    taken: Counter[str] = Counter()
    for entry in scanned.entries:
        name = entry.utterance.path.relative_to(shard).as_posix()
        taken[name] += 1
        # Tars may have several members of one name.
        path = folder / (name if taken[name] == 1 else f"{taken[name]}/{name}")
        with entry.open() as file:
            _write(path, file.read())
        try:
            seconds = read_duration(path)
        except UNREADABLE as error:
            listing.unreadable.append((f"{shard}/{name}", str(error)))
            continue
        duration = entry.utterance.duration if entry.is_part else seconds
        listing.utterances.append(replace(entry.utterance, path=path, duration=duration))
    return listing


def _unpack_table(table: Path, folder: Path) -> ScanResult:
    listing = ScanResult("table", [], [])
    for number, fields in enumerate(_table_rows(table)):
        row = folded(fields)
        if isinstance(row.get("json"), Mapping):  # a WebDataset that Hugging Face has converted
            row = {**row, **folded(row["json"])}
        where = f"{table}: row {number}"
        try:
            values = known_values({key: value for key, value in row.items() if not isinstance(value, Mapping)})
            where += f" ({values['id']})" if "id" in values else ""
            path = _audio_file(table, row, folder, number)
            start, duration = clip_times(row)
            seconds = read_duration(path)
            if path.is_relative_to(folder):
                start, duration = place_in_file(start, duration, seconds)
            else:  # a list like others
                check_unknown_times(row, start, duration)
                duration = seconds - start if duration is None else duration
            if "alignment" in values:
                values["alignment"] = resolve_path(values["alignment"], table.parent)
            listing.utterances.append(Utterance(path, duration, start, **values))
        except UNREADABLE as error:
            listing.unreadable.append((where, str(error)))
    return listing


def _table_rows(path: Path) -> Iterator[dict[str, Any]]:
    with needed_for(str(path), "pyarrow"):
        import pyarrow
        import pyarrow.parquet
    if path.suffix.lower() == ".parquet":
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE):
                yield from batch.to_pylist()
        return
    with pyarrow.ipc.open_stream(path) as stream:  # as `save_to_disk` writes it
        for batch in stream:
            for first in range(0, batch.num_rows, ROWS_AT_ONCE):
                yield from batch.slice(first, ROWS_AT_ONCE).to_pylist()


def _audio_file(table: Path, row: Mapping[str, Any], folder: Path, number: int) -> Path:
    """Write the audio of a row, or return the file that it names."""
    value = _audio_value(row)
    if not isinstance(value, Mapping):
        return resolve_path(audio_name(row), table.parent)
    content = value.get("bytes")
    if content is None:
        if value.get("array") is not None:
            raise ValueError('its audio is decoded; write it with dataset.cast_column("audio", Audio(decode=False))')
        return resolve_path(audio_name({"audio": value}), table.parent)
    name = PurePosixPath(value.get("path") or "")
    suffix = name.suffix.lower()
    if suffix not in AUDIO_SUFFIXES:
        suffix = _suffix_of(content)
    stem = re.sub(r"[^\w.\-]", "_", name.stem)
    path = folder / (f"{number:06d}-{stem}{suffix}" if stem else f"{number:06d}{suffix}")
    _write(path, content)
    return path


def _audio_value(row: Mapping[str, Any]) -> Any:
    """Return the value of the audio column: a struct of bytes and path, bytes alone, or None for other columns."""
    columns = {}
    for key, value in row.items():
        if isinstance(value, bytes):
            columns[key] = {"bytes": value}
        elif isinstance(value, Mapping) and ({"bytes", "path"} <= value.keys() or "array" in value):
            columns[key] = dict(value)
    known = [key for key in SYNONYMS["path"] if key in columns]
    if not known and len(columns) > 1:
        raise ValueError(f"the columns {', '.join(columns)} hold audio; expected one, or one that is called audio")
    return columns[(known or list(columns))[0]] if columns else None


def _suffix_of(content: bytes) -> str:
    """Return the suffix of an encoded file."""
    try:
        kind = soundfile.info(io.BytesIO(content)).format
    except soundfile.SoundFileError:
        try:
            OpenedAudio(content).close()
        except ValueError as error:
            raise ValueError(f"its audio cannot be read: {error}") from error
        # What PyAV or our own rules read. The suffix is a name only: files are told by their content.
        return next((suffix for magic, suffix in SUFFIX_OF_MAGIC.items() if magic in content[:12]), ".mp3")
    return SUFFIX_OF_FORMAT.get(kind, f".{kind.lower()}")


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_bytes(content)
