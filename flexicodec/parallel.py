"""Jobs over several processes, with the same results as in one: each has its own models and uses one thread."""

import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from typing import Any, TypeVar

import torch

Job = TypeVar("Job")
Result = TypeVar("Result")


@contextmanager
def default_settings() -> Iterator[None]:
    """Compute as in a fresh process, whatever default dtype and device, autocast or gradients the caller has set."""
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def bar_settings(shown: bool) -> dict[str, Any]:
    """Return settings of a tqdm bar: on a terminal its own, elsewhere (a log) a line every 30 s."""
    if not shown or sys.stderr.isatty():
        return {"disable": not shown}
    line = "{desc}: {n_fmt} of {total_fmt}, {elapsed} passed, {remaining} left\n"
    return {"delay": 30.0, "mininterval": 30.0, "miniters": 1, "bar_format": line}


def share(
    jobs: Sequence[Job], worker: Callable[[Job], Result], processes: int, make: Callable[[], Callable[[Job], Result]]
) -> Iterator[tuple[int, Result]]:
    """Run jobs and yield the index and result of each as it is done.

    Args:
        jobs: Picklable if there are several processes, as are results.
        worker: Runs a job in this process.
        processes: At most; with one, or one job, everything stays in this process.
        make: Makes a worker in another process; picklable.

    Raises:
        BrokenProcessPool: A process died.
    """
    check_processes(processes)
    if processes == 1 or len(jobs) < 2:
        with one_thread():
            for index, job in enumerate(jobs):
                yield index, worker(job)
        return
    # Jobs are pickled here: multiprocessing would put every tensor into a file of its own, and there may be thousands.
    pool = ProcessPoolExecutor(
        min(processes, len(jobs)), get_context("spawn"), initializer=_start, initargs=(pickle.dumps(make),)
    )
    futures: dict[Future[bytes], int] = {}
    try:
        for index, job in enumerate(jobs):
            futures[pool.submit(_work, pickle.dumps(job))] = index
        for done in as_completed(futures):
            yield futures[done], pickle.loads(done.result())
    finally:
        pool.shutdown(cancel_futures=True)


def check_processes(processes: int) -> None:
    """Refuse fewer than one process."""
    if processes < 1:
        raise ValueError(f"processes is {processes}; expected 1 or more")


_worker: Callable[[Any], Any]  # of a process in the pool


def _start(make: bytes) -> None:
    global _worker
    torch.set_num_threads(1)
    _worker = pickle.loads(make)()


def _work(job: bytes) -> bytes:
    return pickle.dumps(_worker(pickle.loads(job)))


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread, as in a process of the pool: sums are rounded the same then."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


__all__ = ["BrokenProcessPool", "bar_settings", "check_processes", "default_settings", "one_thread", "share"]
