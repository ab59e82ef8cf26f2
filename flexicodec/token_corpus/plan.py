"""The plan of a folder of tokens: which lines of the manifest are a unit, and what every clip is tokenised with.

The plan depends on manifest and settings only, and never changes; `extend` adds units at its end.
"""

import hashlib
import tempfile
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flexicodec.corpus.token_dataset import (
    NOT_COMPARED,
    UNITS_FILE,
    TokenDataset,
    file_hash,
    read_json,
    write_dataset,
    write_synced,
)
from flexicodec.io_utils import describe_missing, replacing
from flexicodec.token_corpus.lines import Lines, NotPlain, plan_lines
from flexicodec.token_corpus.listing import LISTED, UnitClip, is_plain, line_clip, list_source, unpack_manifest
from flexicodec.token_corpus.marks import Marks

UNIT_CRCS = "lines.crc32"  # of every line, little-endian


def make_plan(source: Path, folder: Path, settings: dict[str, Any], extend: bool = False) -> TokenDataset:
    """Make the plan of a folder of tokens, or go on with the one that is there.

    Args:
        source: A manifest, or another source of clips.
        folder: Of the tokens.
        settings: Fields of `dataset.json`; those with None were not given, and are taken from the plan that is there.
        extend: Add the lines by which the manifest grew.

    Raises:
        ValueError: Settings or manifest differ from those of the plan that is there, or the manifest is bad.
    """
    if not source.exists():
        raise FileNotFoundError(describe_missing(source))
    if not (folder / "dataset.json").exists():
        if extend:
            raise ValueError(f"{folder} holds no tokens yet, so there is nothing to extend; leave --extend out")
        return _new_plan(source, folder, settings)
    dataset = TokenDataset.open(folder)
    check_settings(dataset, settings)
    return _continued(dataset, source, extend)


def check_settings(dataset: TokenDataset, settings: dict[str, Any]) -> None:
    """Refuse settings that differ from those of `dataset.json`, by name."""
    for name, value in settings.items():
        there: Any = dataset.record.get(name)
        if value is None or name in NOT_COMPARED or value == there:
            continue
        if name == "format":  # the part that differs says more
            changed = {key: (value[key], there.get(key)) for key in value if value[key] != there.get(key)}
            if set(changed) == {"model"}:
                continue
        if name == "choices":
            by_name = [sorted(each, key=lambda choice: choice["name"]) for each in (value, there)]
            if by_name[0] == by_name[1]:
                continue
            value = [each["name"] + f" with {each['num_codebooks']} codebooks" for each in value]
            there = [each["name"] + f" with {each['num_codebooks']} codebooks" for each in there]
        raise ValueError(
            f"{name} is {value!r}, but the tokens in {dataset.folder} are made with {there!r} (dataset.json); write "
            "others to another folder"
        )


def _new_plan(source: Path, folder: Path, settings: dict[str, Any]) -> TokenDataset:
    folder.mkdir(parents=True, exist_ok=True)
    lines, manifest = _listed(source, folder, settings["unit_hours"] * 3600, settings["ids"])
    return _write_plan(folder, settings, manifest, lines, UNITS_FILE)


def _listed(
    source: Path, folder: Path, unit_seconds: float, ids: str, earlier: Lines | None = None
) -> tuple[Lines, dict[str, Any]]:
    """Return the units of a source, and what `dataset.json` says of it.

    The lines are those of the source itself, or of an unpacked copy, where it has a clip a line; else it is listed.
    """
    left_out: dict[str, int] = {}
    paths_from = source  # what the paths of the lines are relative to
    listed = folder / LISTED
    try:
        if is_plain(source):
            listed = source
        elif not unpack_manifest(source, folder):
            raise NotPlain
        lines = plan_lines(listed, unit_seconds, ids, earlier)
    except NotPlain:
        listed = folder / LISTED
        paths_from = listed
        left_out = list_source(source, folder)
        lines = plan_lines(listed, unit_seconds, ids, earlier)
    is_own = listed != source
    return lines, {
        "name": source.name,
        "path": None if is_own else source.resolve().as_posix(),
        "folder": paths_from.resolve().parent.as_posix(),
        "sha256": lines.sha256,
        "source_sha256": file_hash(source) if is_own and source.is_file() else None,
        "bytes": lines.size,
        "lines": len(lines.crcs),
        "clips": lines.clips,
        "left_out": left_out,
    }


def _write_plan(
    folder: Path, settings: dict[str, Any], manifest: dict[str, Any], lines: Lines, units_file: str
) -> TokenDataset:
    """Write units and CRCs, and then `dataset.json`, which makes them count."""
    units = lines.to_bytes()
    for name, data in ((units_file, units), (f"{units_file}.{UNIT_CRCS}", lines.crcs.tobytes())):
        with replacing(folder / name) as part:
            write_synced(part, data)
    record = {"version": 1, **settings, "manifest": manifest}
    record["units"] = {
        "file": units_file,
        "count": len(lines.offsets),
        "sha256": hashlib.sha256(units).hexdigest(),
    }
    return write_dataset(folder, record)


