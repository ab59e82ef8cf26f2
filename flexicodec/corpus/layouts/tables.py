"""Layouts that a table in the folder tells: TSV and CSV files with a header, and STM files with the turns of talks."""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexicodec.corpus.layouts.folder import Entry, Folder, Listing, channel_number, read_lines, read_text
from flexicodec.corpus.lists.fields import folded, known_values, language_code
from flexicodec.io_utils import AUDIO_SUFFIXES

LANGUAGE_FOLDER = re.compile(r"[a-z]{2,3}(-\w+)?")
NOT_SCORED = "ignore_time_segment_in_scoring"  # the text of gaps in STM files (TED-LIUM)


@dataclass(frozen=True)
class TableRule:
    """A layout told by the header of a table with a row per clip.

    Text, speaker, id and language are in columns of the usual names, see `fields.py`.

    Attributes:
        name: Name of the layout.
        told: What such a corpus looks like, for messages.
        columns: Columns that tell the layout.
        audio: Template of the audio file, of columns and `folder`; a suffix may be missing or another.
        folder_is_language: The folder of the table is called by the language, where no column states it.
        preferred: Names of tables where several lie in a folder: those of the first group that is there are read.
        audio_folder: Folder whose further files are left out, because the table is a selection of them.
    """

    name: str
    told: str
    columns: tuple[str, ...]
    audio: str
    folder_is_language: bool = False
    preferred: tuple[tuple[str, ...], ...] = ()
    audio_folder: str | None = None


TABLES = (
    TableRule(
        "common-voice",
        "de/clips/common_voice_de_1.mp3 with de/validated.tsv (or train.tsv, dev.tsv and test.tsv)",
        columns=("client_id", "path", "sentence"),
        audio="{folder}/clips/{path}",
        folder_is_language=True,  # in releases without the column locale
        preferred=(("validated.tsv",), ("train.tsv", "dev.tsv", "test.tsv")),
        audio_folder="clips",
    ),
    TableRule(
        "voxpopuli",
        "en/2009/ID.ogg with en/asr_train.tsv",
        columns=("id", "raw_text", "normalized_text", "speaker_id"),
        audio="{folder}/{id}",
        folder_is_language=True,
    ),
    TableRule(
        "magicdata",
        "train/SPEAKER/NAME.wav with train/TRANS.txt",
        columns=("UtteranceID", "SpeakerID", "Transcription"),
        audio="{folder}/{SpeakerID}/{UtteranceID}",
    ),
    TableRule(
        "audiofolder",
        "metadata.csv or metadata.jsonl with file_name, as Hugging Face datasets has it",
        columns=("file_name",),
        audio="{folder}/{file_name}",
    ),
)
TABLE_SUFFIXES = (".tsv", ".csv", ".jsonl")


def read_tables(folder: Folder, rules: Sequence[TableRule]) -> tuple[dict[str, Listing], set[Path]]:
    """List the clips of all tables with the header of one of the rules.

    Returns:
        The listing of each layout by its name, and the audio files that need no further look.
    """
    tables: dict[tuple[TableRule, Path], list[Path]] = {}
    for path in folder.others:
        rule = _table_rule(path, rules)
        if rule is not None:
            tables.setdefault((rule, path.parent), []).append(path)
    listings: dict[str, Listing] = {}
    done: set[Path] = set()
    for (rule, parent), paths in tables.items():
        listing = listings.setdefault(rule.name, Listing())
        chosen = _choose(rule, paths, listing)
        listed: set[Path] = set()
        for path in chosen:
            for entry in _table_entries(rule, path, folder):
                if entry.problem is not None:
                    listing.entries.append(entry)
                    continue
                if entry.path in listed:  # train.tsv and test.tsv of other releases
                    listing.left_out[f"{rule.name}: further rows of the same file"] += 1
                    continue
                listed.add(entry.path)
                listing.entries.append(entry)
        done |= listed
        if rule.audio_folder is not None:
            unlisted = {path for path in folder.audio if path.parent == parent / rule.audio_folder} - listed
            if unlisted:
                names = ", ".join(path.name for path in chosen)
                listing.left_out[f"{rule.name}: clips that {names} of {parent} does not list"] += len(unlisted)
            done |= unlisted
    return listings, done


