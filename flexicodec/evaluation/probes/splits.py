"""Which clips a classifier is fitted to and which it is tested on, where one manifest has to give both.

Speakers are to be told apart, so clips of each are on both sides. Anything else is tested on speakers that the fit has
not heard; else a probe may know the label by the voice.
"""

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

Labels = Sequence[Hashable | None]


def draw_hours(seconds: Sequence[float], hours: float | None, seed: int = 0) -> list[int]:
    """Draw clips until they last so many hours, the last one included; None takes all.

    Returns:
        Their indices, in order.

    Raises:
        ValueError: No time at all.
    """
    if hours is None:
        return list(range(len(seconds)))
    if not hours > 0:
        raise ValueError(f"hours is {hours}; expected more than 0")
    order = np.random.default_rng([seed, 5]).permutation(len(seconds))
    before = np.concatenate([[0.0], np.cumsum(np.asarray(seconds)[order])[:-1]])
    return sorted(order[before < 3600 * hours].tolist())


def choose_clips(labels: Labels, min_clips: int = 1, max_clips: int | None = None, seed: int = 0) -> list[int]:
    """Choose clips whose label is known and not rare, and at random so many of each label at most.

    Returns:
        Their indices, in order.
    """
    random = np.random.default_rng([seed, 3])
    chosen: list[int] = []
    for label, clips in _by(labels).items():
        if label is not None and len(clips) >= min_clips:
            chosen += random.permutation(clips)[:max_clips].tolist()
    return sorted(chosen)


def split_clips(
    labels: Labels, speakers: Labels | None = None, test_share: float = 0.2, seed: int = 0
) -> tuple[list[int], list[int]]:
    """Split clips into those to fit and those to test.

    Args:
        labels: Of the clips.
        speakers: None shares out clips one by one. With speakers, each goes to one side whole; a clip without a
            speaker counts as one by himself.
        test_share: Of the clips of each label that are tested, or as many more as a speaker brings; every label is on
            both sides.
        seed: Of the drawing.

    Returns:
        Indices to fit and indices to test, in order.

    Raises:
        ValueError: A label that cannot be on both sides, because there is one clip of it, or one speaker.
    """
    if not 0 < test_share < 1:
        raise ValueError(f"test_share is {test_share}; expected a share between 0 and 1 (not percent)")
    units = list(range(len(labels))) if speakers is None else _units(speakers)
    clips = _by(units)
    missing = {label: test_share * count for label, count in Counter(labels).items()}  # clips still to be tested
    fitted = Counter(labels)
    tested: set[Hashable] = set()
    members = list(clips)
    for number in np.random.default_rng([seed, 4]).permutation(len(members)):
        held = Counter(labels[i] for i in clips[members[number]])
        if any(missing[label] > 0 for label in held) and all(fitted[label] > held[label] for label in held):
            tested.add(members[number])
            fitted -= held
            for label, count in held.items():
                missing[label] -= count
    sides = [i for i, u in enumerate(units) if u not in tested], [i for i, u in enumerate(units) if u in tested]
    if absent := set(labels) - {labels[i] for i in sides[1]}:
        raise ValueError(
            f"clips labelled {_few(absent)} cannot be on both sides: each comes from one "
            f"{'clip' if speakers is None else 'speaker'}; leave them out (min_clips), or give a manifest to test on"
        )
    return sides


def _few(labels: set[Hashable]) -> str:
    shown = ", ".join(sorted(map(repr, labels))[:3])
    return shown + ", ..." * (len(labels) > 3)


def _units(speakers: Labels) -> list[Hashable]:
    return [(i,) if speaker is None else speaker for i, speaker in enumerate(speakers)]


def _by(labels: Labels) -> dict[Hashable, list[int]]:
    """List the indices of each label, in order of appearance."""
    rows: dict[Hashable, list[int]] = {}
    for i, label in enumerate(labels):
        rows.setdefault(label, []).append(i)
    return rows
