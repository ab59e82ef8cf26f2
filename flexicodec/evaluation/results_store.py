"""Results of an evaluation on disk: rows, what was measured, and the tokens of each clip.

A row is one clip through one system at one setting. `rows.jsonl` grows by whole lines that are synced to disk, so a
killed run continues where it stopped. `run.json` beside it says what was measured and how; a run that measures
otherwise is refused. `tokens/` has the tokens of each clip, if they were kept.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeAlias
from urllib.parse import quote

from flexicodec.evaluation.metrics import bitrate
from flexicodec.io_utils import replacing
from flexicodec.statistics import speaker_clusters
from flexicodec.tokens import Tokens

Row: TypeAlias = dict[str, Any]
Key: TypeAlias = tuple[str, str, str]  # system, setting, id

ROWS_NAME = "rows.jsonl"
RUN_NAME = "run.json"
PARQUET_NAME = "rows.parquet"
LOCK_NAME = ".lock"
TOKENS_FOLDER = "tokens"
GROWING = ("systems", "settings", "clips", "seconds", "clip_digests")  # of run.json, what later runs may add to
MAX_NAME_BYTES = 200  # file systems allow 255; a file has a suffix, and two while it is written


def row_key(row: Row) -> Key:
    """Return system, setting and id of a row."""
    return row["system"], row["setting"], row["id"]


def coded_seconds(row: Row) -> float:
    """Return the seconds that a row's rates are over: of its tokens, or of the manifest where those are unknown."""
    return float(row.get("coded_seconds") or row["seconds"])


def read_rows(folder: str | Path) -> list[Row]:
    """Read the rows of a results folder; an unfinished last line of a killed run is skipped."""
    path = Path(folder) / ROWS_NAME
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            row_key(row)
        except (ValueError, KeyError, TypeError) as error:
            expected = "expected a JSON object with system, setting and id"
            raise ValueError(f"{path}:{number}: {expected} ({error!r})") from error
        rows.append(row)
    return rows


