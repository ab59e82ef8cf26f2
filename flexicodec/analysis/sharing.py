"""What shares a token: how often neighbouring frames are merged, by what sounds at their middles, and by what else.

Conventions: a frame is of the class of the phone that sounds at its middle; `offset` moves frames in time, see
`offset`. Two neighbouring frames lie inside one phone, across two that follow each other, or beyond: phones often last
less than a frame of 80 ms, so that whole ones may lie between the two middles.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from flexicodec.analysis.coded import Coded
from flexicodec.analysis.content import ALL, RESAMPLES, SPEECH, Clusters, Tier, check_pairs, ratio
from flexicodec.analysis.segments import CLASSES, Segment, is_silence, phone_class
from flexicodec.analysis.sound import frame_energies_db
from flexicodec.statistics import FittedModel, Interval, bootstrap, logistic_model

KINDS = ("inside", "across", "beyond")


@dataclass(frozen=True)
class Merged:
    """How often two neighbouring frames share a token, given what sounds at their middles.

    Attributes:
        kind: "inside" one segment, "across" the boundary of two that follow each other, or "beyond": with at least one
            whole segment between the two middles.
        first: Class of the earlier frame; `ALL` for every class.
        second: Class of the later frame.
        pairs: Neighbouring frames of this kind.
        share: Of them, how many share a token.
    """

    kind: str
    first: str
    second: str
    pairs: int
    share: Interval


def merge_shares(
    clips: Sequence[Coded],
    tiers: Sequence[Tier],
    *,
    clusters: Clusters = None,
    offset: float = 0.0,
    resamples: int = RESAMPLES,
    fewest: int = 30,
) -> list[Merged]:
    """Count which neighbouring frames are merged: over all classes, inside each class, and across each two classes.

    Args:
        clips: Their tokens.
        tiers: Phones of each clip; gaps between them are silence.
        clusters: Speaker of each clip.
        offset: Seconds that frames are moved by.
        resamples: For the intervals.
        fewest: Pairs of frames below which two classes are left out.

    Raises:
        ValueError: No clips, or not one tier for each.
    """
    check_pairs(clips, tiers)
    counts: dict[tuple[str, str, str], np.ndarray] = {}

    def add(key: tuple[str, str, str], clip: int, merged: bool) -> None:
        counts.setdefault(key, np.zeros((len(clips), 2), dtype=np.int64))[clip] += (merged, 1)

    for number, (clip, tier) in enumerate(zip(clips, tiers, strict=True)):
        seen = neighbours(clip, tier, offset)
        for code, first, second, merged in zip(seen.kinds, seen.first, seen.second, seen.merged, strict=True):
            kind = KINDS[code]
            add((kind, ALL, ALL), number, merged)
            if kind != "beyond":
                add((kind, first, second), number, merged)
            if kind == "inside" and first != "silence":
                add((kind, SPEECH, SPEECH), number, merged)
    found = []
    for (kind, first, second), rows in counts.items():
        if first in (ALL, SPEECH) or rows[:, 1].sum() >= fewest:
            share = bootstrap(ratio, rows[:, 0], rows[:, 1], clusters=clusters, resamples=resamples)
            found.append(Merged(kind, first, second, int(rows[:, 1].sum()), share))
    order = {name: i for i, name in enumerate((ALL, SPEECH, *CLASSES))}
    return sorted(found, key=lambda m: (KINDS.index(m.kind), order[m.first], order[m.second]))


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Every two neighbouring frames of a clip.

    Attributes:
        kinds: Index into `KINDS`.
        first: Class of what sounds at the earlier frame's middle.
        second: At the later one's.
        merged: Whether they share a token.
        position: Where between start and end (0 to 1) of the phone that sounds at the earlier frame the two meet; 1
            where that phone has ended by then.
        stressed: Whether both lie in one vowel with primary stress.
    """

    kinds: Int[np.ndarray, " pairs"]
    first: list[str]
    second: list[str]
    merged: Bool[np.ndarray, " pairs"]
    position: Float[np.ndarray, " pairs"]
    stressed: Bool[np.ndarray, " pairs"]


