"""Time alignments: labelled segments, tiers of them, the alignment of one clip, and writing TextGrids and CTMs.

A tier is a sequence of segments in order of time that do not overlap. Times are seconds everywhere: TIMIT's sample
numbers and the durations of a CTM are converted on reading (`formats.py`, `grids.py`).
praatio (the extra `analysis`) writes TextGrids.
"""

import math
import os
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

from flexicodec.io_utils import replacing

OVERLAP = 1e-3  # seconds by which segments may overlap through rounding in a file
SAME_TIME = 1e-6  # seconds below which two times are equal
PHONE_TIERS = ("phones", "phone", "phonemes", "phoneme", "segments", "mau")
WORD_TIERS = ("words", "word", "ort-mau", "ort")

Changes = list[tuple[float | None, str]]  # what a reader changed or left out, with the time where it is known

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
    """Phones and words of a clip in time; `words` is empty where the source has none.

    `changed` is what was cut or left out in reading.
    """

    phones: tuple[Segment, ...]
    words: tuple[Segment, ...] = ()
    changed: tuple[tuple[float | None, str], ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "phones", check_tier(self.phones, "phones"))
        object.__setattr__(self, "words", check_tier(self.words, "words"))

    @property
    def end(self) -> float:
        """Seconds to the end of the last segment; 0 without segments."""
        return max((tier[-1].end for tier in (self.phones, self.words) if tier), default=0.0)

    @property
    def changes(self) -> dict[str, int]:
        """Count what was cut or left out in reading, by what it is."""
        return dict(Counter(what for _, what in self.changed))

    def within(self, start: float, end: float) -> "Alignment":
        """Cut out the part from `start` to `end` seconds, whose times then count from `start`.

        Segments whose midpoint lies in the part are kept, and clipped to it.
        """

        def cut(tier: Sequence[Segment]) -> tuple[Segment, ...]:
            kept = [s for s in tier if start <= s.middle < end]
            return tuple(Segment(max(s.start, start) - start, min(s.end, end) - start, s.label) for s in kept)

        changed = [(time, what) for time, what in self.changed if time is None or start <= time < end]
        return Alignment(cut(self.phones), cut(self.words), tuple(changed))


@dataclass(frozen=True)
class Track:
    """Segments of one tier of a file, with the speaker or channel where the file tells it."""

    name: str  # of the tier as the file has it; "phones" or "words" where it has no names
    segments: tuple[Segment, ...]
    kind: str = ""  # the same in lower case and without its speaker, if it is one of `PHONE_TIERS` or `WORD_TIERS`
    speaker: str | None = None
    channel: str | None = None
    counts_from_zero: bool = False  # whether the first channel is 0, and not 1
    has_points: bool = False  # points in time, which have no duration


def check_tier(tier: Sequence[Segment], name: str = "segments") -> tuple[Segment, ...]:
    """Return the tier as a tuple; ValueError where segments are out of order or overlap."""
    for before, after in zip(tier, tier[1:], strict=False):
        if after.start < before.end - OVERLAP:
            raise ValueError(
                f"{name} overlap: {before.label!r} ends at {before.end:g} s, {after.label!r} starts at "
                f"{after.start:g} s; expected them in order of time (are two speakers in one tier?)"
            )
    return tuple(tier)


def cut_overlaps(segments: Iterable[Segment], most: float, changes: Changes) -> list[Segment]:
    """End segments where the next one starts, if they overlap by up to `most` seconds."""
    tier = list(segments)
    for i, after in enumerate(tier[1:]):
        if tier[i].start <= after.start and OVERLAP < tier[i].end - after.start <= most:
            tier[i] = Segment(tier[i].start, after.start, tier[i].label)
            changes.append((after.start, "segments cut where the next one starts"))
    return tier


def label_at(tier: Sequence[Segment], times: Float[np.ndarray, " times"]) -> list[str]:
    """Return the label of the segment at each time; an empty label in gaps."""
    labels = []
    before = np.searchsorted([s.start for s in tier], times, side="right") - 1
    for i, time in zip(before, times, strict=True):
        inside = i >= 0 and time < tier[i].end
        labels.append(tier[i].label if inside else "")
    return labels


