"""Rates: the paper's arithmetic, sums over sums, and code lengths of token sources whose entropy is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flexicodec.evaluation.metrics.bitrate import FIXED_WIDTH, TokenEntropyModel, clip_rates, cross_validated_bits
from flexicodec.token_format import TokenFormat
from flexicodec.tokens import Tokens

FORMAT = TokenFormat(semantic_codebook_size=512, acoustic_codebook_size=64)
LEVELS = (8, 8, 8)
SHARES = np.array([0.5, 0.25, 0.125, 0.125])  # of durations 1 to 4: 1.75 bits
COUNT = 300  # tokens of a clip


def entropy(shares):
    return -sum(share * np.log2(share) for share in shares)


@pytest.fixture(scope="module")
def clips():
    """Twenty clips: durations without memory; digit 0 has 8 values, digit 1 is the same, digit 2 always 5.

    The first acoustic code takes 8 of 64 values, the second is the first plus one.
    """
    random = np.random.default_rng(0)
    made = []
    for _ in range(20):
        durations = random.choice(4, p=SHARES, size=COUNT) + 1
        digit, acoustic = random.integers(0, 8, (2, COUNT))
        made.append(Tokens(digit + 8 * digit + 64 * 5, np.stack([acoustic, acoustic + 1]), durations, format=FORMAT))
    return made


def per_token(bits):
    return {stream: sum(each[stream] for each in bits) / (20 * COUNT) for stream in bits[0]}


# ------------------------------------------------------------------------------------------------------ measured rates


@pytest.mark.parametrize(
    ("durations", "acoustic", "kbps"), [(1, 7, 1.275), (2, 7, 0.6375), (1, 0, 0.225), (2, 0, 0.1125)]
)
def test_bitrates_are_the_papers(durations, acoustic, kbps):
    """R (18 + 12 (n - 1)) bits per second, at 12.5 and at 6.25 Hz (specs/tts-and-evaluation.md, section 2.3)."""
    count = 100 // durations
    codes = np.zeros(count, int), np.zeros((acoustic, count), int)
    tokens = Tokens(*codes, np.full(count, durations), format=TokenFormat())
    row = clip_rates(tokens)[0]
    assert row["bitrate_kbps"] == pytest.approx(kbps)
    assert row["frame_rate_hz"] == pytest.approx(12.5 / durations)


def test_files_are_weighed_as_they_are_saved(clips, tmp_path):
    clips[0].save(tmp_path / "clip.flxc")
    row = clip_rates(clips[0])[0]
    assert row["file_bytes"] == (tmp_path / "clip.flxc").stat().st_size
    assert row["file_kbps"] == pytest.approx(8 * row["file_bytes"] / float(clips[0].seconds[0]) / 1000)
    assert row["file_kbps"] > row["bitrate_kbps"]  # a header


def test_a_batch_is_measured_clip_by_clip(clips):
    assert clip_rates(Tokens.cat(clips[:3])) == [clip_rates(clip)[0] for clip in clips[:3]]


# ------------------------------------------------------------------------------------------------------- entropy coding


def test_streams_cost_their_entropy(clips):
    """The cheapest coding is chosen: digits that repeat each other cost three bits, not nine."""
    found = per_token(cross_validated_bits(clips, LEVELS))
    assert list(found) == ["durations", "semantic", "acoustic_1", "acoustic_2"]
    assert found["durations"] == pytest.approx(entropy(SHARES), abs=0.02)
    assert found["semantic"] == pytest.approx(3.0, abs=0.02)
    assert found["acoustic_1"] == pytest.approx(3.0, abs=0.02)
    assert found["acoustic_2"] == pytest.approx(0.0, abs=0.02)
    assert TokenEntropyModel(clips, LEVELS).ways["acoustic_2"] == "given the codebook below"


def test_batches_cost_what_their_clips_do(clips):
    bits = cross_validated_bits(clips, LEVELS)
    assert cross_validated_bits(Tokens.cat(clips), LEVELS) == bits
    seconds = sum(float(clip.seconds[0]) for clip in clips)
    kbps = sum(sum(each.values()) for each in bits) / seconds / 1000
    nominal = sum(float(clip.bitrates_kbps[0] * clip.seconds[0]) for clip in clips) / seconds
    assert kbps < 0.5 * nominal


def test_noise_costs_its_full_width():
    """Codes without structure: never less than nominal, and hardly more."""
    random = np.random.default_rng(1)
    noise = [
        Tokens(random.integers(0, 512, 40), random.integers(0, 64, (2, 40)), random.integers(1, 9, 40), format=FORMAT)
        for _ in range(12)
    ]
    bits = cross_validated_bits(noise, LEVELS)
    total = sum(sum(each.values()) for each in bits) / (12 * 40)
    assert 23.9 < total < 24.3  # 9 + 3 + 2 * 6


def test_what_is_tested_is_never_counted(clips):
    """The cost of a clip unlike all others does not depend on the coding of the rest."""
    odd = Tokens(np.full(COUNT, 77), np.full((2, COUNT), 63), np.full(COUNT, 8), format=FORMAT)
    bits = cross_validated_bits([*clips, odd], LEVELS)[-1]
    assert bits["semantic"] > 9 * COUNT
    assert bits["acoustic_1"] >= 6 * COUNT  # all clips together cost less at fixed width here


def test_a_model_codes_clips_it_has_not_seen(clips):
    model = TokenEntropyModel(clips[:15], LEVELS)
    for clip in clips[15:]:
        assert model.bits(clip)["durations"] == pytest.approx(entropy(SHARES) * COUNT, rel=0.1)


def test_codes_without_levels_are_coded_whole(clips):
    found = per_token(cross_validated_bits(clips))
    assert found["semantic"] == pytest.approx(3.0, abs=0.05)  # 8 of 512 codes occur
    assert "digits" not in TokenEntropyModel(clips).ways["semantic"]


def test_fixed_rate_codecs_have_no_durations():
    format = TokenFormat(
        sample_rate=22_050, frame_size=1764, semantic_codebook_size=None, max_duration=1, parallel_codebooks=True
    )
    random = np.random.default_rng(2)
    clips = [Tokens(None, random.integers(0, 16, (2, 50)), format=format) for _ in range(6)]
    bits = cross_validated_bits(clips)
    assert list(bits[0]) == ["acoustic_1", "acoustic_2"]


def test_uncapped_durations_are_coded_as_flags():
    format = replace(FORMAT, max_duration=None)
    random = np.random.default_rng(3)
    clips = [Tokens(np.zeros(60, int), None, random.geometric(0.3, 60), format=format) for _ in range(8)]
    model = TokenEntropyModel(clips)
    assert model.ways["durations"].startswith("flags")
    bits = sum(each["durations"] for each in cross_validated_bits(clips))
    frames = sum(int(clip.frame_lengths) for clip in clips)
    assert bits / frames == pytest.approx(entropy([0.3, 0.7]), abs=0.06)


def test_one_token_is_a_clip():
    clips = [Tokens(np.array([3]), None, np.array([2]), format=FORMAT) for _ in range(6)]
    assert len(clip_rates(clips[0])) == 1
    assert all(np.isfinite(list(each.values())).all() for each in cross_validated_bits(clips, LEVELS))


def test_other_devices_and_batches_do_not_matter(codec, speech):
    """Tokens as a codec gives them."""
    tokens = [
        codec.encode(clip[:, start : start + 16_000], threshold=0.7) for clip in speech for start in (0, 16_000, 32_000)
    ]
    bits = cross_validated_bits(tokens, codec.config.semantic.quantizer.levels)
    assert all(sum(each.values()) > 0 for each in bits)
    assert all(isinstance(value, float) for value in clip_rates(tokens[0])[0].values())


# --------------------------------------------------------------------------------------------------------------- errors


def test_speakers_are_not_split_between_folds(clips):
    groups = [index // 2 for index in range(20)]
    assert cross_validated_bits(clips, LEVELS, groups) != cross_validated_bits(clips, LEVELS)
    with pytest.raises(ValueError, match="2 to 2, the clips or groups"):
        cross_validated_bits(clips, LEVELS, ["a", "b"] * 10)


def test_what_does_not_go_together_is_refused(clips):
    with pytest.raises(ValueError, match="no clips to measure"):
        cross_validated_bits([])
    with pytest.raises(ValueError, match="a rate belongs to one codec"):
        cross_validated_bits([clips[0], Tokens(np.zeros(3, int), None, np.ones(3, int))])
    with pytest.raises(ValueError, match="1 acoustic codebooks beside 2"):
        cross_validated_bits([clips[0], clips[1].keep(acoustic=1)])
    with pytest.raises(ValueError, match="0 acoustic codebooks beside 2"):
        TokenEntropyModel(clips[:5], LEVELS).bits(clips[0].keep(acoustic=0))
    with pytest.raises(ValueError, match=r"outside levels \(4, 4, 4\)"):
        TokenEntropyModel(clips, (4, 4, 4))


def test_fixed_width_is_always_there_to_fall_back_on():
    """One clip has no information about others: its codes cost their full width."""
    clip = Tokens(np.arange(60), torch.zeros(1, 60, dtype=torch.long), np.ones(60, int), format=FORMAT)
    model = TokenEntropyModel([clip])
    assert model.ways["semantic"] == FIXED_WIDTH
    assert model.bits(clip)["acoustic_1"] == pytest.approx(360, abs=0.01)


def test_no_stream_costs_more_than_a_code_without_a_model():
    """Five clips, each at a pace and with a code of its own, for which no other clip prepares."""
    made = []
    for pace in range(1, 6):
        durations = np.full(40, pace)
        durations[::7] = 8
        made.append(Tokens(np.full(40, 100 * pace), np.full((1, 40), 9 * pace), durations, format=FORMAT))
    bits = cross_validated_bits(made)
    frames = sum(int(clip.frame_lengths[0]) - 1 for clip in made)
    for stream, most in (("durations", min(frames, 3 * 200)), ("semantic", 9 * 200), ("acoustic_1", 6 * 200)):
        assert sum(each[stream] for each in bits) <= most