def neighbours(clip: Coded, tier: Tier, offset: float = 0.0) -> Neighbours:
    """Look at every two neighbouring frames of a clip."""
    middles = (np.arange(clip.num_frames) + 0.5) * clip.frame_seconds + offset
    apart = np.zeros(clip.num_frames, dtype=bool)
    apart[np.cumsum(clip.durations) - 1] = True
    whole = _without_gaps(tier)
    index = np.maximum(np.searchsorted([s.start for s in whole], middles, side="right") - 1, 0)
    sounding = [whole[i] for i in index]
    classes = [phone_class(s.label) for s in sounding]
    kinds = np.minimum(np.diff(index), KINDS.index("beyond"))
    edges = (middles[:-1] + middles[1:]) / 2
    position = [(t - s.start) / s.duration if s.duration else 1.0 for t, s in zip(edges, sounding, strict=False)]
    stress = np.array([s.label.endswith("1") for s in sounding[:-1]], dtype=bool)
    return Neighbours(kinds, classes[:-1], classes[1:], ~apart[:-1], np.clip(position, 0, 1), stress & (kinds == 0))


def _without_gaps(tier: Tier) -> list[Segment]:
    """Make a segment of silence of every gap and of neighbouring silences, so that a frame lies in exactly one."""
    whole: list[Segment] = []
    for segment in tier:
        end = whole[-1].end if whole else 0.0
        if segment.start > end + 1e-6:
            _append(whole, Segment(end, segment.start, ""))
        _append(whole, segment)
    _append(whole, Segment(whole[-1].end if whole else 0.0, float("1e9"), ""))
    return whole


def _append(whole: list[Segment], segment: Segment) -> None:
    """Add a segment, or lengthen the silence before it."""
    if whole and is_silence(segment.label) and is_silence(whole[-1].label):
        segment = Segment(whole.pop().start, segment.end, "")
    whole.append(segment)


# ------------------------------------------------------------------------------------------------ beside sound itself


ODDS = {
    "across": "across two phones",
    "beyond": "a whole phone between",
    "silence": "both in silence",
    "into_silence": "one of them in silence",
    "position": "at a phone's end, not its start",
    "stressed": "in a stressed vowel",
    "energy_change": "10 dB more change of loudness",
    "energy": "10 dB louder",
}
"""What the odds of being merged are explained by, beside two frames early in one phone that is no stressed vowel."""


def merge_odds(
    clips: Sequence[Coded], tiers: Sequence[Tier], *, clusters: Clusters = None, offset: float = 0.0
) -> FittedModel:
    """Fit the log odds that neighbouring frames share a token, by what lies between them and by how they sound.

    Phones change where loudness changes, and silence merges whatever sounds; here phone boundaries count beside both.

    Args:
        clips: Their tokens, with their audio.
        tiers: Phones of each clip; gaps between them are silence.
        clusters: Speaker of each clip; frames of one vary together, those of one clip where speakers are not known.
        offset: Seconds that frames are moved by.

    Returns:
        Effects by the names of `ODDS`, without those that never differ.

    Raises:
        ValueError: No clips, not one tier for each, a clip without audio, or all pairs of frames (or none) merged.
    """
    check_pairs(clips, tiers)
    merged, columns, units = [], [], []
    for number, (clip, tier) in enumerate(zip(clips, tiers, strict=True)):
        seen = neighbours(clip, tier, offset)
        merged.append(seen.merged)
        columns.append(_covariates(clip, seen))
        units += [number if clusters is None else clusters[number]] * len(seen.merged)
    outcome, table = np.concatenate(merged), np.concatenate(columns)
    if outcome.all() or not outcome.any():
        raise ValueError(f"{int(outcome.sum())} of {len(outcome)} pairs of frames are merged; odds need both kinds")
    varies = np.ptp(table, axis=0) > 0
    predictors = {name: table[:, i] for i, name in enumerate(ODDS) if varies[i]}
    return logistic_model(outcome, predictors, clusters=units)


def _covariates(clip: Coded, seen: Neighbours) -> Float[np.ndarray, "pairs covariates"]:
    """Lay out what may explain each pair, in the order of `ODDS`."""
    if clip.audio is None:
        raise ValueError("a clip has no audio, whose loudness is asked for; make it with Coded.of(tokens, audio)")
    loudness = frame_energies_db(clip.audio, clip.sample_rate, clip.frame_seconds, clip.num_frames) / 10
    silent = np.array([[name == "silence" for name in side] for side in (seen.first, seen.second)], dtype=float)
    across, beyond = (seen.kinds == KINDS.index(kind) for kind in ("across", "beyond"))
    both, position = silent.min(0), np.where(across | beyond, 0.0, seen.position)
    columns = [
        *(across, beyond, both, silent.max(0) - both, np.where(both > 0, 0.0, position), seen.stressed),
        *(np.abs(np.diff(loudness)), (loudness[:-1] + loudness[1:]) / 2),
    ]
    return np.stack([np.asarray(column, dtype=float) for column in columns], axis=1).reshape(-1, len(ODDS))
