"""Other files of a folder of tokens: its tables joined to large ones for upload, and a `.flxc` file a clip."""

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flexicodec.corpus.token_dataset import Choice, TokenDataset
from flexicodec.corpus.token_tables import ROW_GROUP_SIZE, parquet, read_table, table_tokens, writer_options
from flexicodec.io_utils import replacing

MEGABYTE = 1_000_000


def merge_files(folder: str | Path, output: str | Path, megabytes: float = 512.0) -> Iterator[Path]:
    """Join the tables of finished units, in order, and yield the path of each file, `000000-000127.parquet`.

    Args:
        folder: Of tokens, all units done; every file is compared with its report first.
        output: A new folder; each choice has a folder in it.
        megabytes: Size at which a file is full.
    """
    dataset = TokenDataset.open(folder)
    if not megabytes > 0:
        raise ValueError(f"megabytes is {megabytes}; expected the size of a file, above 0")
    units = dataset.units_to_read()
    for unit in units:
        dataset.check_files(unit)
    for choice in dataset.choices:
        target = Path(output) / choice.name
        if target.exists():
            raise ValueError(f"{target} exists; merge writes to a new folder")
        target.mkdir(parents=True)
        group: list[int] = []
        size = 0
        for unit in units:
            group.append(unit)
            size += dataset.table_path(choice, unit).stat().st_size
            if size >= megabytes * MEGABYTE or unit == dataset.num_units - 1:
                yield _join(dataset, choice, group, target)
                group = []
                size = 0


def _join(dataset: TokenDataset, choice: Choice, units: list[int], folder: Path) -> Path:
    import pyarrow

    path = folder / f"{units[0]:06d}-{units[-1]:06d}.parquet"
    header, first = read_table(dataset.table_path(choice, units[0]))
    schema = first.schema.with_metadata(replace(header, unit=None).to_metadata())
    with replacing(path) as part:
        with parquet().ParquetWriter(part, schema, **writer_options(schema.names)) as writer:
            # Row groups as large as those of a large unit: each has dictionaries of its own.
            waiting: list[Any] = []
            for unit in units:
                header, table = read_table(dataset.table_path(choice, unit))
                dataset.check_header(header, dataset.table_path(choice, unit), choice)
                waiting.append(table.replace_schema_metadata(schema.metadata))
                if sum(map(len, waiting)) >= ROW_GROUP_SIZE or unit == units[-1]:
                    writer.write_table(pyarrow.concat_tables(waiting), row_group_size=ROW_GROUP_SIZE)
                    waiting = []
    return path


def extract(
    folder: str | Path, output: str | Path, rate: float | str | None = None, ids: Collection[str] | None = None
) -> int:
    """Write clips of one choice as `.flxc` files named by their ids; return how many.

    Args:
        folder: Of tokens; units that are not done yet are left out.
        output: Folder of the files; slashes in ids are folders below it.
        rate: Frame rate or name of the choice.
        ids: Of the clips wanted; None writes all.

    Raises:
        ValueError: An id that no clip has.
    """
    dataset = TokenDataset.open(folder)
    choice = dataset.choice(rate)
    missing = None if ids is None else set(ids)
    written = 0
    for header, table in dataset.tables(choice, partial=True):
        if missing is not None:
            names = table.column("id").to_pylist()
            rows = [row for row, name in enumerate(names) if name in missing]
            missing -= {names[row] for row in rows}
            if not rows:
                continue
            table = table.take(rows)
        for clip in table_tokens(table, header, dataset.table_path(choice, header.unit or 0)):
            path = Path(output) / clip_file(clip.info["id"])
            path.parent.mkdir(parents=True, exist_ok=True)
            clip.save(path)
            written += 1
    if missing:
        shown = ", ".join(sorted(missing)[:3])
        raise ValueError(f"{len(missing)} ids are not in {folder} ({shown}); `info` lists bad clips and missing units")
    return written


def clip_file(name: str) -> str:
    """Name the file of a clip: its id, with slashes as folders; no two ids share a file, and none leaves the output."""
    parts = []
    for part in name.split("/"):
        quoted = quote(part, safe=" +,@=()'")
        if not quoted.strip("."):  # empty, as before the first slash of a path, or "."  or ".."
            quoted = quoted.replace(".", "%2E") or "%2F"
        parts.append(quoted)
    return "/".join(parts) + ".flxc"
