"""Where curves go: the run's accelerator with its trackers, and `curves.jsonl`, a tracker of our own.

All that Accelerate tracks with can be had by name; a resumed run goes on with the curves of the one before.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, get_available_trackers
from accelerate.utils import LoggerType, ProjectConfiguration

from flexicodec.config import to_dict
from flexicodec.io_utils import replacing
from flexicodec.training.config import TrainingConfig

JSONL = "jsonl"
CURVES = "curves.jsonl"


def make_accelerator(config: TrainingConfig, done: int = 0, **settings: Any) -> Accelerator:
    """Make the accelerator of a run and start its trackers, which are given the run's settings.

    What an earlier start had written of steps after `done` is dropped: from `curves.jsonl`, and in what TensorBoard
    shows. Without CUDA everything runs on the CPU, on a Mac too: the codec has not been tried on MPS, which has no
    float64.

    Args:
        config: The run.
        done: Optimiser steps done before. Rows are logged by the steps done, 1 and not 0 after the first.
        settings: Further arguments of `Accelerator`.

    Raises:
        ValueError: A tracker that Accelerate does not know, or that is not installed.
    """
    output = Path(config.output)
    chosen: list[str | GeneralTracker] = []
    for name in dict.fromkeys(config.trackers):
        _check_tracker(name)
        chosen.append(JsonLines(output / CURVES) if name == JSONL else name)
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        cpu=not torch.cuda.is_available(),
        log_with=chosen or None,  # Accelerate warns of an empty list
        project_config=ProjectConfiguration(project_dir=str(output), logging_dir=str(output / "logs")),
        **settings,
    )
    if accelerator.is_main_process and (output / CURVES).exists():
        cut_curves(output / CURVES, done)
    accelerator.init_trackers(output.resolve().name, flat(to_dict(config)), {"tensorboard": {"purge_step": done + 1}})
    return accelerator


def part(accelerator: Accelerator) -> None:
    """End a run: wait for all processes, let go of the networks, close the trackers, part.

    A process group that ends while data parallelism still holds its reducer may hang.
    """
    accelerator.wait_for_everyone()
    accelerator.free_memory()
    accelerator.end_training()


def _check_tracker(name: str) -> None:
    if name in (JSONL, LoggerType.ALL.value):
        return
    if name not in LoggerType.list():
        raise ValueError(f"trackers names {name!r}, expected some of {', '.join([JSONL, *LoggerType.list()])}")
    if LoggerType(name) not in get_available_trackers():
        raise ValueError(f"trackers names {name!r}, whose package is not installed; install it, or leave it out")


def flat(settings: Mapping[str, Any], path: str = "") -> dict[str, str | int | float | bool]:
    """Turn nested settings into one level of dotted names, with lists as JSON and None as "null": hyperparameters."""
    flattened: dict[str, str | int | float | bool] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            flattened |= flat(value, f"{path}{name}.")
        else:
            flattened[path + name] = value if isinstance(value, str | int | float | bool) else json.dumps(value)
    return flattened


class JsonLines(GeneralTracker):
    """Appends a JSON object per row: its step, and its values by name, null where one is not finite.

    Args:
        path: The file; it is opened for each row, so that a killed run loses none.
    """

    name = JSONL
    requires_logging_directory = False

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)

    @property
    def tracker(self) -> Path:
        """The file."""
        return self.path

    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Append a row; what JSON has no scalar for is left out."""
        kept = {name: _plain(value) for name, value in values.items() if isinstance(value, str | int | float)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **kept}, allow_nan=False) + "\n")


def _plain(value: str | int | float) -> str | int | float | None:
    if not isinstance(value, float):
        return value
    return float(f"{value:.9g}") if math.isfinite(value) else None  # nine digits tell any two float32 apart


def cut_curves(path: str | Path, done: int) -> None:
    """Drop the rows of steps after `done`, and a last line that was only half written."""
    path = Path(path)
    lines = [json.dumps(row) + "\n" for row in _rows(path) if row["step"] is None or row["step"] <= done]
    with replacing(path) as part:
        part.write_text("".join(lines))


def read_curves(path: str | Path) -> dict[str, list[tuple[int, float]]]:
    """Read `curves.jsonl` as (step, value) pairs by the curves' names."""
    curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for row in _rows(Path(path)):
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                curves[name].append((row["step"], value))
    return dict(curves)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:  # the run was killed while it wrote
            return
