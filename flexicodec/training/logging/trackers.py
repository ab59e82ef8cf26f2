"""Trackers of a run: the accelerator with those that Accelerate knows, and `curves.jsonl`.

A resumed run continues the curves of the one before.
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


def make_accelerator(config: TrainingConfig, done: int = 0, start: bool = True, **settings: Any) -> Accelerator:
    """Make the accelerator of a run, and start its trackers after optimiser step `done`.

    Nothing is written where `start` is False; see `start_trackers`.
    Without CUDA everything runs on the CPU, on a Mac too: MPS is untested and has no float64. `settings` are further
    arguments of `Accelerator`.
    """
    output = Path(config.output)
    # Accelerate knows the others by name.
    chosen: list[str | GeneralTracker] = []
    for name in dict.fromkeys(config.trackers):
        _check_tracker(name)
        chosen.append(JsonLinesTracker(output / CURVES) if name == JSONL else name)
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        cpu=not torch.cuda.is_available(),
        log_with=chosen or None,  # Accelerate warns about an empty list
        project_config=ProjectConfiguration(project_dir=str(output), logging_dir=str(output / "logs")),
        **settings,
    )
    if start:
        start_trackers(accelerator, config, done)
    return accelerator


def start_trackers(accelerator: Accelerator, config: TrainingConfig, done: int = 0) -> None:
    """Start the trackers of a run and pass them its settings.

    Rows that an earlier start wrote after optimiser step `done` are dropped from `curves.jsonl` and hidden in
    TensorBoard.
    """
    output = Path(config.output)
    # Before the trackers open their files.
    if accelerator.is_main_process and (output / CURVES).exists():
        truncate_curves(output / CURVES, done)
    hyperparameters = flatten_settings(to_dict(config))
    accelerator.init_trackers(output.resolve().name, hyperparameters, {"tensorboard": {"purge_step": done + 1}})


def end_run(accelerator: Accelerator) -> None:
    """Wait for all processes, release the networks and close the trackers.

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


def flatten_settings(settings: Mapping[str, Any], path: str = "") -> dict[str, str | int | float | bool]:
    """Turn nested settings into hyperparameters with dotted names, lists and None as JSON."""
    flattened: dict[str, str | int | float | bool] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            flattened |= flatten_settings(value, f"{path}{name}.")
        elif isinstance(value, str | int | float):
            flattened[path + name] = value
        else:
            flattened[path + name] = json.dumps(value)
    return flattened


# -------------------------------------------------------------------------------------------------------- curves.jsonl


class JsonLinesTracker(GeneralTracker):
    """Appends a JSON object per row to a file: the step and values by name, null where one is not finite."""

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
        """Append a row of the values that are JSON scalars."""
        row: dict[str, Any] = {"step": step}
        for name, value in values.items():
            if isinstance(value, float):
                row[name] = float(f"{value:.9g}") if math.isfinite(value) else None  # nine digits identify a float32
            elif isinstance(value, str | int):
                row[name] = value
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:  # opened for each row, so that a killed run loses none
            file.write(json.dumps(row, allow_nan=False) + "\n")


def truncate_curves(path: str | Path, done: int) -> None:
    """Drop the rows of steps after `done`, and a last line that was only half written."""
    path = Path(path)
    rows = [row for row in _rows(path) if row["step"] is None or row["step"] <= done]
    with replacing(path) as part:
        part.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_curves(path: str | Path) -> dict[str, list[tuple[int, float]]]:
    """Read `curves.jsonl` as (step, value) pairs by name."""
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
        except json.JSONDecodeError:  # the run was killed while writing
            return
