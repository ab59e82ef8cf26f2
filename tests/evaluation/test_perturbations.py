"""Perturbations of clips, and laws of token stability."""

import math

import numpy as np
import pytest

import flexicodec
from flexicodec import TokenFormat, Tokens
from flexicodec.evaluation.perturbations import Perturbation, edit_distance, median_margins, token_stability
from flexicodec.evaluation.systems import CodecSystem, Setting, Sweep


@pytest.fixture(scope="module")
def wave(speech):
    return speech[0][0].numpy()


def tokens(semantic, durations, acoustic=None):
    return Tokens(semantic=semantic, durations=durations, acoustic=acoustic or [semantic])


@pytest.mark.parametrize("snr", [20, 0, -5])
def test_noise_has_its_level_and_repeats(wave, snr):
    noise = Perturbation.parse(f"noise:{snr}db")
    added = noise.apply(wave, 16_000) - wave
    assert 10 * math.log10(np.square(wave).mean() / np.square(added).mean()) == pytest.approx(snr, abs=0.1)
    assert np.array_equal(noise.apply(wave, 16_000), noise.apply(wave, 16_000))
    assert not np.array_equal(noise.apply(wave[1:], 16_000)[:100], noise.apply(wave, 16_000)[1:101])


def test_gain_and_shift_are_exact(wave):
    assert Perturbation.parse("gain:-6db").apply(wave, 16_000) == pytest.approx(wave * 10**-0.3)
    later = Perturbation.parse("shift:40ms").apply(wave, 16_000)
    assert np.array_equal(later[640:], wave)
    assert not later[:640].any()
    assert np.array_equal(Perturbation.parse("shift:-40ms").apply(wave, 16_000), wave[640:])


@pytest.mark.parametrize("rate", [16_000, 22_050, 24_000])
def test_opus_keeps_length_and_place(wave, rate):
    decoded = {kbps: Perturbation.parse(f"codec:opus{kbps}").apply(wave, rate) for kbps in (8, 64)}
    errors = {}
    for kbps, copy in decoded.items():
        assert len(copy) == len(wave)
        errors[kbps] = np.square(copy - wave).mean() / np.square(wave).mean()
    assert errors[64] < 0.1
    assert errors[64] < errors[8]


@pytest.mark.parametrize(
    "name", ["noise:20", "noise", "gain:loud", "codec:mp3", "echo:3db", "shift:1s", "", "codec:opus600"]
)
def test_what_is_no_perturbation_is_refused(name):
    with pytest.raises(ValueError, match="no perturbation|Opus has 6 to 256 kbps"):
        Perturbation.parse(name)


def test_a_shift_leaves_something():
    with pytest.raises(ValueError, match=r"shift:-80ms leaves nothing of a clip of 0\.05 s"):
        Perturbation.parse("shift:-80ms").apply(np.zeros(800, np.float32), 16_000)


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("abc", "abc", 0), ("ab", "ba", 2), ("abcd", "bcd", 1)],
)
def test_edit_distances(first, second, distance):
    codes = [np.array([ord(letter) for letter in word], dtype=np.int64) for word in (first, second)]
    assert edit_distance(*codes) == distance


def test_equal_tokens_are_stable():
    clip = tokens([5, 6, 7], [2, 3, 1])
    assert token_stability(clip, clip) == {"unit_edit": 0.0, "boundary_f1": 1.0, "acoustic_agreement": 1.0}


def test_changes_are_counted():
    clean = tokens([5, 6, 7], [2, 3, 1], [[1, 2, 3], [4, 5, 6]])
    other = tokens([5, 8, 7], [2, 2, 2], [[1, 2, 3], [4, 9, 6]])
    found = token_stability(clean, other)
    assert found["unit_edit"] == pytest.approx(1 / 3)
    assert found["boundary_f1"] == pytest.approx(0.5)  # 2 is found, 5 against 4 is not
    # frames: 1 1 2 2 2 3 against 1 1 2 2 3 3, and 4 4 5 5 5 6 against 4 4 9 9 6 6
    assert found["acoustic_agreement"] == pytest.approx((5 + 3) / 12)


@pytest.mark.parametrize("delay_frames", [1, 2])
def test_a_delay_is_undone(delay_frames):
    """A shift by whole frames that adds one token in front costs that token alone."""
    clean = tokens([5, 6, 7], [2, 3, 1])
    later = tokens([9, 5, 6, 7], [delay_frames, 2, 3, 1])
    found = token_stability(clean, later, delay_frames * 0.08)
    assert found["unit_edit"] == pytest.approx(1 / 3)
    assert found["boundary_f1"] == 1
    assert found["acoustic_agreement"] == 1


def test_half_a_frame_is_near():
    clean = tokens([5, 6], [2, 3])
    later = tokens([5, 6], [3, 3])
    assert token_stability(clean, later, 0.04)["boundary_f1"] == 1
    assert token_stability(clean, later)["boundary_f1"] == 0


def test_codecs_without_a_stream_have_no_number():
    clip = Tokens(acoustic=[[1, 2]], durations=[1, 1], format=TokenFormat(semantic_codebook_size=None))
    assert math.isnan(token_stability(clip, clip)["unit_edit"])
    only_semantic = Tokens(semantic=[1, 2], durations=[1, 1])
    assert math.isnan(token_stability(only_semantic, only_semantic)["acoustic_agreement"])


def test_real_speech_is_less_stable_the_more_it_is_changed(wave):
    """The shipped model on a clip: noise changes more tokens than a gain, and louder noise more than faint noise."""
    system = CodecSystem(flexicodec.load(), "mini")
    settings = [Setting(frame_rate=6.25, codebooks=4, policy="rate")]
    (clean,) = system.tokenize([wave], settings, margins=True)
    edits = []
    for name in ("gain:-1db", "noise:30db", "noise:0db"):
        copy = Perturbation.parse(name).apply(wave, 16_000)
        (other,) = system.tokenize([copy], settings)
        edits.append(token_stability(clean[0], other[0])["unit_edit"])
    assert 0 <= edits[0] < edits[1] < edits[2] <= 1.5
    assert all(value > 0 for value in median_margins(clean[0]).values())
    assert median_margins(tokens([1], [1])) == {}


def test_codecs_of_a_fixed_rate_have_stable_boundaries(nanocodec, wave):
    system = CodecSystem(nanocodec, "nano")
    settings, _ = system.settings(Sweep())
    waves = [wave[:16_000], wave[4000:30_000]]
    clean = next(system.tokenize(waves, settings, margins=True))
    other = next(system.tokenize([each * 0.5 for each in waves], settings))
    for first, second in zip(clean, other, strict=True):
        found = token_stability(first, second)
        assert math.isnan(found["unit_edit"])
        assert found["boundary_f1"] == 1
        assert 0 <= found["acoustic_agreement"] <= 1
        assert math.isnan(median_margins(first)["boundary_margin"])
