"""Phones made comparable between transcriptions: closures joined to their releases, and what counts as a phone."""

from collections.abc import Sequence

from flexicodec.analysis.segments.labels import is_silence, plain
from flexicodec.analysis.segments.segment import SAME_TIME, Segment

_RELEASES = {"bcl": "b", "dcl": "d jh", "gcl": "g", "pcl": "p", "tcl": "t ch", "kcl": "k"}
COUNTINGS = ("all", "speech", "merged")
"""Ways to count phones: every label; without silences; and with a closure and its release as one."""


def spoken(tier: Sequence[Segment]) -> tuple[Segment, ...]:
    """Leave out the silences of a tier."""
    return tuple(s for s in tier if not is_silence(s.label))


def merge_closures(phones: Sequence[Segment]) -> tuple[Segment, ...]:
    """Make one phone of a closure and the release after it: bcl b becomes b, tcl ch becomes ch.

    A closure that is not released becomes its stop: kcl alone is a k.
    """
    merged: list[Segment] = []
    pending: Segment | None = None
    for phone in phones:
        if pending is not None:
            releases = _RELEASES[plain(pending.label)].split()
            if plain(phone.label) in releases and phone.start <= pending.end + SAME_TIME:
                phone = Segment(pending.start, phone.end, phone.label)
            else:
                merged.append(Segment(pending.start, pending.end, releases[0]))
            pending = None
        if plain(phone.label) in _RELEASES:
            pending = phone
        else:
            merged.append(phone)
    if pending is not None:
        merged.append(Segment(pending.start, pending.end, _RELEASES[plain(pending.label)].split()[0]))
    return tuple(merged)


def count_as(phones: Sequence[Segment], counting: str) -> tuple[Segment, ...]:
    """Choose the phones that count: one of `COUNTINGS`.

    Raises:
        ValueError: A counting that there is not.
    """
    if counting not in COUNTINGS:
        raise ValueError(f"counting is {counting!r}; expected one of {', '.join(COUNTINGS)}")
    if counting == "all":
        return tuple(phones)
    return spoken(merge_closures(phones) if counting == "merged" else phones)
