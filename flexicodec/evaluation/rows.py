"""The rows of an evaluation on disk: one for each clip, system and setting, appended as they come and never lost.

`rows.jsonl` grows by whole lines that are synced to disk, so a killed run goes on where it stopped. `run.json` beside
it says what was measured how; rows that were measured otherwise are refused company.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeAlias

from flexicodec.io_utils import replacing

Row: TypeAlias = dict[str, Any]
Key: TypeAlias = tuple[str, str, str]  # system, setting, id

ROWS_NAME, RUN_NAME, PARQUET_NAME, LOCK_NAME = "rows.jsonl", "run.json", "rows.parquet", ".lock"
GROWING = ("systems", "settings", "clips", "seconds", "clip_digests")


def key(row: Row) -> Key:
    """What a row is about."""
    return row["system"], row["setting"], row["id"]


def read_rows(folder: str | Path) -> list[Row]:
    """Read the rows of a results folder; a last line that a killed run left unfinished is passed over.

    Raises:
        FileNotFoundError: There are none.
        ValueError: A line within the file is no row.
    """
    path = Path(folder) / ROWS_NAME
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    rows = []
    for number, line in enumerate(lines, start=1):
        if number == len(lines) and not line.endswith("\n"):
            break
        try:
            row = json.loads(line)
            key(row)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}:{number}: expected a JSON object with system, setting and id ({error!r})"
            ) from error
        rows.append(row)
    return rows


def as_json(row: Mapping[str, Any]) -> str:
    """Write a row as a line; what is not defined, NaN, becomes null."""
    return json.dumps(_plain(row), ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


class Ledger:
    """A results folder that is being written to, by one run at a time.

    Rows that hold an error, or are not done, are forgotten when it is opened, so that their clips are tried again.

    Args:
        folder: Made if missing.
        run: What is measured and how. `systems` (identities by name), `settings` (labels by name) and `clip_digests`
            (by id, with their totals `clips` and `seconds`) may grow; all else has to be as it was.
        is_done: Tells whether a row without an error can stay; all can by default.

    Raises:
        ValueError: The folder holds rows that were measured otherwise, or another run is writing there.
    """

    def __init__(self, folder: str | Path, run: Mapping[str, Any], is_done: Callable[[Row], bool] = lambda row: True):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / LOCK_NAME).open("a")
        try:
            _lock(self._lock, self.folder)
            self.run = self._agree(json.loads(as_json(run)))
            held = read_rows(self.folder) if (self.folder / ROWS_NAME).exists() else []
        except BaseException:
            self._lock.close()
            raise
        self.rows = [row for row in held if "error" not in row and is_done(row)]
        self.done = {key(row) for row in self.rows}
        self._file = self._rewrite()

    def append(self, rows: Sequence[Row]) -> None:
        """Add rows; they are on disk when this returns."""
        self._file.write("".join(map(as_json, rows)))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.rows += rows
        self.done |= {key(row) for row in rows}

    def sort(self, ids: Iterable[str]) -> None:
        """Order the rows by system, setting and clip, so that the file does not depend on who finished first."""
        settings = {name: {label: i for i, label in enumerate(labels)} for name, labels in self.run["settings"].items()}
        systems = {name: i for i, name in enumerate(settings)}
        clips = {each: i for i, each in enumerate(ids)}
        self.rows.sort(
            key=lambda row: (systems[row["system"]], settings[row["system"]][row["setting"]], clips[row["id"]])
        )
        self._file.close()
        self._file = self._rewrite()

    def _rewrite(self) -> IO[str]:
        """Write all rows anew, at once or not at all, and open the file to go on."""
        path = self.folder / ROWS_NAME
        with replacing(path) as part:
            part.write_text("".join(map(as_json, self.rows)), encoding="utf-8")
        return path.open("a", encoding="utf-8")

    def _agree(self, run: dict[str, Any]) -> dict[str, Any]:
        """Hold a run against the one that began the folder, and note the systems and settings it adds."""
        path = self.folder / RUN_NAME
        if path.is_file():
            held = json.loads(path.read_text(encoding="utf-8"))
            theirs, ours = held["systems"], run["systems"]
            differing = [
                f"{name} ({_short(held.get(name))}, now {_short(run.get(name))})"
                for name in dict.fromkeys([*held, *run])
                if name not in GROWING and held.get(name) != run.get(name)
            ]
            differing += [f"the weights of {name}" for name in ours if name in theirs and ours[name] != theirs[name]]
            differing += _differing_clips(held.get("clip_digests", {}), run.get("clip_digests", {}))
            if differing:
                raise ValueError(
                    f"{self.folder} holds results that were measured otherwise: {'; '.join(differing)} differ; give "
                    "another output folder, or the same options to go on"
                )
            settings = {
                name: list(dict.fromkeys([*held["settings"].get(name, []), *run["settings"].get(name, [])]))
                for name in dict.fromkeys([*held["settings"], *run["settings"]])
            }
            run = {**run, "systems": {**theirs, **ours}, "settings": settings}
        with replacing(path) as part:
            part.write_text(json.dumps(run, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return run

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._lock.close()


def write_parquet(path: str | Path, rows: Iterable[Row]) -> None:
    """Write rows as a Parquet table, a column for every value; those within others are named outer.inner.

    Raises:
        ImportError: pyarrow is not installed.
    """
    import pyarrow
    import pyarrow.parquet

    flat = [dict(_flat(json.loads(as_json(row)))) for row in rows]
    names = dict.fromkeys(name for row in flat for name in row)
    table = pyarrow.table({name: [row.get(name) for row in flat] for name in names})
    with replacing(path) as part:
        pyarrow.parquet.write_table(table, part)


def _flat(row: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _lock(file: IO[str], folder: Path) -> None:
    """Keep a second run out; the lock goes when the process does."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise ValueError(f"another run is writing to {folder}; wait for it, or give another output folder") from error


def _differing_clips(held: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Say which clips of an earlier run are missing or are others now; more of them may be added."""
    missing = [name for name in held if name not in now]
    others = [name for name in held if name in now and now[name] != held[name]]
    told = (("missing now", missing), ("others now, by their text or length", others))
    return [f"the clips ({len(names)} {what}, {names[0]!r} the first)" for what, names in told if names]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
