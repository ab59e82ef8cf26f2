"""Which clip is heard when: every clip once an epoch, in an order that depends on the seed and nothing else.

Items are numbered over the whole run. They come in *units*, what one process hears in one forward pass: `batch_size`
crops, or a bucket of whole utterances of similar length. Units are numbered too, and do not depend on how many
processes there are: global batch k of a run with W processes is units kW .. kW + W - 1, one each. So W processes hear
what one hears in W passes, and an epoch is exact for any W; a batch may begin in one epoch and end in the next.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int

from flexicodec.corpus.buckets import buckets

# What a draw is for; the last word of its key.
SHARDS, ORDER, CROP, SPEED, REPLACEMENT, AUGMENTATION = range(16, 22)


def keyed(purpose: int, seed: int, first: int, second: int = 0) -> np.random.Generator:
    """Make the generator for one purpose, a function of these numbers alone."""
    return np.random.default_rng([seed, first, second, purpose])


class Clips(Protocol):
    """Clips that are shuffled together."""

    @property
    def seconds(self) -> Float[np.ndarray, " clips"]:
        """Durations."""

    def text(self, clip: int) -> str | None:
        """What is said in a clip."""

    def read(self, clip: int, first: int = 0, samples: int | None = None) -> Float[np.ndarray, " samples"]:
        """Read a clip or a part of it, as `reading.read_utterance` does."""


class Source(Protocol):
    """Where clips come from."""

    def blocks(self, epoch: int) -> Iterator[Clips]:
        """Yield the clips of an epoch in blocks, each clip in one."""


@dataclass(frozen=True)
class Slot:
    """The place of an item in an epoch: one of the `parts` parts of a clip (the only one of a whole utterance)."""

    item: int
    clips: Clips
    clip: int
    part: int = 0
    parts: int = 1


Unit = list[Slot]


def crop_units(source: Source, seed: int, crop_seconds: float, batch_size: int, start: int = 0) -> Iterator[Unit]:
    """Yield units of `batch_size` crops without end, from unit number `start` on.

    A clip has as many slots in an epoch as crops fit into it, rounded, and at least one.
    """
    slots = _crop_slots(source, seed, crop_seconds, start * batch_size)
    while True:
        yield list(islice(slots, batch_size))


def _crop_slots(source: Source, seed: int, crop_seconds: float, skip: int) -> Iterator[Slot]:
    item = 0
    for epoch in count():
        before = item
        for number, clips in enumerate(source.blocks(epoch)):
            ends = np.cumsum(slots_per_clip(clips.seconds, crop_seconds))
            total = int(ends[-1]) if len(ends) else 0
            first, item = max(0, skip - item), item + total
            if first >= total:
                continue
            order = keyed(ORDER, seed, epoch, number).permutation(total)
            for offset in range(first, total):
                clip = int(np.searchsorted(ends, order[offset], side="right"))
                begin = int(ends[clip - 1]) if clip else 0
                part, parts = int(order[offset]) - begin, int(ends[clip]) - begin
                yield Slot(item - total + offset, clips, clip, part, parts)
        if item == before:
            raise ValueError("there are no clips to train on")


def slots_per_clip(seconds: Float[np.ndarray, " clips"], crop_seconds: float) -> Int[np.ndarray, " clips"]:
    """Crops per clip and epoch: max(1, round(duration / crop))."""
    return np.maximum(1, np.floor(seconds / crop_seconds + 0.5).astype(np.int64))


def crop_start(samples: int, crop: int, part: int, parts: int, draw: float) -> int:
    """Place a crop in a clip.

    Its centre is uniform over the part of the clip that is its slot's (`draw` is uniform in [0, 1)); the crop is then
    moved to lie inside. So an epoch covers a clip about evenly, its beginning and end too.
    """
    centre = (part + draw) * samples / parts
    return min(max(0, round(centre - crop / 2)), max(0, samples - crop))


def bucket_units(
    source: Source, seed: int, batch_seconds: float, stretch: float = 1.0, start: int = 0
) -> Iterator[Unit]:
    """Yield units of whole utterances of similar length without end, from unit number `start` on.

    A unit lasts at most `batch_seconds`, padding included; a clip that is longer comes by itself.

    Args:
        source: The clips.
        seed: Of the order.
        batch_seconds: See above.
        stretch: Factor by which clips may get longer before they are heard.
        start: Units to leave out.
    """
    item = unit = 0
    for epoch in count():
        before = item
        for number, clips in enumerate(source.blocks(epoch)):
            random = keyed(ORDER, seed, epoch, number)
            found = buckets(clips.seconds * stretch, batch_seconds, random)
            for position in random.permutation(len(found)):
                if unit >= start:
                    yield [Slot(item + offset, clips, clip) for offset, clip in enumerate(found[position])]
                item, unit = item + len(found[position]), unit + 1
        if item == before:
            raise ValueError("there are no clips to train on")
