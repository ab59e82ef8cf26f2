"""What is made of folders of tokens: summaries, large files, and files of clips."""

import os
import time
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

from flexicodec.corpus import token_dataset
from flexicodec.corpus.token_tables import read_header, read_table, table_tokens
from flexicodec.token_corpus.exports import clip_file, extract, merge_files
from flexicodec.token_corpus.summary import describe, finish, measure, summarize
from flexicodec.tokens import Tokens


@pytest.fixture
def dataset(tokenized, make_list, tmp_path):
    """Seven clips at two rates, in several units, one of them bad."""
    source = make_list(7)
    with source.open("a") as file:
        file.write('{"path": "audio/none.wav", "duration": 1.0}\n')
    return tokenized(source, tmp_path / "t")


@pytest.mark.parametrize("megabytes", [512.0, 0.01])
def test_merged_files_hold_all_rows_in_order_and_encodings(dataset, tmp_path, megabytes):
    paths = list(merge_files(dataset.folder, tmp_path / "merged", megabytes))
    assert (len(paths) == 2) == (megabytes == 512.0)
    for choice in dataset.choices:
        found = []
        for path in sorted((tmp_path / "merged" / choice.name).iterdir()):
            header, table = read_table(path)
            assert header.unit is None
            found += table_tokens(table, header, path)
            semantic = pq.ParquetFile(path).metadata.row_group(0).column(7)
            assert (semantic.path_in_schema, "BYTE_STREAM_SPLIT" in semantic.encodings) == (
                "semantic.list.element",
                True,
            )
        assert found == list(token_dataset.tokens(dataset.folder, choice.name))
    with pytest.raises(ValueError, match="exists; merge writes to a new folder"):
        list(merge_files(dataset.folder, tmp_path / "merged"))


def test_merging_refuses_what_is_not_whole(dataset, tmp_path):
    with pytest.raises(ValueError, match="megabytes is 0"):
        list(merge_files(dataset.folder, tmp_path / "m", 0))
    path = dataset.table_path(dataset.choices[1], 1)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="was it cut off"):
        list(merge_files(dataset.folder, tmp_path / "m"))
    dataset.report_path(1).unlink()
    with pytest.raises(ValueError, match="units are done"):
        list(merge_files(dataset.folder, tmp_path / "m"))
    assert not (tmp_path / "m").exists()


def test_extracted_clips_are_files_of_the_same_tokens(dataset, tmp_path):
    assert extract(dataset.folder, tmp_path / "files", 6.25) == 7
    for tokens in token_dataset.tokens(dataset.folder, 6.25):
        assert Tokens.load(tmp_path / "files" / f"{tokens.info['id']}.flxc") == tokens
    assert extract(dataset.folder, tmp_path / "some", "threshold-0.9", ["audio/2", "audio/5"]) == 2
    with pytest.raises(ValueError, match="1 ids are not in .*audio/none"):
        extract(dataset.folder, tmp_path / "some", 6.25, ["audio/2", "audio/none"])


def test_files_of_ids_are_inside_and_apart():
    ids = ["a", "/a", "a/", "a//b", "a/b", "..", "../a", ".", "a%2Fb", "ä b", "a:b", "a?b"]
    files = [clip_file(name) for name in ids]
    assert len(set(files)) == len(ids)
    for file in files:
        assert not file.startswith("/")
        assert not {"..", ".", ""} & set(file.split("/"))


def test_a_summary_counts_what_is_there(dataset):
    found = summarize(dataset)
    clips = {choice.name: list(token_dataset.tokens(dataset.folder, choice.name)) for choice in dataset.choices}
    assert (found.clips, found.done, found.units) == (8, dataset.num_units, dataset.num_units)
    assert found.reasons == {"FileNotFoundError": 1}
    for choice in dataset.choices:
        mine = clips[choice.name]
        durations = np.concatenate([clip.durations[0].numpy() for clip in mine])
        assert found.tokens[choice.name] == len(durations)
        assert found.frames[choice.name] == durations.sum()
        assert found.durations[choice.name] == Counter(durations.tolist())
        measured = measure(dataset, choice)
        rates = [float(clip.frame_rates[0]) for clip in mine]
        assert measured.mean_rate == pytest.approx(len(durations) / sum(float(clip.seconds[0]) for clip in mine))
        assert measured.low_rate == pytest.approx(np.quantile(rates, 0.05))
        codes = np.concatenate([clip.semantic[0].numpy() for clip in mine])
        assert measured.use["semantic"].used == len(np.unique(codes))
        assert len(measured.use) == 1 + choice.num_codebooks
    shown = dict(describe(dataset, found))
    assert shown["bad clips"] == "1 (1 FileNotFoundError)"
    bits = found.tokens["6.25hz"] * (dataset.format.semantic_bits + 2 * dataset.format.acoustic_bits)
    kbps = (bits + found.frames["6.25hz"]) / found.seconds / 1000
    assert f"{kbps:.3f} kbps by mask" in next(value for name, value in describe(dataset, found) if name == "  bitrate")


def test_parts_are_summed_alone(dataset):
    halves = [summarize(dataset, f"{k}/2") for k in range(2)]
    assert sum(half.units for half in halves) == dataset.num_units
    assert sum(half.clips for half in halves) == 8


def test_headers_of_tables_are_those_of_the_dataset(dataset):
    for choice in dataset.choices:
        for unit in range(dataset.num_units):
            assert read_header(dataset.table_path(choice, unit)) == dataset.header(choice, unit)


def test_what_the_dead_left_is_cleared_where_it_is_old_or_done(dataset):
    choice = dataset.folder / dataset.choices[0].name
    for name, age in (("old", 2 * 24 * 3600), ("young", 60)):
        path = choice / f".{name}.part"
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age, time.time() - age))
    state = dataset.folder / "state"
    log = state / "000000.another-1-x.log"
    log.write_text('{"host": "another", "pid": 1, "started": "1"}\n{"begin": [0]}')
    os.utime(log, (1e9, 1e9))
    assert finish(dataset)["done"] == dataset.num_units
    assert [path.name for path in choice.glob(".*.part")] == [".young.part"]
    assert list(state.iterdir()) == []


def rows_of(path):
    """Codes, durations and text of every row, by pyarrow."""
    return pq.read_table(path).select(["id", "semantic", "durations", "acoustic", "text"]).to_pylist()


def by_polars(path):
    polars = pytest.importorskip("polars")
    return polars.read_parquet(path).select("id", "semantic", "durations", "acoustic", "text").to_dicts()


def by_duckdb(path):
    duckdb = pytest.importorskip("duckdb")
    found = duckdb.sql(f"select id, semantic, durations, acoustic, text from '{path}'")
    return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


def by_datasets(path):
    datasets = pytest.importorskip("datasets")
    found = datasets.Dataset.from_parquet(str(path), cache_dir=str(path.parent / "cache"))
    return list(found.select_columns(["id", "semantic", "durations", "acoustic", "text"]))


@pytest.mark.parametrize("read", [by_polars, by_duckdb, by_datasets])
@pytest.mark.filterwarnings("ignore")  # of these packages
def test_other_tools_read_the_same_integers(dataset, read):
    path = dataset.table_path(dataset.choices[0], 0)
    assert read(path) == rows_of(path)