# ---------------------------------------------------------------------------------------------------------- reading


def read_ctm(path: str | os.PathLike[str]) -> dict[str, tuple[Segment, ...]]:
    """Read a CTM file (Kaldi, NIST) into the segments of each utterance, in order of time.

    Each line is `utterance channel start duration label [confidence [type [speaker]]]`; lines that start with ;; are
    comments. An utterance with two channels or speakers is a `ValueError`: `read_alignment` chooses one.
    """
    from flexicodec.corpus.alignments.formats import read_tracks, utterance_ids

    tiers = {}
    for name in utterance_ids(Path(path)):
        (track,) = _of_voice(Path(path), read_tracks(Path(path), name, []), None, None)
        tiers[name] = track.segments
    return tiers


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
    speaker: str | None = None,
    channel: str | int | None = None,
) -> Alignment:
    """Read the alignment of one clip; the suffix tells the format.

    Args:
        path: A file with phones: `.TextGrid`, `.ctm`, `.phn` of TIMIT, `.phones` of Buckeye (with the words from the
            file beside these two), `.lab` and `.mlf` of HTK, `.json` and `.csv` of MFA; a CTM also as `.gz`.
        phone_tier: Tier of a TextGrid; by default the one named "phones", or as MFA and MAUS name it.
        word_tier: Likewise for words; without a name, a TextGrid may lack it.
        words: CTM file with the words, if `path` is one with phones.
        utterance: Id of the utterance in a CTM or MLF; not needed where it holds one.
        speaker: Speaker whose phones and words are read; needed where the file has several.
        channel: Likewise the channel, as the file names it or as a number from 0: 0 is "A" or "1".

    Raises:
        ValueError: The file is damaged or of another format, has no phones, or has those of several speakers or
            channels and it is not said which.
    """
    from flexicodec.corpus.alignments.formats import read_tracks  # which imports the classes above

    path = Path(path)
    changes: Changes = []
    tracks = read_tracks(path, utterance, changes)
    if phone_tier is not None:
        found = _named(path, tracks, phone_tier)
    else:
        usual = _of_kinds(tracks, PHONE_TIERS)
        if not usual:
            names = ", ".join(repr(track.name) for track in tracks) or "none"
            raise ValueError(f"{path} has the tiers {names}, but none of the usual names ({', '.join(PHONE_TIERS)})")
        found = _first(path, _of_voice(path, usual, speaker, channel), PHONE_TIERS)
        _check_phones(path, found)

    # Words are of the same speaker and channel as the phones, whichever way these were chosen.
    if words is not None:
        in_words = read_tracks(Path(words), utterance, changes)
        in_words = _of_kinds(in_words, WORD_TIERS) or in_words  # a CTM does not tell words from phones
        near = channel if found.channel is None else found.channel
        found_words = _of_voice(Path(words), in_words, found.speaker or speaker, near)[:1]
    elif word_tier is not None:
        found_words = [_named(path, tracks, word_tier)]
    else:
        usual = [track for track in _of_kinds(tracks, WORD_TIERS) if not track.has_points]
        if len(usual) < len(_of_kinds(tracks, WORD_TIERS)):
            changes.append((None, "tiers of words left out, which hold points"))
        found_words = [t for t in usual if (t.speaker, t.channel) == (found.speaker, found.channel)]
        if not found_words and len({t.speaker for t in tracks} - {None}) == 1:
            found_words = [t for t in usual if t.speaker is None]  # "phones_v2" beside "words"
        if found_words:
            found_words = [_first(path, found_words, WORD_TIERS)]
        elif usual and len({t.speaker for t in _of_kinds(tracks, PHONE_TIERS)}) == 1:
            changes.append((None, "tiers of words left out, whose speakers have no phones"))
    return Alignment(found.segments, found_words[0].segments if found_words else (), tuple(changes))


