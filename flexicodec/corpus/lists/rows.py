"""Rows of list files: JSONL, JSON documents and tables, each row with the place where it stands.

Every row is a mapping of keys as the file has them; what the keys mean is `fields.py`.
"""

import csv
import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from flexicodec.corpus.lists.fields import SYNONYMS, TIME_KEYS, Row, folded
from flexicodec.io_utils import AUDIO_SUFFIXES

EXPECTED = "expected a JSON object, or a row of a table, with an audio file and times in seconds"
# Keys of a JSON document that hold its rows; GigaSpeech and WenetSpeech have `audios`, each with `segments`.
ROWS_KEYS = ("audios", "utterances", "utts", "data", "items", "clips", "segments")
# Columns of tables without a header: lists of files; VITS and Matcha; GPT-SoVITS and Bert-VITS2.
HEADERLESS = {1: ("path",), 2: ("path", "text"), 4: ("path", "speaker", "language", "text")}


class ListRow(NamedTuple):
    """A row of a list: file and line, and its keys and values."""

    where: str
    fields: Row


class _Table(NamedTuple):
    """How the lines of a table are read."""

    delimiter: str
    columns: list[str]
    header_lines: int
    folder: str = ""  # of the files, of a list that states it
    suffix: str = ""  # of the files, of a list that leaves it out


def list_rows(path: Path) -> Iterator[ListRow]:
    """Yield the rows of a list, with keys as they are; rows with `segments` are a row for each of these."""
    try:
        yield from _rows(path)
    except UnicodeDecodeError as error:
        slip = "is it audio?" if _names_audio(path.name) else "convert it with iconv"
        raise ValueError(f"{path} is no text in UTF-8 ({error}); {slip}") from error


def _rows(path: Path) -> Iterator[ListRow]:
    with _open(path) as file:
        first = next((line for line in file if line.strip()), "")
    if not first:
        return
    found = _json_rows(path, first) if first.lstrip()[0] in "{[" else _table_rows(path)
    for where, fields in found:
        if not isinstance(fields, Mapping):
            raise ValueError(f"{where}: {EXPECTED} (it is {type(fields).__name__})")
        segments = fields.get("segments")
        if isinstance(segments, list) and segments and all(isinstance(segment, Mapping) for segment in segments):
            yield from _segment_rows(where, fields, segments)
        else:
            yield ListRow(where, fields)


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig")
    return path.open(encoding="utf-8-sig", newline=None)


def _json_rows(path: Path, first: str) -> Iterator[tuple[str, Any]]:
    """Yield rows of JSONL, or of one JSON document."""
    try:
        document = json.loads(first)
    except ValueError:  # a document on several lines
        with _open(path) as file:
            try:
                document = json.load(file)
            except ValueError as error:
                line = getattr(error, "lineno", 1)
                raise ValueError(f"{path}:{line}: {EXPECTED} ({error})") from error
        yield from _document_rows(path, document)
        return
    if _is_document(document):
        yield from _document_rows(path, document)
        return
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise ValueError(f"{path}:{number}: {EXPECTED} ({error})") from error
                yield f"{path}:{number}", row


def _is_document(value: Any) -> bool:
    """Tell a whole document from the first row of JSONL."""
    if isinstance(value, list):
        return True
    return not any(key in value for key in SYNONYMS["path"]) and (
        any(isinstance(value.get(key), list | Mapping) for key in ROWS_KEYS)
        or (len(value) > 0 and all(isinstance(row, Mapping) for row in value.values()))
    )


def _document_rows(path: Path, document: Any) -> Iterator[tuple[str, Any]]:
    """Yield the rows of an array, of an object of ids, or of an object with a list of them and what they share."""
    shared: dict[str, Any] = {}
    rows = document
    if isinstance(document, Mapping) and any(key in document for key in SYNONYMS["path"]):
        rows = [document]
    elif isinstance(document, Mapping):
        name = next((key for key in ROWS_KEYS if isinstance(document.get(key), list | Mapping)), None)
        if name is not None:
            rows = document[name]
            shared = {key: document[key] for key in ("language", "dataset") if key in document}
        if isinstance(rows, Mapping):  # by id, as SpeechBrain has them
            is_by_id = len(rows) > 0 and all(isinstance(row, Mapping) for row in rows.values())
            rows = [{"id": key, **row} for key, row in rows.items()] if is_by_id else [rows]
    for number, row in enumerate(rows, start=1):
        yield f"{path}: entry {number}", {**shared, **row} if isinstance(row, Mapping) else row


