"""Batches from manifests: the same for any number of processes, workers and first step; bad clips are replaced."""

import logging
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from flexicodec.corpus import Utterance, write_manifest
from flexicodec.training.config import AugmentationConfig, DataConfig
from flexicodec.training.data import training_batches, utterance_batches, validation_clips

RATE = 16_000


@pytest.fixture(params=["crops", "whole"])
def config(request, speech_manifest):
    """Crops of 0.4 s, or whole utterances."""
    if request.param == "crops":
        return DataConfig((str(speech_manifest),), batch_size=3, crop_seconds=0.4)
    return DataConfig((str(speech_manifest),), crop_seconds=None, batch_seconds=3.0)


def take(config, count, **settings):
    return list(islice(training_batches(config, sample_rate=RATE, seed=5, **settings), count))


def same(one, other):
    """Return whether two batches are equal."""
    return (
        torch.equal(one.audio, other.audio)
        and torch.equal(one.lengths, other.lengths)
        and torch.equal(one.items, other.items)
        and (one.texts, one.global_items, one.skipped) == (other.texts, other.global_items, other.skipped)
    )


@pytest.mark.parametrize("world", [2, 3, 7])
def test_the_ranks_share_what_one_process_reads_in_as_many_passes(config, world):
    alone = take(config, 3 * world)
    for rank in range(world):
        for number, batch in enumerate(take(config, 3, rank=rank, world=world)):
            passes = alone[number * world : (number + 1) * world]
            assert batch.global_items == sum(len(p.lengths) for p in passes)
            assert same(batch, replace(passes[rank], global_items=batch.global_items))


def test_two_ranks_read_a_batch_of_twice_the_size(speech_manifest):
    config = DataConfig((str(speech_manifest),), batch_size=2, crop_seconds=0.4)
    for number, large in enumerate(take(replace(config, batch_size=4), 4)):
        halves = [take(config, 1, rank=rank, world=2, start=number)[0] for rank in range(2)]
        assert torch.equal(torch.cat([half.audio for half in halves]), large.audio)
        assert torch.equal(torch.cat([half.items for half in halves]), large.items)
        assert {half.global_items for half in halves} == {large.global_items} == {4}


@pytest.mark.parametrize("start", [1, 4, 23])
def test_starting_later_is_skipping(config, start):
    for rank in range(2):
        skipped = take(config, start + 3, rank=rank, world=2)[start:]
        started = take(config, 3, rank=rank, world=2, start=start)
        assert all(map(same, skipped, started))


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning", "ignore:.*fork:DeprecationWarning")
def test_workers_change_nothing(config, workers):
    config = replace(config, augmentation=AugmentationConfig(gain_db=(-6.0, 6.0)))
    plain = take(config, 5, start=2)
    assert all(map(same, plain, take(replace(config, workers=workers), 5, start=2)))


