"""Marks: what was under way at a death is suspected, what was alone at two is blamed, the living are left in peace."""

import json
import os
import socket
import subprocess
import sys

import pytest

from flexicodec.token_corpus import marks, units
from flexicodec.token_corpus.marks import Marks, read_deaths
from flexicodec.token_corpus.units import run_unit

HOST = socket.gethostname()
CRASHED = json.dumps(marks.CRASHED)


def write_log(folder, *lines, unit=0, host=HOST, pid=None, name="x", touched=None):
    """Leave the log of a process that is dead, or of another machine."""
    if pid is None:
        done = subprocess.Popen([sys.executable, "-c", ""])
        done.wait()
        pid = done.pid
    path = folder / marks.STATE / f"{unit:06d}.{host}-{pid}-{name}.log"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([json.dumps({"host": host, "pid": pid, "started": "1"}), *lines]))
    if touched is not None:
        os.utime(path, (touched, touched))
    return path


LOGS = {  # lines of the logs of the dead, suspects, killers
    "nothing begun": ([[]], set(), set()),
    "ended": ([['{"begin": [4]}', '{"end": [4]}', ""]], set(), set()),
    "alone": ([['{"begin": [4]}', '{"end": [4]}', '{"begin": [5]}']], {5}, set()),
    "a batch": ([['{"begin": [4, 5, 6]}', '{"end": [5]}']], {4, 6}, set()),
    "torn": ([['{"begin": [4]}', '{"end": [4']], {4}, set()),
    "alone twice, killed": ([['{"begin": [5]}'], ['{"begin": [5]}']], {5}, set()),
    "alone four times": ([['{"begin": [5]}']] * 4, set(), {5}),
    "crashed alone": ([['{"begin": [5]}', CRASHED]], {5}, set()),
    "crashed alone twice": ([['{"begin": [5]}', CRASHED], ['{"begin": [5]}', CRASHED]], set(), {5}),
    "crashed alone, and killed twice": ([['{"begin": [5]}', CRASHED], *[['{"begin": [5]}']] * 2], set(), {5}),
    "two alone": ([['{"begin": [5]}'], ['{"begin": [6]}']], {5, 6}, set()),
    "in a batch, then alone once": ([['{"begin": [5, 6]}'], ['{"begin": [5]}']], {5, 6}, set()),
    "in a batch, then alone": ([['{"begin": [5, 6]}', CRASHED], *[['{"begin": [5]}', CRASHED]] * 2], {6}, {5}),
}


@pytest.mark.parametrize("name", LOGS)
def test_suspects_and_killers(tmp_path, name):
    logs, suspects, killers = LOGS[name]
    for number, lines in enumerate(logs):
        write_log(tmp_path, *lines, name=str(number))
    write_log(tmp_path, '{"begin": [9]}', unit=1)
    deaths = read_deaths(tmp_path, 0)
    assert (deaths.count, deaths.suspects, deaths.killers) == (len(logs), suspects, killers)
    assert not deaths.is_busy


def test_the_living_are_not_judged(tmp_path):
    with Marks(tmp_path, 0) as own:
        own.begin([3])
        own.begin([4])
        own.end([3])
        deaths = read_deaths(tmp_path, 0)
        assert deaths.is_busy
        assert deaths.count == 0
        assert marks._under_way(own.path.read_text().split("\n")[1:]) == {4}
    assert not own.path.exists()
    write_log(tmp_path, '{"begin": [1]}', host="another")
    assert read_deaths(tmp_path, 0).is_busy
    write_log(tmp_path, '{"begin": [1]}', host="another", name="old", touched=1e9)
    assert read_deaths(tmp_path, 0).suspects == {1}
    write_log(tmp_path, '{"begin": [2]}', pid=os.getpid(), name="reused")  # of an earlier process of this number
    assert read_deaths(tmp_path, 0).suspects == {1, 2}


def test_an_error_is_no_death(tmp_path):
    own = Marks(tmp_path, 0)

    def interrupted():
        with own:
            own.begin([3])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not own.path.exists()


def test_suspects_go_last_and_alone_and_a_killer_is_left_out(plan, tiny, make_list, tmp_path, monkeypatch):
    dataset = plan(make_list(5), tmp_path / "t", unit_hours=1.0, batch_seconds=10.0)
    write_log(tmp_path / "t", '{"begin": [0, 1, 3]}', name="a")
    for name in "bc":
        path = write_log(tmp_path / "t", '{"begin": [3]}', name=name)
        marks.note_crash(tmp_path / "t", 0, int(path.name.split("-")[-2]))
    batches = []
    begin = Marks.begin
    monkeypatch.setattr(Marks, "begin", lambda self, places: batches.append(places) or begin(self, places))
    report = run_unit(tiny, dataset, 0)
    assert batches == [[2], [4], [2, 4], [0], [0], [1], [1]] or batches == [[2], [2], [4], [4], [0], [0], [1], [1]]
    assert report["bad"] == [["audio/3", units.DIED, report["bad"][0][2]]]
    assert report["attempts"] == 4
    assert report["apart"] == [0, 1]
    assert not list((tmp_path / "t" / "state").iterdir())
