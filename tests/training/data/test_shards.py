"""Tar shards: written, scanned, and read exactly once an epoch from any starting step."""

import gc
import io
import json
import tarfile
from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import soundfile
import torch

from flexicodec.corpus import Utterance
from flexicodec.training.config import DataConfig
from flexicodec.training.data import training_batches, write_shards
from flexicodec.training.data.shards import find_shards, index_path, read_entries

RATE = 16_000


@pytest.fixture
def written(clips, tmp_path):
    """Twelve clips in four shards."""
    return write_shards(clips[0], tmp_path / "shards", clips_per_shard=3)


@pytest.fixture(params=["crops", "whole"])
def config(request, written):
    pattern = (str(written.shards[0].parent / "*.tar"),)
    if request.param == "crops":
        return DataConfig(shards=pattern, batch_size=3, crop_seconds=0.4, shuffle_buffer=5)
    return DataConfig(shards=pattern, crop_seconds=None, batch_seconds=3.0, shuffle_buffer=5)


def take(config, count, **settings):
    return list(islice(training_batches(config, sample_rate=RATE, seed=2, **settings), count))


def same(one, other):
    return torch.equal(one.audio, other.audio) and torch.equal(one.items, other.items) and one.texts == other.texts


def add(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def flac(samples, rate=RATE):
    held = io.BytesIO()
    soundfile.write(held, samples, rate, format="FLAC")
    return held.getvalue()


# ------------------------------------------------------------------------------------------------------------- writing


def test_shards_hold_the_files_as_they_are(clips, written):
    assert (written.clips, written.unreadable, len(written.shards)) == (12, [], 4)
    names = []
    for shard in written.shards:
        with tarfile.open(shard) as tar:
            for member in tar.getmembers():
                number = int(member.name.split(".")[0])
                content = tar.extractfile(member).read()
                names.append(member.name)
                if member.name.endswith(".json"):
                    expected = {"duration": clips[0][number].duration, "text": f"text {number}"}
                    assert json.loads(content) == {**expected, "speaker": f"s{number % 3}"}
                else:
                    assert content == clips[0][number].path.read_bytes()
    assert sorted(names) == sorted(f"{i:09d}.{suffix}" for i in range(12) for suffix in ("json", "wav"))
    assert names != sorted(names)


def test_writing_twice_gives_the_same_bytes(clips, written, tmp_path):
    again = write_shards(clips[0], tmp_path / "again", clips_per_shard=3)
    for one, other in zip(written.shards, again.shards, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert index_path(one).read_bytes() == index_path(other).read_bytes()


def test_segments_become_separate_files(clips, tmp_path):
    source = clips[0][9]
    stretch = Utterance(source.path, 0.25, start=0.5)
    gone = Utterance(tmp_path / "gone.wav", 1.0)
    result = write_shards([stretch, gone], tmp_path / "cut")
    assert result.clips == 1
    assert [utterance for utterance, _ in result.unreadable] == [gone]
    (member,) = read_entries(result.shards[0])
    assert member.utterance.duration == 0.25
    with member.open() as window:
        np.testing.assert_array_equal(soundfile.read(window)[0], clips[1][9][8000:12_000])


def test_writing_is_refused_where_shards_are_or_nothing_can_be_read(clips, written, tmp_path):
    with pytest.raises(ValueError, match="holds shards already"):
        write_shards(clips[0], written.shards[0].parent)
    with pytest.raises(ValueError, match="none of 1 utterances can be read"):
        write_shards([Utterance(tmp_path / "gone.wav", 1.0)], tmp_path / "none")
    with pytest.raises(ValueError, match="clips_per_shard is 0"):
        write_shards(clips[0], tmp_path / "none", clips_per_shard=0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_other_readers_take_the_shards(clips, written):
    webdataset = pytest.importorskip("webdataset")
    samples = list(webdataset.WebDataset([str(shard) for shard in written.shards], shardshuffle=False))
    assert {sample["__key__"] for sample in samples} == {f"{i:09d}" for i in range(12)}
    assert all(sample["wav"] == clips[0][int(sample["__key__"])].path.read_bytes() for sample in samples)
    gc.collect()  # WebDataset leaves files to the garbage collector, which warns


# ------------------------------------------------------------------------------------------------------------ scanning


def test_the_index_agrees_with_the_tar(written):
    for shard in written.shards:
        indexed = read_entries(shard)
        index_path(shard).unlink()
        assert read_entries(shard) == indexed


def test_an_index_of_another_shard_is_not_used(written, caplog):
    first, second = written.shards[:2]
    expected = read_entries(first)
    index_path(first).write_text(index_path(second).read_text().replace("tar_bytes", "tar_bytes", 1))
    with first.open("ab") as file:
        file.write(bytes(10_240))
    assert read_entries(first) == expected
    assert "is of another" in caplog.text


def test_shards_made_by_others(tmp_path, caplog):
    speech = np.sin(np.arange(8000)) / 2
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        add(tar, "part/a.en.json", b"{}")
        add(tar, "part/a.flac", flac(speech))
        add(tar, "part/a.txt", b"some words\n")
        add(tar, "part/a.b.npy", b"other things")
        add(tar, "readme.md", b"no clip")
        add(tar, "part/b.flac", b"no audio")
        add(tar, "part/bb.json", b'{"duration": NaN}')
        add(tar, "part/bb.flac", flac(speech))
        add(tar, "part/c.json", b'{"duration": 0.25, "text": "first"}')
        add(tar, "part/c.FLAC", flac(speech, 32_000))
    found = read_entries(tmp_path / "x.tar")
    assert [(m.utterance.path.name, m.utterance.duration, m.utterance.text) for m in found] == [
        ("a.flac", 0.5, "some words"),
        ("c.FLAC", 0.25, "first"),
    ]
    assert "part/b.flac" in caplog.text
    assert "part/bb.flac: its duration is nan" in caplog.text
    batch = take(DataConfig(shards=(str(tmp_path / "x.tar"),), crop_seconds=None), 1)[0]
    assert sorted(batch.lengths.tolist()) == [4000, 8000]


def test_a_torn_shard_gives_what_it_has(written, tmp_path, caplog):
    content = written.shards[0].read_bytes()
    expected = read_entries(written.shards[0])
    (tmp_path / "torn.tar").write_bytes(content[: expected[2].offset + 100])
    found = read_entries(tmp_path / "torn.tar")
    assert [(m.offset, m.size) for m in found][:2] == [(m.offset, m.size) for m in expected[:2]]
    assert "torn" in caplog.text


@pytest.mark.parametrize("mode", ["w:gz", None])
def test_other_files_are_no_shards(tmp_path, mode):
    if mode:
        with tarfile.open(tmp_path / "x.tar", mode) as tar:
            add(tar, "a.flac", flac(np.zeros(100)))
    else:
        (tmp_path / "x.tar").write_bytes(b"no tar file" * 100)
    with pytest.raises(ValueError, match="is no plain tar file"):
        read_entries(tmp_path / "x.tar")


def test_shards_are_found_by_pattern(written, tmp_path):
    folder = written.shards[0].parent
    assert find_shards([str(folder / "*.tar"), str(written.shards[2])]) == written.shards
    with pytest.raises(ValueError, match="no shards match"):
        find_shards([str(tmp_path / "none-*.tar")])
    for stream in ("https://host/a.tar", "pipe:cat a.tar"):
        with pytest.raises(ValueError, match="are no files; mount"):
            find_shards([stream])


# ------------------------------------------------------------------------------------------------------------- reading


def test_every_clip_is_read_once_an_epoch(clips, config):
    crops = {u.text: max(1, int(u.duration / 0.4 + 0.5)) for u in clips[0]}
    if config.crop_seconds is None:
        read = [text for batch in take(config, 40) for text in batch.texts]
        for epoch in range(2):
            assert Counter(read[12 * epoch : 12 * epoch + 12]) == Counter(crops.keys())
        assert read[:12] != read[12:24]
    else:
        whole = [clip.astype(np.float32).tobytes() for clip in clips[1]]
        total = sum(crops.values())
        rows = [
            (row, n)
            for batch in take(config, total // 3 + 1)
            for row, n in zip(batch.audio, batch.lengths, strict=True)
        ]
        sources = [{i for i, c in enumerate(whole) if row[:n].numpy().tobytes() in c} for row, n in rows[:total]]
        read = Counter(min(found) for found in sources if len(found) == 1)
        assert all(sources)
        assert all(read[i] <= crops[f"text {i}"] for i in range(12))


@pytest.mark.parametrize("world", [2, 5])
def test_the_ranks_share_what_one_process_reads_in_as_many_passes(config, world):
    alone = take(config, 4 * world)
    for rank in range(world):
        shared = take(config, 4, rank=rank, world=world)
        assert all(map(same, shared, alone[rank::world]))


@pytest.mark.parametrize("start", [1, 5, 31])
def test_starting_later_is_skipping(config, start):
    assert all(map(same, take(config, start + 3)[start:], take(config, 3, start=start)))


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning", "ignore:.*fork:DeprecationWarning")
def test_workers_change_nothing(config):
    assert all(map(same, take(config, 5), take(replace(config, workers=2), 5)))


def test_going_on_reads_no_audio_of_what_was_read(config, monkeypatch):
    from flexicodec.training.data import shards

    reads = []
    monkeypatch.setattr(shards, "read_span", lambda *a, **k: reads.append(a) or np.zeros(100, np.float32))
    batch = take(config, 1, start=20)[0]
    assert len(reads) == len(batch.items)


def test_choices_hold_for_shards(config):
    config = replace(config, crop_seconds=None, min_seconds=0.45, max_seconds=1.25)
    batches = take(config, 15, keep=lambda utterance: utterance.speaker != "s0")
    assert {t for batch in batches for t in batch.texts} == {f"text {i}" for i in (2, 4, 5, 7, 8)}
    with pytest.raises(ValueError, match="no clips to train on"):
        take(replace(config, min_seconds=1.3), 1)


def test_a_bad_clip_in_a_shard_is_replaced(config, written, caplog):
    shard = written.shards[1]
    member = read_entries(shard)[0]
    with shard.open("r+b") as file:
        file.seek(member.offset)
        file.write(bytes(100))
    batches = take(config, 20)
    assert sum(batch.skipped for batch in batches) >= 1
    assert str(member.utterance.path) in caplog.text


def test_a_cache_is_for_manifests(config, tmp_path):
    with pytest.raises(ValueError, match="leave them out for shards"):
        take(replace(config, audio_cache=str(tmp_path / "cache")), 1)
