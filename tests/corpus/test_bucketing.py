"""Bucketing: every clip once, sorted by length, within the limit."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flexicodec.corpus.bucketing import bucket_by_length

law = settings(derandomize=True, deadline=None, max_examples=60)

SECONDS = st.lists(st.floats(0.1, 30.0), min_size=1, max_size=60)


@law
@given(SECONDS, st.floats(1.0, 60.0), st.booleans())
def test_without_randomness_batches_are_sorted(seconds, batch_seconds, longest_first):
    batches = bucket_by_length(np.array(seconds), batch_seconds, longest_first=longest_first)
    order = [seconds[clip] for batch in batches for clip in batch]
    assert order == sorted(seconds, reverse=longest_first)
    assert sorted(clip for batch in batches for clip in batch) == list(range(len(seconds)))


@law
@given(SECONDS, st.floats(1.0, 60.0), st.booleans(), st.none() | st.integers(0, 9))
def test_batches_stay_within_the_limit_and_are_filled(seconds, batch_seconds, longest_first, seed):
    random = None if seed is None else np.random.default_rng(seed)
    batches = bucket_by_length(np.array(seconds), batch_seconds, random, longest_first)
    for number, batch in enumerate(batches):
        longest = max(seconds[clip] for clip in batch)
        assert len(batch) == 1 or longest * len(batch) <= batch_seconds
        if number + 1 < len(batches):  # the next clip would not have fitted
            assert max(longest, seconds[batches[number + 1][0]]) * (len(batch) + 1) > batch_seconds


def test_randomness_changes_the_batches_and_repeats():
    seconds = np.linspace(1.0, 10.0, 50)
    once, again, other = (bucket_by_length(seconds, 20.0, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert once == again
    assert once != other
