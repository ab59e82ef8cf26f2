"""Time alignments: labelled segments, tiers of them, and their files (TextGrid, CTM, TIMIT's .phn and .wrd).

A tier is a sequence of segments in order of time that do not overlap. Times are seconds everywhere: TIMIT's sample
numbers and the durations of a CTM are converted on reading. praatio (the extra `analysis`) does TextGrids.
"""

import difflib
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from flexicodec.io_utils import replacing

OVERLAP = 1e-3  # seconds by which segments may overlap through rounding in a file
SAME_TIME = 1e-6  # seconds below which two times are equal
PHONE_TIERS = ("phones", "phone", "phonemes", "phoneme", "segments", "mau")
WORD_TIERS = ("words", "word", "ort-mau", "ort")
TIMIT_RATE = 16_000  # Hz, of the samples counted in .phn and .wrd

ALIGNMENT_SUFFIXES = (".textgrid", ".phn", ".phones", ".lab", ".json", ".csv")
"""Suffixes, in lower case, of files with the alignment of one clip, in the order in which one is preferred; `.lab`,
`.json` and `.csv` may be other things too, which `is_alignment` tells apart."""
SHARED_SUFFIXES = (".ctm", ".mlf")  # of files with the alignments of many clips


@dataclass(frozen=True)
class Segment:
    """Labelled interval of a clip: a phone, syllable, word or token. Silence has an empty or a silence label."""

    start: float  # seconds from the beginning of the clip
    end: float
    label: str

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start) and math.isfinite(self.end) and 0 <= self.start <= self.end):
            raise ValueError(
                f"segment {self.label!r} runs from {self.start} to {self.end}; expected seconds from 0 up, the end "
                "not before the start (was a duration given as the end?)"
            )

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.end - self.start

    @property
    def middle(self) -> float:
        """Midpoint in seconds; decides which token, word or window the segment belongs to."""
        return (self.start + self.end) / 2


@dataclass(frozen=True)
class Alignment:
    """Phones and words of a clip in time; `words` is empty where the source has none."""

    phones: tuple[Segment, ...]
    words: tuple[Segment, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "phones", check_tier(self.phones, "phones"))
        object.__setattr__(self, "words", check_tier(self.words, "words"))

    @property
    def end(self) -> float:
        """Seconds to the end of the last segment; 0 without segments."""
        return max((tier[-1].end for tier in (self.phones, self.words) if tier), default=0.0)

    def within(self, start: float, end: float) -> "Alignment":
        """Cut out the part from `start` to `end` seconds, whose times then count from `start`.

        Segments whose midpoint lies in the part are kept, and clipped to it.
        """

        def cut(tier: Sequence[Segment]) -> tuple[Segment, ...]:
            kept = [s for s in tier if start <= s.middle < end]
            return tuple(Segment(max(s.start, start) - start, min(s.end, end) - start, s.label) for s in kept)

        return Alignment(cut(self.phones), cut(self.words))


def check_tier(tier: Sequence[Segment], name: str = "segments") -> tuple[Segment, ...]:
    """Return the tier as a tuple; ValueError where segments are out of order or overlap."""
    for before, after in zip(tier, tier[1:], strict=False):
        if after.start < before.end - OVERLAP:
            raise ValueError(
                f"{name} overlap: {before.label!r} ends at {before.end:g} s, {after.label!r} starts at "
                f"{after.start:g} s; expected them in order of time (are two speakers in one tier?)"
            )
    return tuple(tier)


def label_at(tier: Sequence[Segment], times: Float[np.ndarray, " times"]) -> list[str]:
    """Return the label of the segment at each time; an empty label in gaps."""
    labels = []
    before = np.searchsorted([s.start for s in tier], times, side="right") - 1
    for i, time in zip(before, times, strict=True):
        inside = i >= 0 and time < tier[i].end
        labels.append(tier[i].label if inside else "")
    return labels


