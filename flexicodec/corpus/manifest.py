"""Manifests: JSONL files with one line per clip, which name its audio, speaker and text.

A line has `path` (relative to the manifest, or absolute), `start` (seconds into the file, default 0), `duration`
(seconds) and optionally `id`, `text`, `speaker`, `speaker_guessed`, `corpus`, `language`, `channel`, `sentence`,
`num_phones` and `alignment`.
The keys `duration_s`, `text_norm`, `lang` and `n_phones_est` of other corpora are understood; `text_norm` is preferred
to `text`. Lhotse cuts (https://github.com/lhotse-speech/lhotse) are read as manifests too: only paths, times, texts and
speakers are taken from them, so that reading and resampling are the same for every source.
"""

import gzip
import importlib
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

SHARD_FIELDS = ("text", "speaker", "corpus")  # what tar shards store of an utterance

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Utterance:
    """One clip of speech: a file, or a part of one.

    Attributes:
        duration: Seconds.
        start: Seconds into the file.
        corpus: Name of the corpus.
        id: Unique name; by default the path in the manifest without suffix, and the start if that is not 0.
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
            object.__setattr__(self, "id", default_id(self.path.as_posix(), self.start))

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


def read_manifest(path: str | os.PathLike[str]) -> list[Utterance]:
    """Read a manifest or lhotse cuts, plain or `.gz`.

    A bad line is a `ValueError` with its number; cuts need lhotse to be installed.
    """
    path = Path(path)
    if _holds_cuts(path):
        return read_lhotse_cuts(path)
    utterances = []
    for number, line in _lines(path):
        try:
            utterances.append(_utterance(json.loads(line), path.parent))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            expected = "expected a JSON object with path and duration in seconds"
            raise ValueError(f"{path}:{number}: {expected} ({error!r})") from error
    if not utterances:
        raise ValueError(f"{path} lists no utterances")
    return utterances


def read_field(path: str | os.PathLike[str], name: str) -> list[Any]:
    """Read one field of every line of a manifest, such as gender or emotion, in the order of `read_manifest`.

    Values are None where a line lacks the field; a field that no line has is a `ValueError`. Lhotse cuts have the
    fields of `Utterance`.
    """
    path = Path(path)
    if _holds_cuts(path):  # the keys of cuts are not those of manifests
        rows = [vars(utterance) for utterance in read_manifest(path)]
    else:
        rows = [json.loads(line) for _, line in _lines(path)]
    if not any(name in row for row in rows):
        known = ", ".join(dict.fromkeys(key for row in rows for key in row))
        raise ValueError(f"no line of {path} has a field {name!r}; known fields: {known or 'none, it has no lines'}")
    return [row.get(name) for row in rows]


def write_manifest(path: str | os.PathLike[str], utterances: Iterable[Utterance]) -> None:
    """Write a manifest atomically; paths below its folder become relative, others absolute."""
    folder = Path(os.path.abspath(path)).parent
    with replacing(path) as part, part.open("w", encoding="utf-8") as file:
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
    return {name: value for name, value in fields.items() if value is not None}


def resolve_path(name: str, folder: Path) -> Path:
    """Resolve a path from a list: absolute, else below the list's folder, else below the current folder."""
    below = folder / name
    if not Path(name).is_absolute() and not below.exists() and Path(name).exists():
        return Path(name).absolute()
    return below


