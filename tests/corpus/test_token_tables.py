"""Tables of tokens: what is written is what is read, in the encodings that were measured, and damage is named."""

import json
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flexicodec.corpus import token_dataset, token_tables
from flexicodec.corpus.token_dataset import Choice, TokenDataset, to_json
from flexicodec.corpus.token_tables import ClipRow, TableHeader, read_header, read_table, table_tokens, write_table
from flexicodec.tokens import TokenFormat, Tokens

FORMAT = TokenFormat(fingerprint="f" * 8, model="made-up", acoustic_codebook_size=1024)
FORMATS = {
    "usual": (FORMAT, 8),
    "semantic only": (FORMAT, 0),
    "no cap": (replace(FORMAT, max_duration=None), 2),
    "cap of 300": (replace(FORMAT, max_duration=300), 1),
    "fixed rate": (replace(FORMAT, max_duration=1), 3),
    "no semantic codes": (replace(FORMAT, semantic_codebook_size=None, max_duration=1, frame_size=882), 4),
    "32 bits": (replace(FORMAT, semantic_codebook_size=2**16 + 1, acoustic_codebook_size=2**20), 2),
}


def clip(form, num_codebooks, count, random):
    """Tokens of one clip with codes at both ends of their range."""

    def codes(size, *shape):
        values = random.integers(0, size, shape)
        values.reshape(-1)[:1] = size - 1
        return values

    longest = form.max_duration or 1000
    durations = random.integers(1, longest + 1, count)
    samples = int(durations.sum()) * form.frame_size - 3
    semantic = None if form.semantic_codebook_size is None else codes(form.semantic_codebook_size, count)
    acoustic = codes(form.acoustic_codebook_size, num_codebooks, count)
    return Tokens(semantic, acoustic, durations, [samples], form)


def rows_of(form, num_codebooks, lengths=(1, 7, 40)):
    random = np.random.default_rng(0)
    rows = []
    for number, count in enumerate(lengths):
        tokens = clip(form, num_codebooks, count, random)
        rows.append(ClipRow(f"clip-{number}", tokens, path=f"a/{number}.wav", text="ä text", audio_hash=b"12345678"))
    return rows


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_written_is_read(tmp_path, name):
    form, num_codebooks = FORMATS[name]
    header = TableHeader(form, num_codebooks, {"frame_rate": 6.25, "threshold": None}, unit=3, plan="abc")
    rows = rows_of(form, num_codebooks)
    write_table(tmp_path / "t.parquet", rows, header)
    found, table = read_table(tmp_path / "t.parquet")
    assert found == header
    assert found.format.model == form.model
    assert ("semantic" in table.column_names) == (form.semantic_codebook_size is not None)
    assert ("durations" in table.column_names) == (form.max_duration != 1)
    assert ("acoustic" in table.column_names) == (num_codebooks > 0)
    back = list(table_tokens(table, found))
    assert back == [row.tokens for row in rows]
    assert [each.info for each in back] == [{"id": row.id, "frame_rate": 6.25} for row in rows]
    assert table.column("num_tokens").to_pylist() == [1, 7, 40]
    assert table.column("text").to_pylist() == ["ä text"] * 3
    assert table.column("audio_hash").to_pylist() == [b"12345678"] * 3


def test_acoustic_codes_are_flat_in_token_order(tmp_path):
    form, _ = FORMATS["usual"]
    tokens = Tokens([1, 2], [[10, 11], [20, 21], [30, 31]], [1, 2], [3800], form)
    write_table(tmp_path / "t.parquet", [ClipRow("a", tokens)], TableHeader(form, 3))
    _, table = read_table(tmp_path / "t.parquet", ["acoustic", "semantic"])
    assert table.column("acoustic").to_pylist() == [[10, 20, 30, 11, 21, 31]]
    values, offsets = token_tables.flat_codes(table.column("semantic"))
    assert (values.tolist(), offsets.tolist()) == ([1, 2], [0, 2])


def test_columns_have_the_encodings_asked_for(tmp_path):
    form, num_codebooks = FORMATS["usual"]
    write_table(tmp_path / "t.parquet", rows_of(form, num_codebooks), TableHeader(form, num_codebooks))
    group = pq.ParquetFile(tmp_path / "t.parquet").metadata.row_group(0)
    encodings = {}
    for j in range(group.num_columns):
        column = group.column(j)
        encodings[column.path_in_schema] = set(column.encodings)
        assert column.compression == "ZSTD"
        has_statistics = column.is_stats_set
        assert has_statistics == (column.path_in_schema in ("id", *token_tables.SCALARS)), column.path_in_schema
    assert "BYTE_STREAM_SPLIT" in encodings["semantic.list.element"]
    assert "RLE_DICTIONARY" not in encodings["semantic.list.element"]
    for name in ("durations.list.element", "acoustic.list.element", "text"):
        assert "RLE_DICTIONARY" in encodings[name]


