"""Parsers of alignments that have a line per segment: CTM, HTK, TIMIT and xwaves (Buckeye, Festival).

Sources: NIST's sctk (ctm.htm), Kaldi (`ali-to-phones --ctm-output`), the HTK Book (section 6.2, label files), TIMIT's
readme.doc, and the manual of the Buckeye corpus.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from flexicodec.corpus.alignments.alignment import Changes, Segment, Track, check_tier, cut_overlaps
from flexicodec.corpus.alignments.phones import is_silence

TIMIT_RATE = 16_000  # Hz, of the samples counted in .phn and .wrd
HTK_RATE = 10_000_000  # HTK counts units of 100 ns
ROUNDED = (
    0.0301  # seconds by which neighbours may overlap where times are frames of 10 ms, or of 30 ms in Kaldi's chain
)
SHARED_PHONE = 0.5  # seconds by which words of TIMIT may overlap: they share a phone, as in "had your"

Line = tuple[int, str]  # number and text


def numbered(text: str) -> list[Line]:
    """Number the lines of a text, from 1."""
    return list(enumerate(text.split("\n"), start=1))


def _bad_line(path: Path, line: Line, expected: str, error: Exception) -> ValueError:
    return ValueError(f"{path}, line {line[0]}: {line[1]!r} is not {expected} ({error})")


def _cut(path: Path, what: str, segments: Iterable[Segment], most: float, changes: Changes) -> tuple[Segment, ...]:
    """Cut segments that overlap their neighbour a little; overlaps of more than `most` seconds are a `ValueError`."""
    tier = cut_overlaps(segments, most, changes)
    return check_tier(tier, f"{path}: {what}")


ALTERNATIVES = "labels of alternatives left out"
CTM_FIELDS = "`utterance channel start duration label`"
NO_SPEAKERS = ("unknown", "<na>", "na", "null", "-")  # in a CTM's eighth field


def parse_ctm(path: Path, lines: Iterable[Line], channels: Collection[str], changes: Changes) -> list[Track]:
    """Parse the lines of one utterance: start, duration, label, and optionally confidence, type and speaker (NIST).

    Of alternatives between <ALT_BEGIN> and <ALT_END> the first is read. `channels` are those of the whole file: where
    all are 1, they tell nothing, since Kaldi writes 1 for every utterance; where one is 0 (lhotse), they count from 0.
    """
    voices: dict[tuple[str, str | None], list[Segment]] = {}
    alternative = 0  # number of the one in which a line is
    name = ""
    for line in lines:
        fields = line[1].split()
        try:
            name, channel, begin, duration, label = fields[:5]
            marker = label.upper()
            if marker in ("<ALT_BEGIN>", "<ALT>", "<ALT_END>"):
                if (alternative == 0) != (marker == "<ALT_BEGIN>"):
                    raise ValueError("ALT_BEGIN, ALT and ALT_END are out of order")
                alternative = 0 if marker == "<ALT_END>" else alternative + 1
                continue
            # The first alternative is the reference's own; NIST's scoring accepts the others too.
            if label == "@":  # an alternative of nothing
                continue
            if alternative > 1:
                changes.append((None if begin == "*" else float(begin), ALTERNATIVES))
                continue
            if "*" in (begin, duration):
                raise ValueError("* stands for an unknown time, which only alternatives after the first may have")
            segment = Segment(float(begin), float(begin) + float(duration), label)
        except ValueError as error:
            raise _bad_line(path, line, CTM_FIELDS, error) from error
        speaker = None
        if len(fields) >= 8 and fields[7].lower() not in NO_SPEAKERS:
            speaker = fields[7]
        voices.setdefault((channel, speaker), []).append(segment)
    if alternative:
        raise ValueError(f"{path}: alternatives of {name} have no <ALT_END>; was the file cut off?")
    tracks = []
    for (channel, speaker), segments in voices.items():
        segments.sort(key=lambda s: (s.start, s.end))
        tier = _cut(path, f"segments of {name}", segments, ROUNDED, changes)
        known = None if set(channels) == {"1"} else channel
        tracks.append(Track("phones", tier, "phones", speaker, known, counts_from_zero="0" in channels))
    return tracks


HTK_FIELDS = "`start end label` of HTK, in whole units of 100 ns"
HTK_STATE = re.compile(r"(?P<phone>.+)\[(?P<state>\d+)\]|s\d+")
HTK_CONTEXT = re.compile(r"[^+]*?[^+-]-([^-+]+)\+.*|([^-+]+)\+[^-+]+|(?!(?i:ax-h)$)[^-+]+-([^-+]+)")  # l-c+r, c+r, l-c


def parse_htk(path: Path, lines: Iterable[Line], changes: Changes) -> list[Track]:
    """Parse HTK's labels: `start end name [score] {name [score]}`.

    The last name, where rows have several, is that of the word which starts there. States (`sh[2]`, or `s2` with
    the phone after it) are joined to phones; triphones and HTS's full-context labels become their middle phone.
    Of alternatives after `///` the first is read.
    """
    rows: list[tuple[Segment, list[str]]] = []  # times, and names by level
    is_alternative = False
    for line in lines:
        fields = line[1].split()
        if fields == ["///"]:
            is_alternative = True
        elif is_alternative and fields:
            changes.append((None, ALTERNATIVES))
        elif fields:
            try:
                start, end = int(fields[0]), int(fields[1])
                rows.append((Segment(start / HTK_RATE, end / HTK_RATE, fields[2]), _htk_names(fields[2:])))
            except (ValueError, IndexError) as error:
                if not rows and not fields[0][0].isdigit():
                    raise ValueError(f"{path} holds text without times, a transcript; expected {HTK_FIELDS}") from error
                raise _bad_line(path, line, f"{HTK_FIELDS}; are these seconds?", error) from error
    # Level 0 are phones, or states with phones at level 1; the last level are words.
    first = 0
    if rows and all(HTK_STATE.fullmatch(names[0]) for _, names in rows):
        rows = _with_phones_of_states(rows)
        first = 1
    levels = max((len(names) for _, names in rows), default=0)
    if first >= levels > 0:
        raise ValueError(f"{path} holds HTK states without phones; run HVite with -m")
    phones = [Segment(s.start, s.end, _without_context(s.label)) for s in _htk_level(rows, first)]
    tracks = [Track("phones", _cut(path, "phones", phones, ROUNDED, changes), "phones")]
    if levels > first + 1:
        words = _without_silence_after(_htk_level(rows, levels - 1), phones)
        tracks.append(Track("words", tuple(words), "words"))
    return tracks


def _htk_names(fields: Sequence[str]) -> list[str]:
    """Return names without the scores that may follow each."""
    names: list[str] = []
    may_be_score = False
    for each in fields:
        is_score = may_be_score and re.fullmatch(r"-?\d+(\.\d+)?(e[-+]?\d+)?", each) is not None
        if not is_score:
            names.append(each)
        may_be_score = not is_score
    return names


def _with_phones_of_states(rows: Sequence[tuple[Segment, list[str]]]) -> list[tuple[Segment, list[str]]]:
    """Insert the phone as the second name where `sh[2]` is the first state of one."""
    found = []
    before = ("", 0)
    for segment, (state, *others) in rows:
        match = HTK_STATE.fullmatch(state)
        assert match is not None
        phone = match["phone"]
        if phone is not None:
            others = [each for each in others if each != phone]
            place = (phone, int(match["state"]))
            if place[0] != before[0] or place[1] <= before[1]:
                others = [phone, *others]
            before = place
        found.append((segment, [state, *others]))
    return found


def _htk_level(rows: Sequence[tuple[Segment, list[str]]], level: int) -> list[Segment]:
    """Join rows from one that has a name at a level to the next that has."""
    found: list[Segment] = []
    for segment, names in rows:
        if len(names) > level:
            found.append(replace(segment, label=names[level]))
        elif found:
            found[-1] = replace(found[-1], end=segment.end)
    return found


def _without_silence_after(words: Sequence[Segment], phones: Sequence[Segment]) -> list[Segment]:
    """End each word where its last phone other than silence ends."""
    ended = []
    for word in words:
        ends = [p.end for p in phones if word.start <= p.middle < word.end and not is_silence(p.label)]
        ended.append(replace(word, end=max(ends, default=word.end)))
    return ended


def _without_context(label: str) -> str:
    match = HTK_CONTEXT.fullmatch(label)
    return match[match.lastindex or 0] if match else label


# --------------------------------------------------------------------------------------------------- TIMIT, Buckeye


def parse_timit(path: Path, lines: Iterable[Line], changes: Changes, most: float) -> tuple[Segment, ...]:
    """Parse lines `first_sample past_last_sample label`."""
    segments = []
    for line in lines:
        if not line[1].strip():
            continue
        try:
            first, last, label = line[1].split(maxsplit=2)
            segments.append(Segment(int(first) / TIMIT_RATE, int(last) / TIMIT_RATE, label.strip()))
        except ValueError as error:
            raise _bad_line(path, line, "`first last label`, in samples", error) from error
    return _cut(path, "segments", segments, most, changes)


def parse_xlabel(path: Path, lines: Iterable[Line]) -> tuple[Segment, ...]:
    """Parse labels of ESPS xwaves (Buckeye, Festival): a header up to `#`, then lines `end color label; comment`."""
    segments: list[Segment] = []  # each starts where the one before ends
    in_header = True
    end = 0.0
    for line in lines:
        if in_header or not line[1].strip():
            in_header = in_header and line[1].strip() != "#"
            continue
        try:
            time, _, *rest = line[1].split(maxsplit=2)
            label = "".join(rest).split(";")[0].strip()
            segments.append(Segment(end, float(time), label))
        except ValueError as error:
            raise _bad_line(
                path, line, "`end color label`, the end in seconds and after the one before", error
            ) from error
        end = segments[-1].end
    if in_header:
        raise ValueError(f"{path} is no label file of xwaves (Buckeye); expected a header that ends with a line `#`")
    return tuple(segments)