def default_id(path: str, start: float) -> str:
    """Name a part of a file by the file and its start."""
    suffix = Path(path).suffix
    name = path.removesuffix(suffix)
    return f"{name}@{start:g}" if start else name


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their numbers."""
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
    with opened as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line


def _utterance(row: Mapping[str, Any], folder: Path) -> Utterance:
    duration = float(row["duration"] if "duration" in row else row["duration_s"])
    start = float(row.get("start", 0.0))
    if not (math.isfinite(duration) and duration > 0):
        raise ValueError(f"duration is {duration}; expected seconds above 0")
    if not (math.isfinite(start) and start >= 0):
        raise ValueError(f"start is {start}; expected seconds of at least 0")

    # Names of other corpora are second choices, but for text_norm.
    num_phones = row.get("num_phones", row.get("n_phones_est"))
    if num_phones is not None and (num_phones != int(num_phones) or num_phones < 0):
        raise ValueError(f"num_phones is {num_phones}; expected a whole number of at least 0")
    channel = row.get("channel")
    if channel is not None and (isinstance(channel, bool) or not isinstance(channel, int) or channel < 0):
        raise ValueError(f"channel is {channel!r}; expected a whole number from 0")
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
        alignment=None if alignment is None else resolve_path(alignment, folder),
        sentence=row.get("sentence"),
        channel=channel,
        speaker_guessed=bool(row.get("speaker_guessed", False)),
    )


def _row(utterance: Utterance, folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {
        "path": _relative(utterance.path, folder),
        "start": round(utterance.start, 6),
        "duration": round(utterance.duration, 6),
        **known_fields(utterance, (*SHARD_FIELDS, "language", "channel", "sentence", "num_phones")),
    }
    if utterance.speaker_guessed:
        row["speaker_guessed"] = True
    if utterance.alignment is not None:
        row["alignment"] = _relative(utterance.alignment, folder)
    # Reading restores an id that follows from the path, as written or as it was.
    if utterance.id not in (default_id(name, utterance.start) for name in (row["path"], str(utterance.path))):
        row["id"] = utterance.id
    return row


def _relative(path: Path, folder: Path) -> str:
    absolute = Path(os.path.abspath(path))
    if absolute.is_relative_to(folder):
        absolute = absolute.relative_to(folder)
    return absolute.as_posix()


# ---------------------------------------------------------------------------------------------------------- lhotse cuts


def read_lhotse_cuts(path: str | Path) -> list[Utterance]:
    """Read cuts from a JSONL file (`.gz` too); relative paths of recordings start at its folder, else the current one.

    A cut must be a part of one single-channel recording in a file; others are a `ValueError`.
    """
    try:
        lhotse = importlib.import_module("lhotse")  # 1.33 needs no torchaudio
    except ImportError as error:
        raise ImportError(f"{path} holds lhotse cuts, and lhotse is not installed: pip install lhotse") from error
    path = Path(path)
    utterances = []
    for cut in lhotse.load_manifest_lazy(path):
        problem = _cut_problem(cut)  # the first bad cut ends the reading: a corpus is complete or refused
        if problem:
            readable = "only parts of single-channel recordings in files can be read"
            raise ValueError(f"{path}: cut {cut.id!r} {problem} ({readable})")
        utterances.append(_cut_utterance(cut, path.parent))
    if not utterances:
        raise ValueError(f"{path} lists no cuts")
    return utterances


def _holds_cuts(path: Path) -> bool:
    """Tell lhotse cuts by the first line."""
    try:
        row = json.loads(next(_lines(path))[1])
    except (StopIteration, ValueError):
        return False
    if not isinstance(row, Mapping):
        return False
    if "sources" in row and "sampling_rate" in row:
        raise ValueError(f"{path} holds lhotse recordings; make cuts of them with `lhotse cut simple`")
    return str(row.get("type", "")).endswith("Cut")


def _cut_problem(cut: Any) -> str | None:
    """Say why a cut cannot be read, if so."""
    if type(cut).__name__ != "MonoCut":
        return f"is a {type(cut).__name__}; save mixed and padded cuts as audio first"
    recording = cut.recording
    if recording is None:
        return "has features but no recording"
    if recording.transforms:
        return "changes its recording on the fly (speed, volume, ...); save it as audio first"
    if len(recording.sources) != 1 or len(recording.sources[0].channels) != 1:
        return f"is one channel of {recording.num_channels}; save it as audio first"
    if recording.sources[0].type != "file":
        return f"has its audio in a {recording.sources[0].type!r}; expected a file"
    return None


def _cut_utterance(cut: Any, folder: Path) -> Utterance:
    texts = [supervision.text for supervision in cut.supervisions if supervision.text]
    speakers = {supervision.speaker for supervision in cut.supervisions}
    return Utterance(
        path=resolve_path(cut.recording.sources[0].source, folder),
        duration=float(cut.duration),
        start=float(cut.start),
        text=" ".join(texts) or None,
        speaker=speakers.pop() if len(speakers) == 1 else None,
    )
