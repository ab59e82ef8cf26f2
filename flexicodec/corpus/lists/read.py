"""Lists of utterances: JSONL, JSON and tables with a header, of this package and of other tools; lhotse cuts too.

    {"path": "anna/1.flac", "start": 0.5, "duration": 3.2, "text": "it began to rain"}     JSONL, a line per clip
    [{"audio_filepath": ...}, ...]   {"utt1": {"wav": ...}, ...}   {"audios": [{"path": ..., "segments": [...]}]}
    path<TAB>sentence                audio_file|text               also without a header, where columns are plain

Keys have synonyms (`fields.py`). A duration that is not stated is the file's, from its header.
"""

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from flexicodec.corpus.audio_reading import TOLERANCE, UNREADABLE, read_duration, read_utterance
from flexicodec.corpus.layouts.folder import AudioHeaders
from flexicodec.corpus.layouts.scan import ScanResult
from flexicodec.corpus.lists.fields import (
    SYNONYMS,
    Row,
    audio_name,
    check_unknown_times,
    clip_times,
    folded,
    known_values,
)
from flexicodec.corpus.lists.lhotse_cuts import cut_utterances
from flexicodec.corpus.lists.rows import EXPECTED, ListRow, list_rows
from flexicodec.corpus.manifest import Utterance, default_id, resolve_path

PACKED_SUFFIXES = (".parquet", ".arrow", ".tar")  # files with the audio in them
KALDI_FILES = ("wav.scp", "segments", "text", "utt2spk", "reco2file_and_channel")
COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".zip")
AUDIO_FOLDERS = ("clips", "wavs")  # of Common Voice and LJSpeech, which name files without them

_log = logging.getLogger(__name__)


class UnreadableClip(Exception):
    """A row is right, but its audio file's header cannot be read."""


def read_manifest(path: str | Path) -> list[Utterance]:
    """Read a manifest, another tool's list or lhotse cuts, plain or `.gz`.

    A bad line, or one whose duration is neither stated nor in its file's header, is a `ValueError` with its number;
    cuts need lhotse to be installed.
    """
    listing = _read(Path(path))
    if listing.unreadable:
        where, reason = listing.unreadable[0]
        more = f"; {len(listing.unreadable)} clips in all" if len(listing.unreadable) > 1 else ""
        raise ValueError(f"{where}: {EXPECTED} ({reason}{more})")
    for remark in listing.remarks:
        _log.info("%s: %s", path, remark)
    return listing.utterances


def _read(path: Path) -> ScanResult:
    if path.name.lower().endswith(COMPRESSED_SUFFIXES):
        raise ValueError(f"{path} is a compressed archive; unpack it first")
    if path.name in KALDI_FILES or path.suffix == ".scp":
        raise ValueError(f"{path} is a part of a Kaldi directory (wav.scp); give `flexicodec manifest` the directory")
    if path.is_dir() or path.name.lower().endswith(PACKED_SUFFIXES):
        raise ValueError(
            f"{path} is no list of clips; `flexicodec manifest {path} -o LIST.jsonl` makes one of a folder, and of "
            "Parquet and tar files, whose audio it extracts"
        )
    rows = list_rows(path)
    first = next(rows, None)
    if first is None:
        raise ValueError(f"{path} lists no utterances")
    if is_cut(first, path):
        listing = ScanResult("lhotse cuts", cut_utterances(path), [])
    else:
        listing = _read_rows(path, chain([first], rows))
    return listing


def read_list(path: str | Path, check: bool = False) -> ScanResult:
    """Read the same lists, and the headers of the files: clips that these do not have are named beside the others.

    Ids that repeat are replaced. `check` decodes every clip, not only the header of its file.
    """
    listing = in_their_files(_read(Path(path)))
    utterances, repeated = with_unique_ids(listing.utterances)
    if repeated:
        listing.remarks.append(f"{repeated} clips have ids that are not unique; they are named by their files")
    listing = replace(listing, utterances=utterances)
    return decoded(listing) if check else listing


def read_field(path: str | Path, name: str) -> list[Any]:
    """Read one field of every line of a manifest, such as gender or emotion, in the order of `read_manifest`.

    Values are None where a line lacks the field; a field that no line has is a `ValueError`. Fields of `Utterance` are
    read whatever a list calls them, those of lhotse cuts too.
    """
    path = Path(path)
    listed = list(list_rows(path))
    rows = [row.fields for row in listed]
    keys = dict.fromkeys(key for row in rows for key in row)
    if listed and (name not in keys or is_cut(listed[0], path)):
        rows = [vars(utterance) for utterance in read_manifest(path)]
        if is_cut(listed[0], path):  # the keys of cuts are not those of manifests
            keys = dict.fromkeys(vars(rows[0]))
    if all(row.get(name) is None for row in rows):
        known = ", ".join(keys)
        raise ValueError(f"no line of {path} has a field {name!r}; known fields: {known or 'none, it has no lines'}")
    return [row.get(name) for row in rows]


def is_cut(row: ListRow, path: Path) -> bool:
    """Tell lhotse cuts by a row; lhotse's other manifests are a `ValueError`."""
    if "sources" in row.fields and "sampling_rate" in row.fields:
        raise ValueError(f"{path} holds lhotse recordings; make cuts of them with `lhotse cut simple`")
    if {"recording_id", "start", "duration"} <= row.fields.keys() and "type" not in row.fields:
        raise ValueError(
            f"{path} holds lhotse supervisions; make cuts of them and their recordings with `lhotse cut simple`"
        )
    return str(row.fields.get("type", "")).endswith("Cut")


