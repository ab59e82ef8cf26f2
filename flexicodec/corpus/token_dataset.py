"""A folder of tokens: `dataset.json`, the reports of its units, and its tables as `Tokens`.

    dataset.json                  what the tokens are: codec, rates, precision, manifest; written once, first
    units.json                    for each unit: byte offset in the manifest, lines, seconds
    6.25hz/000017.parquet         a file for each unit and choice of rate (`token_tables.py`)
    units/000017.json             the unit's report, written last: a unit without one is not done

`tokenize` makes such folders (`flexicodec.token_corpus`); everything here only reads, and knows no model.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from flexicodec.corpus.token_tables import FORMAT_VERSION, TableHeader, open_table, read_table, table_tokens
from flexicodec.io_utils import describe_missing, replacing
from flexicodec.token_format import TokenFormat
from flexicodec.tokens import Tokens

DATASET_FILE = "dataset.json"
UNITS_FILE = "units.json"
REPORTS = "units"
# Fields of dataset.json that do not decide about codes: a model is told by its fingerprint, a manifest by its lines.
NOT_COMPARED = ("version", "package", "model", "manifest", "units")


@dataclass(frozen=True)
class Choice:
    """One way to make tokens, and the folder of its files."""

    name: str
    num_codebooks: int
    frame_rate: float | None = None  # tokens per second
    threshold: float | None = None
    policy: str | None = None  # how frame_rate is spent; None: the default

    @property
    def options(self) -> dict[str, Any]:
        """Return the keyword arguments of `Codec.encode`."""
        given = {"frame_rate": self.frame_rate, "threshold": self.threshold, "policy": self.policy}
        return {key: value for key, value in given.items() if value is not None} | {"num_codebooks": self.num_codebooks}


@dataclass(frozen=True, eq=False)
class TokenDataset:
    """A folder of tokens, as its `dataset.json` describes it.

    Attributes:
        folder: With `dataset.json`.
        record: Its content.
    """

    folder: Path
    record: dict[str, Any]

    @staticmethod
    def open(folder: str | Path) -> "TokenDataset":
        """Read `dataset.json`.

        Raises:
            FileNotFoundError: The folder holds no tokens.
            ValueError: `dataset.json` is damaged or of a later version.
        """
        path = Path(folder) / DATASET_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{describe_missing(path)}; is {folder} a folder that `flexicodec tokenize` made?")
        record = read_json(path)
        if record.get("version") != FORMAT_VERSION:
            raise ValueError(
                f"{path} is of format version {record.get('version')!r}, expected {FORMAT_VERSION}; was it written by "
                "a later flexicodec?"
            )
        return TokenDataset(Path(folder), record)

    @cached_property
    def format(self) -> TokenFormat:
        """What the codes mean, fingerprint included."""
        return TokenFormat(**self.record["format"])

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """The ways in which every clip was tokenised, one folder each."""
        return tuple(Choice(**each) for each in self.record["choices"])

    @cached_property
    def plan(self) -> str:
        """Hash of the settings, which every file carries; the manifest is not in it, because that may grow."""
        settings = {name: value for name, value in self.record.items() if name not in NOT_COMPARED}
        return hashlib.sha256(to_json(settings).encode()).hexdigest()[:16]

    @cached_property
    def num_units(self) -> int:
        """Units of the plan, done or not."""
        return int(self.record["units"]["count"])

    def choice(self, rate: float | str | Choice | None = None) -> Choice:
        """Find a choice by its frame rate or its folder's name; None where there is only one."""
        known = ", ".join(each.name for each in self.choices)
        if rate is None and len(self.choices) > 1:
            raise ValueError(f"{self.folder} has tokens of {known}; name one of them")
        for each in self.choices:
            by_rate = not isinstance(rate, str | Choice) and each.frame_rate == rate and each.policy is None
            if rate is None or rate in (each.name, each) or by_rate:
                return each
        raise ValueError(f"{self.folder} has no tokens of {rate!r}; expected one of {known}")

    def header(self, choice: Choice, unit: int | None = None) -> TableHeader:
        """Return the footer of the files of a choice."""
        made = asdict(choice) | {"precision": self.record["precision"]}
        del made["name"]
        return TableHeader(self.format, choice.num_codebooks, made, unit, self.plan, self.record["package"])

    def table_path(self, choice: Choice, unit: int) -> Path:
        """Name the file of a unit."""
        return self.folder / choice.name / f"{unit:06d}.parquet"

    def report_path(self, unit: int) -> Path:
        """Name the report of a unit."""
        return self.folder / REPORTS / f"{unit:06d}.json"

    def report(self, unit: int) -> dict[str, Any] | None:
        """Read the report of a unit; None where it is not done."""
        path = self.report_path(unit)
        return read_json(path) if path.is_file() else None

    def units_done(self) -> list[int]:
        """List the units with a report."""
        folder = self.folder / REPORTS
        found = [int(path.stem) for path in folder.glob("*.json")] if folder.is_dir() else []
        return sorted(unit for unit in found if unit < self.num_units)

    def units_to_read(self, partial: bool = False) -> list[int]:
        """List the units, or where `partial` those that are done; refuse a dataset with missing units otherwise."""
        units = self.units_done()
        if len(units) < self.num_units and not partial:
            raise ValueError(
                f"{self.folder}: {len(units)} of {self.num_units} units are done; run the same `flexicodec tokenize` "
                "again to go on, or read what is there with partial=True"
            )
        return units

    def tables(
        self, rate: float | str | Choice | None = None, columns: Sequence[str] | None = None, *, partial: bool = False
    ) -> Iterator[tuple[TableHeader, Any]]:
        """Yield header and `pyarrow.Table` of every unit, in the order of the manifest.

        Args:
            rate: Frame rate or name of a choice.
            columns: Names of the columns to read; None reads all.
            partial: Read what is there where units are missing.

        Raises:
            ValueError: Units are missing, or a file is damaged or belongs to another dataset.
        """
        choice = self.choice(rate)
        for unit in self.units_to_read(partial):
            path = self.table_path(choice, unit)
            header, table = read_table(path, columns)
            self.check_header(header, path, choice)
            self.check_files(unit, [choice])
            yield header, table

    def check_header(self, header: TableHeader, path: Path, choice: Choice) -> None:
        """Refuse a file of another codec or of other settings."""
        if header.format.fingerprint != self.format.fingerprint:
            raise ValueError(
                f"{path} was made by another model: fingerprint {header.format.fingerprint}, and that of "
                f"{self.folder / DATASET_FILE} is {self.format.fingerprint}; was it copied from another dataset?"
            )
        if header.format != self.format or header.plan != self.plan or header.num_codebooks != choice.num_codebooks:
            raise ValueError(
                f"{path} was made with other settings than those of {self.folder / DATASET_FILE}; was it copied from "
                "another dataset?"
            )

    def check_files(self, unit: int, choices: Sequence[Choice] | None = None, *, content: bool = True) -> None:
        """Compare the files of a unit, or those of some choices, with the sizes and hashes of its report.

        Raises:
            ValueError: A file is missing, cut off or, by its `content`, altered.
        """
        report = self.report(unit)
        assert report is not None, "a unit without a report is not done"
        for choice in self.choices if choices is None else choices:
            path = self.table_path(choice, unit)
            said = report["files"][choice.name]
            again = f"remove {self.report_path(unit)} and {path.name}, and tokenize makes them again"
            if not path.is_file():
                raise ValueError(f"{path} is missing, and the report of its unit says it was written; {again}")
            size = path.stat().st_size
            if size != said["bytes"]:
                raise ValueError(f"{path} has {size} bytes, its report says {said['bytes']}; was it cut off? {again}")
            found = file_hash(path) if content else said["sha256"]
            if found != said["sha256"]:
                raise ValueError(f"{path} was altered: its SHA-256 is {found}, in its report {said['sha256']}; {again}")


