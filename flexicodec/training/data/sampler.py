"""Order of training clips: every clip once an epoch, in an order that depends on the seed alone.

Examples are numbered over the whole run and grouped into batch plans, one for each forward pass of a process:
`batch_size` crops, or whole utterances of similar length. Plans do not depend on the number of processes W: global
batch k consists of the plans kW .. kW + W - 1, one for each process. So an epoch is exact for any W; a batch may begin
in one epoch and end in the next.

    plans      0  1  2  3  4  5
    W = 2     |0  1||2  3||4  5|    global batches 0, 1, 2
    W = 3     |0  1  2||3  4  5|    global batches 0, 1
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from itertools import count, islice
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int

from flexicodec.corpus.bucketing import bucket_by_length


class Purpose(IntEnum):
    """What a random generator is for; part of its key."""

    SHARDS = 16
    ORDER = 17
    CROP = 18
    SPEED = 19
    REPLACEMENT = 20
    AUGMENTATION = 21


def rng_for(purpose: Purpose, seed: int, first: int, second: int = 0) -> np.random.Generator:
    """Make the random generator of one purpose, a function of these numbers alone."""
    return np.random.default_rng([seed, first, second, purpose])


class Clips(Protocol):
    """A block of clips that are shuffled together."""

    @property
    def seconds(self) -> Float[np.ndarray, " clips"]:
        """Durations."""

    def text(self, clip: int) -> str | None:
        """Transcript of a clip."""

    def read(self, clip: int, first: int = 0, samples: int | None = None) -> Float[np.ndarray, " samples"]:
        """Read a clip or a part of it like `read_utterance`."""

    def features(self, clip: int, first: int, samples: int) -> Float[np.ndarray, "dim frames"] | None:
        """Read the cached features of a crop that starts with a frame; None without a cache of features."""


class ClipSource(Protocol):
    """Where clips come from."""

    def blocks(self, epoch: int) -> Iterator[Clips]:
        """Yield the clips of an epoch in blocks, each clip in one."""


@dataclass(frozen=True)
class ExampleSpan:
    """The place of an example in an epoch: one of `parts` equal parts of a clip, or the whole clip."""

    item: int
    clips: Clips
    clip: int
    part: int = 0
    parts: int = 1


BatchPlan = list[ExampleSpan]


def plan_crop_batches(
    source: ClipSource, seed: int, crop_seconds: float, batch_size: int, start: int = 0
) -> Iterator[BatchPlan]:
    """Yield plans of `batch_size` crops without end, from plan number `start` on."""
    places = _crop_places(source, seed, crop_seconds, start * batch_size)
    while True:
        yield list(islice(places, batch_size))


def plan_utterance_batches(
    source: ClipSource, seed: int, batch_seconds: float, stretch: float = 1.0, start: int = 0
) -> Iterator[BatchPlan]:
    """Yield plans of whole utterances of similar length without end, from plan number `start` on.

    A plan lasts at most `batch_seconds`, padding included, even if a change of speed makes clips longer by the factor
    `stretch`; a longer clip is a plan of its own.
    """
    item = 0
    plan = 0
    for clips, random in _blocks(source, seed):
        # Random twice: lengths are jittered before sorting, and the batches are shuffled.
        batches = bucket_by_length(clips.seconds * stretch, batch_seconds, random)
        for position in random.permutation(len(batches)):
            batch = batches[position]
            if plan >= start:
                yield [ExampleSpan(item + offset, clips, clip) for offset, clip in enumerate(batch)]
            item += len(batch)
            plan += 1


def _crop_places(source: ClipSource, seed: int, crop_seconds: float, skip: int) -> Iterator[ExampleSpan]:
    block_start = 0  # number of the block's first example
    for clips, random in _blocks(source, seed):
        # Crops of a block are numbered clip by clip; those of clip c are bounds[c] .. bounds[c + 1] - 1.
        bounds = np.append(0, np.cumsum(crops_per_clip(clips.seconds, crop_seconds)))
        total = int(bounds[-1])
        first = max(0, skip - block_start)  # a whole block is skipped without shuffling it
        if first < total:
            order = random.permutation(total)
            for offset in range(first, total):
                clip = int(np.searchsorted(bounds, order[offset], side="right")) - 1
                part = int(order[offset] - bounds[clip])
                parts = int(bounds[clip + 1] - bounds[clip])
                yield ExampleSpan(block_start + offset, clips, clip, part, parts)
        block_start += total


def _blocks(source: ClipSource, seed: int) -> Iterator[tuple[Clips, np.random.Generator]]:
    """Yield the blocks of all epochs, each with the generator of its order."""
    for epoch in count():
        empty = True
        for number, clips in enumerate(source.blocks(epoch)):
            empty = empty and len(clips.seconds) == 0
            yield clips, rng_for(Purpose.ORDER, seed, epoch, number)
        if empty:
            raise ValueError("there are no clips to train on")


def crops_per_clip(seconds: Float[np.ndarray, " clips"], crop_seconds: float) -> Int[np.ndarray, " clips"]:
    """Count the crops of each clip in an epoch: max(1, round(duration / crop))."""
    return np.maximum(1, np.floor(seconds / crop_seconds + 0.5).astype(np.int64))


def crop_start(samples: int, crop: int, part: int, parts: int, position: float) -> int:
    """Place a crop in a clip.

    Its centre is at `position`, in [0, 1), of one of the clip's parts; then it is moved to lie inside the clip. So an
    epoch covers a clip about evenly, its beginning and end too.
    """
    # parts = 3    |--------0--------|--------1--------|--------2--------|
    # part = 1                           |---crop---|
    #                                         ^ centre, uniform over the part
    centre = (part + position) * samples / parts
    return min(max(0, round(centre - crop / 2)), max(0, samples - crop))
