"""Folder layouts: utterances of a folder of speech as other tools and published corpora lay it out.

- `kaldi`: a data directory, see `kaldi.py`.
- Published corpora, told by tables in the folder (`tables.py`) or by the paths of their audio
  (`rules.py`, `paths.py`). A folder may hold several of them.
- `plain`: whatever no layout explains. A `.txt`, `.lab` or `.json` of the same name has the transcript; the innermost
  folder is taken for the speaker, which is a guess and marked as one.
"""

import json
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from flexicodec.corpus.alignments.alignment import SHARED_SUFFIXES, is_alignment
from flexicodec.corpus.alignments.formats import file_suffix, read_tracks
from flexicodec.corpus.audio_reading import TOLERANCE, UNREADABLE, read_utterance
from flexicodec.corpus.layouts.folder import (
    AudioHeaders,
    Entry,
    Folder,
    Listing,
    Siblings,
    match_alignments,
    read_text,
    text_beside,
)
from flexicodec.corpus.layouts.kaldi import is_kaldi, read_kaldi
from flexicodec.corpus.layouts.paths import RuleReader
from flexicodec.corpus.layouts.rules import RULES
from flexicodec.corpus.layouts.tables import TABLES, read_stm, read_tables
from flexicodec.corpus.lists.fields import folded, known_values
from flexicodec.corpus.manifest import Utterance
from flexicodec.io_utils import AUDIO_SUFFIXES

LAYOUTS = tuple(
    dict.fromkeys(["kaldi", "librispeech", "plain", "stm", *(rule.name for rule in TABLES), *(r.name for r in RULES)])
)
OVERSHOOT = 0.5  # seconds by which a clip may end after its file, and is cut; Kaldi's extract-segments likewise
LIST_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".tsv", ".csv")  # what may be a list that the user should name instead
MOST_LISTS = 3  # of them that are named
MISSTATED = 0.02  # share by which utt2dur may differ from the audio, beside TOLERANCE


@dataclass(frozen=True)
class ScanResult:
    """What `scan` found.

    Attributes:
        layout: Name of the layout; where there are several, each with its number of clips.
        utterances: Clips that can be read.
        unreadable: Names of files or utterances that cannot be, each with the reason.
        left_out: Numbers of files and clips that were left out on purpose, by reason.
        remarks: What the user should know besides, a sentence each.
    """

    layout: str
    utterances: list[Utterance]
    unreadable: list[tuple[str, str]]
    left_out: dict[str, int] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def scan(
    folder: str | Path, layout: str = "auto", check: bool = False, alignments: str | Path | None = None
) -> ScanResult:
    """List the speech in a folder.

    Args:
        folder: The folder.
        layout: One of `LAYOUTS`, or "auto" to detect it.
        check: Decode every clip, not only its header.
        alignments: Folder with alignments, as MFA writes it. Those beside the audio, or in a parallel folder below
            `folder`, are found without it.
    """
    root = Path(folder)
    if layout not in ("auto", *LAYOUTS):
        raise ValueError(f"layout is {layout!r}, expected auto, {', '.join(LAYOUTS)}")
    if not root.is_dir():
        raise ValueError(f"{folder} is not a folder{'' if root.exists() else ', there is no such file either'}")

    # What the lists and names say.
    headers = AudioHeaders()
    if layout == "kaldi" or (layout == "auto" and is_kaldi(root)):
        files = None
        layout, listing = "kaldi", read_kaldi(root, headers)
    else:
        files = Folder(root)
        layout, listing = _list_files(files, layout)
    aligned = _with_alignments(listing, root, files, None if alignments is None else Path(alignments))
    # What the audio says.
    return _open(aligned, layout, listing, headers, check)


def _list_files(files: Folder, layout: str) -> tuple[str, Listing]:
    """List what layouts explain, and the rest as plain audio."""
    if not files.audio:
        raise ValueError(_nothing(files))
    listings, done = read_tables(files, [rule for rule in TABLES if layout in ("auto", rule.name)])
    rest = [path for path in files.audio if path not in done]
    if layout in ("auto", "stm"):
        turns, done = read_stm(files)
        rest = [path for path in rest if path not in done]
        if turns.entries:
            listings["stm"] = turns
    rules = [rule for rule in RULES if layout in ("auto", rule.name)]
    by_path, rest, without_audio = RuleReader(files.root, rules).read(rest)
    listings |= by_path
    if layout not in ("auto", "plain") and not listings:
        told = " or ".join(told for name, told in _told() if name == layout)
        raise ValueError(f"nothing in {files.root} is laid out as {layout}: {told}")
    if rest:
        plain = _plain(files.root, rest)
        if layout == "auto":
            plain.remarks.append(_unknown(files, len(rest)))
        listings["plain"] = plain

    # One listing, and a name that tells of all.
    names = [f"{name} ({len(each.entries)})" if len(listings) > 1 else name for name, each in listings.items()]
    total = Listing(left_out=files.left_out)
    for each in (*listings.values(), without_audio):
        total.add(each)
    return ", ".join(names), total


