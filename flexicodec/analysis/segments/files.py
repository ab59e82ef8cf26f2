"""Alignments in files: Praat's TextGrid, CTM as of Kaldi and NIST, and TIMIT's .phn and .wrd.

praatio (the extra `analysis`) does TextGrids. Every time in a file becomes seconds on the way in: TIMIT counts samples,
CTM has durations in the place of ends.
"""

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from flexicodec.analysis.segments.segment import SAME_TIME, Alignment, Segment, check_tier
from flexicodec.io_utils import replacing

PHONE_TIERS = ("phones", "phone", "phonemes", "phoneme", "segments", "mau")
WORD_TIERS = ("words", "word", "ort-mau", "ort")
TIMIT_RATE = 16_000  # Hz, of the samples that .phn and .wrd count


def read_alignment(
    path: str | os.PathLike[str],
    *,
    phone_tier: str | None = None,
    word_tier: str | None = None,
    words: str | os.PathLike[str] | None = None,
    utterance: str | None = None,
) -> Alignment:
    """Read when the phones and words of one clip sound, by the file's suffix.

    Args:
        path: `.TextGrid`; `.ctm` with phones; or TIMIT's `.phn`, with the words from the `.wrd` beside it.
        phone_tier: Name of the TextGrid's tier; by default the one named "phones", or as MFA and MAUS do.
        word_tier: Likewise for words; where it is not named and there is none, there are no words.
        words: CTM file with the words, if `path` is one with phones.
        utterance: Which of a CTM's utterances; not needed where it holds one.

    Raises:
        ValueError: No such tier or utterance, a line that cannot be read, or another kind of file.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".textgrid":
        return _read_textgrid(path, phone_tier, word_tier)
    if suffix == ".ctm":
        spoken = () if words is None else _one_of(read_ctm(words), utterance, Path(words))
        return Alignment(_one_of(read_ctm(path), utterance, path), spoken)
    if suffix == ".phn":
        beside = [path.with_suffix(ending) for ending in (".wrd", ".WRD") if path.with_suffix(ending).exists()]
        return Alignment(_read_timit(path), _read_timit(beside[0]) if beside else ())
    raise ValueError(f"{path} is no alignment that can be read; expected a .TextGrid, .ctm or .phn file")


def read_ctm(path: str | os.PathLike[str]) -> dict[str, tuple[Segment, ...]]:
    """Read a CTM file: a line `utterance channel start duration label [confidence]` for each segment.

    Returns:
        The segments of every utterance, in order of time.

    Raises:
        ValueError: A line with too few fields or no numbers, or segments that overlap.
    """
    found: dict[str, list[Segment]] = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split()
        if not fields or line.startswith(";;"):
            continue
        try:
            start, duration = float(fields[2]), float(fields[3])
            segment = Segment(start, start + duration, fields[4])
        except (IndexError, ValueError) as error:
            raise ValueError(
                f"{path}, line {number}: {line!r} is not `utterance channel start duration label` ({error})"
            ) from error
        found.setdefault(fields[0], []).append(segment)
    return {
        name: check_tier(sorted(segments, key=lambda s: (s.start, s.end)), f"{path}: segments of {name}")
        for name, segments in found.items()
    }


def write_ctm(path: str | os.PathLike[str], utterances: Mapping[str, Sequence[Segment]], channel: str = "1") -> None:
    """Write segments of utterances as CTM, to the microsecond; empty labels, which are silence, have no line.

    Raises:
        ValueError: A name or a label with a space in it, which CTM cannot hold.
    """
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
    """Write tiers as a TextGrid that Praat opens; gaps become empty intervals.

    Args:
        path: Of the file.
        tiers: Segments of each tier, by its name.
        end: Duration of the clip in seconds.

    Raises:
        ValueError: No tiers, or segments that overlap or last beyond the end.
    """
    from praatio.data_classes.interval_tier import IntervalTier
    from praatio.data_classes.textgrid import Textgrid

    if not tiers:
        raise ValueError("there are no tiers to write; expected segments by the name of their tier")
    grid = Textgrid(0.0, end)
    for name, tier in tiers.items():
        tier = check_tier(tier, f"segments of tier {name!r}")
        if tier and tier[-1].end > end + SAME_TIME:
            raise ValueError(f"tier {name!r} lasts {tier[-1].end:g} s, but the clip {end:g} s; is it of another clip?")
        grid.addTier(IntervalTier(name, _without_overlaps(tier, end), 0.0, end), reportingMode="silence")
    with replacing(path) as part:
        grid.save(str(part), format="long_textgrid", includeBlankSpaces=True, reportingMode="silence")


def _without_overlaps(tier: Sequence[Segment], end: float) -> list[tuple[float, float, str]]:
    """List a tier's segments for Praat, which takes neither overlaps, however small, nor segments without duration."""
    ends = [min(s.end, following.start) for s, following in zip(tier, tier[1:], strict=False)]
    ends += [min(s.end, end) for s in tier[-1:]]
    return [(s.start, last, s.label) for s, last in zip(tier, ends, strict=True) if last > s.start]


def _read_textgrid(path: Path, phone_tier: str | None, word_tier: str | None) -> Alignment:
    from praatio.textgrid import openTextgrid

    try:
        grid = openTextgrid(str(path), includeEmptyIntervals=True, reportingMode="silence", duplicateNamesMode="rename")
    except OSError:
        raise
    except Exception as error:  # praatio's own, and what its parser stumbles over
        raise ValueError(f"{path} is no TextGrid that can be read: {type(error).__name__}: {error}") from error

    def tier(name: str | None, usual: Sequence[str], needed: bool) -> tuple[Segment, ...]:
        chosen = name if name in grid.tierNames else None if name else _usual(grid.tierNames, usual)
        if chosen is None and (needed or name):
            raise ValueError(
                f"{path} has the tiers {', '.join(map(repr, grid.tierNames))}, but none "
                f"{f'named {name!r}' if name else f'of the usual names ({chr(44).join(usual)})'}"
            )
        return () if chosen is None else tuple(Segment(*entry) for entry in grid.getTier(chosen).entries)

    return Alignment(tier(phone_tier, PHONE_TIERS, needed=True), tier(word_tier, WORD_TIERS, needed=False))


def _usual(names: Sequence[str], usual: Sequence[str]) -> str | None:
    """Find the tier with a usual name; MFA writes "speaker - phones" where files name a speaker."""
    bare = {name.lower().rsplit(" - ", 1)[-1]: name for name in reversed(names)}
    return next((bare[each] for each in usual if each in bare), None)


def _one_of(utterances: Mapping[str, tuple[Segment, ...]], name: str | None, path: Path) -> tuple[Segment, ...]:
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
