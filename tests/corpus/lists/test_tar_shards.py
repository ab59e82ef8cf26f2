"""Clips found in tars of other tools: names with dots, files in any order, Emilia's JSON, and lhotse's Shar."""

import io
import json
import tarfile

import numpy as np
import pytest
import soundfile

from flexicodec.cli import main
from flexicodec.corpus import read_manifest, read_utterance
from flexicodec.corpus.lists.packed import packed_files
from flexicodec.corpus.lists.tar_shards import scan_tar
from flexicodec.training.config import DataConfig
from flexicodec.training.data import training_batches, write_shards
from flexicodec.training.data.shards import index_path

RATE = 16_000


def noise(number, seconds=0.5, channels=1):
    """Samples of 16 bits, and below full scale when MP3 has changed them."""
    shape = (round(seconds * RATE), channels)
    return np.random.default_rng(number).integers(-10_000, 10_000, shape, dtype=np.int16)


def encoded(samples, kind="FLAC"):
    held = io.BytesIO()
    soundfile.write(held, samples, RATE, format=kind)
    return held.getvalue()


def make_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            content = json.dumps(content).encode() if isinstance(content, dict) else content
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def trained_on(shards):
    """Text and samples of every clip of an epoch, as training reads them."""
    config = DataConfig(shards=(str(shards),), crop_seconds=None)
    batch = next(training_batches(config, sample_rate=RATE, seed=0))
    rows = zip(batch.texts, batch.audio.tolist(), batch.lengths.tolist(), strict=True)
    return sorted(((text or "", row[:length]) for text, row, length in rows), key=str)


def listed(utterances):
    """The same of utterances."""
    return sorted(((each.text or "", read_utterance(each, RATE).tolist()) for each in utterances), key=str)


A, B = encoded(noise(1)), encoded(noise(2))
EMILIA = {
    **{"id": "EN_B0_S0_W0", "wav": "EN_B0/EN_B0_S0/mp3/EN_B0_S0_W0.mp3", "text": " you could", "duration": 0.5},
    **{"speaker": "EN_B0_S0", "language": "en", "dnsmos": 3.3},
}
# name: (members, expected (file, id, text, start, seconds), members passed over by reason, unreadable by name)
TARS = {
    "names with dots": (
        [("utt.1.a.flac", A), ("utt.1.a.json", {"text": "a"}), ("utt.1.b.flac", B), ("utt.1.b.txt", b"b\n")],
        [("utt.1.a.flac", None, "a", 0, 0.5), ("utt.1.b.flac", None, "b", 0, 0.5)],
        *({}, []),
    ),
    "apart": (
        [("a.json", {"text": "a"}), ("b.json", {"text": "b", "id": "two"}), ("b.flac", B), ("./a.flac", A)],
        [("b.flac", "two", "b", 0, 0.5), ("a.flac", None, "a", 0, 0.5)],
        *({}, []),
    ),
    "WebDataset's first dot": (
        [("d/1.audio.flac", A), ("d/1.meta.json", {"txt": "a"}), ("d/1.emb.npy", b"x"), ("d/.flac", b"x")],
        [("d/1.audio.flac", None, "a", 0, 0.5)],
        *({".npy": 1, "hidden file": 1}, []),
    ),
    "Emilia": (
        [("0.mp3", encoded(noise(3), "MP3")), ("0.json", EMILIA)],
        [("0.mp3", "EN_B0_S0_W0", " you could", 0, 0.5)],
        *({}, []),
    ),
    "times of the source": (
        [("a.flac", A), ("a.json", {"begin_time": 67.18, "end_time": 67.68})],
        [("a.flac", None, None, 0, 0.5)],
        *({}, []),
    ),
    "times in the file": (
        [("a.flac", A), ("a.json", {"offset": 0.125, "dur": 0.25})],
        [("a.flac", None, None, 0.125, 0.25)],
        *({}, []),
    ),
    "a start near the beginning": (
        [("a.flac", A), ("a.json", {"offset": 0.0625}), ("b.flac", B), ("b.json", {"start": 0.0625, "end": 0.5})],
        [("a.flac", None, None, 0.0625, 0.4375), ("b.flac", None, None, 0.0625, 0.4375)],
        *({}, []),
    ),
    "times of neither": (
        [("a.flac", A), ("a.json", {"start": 3, "duration": 2}), ("b.flac", B), ("b.json", b"[]")],
        [],
        *({}, ["a.flac", "b.flac"]),
    ),
    "what has no clip": (
        [("a.flac", A), ("a.wav", A), ("c.json", {}), ("a.x.txt", b"x"), ("a.txt", b"a"), ("LICENSE", b"")],
        [("a.flac", None, "a", 0, 0.5)],
        {"second audio file of a clip (.wav)": 1, ".json of no clip or of several": 1}
        | {".txt of no clip or of several": 1, "without suffix": 1},
        [],
    ),
    "one name twice": (
        [("a.flac", A), ("a.txt", b"first"), ("a.flac", B), ("a.txt", b"second")],
        [("a.flac", None, "first", 0, 0.5), ("a.flac", None, "second", 0, 0.5)],
        *({}, []),
    ),
}