def _nothing(files: Folder) -> str:
    """Say what is in a folder without audio."""
    directories = _kaldi_below(files)
    if directories:
        return f"{files.root} holds several Kaldi directories; name one of {directories}"
    if (files.root / "feats.scp").is_file():
        return f"{files.root} holds features (feats.scp) and no audio; expected wav.scp with a file each"
    instead = "".join(f"; {count} times: {reason}" for reason, count in files.left_out.items())
    return f"no files to read in {files.root} (looked for {' '.join(AUDIO_SUFFIXES)}){instead}"


def _kaldi_below(files: Folder) -> str:
    return ", ".join(str(path.parent) for path in files.others if path.name == "wav.scp" and is_kaldi(path.parent))


def _told() -> list[tuple[str, str]]:
    """Return names of layouts and what they look like."""
    tables = [(rule.name, rule.told) for rule in TABLES]
    paths = [(rule.name, rule.told) for rule in RULES]
    return [*dict.fromkeys([("stm", "NAME.stm with the turns of NAME.wav"), *tables, *paths])]


def _unknown(files: Folder, count: int) -> str:
    """Say that audio is of no known layout, what was looked for, and which lists there might tell more."""
    known = ", ".join(name for name in LAYOUTS if name != "plain")
    remark = (
        f"{count} files are of no known layout ({known}): the text is that of a .txt, .lab or .json of the same name; "
        "the speaker, where no .json has it, is the folder, which is a guess"
    )
    below = _kaldi_below(files)
    if below:
        remark += f"; Kaldi directories below are not read, name one of them: {below}"
    stems = {path.stem for path in files.audio}  # what has the name of a clip is of that clip
    others = [path for path in files.others if path.stem not in stems]
    lists = [str(path) for path in others if path.name.lower().endswith(LIST_SUFFIXES)]
    if lists:
        more = ", ..." if len(lists) > MOST_LISTS else ""
        remark += f"; lists there are not read, name one of them: {', '.join(lists[:MOST_LISTS])}{more}"
    return remark


def _plain(root: Path, audio: list[Path]) -> Listing:
    """List files by what lies beside them: a text, or a JSON object with the usual keys (Emilia)."""
    listing = Listing()
    siblings = Siblings()
    for path in audio:
        entry = Entry(str(path), path)
        try:
            entry = replace(entry, **_beside(path, siblings))
        except ValueError as error:
            entry = replace(entry, problem=str(error))
        if entry.speaker is None and path.parent != root:
            entry = replace(entry, speaker=path.parent.name, speaker_guessed=True)
        listing.entries.append(entry)
    return listing


def _beside(path: Path, siblings: Siblings) -> dict[str, Any]:
    """Return the fields that the files beside an audio file state."""
    values: dict[str, Any] = {}
    described = siblings.find(path.with_suffix(".json"))
    if described is not None and not is_alignment(described):
        try:
            row = json.loads(read_text(described))
            known = known_values(folded(row)) if isinstance(row, dict) else {}
        except ValueError as error:
            raise ValueError(f"{described} cannot be read ({error})") from error
        values = {name: known[name].strip() for name in ("id", "text", "speaker", "language") if name in known}
    text = text_beside(path, siblings)
    if text is not None:
        values["text"] = text or None
    return values


