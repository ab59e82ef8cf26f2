"""Rows on disk: appended, read back, and never mixed with rows of another configuration."""

import json

import pytest

from flexicodec.evaluation.results_store import ResultsWriter, read_rows, row_key, to_json, write_parquet

RUN = {
    "metrics": ["stoi"],
    "clips": 2,
    "clip_digests": {"x": "1", "y": "2"},
    "systems": {"a": {"weights": "1"}, "b": {}},
    "settings": {"b": ["1 Hz"], "a": ["1 Hz"]},
}


def row(system="a", setting="1 Hz", clip="x", **more):
    return {"id": clip, "system": system, "setting": setting, **more}


def test_rows_are_there_at_once_and_again(tmp_path):
    with ResultsWriter(tmp_path / "new", RUN) as writer:
        writer.append([row(stoi=0.5), row(clip="y", stoi=float("nan"))])
        stored = read_rows(tmp_path / "new")  # while it is still open
    assert stored == [row(stoi=0.5), row(clip="y", stoi=None)]
    with ResultsWriter(tmp_path / "new", RUN) as again:
        assert again.done == {("a", "1 Hz", "x"), ("a", "1 Hz", "y")}
        again.append([row(clip="z")])
    assert [row_key(each)[2] for each in read_rows(tmp_path / "new")] == ["x", "y", "z"]


def test_a_line_that_was_cut_off_is_forgotten(tmp_path):
    with ResultsWriter(tmp_path, RUN) as writer:
        writer.append([row(), row(clip="y")])
    path = tmp_path / "rows.jsonl"
    path.write_text(path.read_text()[:-9])
    assert [each["id"] for each in read_rows(tmp_path)] == ["x"]
    with ResultsWriter(tmp_path, RUN) as writer:
        assert writer.done == {("a", "1 Hz", "x")}
        writer.append([row(clip="y")])
    assert [each["id"] for each in read_rows(tmp_path)] == ["x", "y"]


def test_a_damaged_line_within_is_an_error(tmp_path):
    (tmp_path / "rows.jsonl").write_text(to_json(row()) + "{}\n" + to_json(row(clip="y")))
    with pytest.raises(ValueError, match=r"rows\.jsonl:2: expected a JSON object with system, setting and id"):
        read_rows(tmp_path)


def test_clips_that_failed_are_tried_again(tmp_path):
    with ResultsWriter(tmp_path, RUN) as writer:
        writer.append([row(error="no such file"), row(clip="y")])
    with ResultsWriter(tmp_path, RUN) as writer:
        assert writer.done == {("a", "1 Hz", "y")}
        writer.append([row(stoi=1.0)])
    assert sorted(each["id"] for each in read_rows(tmp_path)) == ["x", "y"]


def test_the_order_is_that_of_systems_settings_and_clips(tmp_path):
    with ResultsWriter(tmp_path, RUN) as writer:
        writer.append([row(clip="y"), row(clip="x"), row("b")])
        writer.sort(["x", "y"])
        writer.append([row("b", clip="y")])
    assert [row_key(each)[::2] for each in read_rows(tmp_path)] == [("b", "x"), ("a", "x"), ("a", "y"), ("b", "y")]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"metrics": ["pesq_wb"]}, r'metrics \(\["stoi"\], now \["pesq_wb"\]\)'),
        ({"clip_digests": {"x": "1"}}, r"the clips \(1 missing now, 'y' the first\)"),
        ({"clip_digests": {"x": "3", "y": "2"}}, r"the clips \(1 others now, by their text or length, 'x' the first\)"),
        ({"systems": {"a": {"weights": "2"}}, "settings": {"a": []}}, "the weights of a"),
        ({"more": 1}, r"more \(null, now 1\)"),
    ],
)
def test_what_was_measured_otherwise_is_refused(tmp_path, change, named):
    with ResultsWriter(tmp_path, RUN) as writer:
        writer.append([row()])
    with pytest.raises(ValueError, match=f"{named} differ; give another output folder"):
        ResultsWriter(tmp_path, {**RUN, **change})
    assert json.loads((tmp_path / "run.json").read_text()) == RUN
    ResultsWriter(tmp_path, RUN).__exit__(None, None, None)  # and nothing stays locked


def test_systems_and_settings_may_be_added(tmp_path):
    with ResultsWriter(tmp_path, RUN):
        pass
    with ResultsWriter(
        tmp_path, {**RUN, "systems": {"c": {}}, "settings": {"c": ["tau 1"], "a": ["2 Hz", "1 Hz"]}}
    ) as writer:
        stored = writer.run
    assert stored == json.loads((tmp_path / "run.json").read_text())
    assert stored["systems"] == {"a": {"weights": "1"}, "b": {}, "c": {}}
    assert stored["settings"] == {"b": ["1 Hz"], "a": ["1 Hz", "2 Hz"], "c": ["tau 1"]}


def test_one_run_at_a_time(tmp_path):
    pytest.importorskip("fcntl")
    with ResultsWriter(tmp_path, RUN), pytest.raises(ValueError, match="another run is writing"):
        ResultsWriter(tmp_path, RUN)


def test_parquet_holds_the_same_values_in_columns(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    rows = [row(stoi=0.5, transcripts={"ctc": {"text": "a", "words": 1}}), row(clip="y", stoi=float("nan"))]
    write_parquet(tmp_path / "rows.parquet", rows)
    table = pandas.read_parquet(tmp_path / "rows.parquet")
    assert list(table.columns) == ["id", "system", "setting", "stoi", "transcripts.ctc.text", "transcripts.ctc.words"]
    assert table["stoi"].tolist() == pytest.approx([0.5, float("nan")], nan_ok=True)
    assert table["transcripts.ctc.words"][0] == 1


def test_clips_may_be_added(tmp_path):
    with ResultsWriter(tmp_path, RUN) as writer:
        writer.append([row()])
    more = {**RUN, "clips": 3, "clip_digests": {"w": "0", **RUN["clip_digests"]}}
    with ResultsWriter(tmp_path, more) as writer:
        assert writer.done == {("a", "1 Hz", "x")}
    assert json.loads((tmp_path / "run.json").read_text()) == more
    with pytest.raises(ValueError, match="the clips .1 missing now, 'w' the first"):
        ResultsWriter(tmp_path, RUN)
