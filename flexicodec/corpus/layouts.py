"""Folder layouts: utterances of a folder of speech as other tools lay it out.

- `kaldi`: a data directory with `wav.scp` (recording, file) and optionally `segments` (utterance, recording, start,
  end), `text` and `utt2spk`. Paths are resolved against the directory, then the current folder, as Kaldi does.
- `librispeech`: `*.trans.txt` beside the audio, one line per file name; the speaker is the name up to the first dash.
- `plain`: audio at any depth; a `.txt` of the same name is the transcript, the innermost folder the speaker.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from flexicodec.corpus.audio_reading import UNREADABLE, read_duration, read_utterance
from flexicodec.corpus.manifest import Utterance, resolve_path
from flexicodec.io_utils import find

KALDI_FILE_END = -1.0  # an end time in Kaldi's segments


@dataclass(frozen=True)
class ScanResult:
    """What `scan` found; `unreadable` has names of files or utterances that were left out, each with the reason."""

    layout: str
    utterances: list[Utterance]
    unreadable: list[tuple[str, str]]


@dataclass(frozen=True)
class _Entry:
    """A clip as a layout lists it, its audio not yet opened; `end` None is the end of the file."""

    name: str
    path: Path
    start: float = 0.0
    end: float | None = None
    text: str | None = None
    speaker: str | None = None


def scan(folder: str | Path, layout: str = "auto", check: bool = False) -> ScanResult:
    """List the speech in a folder.

    Args:
        folder: The folder.
        layout: "kaldi", "librispeech", "plain", or "auto" to detect it.
        check: Decode every clip, not only its header.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    if layout == "auto":
        layout = detect_layout(folder)
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}, expected auto, {', '.join(LAYOUTS)}")

    listing = ScanResult(layout, [], [])
    durations: dict[Path, float] = {}  # of files, which may hold many clips
    for entry in tqdm(list(LAYOUTS[layout](folder)), unit="clip", disable=None):
        try:
            if not entry.path.is_file():
                raise FileNotFoundError(f"no such audio file: {entry.path}")
            if entry.path not in durations:
                durations[entry.path] = read_duration(entry.path)
            utterance = _utterance(entry, durations[entry.path])
            if check:
                read_utterance(utterance, 16_000)
            listing.utterances.append(utterance)
        except UNREADABLE as error:
            listing.unreadable.append((entry.name, str(error)))
    return listing


def detect_layout(folder: Path) -> str:
    """Name a folder's layout by the lists in it."""
    if (folder / "wav.scp").is_file():
        return "kaldi"
    has_transcripts = next(folder.rglob("*.trans.txt"), None) is not None
    return "librispeech" if has_transcripts else "plain"


def _utterance(entry: _Entry, file_seconds: float) -> Utterance:
    end = file_seconds if entry.end is None else min(entry.end, file_seconds)
    if not 0 <= entry.start < end:
        clip = f"it begins at {entry.start:g} s and ends at {end:g} s"
        raise ValueError(f"{clip} of {entry.path} ({file_seconds:g} s long)")
    return Utterance(entry.path, end - entry.start, entry.start, entry.text, entry.speaker)


def _kaldi(folder: Path) -> Iterator[_Entry]:
    # wav.scp: recording > file; the other lists have a row per utterance.
    recordings = {name: _kaldi_file(folder, name, file) for name, file in _read_table(folder / "wav.scp").items()}
    segments = _read_table(folder / "segments", optional=True)
    texts = _read_table(folder / "text", optional=True)
    speakers = _read_table(folder / "utt2spk", optional=True)
    for name in segments or recordings:  # without segments, every recording is an utterance
        recording, start, end = name, 0.0, None
        if segments:
            recording, start, end = _kaldi_segment(f"{folder / 'segments'}: {name}", segments[name])
            if recording not in recordings:
                raise ValueError(f"{folder / 'segments'}: {name} is from {recording!r}, which wav.scp does not list")
        yield _Entry(name, recordings[recording], start, end, texts.get(name), speakers.get(name))


def _kaldi_file(folder: Path, recording: str, file: str) -> Path:
    where = f"{folder / 'wav.scp'}: {recording}"
    if file.endswith("|"):
        raise ValueError(
            f"{where} is the output of a command ({file}); run it once and name the file it makes (`wav-copy "
            "scp:wav.scp` does so for all)"
        )
    path = resolve_path(file, folder)
    if not path.exists() and file.rpartition(":")[2].isdigit():
        raise ValueError(f"{where} lies in an archive ({file}); expected a file each")
    return path


def _kaldi_segment(where: str, row: str) -> tuple[str, float, float | None]:
    """Parse recording, start and end."""
    try:
        recording, start, end = row.split()[:3]
        seconds = float(end)
        return recording, float(start), None if seconds == KALDI_FILE_END else seconds
    except ValueError as error:
        raise ValueError(f"{where} has {row!r}; expected recording, start and end in seconds") from error


def _read_table(path: Path, optional: bool = False) -> dict[str, str]:
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
            rows[key] = "".join(rest).strip()
    return rows


def _librispeech(folder: Path) -> Iterator[_Entry]:
    transcripts = {}
    for path in sorted(folder.rglob("*.trans.txt")):
        for name, text in _read_table(path).items():
            transcripts[path.parent / name] = text
    for path in find(folder):
        text_or_none = transcripts.pop(path.with_suffix(""), None)
        yield _Entry(str(path), path, text=text_or_none, speaker=path.name.split("-")[0])
    for missing in transcripts:  # without audio: listed as unreadable
        yield _Entry(f"{missing}.*", missing)


def _plain(folder: Path) -> Iterator[_Entry]:
    for path in find(folder):
        text = speaker = None
        if path.with_suffix(".txt").is_file():
            text = " ".join(path.with_suffix(".txt").read_text(encoding="utf-8").split())
        if path.parent != folder:
            speaker = path.parent.name
        yield _Entry(str(path), path, text=text, speaker=speaker)


LAYOUTS: dict[str, Callable[[Path], Iterator[_Entry]]] = {
    "kaldi": _kaldi,
    "librispeech": _librispeech,
    "plain": _plain,
}
