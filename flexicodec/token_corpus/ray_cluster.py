"""The engine for clusters: Ray Core actors, one a GPU, that are given units by number and return short reports.

Ray places and restarts actors and notices lost nodes. Resuming, exactly once, and a bound on retries are ours: units
with a report are skipped, and the marks of a unit say how many processes it has killed. Audio and tokens never go
through Ray; every node has to see manifest, audio and the folder of tokens under the same paths.
"""

import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flexicodec.token_corpus.local import MOST_CRASHES
from flexicodec.token_corpus.marks import read_deaths
from flexicodec.token_corpus.worker import Job, load_codec, plan_job

LOCAL = "auto"  # an address: that of RAY_ADDRESS if set, else a cluster of our own on this machine
OLDEST = (2, 60)  # read_webdataset of older versions unpickles what it reads (CVE-2026-57516)
UNITS_AHEAD = 2  # of an actor: one under way and one waiting
GPU_ACTOR_CPUS = 8  # threads that read beside a GPU
POLL_SECONDS = 1.0
MOST_PINGS = 300  # without an answer, until an actor is given up
STRAGGLER = 2.0  # times the longest unit so far, after which an idle actor makes a unit too

Told = Callable[[dict[str, Any]], None]


class UnitActor:
    """What runs on a node: a codec, loaded once, and the units it is told."""

    def __init__(self, job: Job):
        self.job = job
        self.codec = load_codec(job)
        self._dataset: Any = None

    def plan(self) -> dict[str, Any]:
        """Make the plan, or check the one that is there, and list the units that are left."""
        from flexicodec.token_corpus.units import remaining_units

        self._dataset = plan_job(self.job, self.codec)
        return {"todo": remaining_units(self._dataset, self.job.part), "units": self._dataset.num_units}

    def run(self, unit: int) -> dict[str, Any]:
        """Run a unit."""
        from flexicodec.token_corpus.units import run_unit

        report = run_unit(self.codec, self._opened(), unit, workers=self.job.workers)
        return {"unit": unit, "clips": report["clips"], "bad": len(report["bad"])}

    def ping(self) -> None:
        """Return, which says that the actor lives."""

    def finish(self) -> dict[str, Any]:
        """Clean up and sum up."""
        from flexicodec.token_corpus.summary import finish

        return finish(self._opened(), self.job.part)

    def _opened(self) -> Any:
        from flexicodec.corpus.token_dataset import TokenDataset

        if self._dataset is None:  # another actor made the plan
            self._dataset = TokenDataset.open(self.job.folder)
        return self._dataset


def import_ray() -> Any:
    """Import ray, without its usage statistics unless the user wants them."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ImportError("--ray needs Ray, which is not installed: pip install 'flexicodec-lab[ray]'") from error
    version = tuple(int(part) for part in ray.__version__.split(".")[:2])
    if version < OLDEST:
        raise ImportError(f"ray {ray.__version__} is installed; expected {'.'.join(map(str, OLDEST))} or later")
    return ray


@contextmanager
def cluster(address: str, processes: int | None = None) -> Iterator[Any]:
    """Connect to a cluster, or start one of our own that ends with this block."""
    ray = import_ray()
    named = os.environ.get("RAY_ADDRESS") if address == LOCAL else address
    quiet = {"log_to_driver": False, "configure_logging": False, "namespace": "flexicodec"}
    if named:
        try:
            ray.init(address=named, **quiet)
        except ConnectionError as error:
            raise ValueError(f"no Ray cluster answers at {named} ({error}); is `ray start --head` running?") from error
        folder = None
    else:
        folder = tempfile.mkdtemp(prefix="flexicodec-ray-")
        ray.init(address="local", include_dashboard=False, _temp_dir=folder, num_cpus=processes, **quiet)
    try:
        yield ray
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def run_on_ray(
    job: Job, address: str = LOCAL, processes: int | None = None, told: Told = lambda _: None, plan_only: bool = False
) -> dict[str, Any]:
    """Run a job on a Ray cluster; as `LocalEngine.run`.

    Args:
        job: With a `device` of "cuda" every actor has a GPU of its own.
        address: Of a cluster, such as "10.0.0.1:6379"; "auto" is RAY_ADDRESS, or a cluster on this machine.
        processes: Actors; the default is one a GPU, or one a core.
        told: Called with every reply.
        plan_only: Make the plan and no tokens.
    """
    on_gpu = (job.device or "").startswith("cuda")
    with cluster(address, None if on_gpu else processes) as ray:
        resources = {"num_gpus": 1, "num_cpus": GPU_ACTOR_CPUS} if on_gpu else {"num_cpus": 1}
        actor_class = ray.remote(max_restarts=-1, max_task_retries=0, **resources)(UnitActor)
        count = processes or int(ray.cluster_resources().get("GPU" if on_gpu else "CPU", 1))
        return _run_actors(ray, actor_class, count, job, told, plan_only)


def _run_actors(ray: Any, actor_class: Any, count: int, job: Job, told: Told, plan_only: bool) -> dict[str, Any]:
    """Run a job on so many actors."""
    first = actor_class.remote(job)
    ready = _get(ray, first.plan.remote())
    told({"ready": ready})
    if not plan_only:
        others = [actor_class.remote(job) for _ in range(min(count, len(ready["todo"])) - 1)]
        _Driver(ray, job, [first, *others], ready["todo"], told).run()
    return _finished(ray, actor_class, first, job)


def _finished(ray: Any, actor_class: Any, actor: Any, job: Job) -> dict[str, Any]:
    try:
        return _get(ray, actor.finish.remote())
    except ray.exceptions.RayActorError:  # it is being restarted, or its node is lost
        return _get(ray, actor_class.remote(job).finish.remote())


def _get(ray: Any, reference: Any) -> Any:
    """Return a result, or raise what the actor met as it was."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error


