"""A worker process of `local.py`: it loads the codec once, and runs the units it is told over a pipe.

> {"job": {...}}                  the first line: what to load, and whether to make the plan
< {"ready": {"todo": [...]}}      units that are left, where it made the plan
> {"unit": 17, "wait": true}      `wait`: not if another process works on it
< {"done": {...}} or {"busy": 17} or {"error": {"kind": "OSError", "message": "..."}}
"""

import dataclasses
import json
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO


@dataclass(frozen=True)
class Job:
    """What to tokenise, and with what; JSON values only, since it goes to other processes.

    Attributes:
        source: Manifest or other source of clips.
        folder: Of the tokens.
        model: Name, folder or hub id.
        choices: Arguments of `encode`, each a folder of tables; None takes those of the plan that is there.
        settings: Further arguments of `settings.settings_of`; None takes those of the plan, or the defaults.
        part: "k/n": every n-th unit from the k-th on.
        extend: Add the lines by which the manifest grew.
        workers: Threads that read, in each process.
    """

    source: str
    folder: str
    model: str = "flexicodec-mini"
    sensevoice: str | None = None
    device: str | None = None
    choices: list[dict[str, Any]] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    part: str | None = None
    extend: bool = False
    workers: int | None = None


def load_codec(job: Job) -> Any:
    """Load the parts of the codec that encode."""
    import flexicodec

    return flexicodec.load(job.model, sensevoice=job.sensevoice, device=job.device, parts="encode")


def plan_job(job: Job, codec: Any) -> Any:
    """Make the plan of a job, or check that it is the one that is there; returns the dataset."""
    from flexicodec.corpus.token_dataset import DATASET_FILE, TokenDataset
    from flexicodec.token_corpus.plan import make_plan
    from flexicodec.token_corpus.settings import settings_of
    from flexicodec.token_corpus.units import units_of_part

    units_of_part(1, job.part)
    folder = Path(job.folder)
    given = {name: value for name, value in job.settings.items() if value is not None}
    choices = job.choices
    if (folder / DATASET_FILE).is_file():
        # What is not said is as it was.
        there = TokenDataset.open(folder)
        for name in ("precision", "batch_seconds", "unit_hours", "margins", "ids"):
            given.setdefault(name, there.record[name])
        if choices is None:
            choices = [choice.options for choice in there.choices]
    dataset = make_plan(Path(job.source), folder, settings_of(codec, choices or [{}], **given), job.extend)
    for unit in dataset.units_done():  # sizes: hashing a corpus is left to those who read it
        dataset.check_files(unit, content=False)
    return dataset


def main() -> int:
    """Serve one parent until it closes the pipe."""
    # The pipe is the parent's alone: whatever else prints goes to stderr.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # through `finally`: marks are removed
    try:
        _serve(sys.stdin, replies)
    except Exception as error:  # the parent raises it again
        _say(replies, {"error": _described(error)})
        return 1
    return 0


def _serve(orders: TextIO, replies: TextIO) -> None:
    message = json.loads(orders.readline())
    job = Job(**message["job"])
    # Imports of torch take seconds, and are the worker's alone.
    import torch

    from flexicodec.corpus.token_dataset import TokenDataset
    from flexicodec.token_corpus import units

    codec = load_codec(job)
    if message["plan"]:
        dataset = plan_job(job, codec)
        todo = units.remaining_units(dataset, job.part)
        devices = torch.cuda.device_count() if job.device == "cuda" else 1
        ready = {"todo": todo, "units": dataset.num_units, "devices": devices, "cuda": codec.device.type == "cuda"}
        _say(replies, {"ready": ready})
    else:
        dataset = TokenDataset.open(job.folder)
        _say(replies, {"ready": {}})
    for line in orders:
        order = json.loads(line)
        if "finish" in order:
            from flexicodec.token_corpus.summary import finish

            _say(replies, {"finished": finish(dataset, job.part)})
            continue
        unit = order["unit"]
        is_busy = order["wait"] and dataset.report(unit) is None
        if is_busy and units.read_deaths(dataset.folder, unit).is_busy:
            _say(replies, {"busy": unit})
            continue
        report = units.run_unit(codec, dataset, unit, workers=job.workers)
        _say(replies, {"done": {"unit": unit, "clips": report["clips"], "bad": len(report["bad"])}})


def _described(error: Exception) -> dict[str, Any]:
    kinds = (FileNotFoundError, ImportError, ValueError, OSError, FloatingPointError)
    kind = next((each.__name__ for each in kinds if isinstance(error, each)), "RuntimeError")
    message = str(error)
    if kind == "RuntimeError":
        message = f"{type(error).__name__}: {message}"
    return {"kind": kind, "message": message}


def _say(replies: TextIO, message: dict[str, Any]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


def to_message(job: Job, plan: bool) -> dict[str, Any]:
    """Return the first line for a worker."""
    return {"job": dataclasses.asdict(job), "plan": plan}


if __name__ == "__main__":
    sys.exit(main())