def test_the_same_clips_are_the_same_bytes(tmp_path):
    form, num_codebooks = FORMATS["usual"]
    for name in "ab":
        write_table(tmp_path / name, rows_of(form, num_codebooks), TableHeader(form, num_codebooks))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_table_without_clips(tmp_path):
    form, num_codebooks = FORMATS["usual"]
    write_table(tmp_path / "t.parquet", [], TableHeader(form, num_codebooks))
    header, table = read_table(tmp_path / "t.parquet")
    assert list(table_tokens(table, header)) == []


WRONG_ROWS = {
    "differs from its table in fingerprint": lambda row: replace(
        row, tokens=replace(row.tokens, format=replace(FORMAT, fingerprint="other"))
    ),
    "has 3 codebooks, its table 8": lambda row: replace(row, tokens=row.tokens.keep(acoustic=3)),
    "with audio_lengths": lambda row: replace(row, tokens=replace(row.tokens, audio_lengths=None)),
    "expected 8": lambda row: replace(row, audio_hash=b"123"),
}


@pytest.mark.parametrize("message", WRONG_ROWS)
def test_rows_of_another_kind_are_refused(tmp_path, message):
    form, num_codebooks = FORMATS["usual"]
    row = WRONG_ROWS[message](rows_of(form, num_codebooks)[1])
    with pytest.raises(ValueError, match=message):
        write_table(tmp_path / "t.parquet", [row], TableHeader(form, num_codebooks))


# ------------------------------------------------------------------------------------------------------------- folders


def make_dataset(folder, num_units=2):
    """A dataset of two rates, written by hand."""
    choices = [Choice("6.25hz", 2, frame_rate=6.25), Choice("threshold-0.9", 0, threshold=0.9)]
    record = {
        "version": token_tables.FORMAT_VERSION,
        "package": "0",
        "model": FORMAT.model,
        "fingerprint": FORMAT.fingerprint,
        "format": asdict(FORMAT),
        "choices": [asdict(choice) for choice in choices],
        "precision": "float32",
        "units": {"count": num_units},
    }
    dataset = token_dataset.write_dataset(folder, record)
    rows = {}
    (folder / token_dataset.REPORTS).mkdir()
    for unit in range(num_units):
        for choice in choices:
            path = dataset.table_path(choice, unit)
            path.parent.mkdir(exist_ok=True)
            made = [replace(row, id=f"{unit}-{row.id}") for row in rows_of(FORMAT, choice.num_codebooks)]
            write_table(path, made, dataset.header(choice, unit))
            rows.setdefault(choice.name, []).extend(made)
        write_report(dataset, unit)
    return dataset, rows


def test_a_folder_is_read_in_order_and_by_id(tmp_path):
    dataset, rows = make_dataset(tmp_path)
    for rate, name in ((6.25, "6.25hz"), ("threshold-0.9", "threshold-0.9")):
        found = list(token_dataset.tokens(tmp_path, rate))
        assert found == [row.tokens for row in rows[name]]
        assert [each.info["id"] for each in found] == [row.id for row in rows[name]]
    assert found[0].info["threshold"] == 0.9
    for row in rows["6.25hz"]:
        assert token_dataset.tokens_of(tmp_path, 6.25, row.id) == row.tokens
    assert [len(table) for _, table in dataset.tables(6.25, ["id"])] == [3, 3]
    assert next(token_dataset.tokens(tmp_path, 6.25, acoustic=1)).num_codebooks == 1
    dataset.check_files(0)


def test_folders_that_cannot_be_read_say_why(tmp_path):
    dataset, _ = make_dataset(tmp_path / "tokens")
    folder = dataset.folder
    with pytest.raises(ValueError, match="name one of them"):
        next(token_dataset.tokens(folder))
    with pytest.raises(ValueError, match=r"no tokens of 8.3; expected one of 6.25hz, threshold-0.9"):
        next(token_dataset.tokens(folder, 8.3))
    with pytest.raises(ValueError, match="has no clip 'x'"):
        token_dataset.tokens_of(folder, 6.25, "x")
    with pytest.raises(FileNotFoundError, match="that `flexicodec tokenize` made"):
        TokenDataset.open(tmp_path)
    dataset.report_path(1).unlink()
    with pytest.raises(ValueError, match="1 of 2 units are done"):
        list(token_dataset.tokens(folder, 6.25))
    assert len(list(token_dataset.tokens(folder, 6.25, partial=True))) == 3


def write_report(dataset, unit):
    """Write the report of a unit's files as they are."""
    files = {}
    for choice in dataset.choices:
        path = dataset.table_path(choice, unit)
        files[choice.name] = {"bytes": path.stat().st_size, "sha256": token_dataset.file_hash(path)}
    dataset.report_path(unit).write_text(json.dumps({"unit": unit, "files": files}))


def change_footer(path, **keys):
    table = pq.read_table(path)
    metadata = {**table.schema.metadata, **{f"flexicodec.{key}".encode(): value for key, value in keys.items()}}
    pq.write_table(table.replace_schema_metadata(metadata), path)


def change_column(path, name, value):
    """Replace the first integer of a list column."""
    table = pq.read_table(path)
    rows = table.column(name).to_pylist()
    rows[0][0] = value
    at = table.column_names.index(name)
    field = table.schema.field(at)
    pq.write_table(table.set_column(at, field, pa.array(rows, field.type)), path)


