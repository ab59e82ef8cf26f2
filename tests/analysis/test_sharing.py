"""What shares a token: by hand, by laws, and by odds that are known."""

import numpy as np
import pytest

from flexicodec.analysis.coded import Coded
from flexicodec.analysis.content import ALL, SPEECH
from flexicodec.analysis.sharing import KINDS, merge_odds, merge_shares, neighbours
from tests.analysis.by_hand import SAID, clip, tier
from tests.analysis.simulated import FRAME, phones_at, tokens_from

SAMPLES = round(FRAME * 16_000)


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


def test_neighbours_by_hand():
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


def drawn(random, across, change):
    """Make a clip whose frames are merged with known log odds: of phone boundaries, and of a change by 10 dB."""
    frames = 120
    phones = phones_at(random, frames * FRAME, 6.0)
    loudness = random.uniform(-30, -10, frames)
    audio = random.standard_normal(frames * SAMPLES) * np.repeat(10 ** (loudness / 20), SAMPLES)
    whole = Coded(np.ones(frames, int), FRAME, frames * FRAME, None, audio.astype(np.float32))
    kinds = neighbours(whole, phones).kinds
    odds = 0.5 + across * (kinds == 1) + change * np.abs(np.diff(loudness)) / 10
    merged = random.random(frames - 1) < 1 / (1 + np.exp(-odds))
    return whole.with_durations(tokens_from(np.flatnonzero(~merged) + 1, frames)), phones


@pytest.mark.parametrize(("across", "change"), [(-1.0, -1.5), (0.0, -1.5), (-1.0, 0.0)])
def test_odds_are_found_again(across, change):
    random = np.random.default_rng(3)
    clips, tiers = zip(*(drawn(random, across, change) for _ in range(40)), strict=True)
    found = merge_odds(clips, tiers)
    assert found.converged
    for name, known in (("across", across), ("energy_change", change), ("beyond", 0.0), ("energy", 0.0)):
        effect = found.effects[name]
        assert abs(effect.value - known) < 0.6 * (effect.high - effect.low)  # 2.4 standard errors
        assert (effect.low < 0 < effect.high) == (known == 0)
    assert found.effects["across"].clusters == 40


def test_what_never_differs_has_no_odds():
    random = np.random.default_rng(0)
    clips, tiers = zip(*(drawn(random, -1.0, 0.0) for _ in range(4)), strict=True)
    assert "silence" not in merge_odds(clips, tiers).effects
    assert merge_odds(clips, tiers, clusters=["a", "a", "b", "b"]).effects["across"].clusters == 2
    whole = [each.with_durations(np.ones(each.num_frames, int)) for each in clips]
    with pytest.raises(ValueError, match="0 of 476 pairs of frames are merged; odds need both kinds"):
        merge_odds(whole, tiers)
    with pytest.raises(ValueError, match="a clip has no audio"):
        merge_odds([clip(2, 3, 1, 2)], [SAID])


@pytest.mark.parametrize("function", [merge_shares, merge_odds])
def test_one_tier_for_each_clip(function):
    with pytest.raises(ValueError, match="1 clips and 2 tiers"):
        function([clip(2)], [SAID, SAID])
