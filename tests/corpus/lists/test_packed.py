"""Parquet and Arrow files with audio in them become manifests of files."""

import io
import sys

import numpy as np
import pytest
import soundfile

from flexicodec.cli import main
from flexicodec.corpus import read_manifest, read_utterance

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
RATE = 16_000


def noise(number, channels=1):
    return np.random.default_rng(number).integers(-20_000, 20_000, (RATE, channels), dtype=np.int16)


def encoded(number, kind="FLAC", channels=1):
    held = io.BytesIO()
    soundfile.write(held, noise(number, channels), RATE, format=kind)
    return held.getvalue()


def mono(number):
    return (noise(number)[:, 0] / 32768).astype(np.float32)


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def manifest(source, tmp_path, expected=0):
    assert main(["manifest", str(source), "-o", str(tmp_path / "out.jsonl")]) == expected
    return read_manifest(tmp_path / "out.jsonl")


def audio(number, path="x/u1.flac", kind="FLAC"):
    return {"bytes": encoded(number, kind), "path": path}


# name: (rows, expected (file below out.audio/t, id, text, speaker, language, number of the noise, first, last sample))
TABLES = {
    "audio": (
        [
            {"id": "u1", "audio": audio(1), "sentence": "one", "client_id": "c1", "locale": "cy"},
            {"id": "u2", "audio": audio(2, None, "WAV"), "sentence": "two", "client_id": "c2", "locale": "cy"},
        ],
        [
            ("000000-u1.flac", "u1", "one", "c1", "cy", 1, 0, RATE),
            ("000001.wav", "u2", "two", "c2", "cy", 2, 0, RATE),
        ],
    ),
    "times of the source": (
        [{"audio": audio(3), "begin_time": 67.0, "end_time": 68.0, "audio_duration": 1.0, "speaker_id": 7}],
        [("000000-u1.flac", "out.audio/t/000000-u1", None, "7", None, 3, 0, RATE)],
    ),
    "part of the file": (
        [{"audio": audio(3), "start": 0.25, "duration": 0.5}],
        [("000000-u1.flac", "out.audio/t/000000-u1@0.25", None, None, None, 3, RATE // 4, 3 * RATE // 4)],
    ),
    "a WebDataset": (
        [{"flac": audio(4, "a.b.flac"), "json": {"text": "t", "language": "English"}, "__key__": "k"}],
        [("000000-a.b.flac", "k", "t", None, "en", 4, 0, RATE)],
    ),
    "bytes alone": (
        [{"wav": encoded(5, "WAV"), "txt": "t", "id": 3}, {"wav": encoded(6, "WAV"), "txt": "t", "id": 3}],
        [
            ("000000.wav", "out.audio/t/000000", "t", None, None, 5, 0, RATE),
            ("000001.wav", "out.audio/t/000001", "t", None, None, 6, 0, RATE),
        ],
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_audio_is_extracted_as_it_is(tmp_path, name):
    rows, expected = TABLES[name]
    write(tmp_path / "t.parquet", rows)
    found = manifest(tmp_path / "t.parquet", tmp_path)
    for utterance, (file, *fields, number, first, last) in zip(found, expected, strict=True):
        assert utterance.path == tmp_path / "out.audio" / "t" / file
        assert [utterance.id, utterance.text, utterance.speaker, utterance.language] == fields
        assert read_utterance(utterance, RATE).tolist() == mono(number)[first:last].tolist()


def test_audio_of_other_decoders_is_told_by_its_content(tmp_path):
    av = pytest.importorskip("av")
    with av.open(tmp_path / "a", "w", format="ipod") as file:
        stream = file.add_stream("alac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(noise(1).T, "s16p", "mono")
        frame.sample_rate = RATE
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    write(tmp_path / "t.parquet", [{"audio": {"bytes": (tmp_path / "a").read_bytes(), "path": None}, "text": "t"}])
    (found,) = manifest(tmp_path / "t.parquet", tmp_path)
    assert found.path.name == "000000.m4a"
    np.testing.assert_allclose(read_utterance(found, RATE), mono(1), atol=1e-6)


def test_folders_keep_their_splits(tmp_path):
    for number, name in enumerate(("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001")):
        write(tmp_path / "data" / f"{name}.parquet", [{"audio": audio(number), "text": name}])
    schema = pyarrow.Table.from_pylist([{"audio": audio(9), "text": "arrow"}])
    (tmp_path / "data" / "more").mkdir()
    for name in ("data-00000-of-00001", "cache-1"):  # the second is no part of the corpus
        with pyarrow.ipc.new_stream(tmp_path / "data" / "more" / f"{name}.arrow", schema.schema) as stream:
            stream.write_table(schema)
    found = manifest(tmp_path / "data", tmp_path)
    assert {u.path.parent.relative_to(tmp_path / "out.audio").as_posix(): u.text for u in found} == {
        "more/data-00000-of-00001": "arrow",
        **{name: name for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001")},
    }


def test_a_folder_can_hold_its_manifest_but_not_other_audio(tmp_path, caplog):
    write(tmp_path / "t.parquet", [{"audio": audio(1), "text": "one"}])
    for _ in range(2):  # what was extracted is not listed again
        assert [utterance.text for utterance in manifest(tmp_path, tmp_path)] == ["one"]
    soundfile.write(tmp_path / "a.flac", noise(2), RATE)
    assert "a.flac" in [utterance.path.name for utterance in manifest(tmp_path, tmp_path)]
    assert "its 1 Parquet, Arrow and tar files are passed over" in caplog.text


def test_files_that_rows_name_stay_where_they_are(tmp_path):
    (tmp_path / "a.flac").write_bytes(encoded(1))
    write(tmp_path / "p" / "t.parquet", [{"audio": {"bytes": None, "path": str(tmp_path / "a.flac")}, "text": "one"}])
    (utterance,) = manifest(tmp_path / "p", tmp_path)
    assert utterance.path == tmp_path / "a.flac"
    assert not (tmp_path / "out.audio").exists()


def test_rows_that_cannot_be_read_are_named_and_counted(tmp_path, capsys):
    rows = [{"id": "u1", "audio": {"bytes": b"no audio", "path": None}}, {"id": "u2", "audio": audio(1)}]
    write(tmp_path / "t.parquet", rows)
    found = manifest(tmp_path / "t.parquet", tmp_path, expected=1)
    assert [utterance.id for utterance in found] == ["u2"]
    printed = capsys.readouterr()
    assert f"skipped {tmp_path / 't.parquet'}: row 0 (u1): its audio cannot be read" in printed.err
    assert "1 clips" in printed.out
    assert "1 skipped" in printed.out


def test_lists_beside_packed_files_are_named_where_no_clip_has_a_text(tmp_path, capsys):
    write(tmp_path / "d" / "t.parquet", [{"audio": audio(1)}])
    (tmp_path / "d" / "tarred_audio_manifest.json").write_text("{}\n")
    manifest(tmp_path / "d", tmp_path)
    assert "no clip has a text; lists beside the files are not read: tarred_audio_manifest.json" in (
        capsys.readouterr().out
    )


def test_checking_decodes_what_was_extracted(tmp_path, capsys):
    torn = bytearray(encoded(1))
    torn[2000:4000] = bytes(2000)
    write(tmp_path / "t.parquet", [{"id": "torn", "audio": {"bytes": bytes(torn), "path": None}}, {"audio": audio(2)}])
    assert len(manifest(tmp_path / "t.parquet", tmp_path)) == 2
    assert main(["manifest", str(tmp_path / "t.parquet"), "-o", str(tmp_path / "out.jsonl"), "--check"]) == 1
    assert "skipped torn: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"audio": {"array": [0.1], "sampling_rate": 16000, "path": "a"}}], "Audio(decode=False)"),
        ([{"near": audio(1), "far": audio(2)}], "the columns near, far hold audio"),
        ([{"text": "one"}], "no key names an audio file"),
        ([{"path": "a.flac", "onset": 0.5}], "onset (0.5) looks like a time"),
    ],
)
def test_other_tables_are_refused(tmp_path, capsys, rows, message):
    (tmp_path / "a.flac").write_bytes(encoded(1))
    write(tmp_path / "t.parquet", rows)
    assert main(["manifest", str(tmp_path / "t.parquet"), "-o", str(tmp_path / "out.jsonl")]) == 2
    assert message in capsys.readouterr().err


def test_without_pyarrow_it_is_asked_for(tmp_path, monkeypatch, capsys):
    write(tmp_path / "t.parquet", [{"audio": audio(1)}])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["manifest", str(tmp_path / "t.parquet"), "-o", str(tmp_path / "out.jsonl")]) == 2
    assert "pyarrow, which is not installed: pip install pyarrow" in capsys.readouterr().err


def test_the_folder_beside_the_manifest_needs_a_manifest(tmp_path, capsys):
    write(tmp_path / "t.parquet", [{"audio": audio(1)}])
    assert main(["manifest", str(tmp_path / "t.parquet"), "--shards", str(tmp_path / "shards")]) == 2
    assert "say -o OUT.jsonl" in capsys.readouterr().err
