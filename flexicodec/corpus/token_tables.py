"""Parquet files of tokens, a row a clip: columns, encodings, writing, and reading back as `Tokens`.

    id  path  start  duration  num_samples  num_frames  num_tokens     scalars, start and duration in seconds
    semantic   list<uint16>    a code per token; absent for codecs without
    durations  list<uint8>     frames per token; absent where every token is one frame
    acoustic   list<uint16>    [token, codebook] flat, so that a stretch of time is a slice; absent without codebooks
    text  speaker  language  corpus                                    as far as the manifest knows
    words  word_ends           of the alignment, ends in seconds
    audio_hash  fragile_tokens

The footer says what the codes mean: keys `flexicodec.version`, `.package`, `.model`, `.fingerprint`, `.format`,
`.choice`, `.num_codebooks`, `.unit` and `.plan`. Encodings are chosen column by column (specs/corpus.md, section 4).
"""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

import flexicodec
from flexicodec.io_utils import describe_missing
from flexicodec.token_format import TokenFormat
from flexicodec.tokens import Tokens

FORMAT_VERSION = 1
ROW_GROUP_SIZE = 4096  # clips
COMPRESSION_LEVEL = 3  # of zstd
PREFIX = "flexicodec."
TEXTS = ("text", "speaker", "language", "corpus")
SCALARS = ("start", "duration", "num_samples", "num_frames", "num_tokens")
CODES = ("semantic", "durations", "acoustic")
COUNTS = ("num_samples", "num_frames", "num_tokens")
HASH_BYTES = 8


@dataclass(frozen=True)
class TableHeader:
    """What the codes of a file mean, and where in a dataset it belongs.

    Attributes:
        format: Of every clip.
        num_codebooks: Acoustic codebooks in `acoustic`.
        choice: How tokens were made: `frame_rate`, `threshold`, `policy`, `num_codebooks`, `precision`.
        unit: Number of the unit; None where files were joined.
        plan: Hash of the dataset's settings.
        package: Version of flexicodec that wrote the file.
    """

    format: TokenFormat
    num_codebooks: int
    choice: dict[str, Any] = field(default_factory=dict)
    unit: int | None = None
    plan: str = ""
    package: str = flexicodec.__version__

    def to_metadata(self) -> dict[str, str]:
        """Return the keys of a footer."""
        values = {
            "version": FORMAT_VERSION,
            "package": self.package,
            "model": self.format.model or "",
            "fingerprint": self.format.fingerprint or "",
            "format": json.dumps(asdict(self.format), sort_keys=True),
            "choice": json.dumps(self.choice, sort_keys=True),
            "num_codebooks": self.num_codebooks,
            "unit": "" if self.unit is None else self.unit,
            "plan": self.plan,
        }
        return {PREFIX + name: str(value) for name, value in values.items()}

    @staticmethod
    def from_metadata(metadata: dict[bytes, bytes] | None, path: Path) -> "TableHeader":
        """Read the keys of a footer."""
        known = {}
        for key, value in (metadata or {}).items():
            if key.startswith(PREFIX.encode()):
                known[key.decode().removeprefix(PREFIX)] = value.decode(errors="replace")
        missing = [name for name in ("version", "format", "choice", "num_codebooks") if name not in known]
        if missing:
            raise ValueError(
                f"{path} is no table of tokens: its footer lacks {', '.join(PREFIX + name for name in missing)}; "
                "was it written again by another tool, which dropped them?"
            )
        try:
            version = int(known["version"])
            if version > FORMAT_VERSION:
                raise ValueError(
                    f"format version {version}, and this package reads up to {FORMAT_VERSION}; update flexicodec"
                )
            return TableHeader(
                format=TokenFormat(**json.loads(known["format"])),
                num_codebooks=int(known["num_codebooks"]),
                choice=dict(json.loads(known["choice"])),
                unit=int(known["unit"]) if known.get("unit") else None,
                plan=known.get("plan", ""),
                package=known.get("package", ""),
            )
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} has a footer that cannot be understood: {error}") from error


@dataclass(frozen=True, eq=False)
class ClipRow:
    """A clip to write: what the manifest says of it, and its tokens.

    Attributes:
        tokens: One clip on the CPU, with `audio_lengths`.
        path: As the manifest names it.
        start: Seconds into the file.
        duration: Seconds, of the manifest.
        words: Of its alignment.
        word_ends: Seconds from the clip's start, one for each word.
        audio_hash: `HASH_BYTES` bytes of the samples that were read: clips that differ in name only have the same.
        fragile_tokens: Tokens with a decision that noise could turn; None where margins were not computed.
    """

    id: str
    tokens: Tokens
    path: str = ""
    start: float = 0.0
    duration: float | None = None
    text: str | None = None
    speaker: str | None = None
    language: str | None = None
    corpus: str | None = None
    words: Sequence[str] | None = None
    word_ends: Sequence[float] | None = None
    audio_hash: bytes | None = None
    fragile_tokens: int | None = None


