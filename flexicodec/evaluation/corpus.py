"""From a manifest and models to rows: every clip through every system at every setting, measured once.

Work is cut into batches of clips of like length, the same however many processes share it and wherever a run was
stopped, so that the rows are the same too; another device or length of batch may move their last digits.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

import flexicodec
from flexicodec.corpus import Utterance, check_ids
from flexicodec.evaluation.instruments import RULES
from flexicodec.evaluation.rows import Key, Ledger, Row
from flexicodec.evaluation.systems import Setting, System
from flexicodec.evaluation.worker import Job, Plan, Worker
from flexicodec.parallel import BrokenProcessPool, share


@dataclass(frozen=True)
class Results:
    """What a run left.

    Attributes:
        folder: Where.
        rows: All rows of the folder, those of earlier runs included.
        measured: Rows that this run added.
        notes: Settings that a system does not have.
    """

    folder: Path
    rows: list[Row]
    measured: int
    notes: list[str]

    @property
    def failed(self) -> list[Row]:
        """Rows of clips that could not be measured; `error` says why."""
        return [row for row in self.rows if "error" in row]


def evaluate_corpus(
    utterances: Sequence[Utterance],
    models: Sequence[str | System],
    folder: str | Path,
    plan: Plan | None = None,
    progress: bool = False,
) -> Results:
    """Measure models on clips and keep a row for each; rows that are there already are not measured again.

    The recordings themselves come first, as the system "ground truth".

    Args:
        utterances: The clips, each with an id of its own.
        models: What `open_system` takes, or systems (which have to be picklable where there are several processes).
        folder: For the results; it may hold those of an earlier run of the same measures, on some of these clips.
        plan: How; by default all signal metrics and our own recogniser, one process.
        progress: Show a bar.

    Raises:
        ValueError: No clips, ids or names that are not unique, a model, metric or setting that there is not, or a
            folder with results of other measures or clips.
        ImportError: A metric's library is missing.
        OSError: A process died; what was measured is kept.
    """
    plan = plan or Plan()
    _check(utterances, plan)
    worker = Worker(models, plan, folder)
    chosen, notes = {}, []
    for name, system in worker.systems.items():
        chosen[name], left_out = system.settings(plan.sweep)
        notes += left_out
    batches = cut(utterances, plan.batch_seconds)
    with Ledger(folder, describe(utterances, worker, chosen), worker.is_done(chosen)) as ledger:
        jobs = list(_jobs(chosen, batches, ledger.done))
        bar = tqdm(total=sum(len(job.wanted) for job in jobs), unit="row", disable=not progress)
        measured = 0
        for rows in _run(jobs, worker, models, plan, folder):
            ledger.append(rows)
            measured += len(rows)
            bar.update(len(rows))
        bar.close()
        ledger.sort(utterance.id for utterance in utterances)
        return Results(Path(folder), ledger.rows, measured, notes)


def cut(utterances: Sequence[Utterance], batch_seconds: float) -> list[tuple[Utterance, ...]]:
    """Put clips of like length together, longest first, up to so many seconds a batch, and one clip at least."""
    batches: list[list[Utterance]] = []
    for utterance in sorted(utterances, key=lambda u: (-u.duration, u.id)):
        if not batches or batches[-1][0].duration * (len(batches[-1]) + 1) > batch_seconds:
            batches.append([])
        batches[-1].append(utterance)
    return [tuple(batch) for batch in batches]


def describe(utterances: Sequence[Utterance], worker: Worker, chosen: dict[str, list[Setting]]) -> dict[str, Any]:
    """Say what is measured and how: what rows must have in common to stand in one table."""
    clips = {u.id: json.dumps([u.id, round(u.start, 6), round(u.duration, 6), u.text]) for u in utterances}
    return {
        **asdict(worker.plan.measures),
        "names": worker.instruments.names,
        "instruments": worker.instruments.identity,
        "rules": RULES,
        "clips": len(clips),
        "seconds": round(sum(u.duration for u in utterances), 3),
        "clip_digests": {name: hashlib.sha256(what.encode()).hexdigest()[:12] for name, what in clips.items()},
        "version": flexicodec.__version__,
        "systems": {name: system.identity for name, system in worker.systems.items()},
        "settings": {name: [setting.label for setting in settings] for name, settings in chosen.items()},
    }


def _check(utterances: Sequence[Utterance], plan: Plan) -> None:
    if not utterances:
        raise ValueError("there are no clips to evaluate")
    check_ids(utterances)
    if plan.processes < 1 or not plan.batch_seconds > 0:
        raise ValueError(
            f"processes is {plan.processes} and batch_seconds {plan.batch_seconds}; expected 1 or more, and above 0"
        )


def _jobs(chosen: dict[str, list[Setting]], batches: Sequence[tuple[Utterance, ...]], done: set[Key]) -> Iterator[Job]:
    """List what is still to be done. Batches stay whole, so that a codec hears what it would have heard."""
    for name, settings in chosen.items():
        for batch in batches:
            keys = {setting: {(name, setting.label, each.id) for each in batch} - done for setting in settings}
            if wanted := frozenset().union(*keys.values()):
                yield Job(name, batch, tuple(setting for setting in settings if keys[setting]), wanted)


def _run(
    jobs: Sequence[Job], worker: Worker, models: Sequence[str | System], plan: Plan, folder: str | Path
) -> Iterator[list[Row]]:
    """Yield the rows of every job, as they come."""
    try:
        for _, rows in share(jobs, worker, plan.processes, partial(Worker, list(models), plan, str(folder))):
            yield rows
    except BrokenProcessPool as error:
        raise OSError(
            "a process died, perhaps for want of memory; its rows so far are kept, and the same command goes on (with "
            "fewer processes, or fewer seconds a batch)"
        ) from error
