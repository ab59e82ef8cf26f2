"""Tokens that an evaluation keeps, and what an entropy coder would make of them.

An entropy coder needs a model, and a model of the clips themselves would flatter them; so that of other speakers is
used, where there are enough of them, or of other clips (see `rate.held_out_bits`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flexicodec.evaluation import metrics, rate
from flexicodec.evaluation.rows import Row
from flexicodec.statistics import clusters
from flexicodec.tokens import Tokens

TOKENS_FOLDER = "tokens"
LONGEST_NAME = 200  # bytes; file systems take 255, and a file has a suffix, while it is written two


def token_path(folder: Path, system: str, setting: str, clip: str) -> Path:
    """Where the tokens of a clip are kept: names are percent-quoted, and shortened where no file system takes them."""
    names = quote(system, safe=" "), quote(setting, safe=" ,"), quote(clip, safe="")
    return folder.joinpath(TOKENS_FOLDER, *map(_short, names[:2]), f"{_short(names[2])}.flxc")


def _short(name: str) -> str:
    """Cut a quoted name (ASCII) to `LONGEST_NAME`, with a digest of the whole at its end."""
    if len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name[: LONGEST_NAME - 17].rsplit('%', 1)[0]}-{digest}"


def with_entropy(folder: str | Path, rows: Sequence[Row], run: Mapping[str, Any]) -> tuple[list[Row], list[str]]:
    """Add `entropy_kbps` to the rows of every system and setting whose tokens were all kept.

    Args:
        folder: The results.
        rows: All of them.
        run: What `run.json` holds; a system's `levels` let semantic codes be coded digit by digit.

    Returns:
        The rows in their order, and why some settings have no such rate: not all tokens are there, or fewer clips than
        an entropy coder's model needs. Where no tokens were kept at all, none were wanted, and nothing is said.
    """
    folder = Path(folder)
    if not (folder / TOKENS_FOLDER).is_dir():
        return list(rows), []
    found: dict[int, Row] = {}
    left_out: dict[str, list[str]] = {}
    groups: dict[tuple[str, str], list[int]] = {}
    for index, row in enumerate(rows):
        if "tokens" in row:
            groups.setdefault((row["system"], row["setting"]), []).append(index)
    for (system, setting), indices in groups.items():
        paths = [token_path(folder, system, setting, rows[index]["id"]) for index in indices]
        if reason := _reason(paths):
            left_out.setdefault(reason, []).append(f"{system}, {setting}" if setting else system)
            continue
        speakers = clusters([rows[index].get("speaker") for index in indices], [rows[index]["id"] for index in indices])
        groups_of = speakers if speakers and len(set(speakers)) >= rate.FOLDS else None
        bits = rate.held_out_bits(map(Tokens.load, paths), run["systems"][system].get("levels"), groups_of)
        for index, its in zip(indices, bits, strict=True):
            kbps = sum(its.values()) / metrics.coded_seconds(rows[index]) / 1000
            found[index] = {**rows[index], "entropy_kbps": kbps}
    remarks = [f"No entropy-coded rate, because {reason}: {'; '.join(names)}." for reason, names in left_out.items()]
    unwritten = {row["tokens_error"]: row["id"] for row in reversed(rows) if "tokens_error" in row}
    for reason, clip in unwritten.items():
        count = sum(row.get("tokens_error") == reason for row in rows)
        remarks.append(f"Tokens of {count} {'row' if count == 1 else 'rows'} could not be written ({clip}): {reason}.")
    return [found.get(index, row) for index, row in enumerate(rows)], remarks


def _reason(paths: Sequence[Path]) -> str | None:
    """Say why an entropy coder cannot be tried on these files."""
    if missing := sum(not path.is_file() for path in paths):
        return (
            f"the tokens of {missing} of {len(paths)} clips were not kept (the same command with --tokens makes them)"
        )
    if len(paths) < rate.FOLDS:
        return f"there are {len(paths)} clips and its model takes {rate.FOLDS} or more"
    return None