def parquet() -> Any:
    """Import `pyarrow.parquet`, which is an extra."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "tables of tokens need pyarrow, which is not installed: pip install 'flexicodec-lab[tokens]'"
        ) from error
    return pyarrow.parquet


# ------------------------------------------------------------------------------------------------------------- writing


def column_types(header: TableHeader) -> dict[str, Any]:
    """Return the Arrow type of each column of a file, in order; the same for all files of a choice."""
    parquet()
    import pyarrow as pa

    form = header.format
    types: dict[str, Any] = {"id": pa.string(), "path": pa.string(), "start": pa.float64(), "duration": pa.float64()}
    types |= {"num_samples": pa.int64(), "num_frames": pa.int32(), "num_tokens": pa.int32()}
    if form.semantic_codebook_size is not None:
        types["semantic"] = pa.list_(_code_type(form.semantic_codebook_size))
    if form.max_duration is None or form.max_duration > 255:
        types["durations"] = pa.list_(pa.uint16())
    elif form.max_duration > 1:
        types["durations"] = pa.list_(pa.uint8())
    if header.num_codebooks:
        types["acoustic"] = pa.list_(_code_type(form.acoustic_codebook_size))
    types |= dict.fromkeys(TEXTS, pa.string())
    types |= {"words": pa.list_(pa.string()), "word_ends": pa.list_(pa.float32())}
    types |= {"audio_hash": pa.binary(HASH_BYTES), "fragile_tokens": pa.int32()}
    return types


def _code_type(size: int) -> Any:
    import pyarrow as pa

    return pa.uint16() if size <= 2**16 else pa.uint32()


def write_table(path: Path, rows: Sequence[ClipRow], header: TableHeader) -> None:
    """Write clips in this order; the bytes depend on clips, header and version of pyarrow only.

    Raises:
        ValueError: A clip of another format, or of other codebooks.
        OSError: The disk is full, or the folder cannot be written.
    """
    pq = parquet()
    import pyarrow as pa

    for row in rows:
        _check_row(row, header)
    types = column_types(header)
    columns = {}
    for name, kind in types.items():
        if name in CODES:
            columns[name] = _code_column([_codes(row.tokens, name) for row in rows], kind)
        else:
            columns[name] = pa.array([_scalar(row, name) for row in rows], kind)
    schema = pa.schema(list(types.items()), metadata=header.to_metadata())
    table = pa.Table.from_arrays(list(columns.values()), schema=schema)
    with pq.ParquetWriter(path, schema, **writer_options(types)) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP_SIZE)


def writer_options(columns: Collection[str]) -> dict[str, Any]:
    """Return the arguments of `pyarrow.parquet.ParquetWriter` for these columns."""
    # Parquet has no 16-bit type: codes of evenly used codebooks are smallest as bit-packed dictionary indices, but the
    # dictionary of 32,768 semantic codes would outweigh them. Paths of list values end in `.list.element`; pyarrow
    # ignores any other in silence.
    dictionaries = [name for name in TEXTS if name in columns]
    dictionaries += [f"{name}.list.element" for name in ("durations", "acoustic") if name in columns]
    return {
        "compression": "zstd",
        "compression_level": COMPRESSION_LEVEL,
        "use_dictionary": dictionaries,
        "column_encoding": {"semantic.list.element": "BYTE_STREAM_SPLIT"} if "semantic" in columns else None,
        "write_page_index": True,
        "write_statistics": ["id", *SCALARS],
    }


def _check_row(row: ClipRow, header: TableHeader) -> None:
    tokens = row.tokens
    if len(tokens) != 1 or tokens.audio_lengths is None:
        raise ValueError(f"clip {row.id}: expected the tokens of one clip, with audio_lengths; got {tokens}")
    for entry in fields(TokenFormat):
        ours = getattr(header.format, entry.name)
        theirs = getattr(tokens.format, entry.name)
        if ours != theirs and entry.name != "model":
            raise ValueError(f"clip {row.id} differs from its table in {entry.name}: {theirs!r}, expected {ours!r}")
    if tokens.num_codebooks != header.num_codebooks:
        raise ValueError(f"clip {row.id} has {tokens.num_codebooks} codebooks, its table {header.num_codebooks}")
    longest = int(tokens.durations.max())
    if longest >= 2**16:
        raise ValueError(f"clip {row.id} has a token of {longest} frames; a table holds up to {2**16 - 1}")
    if row.audio_hash is not None and len(row.audio_hash) != HASH_BYTES:
        raise ValueError(f"clip {row.id}: audio_hash has {len(row.audio_hash)} bytes, expected {HASH_BYTES}")


def _codes(tokens: Tokens, name: str) -> np.ndarray:
    """Return a column's integers of one clip, in token order."""
    count = int(tokens.token_lengths[0])
    if name == "acoustic":
        return tokens.acoustic[0, :, :count].T.reshape(-1).numpy()
    return getattr(tokens, name)[0, :count].numpy()


def _code_column(values: list[np.ndarray], kind: Any) -> Any:
    import pyarrow as pa

    offsets = np.zeros(len(values) + 1, dtype=np.int32)
    offsets[1:] = np.cumsum([len(each) for each in values])
    joined = np.concatenate([np.zeros(0, dtype=np.int64), *values])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(joined.astype(kind.value_type.to_pandas_dtype())), kind)


