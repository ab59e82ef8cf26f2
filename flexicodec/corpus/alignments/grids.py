"""Readers of alignments with named tiers: Praat's TextGrid, and MFA's JSON and CSV."""

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flexicodec.corpus.alignments.alignment import PHONE_TIERS, WORD_TIERS, Segment, Track
from flexicodec.io_utils import read_text

# Praat reads free-standing numbers, texts in quotes and flags; everything else in a text file is a remark
# (manual page "TextGrid file formats"). So its long and short formats are the same to a reader.
_PRAAT = re.compile(
    r'"([^"]*(?:""[^"]*)*)"|(?<!\S)(-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)(?!\S)|(?<!\S)<(exists|absent)>|![^\n]*'
)


class _PraatValues:
    """The values of a Praat text file, taken one by one."""

    def __init__(self, path: Path, text: str):
        self.path = path
        self.values = [(m[1], m[2]) for m in _PRAAT.finditer(text) if m[1] is not None or m[2] is not None]
        self.position = 0

    def _take(self, place: int, expected: str) -> str:
        value = self.values[self.position][place] if self.position < len(self.values) else None
        if value is None:
            found = "the file ends" if self.position >= len(self.values) else "there is another value"
            raise ValueError(f"{self.path} is a damaged TextGrid: {found} where {expected} is due; was it cut off?")
        self.position += 1
        return value

    def text(self, expected: str) -> str:
        """Take a text; Praat doubles the quotes in it."""
        return self._take(0, expected).replace('""', '"').strip()

    def number(self, expected: str) -> float:
        """Take a number."""
        return float(self._take(1, expected))

    def count(self, expected: str) -> int:
        """Take the number of tiers or entries."""
        number = self.number(expected)
        if not number.is_integer():
            raise ValueError(f"{self.path} is a damaged TextGrid: {expected} is {number:g}; expected a whole number")
        return int(number)


def read_textgrid(path: Path) -> list[Track]:
    """Read the tiers of a TextGrid: Praat's long or short text format, or JSON of praatio."""
    data = path.read_bytes()
    if data.startswith(b"ooBinaryFile"):
        raise ValueError(f"{path} is a binary TextGrid; open it in Praat and save it as a text file")
    text = read_text(path)
    if text.lstrip().startswith("{"):
        return read_json(path)
    if "chronological TextGrid" in text[:100]:
        raise ValueError(f"{path} is a chronological TextGrid; open it in Praat and save it as a text file")
    return _parse_textgrid(path, text)


def _parse_textgrid(path: Path, text: str) -> list[Track]:
    """Parse a TextGrid in Praat's long or short format; every declared tier and interval has to be there."""
    values = _PraatValues(path, text)
    head = values.values[:2]
    if len(head) < 2 or not (head[0][0] or "").startswith("ooTextFile") or head[1][0] != "TextGrid":
        raise ValueError(
            f'{path} is no TextGrid that can be read; expected "ooTextFile" and "TextGrid" in its first lines'
        )
    values.position = 2
    # The counts of tiers and intervals decide how much has to follow, so that a file that was cut off is noticed.
    values.number("the start of the clip")
    values.number("the end of the clip")
    tiers = []
    number_of_tiers = values.count("the number of tiers")
    for i in range(1, number_of_tiers + 1):
        where = f"tier {i} of {number_of_tiers}"
        kind, name = values.text(where), values.text(f"the name of {where}")
        values.number(f"the start of {where}")
        values.number(f"the end of {where}")
        if kind not in ("IntervalTier", "TextTier"):
            raise ValueError(f"{path} is a damaged TextGrid: {where} is of class {kind!r}; was it edited by hand?")
        has_points = kind == "TextTier"
        entries = []
        size = values.count(f"the size of {where}")
        for j in range(1, size + 1):
            entry = f"interval {j} of {size} in tier {name!r}"
            start = values.number(entry)
            end = start if has_points else values.number(entry)
            entries.append((start, end, values.text(entry)))
        tiers.append((name, has_points, entries))
    rest = len(values.values) - values.position
    if rest:
        raise ValueError(
            f"{path} is a damaged TextGrid: {rest} values follow the {number_of_tiers} tiers that it declares; was it "
            "edited by hand?"
        )
    return _grid_tracks(path, tiers)


