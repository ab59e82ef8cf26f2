"""Checkpoints: folders that appear at once, are checked before they are trusted, and make way for newer ones.

output/checkpoints/step-0001000/
    checkpoint.json            step, validation loss, size and checksum of every other file
    config.json                the resolved config of the run
    generator.safetensors      weights as they are trained (weight-normed where they are)
    average.safetensors        their running mean, where one is kept
    discriminators.safetensors
    training.pt                optimisers and what else a step depends on
    random-0.pt                random states of process 0; one file a process
"""

import json
import logging
import math
import os
import random
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

log = logging.getLogger(__name__)

MARK = "checkpoint.json"
PART = ".part"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is whole.

    Attributes:
        folder: Where it lies.
        step: Optimiser steps done.
        validation: Validation loss at that step, if it was measured.
    """

    folder: Path
    step: int
    validation: float | None

    def weights(self, name: str) -> dict[str, Tensor] | None:
        """Read one set of weights, or None if it was not kept."""
        path = self.folder / f"{name}.safetensors"
        return load_file(path) if path.is_file() else None

    def state(self) -> dict[str, Any]:
        """Read the rest of the training's state, onto the CPU."""
        return torch.load(self.folder / "training.pt", map_location="cpu", weights_only=True)

    def config(self) -> dict[str, Any]:
        """Read the run's resolved config."""
        return json.loads((self.folder / "config.json").read_text())


class CheckpointFolder:
    """The checkpoints of one run.

    Args:
        folder: Made when the first one is written.
        keep_last: How many of the newest to keep.
        keep_best: How many of those with the lowest validation loss to keep besides.
    """

    def __init__(self, folder: str | Path, keep_last: int = 2, keep_best: int = 1):
        self.folder, self.keep_last, self.keep_best = Path(folder), max(1, keep_last), keep_best

    def begin(self, step: int) -> Path:
        """Make the folder that a checkpoint is written to before it has a name; every process writes its part there."""
        part = self.part(step)
        for leftover in self._unfinished():
            shutil.rmtree(leftover, ignore_errors=True)
        part.mkdir(parents=True)
        return part

    def part(self, step: int) -> Path:
        """Name that folder."""
        return self.folder / f".step-{step:07d}{PART}"

    def finish(
        self,
        step: int,
        *,
        config: Mapping[str, Any],
        weights: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        validation: float | None = None,
    ) -> Checkpoint:
        """Write what is common to all processes, give the checkpoint its name, and drop older ones."""
        part = self.part(step)
        (part / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        for name, tensors in weights.items():
            held = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
            save_file(held, part / f"{name}.safetensors", metadata={"format": "pt"})
        torch.save(dict(state), part / "training.pt")
        files = {path.name: [path.stat().st_size, _checksum(path)] for path in sorted(part.iterdir())}
        mark = {"step": step, "validation": validation, "files": files}
        (part / MARK).write_text(json.dumps(mark, indent=2) + "\n")
        _to_disk(part)
        target = self.folder / f"step-{step:07d}"
        shutil.rmtree(target, ignore_errors=True)
        os.replace(part, target)
        self._prune()
        return Checkpoint(target, step, validation)

    def newest(self) -> Checkpoint | None:
        """Find the newest checkpoint that is whole; others are skipped with a message."""
        for folder in self._unfinished():
            log.warning("%s was not finished and is left out", folder)
        for folder in sorted(self.folder.glob("step-*"), reverse=True):
            if (found := read_checkpoint(folder)) is not None:
                return found
        return None

    def _unfinished(self) -> list[Path]:
        return sorted(self.folder.glob(".step-*" + PART))

    def all(self) -> list[Checkpoint]:
        """List what is here, oldest first, without checking contents."""
        found = (_read_mark(folder) for folder in sorted(self.folder.glob("step-*")))
        return [checkpoint for checkpoint in found if checkpoint is not None]

    def _prune(self) -> None:
        here = self.all()
        measured = [c for c in here if c.validation is not None and math.isfinite(c.validation)]
        best = sorted(measured, key=lambda c: c.validation or 0.0)
        kept = {c.folder for c in here[-self.keep_last :]} | {c.folder for c in best[: self.keep_best]}
        for checkpoint in here:
            if checkpoint.folder not in kept:
                shutil.rmtree(checkpoint.folder)


def read_checkpoint(folder: str | Path) -> Checkpoint | None:
    """Open a checkpoint, or say in the log what is wrong with it and return None."""
    folder = Path(folder)
    found = _read_mark(folder)
    if found is None:
        log.warning("%s has no readable %s and is left out", folder, MARK)
        return None
    files = json.loads((folder / MARK).read_text())["files"]
    for name, (size, checksum) in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size or _checksum(path) != checksum:
            log.warning("%s is damaged (%s is not what was written) and is left out", folder, name)
            return None
    return found


def save_random_state(part: Path, rank: int) -> None:
    """Keep this process's random states; nothing here draws from them, but what users add may."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    version, internal, gauss_next = random.getstate()
    held = {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(internal), gauss_next],
    }
    torch.save(held, part / f"random-{rank}.pt")


def restore_random_state(folder: Path, rank: int) -> None:
    """Set this process's random states as they were, where they were kept."""
    path = folder / f"random-{rank}.pt"
    if not path.is_file():
        log.warning("%s keeps no random state of process %d: the run had fewer processes", folder, rank)
        return
    held = torch.load(path, weights_only=True)
    torch.set_rng_state(held["torch"])
    if held["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(held["cuda"])
    name, keys, position, has_gauss, gauss = held["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, gauss_next = held["python"]
    random.setstate((version, tuple(internal), gauss_next))


def _read_mark(folder: Path) -> Checkpoint | None:
    try:
        held = json.loads((folder / MARK).read_text())
        held["files"].items()
        return Checkpoint(folder, int(held["step"]), held["validation"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _checksum(path: Path) -> int:
    total = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            total = zlib.crc32(block, total)
    return total


def _to_disk(folder: Path) -> None:
    """Make sure that the rename cannot reach the disk before the contents do."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