def _scalar(row: ClipRow, name: str) -> Any:
    tokens = row.tokens
    if name == "num_samples":
        assert tokens.audio_lengths is not None
        return int(tokens.audio_lengths[0])
    if name == "num_frames":
        return int(tokens.frame_lengths[0])
    if name == "num_tokens":
        return int(tokens.token_lengths[0])
    if name == "duration" and row.duration is None:
        return float(tokens.seconds[0])
    return getattr(row, name)


# ------------------------------------------------------------------------------------------------------------- reading


def read_header(path: str | Path) -> TableHeader:
    """Read what the codes of a file mean.

    Raises:
        FileNotFoundError: It is missing.
        ValueError: It is cut off or no Parquet file, or its footer lacks our keys.
    """
    with open_table(Path(path)) as file:
        return TableHeader.from_metadata(file.schema_arrow.metadata, Path(path))


def open_table(path: Path) -> Any:
    """Open a Parquet file; a `ValueError` where it is damaged."""
    import pyarrow as pa

    if not path.is_file():
        raise FileNotFoundError(describe_missing(path))
    try:
        return parquet().ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path} is no whole Parquet file ({error}); was it cut off while copying? Remove it and its report in "
            "units/, and tokenize makes it again"
        ) from error


def read_table(path: str | Path, columns: Sequence[str] | None = None) -> tuple[TableHeader, Any]:
    """Read a file, or some of its columns, as a `pyarrow.Table`, with its header."""
    import pyarrow as pa

    with open_table(Path(path)) as file:
        header = TableHeader.from_metadata(file.schema_arrow.metadata, Path(path))
        try:
            return header, file.read(columns=None if columns is None else list(columns))
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error


def flat_codes(column: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of a list column one after another, and the offsets of its rows [rows + 1], as int64.

    Raises:
        ValueError: It holds something else than lists of integers, or nulls.
    """
    import pyarrow as pa

    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not is_list or not pa.types.is_integer(kind.value_type):
        raise ValueError(f"it holds {kind}, expected lists of integers; was the table written again by another tool?")
    joined = column.combine_chunks()
    if hasattr(joined, "chunks"):  # pyarrow returns a chunked array where there is none or more than one
        joined = joined.chunk(0) if joined.num_chunks else pa.array([], joined.type)
    if joined.null_count or joined.values.null_count:
        raise ValueError("it holds nulls, expected a list of codes in every row")
    offsets = joined.offsets.to_numpy().astype(np.int64)
    values = joined.values.to_numpy()[offsets[0] : offsets[-1]] if len(joined) else np.zeros(0, dtype=np.int64)
    return values, offsets - (offsets[0] if len(offsets) else 0)


def table_tokens(table: Any, header: TableHeader, path: str | Path = "") -> Iterator[Tokens]:
    """Yield the `Tokens` of each row, checked by the format; `info` has the id and how they were made.

    Raises:
        ValueError: Codes out of range, or counts that do not agree, named by file and id.
    """
    form = header.format
    # Lists are opened once for all rows.
    scalars = {}
    lists = {}
    for name in ("id", *COUNTS):
        if name not in table.column_names:
            raise ValueError(f"{path} has no column {name}, only {', '.join(table.column_names)}")
        scalars[name] = table.column(name).to_pylist()
        if name != "id" and not all(isinstance(value, int) for value in scalars[name]):
            raise ValueError(f"{path}, column {name}: it holds {table.column(name).type} or nulls, expected integers")
    for name in CODES:
        if name in table.column_names:
            try:
                lists[name] = flat_codes(table.column(name))
            except ValueError as error:
                raise ValueError(f"{path}, column {name}: {error}") from error
    ids = scalars["id"]
    notes = {name: value for name, value in header.choice.items() if value is not None and name != "num_codebooks"}
    for row, name in enumerate(ids):
        found: dict[str, Any] = {}
        for key, (values, offsets) in lists.items():
            found[key] = values[offsets[row] : offsets[row + 1]].astype(np.int64)
        count = scalars["num_tokens"][row]
        try:
            if "acoustic" in found:
                if len(found["acoustic"]) != count * header.num_codebooks:
                    raise ValueError(
                        f"{len(found['acoustic'])} acoustic codes for {count} tokens "
                        f"of {header.num_codebooks} codebooks"
                    )
                found["acoustic"] = found["acoustic"].reshape(count, header.num_codebooks).T
            tokens = Tokens(
                **found, audio_lengths=[scalars["num_samples"][row]], format=form, info={"id": name, **notes}
            )
            counts = (int(tokens.token_lengths[0]), int(tokens.frame_lengths[0]))
            if counts != (count, scalars["num_frames"][row]):
                raise ValueError(
                    f"it has {counts[0]} tokens of {counts[1]} frames, but its row says {count} and "
                    f"{scalars['num_frames'][row]}"
                )
        except ValueError as error:
            raise ValueError(f"{path}, clip {name}: {error}") from error
        yield tokens
