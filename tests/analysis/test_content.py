"""What tokens hold, on clips small enough to count by hand, and laws for any clips."""

import numpy as np
import pytest

from flexicodec.analysis.coded import Coded
from flexicodec.analysis.content import (
    ALL,
    SPEECH,
    count_per_token,
    durations_by_class,
    entropy_bits,
    merge_shares,
    per_token,
)
from flexicodec.analysis.segments import Segment

FRAME = 0.1  # seconds; middles of frames at 0.05, 0.15, ...


def tier(*edges_and_labels):
    """Segments that follow each other: end and label of each, in frames."""
    start, segments = 0.0, []
    for end, label in edges_and_labels:
        segments.append(Segment(start * FRAME, end * FRAME, label))
        start = end
    return segments


def clip(*durations, cap=8):
    return Coded(np.array(durations), FRAME, sum(durations) * FRAME, cap)


SAID = tier((2, "sil"), (3, "B"), (5, "AH0"), (5.4, "T"), (6, "S"), (8, ""))


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
    assert entropy_bits(np.array([1, 1, 1, 1])) == 2.0
    assert entropy_bits(np.array([5, 0])) == 0.0
    assert np.isnan(entropy_bits(np.zeros(3, int)))


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


def test_merging_by_hand():
    # frames        0   1   2   3   4   5   6   7
    # sounds        sil sil B   AH  AH  S   -   -     T is too short for a middle of a frame
    # tokens        --- --- ----------- --- -------
    found = {(m.kind, m.first, m.second): m for m in merge_shares([clip(2, 3, 1, 2)], [SAID], fewest=1)}
    assert {key: (m.share.value, m.pairs) for key, m in found.items()} == {
        ("inside", ALL, ALL): (1.0, 3),
        ("inside", SPEECH, SPEECH): (1.0, 1),
        ("inside", "vowel", "vowel"): (1.0, 1),
        ("inside", "silence", "silence"): (1.0, 2),
        ("across", ALL, ALL): (1 / 3, 3),
        ("across", "stop", "vowel"): (1.0, 1),
        ("across", "silence", "stop"): (0.0, 1),
        ("across", "fricative", "silence"): (0.0, 1),
        ("beyond", ALL, ALL): (0.0, 1),
    }


def test_gaps_and_labels_of_silence_are_the_same_silence():
    labelled = tier((1, "AA"), (3, "sil"), (5, ""), (6, "B"))
    gapped = [s for s in labelled if s.label not in ("", "sil")]
    mine, theirs = (merge_shares([clip(2, 2, 2)], [t], fewest=1) for t in (labelled, gapped))
    assert [(m.kind, m.first, m.second, m.pairs) for m in mine] == [
        (m.kind, m.first, m.second, m.pairs) for m in theirs
    ]


def test_rare_pairs_are_left_out_of_the_list_but_not_of_the_sum():
    found = merge_shares([clip(2, 3, 1, 2)], [SAID], fewest=2)
    assert {(m.first, m.pairs) for m in found if m.kind == "across"} == {(ALL, 3)}


def test_a_codec_that_cuts_at_phones_merges_inside_and_never_across():
    random = np.random.default_rng(0)
    clips, tiers = [], []
    for _ in range(4):
        durations = random.integers(1, 9, size=12)
        clips.append(clip(*durations))
        tiers.append(tier(*zip(np.cumsum(durations), ["AA", "S"] * 6, strict=True)))
    found = {(m.kind, m.first): m.share for m in merge_shares(clips, tiers, resamples=50)}
    assert found["inside", ALL].value == 1.0
    assert found["across", ALL].value == 0.0
    assert found["across", ALL].high == 0.0


@pytest.mark.parametrize("function", [per_token, durations_by_class, merge_shares])
def test_one_tier_for_each_clip(function):
    with pytest.raises(ValueError, match="1 clips and 2 tiers"):
        function([clip(2)], [SAID, SAID])
    with pytest.raises(ValueError, match="0 clips and 0 tiers"):
        function([], [])
