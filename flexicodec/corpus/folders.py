"""Folders of speech as other tools lay them out, turned into utterances.

- `kaldi`: a data directory: `wav.scp` (recording, file), and optionally `segments` (utterance, recording, start, end),
  `text` and `utt2spk`. Files are looked for beside the list and then from the current folder, as Kaldi does.
- `librispeech`: `*.trans.txt` beside the audio, a line for each file of that name; the speaker is what its name begins
  with, up to the first dash.
- `plain`: any audio at any depth; a `.txt` of the same name is the transcript, the innermost folder the speaker.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from flexicodec.corpus.manifest import Utterance, locate
from flexicodec.corpus.reading import UNREADABLE, read_utterance, seconds_of
from flexicodec.io_utils import find

TO_THE_END = -1.0  # Kaldi's word for it in segments


@dataclass(frozen=True)
class Listing:
    """What a folder holds.

    Attributes:
        layout: As it was read.
        utterances: Clips whose audio opens.
        unreadable: What had to be left out (a file, or the name of an utterance), with the reason.
    """

    layout: str
    utterances: list[Utterance]
    unreadable: list[tuple[str, str]]


@dataclass(frozen=True)
class _Found:
    """A clip that a layout names, before anybody has opened it; without an end it goes to the end of its file."""

    path: Path
    start: float = 0.0
    end: float | None = None
    text: str | None = None
    speaker: str | None = None
    name: str | None = None


def scan(folder: str | Path, layout: str = "auto", check: bool = False) -> Listing:
    """List the speech in a folder.

    Args:
        folder: The folder.
        layout: "kaldi", "librispeech", "plain", or "auto" to tell by its files.
        check: Decode every clip, not only its header.

    Raises:
        ValueError: No folder, an unknown layout, lists that do not fit together, or audio that is a command.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    if layout == "auto":
        layout = detect_layout(folder)
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}, expected auto, {', '.join(LAYOUTS)}")
    utterances: list[Utterance] = []
    unreadable: list[tuple[str, str]] = []
    seconds: dict[Path, float] = {}
    for found in tqdm(list(LAYOUTS[layout](folder)), unit="clip", disable=None):
        try:
            if found.path not in seconds:
                seconds[found.path] = _duration(found.path)
            utterance = _utterance(found, seconds[found.path])
            if check:
                read_utterance(utterance, 16_000)
            utterances.append(utterance)
        except UNREADABLE as error:
            unreadable.append((found.name or str(found.path), str(error)))
    return Listing(layout, utterances, unreadable)


def detect_layout(folder: Path) -> str:
    """Tell a folder's layout by the lists in it."""
    if (folder / "wav.scp").is_file():
        return "kaldi"
    return "librispeech" if next(folder.rglob("*.trans.txt"), None) else "plain"


def _duration(path: Path) -> float:
    if not path.is_file():
        raise FileNotFoundError(f"no such audio file: {path}")
    return seconds_of(path)


def _utterance(found: _Found, file_seconds: float) -> Utterance:
    end = file_seconds if found.end is None else min(found.end, file_seconds)
    if not 0 <= found.start < end:
        raise ValueError(
            f"it begins at {found.start:g} s and ends at {end:g} s of {found.path} ({file_seconds:g} s long)"
        )
    return Utterance(found.path, end - found.start, found.start, found.text, found.speaker)


def _kaldi(folder: Path) -> Iterator[_Found]:
    recordings = {}
    for recording, name in _table(folder / "wav.scp").items():
        if name.endswith("|"):
            raise ValueError(
                f"{folder / 'wav.scp'}: {recording} is the output of a command ({name}); run it once and name the file "
                "it makes (`wav-copy scp:wav.scp` does so for all)"
            )
        path = locate(name, folder)
        if not path.exists() and name.rpartition(":")[2].isdigit():
            raise ValueError(f"{folder / 'wav.scp'}: {recording} lies in an archive ({name}); expected a file each")
        recordings[recording] = path
    texts, speakers = _table(folder / "text", optional=True), _table(folder / "utt2spk", optional=True)
    segments = _table(folder / "segments", optional=True)
    found = _segments(folder / "segments", segments, recordings) if segments else _whole(recordings)
    for name, clip in found:
        yield replace(clip, name=name, text=texts.get(name), speaker=speakers.get(name))


def _whole(recordings: dict[str, Path]) -> Iterator[tuple[str, _Found]]:
    for name, path in recordings.items():
        yield name, _Found(path)


def _segments(path: Path, rows: dict[str, str], recordings: dict[str, Path]) -> Iterator[tuple[str, _Found]]:
    for name, row in rows.items():
        try:
            recording, start, end = row.split()[:3]
            stretch = float(start), None if float(end) == TO_THE_END else float(end)
        except ValueError as error:
            raise ValueError(f"{path}: {name} has {row!r}; expected recording, start and end in seconds") from error
        if recording not in recordings:
            raise ValueError(f"{path}: {name} is from {recording!r}, which wav.scp does not list")
        yield name, _Found(recordings[recording], *stretch)


def _table(path: Path, optional: bool = False) -> dict[str, str]:
    """Read lines of a key and the rest."""
    if optional and not path.exists():
        return {}
    rows: dict[str, str] = {}
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            key, *rest = line.split(maxsplit=1)
            if key in rows:
                raise ValueError(f"{path}:{number}: {key} is there twice")
            rows[key] = rest[0].strip() if rest else ""
    return rows


def _librispeech(folder: Path) -> Iterator[_Found]:
    transcripts = {}
    for path in sorted(folder.rglob("*.trans.txt")):
        for name, text in _table(path).items():
            transcripts[path.parent / name] = text
    for path in find(folder):
        yield _Found(path, text=transcripts.pop(path.with_suffix(""), None), speaker=path.name.split("-")[0])
    for missing in transcripts:
        yield _Found(missing, name=f"{missing}.*")


def _plain(folder: Path) -> Iterator[_Found]:
    for path in find(folder):
        sidecar = path.with_suffix(".txt")
        text = " ".join(sidecar.read_text(encoding="utf-8").split()) if sidecar.is_file() else None
        yield _Found(path, text=text, speaker=path.parent.name if path.parent != folder else None)


LAYOUTS: dict[str, Callable[[Path], Iterator[_Found]]] = {
    "kaldi": _kaldi,
    "librispeech": _librispeech,
    "plain": _plain,
}
