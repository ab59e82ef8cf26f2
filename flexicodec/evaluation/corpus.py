"""From a manifest and models to rows: every clip through every system at every setting, measured once.

Work is cut into batches of clips of like length, the same however many processes share it and wherever a run was
stopped, so that the rows are the same too; another device or length of batch may move their last digits. A clip that
fails gets a row that says why; nothing is left out in silence.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import flexicodec
from flexicodec.corpus import Utterance, read_utterance
from flexicodec.evaluation import rate
from flexicodec.evaluation.instruments import RULES, SAMPLE_RATE, Instruments, Measures, References, fit
from flexicodec.evaluation.rows import Key, Ledger, Row, key
from flexicodec.evaluation.systems import (
    GROUND_TRUTH,
    Clip,
    GroundTruth,
    Reconstruction,
    Setting,
    Sweep,
    System,
    open_system,
)
from flexicodec.evaluation.token_files import token_path
from flexicodec.files import BAD_FILE


@dataclass(frozen=True)
class Plan:
    """How a corpus is evaluated.

    Attributes:
        measures: What is measured.
        sweep: At which operating points.
        batch_seconds: Audio that goes through a codec at once.
        processes: Side by side, each with its own models; each uses one thread.
        device: For the models; None means the CPU.
        sensevoice: See `flexicodec.load`.
        keep_tokens: Save the tokens of every clip below `tokens/` of the results; clips that were measured without are
            measured again.
    """

    measures: Measures = field(default_factory=Measures)
    sweep: Sweep = field(default_factory=Sweep)
    batch_seconds: float = 60.0
    processes: int = 1
    device: str | None = None
    sensevoice: str | None = None
    keep_tokens: bool = False


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


@dataclass(frozen=True)
class Job:
    """Clips that go through one system together, and which rows are wanted of them."""

    system: str
    utterances: tuple[Utterance, ...]
    settings: tuple[Setting, ...]
    wanted: frozenset[Key]


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
        folder: For the results; it may hold those of an earlier run of the same measures on the same clips.
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


def describe(utterances: Sequence[Utterance], worker: "Worker", chosen: dict[str, list[Setting]]) -> dict[str, Any]:
    """Say what is measured and how: what rows must have in common to stand in one table."""
    clips = [[u.id, round(u.start, 6), round(u.duration, 6), u.text] for u in utterances]
    return {
        **asdict(worker.plan.measures),
        "names": worker.instruments.names,
        "instruments": worker.instruments.identity,
        "rules": RULES,
        "clips": len(clips),
        "seconds": round(sum(u.duration for u in utterances), 3),
        "clips_digest": hashlib.sha256(json.dumps(clips).encode()).hexdigest()[:16],
        "version": flexicodec.__version__,
        "systems": {name: system.identity for name, system in worker.systems.items()},
        "settings": {name: [setting.label for setting in settings] for name, settings in chosen.items()},
    }


class Worker:
    """Models and instruments of one process, opened when they are needed; turns jobs into rows."""

    def __init__(self, models: Sequence[str | System], plan: Plan, folder: str | Path):
        self.plan, self.folder = plan, Path(folder)
        opened = [open_system(m, plan.device, plan.sensevoice) if isinstance(m, str) else m for m in models]
        self.systems: dict[str, System] = {GROUND_TRUTH: GroundTruth(SAMPLE_RATE)}
        for system in opened:
            if system.name in self.systems:
                raise ValueError(f"two models are called {system.name!r}; name them: a=MODEL b=MODEL")
            self.systems[system.name] = system
        self.instruments = Instruments(plan.measures, plan.device)

    def is_done(self, chosen: dict[str, list[Setting]]) -> Callable[[Row], bool]:
        """Return what tells whether a row can stay: not where its tokens are wanted and their file is missing."""
        labels = {(name, setting.label) for name, settings in chosen.items() for setting in settings}

        def is_done(row: Row) -> bool:
            wanted = self.plan.keep_tokens and "tokens" in row and (row["system"], row["setting"]) in labels
            return not wanted or token_path(self.folder, *key(row)).is_file()

        return is_done

    def __call__(self, job: Job) -> list[Row]:
        """Measure the clips of a job; those that cannot be read or reconstructed get a row with the reason."""
        system, rows = self.systems[job.system], []
        read: dict[int, tuple[Clip, Clip]] = {}
        for index, utterance in enumerate(job.utterances):
            try:
                reference = read_utterance(utterance, SAMPLE_RATE)
                own = system.sample_rate == SAMPLE_RATE
                read[index] = reference, reference if own else read_utterance(utterance, system.sample_rate)
            except BAD_FILE as error:
                rows += [_failure(system.name, setting, utterance, error) for setting in job.settings]
        if read:
            clips = [job.utterances[index] for index in read]
            rows += self._measure(system, job.settings, clips, list(read.values()))
        return [row for row in rows if (row["system"], row["setting"], row["id"]) in job.wanted]

    def _measure(
        self, system: System, settings: Sequence[Setting], clips: list[Utterance], read: list[tuple[Clip, Clip]]
    ) -> list[Row]:
        """Measure clips side by side, or one by one where that fails, so that a bad clip takes no other with it."""
        rows: list[Row] = []
        try:
            prepared = self.instruments.prepare([reference for reference, _ in read], [self._text(c) for c in clips])
            rounds = system.reconstruct([heard for _, heard in read], settings)
        except BAD_FILE as error:
            rounds, failed = iter(()), error
        for setting in settings:
            try:
                back = next(rounds, None)
                if back is None:  # nothing comes after an error
                    raise failed
                rows += self._rows(system, setting, clips, back, prepared)
            except BAD_FILE as error:
                if len(clips) > 1:
                    alone = (self._measure(system, settings, [c], [r]) for c, r in zip(clips, read, strict=True))
                    return [row for rows in alone for row in rows]
                failed = error
                rows.append(_failure(system.name, setting, clips[0], error))
        return rows

    def _rows(
        self,
        system: System,
        setting: Setting,
        clips: list[Utterance],
        back: list[Reconstruction],
        references: References,
    ) -> list[Row]:
        """Measure what came back at one setting."""
        pairs = zip(back, references.audio, strict=True)
        estimates = [fit(one.audio, system.sample_rate, len(reference)) for one, reference in pairs]
        found = self.instruments.measure(references, estimates)
        return [
            {**_about(system.name, setting, clip), **self._rates(system, setting, clip, one), **measured}
            for clip, one, measured in zip(clips, back, found, strict=True)
        ]

    def _rates(self, system: System, setting: Setting, clip: Utterance, back: Reconstruction) -> Row:
        """Measure what a clip costs, and save its tokens if they are wanted."""
        if back.tokens is None:
            return {}
        if self.plan.keep_tokens:
            path = token_path(self.folder, system.name, setting.label, clip.id)
            path.parent.mkdir(parents=True, exist_ok=True)
            back.tokens.save(path)
        seconds = float(back.tokens.seconds[0])
        return {
            "tokens": int(back.tokens.token_lengths[0]),
            "coded_seconds": seconds,
            **rate.measured(back.tokens)[0],
        }

    def _text(self, clip: Utterance) -> str | None:
        """What is said, where the recognisers are to hear it."""
        wanted, spoken = self.plan.measures.language, clip.language
        foreign = wanted is not None and spoken is not None and spoken.replace("-", " ").split()[:1] != [wanted]
        return None if foreign else clip.text


def _check(utterances: Sequence[Utterance], plan: Plan) -> None:
    if not utterances:
        raise ValueError("there are no clips to evaluate")
    ids = [utterance.id for utterance in utterances]
    if twice := [each for each in dict.fromkeys(ids) if ids.count(each) > 1] if len(set(ids)) < len(ids) else []:
        raise ValueError(f"{len(twice)} ids are there more than once ({', '.join(twice[:3])}); rows are told by them")
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
    if plan.processes == 1 or len(jobs) < 2:
        with one_thread():
            yield from map(worker, jobs)
        return
    count = min(plan.processes, len(jobs))
    pool = ProcessPoolExecutor(count, get_context("spawn"), _start, (list(models), plan, str(folder)))
    try:
        futures: list[Future[list[Row]]] = [pool.submit(_work, job) for job in jobs]
        yield from (future.result() for future in as_completed(futures))
    except BrokenProcessPool as error:
        raise OSError(
            "a process died, perhaps for want of memory; its rows so far are kept, and the same command goes on (with "
            "fewer processes, or fewer seconds a batch)"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_worker: Callable[[Job], list[Row]]  # of a process in the pool


def _start(models: list[str | System], plan: Plan, folder: str) -> None:
    global _worker
    torch.set_num_threads(1)
    _worker = Worker(models, plan, folder)


def _work(job: Job) -> list[Row]:
    return _worker(job)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread, as it does in a pool: sums come out the same then."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _about(system: str, setting: Setting, clip: Utterance) -> Row:
    """What a row is about."""
    return {
        "id": clip.id,
        "speaker": clip.speaker,
        "corpus": clip.corpus,
        "seconds": clip.duration,
        "system": system,
        "setting": setting.label,
        "asked": asdict(setting),
    }


def _failure(system: str, setting: Setting, clip: Utterance, error: BaseException) -> Row:
    reason = " ".join(str(error).split()) or type(error).__name__
    return {**_about(system, setting, clip), "error": f"{type(error).__name__}: {reason}"}