@pytest.mark.parametrize("name", TARS)
def test_each_tar_gives_its_clips(tmp_path, name):
    members, expected, passed_over, unreadable = TARS[name]
    shard = make_tar(tmp_path / "x.tar", members)
    listing = scan_tar(shard)
    found = []
    for entry in listing.entries:
        clip = entry.utterance
        member = clip.path.relative_to(shard).as_posix()
        key = None if clip.id == member.rpartition(".")[0] else clip.id
        found.append((member, key, clip.text, clip.start, clip.duration))
    assert [each[:4] for each in found] == [each[:4] for each in expected]
    assert [each[4] for each in found] == pytest.approx([each[4] for each in expected], abs=0.05)
    assert listing.passed_over == passed_over
    assert [name for name, _ in listing.unreadable] == unreadable


def test_the_command_counts_what_it_leaves_out(tmp_path, capsys):
    (tmp_path / "tars").mkdir()
    for number in range(2):
        make_tar(tmp_path / "tars" / f"{number}.tar", [("a.flac", A), ("a.npy", b"x"), ("b.flac", b"no audio")])
    assert main(["manifest", str(tmp_path / "tars"), "-o", str(tmp_path / "x.jsonl")]) == 1
    printed = capsys.readouterr()
    assert "2 clips" in printed.out
    assert "2 skipped" in printed.out
    assert "left out: 2 members of tars: .npy" in printed.out
    assert "note: clips by file: 0.tar 1, 1.tar 1" in printed.out
    assert "note: 2 clips have ids that are not unique; they are named by their files" in printed.out
    assert f"skipped {tmp_path / 'tars' / '0.tar'}/b.flac: " in printed.err


@pytest.mark.parametrize("name", [name for name in TARS if TARS[name][1]])
def test_training_reads_a_clip_as_the_manifest_of_its_tar_does(tmp_path, name):
    shard = make_tar(tmp_path / "x.tar", TARS[name][0])
    main(["manifest", str(shard), "-o", str(tmp_path / "x.jsonl")])
    utterances = read_manifest(tmp_path / "x.jsonl")
    assert [u.text for u in utterances] == [text for _, _, text, _, _ in TARS[name][1]]
    assert all(utterance.path.is_relative_to(tmp_path / "x.audio" / "x") for utterance in utterances)
    assert trained_on(shard) == listed(utterances)


