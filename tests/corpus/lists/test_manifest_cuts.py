"""Lhotse cuts as a source of utterances."""

import json
import logging
import sys

import numpy as np
import pytest
import soundfile

from flexicodec.corpus import Utterance, read_manifest, read_utterance, write_manifest

ROW = '{"id": "a", "type": "MonoCut", "start": 0, "duration": 1, "channel": 0}\n'


def test_without_lhotse_cuts_ask_for_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lhotse", None)
    (tmp_path / "cuts.jsonl").write_text(ROW)
    with pytest.raises(ImportError, match="lhotse, which is not installed: pip install"):
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
        Utterance(path, 0.25, 0.0, "words of c1", "ann", id="c1"),
        Utterance(path, 0.25, 0.5, "words of c2", "ann", id="c2"),
    ]
    assert [each.id for each in found] == ["c1", "c2"]
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


# ------------------------------------------------------------------------------------------------------------ channels


@pytest.fixture
def call(lhotse, tmp_path):
    """A recording of two channels in one file and a third in another, with a cut for each."""
    samples = np.random.default_rng(0).integers(-20_000, 20_000, (16_000, 3), dtype=np.int16)
    soundfile.write(tmp_path / "two.wav", samples[:, :2], 16_000)
    soundfile.write(tmp_path / "one.wav", samples[:, 2], 16_000)
    sources = [
        lhotse.audio.AudioSource("file", [0, 1], str(tmp_path / "two.wav")),
        lhotse.audio.AudioSource("file", [4], str(tmp_path / "one.wav")),
    ]
    recording = lhotse.Recording("call", sources, 16_000, 16_000, 1.0)
    cuts = []
    for channel, language in ((0, "English"), (1, "Chinese"), (4, None)):
        spoken = {"text": f"of {channel}", "speaker": f"s{channel}", "language": language}
        own = lhotse.SupervisionSegment(f"s{channel}", "call", 0.0, 0.5, channel, **spoken)
        other = lhotse.SupervisionSegment("other", "call", 0.0, 0.5, 9, text="not this", speaker="s9")
        cuts.append(lhotse.MonoCut(f"call-{channel}", 0.25, 0.5, channel, [own, other], recording=recording))
    return cuts, samples / 32768


def test_a_cut_is_its_channel(lhotse, call, tmp_path):
    cuts, samples = call
    lhotse.CutSet.from_cuts(cuts).to_file(tmp_path / "cuts.jsonl")
    found = read_manifest(tmp_path / "cuts.jsonl")
    write_manifest(tmp_path / "m.jsonl", found)
    assert read_manifest(tmp_path / "m.jsonl") == found
    expected = [("two.wav", 0, "en"), ("two.wav", 1, "zh"), ("one.wav", None, None)]
    for cut, utterance, (file, channel, language) in zip(cuts, found, expected, strict=True):
        assert (utterance.path.name, utterance.channel, utterance.language) == (file, channel, language)
        assert (utterance.id, utterance.text) == (cut.id, f"of {cut.channel}")
        assert utterance.speaker == f"s{cut.channel}"
        assert read_utterance(utterance, 16_000).tolist() == cut.load_audio()[0].tolist()


def test_cuts_of_several_channels_say_what_to_do(lhotse, call, tmp_path):
    cuts, _ = call
    several = lhotse.MultiCut("both", 0.0, 0.5, [0, 1], [], recording=cuts[0].recording)
    lhotse.CutSet.from_cuts([cuts[0], several]).to_file(tmp_path / "cuts.jsonl")
    with pytest.raises(ValueError, match=r"cuts\.jsonl:2: cut 'both' has 2 channels; .*`cut.to_mono\(\)`"):
        read_manifest(tmp_path / "cuts.jsonl")
    # What the message says, and a cut of several channels with one of them.
    one = lhotse.MultiCut("one", 0.0, 0.5, [1], [], recording=cuts[0].recording)
    lhotse.CutSet.from_cuts([*several.to_mono(), one]).to_file(tmp_path / "mono.jsonl")
    found = read_manifest(tmp_path / "mono.jsonl")
    assert [(each.id, each.channel) for each in found] == [("both-0", 0), ("both-1", 1), ("one", 1)]


def test_a_text_that_goes_beyond_its_cut_is_left_out_and_counted(lhotse, clips, tmp_path, caplog):
    whole = cut(lhotse, clips[0][5].path, duration=0.8)
    lhotse.CutSet.from_cuts([whole, whole.truncate(duration=0.3)]).to_file(tmp_path / "cuts.jsonl")
    with caplog.at_level(logging.WARNING):
        found = read_manifest(tmp_path / "cuts.jsonl")
    assert [each.text for each in found] == ["words of c", None]
    assert "1 of 2 cuts have no text" in caplog.text


def test_a_bad_cut_is_named_by_its_line(lhotse, clips, tmp_path):
    good = json.dumps(cut(lhotse, clips[0][5].path).to_dict())
    for bad in ('{"type": "MonoCut", "id": "x"}', '{"type": '):
        (tmp_path / "cuts.jsonl").write_text(f"{good}\n{bad}\n")
        with pytest.raises(ValueError, match=r"cuts\.jsonl:2: lhotse cannot read this cut"):
            read_manifest(tmp_path / "cuts.jsonl")


@pytest.mark.parametrize("name", ["cuts.json", "cuts.jsonl"])
def test_libriheavy_has_several_texts(lhotse, clips, tmp_path, name):
    row = cut(lhotse, clips[0][5].path).to_dict()
    row["supervisions"][0].pop("text")
    row["supervisions"][0]["custom"] = {"texts": ["It rained.", "IT RAINED"]}
    content = json.dumps([row], indent=1) if name == "cuts.json" else json.dumps(row) + "\n"
    (tmp_path / name).write_text(content)
    assert [each.text for each in read_manifest(tmp_path / name)] == ["It rained."]