def _check_phones(path: Path, track: Track) -> None:
    labels = [segment.label for segment in track.segments]
    if not any(labels):
        raise ValueError(f"{path} has no phones: tier {track.name!r} is empty")
    if all(label.isdigit() for label in filter(None, labels)):
        raise ValueError(
            f"{path} has numbers in place of phones ({', '.join(labels[:3])}); are they Kaldi's? "
            "`utils/int2sym.pl -f 5 phones.txt` turns them into labels"
        )


def _of_kinds(tracks: Sequence[Track], kinds: Sequence[str]) -> list[Track]:
    return [track for track in tracks if track.kind in kinds]


def _named(path: Path, tracks: Sequence[Track], name: str) -> Track:
    """Return the tier of a name that the caller gave."""
    named = [track for track in tracks if track.name == name]
    if not named:
        raise ValueError(f"{path} has the tiers {', '.join(repr(t.name) for t in tracks)}, but none named {name!r}")
    return _first(path, named, [track.kind for track in named])


def _first(path: Path, tracks: Sequence[Track], kinds: Sequence[str]) -> Track:
    """Return the tier whose kind comes first in a list; intervals before points, which have no duration."""
    best = min((track.has_points, kinds.index(track.kind)) for track in tracks)
    found = [track for track in tracks if (track.has_points, kinds.index(track.kind)) == best]
    if len(found) > 1:
        raise ValueError(f"{path} has {len(found)} tiers named {found[0].name!r}; give them different names in Praat")
    if found[0].has_points:
        raise ValueError(f"{path}: tier {found[0].name!r} holds points in time; expected intervals, with start and end")
    return found[0]


def _of_voice(path: Path, tracks: Sequence[Track], speaker: str | None, channel: str | int | None) -> Sequence[Track]:
    """Return the tracks of one speaker on one channel: the only one there is, or the one asked for."""
    channels = list(dict.fromkeys(track.channel for track in tracks))
    chosen = _matching_channel(channels, channel, any(track.counts_from_zero for track in tracks))
    if channels != [None]:
        _check_choice(path, "channel", channels, channel, chosen)
        tracks = [track for track in tracks if track.channel in chosen]

    speakers = list(dict.fromkeys(track.speaker for track in tracks))
    chosen = [name for name in speakers if name == speaker and name is not None]
    if speaker is not None and not chosen:
        chosen = [name for name in speakers if name is not None and name.lower() == speaker.lower()]
    if channel is not None and not chosen:
        chosen = _matching_channel(speakers, channel, "0" in speakers)  # MFA's "A - phones" of a call
    if speakers != [None]:
        _check_choice(path, "speaker", speakers, speaker, chosen or (speakers if speaker is None else []))
        tracks = [track for track in tracks if track.speaker in (chosen or speakers)]
    return tracks


def _matching_channel(names: Sequence[str | None], wanted: str | int | None, from_zero: bool) -> Sequence[str | None]:
    """Return the names of a channel: A and 1 (or 0, where channels count from 0) are the first; all for None."""
    if wanted is None:
        return names
    if wanted in names:
        return [wanted]  # type: ignore[list-item]
    index = wanted if isinstance(wanted, int) else _channel_index(wanted, False)
    return [name for name in names if name is not None and _channel_index(name, from_zero) == index]


def _channel_index(name: str, from_zero: bool) -> int | None:
    """Return the number of a channel from 0, for names such as A or 1."""
    if len(name) == 1 and name.upper() in string.ascii_uppercase:
        return string.ascii_uppercase.index(name.upper())
    return int(name) - (not from_zero) if name.isdigit() else None


def _check_choice(
    path: Path, what: str, names: Sequence[str | None], wanted: str | int | None, chosen: Sequence[str | None]
) -> None:
    """Check that one speaker or channel is chosen."""
    if len(chosen) == 1:
        return
    listed = ", ".join("one without a name" if name is None else repr(name) for name in names)
    if wanted is None:
        raise ValueError(f"{path} has the {what}s {listed}; say which with {what}=")
    raise ValueError(f"{path} has the {what}s {listed}, but not {wanted!r}; is the {what} in the manifest another one?")


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