def to_json(row: Mapping[str, Any]) -> str:
    """Write a row as a line of JSON; undefined values (NaN) become null."""
    return json.dumps(_without_nan(row), ensure_ascii=False, allow_nan=False) + "\n"


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _without_nan(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return value


class ResultsWriter:
    """A results folder opened for one run at a time.

    Rows that contain an error, or for which `is_done` is false, are dropped when it is opened, so their clips are tried
    again. `run` says what is measured and how, see `run.describe_run`: its `GROWING` parts may have grown since the
    rows that are there, everything else has to be as it was.
    """

    def __init__(self, folder: str | Path, run: Mapping[str, Any], is_done: Callable[[Row], bool] = lambda row: True):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / LOCK_NAME).open("a")
        try:
            _lock(self._lock, self.folder)
            self.run = self._continue_run(json.loads(to_json(run)))
            rows = read_rows(self.folder) if (self.folder / ROWS_NAME).exists() else []
        except BaseException:
            self._lock.close()
            raise
        # Rows to be measured again leave the file at once.
        self.rows = [row for row in rows if "error" not in row and is_done(row)]
        self.done = {row_key(row) for row in self.rows}
        self._file = self._rewrite()

    def append(self, rows: Sequence[Row]) -> None:
        """Add rows; they are on disk when this returns."""
        self._file.write("".join(map(to_json, rows)))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.rows += rows
        self.done.update(map(row_key, rows))

    def sort(self, ids: Iterable[str]) -> None:
        """Order the rows by system, setting and clip, so the file does not depend on which process finished first."""
        systems = list(self.run["settings"])
        clip_order = {clip: index for index, clip in enumerate(ids)}

        def order(row: Row) -> tuple[int, int, int]:
            system, setting, clip = row_key(row)
            return systems.index(system), self.run["settings"][system].index(setting), clip_order[clip]

        self.rows.sort(key=order)
        self._file.close()
        self._file = self._rewrite()

    def _rewrite(self) -> IO[str]:
        """Replace the file by all rows in one step, and open it to append."""
        path = self.folder / ROWS_NAME
        with replacing(path) as part:
            part.write_text("".join(map(to_json, self.rows)), encoding="utf-8")
        return path.open("a", encoding="utf-8")

    def _continue_run(self, run: dict[str, Any]) -> dict[str, Any]:
        """Check a run against the one that began the folder, add its systems and settings, and write run.json."""
        path = self.folder / RUN_NAME
        if path.is_file():
            old = json.loads(path.read_text(encoding="utf-8"))
            if differences := _differences(old, run):
                raise ValueError(
                    f"{self.folder} holds results that were measured otherwise: {'; '.join(differences)} differ; give "
                    "another output folder, or the same options to go on"
                )
            settings: dict[str, list[str]] = dict(old["settings"])
            for system, labels in run["settings"].items():
                settings[system] = list(dict.fromkeys([*settings.get(system, []), *labels]))
            run = {**run, "systems": old["systems"] | run["systems"], "settings": settings}
        with replacing(path) as part:
            part.write_text(json.dumps(run, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return run

    def __enter__(self) -> "ResultsWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        self._lock.close()


def _lock(file: IO[str], folder: Path) -> None:
    """Keep a second run out; the lock ends with the process."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise ValueError(f"another run is writing to {folder}; wait for it, or give another output folder") from error


def _differences(old: Mapping[str, Any], run: Mapping[str, Any]) -> list[str]:
    """List what a run measures otherwise than the rows of an earlier one were measured."""
    differences = []
    for name in dict.fromkeys([*old, *run]):
        if name not in GROWING and old.get(name) != run.get(name):
            differences.append(f"{name} ({_shortened(old.get(name))}, now {_shortened(run.get(name))})")
    for system, identity in run["systems"].items():
        if system in old["systems"] and old["systems"][system] != identity:
            differences.append(f"the weights of {system}")
    # Clips may be added, but not be missing or have another text or length.
    old_clips = old.get("clip_digests", {})
    clips = run.get("clip_digests", {})
    missing = [clip for clip in old_clips if clip not in clips]
    changed = [clip for clip in old_clips if clip in clips and clips[clip] != old_clips[clip]]
    for reason, names in (("missing now", missing), ("others now, by their text or length", changed)):
        if names:
            differences.append(f"the clips ({len(names)} {reason}, {names[0]!r} the first)")
    return differences


def _shortened(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def write_parquet(path: str | Path, rows: Iterable[Row]) -> None:
    """Write rows as a Parquet table (pyarrow) with a column for every value; nested ones are named outer.inner."""
    import pyarrow
    import pyarrow.parquet

    plain = [_without_nan(row) for row in rows]
    names = dict.fromkeys(name for row in plain for name in row)
    table = pyarrow.table({name: [row.get(name) for row in plain] for name in names})
    while any(pyarrow.types.is_struct(column.type) for column in table.schema):
        table = table.flatten()
    with replacing(path) as part:
        pyarrow.parquet.write_table(table, part)


# -------------------------------------------------------------------------------------------------------- kept tokens


def token_path(folder: Path, system: str, setting: str, clip: str) -> Path:
    """Return where the tokens of a clip are kept: names percent-quoted, and shortened to what file systems allow."""
    system_folder = folder / TOKENS_FOLDER / _file_name(quote(system, safe=" "))
    return system_folder / _file_name(quote(setting, safe=" ,")) / f"{_file_name(quote(clip, safe=''))}.flxc"


def _file_name(name: str) -> str:
    """Cut a quoted name (ASCII) to `MAX_NAME_BYTES`, with a digest of the whole at its end."""
    if len(name) <= MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    start = name[: MAX_NAME_BYTES - 17].rsplit("%", 1)[0]  # cut before a quoted character, not within it
    return f"{start}-{digest}"


def add_entropy_rates(folder: str | Path, rows: Sequence[Row], run: Mapping[str, Any]) -> tuple[list[Row], list[str]]:
    """Add `entropy_kbps` to the rows of every system and setting whose tokens were all kept.

    The model of an entropy coder is fitted to other speakers, or to other clips where there are fewer than
    `bitrate.FOLDS` of them: fitted to the same clips it would give too low a rate (see `bitrate.cross_validated_bits`).

    Returns:
        All rows in their order, and remarks: why some settings have no such rate (tokens are missing, or there are too
        few clips), and tokens that could not be written. Where no tokens were kept at all there are none.
    """
    folder = Path(folder)
    if not (folder / TOKENS_FOLDER).is_dir():
        return list(rows), []
    groups: dict[tuple[str, str], list[int]] = {}
    for index, row in enumerate(rows):
        if "tokens" in row:
            groups.setdefault((row["system"], row["setting"]), []).append(index)
    new_rows = list(rows)
    left_out: dict[str, list[str]] = {}
    for (system, setting), indices in groups.items():
        paths = [token_path(folder, *row_key(rows[index])) for index in indices]
        missing = sum(not path.is_file() for path in paths)
        # Count bits under models of other speakers, or of other clips.
        if not missing and len(paths) >= bitrate.FOLDS:
            speakers = speaker_clusters([rows[i].get("speaker") for i in indices], [rows[i]["id"] for i in indices])
            if speakers is not None and len(set(speakers)) < bitrate.FOLDS:
                speakers = None
            clip_bits = bitrate.cross_validated_bits(
                map(Tokens.load, paths), run["systems"][system].get("levels"), speakers
            )
            for index, bits in zip(indices, clip_bits, strict=True):
                kbps = sum(bits.values()) / coded_seconds(rows[index]) / 1000
                new_rows[index] = {**rows[index], "entropy_kbps": kbps}
            continue
        # Or say why not, once for all settings with the same reason.
        if missing:
            command = "the same command with --tokens makes them"
            reason = f"the tokens of {missing} of {len(paths)} clips were not kept ({command})"
        else:
            reason = f"there are {len(paths)} clips and its model takes {bitrate.FOLDS} or more"
        left_out.setdefault(reason, []).append(f"{system}, {setting}" if setting else system)
    remarks = [f"No entropy-coded rate, because {reason}: {'; '.join(names)}." for reason, names in left_out.items()]
    unwritten: dict[str, list[str]] = {}
    for row in rows:
        if "tokens_error" in row:
            unwritten.setdefault(row["tokens_error"], []).append(row["id"])
    for reason, ids in unwritten.items():
        unit = "row" if len(ids) == 1 else "rows"
        remarks.append(f"Tokens of {len(ids)} {unit} could not be written ({ids[0]}): {reason}.")
    return new_rows, remarks