def tokens(
    folder: str | Path, rate: float | str | None = None, acoustic: int | None = None, *, partial: bool = False
) -> Iterator[Tokens]:
    """Yield the tokens of every clip of a folder, in the order of the manifest; `info["id"]` is the clip's id.

    Args:
        folder: Made by `flexicodec tokenize`.
        rate: Frame rate or name of a choice; None where there is only one.
        acoustic: Keep only so many codebooks.
        partial: Yield what is there where units are missing, which is an error otherwise.
    """
    dataset = TokenDataset.open(folder)
    choice = dataset.choice(rate)
    for header, table in dataset.tables(choice, partial=partial):
        for clip in table_tokens(table, header, dataset.table_path(choice, header.unit or 0)):
            yield clip if acoustic is None else clip.keep(acoustic)


def tokens_of(folder: str | Path, rate: float | str | None, id: str) -> Tokens:
    """Find one clip by its id: by the statistics of row groups, then by the ids, then its row group is read.

    Raises:
        ValueError: No clip of this id is there.
    """
    dataset = TokenDataset.open(folder)
    choice = dataset.choice(rate)
    for unit in dataset.units_done():
        path = dataset.table_path(choice, unit)
        with open_table(path) as file:
            for group in range(file.num_row_groups):
                limits = file.metadata.row_group(group).column(0).statistics
                if limits is not None and limits.has_min_max and not limits.min <= id <= limits.max:
                    continue
                ids = file.read_row_group(group, columns=["id"]).column("id").to_pylist()
                if id in ids:
                    header = TableHeader.from_metadata(file.schema_arrow.metadata, path)
                    dataset.check_header(header, path, choice)
                    row = file.read_row_group(group).slice(ids.index(id), 1)
                    return next(table_tokens(row, header, path))
    done = f"{len(dataset.units_done())} of {dataset.num_units} units are done"
    raise ValueError(f"{folder} has no clip {id!r} ({done}); was it left out as bad? `flexicodec info {folder}` says")


def write_dataset(folder: Path, record: Mapping[str, Any]) -> TokenDataset:
    """Write `dataset.json`; the folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / DATASET_FILE, record)
    return TokenDataset.open(folder)


# --------------------------------------------------------------------------------------------------------------- files


def to_json(value: Any) -> str:
    """Write JSON in a form that depends on the value only."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; a `ValueError` where it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); was it edited?") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}; expected a JSON object")
    return value


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file appears whole or not at all, also when the machine stops."""
    with replacing(path) as part:
        write_synced(part, to_json(value).encode() + b"\n")


def write_synced(path: Path, data: bytes) -> None:
    """Write bytes and wait until they are on the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
