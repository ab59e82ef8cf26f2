"""Utterances, and manifests of them: JSONL files with one line per clip, which name its audio, speaker and text.

A line has `path` (relative to the manifest, or absolute), `start` (seconds into the file, default 0), `duration`
(seconds) and optionally `id`, `text`, `speaker`, `speaker_guessed`, `corpus`, `language`, `channel`, `sentence`,
`num_phones` and `alignment`. `lists` reads them, and the lists of other tools.
"""

import gzip
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flexicodec.io_utils import replacing

# What tar shards store of an utterance.
SHARD_FIELDS = ("text", "speaker", "speaker_guessed", "corpus", "language", "channel", "num_phones")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Utterance:
    """One clip of speech: a file, or a part of one.

    Attributes:
        duration: Seconds.
        start: Seconds into the file.
        corpus: Name of the corpus.
        id: Unique name; by default the path in the manifest without suffix, the start if not 0, and the channel.
        language: ISO 639 code of the text.
        num_phones: Canonical phones of the text, without silence.
        alignment: TextGrid or CTM file with the times of phones and words.
        sentence: Name of a prompt that several speakers read ("SA1" of TIMIT).
        channel: Channel of the file to read, counted from 0; None reads the mean of all.
        speaker_guessed: The speaker was taken from a folder's name, without a layout that says so.
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
    channel: int | None = None
    speaker_guessed: bool = False

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", default_id(self.path.as_posix(), self.start, self.channel))

    @property
    def known_speaker(self) -> str | None:
        """The speaker, or None where it is a guess: what intervals and splits by speaker rest on."""
        return None if self.speaker_guessed else self.speaker


Keep = Callable[[Utterance], bool]


@dataclass(frozen=True)
class Filter:
    """Which utterances to train on.

    Attributes:
        shortest: Seconds.
        longest: Seconds.
        keep: Further predicate; None accepts everything.
    """

    shortest: float = 0.0
    longest: float = math.inf
    keep: Keep | None = None

    def indices(self, utterances: Sequence[Utterance]) -> list[int]:
        """Return the indices of the utterances that pass."""
        passing = []
        for index, utterance in enumerate(utterances):
            if self.shortest <= utterance.duration <= self.longest and (self.keep is None or self.keep(utterance)):
                passing.append(index)
        return passing

    def select(self, utterances: Sequence[Utterance], name: str) -> list[int]:
        """Return the same indices, and log under `name` how many utterances were left out and why."""
        kept = self.indices(utterances)
        hours = sum(utterances[index].duration for index in kept) / 3600
        short = sum(utterance.duration < self.shortest for utterance in utterances)
        long = sum(utterance.duration > self.longest for utterance in utterances)
        rejected = len(utterances) - len(kept) - short - long
        _log.info(
            f"{name}: {len(kept)} utterances, {hours:.2f} hours; left out {short} shorter than {self.shortest:g} s, "
            f"{long} longer than {self.longest:g} s, {rejected} not wanted"
        )
        return kept


def write_manifest(path: str | os.PathLike[str], utterances: Iterable[Utterance]) -> None:
    """Write a manifest atomically, compressed if it ends in `.gz`; paths below its folder become relative."""
    folder = Path(os.path.abspath(path)).parent
    open_text = gzip.open if str(path).endswith(".gz") else open
    with replacing(path) as part, open_text(part, "wt", encoding="utf-8") as file:
        for utterance in utterances:
            file.write(json.dumps(_row(utterance, folder), ensure_ascii=False) + "\n")


def check_ids(utterances: Sequence[Utterance]) -> None:
    """Check that ids are unique, where results and files are named by them."""
    repeated = [name for name, count in Counter(u.id for u in utterances).items() if count > 1]
    if repeated:
        raise ValueError(f"{len(repeated)} ids occur more than once ({', '.join(repeated[:3])}); expected unique ids")


def known_fields(utterance: Utterance, names: Iterable[str] = SHARD_FIELDS) -> dict[str, Any]:
    """Return those of the named fields that are known, as manifests and shards store them."""
    fields = {name: getattr(utterance, name) for name in names}
    return {name: value for name, value in fields.items() if value is not None and value is not False}


def resolve_path(name: str, folder: Path) -> Path:
    """Resolve a path from a list: absolute, else below the list's folder, else below the current folder."""
    below = folder / name
    if not Path(name).is_absolute() and not below.exists() and Path(name).exists():
        return Path(name).absolute()
    return below


def default_id(path: str, start: float, channel: int | None = None) -> str:
    """Name a part of a file by the file, its start and its channel."""
    suffix = Path(path).suffix
    name = path.removesuffix(suffix)
    if start:
        name += f"@{start:g}"
    return name if channel is None else f"{name}-ch{channel}"


def own_id(utterance: Utterance, *names: str) -> str | None:
    """Return the id unless it follows from the path, as it is or as one of `names`."""
    paths = (utterance.path.as_posix(), *names)
    derived = [default_id(path, utterance.start, utterance.channel) for path in paths]
    return None if utterance.id in derived else utterance.id


def _row(utterance: Utterance, folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {
        "path": _relative(utterance.path, folder),
        "start": round(utterance.start, 6),
        "duration": round(utterance.duration, 6),
        **known_fields(utterance, (*SHARD_FIELDS, "sentence")),
    }
    if utterance.alignment is not None:
        row["alignment"] = _relative(utterance.alignment, folder)
    if (name := own_id(utterance, row["path"])) is not None:  # reading restores the others
        row["id"] = name
    return row


def _relative(path: Path, folder: Path) -> str:
    absolute = Path(os.path.abspath(path))
    if absolute.is_relative_to(folder):
        absolute = absolute.relative_to(folder)
    return absolute.as_posix()
