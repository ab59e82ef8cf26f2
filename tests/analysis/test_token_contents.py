"""Contents of tokens, on clips small enough to count manually, and laws for any clips."""

import numpy as np
import pytest

from flexicodec.analysis.token_contents import (
    ALL,
    KINDS,
    SPEECH,
    count_per_token,
    durations_by_class,
    merge_odds,
    merge_probabilities,
    neighbours,
    segments_per_token,
)
from flexicodec.analysis.token_timeline import TokenTimeline
from flexicodec.statistics.entropy import counts_entropy
from tests.analysis.by_hand import SAID, clip, tier
from tests.analysis.simulated import FRAME, phones_at, tokens_from


def test_segments_belong_to_the_token_with_their_middle():
    assert count_per_token(clip(2, 3, 1, 2), SAID).tolist() == [0, 2, 2, 0]
    assert count_per_token(clip(1, 1, 1, 1, 1, 1, 1, 1), SAID).tolist() == [0, 0, 1, 0, 1, 2, 0, 0]
    assert count_per_token(clip(2, 3, 1, 2), SAID, offset=-0.06).tolist() == [0, 2, 1, 1]


def test_phones_per_token_of_a_small_example():
    found = segments_per_token([clip(2, 3, 1, 2)], [SAID])
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
    found = segments_per_token(clips, tiers, resamples=50)
    assert found.mean.value == 100 / 50
    assert sum(share.value for share in found.shares) == pytest.approx(1.0)
    assert found.mean.low <= 2 <= found.mean.high


def test_phones_past_the_last_token_are_given_to_it_and_counted():
    found = segments_per_token([clip(1, 1)], [tier((1, "B"), (2, "AA"), (4, "T"))])
    assert (found.segments, found.outside, found.mean.value) == (3, 1, 1.5)


def test_entropy_of_few_outcomes():
    assert counts_entropy(np.array([1, 1, 1, 1])) == 2.0
    assert counts_entropy(np.array([5, 0])) == 0.0
    assert np.isnan(counts_entropy(np.zeros(3, int)))


def test_durations_of_a_small_example():
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


@pytest.mark.parametrize("function", [segments_per_token, durations_by_class])
def test_one_tier_for_each_clip(function):
    with pytest.raises(ValueError, match="1 clips and 2 tiers"):
        function([clip(2)], [SAID, SAID])
    with pytest.raises(ValueError, match="0 clips and 0 tiers"):
        function([], [])


# ---- sharing
SAMPLES = round(FRAME * 16_000)


def test_merging_of_a_small_example():
    # frames        0   1   2   3   4   5   6   7
    # sounds        sil sil B   AH  AH  S   -   -     T is too short for a middle of a frame
    # tokens        --- --- ----------- --- -------
    found = {(m.kind, m.first, m.second): m for m in merge_probabilities([clip(2, 3, 1, 2)], [SAID], fewest=1)}
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
    mine, theirs = (merge_probabilities([clip(2, 2, 2)], [t], fewest=1) for t in (labelled, gapped))
    assert [(m.kind, m.first, m.second, m.pairs) for m in mine] == [
        (m.kind, m.first, m.second, m.pairs) for m in theirs
    ]


def test_rare_pairs_are_left_out_of_the_list_but_not_of_the_sum():
    found = merge_probabilities([clip(2, 3, 1, 2)], [SAID], fewest=2)
    assert {(m.first, m.pairs) for m in found if m.kind == "across"} == {(ALL, 3)}


def test_a_codec_that_cuts_at_phones_merges_inside_and_never_across():
    random = np.random.default_rng(0)
    clips, tiers = [], []
    for _ in range(4):
        durations = random.integers(1, 9, size=12)
        clips.append(clip(*durations))
        tiers.append(tier(*zip(np.cumsum(durations), ["AA", "S"] * 6, strict=True)))
    found = {(m.kind, m.first): m.share for m in merge_probabilities(clips, tiers, resamples=50)}
    assert found["inside", ALL].value == 1.0
    assert found["across", ALL].value == 0.0
    assert found["across", ALL].high == 0.0


def test_neighbours_in_a_small_example():
    # frames        0   1   2   3   4   5   6   7
    # sounds        sil sil B   AH1 AH1 S   -   -     T is too short for a middle of a frame
    said = [segment if segment.label != "AH0" else type(segment)(segment.start, segment.end, "AH1") for segment in SAID]
    seen = neighbours(clip(2, 3, 1, 2), said)
    assert [KINDS[kind] for kind in seen.kinds] == ["inside", *["across"] * 2, "inside", "beyond", "across", "inside"]
    assert seen.first == ["silence", "silence", "stop", "vowel", "vowel", "fricative", "silence"]
    assert seen.merged.tolist() == [True, False, True, True, False, False, True]
    assert seen.stressed.tolist() == [False, False, False, True, False, False, False]
    assert seen.position[[0, 2, 3]] == pytest.approx([0.5, 1.0, 0.5])
    assert neighbours(clip(2, 3, 1, 2), said, offset=0.1).first[:3] == ["silence", "stop", "vowel"]


def simulated_clip(random, across, change):
    """Make a clip whose frames are merged with known log odds: of phone boundaries, and of a change by 10 dB."""
    frames = 120
    phones = phones_at(random, frames * FRAME, 6.0)
    loudness = random.uniform(-30, -10, frames)
    audio = random.standard_normal(frames * SAMPLES) * np.repeat(10 ** (loudness / 20), SAMPLES)
    whole = TokenTimeline(np.ones(frames, int), FRAME, frames * FRAME, None, audio.astype(np.float32))
    kinds = neighbours(whole, phones).kinds
    odds = 0.5 + across * (kinds == 1) + change * np.abs(np.diff(loudness)) / 10
    merged = random.random(frames - 1) < 1 / (1 + np.exp(-odds))
    return whole.with_durations(tokens_from(np.flatnonzero(~merged) + 1, frames)), phones


@pytest.mark.parametrize(("across", "change"), [(-1.0, -1.5), (0.0, -1.5), (-1.0, 0.0)])
def test_odds_are_found_again(across, change):
    random = np.random.default_rng(3)
    clips, tiers = zip(*(simulated_clip(random, across, change) for _ in range(40)), strict=True)
    found = merge_odds(clips, tiers)
    assert found.converged
    for name, known in (("across", across), ("energy_change", change), ("beyond", 0.0), ("energy", 0.0)):
        effect = found.effects[name]
        assert abs(effect.value - known) < 0.6 * (effect.high - effect.low)  # 2.4 standard errors
        assert (effect.low < 0 < effect.high) == (known == 0)
    assert found.effects["across"].clusters == 40


def test_what_never_differs_has_no_odds():
    random = np.random.default_rng(0)
    clips, tiers = zip(*(simulated_clip(random, -1.0, 0.0) for _ in range(4)), strict=True)
    assert "silence" not in merge_odds(clips, tiers).effects
    assert merge_odds(clips, tiers, clusters=["a", "a", "b", "b"]).effects["across"].clusters == 2
    whole = [each.with_durations(np.ones(each.num_frames, int)) for each in clips]
    with pytest.raises(ValueError, match="0 of 476 pairs of frames are merged; odds need both kinds"):
        merge_odds(whole, tiers)
    with pytest.raises(ValueError, match="a clip has no audio"):
        merge_odds([clip(2, 3, 1, 2)], [SAID])


@pytest.mark.parametrize("function", [merge_probabilities, merge_odds])
def test_merging_takes_one_tier_for_each_clip(function):
    with pytest.raises(ValueError, match="1 clips and 2 tiers"):
        function([clip(2)], [SAID, SAID])
