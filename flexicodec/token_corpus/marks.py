"""Which clips of a unit are under way, so that a clip that kills its process is found by those who come after.

    state/000017.host-4711-9f3c.log      {"host": "host", "pid": 4711, "started": "8812"}
                                         {"begin": [4]}            before a clip is read
                                         {"end": [4]}
                                         {"begin": [4, 5, 6]}      before a batch is encoded

A log whose writer is dead tells of a death, and what began in it and did not end are its suspects: they go alone, last.
A clip that was alone at two crashes is left out. So is one that was alone at four deaths whose cause is not known to be
a crash: the memory ran out, or somebody ended the process, which hits any clip. (With two, 100 random `kill -9` are
expected to cost some innocent clips: a suspect is under way for some hundredths of the time between two kills.)
A log is removed by its writer, whatever error it meets.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

STATE = "state"
CRASHED = {"crashed": True}  # the line by which an engine says that the process was not killed from outside
DEATH_WEIGHTS = {True: 2, False: 1}  # of a crash, and of a death of another or unknown cause
MOST_DEATHS = 4  # the sum of these of a clip that was alone, from which on it is left out
TOUCHED_SECONDS = 60.0  # how often a writer shows that it lives
DEAD_SECONDS = 600.0  # after which a writer on another machine, or in another container, is dead


@dataclass(frozen=True)
class Deaths:
    """What the logs of a unit tell.

    Attributes:
        count: Deaths of processes in this unit.
        suspects: Places of clips that were under way at a death.
        killers: Places of clips that were alone at so many deaths that they are the cause.
        is_busy: Whether another process that may be alive works on the unit.
        logs: Of the dead.
    """

    count: int = 0
    suspects: frozenset[int] = frozenset()
    killers: frozenset[int] = frozenset()
    is_busy: bool = False
    logs: tuple[Path, ...] = field(default=(), repr=False)


def read_deaths(folder: Path, unit: int) -> Deaths:
    """Read all logs of a unit in a folder of tokens."""
    suspects: set[int] = set()
    alone: Counter[int] = Counter()
    dead = []
    is_busy = False
    for path in sorted((folder / STATE).glob(f"{unit:06d}.*.log")):
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
            touched = path.stat().st_mtime
        except FileNotFoundError:  # its writer is done
            continue
        if _may_be_alive(lines[0], touched):
            is_busy = True
            continue
        dead.append(path)
        under_way = _under_way(lines[1:])
        suspects |= under_way
        if len(under_way) == 1:
            alone[under_way.pop()] += DEATH_WEIGHTS[json.dumps(CRASHED) in lines]
    killers = {place for place, weight in alone.items() if weight >= MOST_DEATHS}
    return Deaths(len(dead), frozenset(suspects - killers), frozenset(killers), is_busy, tuple(dead))


def _under_way(lines: Sequence[str]) -> set[int]:
    """Return the clips that began and did not end; the last line may be torn."""
    found: set[int] = set()
    for line in lines:
        try:
            mark = json.loads(line)
        except ValueError:
            continue
        found.update(mark.get("begin", ()))
        found.difference_update(mark.get("end", ()))
    return found


def _may_be_alive(first_line: str, touched: float) -> bool:
    try:
        writer = json.loads(first_line)
    except ValueError:  # killed while it wrote its first line, or about to write it
        writer = {}
    if writer.get("host") == socket.gethostname():
        return _start_of(int(writer["pid"])) == writer.get("started")
    return time.time() - touched < DEAD_SECONDS


def _start_of(pid: int) -> str | None:
    """Return when a process started, which tells it from a later one of the same number; None where it is gone."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:  # another user's
        pass
    try:
        # 4711 (name) S 1 ...: the state, and 19 fields later the start in clock ticks
        state, *others = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # no Linux
        return ""
    return None if state in "ZX" else others[18]


class Marks:
    """The log of one process in one unit; a context manager."""

    def __init__(self, folder: Path, unit: int):
        self.folder = folder / STATE
        host = socket.gethostname()
        self.path = self.folder / f"{unit:06d}.{host}-{os.getpid()}-{uuid.uuid4().hex[:8]}.log"
        self._writer = {"host": host, "pid": os.getpid(), "started": _start_of(os.getpid())}
        self._file = -1
        self._done = threading.Event()

    def __enter__(self) -> "Marks":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self._write(self._writer)
        threading.Thread(target=self._touch, name="flexicodec-marks", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        os.close(self._file)
        self.path.unlink(missing_ok=True)

    def begin(self, places: Sequence[int]) -> None:
        """Note, on the disk, that work on clips begins."""
        self._write({"begin": list(places)})
        os.fsync(self._file)

    def end(self, places: Sequence[int]) -> None:
        """Note that it is done."""
        self._write({"end": list(places)})

    def _write(self, mark: object) -> None:
        # One write a line: threads may interleave lines, but not their parts.
        os.write(self._file, json.dumps(mark).encode() + b"\n")

    def _touch(self) -> None:
        while not self._done.wait(TOUCHED_SECONDS):
            try:
                os.utime(self.path)
            except FileNotFoundError:
                return


def note_crash(folder: Path, unit: int, pid: int) -> None:
    """Note in the log of a dead process of this machine that it crashed by itself."""
    for path in (folder / STATE).glob(f"{unit:06d}.{socket.gethostname()}-{pid}-*.log"):
        with path.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(CRASHED) + "\n")


def clean(deaths: Deaths) -> None:
    """Remove the logs of the dead of a unit that is done."""
    for path in deaths.logs:
        path.unlink(missing_ok=True)
