"""Checkpoints are written atomically, verified before loading, and pruned."""

import logging
import random

import numpy as np
import pytest
import torch

from flexicodec.training.checkpoints import (
    MARK,
    CheckpointFolder,
    read_checkpoint,
    restore_random_state,
    save_random_state,
)


def write(folder, step, validation=None):
    folder.begin(step)
    save_random_state(folder.part(step), 0)
    return folder.finish(
        step,
        config={"steps": 9},
        weights={"generator": {"w": torch.full((2, 3), float(step))}},
        state={"step": step, "nested": {"list": [1, 2.5, None]}},
        validation=validation,
    )


def steps(folder):
    return [checkpoint.step for checkpoint in folder.all()]


def test_what_is_written_is_read(tmp_path):
    folder = CheckpointFolder(tmp_path / "c")
    assert folder.newest() is None
    write(folder, 3, 1.5)
    found = folder.newest()
    assert (found.step, found.validation, found.config()) == (3, 1.5, {"steps": 9})
    assert torch.equal(found.weights("generator")["w"], torch.full((2, 3), 3.0))
    assert found.weights("average") is None
    assert found.state() == {"step": 3, "nested": {"list": [1, 2.5, None]}}


def test_the_newest_and_the_best_are_kept(tmp_path):
    folder = CheckpointFolder(tmp_path, keep_last=2, keep_best=1)
    for step, validation in enumerate((2.0, 1.0, 3.0, None, 4.0, None), 1):
        write(folder, step, validation)
    assert steps(folder) == [2, 5, 6]


def test_one_step_can_be_written_twice(tmp_path):
    folder = CheckpointFolder(tmp_path)
    write(folder, 1)
    write(folder, 1, 0.5)
    assert [c.validation for c in folder.all()] == [0.5]


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "no mark", "mark cut"])
def test_a_half_written_checkpoint_is_skipped_with_a_message(tmp_path, caplog, damage):
    folder = CheckpointFolder(tmp_path, keep_last=5)
    write(folder, 1)
    newest = write(folder, 2).folder
    weights, mark = newest / "generator.safetensors", newest / MARK
    held = weights.read_bytes()
    if damage == "cut":
        weights.write_bytes(held[:-7])
    elif damage == "changed":
        weights.write_bytes(held[:-1] + b"x")
    elif damage == "missing":
        weights.unlink()
    elif damage == "no mark":
        mark.unlink()
    else:
        mark.write_text(mark.read_text()[:20])
    with caplog.at_level(logging.WARNING):
        assert folder.newest().step == 1
    assert newest.name in caplog.text
    assert read_checkpoint(newest) is None


def test_a_write_that_was_broken_off_leaves_no_checkpoint(tmp_path, caplog):
    folder = CheckpointFolder(tmp_path)
    write(folder, 1)
    part = folder.begin(2)
    (part / "generator.safetensors").write_bytes(b"half")
    with caplog.at_level(logging.WARNING):
        assert folder.newest().step == 1
    assert "not finished" in caplog.text
    write(folder, 2)  # and the leftovers do no harm
    assert folder.newest().step == 2


def test_random_states_come_back(tmp_path):
    folder = CheckpointFolder(tmp_path)
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    random.gauss(0, 1)  # leaves a second number in wait
    checkpoint = write(folder, 1)

    def numbers():
        return random.gauss(0, 1), random.random(), float(np.random.rand()), float(torch.rand(()))

    first = numbers()
    assert numbers() != first
    restore_random_state(checkpoint.folder, 0)
    assert numbers() == first


def test_another_number_of_processes_is_said(tmp_path, caplog):
    checkpoint = write(CheckpointFolder(tmp_path), 1)
    restore_random_state(checkpoint.folder, 1)
    assert "process 1" in caplog.text
