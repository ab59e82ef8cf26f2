"""Folder layouts: Kaldi, LibriSpeech and plain folders of audio."""

import shutil

import numpy as np
import pytest
import soundfile

from flexicodec.corpus import Utterance, read_utterance, scan

RATE = 16_000


def speak(path, seconds, rate=RATE, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full((round(seconds * rate), channels), 0.1), rate)


@pytest.fixture
def kaldi(tmp_path):
    folder = tmp_path / "data" / "train"
    speak(folder / "wav" / "a.wav", 4.0)
    speak(folder / "wav" / "b.flac", 2.0, rate=8000)
    (folder / "wav.scp").write_text(f"rec-a wav/a.wav\nrec-b {folder}/wav/b.flac\n")
    (folder / "segments").write_text("u1 rec-a 0.5 1.75\nu2 rec-a 2 -1\nu3 rec-b 0 2.01\n")
    (folder / "text").write_text("u1 HELLO  THERE\nu2\nu4 NOT IN SEGMENTS\n")
    (folder / "utt2spk").write_text("u1 ann\nu2 ann\nu3 bob\n")
    return folder


def test_a_kaldi_folder_with_segments(kaldi):
    listing = scan(kaldi)
    a, b = kaldi / "wav" / "a.wav", kaldi / "wav" / "b.flac"
    assert listing.layout == "kaldi"
    assert listing.unreadable == []
    assert listing.utterances == [
        Utterance(a, 1.25, 0.5, "HELLO  THERE", "ann"),
        Utterance(a, 2.0, 2.0, "", "ann"),
        Utterance(b, 2.0, 0.0, None, "bob"),
    ]
    assert len(read_utterance(listing.utterances[0], RATE)) == 20_000


def test_a_kaldi_folder_without_segments_has_whole_files(kaldi, tmp_path, monkeypatch):
    for name in ("segments", "utt2spk"):
        (kaldi / name).unlink()
    (kaldi / "text").write_text("rec-b WORDS")
    speak(tmp_path / "elsewhere" / "c.wav", 1.0)
    with (kaldi / "wav.scp").open("a") as file:
        file.write("rec-c elsewhere/c.wav\nrec-d gone.wav\n")
    monkeypatch.chdir(tmp_path)
    listing = scan(kaldi)
    assert [(u.duration, u.text) for u in listing.utterances] == [(4.0, None), (2.0, "WORDS"), (1.0, None)]
    assert listing.utterances[2].path == tmp_path / "elsewhere" / "c.wav"
    assert listing.unreadable == [("rec-d", f"no such audio file: {kaldi / 'gone.wav'}")]


def test_a_segment_outside_its_file_is_left_out(kaldi):
    (kaldi / "segments").write_text("u1 rec-a 5 6\nu2 rec-a 3 2\nu3 rec-b 0 1\n")
    listing = scan(kaldi)
    assert [u.speaker for u in listing.utterances] == ["bob"]
    assert [name for name, _ in listing.unreadable] == ["u1", "u2"]
    assert "begins at 5 s and ends at 4 s" in listing.unreadable[0][1]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "wav.scp",
            "rec-a wav-reverberate wav/a.wav - |\n",
            r"rec-a is the output of a command \(wav-reverberate wav/a.wav - \|\): wav-reverberate is none of",
        ),
        ("wav.scp", "rec-a raw.ark:17\n", "rec-a lies in an archive"),
        ("wav.scp", "rec-a wav/a.wav\nrec-a wav/a.wav\n", "wav.scp:2: rec-a is there twice"),
        ("segments", "u1 rec-a 0.5\n", "u1 has 'rec-a 0.5'; expected recording, start and end"),
        ("segments", "u1 rec-x 0.5 1\n", "u1 is from 'rec-x', which wav.scp does not list"),
    ],
)
def test_kaldi_lists_that_cannot_be_followed_are_refused(kaldi, file, content, message):
    (kaldi / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        scan(kaldi)


def test_a_librispeech_tree(tmp_path):
    chapter = tmp_path / "dev" / "84" / "121123"
    speak(chapter / "84-121123-0000.flac", 2.0)
    speak(chapter / "84-121123-0001.flac", 1.0)
    (chapter / "84-121123.trans.txt").write_text("84-121123-0000 GO DO YOU HEAR\n84-121123-0009 NOBODY HAS THIS\n")
    listing = scan(tmp_path)
    assert listing.layout == "librispeech"
    assert [(u.path.name, u.duration, u.text, u.speaker) for u in listing.utterances] == [
        ("84-121123-0000.flac", 2.0, "GO DO YOU HEAR", "84"),
        ("84-121123-0001.flac", 1.0, None, "84"),
    ]
    assert [name for name, _ in listing.unreadable] == [f"{chapter / '84-121123-0009'}.*"]


def test_any_folder_of_audio(tmp_path):
    speak(tmp_path / "top.wav", 1.0, rate=44_100, channels=2)
    speak(tmp_path / "ann" / "x" / "1.flac", 2.0)
    (tmp_path / "ann" / "x" / "1.txt").write_text("some\n words \n")
    (tmp_path / "ann" / "notes.md").write_text("no audio")
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    listing = scan(tmp_path)
    assert listing.layout == "plain"
    assert [(u.path.name, u.duration, u.text, u.speaker) for u in listing.utterances] == [
        ("1.flac", 2.0, "some words", "x"),
        ("top.wav", 1.0, None, None),
    ]
    assert [name for name, _ in listing.unreadable] == [str(tmp_path / "bad.wav")]


def test_decoding_everything_finds_what_headers_hide(tmp_path, speech_folder):
    source = sorted(speech_folder.glob("*.flac"))[0]
    shutil.copy(source, tmp_path / "whole.flac")
    (tmp_path / "torn.flac").write_bytes(source.read_bytes()[:20_000])
    assert len(scan(tmp_path).utterances) == 2
    checked = scan(tmp_path, check=True)
    assert [u.path.name for u in checked.utterances] == ["whole.flac"]
    assert [name for name, _ in checked.unreadable] == [str(tmp_path / "torn.flac")]


def test_the_layout_can_be_given(kaldi):
    assert [u.path.name for u in scan(kaldi, layout="plain").utterances] == ["a.wav", "b.flac"]
    with pytest.raises(ValueError, match="layout is 'lmdb', expected auto, kaldi, librispeech, plain"):
        scan(kaldi, layout="lmdb")
    with pytest.raises(FileNotFoundError):
        scan(kaldi / "wav", layout="kaldi")


def test_a_folder_has_to_be_one(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        scan(tmp_path / "none")
    with pytest.raises(ValueError, match="no files to read"):
        scan(tmp_path)