def test_identity_and_channel_come_back_from_written_shards(tmp_path):
    soundfile.write(tmp_path / "two.wav", noise(4, channels=2), RATE)
    rows = [
        {"path": "two.wav", "id": "left", "channel": 0, "speaker": "ann", "lang": "de", "speaker_guessed": True},
        {"path": "two.wav", "id": "right", "channel": 1, "text": "ja", "num_phones": 2, "corpus": "calls"},
        {"path": "two.wav", "id": "part", "channel": 1, "start": 0.125, "duration": 0.25},
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    utterances = read_manifest(tmp_path / "m.jsonl")
    shards = write_shards(utterances, tmp_path / "shards").shards
    # Extracted again, they are the same clips; and in place, with and without the index.
    assert main(["manifest", str(tmp_path / "shards"), "-o", str(tmp_path / "again.jsonl")]) == 0
    again = {each.id: each for each in read_manifest(tmp_path / "again.jsonl")}
    assert set(again) == {"left", "right", "part"}
    for before in utterances:
        after = again[before.id]
        for name in ("speaker", "speaker_guessed", "language", "text", "num_phones", "corpus", "duration"):
            assert getattr(before, name) == getattr(after, name)
        assert read_utterance(before, RATE).tolist() == read_utterance(after, RATE).tolist()
    assert [again[name].channel for name in ("left", "right", "part")] == [0, 1, None]
    assert trained_on(shards[0]) == listed(utterances)
    index_path(shards[0]).unlink()
    assert trained_on(shards[0]) == listed(utterances)


# --------------------------------------------------------------------------------------------------------- lhotse Shar


@pytest.fixture
def shar(tmp_path):
    """A Shar with two cuts of one channel each, and the folder."""
    lhotse = pytest.importorskip("lhotse")
    soundfile.write(tmp_path / "call.wav", noise(5, 1.0, channels=2), RATE)
    recording = lhotse.Recording.from_file(tmp_path / "call.wav")
    cuts = []
    for channel, name in enumerate(("c.1", "c.2")):
        spoken = {"text": f"words of {name}", "speaker": f"s{channel}", "language": "German"}
        supervision = lhotse.SupervisionSegment(name, recording.id, 0.0, 0.5, channel, **spoken)
        cuts.append(lhotse.MonoCut(name, 0.25, 0.5, channel, [supervision], recording=recording))
    (tmp_path / "shar").mkdir()
    lhotse.CutSet.from_cuts(cuts).to_shar(tmp_path / "shar", fields={"recording": "flac"}, shard_size=10)
    return tmp_path / "shar", cuts


def test_a_shar_is_its_cuts(shar, tmp_path):
    folder, cuts = shar
    assert main(["manifest", str(folder), "-o", str(tmp_path / "shar.jsonl")]) == 0
    found = read_manifest(tmp_path / "shar.jsonl")
    assert [(u.id, u.text, u.speaker, u.language, u.channel) for u in found] == [
        ("c.1", "words of c.1", "s0", "de", None),
        ("c.2", "words of c.2", "s1", "de", None),
    ]
    for cut, utterance in zip(cuts, found, strict=True):
        assert read_utterance(utterance, RATE).tolist() == cut.load_audio()[0].tolist()
    assert trained_on(folder / "recording.*.tar") == listed(found)


def test_what_a_shar_lacks_is_named(shar, caplog):
    folder, _ = shar
    with tarfile.open(folder / "recording.000000.tar") as tar:
        first = tar.extractfile("c.1.flac").read()
    make_tar(folder / "recording.000000.tar", [("c.1.original", first), ("c.9.flac", first)])
    listing = scan_tar(folder / "recording.000000.tar")
    assert [entry.utterance.id for entry in listing.entries] == ["c.1"]
    assert listing.unreadable == [("c.9.flac", "its Shar has no such cut"), ("c.2", "it has no audio in the tar")]
    make_tar(folder / "noise.000000.tar", [("c.1.flac", first)])
    assert packed_files(folder) == [folder / "recording.000000.tar"]
    assert "passed over 1 tars with noise of a lhotse Shar" in caplog.text
    with pytest.raises(ValueError, match="holds noise of a lhotse Shar"):
        scan_tar(folder / "noise.000000.tar")
