"""The Ray engine: the loop with actors in place of a cluster, and (slow) real clusters of one and of two nodes."""

import os
import random
import signal
import sys
import threading
import time
from collections import Counter, deque
from pathlib import Path
from types import SimpleNamespace

import pytest
from token_folders import tables

import flexicodec
from flexicodec.corpus import token_dataset
from flexicodec.corpus.token_dataset import TokenDataset
from flexicodec.token_corpus import ray_cluster
from flexicodec.token_corpus.ray_cluster import _Driver, run_on_ray
from flexicodec.token_corpus.worker import Job

CHOICES = [{"frame_rate": 6.25, "num_codebooks": 2}, {"threshold": 0.9, "num_codebooks": 0}]


class Crash(Exception):
    pass


class Failed(Exception):
    def __init__(self, cause):
        super().__init__(cause)
        self.cause = cause


class FakeRay:
    """Calls are done one after another; a table of units says which crash, fail or never end."""

    exceptions = SimpleNamespace(
        RayActorError=Crash, WorkerCrashedError=Crash, OutOfMemoryError=Crash, NodeDiedError=Crash, RayTaskError=Failed
    )

    def __init__(self, outcomes):
        self.outcomes = {unit: deque(each) for unit, each in outcomes.items()}
        self.calls = []

    def actor(self, number):
        def call(unit=None):
            self.calls.append((number, unit))
            return (number, unit, len(self.calls))

        method = SimpleNamespace(remote=call)
        return SimpleNamespace(run=method, ping=method)

    def wait(self, references, timeout):
        ready = [each for each in references if self._outcome(each) != "hang"]
        return ready[:1], []

    def _outcome(self, reference):
        outcomes = self.outcomes.get(reference[1])
        return outcomes[0] if outcomes else "done"

    def get(self, reference):
        outcome = self._outcome(reference)
        if self.outcomes.get(reference[1]):
            self.outcomes[reference[1]].popleft()
        if outcome == "crash":
            raise Crash("the actor died")
        if outcome == "full":
            raise Failed(OSError(28, "No space left on device"))
        return {"unit": reference[1]}


@pytest.fixture
def drive(tmp_path, monkeypatch):
    """Run six units on fake actors; returns the units that were told as done, and the calls."""
    monkeypatch.setattr(ray_cluster, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(ray_cluster, "MOST_CRASHES", 3)

    def run(outcomes, actors=2):
        ray = FakeRay(outcomes)
        done = []
        driver = _Driver(
            ray,
            Job("m", str(tmp_path)),
            [ray.actor(number) for number in range(actors)],
            list(range(6)),
            lambda reply: done.append(reply["done"]["unit"]),
        )
        driver.run()
        return done, ray.calls

    return run


def test_units_of_crashed_actors_are_run_again_and_told_once(drive):
    done, calls = drive({1: ["crash", "crash", "done"], 4: ["crash", "done"]})
    assert sorted(done) == list(range(6))
    counts = Counter(unit for _, unit in calls)
    assert (counts[1], counts[4], counts[0]) == (3, 2, 1)
    assert counts[None] >= 3, "an actor is asked whether it lives before its next unit"


def test_what_an_actor_meets_is_the_jobs_error(drive):
    with pytest.raises(OSError, match="No space left"):
        drive({2: ["full"]})


def test_crashes_that_the_marks_confirm_end_the_job(drive, monkeypatch):
    deaths = iter(range(100))
    monkeypatch.setattr(ray_cluster, "read_deaths", lambda folder, unit: SimpleNamespace(count=next(deaths)))
    with pytest.raises(RuntimeError, match="unit 2 has killed"):
        drive({2: ["crash"] * 50})


def test_crashes_that_they_do_not_confirm_do_not(drive):
    done, _ = drive({2: ["crash"] * 8})
    assert sorted(done) == list(range(6))


def test_actors_that_never_answer_are_given_up(drive, monkeypatch):
    monkeypatch.setattr(ray_cluster, "MOST_PINGS", 5)
    with pytest.raises(RuntimeError, match="no actor is left"):
        drive({None: ["crash"] * 100, **{unit: ["crash"] * 100 for unit in range(6)}})


def test_a_unit_on_an_actor_that_hangs_is_given_to_another(drive, monkeypatch):
    times = iter(range(1000))
    monkeypatch.setattr(ray_cluster.time, "monotonic", lambda: float(next(times)))
    outcomes = {3: ["hang"]}

    class Once(FakeRay):
        def _outcome(self, reference):
            first = next((number for number, unit in self.calls if unit == 3), None)
            return "hang" if reference[1] == 3 and reference[0] == first else "done"

        def get(self, reference):
            return {"unit": reference[1]}

    monkeypatch.setattr(sys.modules[__name__], "FakeRay", Once)
    done, calls = drive(outcomes)
    assert sorted(done) == list(range(6))
    assert len({number for number, unit in calls if unit == 3}) == 2


# ------------------------------------------------------------------------------------------------------- real clusters


@pytest.fixture
def ray_job(tiny_folder, tmp_path, monkeypatch):
    """Make a job of a manifest with units of a second, for processes that find this package."""
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", str(Path(flexicodec.__file__).parent.parent))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_worker_niceness", "0")  # Ray's default is 15, which is long on a busy machine

    def make(source, folder):
        return Job(str(source), str(folder), str(tiny_folder), choices=CHOICES, settings={"unit_hours": 1 / 3600})

    return make


def check_same(folder, plain):
    dataset = TokenDataset.open(folder)
    assert dataset.units_done() == list(range(dataset.num_units))
    for unit in range(dataset.num_units):
        dataset.check_files(unit)
        assert dataset.report(unit)["bad"] == []
    assert tables(folder) == tables(plain)
    assert not list((folder / "state").iterdir())
    return [tokens.info["id"] for tokens in token_dataset.tokens(folder, 6.25)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ray
def test_a_local_cluster_makes_the_bytes_of_one_process(ray_job, make_list, tokenized, tmp_path):
    source = make_list(12)
    told = []
    done = run_on_ray(ray_job(source, tmp_path / "t"), "auto", 2, told.append)
    assert done["done"] == done["units"]
    assert len(check_same(tmp_path / "t", tokenized(source, tmp_path / "plain").folder)) == 12


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_nodes_of_which_one_is_lost(ray_job, make_list, tokenized, tmp_path, monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    source = make_list(16)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    lost = cluster.add_node(num_cpus=1)
    told = []

    def lose():
        while len(told) < 3:  # the plan, and two units
            time.sleep(0.1)
        victims = [path for path in (tmp_path / "t" / "state").glob("*.log")]
        if victims:  # an actor, before its node
            try:
                os.kill(int(random.Random(0).choice(victims).name.split("-")[-2]), signal.SIGKILL)
            except ProcessLookupError:
                pass
        cluster.remove_node(lost, allow_graceful=False)

    thread = threading.Thread(target=lose, daemon=True)
    thread.start()
    try:
        done = run_on_ray(ray_job(source, tmp_path / "t"), cluster.address, 2, told.append)
    finally:
        cluster.shutdown()
    assert done["done"] == done["units"]
    assert len(check_same(tmp_path / "t", tokenized(source, tmp_path / "plain").folder)) == 16
