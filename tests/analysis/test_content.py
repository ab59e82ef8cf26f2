"""What tokens hold, on clips small enough to count by hand, and laws for any clips."""

import numpy as np
import pytest

from flexicodec.analysis.content import ALL, SPEECH, count_per_token, durations_by_class, per_token
from flexicodec.statistics.entropy import counts_entropy
from tests.analysis.by_hand import SAID, clip, tier


def test_segments_belong_to_the_token_with_their_middle():
    assert count_per_token(clip(2, 3, 1, 2), SAID).tolist() == [0, 2, 2, 0]
    assert count_per_token(clip(1, 1, 1, 1, 1, 1, 1, 1), SAID).tolist() == [0, 0, 1, 0, 1, 2, 0, 0]
    assert count_per_token(clip(2, 3, 1, 2), SAID, offset=-0.06).tolist() == [0, 2, 1, 1]


def test_phones_per_token_by_hand():
    found = per_token([clip(2, 3, 1, 2)], [SAID])
    assert found.mean.value == 1.0
    assert [share.value for share in found.shares] == [0.5, 0.0, 0.5, 0.0, 0.0]
    assert found.entropy_bits.value == pytest.approx(1.0)
    assert (found.tokens, found.segments, found.outside) == (4, 4, 0)


@pytest.mark.parametrize("seed", range(3))
def test_the_mean_is_all_segments_over_all_tokens(seed):
    random = np.random.default_rng(seed)
    clips, tiers = [], []
    for _ in range(5):
        clips.append(clip(*random.integers(1, 9, size=10)))
        cuts = np.sort(random.uniform(0, clips[-1].num_frames, size=20))
        tiers.append(tier(*((cut, "AA1") for cut in cuts)))
    found = per_token(clips, tiers, resamples=50)
    assert found.mean.value == 100 / 50
    assert sum(share.value for share in found.shares) == pytest.approx(1.0)
    assert found.mean.low <= 2 <= found.mean.high


def test_phones_past_the_last_token_are_given_to_it_and_counted():
    found = per_token([clip(1, 1)], [tier((1, "B"), (2, "AA"), (4, "T"))])
    assert (found.segments, found.outside, found.mean.value) == (3, 1, 1.5)


def test_entropy_of_few_outcomes():
    assert counts_entropy(np.array([1, 1, 1, 1])) == 2.0
    assert counts_entropy(np.array([5, 0])) == 0.0
    assert np.isnan(counts_entropy(np.zeros(3, int)))


def test_durations_by_hand():
    rows = {row.name: row for row in durations_by_class([clip(2, 3, 1, 2, cap=3)], [SAID])}
    assert rows[ALL].histogram == (1, 2, 1)
    assert rows[ALL].mean.value == 2.0
    assert rows[ALL].capped.value == 0.25
    assert rows[SPEECH].histogram == (1, 0, 1)
    assert rows["silence"].histogram == (0, 2, 0)
    assert rows["vowel"].histogram == (0, 0, 1)  # middle of the token of 3 frames: 0.35 s
    assert rows["fricative"].histogram == (1, 0, 0)
    assert "nasal" not in rows
    assert sum(row.tokens for name, row in rows.items() if name not in (ALL, SPEECH)) == rows[ALL].tokens


def test_without_a_cap_nothing_is_capped():
    (row, *_) = durations_by_class([clip(2, 12, cap=None)], [tier((14, "AA"))])
    assert row.capped is None
    assert row.histogram[11] == 1


@pytest.mark.parametrize("function", [per_token, durations_by_class])
def test_one_tier_for_each_clip(function):
    with pytest.raises(ValueError, match="1 clips and 2 tiers"):
        function([clip(2)], [SAID, SAID])
    with pytest.raises(ValueError, match="0 clips and 0 tiers"):
        function([], [])
