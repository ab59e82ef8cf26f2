"""The engine for one machine: worker processes, one a device, that are told units over pipes, and replaced if they die.

This process imports no torch and holds no state: killed, it is started again, and what has a report is skipped.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from flexicodec.token_corpus.marks import note_crash
from flexicodec.token_corpus.worker import Job, to_message

MOST_CRASHES = 20  # of one unit: enough for several clips that kill
STOP_SECONDS = 60.0  # for a worker to end by itself, after the batch it computes
MOST_STARTS = 3  # deaths of workers before they were ready, one after another

Told = Callable[[dict[str, Any]], None]


KILLED = (-signal.SIGKILL, -signal.SIGTERM)  # codes of processes that were ended from outside, or by lack of memory


class WorkerDied(Exception):
    """A worker process ended without a reply."""

    def __init__(self, pid: int, code: int):
        super().__init__(f"process {pid} ended with code {code}")
        self.pid = pid
        self.crashed = code not in KILLED


class Worker:
    """A worker process and the pipes to it."""

    def __init__(self, job: Job, plan: bool):
        # A session of its own: Ctrl-C is for this process, which tells the worker to stop.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flexicodec.token_corpus.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        self.pid = self._process.pid
        try:
            self.ready = self.ask(to_message(job, plan))["ready"]
        except BaseException:
            self.stop()
            raise

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """Send a line and wait for the reply.

        Raises:
            WorkerDied: The process ended.
            ValueError, OSError, ...: What the worker met.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line.endswith("\n"):
            raise WorkerDied(self.pid, self._process.wait())
        reply = json.loads(line)
        if "error" in reply:
            kinds: dict[str, type[Exception]] = {
                kind.__name__: kind
                for kind in (FileNotFoundError, ImportError, ValueError, OSError, FloatingPointError)
            }
            raise kinds.get(reply["error"]["kind"], RuntimeError)(reply["error"]["message"])
        return reply

    def stop(self) -> None:
        """End the process, and let it remove its marks first, or else it would look like a death."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass


class LocalEngine:
    """Runs a job in processes of this machine."""

    def __init__(self, job: Job, processes: int | None = None, told: Told = lambda _: None):
        """Prepare a run.

        Args:
            job: What to tokenise.
            processes: Workers; the default is one a GPU, or one a core.
            told: Called with every reply `done`, and once with `ready`, from any thread, one at a time.
        """
        if processes is not None and processes < 1:
            raise ValueError(f"processes is {processes}; expected 1 or more")
        self.job = job
        self.processes = processes
        self.told = told
        self._lock = threading.Lock()
        self._queue: deque[int] = deque()
        self._busy: deque[int] = deque()  # units that other jobs work on, which are left for last
        self._crashes: Counter[int] = Counter()
        self._errors: list[BaseException] = []
        self._workers: dict[int, Worker] = {}

    def run(self, plan_only: bool = False) -> dict[str, Any]:
        """Run all units that are left, or make the plan only, and return what `summary.finish` says.

        Raises:
            ValueError, OSError: What a worker met: wrong settings, another manifest, a full disk.
            RuntimeError: A unit killed `MOST_CRASHES` processes, or workers die before they are ready.
        """
        try:
            first = self._start(self.job, plan=True)
            ready = first.ready
            self._queue.extend(ready["todo"])
            self.told({"ready": ready})
            jobs = self._jobs(ready)[: max(1, len(ready["todo"]))]
            threads = []
            for number, job in enumerate(jobs):
                worker = first if number == 0 else None
                threads.append(threading.Thread(target=self._guarded, args=(job, worker), daemon=True))
            for thread in [] if plan_only else threads:
                thread.start()
            while not self._errors and any(thread.is_alive() for thread in threads):
                threads[0].join(0.5) if threads[0].is_alive() else time.sleep(0.05)
            if self._errors:
                raise self._errors[0]
            return self._finish()
        finally:
            for worker in list(self._workers.values()):
                worker.stop()

    def _jobs(self, ready: dict[str, Any]) -> list[Job]:
        """Return the job of each worker: with its own device, where there are several GPUs."""
        if self.processes is not None:
            count = self.processes
        elif ready["cuda"]:
            count = ready["devices"]
        else:
            count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        job = replace(self.job, extend=False)
        if ready["devices"] < 2:
            return [job] * count
        return [replace(job, device=f"cuda:{number % ready['devices']}") for number in range(count)]

    def _start(self, job: Job, plan: bool = False) -> Worker:
        for attempt in range(1, MOST_STARTS + 1):
            try:
                worker = Worker(job, plan)
            except WorkerDied as death:
                if attempt == MOST_STARTS:
                    raise RuntimeError(
                        f"a worker died {MOST_STARTS} times before it was ready ({death}); is the memory too small for "
                        "the model and --processes?"
                    ) from death
            else:
                with self._lock:
                    self._workers[worker.pid] = worker
                return worker
        raise AssertionError("the last attempt returns or raises")

    def _guarded(self, job: Job, worker: Worker | None) -> None:
        try:
            self._work(job, worker)
        except BaseException as error:
            with self._lock:
                self._errors.append(error)

    def _work(self, job: Job, worker: Worker | None) -> None:
        """Run units in one worker after another until none is left or another thread met an error."""
        while (turn := self._next()) is not None:
            unit, wait = turn
            if worker is None:
                worker = self._start(job)
            try:
                reply = worker.ask({"unit": unit, "wait": wait})
            except WorkerDied as death:
                with self._lock:
                    del self._workers[worker.pid]
                worker.stop()
                worker = None
                self._count_crash(unit, death)
                continue
            with self._lock:
                if "busy" in reply:
                    self._busy.append(unit)
                else:
                    self.told(reply)

    def _next(self) -> tuple[int, bool] | None:
        """Return a unit, and whether to leave it to another job that works on it."""
        with self._lock:
            if self._errors:
                return None
            if self._queue:
                return self._queue.popleft(), True
            if self._busy:
                return self._busy.popleft(), False
            return None

    def _count_crash(self, unit: int, death: WorkerDied) -> None:
        if death.crashed:
            note_crash(Path(self.job.folder), unit, death.pid)
        with self._lock:
            self._crashes[unit] += 1
            self._queue.appendleft(unit)
            crashes = self._crashes[unit]
        if crashes >= MOST_CRASHES:
            raise RuntimeError(
                f"unit {unit} has killed {crashes} processes, the last one: {death}; the clips that were under way are "
                f"in {self.job.folder}/state"
            )

    def _finish(self) -> dict[str, Any]:
        worker = next(iter(self._workers.values()), None) or self._start(replace(self.job, extend=False))
        return worker.ask({"finish": True})["finished"]


__all__ = ["LocalEngine", "Worker", "WorkerDied"]