def _segment_rows(where: str, recording: Row, segments: list[Row]) -> Iterator[ListRow]:
    """Yield the segments of a recording (GigaSpeech, Whisper): times and texts are theirs, all else may be shared."""
    shared = {}
    for key, value in recording.items():
        name = next(iter(folded({key: value})))
        own = name in ("segments", *SYNONYMS["text"], *SYNONYMS["id"])
        field, _ = TIME_KEYS.get(name, ("", 0.0))
        if field == "start" and value not in (0, None):
            raise ValueError(
                f"{where}: it has segments and a start of its own ({key} {value!r}); expected one of the two"
            )
        if not own and not field:
            shared[key] = value
    for number, segment in enumerate(segments, start=1):
        own_values = {key: value for key, value in segment.items() if value is not None}
        if isinstance(own_values.get("id"), int):  # Whisper numbers the segments of each file
            del own_values["id"]
        yield ListRow(f"{where}, segment {number}", {**shared, **own_values})


def _table_rows(path: Path) -> Iterator[tuple[str, Any]]:
    with _open(path) as file:
        lines = list(file)
    written = [line.rstrip("\n") for line in lines if line.strip()]
    layout = _table_layout(path, written[0], written[1] if len(written) > 1 else "")
    table = _csv(lines, layout.delimiter)
    header_lines = layout.header_lines
    for cells in table:
        if not any(cell.strip() for cell in cells):
            continue
        if header_lines:
            header_lines -= 1
            continue
        where = f"{path}:{table.line_num}"
        if len(cells) != len(layout.columns):
            raise ValueError(f"{where}: {len(cells)} columns, expected {len(layout.columns)}: {layout.columns}")
        row = {name: cell for name, cell in zip(layout.columns, cells, strict=True) if cell.strip()}
        if "path" in row and (layout.folder or layout.suffix):
            row["path"] = str(Path(layout.folder) / row["path"]) + layout.suffix
        yield where, row


def _table_layout(path: Path, first: str, second: str) -> _Table:
    """Tell columns by the header, or where there is none, by a first column that names audio files."""
    file, _, samples = second.partition("\t")
    if "\t" not in first and _names_audio(file) and samples.isdecimal():  # fairseq: a folder, then file and samples
        return _Table("\t", ["path", "num_samples"], 1, folder=first)
    delimiter = next((mark for mark in "\t|,;" if mark in first), "\t")
    columns = next(_csv([first], delimiter))
    if any(name in SYNONYMS["path"] for name in folded(dict.fromkeys(columns))):
        return _Table(delimiter, columns, 1)

    # Columns of lists without a header, as far as they are plain.
    if delimiter == "|" and len(columns) == 3 and not _names_audio(columns[0]):  # LJSpeech's metadata.csv
        return _Table(delimiter, ["path", "text", "normalized_text"], 0, suffix=".wav")
    is_plain = delimiter in "\t|" and _names_audio(columns[0]) and len(columns) in HEADERLESS
    if is_plain and (len(columns) < 4 or (len(columns[2]) <= 4 and columns[2].isalpha())):
        return _Table(delimiter, list(HEADERLESS[len(columns)]), 0)
    raise ValueError(
        f"{path}:1: the columns {columns} are not known; give the table a header such as "
        f"{delimiter.join(('audio_filepath', 'speaker', 'text'))!r}"
    )


def _csv(lines: list[str], delimiter: str) -> Any:
    # Only tables with commas put quotes around cells; in the others a quotation mark is part of the text.
    if delimiter in ",;":
        return csv.reader(lines, delimiter=delimiter)
    return csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)


def _names_audio(name: str) -> bool:
    return name.strip().lower().endswith(AUDIO_SUFFIXES)
