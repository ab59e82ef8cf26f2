"""Laws of the order: exactly once an epoch, for any number of processes, and the same from any starting step."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexicodec.training.data.sampler import crop_start, crops_per_clip, plan_crop_batches, plan_utterance_batches

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


def key(place):
    return id(place.clips), place.clip, place.part


def take_places(plans, count):
    """Places of the first plans that hold at least `count`."""
    places = []
    while len(places) < count:
        places += next(plans)
    return places


@law
@given(BLOCKS, st.floats(0.3, 5.0), st.integers(1, 5), st.integers(0, 3))
def test_every_crop_of_a_clip_comes_once_an_epoch(seconds, crop, batch_size, seed):
    source = FakeSource(seconds)
    places = {
        (id(c), i, p) for c in source.clips for i, n in enumerate(crops_per_clip(c.seconds, crop)) for p in range(n)
    }
    total = len(places)
    taken = take_places(plan_crop_batches(source, seed, crop, batch_size), 3 * total)
    assert [place.item for place in taken] == list(range(len(taken)))
    for epoch in range(3):
        assert Counter(map(key, taken[epoch * total : (epoch + 1) * total])) == Counter(places)


@law
@given(BLOCKS, st.floats(1.0, 40.0), st.integers(0, 3))
def test_every_utterance_comes_once_an_epoch_in_buckets_within_the_bound(seconds, batch_seconds, seed):
    source = FakeSource(seconds)
    total = sum(map(len, seconds))
    plans = plan_utterance_batches(source, seed, batch_seconds)
    taken = []
    while len(taken) < 2 * total:
        plan = next(plans)
        lengths = [place.clips.seconds[place.clip] for place in plan]
        assert len(plan) == 1 or max(lengths) * len(plan) <= batch_seconds
        taken += plan
    assert [place.item for place in taken] == list(range(len(taken)))
    for epoch in range(2):
        assert len({key(place) for place in taken[epoch * total : (epoch + 1) * total]}) == total


@law
@given(BLOCKS, st.integers(0, 40), st.integers(1, 4), st.booleans())
def test_starting_later_is_skipping(seconds, start, batch_size, whole):
    source = FakeSource(seconds)

    def plans(first):
        return (
            plan_utterance_batches(source, 1, 9.0, start=first)
            if whole
            else plan_crop_batches(source, 1, 1.5, batch_size, first)
        )

    assert list(islice(plans(start), 5)) == list(islice(plans(0), start, start + 5))


def test_epochs_and_seeds_differ():
    source = FakeSource([[1.0] * 50])
    first, second = (take_places(plan_crop_batches(source, seed, 1.0, 50), 100) for seed in (0, 1))
    clips = [place.clip for place in first]
    assert clips[:50] != clips[50:] != [place.clip for place in second][50:]
    assert clips[:50] != [place.clip for place in second][:50]


@law
@given(st.integers(1, 50_000), st.integers(1, 8000), st.floats(0, 1, exclude_max=True), st.data())
def test_crops_lie_in_the_clip(samples, crop, position, data):
    parts = int(crops_per_clip(np.array([samples / 100]), crop / 100)[0])
    start = crop_start(samples, crop, data.draw(st.integers(0, parts - 1)), parts, position)
    assert 0 <= start <= max(0, samples - crop)


@pytest.mark.parametrize("samples", [900, 2100, 10_300])
def test_an_epoch_covers_all_of_a_clip_about_equally(samples):
    crop = 800
    parts = int(crops_per_clip(np.array([samples]), crop)[0])
    coverage = np.zeros(samples)
    for part in range(parts):
        for position in (np.arange(100) + 0.5) / 100:
            start = crop_start(samples, crop, part, parts, position)
            coverage[start : start + crop] += 0.01
    coverage /= parts * crop / samples
    assert 0.4 < coverage.min()
    assert coverage.max() < 1.6
    # The first and the last crop's length are covered as often as the clip at large.
    assert (coverage[:crop].mean() + coverage[-crop:].mean()) / 2 == pytest.approx(1.0, abs=0.15)


def test_no_clips_is_an_error():
    with pytest.raises(ValueError, match="no clips"):
        next(plan_crop_batches(FakeSource([[]]), 0, 1.0, 2))
    with pytest.raises(ValueError, match="no clips"):
        next(plan_utterance_batches(FakeSource([[]]), 0, 10.0))