def _continued(dataset: TokenDataset, source: Path, extend: bool) -> TokenDataset:
    """Check that the manifest is the one of the plan, or extend the plan."""
    record = dataset.record["manifest"]
    read_units(dataset)  # their hash
    listed = dataset.folder / LISTED
    if record["path"] is not None:
        found = file_hash(source)
        if found == record["sha256"] and not extend:
            return dataset
        changed = _first_change(dataset, source)
    elif source.is_file() and file_hash(source) == record["source_sha256"] or source.is_dir() and not extend:
        if file_hash(listed) != record["sha256"]:
            raise ValueError(f"{listed} was altered: its SHA-256 is not that of dataset.json; write to another folder")
        return dataset
    else:
        with tempfile.TemporaryDirectory(dir=dataset.folder) as again:
            if not unpack_manifest(source, Path(again)):
                list_source(source, Path(again))
            changed = _first_change(dataset, Path(again) / LISTED)
    if changed:
        raise ValueError(
            f"{source} is not the manifest of the tokens in {dataset.folder}: line {changed} differs; only lines added "
            "at the end can be tokenised here (--extend), so write the tokens of others to another folder"
        )
    if not extend:
        raise ValueError(
            f"{source} has grown since the tokens in {dataset.folder} were planned; --extend adds its lines"
        )
    return _extended(dataset, source)


def _extended(dataset: TokenDataset, source: Path) -> TokenDataset:
    before = read_units(dataset)
    ids = dataset.record["ids"]
    lines, manifest = _listed(source, dataset.folder, dataset.record["unit_hours"] * 3600, ids, before)
    kept = len(before.offsets)
    # An old last line without a line feed is as long as it was; what follows begins a byte later.
    assert lines.offsets[:kept] == before.offsets, "the lines before are the same"
    settings = {name: value for name, value in dataset.record.items() if name not in ("version", "manifest", "units")}
    number = int(dataset.record["units"]["count"])
    name = f"units-{number}.json" if len(lines.offsets) > number else dataset.record["units"]["file"]
    return _write_plan(dataset.folder, settings, manifest, lines, name)


def _first_change(dataset: TokenDataset, manifest: Path) -> int | None:
    """Return the number of the first line that is not that of the plan, None if lines were only added."""
    stored = array("I")
    stored.frombytes((dataset.folder / f"{dataset.record['units']['file']}.{UNIT_CRCS}").read_bytes())
    number = 0
    with manifest.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number > len(stored):
                return None
            if zlib.crc32(line.rstrip(b"\r\n")) != stored[number - 1]:
                return number
    return None if number >= len(stored) else number + 1


def read_units(dataset: TokenDataset) -> Lines:
    """Read the units of a plan."""
    said = dataset.record["units"]
    path = dataset.folder / said["file"]
    if not path.is_file():
        raise FileNotFoundError(describe_missing(path))
    if file_hash(path) != said["sha256"]:
        raise ValueError(f"{path} was altered: its SHA-256 is not that of dataset.json; copy it again")
    content = read_json(path)
    return Lines(content["offsets"], content["lines"], content["seconds"], size=dataset.record["manifest"]["bytes"])


def unit_clips(dataset: TokenDataset, unit: int, marks: Marks | None = None) -> Iterator[UnitClip]:
    """Read the lines of a unit; paths are relative to where the manifest was when it was planned."""
    units = read_units(dataset)
    if not 0 <= unit < len(units.offsets):
        raise ValueError(f"unit {unit} of {len(units.offsets)}, which count from 0")
    record = dataset.record["manifest"]
    path = dataset.folder / LISTED if record["path"] is None else Path(record["path"])
    if not path.is_file():
        raise FileNotFoundError(describe_missing(path))
    crc = array("I")
    first = sum(units.lines[:unit])
    with (dataset.folder / f"{dataset.record['units']['file']}.{UNIT_CRCS}").open("rb") as file:
        file.seek(first * crc.itemsize)
        crc.frombytes(file.read(units.lines[unit] * crc.itemsize))
    place = 0
    with path.open("rb") as file:
        file.seek(units.offsets[unit])
        for i in range(units.lines[unit]):
            text = file.readline().rstrip(b"\r\n")
            if zlib.crc32(text) != crc[i]:
                raise ValueError(f"{path}: line {first + i + 1} has changed since the tokens were planned")
            if first + i == 0:
                text = text.removeprefix(b"\xef\xbb\xbf")
            if text.strip():
                yield line_clip(text, place, Path(record["folder"]), marks)
                place += 1
