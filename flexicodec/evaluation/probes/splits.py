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
        speakers: None puts clips of every label on both sides. With speakers, each is on one side whole: of those that
            mostly have the same label, `test_share`; a clip without a speaker counts as one by himself.
        test_share: Of the clips of each label, or of its speakers; at least one is on either side.
        seed: Of the drawing.

    Returns:
        Indices to fit and indices to test, in order.

    Raises:
        ValueError: A label of which there is one clip, or one speaker, which cannot be on both sides.
    """
    if not 0 < test_share < 1:
        raise ValueError(f"test_share is {test_share}; expected a share between 0 and 1 (not percent)")
    units = list(range(len(labels))) if speakers is None else _units(speakers)
    unit = "clip" if speakers is None else "speaker"
    clips = _by(units)
    usual = {each: Counter(labels[i] for i in rows).most_common(1)[0][0] for each, rows in clips.items()}
    random = np.random.default_rng([seed, 4])
    tested: set[Hashable] = set()
    for label, rows in _by(list(usual.values())).items():
        if len(rows) < 2:
            raise ValueError(
                f"label {label!r} has one {unit}, which cannot be both fitted and tested; raise min_clips, or give a "
                "manifest to test on"
            )
        count = min(len(rows) - 1, max(1, round(test_share * len(rows))))
        members = list(usual)
        tested |= {members[i] for i in random.permutation(rows)[:count].tolist()}
    return ([i for i, u in enumerate(units) if u not in tested], [i for i, u in enumerate(units) if u in tested])


def _units(speakers: Labels) -> list[Hashable]:
    return [(i,) if speaker is None else speaker for i, speaker in enumerate(speakers)]


def _by(labels: Labels) -> dict[Hashable, list[int]]:
    """List the indices of each label, in order of appearance."""
    rows: dict[Hashable, list[int]] = {}
    for i, label in enumerate(labels):
        rows.setdefault(label, []).append(i)
    return rows
