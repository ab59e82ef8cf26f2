"""A stretch of a clip with a label, tiers of them, and what can be asked of a tier. Times are seconds.

A tier is a sequence of segments in order of time that do not overlap. What lies between them, and what carries a label
of silence, is silence.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from flexicodec.analysis.segments.labels import is_silence

OVERLAP = 1e-3  # seconds that rounding in a file may make two segments overlap
SAME_TIME = 1e-6  # seconds below which two edges are one


@dataclass(frozen=True)
class Segment:
    """A phone, a syllable, a word or a token in time.

    Attributes:
        start: Seconds from the beginning of the clip.
        end: Seconds.
        label: What it is; empty for silence.
    """

    start: float
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
        """Seconds it lasts."""
        return self.end - self.start

    @property
    def middle(self) -> float:
        """Seconds to its midpoint, which says what token or word it belongs to."""
        return (self.start + self.end) / 2


@dataclass(frozen=True)
class Alignment:
    """When the phones and words of a clip sound.

    Attributes:
        phones: In order of time, silences among them where the source marks them.
        words: Likewise; none where the source has none.
    """

    phones: tuple[Segment, ...]
    words: tuple[Segment, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "phones", check_tier(self.phones, "phones"))
        object.__setattr__(self, "words", check_tier(self.words, "words"))

    @property
    def end(self) -> float:
        """Seconds to the end of the last segment; compare with the clip's duration."""
        return max((tier[-1].end for tier in (self.phones, self.words) if tier), default=0.0)

    def within(self, start: float, end: float) -> "Alignment":
        """Take the stretch from `start` to `end`, for a clip that is a part of a file; times then count from `start`.

        Segments belong to the stretch that holds their midpoint; what stands out of it is cut off.
        """

        def taken(tier: Sequence[Segment]) -> tuple[Segment, ...]:
            return tuple(
                Segment(max(s.start, start) - start, min(s.end, end) - start, s.label)
                for s in tier
                if start <= s.middle < end
            )

        return Alignment(taken(self.phones), taken(self.words))


def check_tier(tier: Sequence[Segment], name: str = "segments") -> tuple[Segment, ...]:
    """Return the tier as a tuple; ValueError where segments are out of order or overlap."""
    for before, after in zip(tier, tier[1:], strict=False):
        if after.start < before.end - OVERLAP:
            raise ValueError(
                f"{name} overlap: {before.label!r} ends at {before.end:g} s, {after.label!r} starts at "
                f"{after.start:g} s; expected them in order of time (are two speakers in one tier?)"
            )
    return tuple(tier)


def speech_seconds(tier: Sequence[Segment]) -> float:
    """Add up the seconds of all segments that are not silence."""
    return math.fsum(s.duration for s in tier if not is_silence(s.label))


def edges(tier: Sequence[Segment], seconds: float) -> Float[np.ndarray, " boundaries"]:
    """List the times at which a segment that is not silence starts or ends: the reference boundaries of a tier.

    The beginning and the end of the clip are left out, since any tokens have these for nothing; edges that two
    segments share count once.

    Args:
        tier: Segments in order of time.
        seconds: Duration of the clip.
    """
    times = np.array(sorted(t for s in tier if not is_silence(s.label) for t in (s.start, s.end)), dtype=float)
    times = times[(times > SAME_TIME) & (times < seconds - SAME_TIME)]
    return times[np.diff(times, prepend=-1.0) > SAME_TIME]


def label_at(tier: Sequence[Segment], times: Float[np.ndarray, " times"]) -> list[str]:
    """Say what sounds at each of some times; the empty label of silence where no segment does."""
    if not tier:
        return [""] * len(times)
    index = np.searchsorted([s.start for s in tier], times, side="right") - 1
    return [tier[i].label if i >= 0 and t < tier[i].end else "" for i, t in zip(index, times, strict=True)]


def in_speech(tier: Sequence[Segment], times: Float[np.ndarray, " times"]) -> Bool[np.ndarray, " times"]:
    """Tell for each time whether a segment that is not silence sounds."""
    said = [s for s in tier if not is_silence(s.label)]
    starts, ends = np.array([s.start for s in said]), np.array([s.end for s in said])
    index = np.searchsorted(starts, times, side="right") - 1
    return (index >= 0) & (np.asarray(times) < np.append(ends, -1.0)[index])


def speech_before(tier: Sequence[Segment], times: Float[np.ndarray, " times"]) -> Float[np.ndarray, " times"]:
    """Add up the seconds of speech from the beginning of the clip to each time."""
    knots, sums = [0.0], [0.0]
    for segment in tier:
        if not is_silence(segment.label):
            knots += [segment.start, segment.end]
            sums += [sums[-1], sums[-1] + segment.duration]
    return np.interp(times, knots, sums)
