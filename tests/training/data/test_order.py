"""Laws of the order: exactly once an epoch, whatever the number of processes, and the same from wherever one starts."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexicodec.corpus.buckets import buckets
from flexicodec.training.data.order import bucket_units, crop_start, crop_units, slots_per_clip

law = settings(derandomize=True, deadline=None, max_examples=60)

BLOCKS = st.lists(st.lists(st.floats(0.2, 20.0), min_size=1, max_size=12), min_size=1, max_size=3)


class FakeClips:
    """Clips without audio."""

    def __init__(self, seconds):
        self.seconds = np.array(seconds)


class FakeSource:
    """The same blocks in every epoch."""

    def __init__(self, seconds):
        self.clips = [FakeClips(block) for block in seconds]

    def blocks(self, epoch):
        yield from self.clips


def key(slot):
    return id(slot.clips), slot.clip, slot.part


def take_slots(units, count):
    """Slots of the first units that hold at least `count`."""
    slots = []
    while len(slots) < count:
        slots += next(units)
    return slots


@law
@given(BLOCKS, st.floats(0.3, 5.0), st.integers(1, 5), st.integers(0, 3))
def test_every_slot_of_a_clip_comes_once_an_epoch(seconds, crop, batch_size, seed):
    source = FakeSource(seconds)
    slots = {
        (id(c), i, p) for c in source.clips for i, n in enumerate(slots_per_clip(c.seconds, crop)) for p in range(n)
    }
    total = len(slots)
    taken = take_slots(crop_units(source, seed, crop, batch_size), 3 * total)
    assert [slot.item for slot in taken] == list(range(len(taken)))
    for epoch in range(3):
        assert Counter(map(key, taken[epoch * total : (epoch + 1) * total])) == Counter(slots)


@law
@given(BLOCKS, st.floats(1.0, 40.0), st.integers(0, 3))
def test_every_utterance_comes_once_an_epoch_in_buckets_within_the_bound(seconds, batch_seconds, seed):
    source = FakeSource(seconds)
    total = sum(map(len, seconds))
    units = bucket_units(source, seed, batch_seconds)
    taken = []
    while len(taken) < 2 * total:
        unit = next(units)
        lengths = [slot.clips.seconds[slot.clip] for slot in unit]
        assert len(unit) == 1 or max(lengths) * len(unit) <= batch_seconds
        taken += unit
    assert [slot.item for slot in taken] == list(range(len(taken)))
    for epoch in range(2):
        assert len({key(slot) for slot in taken[epoch * total : (epoch + 1) * total]}) == total


@law
@given(BLOCKS, st.integers(0, 40), st.integers(1, 4), st.booleans())
def test_starting_later_is_skipping(seconds, start, batch_size, whole):
    source = FakeSource(seconds)

    def units(first):
        return bucket_units(source, 1, 9.0, start=first) if whole else crop_units(source, 1, 1.5, batch_size, first)

    assert list(islice(units(start), 5)) == list(islice(units(0), start, start + 5))


def test_epochs_and_seeds_differ():
    source = FakeSource([[1.0] * 50])
    first, second = (take_slots(crop_units(source, seed, 1.0, 50), 100) for seed in (0, 1))
    clips = [slot.clip for slot in first]
    assert clips[:50] != clips[50:] != [slot.clip for slot in second][50:]
    assert clips[:50] != [slot.clip for slot in second][:50]


@law
@given(st.integers(1, 50_000), st.integers(1, 8000), st.floats(0, 1, exclude_max=True), st.data())
def test_crops_lie_in_the_clip(samples, crop, draw, data):
    parts = int(slots_per_clip(np.array([samples / 100]), crop / 100)[0])
    start = crop_start(samples, crop, data.draw(st.integers(0, parts - 1)), parts, draw)
    assert 0 <= start <= max(0, samples - crop)


@pytest.mark.parametrize("samples", [900, 2100, 10_300])
def test_an_epoch_hears_all_of_a_clip_about_equally(samples):
    crop = 800
    parts = int(slots_per_clip(np.array([samples]), crop)[0])
    heard = np.zeros(samples)
    for part in range(parts):
        for draw in (np.arange(100) + 0.5) / 100:
            start = crop_start(samples, crop, part, parts, draw)
            heard[start : start + crop] += 0.01
    heard /= parts * crop / samples
    assert 0.4 < heard.min()
    assert heard.max() < 1.6
    # The first and the last crop's length are heard as often as the clip at large.
    assert (heard[:crop].mean() + heard[-crop:].mean()) / 2 == pytest.approx(1.0, abs=0.15)


@law
@given(st.lists(st.floats(0.1, 30.0), min_size=1, max_size=60), st.floats(1.0, 60.0))
def test_buckets_without_randomness_are_sorted(seconds, batch_seconds):
    found = buckets(np.array(seconds), batch_seconds)
    order = [seconds[clip] for group in found for clip in group]
    assert order == sorted(seconds)
    assert sorted(clip for group in found for clip in group) == list(range(len(seconds)))


def test_no_clips_is_an_error():
    with pytest.raises(ValueError, match="no clips"):
        next(crop_units(FakeSource([[]]), 0, 1.0, 2))
    with pytest.raises(ValueError, match="no clips"):
        next(bucket_units(FakeSource([[]]), 0, 10.0))