def _with_alignments(listing: Listing, root: Path, files: Folder | None, folder: Path | None) -> list[Entry]:
    """Return the entries with the alignments that lie beside their audio or in a parallel folder."""
    if folder is not None and not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; expected one with alignments")
    audio = dict.fromkeys(entry.path for entry in listing.entries)
    if folder is not None:
        files = Folder(folder)
    if files is not None:
        found_files = files.alignments
        shared = sum(file_suffix(path) in SHARED_SUFFIXES for path in files.others)
        if shared:
            listing.left_out["CTM or MLF files of many clips (name them as `alignment` in the manifest)"] += shared
    else:  # of Kaldi's files, which may lie anywhere
        found_files = []
        for parent in dict.fromkeys(path.parent for path in audio):
            if parent.is_dir():
                found_files += sorted(path for path in parent.iterdir() if is_alignment(path))
    found = match_alignments(audio, root, found_files, folder or root)
    mixed = _without_channels(listing.entries, found)
    if mixed:
        listing.left_out["alignments of several channels that do not tell whose phones they are"] += len(mixed)
        found_files = [path for path in found_files if path not in mixed]
        found = {path: each for path, each in found.items() if each not in mixed}
    entries = []
    for entry in listing.entries:
        if entry.alignment is None and entry.path in found:
            entry = replace(entry, alignment=found[entry.path])
        entries.append(entry)
    used = {entry.alignment.absolute() for entry in entries if entry.alignment is not None}
    unused = len({path.absolute() for path in found_files} - used)
    if unused and files is not None:
        listing.left_out["alignments that are of no clip here"] += unused
    return entries


def _without_channels(entries: list[Entry], found: dict[Path, Path]) -> set[Path]:
    """Return the alignments of files with clips on several channels that name neither speakers nor channels."""
    channels: dict[Path, set[int | None]] = {}
    for entry in entries:
        channels.setdefault(entry.path, set()).add(entry.channel)
    mixed = set()
    for path, alignment in found.items():
        if len(channels[path]) < 2:
            continue
        try:
            tracks = read_tracks(alignment, None, [])
        except (ValueError, OSError):  # said where it is used
            continue
        if all(track.speaker is None and track.channel is None for track in tracks):
            mixed.add(alignment)
    return mixed


def _open(entries: list[Entry], layout: str, listing: Listing, headers: AudioHeaders, check: bool) -> ScanResult:
    """Open the audio of every entry."""
    result = ScanResult(layout, [], [], listing.left_out, listing.remarks)
    counts: Counter[str] = Counter()
    for entry in tqdm(entries, unit="clip", disable=None):
        try:
            if entry.problem is not None:
                raise ValueError(entry.problem)
            if not entry.path.is_file():
                raise FileNotFoundError(f"no such audio file: {entry.path}")
            seconds, channels = headers[entry.path]
            utterance = _utterance(entry, seconds, channels)
            if check:
                read_utterance(utterance, 16_000)
        except UNREADABLE as error:
            result.unreadable.append((entry.name, str(error)))
            continue
        result.utterances.append(utterance)
        counts["have several channels and name none: the mean is read"] += utterance.channel is None and channels > 1
        counts["end after their file and were cut"] += (entry.end or 0) > seconds + TOLERANCE
        off = abs(utterance.duration - (entry.seconds or utterance.duration))
        counts["differ from the duration in utt2dur"] += off > TOLERANCE + MISSTATED * utterance.duration
    _make_ids_unique(result, counts)
    result.remarks.extend(f"{count} clips {what}" for what, count in counts.items() if count)
    return result


def _utterance(entry: Entry, file_seconds: float, channels: int) -> Utterance:
    end = file_seconds if entry.end is None else min(entry.end, file_seconds)
    if not 0 <= entry.start < end:
        clip = f"it begins at {entry.start:g} s and ends at {end:g} s"
        raise ValueError(f"{clip} of {entry.path} ({file_seconds:g} s long)")
    if entry.end is not None and entry.end > file_seconds + OVERSHOOT:
        raise ValueError(f"it is said to end at {entry.end:g} s, but {entry.path} ends at {file_seconds:g} s")
    if entry.channel is not None and entry.channel >= channels:
        raise ValueError(f"channel {entry.channel} (from 0) is named, but {entry.path} has {channels}")
    return Utterance(
        path=entry.path,
        duration=end - entry.start,
        start=entry.start,
        text=entry.text,
        speaker=entry.speaker,
        id=entry.id,
        language=entry.language,
        alignment=entry.alignment,
        sentence=entry.sentence,
        channel=entry.channel,
        speaker_guessed=entry.speaker_guessed,
    )


def _make_ids_unique(result: ScanResult, counts: Counter[str]) -> None:
    """Name clips by the whole path where their names occur twice."""
    names = Counter(utterance.id for utterance in result.utterances)
    for index, utterance in enumerate(result.utterances):
        if names[utterance.id] > 1:
            part = f"@{utterance.start:g}" if utterance.start else ""
            result.utterances[index] = replace(utterance, id=f"{utterance.path.as_posix()}{part}")
            counts["share a name with another, and have their path as id"] += 1
