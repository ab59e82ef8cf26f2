"""Lhotse cuts as a source of utterances."""

import sys

import pytest

from flexicodec.corpus import Utterance, read_manifest, read_utterance

ROW = '{"id": "a", "type": "MonoCut", "start": 0, "duration": 1, "channel": 0}\n'


def test_without_lhotse_cuts_ask_for_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lhotse", None)
    (tmp_path / "cuts.jsonl").write_text(ROW)
    with pytest.raises(ImportError, match="lhotse is not installed: pip install lhotse"):
        read_manifest(tmp_path / "cuts.jsonl")


def test_recordings_are_no_cuts(tmp_path):
    (tmp_path / "r.jsonl").write_text('{"id": "r", "sources": [], "sampling_rate": 16000}\n')
    with pytest.raises(ValueError, match="lhotse recordings; make cuts"):
        read_manifest(tmp_path / "r.jsonl")


@pytest.fixture
def lhotse():
    return pytest.importorskip("lhotse")


def cut(lhotse, path, name="c", start=0.0, duration=0.25, **settings):
    """A cut with a supervision."""
    recording = lhotse.Recording.from_file(path)
    supervision = lhotse.SupervisionSegment(name, recording.id, 0.0, duration, text=f"words of {name}", speaker="ann")
    return lhotse.MonoCut(name, start, duration, 0, supervisions=[supervision], recording=recording, **settings)


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz"])
def test_cuts_are_utterances(lhotse, clips, tmp_path, suffix):
    path = clips[0][5].path
    two = lhotse.CutSet.from_cuts([cut(lhotse, path, "c1"), cut(lhotse, path, "c2", start=0.5)])
    two.to_file(tmp_path / f"cuts.{suffix}")
    found = read_manifest(tmp_path / f"cuts.{suffix}")
    assert found == [
        Utterance(path, 0.25, 0.0, "words of c1", "ann"),
        Utterance(path, 0.25, 0.5, "words of c2", "ann"),
    ]
    assert read_utterance(found[1], 16_000).tolist() == clips[1][5][8000:12_000].tolist()
    assert "torchaudio" not in sys.modules


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lhotse, one: one.pad(2.0), "is a MixedCut"),
        (lambda lhotse, one: one.perturb_speed(1.1), "changes its recording on the fly"),
        (lambda lhotse, one: lhotse.MonoCut("c", 0.0, 0.25, 0), "no recording"),
    ],
)
def test_other_cuts_are_refused(lhotse, clips, tmp_path, change, message):
    one = cut(lhotse, clips[0][5].path, duration=0.8)
    lhotse.CutSet.from_cuts([change(lhotse, one)]).to_file(tmp_path / "cuts.jsonl")
    with pytest.raises(ValueError, match=message):
        read_manifest(tmp_path / "cuts.jsonl")