def _table_rule(path: Path, rules: Sequence[TableRule]) -> TableRule | None:
    """Return the rule whose columns a table has; None if there is none, or it is no table."""
    if path.suffix.lower() not in TABLE_SUFFIXES and path.name != "TRANS.txt":
        return None
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first = next((line.strip("\r\n") for line in file if line.strip()), "")
    if path.suffix.lower() == ".jsonl":
        if path.name != "metadata.jsonl" or not first:
            return None
        try:
            columns = list(json.loads(first))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: expected a JSON object a line ({error})") from error
    else:
        columns = first.split(_delimiter(first))
    return next((rule for rule in rules if set(rule.columns) <= set(columns)), None)


def _delimiter(header: str) -> str:
    return "\t" if "\t" in header else ","


def _choose(rule: TableRule, paths: list[Path], listing: Listing) -> list[Path]:
    """Choose the tables of a folder to read, and say which are not."""
    for names in rule.preferred:
        chosen = [path for path in paths if path.name in names]
        if not chosen:
            continue
        others = [path.name for path in paths if path not in chosen]
        if others:
            listing.remarks.append(
                f"of the tables in {paths[0].parent}, {', '.join(path.name for path in chosen)} is read and "
                f"{', '.join(others)} not; give the table in place of the folder to read another"
            )
        return chosen
    if rule.preferred:
        usual = " or ".join(", ".join(names) for names in rule.preferred)
        listing.remarks.append(
            f"{paths[0].parent} has no {usual}; {', '.join(path.name for path in paths)} is read, whose clips may be "
            "bad or unchecked"
        )
    return paths


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the rows of a table with their line numbers."""
    if path.suffix.lower() == ".jsonl":
        for number, line in read_lines(path):
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}:{number}: expected a JSON object ({error})") from error
        return
    text = read_text(path)
    lines = io.StringIO(text, newline="")
    reader = csv.DictReader(lines)
    if _delimiter(text.partition("\n")[0]) == "\t":
        # No quotes between tabs: a sentence may begin with one, and would take the next lines with it.
        reader = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    for row in reader:
        yield reader.line_num, row


def _table_entries(rule: TableRule, path: Path, folder: Folder) -> Iterator[Entry]:
    for number, row in _rows(path):
        values = {name: str(value) for name, value in row.items() if name is not None and value is not None}
        missing = [name for name in rule.columns if name not in values]
        if missing:
            yield Entry(f"{path}:{number}", path, problem=f"the row has no {', '.join(missing)}")
            continue
        audio = Path(rule.audio.format(folder=path.parent, **values))
        found = folder.audio_of(audio)
        known = known_values(folded(values))
        stem = audio.stem if audio.suffix.lower() in AUDIO_SUFFIXES else audio.name
        text = known.get("text")
        language = known.get("language")
        if language is None and rule.folder_is_language and LANGUAGE_FOLDER.fullmatch(path.parent.name):
            language = language_code(path.parent.name)
        yield Entry(
            str(audio),
            audio if found is None else found,
            text=None if text is None else " ".join(text.split()),
            speaker=known.get("speaker"),
            id=stem,
            language=language,
        )


# -------------------------------------------------------------------------------------------------------------- STM


def read_stm(folder: Folder) -> tuple[Listing, set[Path]]:
    """List the turns of STM files (NIST sctk; TED-LIUM): `file channel speaker start end [<label>] text`.

    Returns:
        The listing, and the audio files that the lists name.
    """
    listing = Listing()
    done = set()
    for path in folder.others:
        if path.suffix.lower() != ".stm":
            continue
        for number, line in read_lines(path):
            if line.startswith(";;"):
                continue
            entry = _stm_entry(f"{path}:{number}", line, path, folder)
            if entry.text == NOT_SCORED:
                listing.left_out["stm: gaps that are not scored"] += 1
                continue
            listing.entries.append(entry)
            done.add(entry.path)
    return listing, done


def _stm_entry(where: str, line: str, path: Path, folder: Folder) -> Entry:
    # Five columns, and the rest, which may begin with a label such as <o,f0,male>.
    try:
        name, channel, speaker, first, last, *rest = line.split(maxsplit=5)
        start = float(first)
        end = float(last)
        number = channel_number(channel, first=1)
    except ValueError as error:
        raise ValueError(f"{where}: {line!r} is not `file channel speaker start end text` ({error})") from error
    text = re.sub(r"^<(NA|[^>]*,[^>]*)>", "", "".join(rest))
    audio = folder.audio_of(path.with_name(name))
    return Entry(
        where,
        path.with_name(name) if audio is None else audio,
        start,
        end,
        text=" ".join(text.split()) or None,
        speaker=speaker,
        id=f"{name}-{speaker}-{round(start * 100):07d}-{round(end * 100):07d}",
        channel=number,
    )
