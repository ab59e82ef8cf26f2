"""Manifests: read, written, and read again."""

import gzip
import json
import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexicodec.corpus import Filter, Utterance, read_manifest, write_manifest
from flexicodec.training.data import read_manifests

law = settings(derandomize=True, deadline=None, max_examples=40)

WORDS = st.none() | st.text(st.characters(exclude_categories=["Cs"]))
SECONDS = st.floats(0.001, 1e5).map(lambda seconds: round(seconds, 6))
UTTERANCES = st.builds(
    Utterance, st.sampled_from([Path("a.wav"), Path("b/ü c.flac")]), SECONDS, SECONDS, WORDS, WORDS, WORDS
)


@law
@given(st.lists(UTTERANCES, min_size=1, max_size=5))
def test_what_is_written_is_read(tmp_path_factory, utterances):
    folder = tmp_path_factory.mktemp("manifest")
    utterances = [Utterance(folder / u.path, u.duration, u.start, u.text, u.speaker, u.corpus) for u in utterances]
    write_manifest(folder / "m.jsonl", utterances)
    assert read_manifest(folder / "m.jsonl") == utterances


def test_audio_below_the_manifest_is_named_relative_to_it(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    write_manifest("here/m.jsonl", [Utterance(Path("here/a/1.wav"), 1.0), Utterance(Path("there/2.wav"), 1.0)])
    rows = [json.loads(line) for line in Path("here/m.jsonl").read_text().splitlines()]
    assert [row["path"] for row in rows] == ["a/1.wav", (tmp_path / "there/2.wav").as_posix()]
    assert read_manifest("here/m.jsonl")[1].path == tmp_path / "there/2.wav"


def test_a_manifest_that_cannot_be_written_leaves_the_old_one(tmp_path):
    def failing():
        yield Utterance(Path("a.wav"), 1.0)
        raise RuntimeError("disk gone")

    (tmp_path / "m.jsonl").write_text("old")
    with pytest.raises(RuntimeError, match="disk gone"):
        write_manifest(tmp_path / "m.jsonl", failing())
    assert [path.name for path in tmp_path.iterdir()] == ["m.jsonl"]
    assert (tmp_path / "m.jsonl").read_text() == "old"


def test_the_shared_corpora_read_too(manifest):
    utterances = read_manifest(manifest)
    assert len(utterances) == 6
    assert all(u.path.is_file() and u.corpus == "noise" and u.text and u.start == 0 for u in utterances)


def test_normalised_text_comes_first(tmp_path):
    row = {"path": "a.wav", "duration_s": 1, "text": "A B", "text_norm": "a b"}
    (tmp_path / "m.jsonl").write_text(json.dumps(row))
    assert read_manifest(tmp_path / "m.jsonl")[0].text == "a b"


@pytest.mark.parametrize(
    "line",
    [
        "{",
        '{"path": "a.wav"}',
        "[]",
        "3",
        '{"path": "a.wav", "duration": null}',
        '{"path": 7, "duration": 1}',
        '{"path": "a.wav", "duration": 0}',
        '{"path": "a.wav", "duration": NaN}',
        '{"path": "a.wav", "duration": 1, "start": -1}',
    ],
)
def test_a_bad_line_is_named(tmp_path, line):
    (tmp_path / "m.jsonl").write_text('{"path": "a.wav", "duration": 1}\n\n' + line)
    with pytest.raises(ValueError, match=r"m\.jsonl:3: expected a JSON object"):
        read_manifest(tmp_path / "m.jsonl")


def test_an_empty_manifest_is_refused(tmp_path):
    (tmp_path / "m.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="lists no utterances"):
        read_manifest(tmp_path / "m.jsonl")


def test_manifests_may_be_compressed_and_several(tmp_path):
    for name in "ab":
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as file:
            file.write(json.dumps({"path": f"{name}.wav", "duration": 2}))
    both = read_manifests([tmp_path / "a.jsonl.gz", tmp_path / "b.jsonl.gz"])
    assert [u.path.name for u in both] == ["a.wav", "b.wav"]


def test_a_compressed_manifest_is_written_so(tmp_path):
    write_manifest(tmp_path / "m.jsonl.gz", [Utterance(tmp_path / "a.wav", 1.0)])
    assert read_manifest(tmp_path / "m.jsonl.gz") == [Utterance(tmp_path / "a.wav", 1.0)]
    assert "a.wav" in gzip.decompress((tmp_path / "m.jsonl.gz").read_bytes()).decode()


def test_a_filter_says_what_it_leaves_out(caplog):
    utterances = [Utterance(Path("a.wav"), seconds) for seconds in (0.1, 1.0, 2.0, 3.0, 40.0)]
    with caplog.at_level(logging.INFO):
        kept = Filter(0.5, 30.0, lambda utterance: utterance.duration != 2.0).select(utterances, "some")
    assert kept == [1, 3]
    assert "some: 2 utterances, 0.00 hours; left out 1 shorter than 0.5 s, 1 longer" in caplog.text


def test_what_is_known_of_an_utterance_survives(tmp_path):
    (tmp_path / "a.TextGrid").touch()
    known = {"id": "one", "language": "en", "num_phones": 7, "alignment": tmp_path / "a.TextGrid", "speaker": "s"}
    write_manifest(tmp_path / "m.jsonl", [Utterance(tmp_path / "a.wav", 1.0, **known)])
    (found,) = read_manifest(tmp_path / "m.jsonl")
    assert {name: getattr(found, name) for name in known} == known


def test_shared_names_are_read_too(tmp_path):
    row = {"path": "x/a.opus", "duration_s": 1.0, "lang": "en", "n_phones_est": 12, "alignment": "grids/a.TextGrid"}
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | {"start": 1.5}) + "\n")
    first, second = read_manifest(tmp_path / "m.jsonl")
    assert (first.id, second.id) == ("x/a", "x/a@1.5")
    assert (first.language, first.num_phones) == ("en", 12)
    assert first.alignment == tmp_path / "grids" / "a.TextGrid"


@pytest.mark.parametrize("count", [1.5, -1, "many"])
def test_phones_are_counted_in_whole_numbers(tmp_path, count):
    (tmp_path / "m.jsonl").write_text(json.dumps({"path": "a.wav", "duration": 1, "num_phones": count}))
    with pytest.raises(ValueError, match=r"m\.jsonl:1"):
        read_manifest(tmp_path / "m.jsonl")