# ---------------------------------------------------------------------------------------------------------- reading


def is_alignment(path: str | os.PathLike[str]) -> bool:
    """Tell by its suffix, and its first lines where that is not enough, whether a file is an alignment of one clip.

    A `.lab` may be a transcript (MFA's corpora), a `.json` or `.csv` anything.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in ALIGNMENT_SUFFIXES or not path.is_file():
        return False
    with path.open("rb") as file:
        beginning = file.read(2000).decode("utf-8-sig", errors="replace")
    if suffix == ".lab":  # HTK begins with times; files of ESPS and Festival have a line with only "#"
        return bool(re.match(r"\s*\d+\s+\d+\s+\S|[^#]*^#\s*$", beginning, re.MULTILINE))
    if suffix == ".json":
        return '"tiers"' in beginning
    if suffix == ".csv":
        return {"begin", "end", "label", "type"} <= set(beginning.split("\n")[0].strip().lower().split(","))
    return True


def read_alignment(
    path: str | os.PathLike[str],
    *,
    phone_tier: str | None = None,
    word_tier: str | None = None,
    words: str | os.PathLike[str] | None = None,
    utterance: str | None = None,
) -> Alignment:
    """Read the alignment of one clip; the suffix tells the format.

    Args:
        path: `.TextGrid`; `.ctm` with phones; or TIMIT's `.phn`, with the words from the `.wrd` beside it.
        phone_tier: Tier of the TextGrid; by default the one named "phones", or as MFA and MAUS name it.
        word_tier: Likewise for words; without a name, a TextGrid may lack it.
        words: CTM file with the words, if `path` is one with phones.
        utterance: Id of the utterance in a CTM; not needed where it holds one.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".textgrid":
        return _read_textgrid(path, phone_tier, word_tier)
    if suffix == ".ctm":
        phones = _one_utterance(path, utterance)
        return Alignment(phones, () if words is None else _one_utterance(Path(words), utterance))
    if suffix == ".phn":
        for ending in (".wrd", ".WRD"):
            if path.with_suffix(ending).exists():
                return Alignment(_read_timit(path), _read_timit(path.with_suffix(ending)))
        return Alignment(_read_timit(path))
    raise ValueError(f"{path} is no alignment that can be read; expected a .TextGrid, .ctm or .phn file")


def read_ctm(path: str | os.PathLike[str]) -> dict[str, tuple[Segment, ...]]:
    """Read a CTM file (Kaldi, NIST) into the segments of each utterance, in order of time.

    Each line is `utterance channel start duration label [confidence]`; lines that start with ;; are comments.
    """
    utterances: dict[str, list[Segment]] = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split()
        if not fields or line.startswith(";;"):
            continue
        try:
            start = float(fields[2])
            segment = Segment(start, start + float(fields[3]), fields[4])
        except (IndexError, ValueError) as error:
            raise ValueError(
                f"{path}, line {number}: {line!r} is not `utterance channel start duration label` ({error})"
            ) from error
        utterances.setdefault(fields[0], []).append(segment)
    tiers = {}
    for name, segments in utterances.items():
        segments.sort(key=lambda s: (s.start, s.end))
        tiers[name] = check_tier(segments, f"{path}: segments of {name}")
    return tiers


def _one_utterance(path: Path, name: str | None) -> tuple[Segment, ...]:
    utterances = read_ctm(path)
    if name is None and len(utterances) == 1:
        return next(iter(utterances.values()))
    if name is None:
        raise ValueError(f"{path} holds {len(utterances)} utterances; say which one with utterance=")
    if name not in utterances:
        near = difflib.get_close_matches(name, utterances, n=1)
        raise ValueError(f"{path} has no utterance {name!r}{f'; is it {near[0]!r}?' if near else ''}")
    return utterances[name]


