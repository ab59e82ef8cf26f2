"""Manifests: JSONL files with a line for each clip, saying where its audio lies, who speaks and what is said.

A line holds `path` (relative to the manifest, or absolute), `start` (seconds into the file, 0 where absent), `duration`
(seconds) and, where known, `id`, `text`, `speaker`, `corpus`, `language`, `sentence`, `num_phones` and `alignment`.
Lines with `duration_s`, `text_norm`, `lang` and `n_phones_est`, as in the corpora this project shares, are read too
(`text_norm` before `text`), and so are lhotse cuts (see `cuts`).
"""

import gzip
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flexicodec.io_utils import replacing

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Utterance:
    """One clip of speech: a file, or a stretch of one.

    Attributes:
        path: The audio file.
        duration: Seconds.
        start: Seconds into the file.
        text: What is said.
        speaker: Who says it.
        corpus: Where it is from.
        id: Names it among others: by default the path as the manifest has it, without suffix, and the start where that
            is not 0.
        language: Of the text, as an ISO 639 code.
        sentence: Name of what is read, where several speakers read the same (TIMIT's "SA1", say).
        num_phones: Canonical phones of the text, silence not counted.
        alignment: File that says when its phones and words sound: a TextGrid, or a CTM.
    """

    path: Path
    duration: float
    start: float = 0.0
    text: str | None = None
    speaker: str | None = None
    corpus: str | None = None
    id: str = field(default="", compare=False)
    language: str | None = None
    num_phones: int | None = None
    alignment: Path | None = None
    sentence: str | None = None

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", default_id(self.path.as_posix(), self.start))


Keep = Callable[[Utterance], bool]


def read_manifest(path: str | os.PathLike[str]) -> list[Utterance]:
    """Read a JSONL manifest (`.gz` too), or lhotse cuts, which are told by their first line.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: No lines, or one that is not JSON, lacks `path` or `duration`, or holds values that cannot be; the
            message names file and line.
        ImportError: The file holds cuts and lhotse is not installed.
    """
    path = Path(path)
    if _holds_cuts(path):
        from flexicodec.corpus.cuts import read_cuts

        return read_cuts(path)
    utterances = []
    for number, line in _lines(path):
        try:
            utterances.append(_utterance(json.loads(line), path.parent))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{path}:{number}: expected a JSON object with path and duration in seconds ({error!r})"
            ) from error
    if not utterances:
        raise ValueError(f"{path} lists no utterances")
    return utterances


def check_ids(utterances: Sequence[Utterance]) -> None:
    """Check that no two utterances share an id, where rows and files are told by them.

    Raises:
        ValueError: Names those that are there more than once.
    """
    if twice := [each for each, count in Counter(u.id for u in utterances).items() if count > 1]:
        raise ValueError(f"{len(twice)} ids are there more than once ({', '.join(twice[:3])}); clips are told by them")


def read_field(path: str | os.PathLike[str], name: str) -> list[Any]:
    """Read one field of every line of a manifest, whatever it is called, in the order of `read_manifest`.

    Manifests may say more of a clip than an `Utterance` holds: gender, emotion, a keyword. Of lhotse cuts, the fields
    of an `Utterance` can be asked for.

    Returns:
        A value for each clip; None where its line has no such field.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: No line has the field; the message lists those there are.
    """
    path = Path(path)
    rows = [vars(cut) for cut in read_manifest(path)] if _holds_cuts(path) else [json.loads(r) for _, r in _lines(path)]
    if not any(name in row for row in rows):
        there = ", ".join(dict.fromkeys(key for row in rows for key in row))
        raise ValueError(f"no line of {path} has a field {name!r}; there are {there or 'no lines'}")
    return [row.get(name) for row in rows]