def test_global_random_state_is_neither_used_nor_changed(config):
    config = replace(config, augmentation=AugmentationConfig(gain_db=(-6.0, 6.0)))
    np.random.seed(0)
    torch.manual_seed(0)
    first = take(config, 4)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    np.random.seed(1)
    torch.manual_seed(1)
    assert all(map(same, first, take(config, 4)))
    np.random.seed(0)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_workers_leave_the_global_random_state_alone(speech_manifest):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    take(DataConfig((str(speech_manifest),), batch_size=1, crop_seconds=0.4, workers=1), 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_crops_are_pieces_of_the_clips_padded_to_a_crop(clips, speech_manifest):
    batches = take(DataConfig((str(speech_manifest),), batch_size=4, crop_seconds=0.4), 12)
    whole = [clip.astype(np.float32).tobytes() for clip in clips[1]]
    for batch in batches:
        assert batch.audio.shape == (4, 6400)
        for row, length in zip(batch.audio.numpy(), batch.lengths.tolist(), strict=True):
            assert not row[length:].any()
            assert any(row[:length].tobytes() in clip for clip in whole)
    assert {int(length) for batch in batches for length in batch.lengths} == {4800, 6400}


def test_whole_utterances_come_with_their_texts(clips, speech_manifest):
    config = DataConfig((str(speech_manifest),), crop_seconds=None, batch_seconds=3.0)
    batches = take(config, 8)
    assert {t for batch in batches for t in batch.texts} == {u.text for u in clips[0]}
    for batch in batches:
        assert batch.audio.numel() <= 3.0 * RATE
        for row, length, text in zip(batch.audio, batch.lengths, batch.texts, strict=True):
            samples = clips[1][int(text.split()[1])]
            assert np.array_equal(row[:length].numpy(), samples.astype(np.float32))
            assert not row[length:].any()


def test_speeds_change_lengths_within_the_bound(clips, speech_manifest):
    config = DataConfig((str(speech_manifest),), crop_seconds=None, batch_seconds=3.0)
    batches = take(config, 12, speeds=(0.5, 1.0))
    lengths = {int(u.duration * RATE) for u in clips[0]}
    read = {int(length) for batch in batches for length in batch.lengths}
    assert read <= lengths | {2 * length for length in lengths}
    assert read & lengths
    assert read - lengths
    assert all(batch.audio.numel() <= 3.0 * RATE for batch in batches)


def test_unwanted_utterances_are_left_out_and_counted(speech_manifest, caplog):
    config = DataConfig(
        (str(speech_manifest),), crop_seconds=None, batch_seconds=3.0, min_seconds=0.45, max_seconds=1.25
    )
    with caplog.at_level(logging.INFO):
        batches = take(config, 12, keep=lambda utterance: utterance.text != "text 5")
    assert {t for batch in batches for t in batch.texts} == {f"text {i}" for i in (2, 3, 4, 6, 7, 8, 9)}
    assert "7 utterances" in caplog.text
    assert "2 shorter than 0.45 s, 2 longer than 1.25 s, 1 not wanted" in caplog.text


def test_long_utterances_do_not_matter_to_crops(speech_manifest):
    assert take(DataConfig((str(speech_manifest),), batch_size=2, crop_seconds=0.4, max_seconds=0.1), 1)


# ----------------------------------------------------------------------------------------------------------- bad clips


@pytest.mark.parametrize("damage", ["gone", "empty", "text", "cut"])
def test_a_bad_clip_is_replaced_and_counted(clips, config, damage, caplog):
    path = clips[0][7].path
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes({"empty": b"", "text": b"no audio at all" * 99, "cut": content[: len(content) // 3]}[damage])
    batches = take(config, 15)
    assert sum(batch.skipped for batch in batches) >= 1
    assert all(batch.lengths.min() > 0 for batch in batches)
    assert "text 7" not in {t for batch in batches for t in batch.texts}
    assert str(path) in caplog.text
    assert all(map(same, batches[9:], take(config, 6, start=9)))
    if config.crop_seconds is None:
        assert all(batch.audio.numel() <= 3.0 * RATE for batch in batches)


def test_when_nothing_can_be_read_is_an_error(clips, config):
    for utterance in clips[0]:
        utterance.path.unlink()
    with pytest.raises(ValueError, match=r"20 clips in a row cannot be read.*no such audio file"):
        take(config, 1)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_workers_pass_errors_on(clips, speech_manifest):
    for utterance in clips[0]:
        utterance.path.unlink()
    with pytest.raises(ValueError, match="20 clips in a row cannot be read"):
        take(DataConfig((str(speech_manifest),), workers=1), 1)


# ------------------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"manifest": ()}, {}, "expected one of the two"),
        ({"shards": ("a.tar",)}, {}, "expected one of the two"),
        ({"crop_seconds": -1.0}, {}, "expected both above 0"),
        ({"batch_size": 0}, {}, "expected both above 0"),
        ({"min_seconds": 50.0}, {}, "none of 12 utterances is left"),
        ({}, {"rank": 2, "world": 2}, "rank 2 of 2"),
        ({}, {"start": -1}, "from batch -1"),
        ({}, {"speeds": (0.9,)}, "are for whole utterances"),
        ({"crop_seconds": None}, {"speeds": (0.0, 1.0)}, "factors above 0"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(speech_manifest, changes, settings, message):
    config = replace(DataConfig((str(speech_manifest),)), **changes)
    with pytest.raises(ValueError, match=message):
        training_batches(config, sample_rate=RATE, seed=0, **settings)


# --------------------------------------------------------------------------------------------- validation, measurement


def test_validation_clips_are_spread_and_cut(clips, speech_manifest):
    config = DataConfig(validation=str(speech_manifest), validation_clips=4, validation_seconds=0.7)
    found = validation_clips(config, RATE)
    assert [len(clip) for clip in found] == [4800, 9600, 11200, 11200]
    assert torch.equal(found[1], torch.from_numpy(clips[1][3].astype(np.float32)))
    assert len(validation_clips(replace(config, validation_clips=99), RATE)) == 12
    assert validation_clips(DataConfig(), RATE) == []


def test_a_bad_validation_clip_is_left_out_with_a_warning(clips, speech_manifest, caplog):
    clips[0][0].path.write_bytes(b"")
    config = DataConfig(validation=str(speech_manifest), validation_clips=4)
    assert len(validation_clips(config, RATE)) == 3
    assert "left out of the validation" in caplog.text
    with pytest.raises(ValueError, match="can be used for validation"):
        validation_clips(replace(config, min_seconds=99.0), RATE)


def test_measurements_read_every_utterance_once_or_fail(clips):
    utterances, samples = clips
    batches = list(utterance_batches(utterances, RATE, 4.0))
    assert sorted(i for batch in batches for i in batch.items.tolist()) == list(range(12))
    for batch in batches:
        for row, length, item in zip(batch.audio, batch.lengths, batch.items, strict=True):
            assert np.array_equal(row[:length].numpy(), samples[item].astype(np.float32))
    with pytest.raises(FileNotFoundError):
        list(utterance_batches([*utterances, Utterance(utterances[0].path.with_name("gone.wav"), 1.0)], RATE, 4.0))


def test_manifests_are_one_after_another(clips, tmp_path):
    write_manifest(tmp_path / "a.jsonl", clips[0][:5])
    write_manifest(tmp_path / "b.jsonl", clips[0][5:])
    both = DataConfig((str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")), crop_seconds=None, batch_seconds=3.0)
    assert {t for batch in take(both, 9) for t in batch.texts} == {u.text for u in clips[0]}
