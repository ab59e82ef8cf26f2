"""`flexicodec manifest`: from folders to manifests and shards for training."""

import tarfile
from itertools import islice

import numpy as np
import pytest
import soundfile

from flexicodec.cli import main
from flexicodec.corpus import read_manifest
from flexicodec.training.config import DataConfig
from flexicodec.training.data import training_batches


@pytest.fixture
def folder(tmp_path):
    """Two speakers with two clips each, one of them transcribed."""
    for index in range(4):
        path = tmp_path / "speech" / f"speaker{index % 2}" / f"{index}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * np.sin(np.arange(8000 * (index + 1))), 16_000)
    path.with_suffix(".txt").write_text("hello")
    return tmp_path / "speech"


def test_a_manifest_of_a_folder(folder, capsys):
    assert main(["manifest", str(folder), "-o", str(folder / "m.jsonl")]) == 0
    first, note = capsys.readouterr().out.splitlines()
    assert first == f"{folder / 'm.jsonl'}: plain, 4 clips, 0.00 hours, 2 guessed speakers, 1 with text, 0 skipped"
    assert note.startswith("note: 4 files are of no known layout (kaldi, ")
    utterances = read_manifest(folder / "m.jsonl")
    assert [(u.path, u.duration, u.text, u.speaker) for u in utterances] == [
        (folder / "speaker0" / "0.flac", 0.5, None, "speaker0"),
        (folder / "speaker0" / "2.flac", 1.5, None, "speaker0"),
        (folder / "speaker1" / "1.flac", 1.0, None, "speaker1"),
        (folder / "speaker1" / "3.flac", 2.0, "hello", "speaker1"),
    ]


def test_everything_is_counted(folder, tmp_path, capsys):
    for name in ("b.spx", "c.spx", "d.shn"):
        (folder / name).write_bytes(b"")
    (folder / "speaker0" / "0.TextGrid").write_text("")
    (folder / "speaker0" / "8.TextGrid").write_text("")
    assert main(["manifest", str(folder), "-o", str(tmp_path / "m.jsonl")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "1 with alignment" in lines[0]
    assert [line for line in lines if line.startswith("left out")] == [
        "left out: 2 .spx files: audio that is not read (convert it to FLAC, say)",
        "left out: 1 .shn files: audio that is not read (convert it to FLAC, say)",
        "left out: 1 alignments that are of no clip here",
    ]


def test_many_bad_files_are_named_in_part(folder, tmp_path, capsys):
    for index in range(23):
        (folder / f"bad{index:02}.wav").write_bytes(b"no audio")
    assert main(["manifest", str(folder), "-o", str(tmp_path / "m.jsonl")]) == 1
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 21
    assert error[-1] == "flexicodec: skipped 3 more"


def test_what_cannot_be_read_is_counted_and_named(folder, capsys):
    (folder / "speaker1" / "bad.wav").write_bytes(b"no audio")
    assert main(["manifest", str(folder), "-o", str(folder / "m.jsonl")]) == 1
    printed = capsys.readouterr()
    assert "4 clips" in printed.out
    assert "1 skipped" in printed.out
    assert printed.err.startswith(f"flexicodec: skipped {folder / 'speaker1' / 'bad.wav'}: cannot read")
    assert len(printed.err.splitlines()) == 1


@pytest.mark.parametrize("through_a_manifest", [False, True])
def test_shards_from_end_to_end(folder, tmp_path, capsys, through_a_manifest):
    source = folder
    if through_a_manifest:
        assert main(["manifest", str(folder), "-o", str(tmp_path / "m.jsonl")]) == 0
        source = tmp_path / "m.jsonl"
    assert main(["manifest", str(source), "--shards", str(tmp_path / "shards"), "--clips-per-shard", "3"]) == 0
    assert "2 shards with 4 clips" in capsys.readouterr().out
    config = DataConfig(shards=(str(tmp_path / "shards" / "*.tar"),), crop_seconds=None, batch_seconds=2.0)
    batches = islice(training_batches(config, sample_rate=16_000, seed=0), 4)
    assert sorted(n for batch in batches for n in batch.lengths.tolist())[-1] == 32_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: [str(next(p for p in folder.rglob("*") if p.is_file()))], "say where to write: -o OUT.jsonl"),
        (lambda folder: [str(folder / "none"), "-o", "m.jsonl"], "is not a folder"),
        (lambda folder: [str(folder), "--layout", "kaldi", "-o", "m.jsonl"], "wav.scp"),
        (lambda folder: [__file__, "--alignments", str(folder), "-o", "m.jsonl"], "for folders of audio files"),
        (lambda folder: [str(folder), "-o", str(folder / "none" / "m.jsonl")], "cannot write"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(folder, capsys, change, message):
    assert main(["manifest", *change(folder)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_folder_of_bad_files_is_an_error(tmp_path, capsys):
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    assert main(["manifest", str(tmp_path), "-o", str(tmp_path / "m.jsonl")]) == 2
    assert "the first: " in capsys.readouterr().err
    assert not (tmp_path / "m.jsonl").exists()


def test_what_was_passed_over_is_said_where_nothing_is_left(tmp_path, capsys):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("1.npy"))
    assert main(["manifest", str(tmp_path / "a.tar"), "-o", str(tmp_path / "m.jsonl")]) == 2
    assert "nothing in" in (error := capsys.readouterr().err)
    assert "left out: 1 members of tars: .npy" in error


def test_kaldi_commands_are_refused(tmp_path, capsys):
    (tmp_path / "wav.scp").write_text("a sox a.sph -t wav - speed 1.1 |\n")
    assert main(["manifest", str(tmp_path), "-o", str(tmp_path / "m.jsonl")]) == 2
    assert "a is the output of a command" in capsys.readouterr().err