OTHER_FORMAT = to_json(asdict(replace(FORMAT, fingerprint="other")))
DAMAGE = {
    "no whole Parquet file .* cut off": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "made by another model: fingerprint other": lambda path: change_footer(path, format=OTHER_FORMAT),
    "made with other settings": lambda path: change_footer(path, plan="other"),
    "format version 2": lambda path: change_footer(path, version="2"),
    "its footer lacks flexicodec.version": lambda path: pq.write_table(
        pq.read_table(path).replace_schema_metadata({}), path
    ),
    "clip 0-clip-0: semantic code 40000 .* expected 0 to 32767": lambda path: change_column(path, "semantic", 40000),
    "clip 0-clip-0: acoustic code 1024 .* vocabulary offset": lambda path: change_column(path, "acoustic", 1024),
    "clip 0-clip-0: duration 9 .* expected 0": lambda path: change_column(path, "durations", 9),
    "is missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_damaged_and_foreign_files_are_named(tmp_path, message):
    dataset, _ = make_dataset(tmp_path)
    path = dataset.table_path(dataset.choices[0], 0)
    DAMAGE[message](path)
    if message.startswith("clip"):  # written like that
        write_report(dataset, 0)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as raised:
        list(token_dataset.tokens(tmp_path, 6.25))
    assert str(path) in str(raised.value)
    if not message.startswith("clip"):
        with pytest.raises(ValueError, match="makes them again"):
            dataset.check_files(0)


def test_altered_bytes_are_found_by_the_hash(tmp_path):
    dataset, _ = make_dataset(tmp_path)
    path = dataset.table_path(dataset.choices[0], 1)
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="was altered"):
        dataset.check_files(1)
    with pytest.raises(ValueError, match="was altered|damaged"):
        list(token_dataset.tokens(tmp_path, 6.25))
    assert read_header(path).unit == 1


def changed(name, values, kind=None):
    """Put other values in the place of a column."""
    return lambda table: table.set_column(table.column_names.index(name), name, pa.array(values, kind))


def footer(name, value):
    """Put another value in the place of one of our keys."""

    def change(table):
        return table.replace_schema_metadata({**table.schema.metadata, b"flexicodec." + name.encode(): value})

    return change


CODE_NAMES = ("semantic", "durations", "acoustic")
CODES = [[1], [2] * 7, [3] * 40]
ODD_TABLES = {
    "no column id, only path": lambda table: table.drop_columns(["id"]),
    "no column num_tokens": lambda table: table.drop_columns(["num_tokens"]),
    "column num_tokens: it holds int32 or nulls": changed("num_tokens", [None, 7, 40], pa.int32()),
    "column num_samples: it holds double": changed("num_samples", [1.0, 7.0, 40.0]),
    "column semantic: it holds nulls": changed("semantic", [None, *CODES[1:]]),
    "column acoustic: it holds nulls": changed("acoustic", [[None], *CODES[1:]]),
    "column semantic: it holds list<.*double>": changed("semantic", [[1.5], *CODES[1:]]),
    "column durations: it holds list<.*string>": changed("durations", [["1"], ["2"], ["3"]]),
    "column acoustic: it holds list<.*list<": changed("acoustic", [[[1]], [[2]], [[3]]]),
    "column semantic: it holds string": changed("semantic", ["1", "2", "3"]),
    "footer that cannot be understood: invalid literal": footer("num_codebooks", b"x"),
    "footer that cannot be understood: .*unexpected keyword": footer("format", b'{"a": 1}'),
    "footer that cannot be understood: .*a mapping": footer("format", b"[1]"),
    "footer that cannot be understood: Expecting": footer("choice", b"{"),
    "footer that cannot be understood: .*'\ufffd'": footer("version", b"\xff"),
}


def read_all(path):
    header, table = read_table(path)
    return list(table_tokens(table, header, path))


@pytest.mark.parametrize("message", ODD_TABLES)
def test_tables_that_other_tools_changed_are_refused(tmp_path, message):
    path = tmp_path / "t.parquet"
    write_table(path, rows_of(FORMAT, 8), TableHeader(FORMAT, 8))
    pq.write_table(ODD_TABLES[message](pq.read_table(path)), path)
    with pytest.raises(ValueError, match=message) as raised:
        read_all(path)
    assert str(path) in str(raised.value)


def test_tables_that_other_tools_wrote_again_are_read(tmp_path):
    path = tmp_path / "t.parquet"
    rows = rows_of(FORMAT, 8)
    write_table(path, rows, TableHeader(FORMAT, 8))
    table = pq.read_table(path)
    wide = [
        pa.field(each.name, pa.large_list(pa.int64())) if each.name in CODE_NAMES else each for each in table.schema
    ]
    pq.write_table(table.cast(pa.schema(wide, table.schema.metadata)).select(table.column_names[::-1]), path)
    header, table = read_table(path)
    assert list(table_tokens(table, header)) == [row.tokens for row in rows]
