"""Checkpoints: folders that appear in one rename, are verified before they are used, and are pruned.

output/checkpoints/step-0001000/
    checkpoint.json            step, validation loss, size and checksum of every other file
    config.json                the resolved config of the run
    generator.safetensors      weights in their training form (weight-normed)
    average.safetensors        their running mean, if there is one
    discriminators.safetensors
    training.pt                optimisers and the rest of the state
    random-0.pt                random states of process 0; one file per process
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
from safetensors.torch import load_file
from torch import Tensor

from flexicodec.weights import save_tensors

log = logging.getLogger(__name__)

MARK = "checkpoint.json"
PART = ".part"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint, with the validation loss at its step if it was computed."""

    folder: Path
    step: int
    validation: float | None

    def weights(self, name: str) -> dict[str, Tensor] | None:
        """Read one file of weights, or return None if there is none of this name."""
        path = self.folder / f"{name}.safetensors"
        return load_file(path) if path.is_file() else None

    def state(self) -> dict[str, Any]:
        """Read the rest of the training state, onto the CPU."""
        return torch.load(self.folder / "training.pt", map_location="cpu", weights_only=True)

    def config(self) -> dict[str, Any]:
        """Read the resolved config of the run."""
        return json.loads((self.folder / "config.json").read_text())


class CheckpointFolder:
    """The checkpoints of one run: the newest `keep_last`, and the `keep_best` with the lowest validation loss."""

    def __init__(self, folder: str | Path, keep_last: int = 2, keep_best: int = 1):
        self.folder = Path(folder)
        self.keep_last = max(1, keep_last)
        self.keep_best = keep_best

    def begin(self, step: int) -> Path:
        """Create the temporary folder that a checkpoint is written to; every process adds its files there."""
        for leftover in self.folder.glob(".step-*" + PART):
            shutil.rmtree(leftover, ignore_errors=True)
        part = self.part(step)
        part.mkdir(parents=True)
        return part

    def part(self, step: int) -> Path:
        """Return the path of the temporary folder."""
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
        """Write the files common to all processes, rename the folder, and delete older checkpoints."""
        part = self.part(step)
        (part / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        for name, tensors in weights.items():
            save_tensors(tensors, part / f"{name}.safetensors")
        torch.save(dict(state), part / "training.pt")
        files = {path.name: [path.stat().st_size, _checksum(path)] for path in sorted(part.iterdir())}
        mark = {"step": step, "validation": validation, "files": files}
        (part / MARK).write_text(json.dumps(mark, indent=2) + "\n")
        # The rename must not reach the disk before the contents do.
        for path in part.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        target = self.folder / f"step-{step:07d}"
        shutil.rmtree(target, ignore_errors=True)
        os.replace(part, target)
        self._prune()
        return Checkpoint(target, step, validation)

    def newest(self) -> Checkpoint | None:
        """Find the newest complete checkpoint; log those that are not."""
        for folder in self.folder.glob(".step-*" + PART):
            log.warning("%s was not finished and is skipped", folder)
        for folder in sorted(self.folder.glob("step-*"), reverse=True):
            checkpoint = read_checkpoint(folder)
            if checkpoint is not None:
                return checkpoint
        return None

    def all(self) -> list[Checkpoint]:
        """List the checkpoints, oldest first, without verifying their contents."""
        marks = (_read_mark(folder) for folder in sorted(self.folder.glob("step-*")))
        return [checkpoint for checkpoint in marks if checkpoint is not None]

    def _prune(self) -> None:
        checkpoints = self.all()
        measured = [c for c in checkpoints if c.validation is not None and math.isfinite(c.validation)]
        measured.sort(key=lambda checkpoint: checkpoint.validation or 0.0)
        kept = checkpoints[-self.keep_last :] + measured[: self.keep_best]
        for checkpoint in checkpoints:
            if checkpoint not in kept:
                shutil.rmtree(checkpoint.folder)


def read_checkpoint(folder: str | Path) -> Checkpoint | None:
    """Open a checkpoint, or log what is wrong with it and return None."""
    folder = Path(folder)
    checkpoint = _read_mark(folder)
    if checkpoint is None:
        log.warning("%s has no readable %s and is skipped", folder, MARK)
        return None
    files = json.loads((folder / MARK).read_text())["files"]
    for name, (size, checksum) in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size or _checksum(path) != checksum:
            log.warning("%s is damaged (%s is not what was written) and is skipped", folder, name)
            return None
    return checkpoint


def save_random_state(part: Path, rank: int) -> None:
    """Save this process's random states; nothing here depends on them, but code that users add may."""
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
    """Restore this process's random states from a checkpoint, if it has them."""
    path = folder / f"random-{rank}.pt"
    if not path.is_file():
        log.warning("%s has no random state of process %d", folder, rank)
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
