"""Engines: whatever dies, every clip is there once, and units that nobody disturbed have the bytes of one process."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from token_folders import tables

import flexicodec
from flexicodec.cli import main
from flexicodec.corpus import token_dataset
from flexicodec.corpus.token_dataset import TokenDataset
from flexicodec.token_corpus import local
from flexicodec.token_corpus.local import LocalEngine, Worker, WorkerDied
from flexicodec.token_corpus.marks import read_deaths
from flexicodec.token_corpus.worker import Job

CHOICES = [{"frame_rate": 6.25, "num_codebooks": 2}, {"threshold": 0.9, "num_codebooks": 0}]
KILLS = 100
DEADLY = """
import os, soundfile
class SoundFile(soundfile.SoundFile):  # a decoder that crashes on one file
    def __init__(self, file, *arguments, **options):
        if "deadly" in str(file):
            os._exit(139)
        super().__init__(file, *arguments, **options)
soundfile.SoundFile = SoundFile
"""


@pytest.fixture
def job(tiny_folder, tmp_path, monkeypatch):
    """Make a job of a manifest with units of a second."""
    package = str(Path(flexicodec.__file__).parent.parent)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{package}")

    def make(source, folder, **fields):
        fields = {"choices": CHOICES, "settings": {"unit_hours": 1 / 3600}, **fields}
        return Job(str(source), str(folder), model=str(tiny_folder), **fields)

    return make


def add_deadly_clip(source, line):
    """Copy a clip to a name on which readers die, into the middle of the manifest."""
    (source.parent / "sitecustomize.py").write_text(DEADLY)
    audio = source.parent / "audio"
    (audio / "deadly.wav").write_bytes((audio / "0.wav").read_bytes())
    lines = source.read_text().splitlines()
    lines.insert(line, json.dumps({"path": "audio/deadly.wav", "duration": 0.4}))
    source.write_text("\n".join(lines) + "\n")


def check_once(folder, count, died=()):
    """Every clip has its tokens at every choice once, or is bad as `died`."""
    dataset = TokenDataset.open(folder)
    assert dataset.units_done() == list(range(dataset.num_units))
    bad = []
    for unit in range(dataset.num_units):
        dataset.check_files(unit)
        bad += dataset.report(unit)["bad"]
    assert [(name, kind) for name, kind, _ in bad] == [(name, "died") for name in died]
    for choice in dataset.choices:
        names = Counter(tokens.info["id"] for tokens in token_dataset.tokens(folder, choice.name))
        assert len(names) == count
        assert set(names.values()) == {1}
    assert not list((folder / "state").iterdir())


def kill(process):
    if process is not None:
        os.kill(process, signal.SIGKILL)


def killing(engine, kills, seed, seconds):
    """Kill workers of an engine at random moments, while it runs."""
    random_ = random.Random(seed)

    def run():
        done = 0
        while done < kills and thread_of_engine.is_alive():
            time.sleep(random_.uniform(0, seconds))
            workers = list(engine._workers)
            if workers:
                try:
                    kill(random_.choice(workers))
                    done += 1
                except ProcessLookupError:
                    continue

    thread_of_engine = threading.current_thread()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_workers_that_die_are_replaced_and_the_deadly_clip_is_left_out(job, make_list, tokenized, tmp_path):
    source = make_list(8)
    add_deadly_clip(source, 4)
    engine = LocalEngine(job(source, tmp_path / "t"), processes=1)
    told = []
    engine.told = lambda reply: told.append(reply)
    done = engine.run()
    check_once(tmp_path / "t", 8, died=["audio/deadly"])
    assert done["reasons"] == {"died": 1}
    assert done["done"] == done["units"] == len(told) - 1
    dataset = TokenDataset.open(tmp_path / "t")
    (disturbed,) = [unit for unit in range(dataset.num_units) if dataset.report(unit)["bad"]]
    assert dataset.report(disturbed)["attempts"] == 3
    (tmp_path / "audio" / "deadly.wav").unlink()
    plain = tables(tokenized(source, tmp_path / "plain").folder)
    same = {name: data for name, data in tables(tmp_path / "t").items() if f"{disturbed:06d}" not in name}
    assert same.items() <= plain.items()


def test_an_error_of_a_worker_is_the_jobs(job, make_list, tmp_path):
    source = make_list(2)
    with pytest.raises(ValueError, match="num_codebooks is 99"):
        LocalEngine(job(source, tmp_path / "t", choices=[{"num_codebooks": 99}]), processes=1).run()
    assert not (tmp_path / "t").exists()


class FakeWorker:
    """Replies at once; dies, is busy or fails as a table of units says."""

    outcomes: dict[int, list[str]] = {}  # of a unit, one after another
    asked: list[tuple[int, bool]] = []
    numbers = iter(range(1_000_000))
    ready = {"todo": list(range(6)), "units": 6, "devices": 1, "cuda": False}

    def __init__(self, job, plan):
        self.pid = next(self.numbers)

    def ask(self, order):
        if "finish" in order:
            return {"finished": {}}
        self.asked.append((order["unit"], order["wait"]))
        outcomes = self.outcomes.get(order["unit"])
        outcome = outcomes.pop(0) if outcomes else "done"
        if outcome == "die":
            raise WorkerDied(1, -9)
        if outcome == "full":
            raise OSError(28, "No space left on device")
        if outcome == "busy" and order["wait"]:
            return {"busy": order["unit"]}
        return {"done": {"unit": order["unit"]}}

    def stop(self):
        pass


@pytest.fixture
def fake_workers(monkeypatch):
    """Replace worker processes."""
    monkeypatch.setattr(local, "Worker", FakeWorker)
    FakeWorker.outcomes, FakeWorker.asked = {}, []
    return FakeWorker


def test_units_of_other_jobs_come_last_and_units_that_died_first(job, fake_workers):
    fake_workers.outcomes = {0: ["busy", "busy"], 2: ["die", "done"]}
    done = []
    LocalEngine(job("m", "t"), 1, lambda reply: done.append(reply.get("done", {}).get("unit"))).run()
    assert fake_workers.asked == [
        (0, True),
        (1, True),
        (2, True),
        (2, True),
        *((i, True) for i in (3, 4, 5)),
        (0, False),
    ]
    assert done == [None, 1, 2, 3, 4, 5, 0]


def test_a_unit_that_always_kills_ends_the_job(job, fake_workers):
    fake_workers.outcomes = {3: ["die"] * local.MOST_CRASHES}
    with pytest.raises(RuntimeError, match="unit 3 has killed 20 processes"):
        LocalEngine(job("m", "t"), 2).run()


def test_a_full_disk_ends_the_job(job, fake_workers):
    fake_workers.outcomes = {1: ["full"]}
    with pytest.raises(OSError, match="No space left"):
        LocalEngine(job("m", "t"), 2).run()


def test_workers_that_die_before_they_are_ready_end_the_job(job, monkeypatch):
    def dying(job, plan):
        raise WorkerDied(1, -9)

    monkeypatch.setattr(local, "Worker", dying)
    with pytest.raises(RuntimeError, match="died 3 times before it was ready"):
        LocalEngine(job("m", "t"), 1).run()


def test_the_command_line_from_a_manifest_to_files(job, make_list, tiny_folder, tmp_path, capsys):
    source = make_list(3)
    with source.open("a") as file:
        file.write('{"path": "audio/none.wav", "duration": 1.0}\n')
    out = str(tmp_path / "t")
    plan = ["tokenize", str(source), "-o", out, "--model", str(tiny_folder)]
    first = [*plan, "--frame-rate", "6.25", "--threshold", "0.9", "--codebooks", "2", "--processes", "1"]
    assert main([*first, "--unit-hours", "0.0003"]) == 1
    shown = capsys.readouterr()
    assert "no tokens of audio/none: FileNotFoundError: no such audio file" in shown.err
    assert "3 clips, 0.00 hours; bad clips: 1 (1 FileNotFoundError)" in shown.out
    assert main(["info", out]) == 0
    shown = capsys.readouterr().out
    assert "bad  audio/none: FileNotFoundError" in shown
    for word in (
        "6.25hz",
        "threshold-0.9",
        "kbps by lengths",
        "kbps by mask",
        "kbps by entropy",
        "durations",
        "acoustic 2",
    ):
        assert word in shown
    assert main(["info", out, "--extract", str(tmp_path / "files"), "--choice", "6.25hz", "--id", "audio/1"]) == 0
    (file,) = (tmp_path / "files").rglob("*.flxc")
    assert flexicodec.Tokens.load(file) == token_dataset.tokens_of(out, 6.25, "audio/1")
    assert main(["info", out, "--extract", str(tmp_path / "files"), "--choice", "6.25hz", "--id", "audio/9"]) == 2
    assert main(["merge", out, "-o", str(tmp_path / "merged")]) == 0
    assert main(["info", str(file), "--id", "x"]) == 2
    assert main([*plan, "--policy", "uniform"]) == 2


# ------------------------------------------------------------------------------------------------------ killed often


@pytest.mark.slow
def test_a_hundred_kills_of_workers_and_drivers(job, make_list, tokenized, tmp_path, tiny_folder):
    source = make_list(600)
    add_deadly_clip(source, 300)
    environment = dict(os.environ)
    command = [sys.executable, "-m", "flexicodec", "tokenize", str(source), "-o", str(tmp_path / "t")]
    command += ["--model", str(tiny_folder), "--frame-rate", "6.25", "--codebooks", "2", "--threshold", "0.9"]
    command += ["--unit-hours", str(1 / 3600), "--processes", "2"]
    random_ = random.Random(0)
    kills = 0
    driver = None
    while kills < KILLS:
        if driver is None or driver.poll() is not None:
            if driver is not None and driver.returncode in (0, 1):
                break
            driver = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(random_.uniform(0.0, 1.0))
        # Those who work on a unit, and now and then the driver, whose workers end after the unit they are at.
        victims = [int(path.name.split("-")[-2]) for path in (tmp_path / "t" / "state").glob("*.log")]
        if victims and random_.random() < 0.1:
            victims = [driver.pid]
        try:
            if victims:
                os.kill(random_.choice(victims), signal.SIGKILL)
                kills += 1
        except ProcessLookupError:  # it was dead already
            continue
    driver.wait()
    subprocess.run(command, env=environment, check=False, stdout=subprocess.DEVNULL)
    assert read_deaths(tmp_path / "t", 0).count == 0
    check_once(tmp_path / "t", 600, died=["audio/deadly"])
    dataset = TokenDataset.open(tmp_path / "t")
    undisturbed = {unit for unit in range(dataset.num_units) if dataset.report(unit)["attempts"] == 1}
    choices = [{"frame_rate": 6.25, "num_codebooks": 2}, {"threshold": 0.9, "num_codebooks": 2}]
    plain = tables(tokenized(source, tmp_path / "plain", choices).folder)
    for name, data in tables(tmp_path / "t").items():
        if int(name[-14:-8]) in undisturbed:
            assert data == plain[name]


@pytest.mark.slow
def test_two_jobs_on_one_folder_and_killed_workers(job, make_list, tokenized, tmp_path):
    source = make_list(40)
    engines = [LocalEngine(job(source, tmp_path / "t"), processes=1) for _ in range(2)]
    errors = []

    def run(engine):
        killing(engine, 3, 1, 3.0)
        try:
            engine.run()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    check_once(tmp_path / "t", 40)
    assert tables(tmp_path / "t") == tables(tokenized(source, tmp_path / "plain").folder)


def test_a_worker_says_what_it_is_asked(job, make_list, tmp_path):
    source = make_list(2)
    worker = Worker(job(source, tmp_path / "t"), plan=True)
    try:
        assert worker.ready["todo"] == list(range(worker.ready["units"]))
        assert worker.ask({"unit": 0, "wait": True})["done"]["bad"] == 0
        with pytest.raises(ValueError, match="unit 99 of"):
            worker.ask({"unit": 99, "wait": False})
    finally:
        worker.stop()