def read_json(path: Path) -> list[Track]:
    """Parse MFA's JSON (`--output_format json`), or a TextGrid that praatio saved as JSON."""
    try:
        grid = json.loads(read_text(path))
    except ValueError as error:
        raise ValueError(f"{path} is damaged JSON ({error}); was it cut off?") from error
    if not isinstance(grid, dict) or not isinstance(grid.get("tiers"), (dict, list)):
        keys = ", ".join(map(repr, list(grid)[:6])) if isinstance(grid, dict) else "no keys"
        raise ValueError(f"{path} is JSON with {keys}; expected `tiers` as MFA writes them (--output_format json)")
    try:
        listed = grid["tiers"]
        if isinstance(listed, dict):  # MFA and praatio's "json"; its "textgrid_json" has a list
            listed = [{"name": name, "class": tier["type"], **tier} for name, tier in listed.items()]
        tiers = []
        for tier in listed:
            has_points = tier["class"].lower() not in ("interval", "intervaltier")
            entries = [(float(each[0]), float(each[-2]), str(each[-1])) for each in tier["entries"]]
            tiers.append((tier["name"], has_points, entries))
        end = float(grid["end"] if "end" in grid else grid["xmax"])
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(
            f"{path} is JSON with malformed tiers ({type(error).__name__}: {error}); "
            "expected entries [start, end, label]"
        ) from error
    for _, has_points, entries in tiers:
        # Silence up to the end of the clip has no entry.
        last = entries[-1][1] if entries else 0.0
        if last < end and not has_points:
            entries.append((last, end, ""))
    return _grid_tracks(path, tiers)


def _grid_tracks(path: Path, tiers: Sequence[tuple[str, bool, list[tuple[float, float, str]]]]) -> list[Track]:
    """Make tracks of tiers: their name, whether they have points, and their entries."""
    tracks = []
    for name, has_points, entries in tiers:
        try:
            segments = tuple(Segment(*entry) for entry in entries)
        except ValueError as error:
            raise ValueError(f"{path}, tier {name!r}: {error}") from error
        kind, speaker = _tier_kind(name)
        tracks.append(Track(name, segments, kind, speaker, has_points=has_points))
    # Names such as "old phones" count only where there is no tier "phones".
    if not any(track.kind in PHONE_TIERS for track in tracks):
        loose = [_loose_tier_kind(track.name) for track in tracks]
        tracks = [
            track if track.kind else replace(track, kind=kind, speaker=speaker)
            for track, (kind, speaker) in zip(tracks, loose, strict=True)
        ]
    return tracks


def _tier_kind(name: str) -> tuple[str, str | None]:
    """Split the name of a tier into one of the usual names and its speaker; MFA writes "speaker - phones"."""
    speaker, dash, kind = name.strip().rpartition(" - ")
    if kind.lower() not in (*PHONE_TIERS, *WORD_TIERS):
        return "", None
    return kind.lower(), (speaker if dash else None)


def _loose_tier_kind(name: str) -> tuple[str, str | None]:
    """Likewise for names such as `anna_phones`, `phones:A` and `phones (anna)`, if no tier has a usual name."""
    kinds = "phones?|phonemes?|words?"
    match = re.fullmatch(rf"(.+?)[\s_:/.|-]+({kinds})|({kinds})[\s_:/.|(-]+(.+?)\)?", name.strip(), re.IGNORECASE)
    if not match:
        return "", None
    return (match[2] or match[3]).lower(), match[1] or match[4]


def read_csv(path: Path) -> list[Track]:
    """Read MFA's CSV (`--output_format csv`), with the columns Begin, End, Label, Type and Speaker."""
    rows = csv.DictReader(read_text(path).split("\n"))
    columns = {name.strip().lower(): name for name in rows.fieldnames or ()}
    if not {"begin", "end", "label", "type"} <= columns.keys():
        raise ValueError(
            f"{path} is CSV with the columns {', '.join(columns) or 'none'}; expected Begin, End, Label, Type and "
            "Speaker, as MFA writes them (--output_format csv)"
        )
    tiers: dict[tuple[str, str | None], list[Segment]] = {}
    for row in rows:
        begin, end, label, kind = (row[columns[name]] for name in ("begin", "end", "label", "type"))
        speaker = row[columns["speaker"]] if "speaker" in columns else None
        try:
            segment = Segment(float(begin), float(end), label.strip())
            tiers.setdefault((kind.strip(), speaker or None), []).append(segment)
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path}, line {rows.line_num}: {list(row.values())} is no begin, end, label and type"
            ) from error
    tracks = []
    for (kind, speaker), segments in tiers.items():
        # MFA writes the tiers of a speaker one after the other.
        segments.sort(key=lambda s: (s.start, s.end))
        tracks.append(Track(kind, tuple(segments), _tier_kind(kind)[0], speaker))
    return tracks