def write_manifest(path: str | os.PathLike[str], utterances: Iterable[Utterance]) -> None:
    """Write a manifest, whole or not at all; audio below its folder is named relative to it, other audio absolutely."""
    folder = Path(os.path.abspath(path)).parent
    with replacing(path) as part, part.open("w", encoding="utf-8") as file:
        for utterance in utterances:
            row: dict[str, Any] = {
                "path": _name(utterance.path, folder),
                "start": round(utterance.start, 6),
                "duration": round(utterance.duration, 6),
                **spoken(utterance),
            }
            for name in ("language", "sentence", "num_phones"):
                if getattr(utterance, name) is not None:
                    row[name] = getattr(utterance, name)
            if utterance.alignment is not None:
                row["alignment"] = _name(utterance.alignment, folder)
            if utterance.id not in (default_id(name, utterance.start) for name in (row["path"], str(utterance.path))):
                row["id"] = utterance.id
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _name(path: Path, folder: Path) -> str:
    """Name a file relative to a folder that it lies below, else absolutely."""
    whole = Path(os.path.abspath(path))
    return (whole.relative_to(folder) if whole.is_relative_to(folder) else whole).as_posix()


def spoken(utterance: Utterance) -> dict[str, str]:
    """What is known of an utterance besides its audio, as manifests and shards hold it."""
    known = {"text": utterance.text, "speaker": utterance.speaker, "corpus": utterance.corpus}
    return {name: value for name, value in known.items() if value is not None}


@dataclass(frozen=True)
class Filter:
    """Which utterances to train on.

    Attributes:
        shortest: Seconds.
        longest: Seconds.
        keep: Says what else is wanted; None for everything.
    """

    shortest: float = 0.0
    longest: float = math.inf
    keep: Keep | None = None

    def indices(self, utterances: Sequence[Utterance]) -> list[int]:
        """Return the indices of those that are wanted."""
        return [
            i
            for i, u in enumerate(utterances)
            if self.shortest <= u.duration <= self.longest and (self.keep is None or self.keep(u))
        ]

    def select(self, utterances: Sequence[Utterance], name: str) -> list[int]:
        """Do the same and log how many are left out, `name` being what they are."""
        kept = self.indices(utterances)
        short = sum(u.duration < self.shortest for u in utterances)
        long = sum(u.duration > self.longest for u in utterances)
        _log.info(
            "%s: %d utterances, %.2f hours; left out %d shorter than %g s, %d longer than %g s, %d not wanted",
            name,
            len(kept),
            sum(utterances[i].duration for i in kept) / 3600,
            short,
            self.shortest,
            long,
            self.longest,
            len(utterances) - len(kept) - short - long,
        )
        return kept


def locate(name: str, folder: Path) -> Path:
    """Find a file named in a list: absolute, else below the list's folder, else below the current one."""
    below = folder / name
    return below if Path(name).is_absolute() or below.exists() or not Path(name).exists() else Path(name).absolute()


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line


def _holds_cuts(path: Path) -> bool:
    """Tell lhotse's cuts by the first line."""
    try:
        row = json.loads(next(_lines(path))[1])
    except (StopIteration, ValueError):
        return False
    if not isinstance(row, Mapping):
        return False
    if "sources" in row and "sampling_rate" in row:
        raise ValueError(f"{path} holds lhotse recordings; make cuts of them with `lhotse cut simple`")
    return str(row.get("type", "")).endswith("Cut")


def _utterance(row: Mapping[str, Any], folder: Path) -> Utterance:
    duration = float(row["duration"] if "duration" in row else row["duration_s"])
    start = float(row.get("start", 0.0))
    if not (math.isfinite(duration) and duration > 0):
        raise ValueError(f"duration is {duration}; expected seconds above 0")
    if not (math.isfinite(start) and start >= 0):
        raise ValueError(f"start is {start}; expected seconds of at least 0")
    num_phones = row.get("num_phones", row.get("n_phones_est"))
    if num_phones is not None and (num_phones != int(num_phones) or num_phones < 0):
        raise ValueError(f"num_phones is {num_phones}; expected a whole number of at least 0")
    alignment = row.get("alignment")
    return Utterance(
        path=folder / row["path"],
        duration=duration,
        start=start,
        text=row.get("text_norm", row.get("text")),
        speaker=row.get("speaker"),
        corpus=row.get("corpus"),
        id=str(row.get("id") or default_id(str(row["path"]), start)),
        language=row.get("language", row.get("lang")),
        num_phones=None if num_phones is None else int(num_phones),
        alignment=None if alignment is None else locate(alignment, folder),
        sentence=row.get("sentence"),
    )


def default_id(path: str, start: float) -> str:
    """Name a stretch of a file by the file and where it starts."""
    name = path[: -len(Path(path).suffix)] if Path(path).suffix else path
    return f"{name}@{start:g}" if start else name