# ------------------------------------------------------------------------------------------------- rows to utterances


def _read_rows(path: Path, rows: Iterable[ListRow]) -> ScanResult:
    listing = ScanResult("manifest", [], [])
    file_seconds: dict[Path, float] = {}  # of files, which may hold many clips
    measured = 0
    for where, fields in rows:
        row = folded(fields)
        try:
            utterance, is_stated = row_utterance(row, path.parent, file_seconds)
            if is_stated and not listing.utterances:
                _check_unit(utterance)
        except UnreadableClip as error:
            listing.unreadable.append((_named(where, row), str(error)))
            continue
        except (TypeError, ValueError) as error:
            raise ValueError(f"{_named(where, row)}: {EXPECTED} ({error})") from error
        measured += not is_stated
        listing.utterances.append(utterance)
    if measured:
        total = len(listing.utterances)
        listing.remarks.append(f"{measured} of {total} durations are those of the files: the list does not state them")
    return listing


def row_utterance(row: Row, folder: Path, file_seconds: dict[Path, float]) -> tuple[Utterance, bool]:
    """Make an utterance of a folded row, and say whether the row states its duration."""
    name = audio_name(row)
    path = _audio_path(name, folder)
    values = known_values(row)
    start, duration = clip_times(row)
    check_unknown_times(row, start, duration)
    is_stated = duration is not None
    if duration is None:
        try:
            if path not in file_seconds:
                if not path.is_file():
                    raise FileNotFoundError(f"no such audio file: {path}")
                file_seconds[path] = read_duration(path)
        except UNREADABLE as error:
            raise UnreadableClip(str(error)) from error
        duration = file_seconds[path] - start
        if not duration > 0:
            raise ValueError(f"it starts at {start:g} s, and {path} ends at {file_seconds[path]:g} s")
    if "alignment" in values:
        values["alignment"] = resolve_path(values["alignment"], folder)
    values["id"] = values.get("id") or default_id(name, start, values.get("channel"))
    return Utterance(path, duration, start, **values), is_stated


def _audio_path(name: str, folder: Path) -> Path:
    path = resolve_path(name, folder)
    if "/" not in name and not path.exists():
        for below in AUDIO_FOLDERS:
            if (folder / below / name).is_file():
                return folder / below / name
    return path


def _check_unit(utterance: Utterance) -> None:
    """Check against the first file that times are no milliseconds or samples."""
    try:
        seconds = read_duration(utterance.path)
    except UNREADABLE:  # said where it is read
        return
    if utterance.duration > 100 * seconds:
        raise ValueError(
            f"duration is {utterance.duration:g}, but {utterance.path} has {seconds:g} s; milliseconds are to be "
            "called duration_ms, and samples to be left out"
        )


def in_their_files(listing: ScanResult) -> ScanResult:
    """Keep the clips that lie within their files, by the headers, and count those read as the mean of channels."""
    result = replace(listing, utterances=[], unreadable=list(listing.unreadable), remarks=list(listing.remarks))
    headers = AudioHeaders()
    counts: Counter[str] = Counter()
    for utterance in listing.utterances:
        try:
            if not utterance.path.is_file():
                raise FileNotFoundError(f"no such audio file: {utterance.path}")
            seconds, channels = headers[utterance.path]
            end = utterance.start + utterance.duration
            if end > seconds + TOLERANCE or utterance.start >= seconds:
                raise ValueError(f"it is said to end at {end:g} s, but {utterance.path} ends at {seconds:g} s")
            if utterance.channel is not None and utterance.channel >= channels:
                raise ValueError(f"channel {utterance.channel} (from 0) is named, but {utterance.path} has {channels}")
        except UNREADABLE as error:
            result.unreadable.append((utterance.id, str(error)))
            continue
        counts["have several channels and name none: the mean is read"] += utterance.channel is None and channels > 1
        result.utterances.append(utterance)
    result.remarks.extend(f"{count} clips {what}" for what, count in counts.items() if count)
    return result


def with_unique_ids(utterances: list[Utterance]) -> tuple[list[Utterance], int]:
    """Name clips whose id is not unique (FLEURS has ids of sentences) by their files, and count them."""
    counts = Counter(utterance.id for utterance in utterances)
    repeated = sum(counts[utterance.id] > 1 for utterance in utterances)
    return [replace(each, id="") if counts[each.id] > 1 else each for each in utterances], repeated


def decoded(listing: ScanResult) -> ScanResult:
    """Keep the clips that can be decoded."""
    result = replace(listing, utterances=[], unreadable=list(listing.unreadable))
    for utterance in listing.utterances:
        try:
            read_utterance(utterance, 16_000)
            result.utterances.append(utterance)
        except UNREADABLE as error:
            result.unreadable.append((utterance.id, str(error)))
    return result


def _named(where: str, row: Row) -> str:
    """Name a row by its place, and its id if it has one."""
    name = next((row[key] for key in SYNONYMS["id"] if row.get(key)), None)
    return where if name is None else f"{where} ({name})"