def _read_timit(path: Path) -> tuple[Segment, ...]:
    """Read lines `first_sample past_last_sample label`."""
    segments = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            first, last, label = line.split(maxsplit=2)
            segments.append(Segment(int(first) / TIMIT_RATE, int(last) / TIMIT_RATE, label.strip()))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {line!r} is not `first last label`, in samples") from error
    return tuple(segments)


def _read_textgrid(path: Path, phone_tier: str | None, word_tier: str | None) -> Alignment:
    from praatio.textgrid import openTextgrid

    try:
        grid = openTextgrid(str(path), includeEmptyIntervals=True, reportingMode="silence", duplicateNamesMode="rename")
    except OSError:
        raise
    except Exception as error:  # praatio's own errors, and those of its parser on other files
        raise ValueError(f"{path} is no TextGrid that can be read: {type(error).__name__}: {error}") from error
    phones = _textgrid_tier(path, grid, phone_tier, PHONE_TIERS)
    if phones is None:
        names = ", ".join(map(repr, grid.tierNames))
        raise ValueError(f"{path} has the tiers {names}, but none of the usual names ({','.join(PHONE_TIERS)})")
    return Alignment(phones, _textgrid_tier(path, grid, word_tier, WORD_TIERS) or ())


def _textgrid_tier(path: Path, grid: Any, name: str | None, usual: Sequence[str]) -> tuple[Segment, ...] | None:
    """Return the tier of a name, or the first with a usual one; None where there is none."""
    if name is not None and name not in grid.tierNames:
        raise ValueError(f"{path} has the tiers {', '.join(map(repr, grid.tierNames))}, but none named {name!r}")
    if name is None:
        # MFA writes "speaker - phones" where files name a speaker
        by_usual = {full.lower().rsplit(" - ", 1)[-1]: full for full in reversed(grid.tierNames)}
        name = next((by_usual[each] for each in usual if each in by_usual), None)
    return None if name is None else tuple(Segment(*entry) for entry in grid.getTier(name).entries)


# ---------------------------------------------------------------------------------------------------------- writing


def write_ctm(path: str | os.PathLike[str], utterances: Mapping[str, Sequence[Segment]], channel: str = "1") -> None:
    """Write the segments of utterances as CTM, to the microsecond; segments with an empty label are left out."""
    lines = []
    for name, segments in utterances.items():
        for s in segments:
            if not s.label:
                continue
            if len(f"{name} {s.label}".split()) != 2:
                raise ValueError(f"{s.label!r} of {name!r}: in a CTM neither may be empty or hold a space")
            lines.append(f"{name} {channel} {s.start:.6f} {s.duration:.6f} {s.label}\n")
    with replacing(path) as part:
        part.write_text("".join(lines), encoding="utf-8")


def write_textgrid(path: str | os.PathLike[str], tiers: Mapping[str, Sequence[Segment]], end: float) -> None:
    """Write tiers by name as a TextGrid of `end` seconds; gaps become empty intervals."""
    from praatio.data_classes.interval_tier import IntervalTier
    from praatio.data_classes.textgrid import Textgrid

    if not tiers:
        raise ValueError("there are no tiers to write; expected segments by the name of their tier")
    grid = Textgrid(0.0, end)
    for name, tier in tiers.items():
        tier = check_tier(tier, f"segments of tier {name!r}")
        if tier and tier[-1].end > end + SAME_TIME:
            raise ValueError(f"tier {name!r} lasts {tier[-1].end:g} s, but the clip {end:g} s; is it of another clip?")
        # Praat accepts neither overlaps, however small, nor segments without duration.
        entries = []
        for i, segment in enumerate(tier):
            limit = tier[i + 1].start if i + 1 < len(tier) else end
            if min(segment.end, limit) > segment.start:
                entries.append((segment.start, min(segment.end, limit), segment.label))
        grid.addTier(IntervalTier(name, entries, 0.0, end), reportingMode="silence")
    with replacing(path) as part:
        grid.save(str(part), format="long_textgrid", includeBlankSpaces=True, reportingMode="silence")