@dataclass(eq=False)
class _Actor:
    """An actor and what it was given."""

    handle: Any
    units: list[int] = field(default_factory=list)
    pings: int = 0  # in a row without an answer; 0: it lives
    next_ping: float = 0.0


class _Driver:
    """Hands units to actors until all have a report."""

    def __init__(self, ray: Any, job: Job, handles: list[Any], todo: list[int], told: Told):
        self.ray = ray
        self.job = job
        self.told = told
        self.actors = [_Actor(handle) for handle in handles]
        self.queue = deque(todo)
        self.left = set(todo)
        self.under_way: dict[Any, tuple[_Actor, int | None]] = {}  # None: a ping
        self.given: dict[int, float] = {}  # when a unit was handed out
        self.longest = 0.0
        self.earlier: dict[int, int] = {}  # deaths in a unit before this run
        # A crash of the actor, the process, the node, or the memory monitor's doing.
        errors = ray.exceptions
        self.crashes = (errors.RayActorError, errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError)

    def run(self) -> None:
        """Run until no unit is left."""
        while self.left:
            self._hand_out()
            ready, _ = self.ray.wait(list(self.under_way), timeout=POLL_SECONDS) if self.under_way else ([], [])
            if not self.under_way:
                time.sleep(POLL_SECONDS)
            for reference in ready:
                actor, unit = self.under_way.pop(reference)
                try:
                    reply = _get(self.ray, reference)
                except self.crashes as error:
                    self._crashed(actor, unit, error)
                    continue
                actor.pings = 0
                if unit is not None:
                    self._done(actor, unit, reply)

    def _hand_out(self) -> None:
        now = time.monotonic()
        for actor in self.actors:
            if actor.pings:
                if now >= actor.next_ping:
                    actor.next_ping = float("inf")  # until it is answered
                    self.under_way[actor.handle.ping.remote()] = (actor, None)
                continue
            while len(actor.units) < UNITS_AHEAD and self.queue:
                self._give(actor, self.queue.popleft(), now)
            if not actor.units:
                late = [unit for unit in self.left if now - self.given.get(unit, now) > STRAGGLER * self.longest > 0]
                if late:  # another actor hangs or is slow; the bytes are the same
                    self._give(actor, min(late, key=self.given.__getitem__), now)

    def _give(self, actor: _Actor, unit: int, now: float) -> None:
        if unit not in self.earlier:
            self.earlier[unit] = read_deaths(Path(self.job.folder), unit).count
        actor.units.append(unit)
        self.given[unit] = now
        self.under_way[actor.handle.run.remote(unit)] = (actor, unit)

    def _done(self, actor: _Actor, unit: int, reply: dict[str, Any]) -> None:
        actor.units.remove(unit)
        if unit in self.left:
            self.left.remove(unit)
            self.longest = max(self.longest, time.monotonic() - self.given[unit])
            self.told({"done": reply})

    def _crashed(self, actor: _Actor, unit: int | None, error: Exception) -> None:
        """Put a unit back and wait for the actor; one that restarts refuses calls with the error of one that died."""
        actor.pings += 1
        actor.next_ping = time.monotonic() + POLL_SECONDS
        if actor.pings > MOST_PINGS:
            self.actors.remove(actor)
        if not self.actors:
            raise RuntimeError(f"no actor is left: {error}; does a node have the model and the resources?") from error
        if unit is None:
            return
        actor.units.remove(unit)
        if unit not in self.left:
            return
        # Errors are not attempts: the marks count deaths in this unit.
        deaths = read_deaths(Path(self.job.folder), unit).count - self.earlier[unit]
        if deaths >= MOST_CRASHES:
            raise RuntimeError(
                f"unit {unit} has killed {deaths} processes, the last one: {error}; the clips that were under "
                f"way are in {self.job.folder}/state"
            )
        if unit not in self.queue:
            self.queue.appendleft(unit)
