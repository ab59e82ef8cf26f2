"""Signal metrics: against frozen scores of the reference libraries, against laws, and in undefined cases."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from flexicodec.audio import resample
from flexicodec.evaluation.metrics import signal, world
from flexicodec.evaluation.metrics.signal import ClipPair
from flexicodec.evaluation.summary import METRICS
from tests.evaluation.metrics.treatments import degraded

RATE = 16_000
HELD = json.loads((Path(__file__).parent / "data" / "scores.json").read_text())["signal"]
VISQOL = [5.0, 3.7379, 1.9708]
TOLERANCE = {"pesq_wb": 0.01, "pesq_nb": 0.01, "f0_cents": 0.5}


@pytest.fixture(scope="module")
def clips(speech, speech_folder):
    """The recordings by name, [S]."""
    return {path.stem: clip[0].numpy() for path, clip in zip(sorted(speech_folder.glob("*.flac")), speech, strict=True)}


@pytest.fixture(scope="module")
def clip(clips):
    return clips["4970-29095-0008"]


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(7).standard_normal(100_000)


def test_what_is_below_a_step_of_24_bits_is_silence():
    wave = np.random.default_rng(0).standard_normal(16_000)
    for level, silent in ((1e-30, True), (1e-8, True), (1e-5, False)):
        found = signal.signal_metrics(
            level * wave, level * wave, 16_000, ("stoi", "estoi", "pesq_wb", "pesq_nb", "mcd_db")
        )
        assert [math.isnan(value) for value in found.values()] == [silent] * 5
        assert silent or found["stoi"] == pytest.approx(1, abs=1e-4)


def gliding_pulses(seconds=2.0, low=100.0, high=200.0):
    """A buzz whose pitch glides, and its pitch at every 5 ms."""
    pitch = np.geomspace(low, high, int(seconds * RATE))
    phase = np.cumsum(pitch) / RATE
    buzz = sum(np.sin(2 * np.pi * k * phase) / k for k in range(1, 20))
    return 0.1 * buzz, pitch[:: RATE // 200]


# ------------------------------------------------------------------------------------------------------- frozen scores


@pytest.mark.parametrize("case", HELD)
def test_scores_are_the_reference_libraries(case, clips):
    name, treatment = case.split()
    reference = clips[name].astype(np.float64)
    estimate = degraded(reference)[treatment]
    found = signal.signal_metrics(reference, estimate, RATE, list(HELD[case]))
    for metric, value in HELD[case].items():
        assert found[metric] == pytest.approx(value, abs=TOLERANCE.get(metric, 1e-3)), metric


# ---------------------------------------------------------------------------------------------------------------- laws


def test_a_clip_has_the_best_scores_against_itself(clip):
    found = signal.signal_metrics(clip, clip, RATE)
    assert tuple(found) == signal.METRICS
    best = {"stoi": 1, "estoi": 1, "pesq_wb": 4.644, "pesq_nb": 4.549, "si_sdr_db": 100}
    for name, value in found.items():
        assert value == pytest.approx(best.get(name, 0.0), abs=1e-3), name


def test_more_noise_is_worse_by_every_metric(clip, noise):
    steps = [
        signal.signal_metrics(clip, clip + (level * noise[: len(clip)]).astype(np.float32), RATE)
        for level in (0.0003, 0.003, 0.03)
    ]
    for name in signal.METRICS:
        values = [step[name] for step in steps]
        assert values == sorted(values, reverse=METRICS[name].higher_is_better), name
        assert len(set(values)) == 3, name


def test_level_matters_only_where_it_should(clip, noise):
    """Twice as loud: no change for scale-invariant metrics, log10 2 for mel magnitudes above their minimum."""
    estimate = clip + (0.01 * noise[: len(clip)]).astype(np.float32)
    plain, louder = (signal.signal_metrics(clip, factor * estimate, RATE) for factor in (1, 2))
    for name in ("stoi", "estoi", "si_sdr_db", "mcd_db", "mcd_dtw_db"):
        assert louder[name] == pytest.approx(plain[name], abs=1e-3), name
    assert ClipPair(noise, 2 * noise, RATE).mel_distance() == pytest.approx(math.log10(2), abs=1e-3)


def test_si_sdr_has_its_closed_form(noise):
    """Of two signals at right angles, one scaled: 10 log10 of the ratio of their energies, whatever the offset."""
    reference, other = noise[:8000] - noise[:8000].mean(), noise[8000:16_000] - noise[8000:16_000].mean()
    other -= reference * (other @ reference) / (reference @ reference)
    ratio = 10 * math.log10(9 * (reference @ reference) / (other @ other))
    assert ClipPair(reference, 3 * reference + other + 0.5, RATE).si_sdr_db() == pytest.approx(ratio, abs=1e-6)
    assert ClipPair(reference, -reference, RATE).si_sdr_db() == 100.0
    assert ClipPair(reference, other, RATE).si_sdr_db() == -100.0


def test_warping_forgives_a_late_start(clip):
    late = np.concatenate([np.zeros(400, np.float32), clip[:-400]])
    plain, warped = (ClipPair(clip, late, RATE).mcd_db(dtw) for dtw in (False, True))
    assert warped < 0.2 * plain


def test_pitch_is_what_was_played():
    """Against a buzz whose pitch glides over an octave, and one a semitone above it."""
    buzz, pitch = gliding_pulses()
    found = world.analyse(buzz).pitch[: len(pitch)]
    inside = slice(40, -40)
    assert np.abs(1200 * np.log2(found[inside] / pitch[inside])).max() < 20
    above, _ = gliding_pulses(low=100 * 2 ** (1 / 12), high=200 * 2 ** (1 / 12))
    assert ClipPair(buzz, above, RATE).f0_cents() == pytest.approx(100, abs=5)


def test_voicing_errors_are_counted(noise):
    """The second half is hiss in one and a buzz in the other."""
    buzz, _ = gliding_pulses()
    half = buzz.copy()
    half[16_000:] = 0.1 * noise[:16_000]
    assert ClipPair(buzz, half, RATE).vuv_error() == pytest.approx(0.5, abs=0.05)
    assert ClipPair(buzz, half, RATE).vuv_error() == ClipPair(half, buzz, RATE).vuv_error()


def test_a_clip_at_another_rate_scores_about_the_same(clip, noise):
    """Metrics resample for themselves."""
    estimate = (clip + 0.01 * noise[: len(clip)]).astype(np.float32)
    import torch

    pair = [resample(torch.from_numpy(each), RATE, 24_000).numpy() for each in (clip, estimate)]
    before, after = signal.signal_metrics(clip, estimate, RATE), signal.signal_metrics(*pair, 24_000)
    assert after["stoi"] == pytest.approx(before["stoi"], abs=0.01)
    assert after["pesq_wb"] == pytest.approx(before["pesq_wb"], abs=0.05)
    assert after["si_sdr_db"] == pytest.approx(before["si_sdr_db"], abs=0.5)
    assert after["mcd_db"] == pytest.approx(before["mcd_db"], abs=0.3)


def test_single_methods_are_what_signal_metrics_calls(clip, noise):
    estimate = clip + (0.01 * noise[: len(clip)]).astype(np.float32)
    found = signal.signal_metrics(clip, estimate, RATE)
    pair = ClipPair(clip, estimate, RATE)
    assert pair.stoi() == found["stoi"]
    assert pair.stoi(extended=True) == found["estoi"]
    assert pair.pesq() == found["pesq_wb"]
    assert pair.pesq("nb") == found["pesq_nb"]
    assert pair.mcd_db(dtw=True) == found["mcd_dtw_db"]
    assert signal.signal_metrics(clip, estimate, RATE, ["vuv_error", "stoi"]) == {
        "vuv_error": found["vuv_error"],
        "stoi": found["stoi"],
    }


@pytest.mark.parametrize("band", ["wb", "nb"])
def test_long_clips_are_compared_in_pieces(band, noise):
    """A hundred bursts in 50 s, more utterances than the library's tables hold; silent pieces do not count."""
    burst = np.concatenate([0.1 * noise[:4000], np.zeros(4000)])
    reference = np.tile(burst, 100)
    estimate = reference + 0.001 * np.resize(noise, len(reference))
    pieces = zip(np.array_split(reference, 3), np.array_split(estimate, 3), strict=True)
    each = [ClipPair(*pair, RATE).pesq(band) for pair in pieces]
    assert ClipPair(reference, estimate, RATE).pesq(band) == pytest.approx(np.mean(each), abs=0.01)
    silence, first = np.zeros(20 * RATE), slice(0, 20 * RATE)
    late = [np.concatenate([silence, audio[first]]) for audio in (reference, estimate)]
    alone = ClipPair(reference[first], estimate[first], RATE).pesq(band)
    assert ClipPair(*late, RATE).pesq(band) == pytest.approx(alone, abs=1e-3)


def test_the_global_random_state_is_left_alone(clip):
    np.random.seed(5)
    before = np.random.get_state()[1].tolist()
    ClipPair(clip, clip, RATE).stoi(extended=True)
    assert np.random.get_state()[1].tolist() == before


def test_the_inputs_stay_as_they_are(clip):
    copy = clip.copy()
    signal.signal_metrics(clip, 0.5 * clip, RATE)
    assert np.array_equal(clip, copy)


# ------------------------------------------------------------------------------------------------ where it is undefined


@pytest.mark.parametrize("silent", ["reference", "estimate", "both"])
def test_silence_has_no_score(clip, silent):
    zeros = np.zeros_like(clip)
    found = signal.signal_metrics(
        clip if silent == "estimate" else zeros, clip if silent == "reference" else zeros, RATE
    )
    for name in ("stoi", "estoi", "pesq_wb", "pesq_nb", "si_sdr_db", "mcd_db", "mcd_dtw_db", "f0_cents"):
        assert math.isnan(found[name]), name
    assert math.isfinite(found["mel_distance"])
    assert 0 <= found["vuv_error"] <= 1


@pytest.mark.parametrize("samples", [1, 2, 79, 1279, 3900])
def test_very_short_clips_are_handled(clip, samples):
    """A sample, a few, less than a quarter of a second: NaN from those that need more."""
    scrap = clip[8000 : 8000 + samples]
    found = signal.signal_metrics(scrap, 0.9 * scrap, RATE)
    for name in ("stoi", "estoi", "pesq_wb", "pesq_nb"):
        assert math.isnan(found[name]), name
    assert found["mcd_db"] == pytest.approx(0, abs=0.1)
    assert math.isnan(found["si_sdr_db"]) == (samples == 1)  # less its mean, one sample is silence


def test_an_offset_alone_is_silence_to_si_sdr(clip):
    assert math.isnan(ClipPair(np.full_like(clip, 0.1), clip, RATE).si_sdr_db())


def test_too_little_speech_has_no_stoi(clip):
    """Long enough, but 0.1 s of it is 40 dB above the rest."""
    quiet = np.where(np.arange(16_000) < 1600, 1.0, 1e-4) * clip[8000:24_000]
    assert math.isnan(ClipPair(quiet, quiet, RATE).stoi())


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("reference", "estimate", "rate", "message"),
    [
        (np.zeros(9), np.zeros(8), RATE, "reference has 9 samples and estimate 8; .*cut or pad"),
        (np.zeros(16_000), np.zeros(24_000), RATE, "is one at 16 kHz and the other at 24 kHz"),
        (np.zeros(9), np.zeros(9), 16, "is it in kHz"),
        (np.zeros(9), np.zeros(9), 16_000.0, "expected Hz as an int"),
        (np.zeros((1, 9)), np.zeros((1, 9)), RATE, r"shape \[1, 9\]; expected one clip"),
        (np.zeros(0), np.zeros(0), RATE, "at least 1 sample"),
        (np.zeros(9, np.int16), np.zeros(9, np.int16), RATE, "int16 divided by 32768"),
        (np.full(9, 3000.0), np.zeros(9), RATE, "only cast to float"),
        (np.zeros(9), np.full(9, np.nan), RATE, "estimate contains NaN"),
        ([0.0], np.zeros(1), RATE, "reference is a list"),
    ],
)
def test_bad_input_is_named(reference, estimate, rate, message):
    with pytest.raises(ValueError, match=message):
        signal.signal_metrics(reference, estimate, rate)


def test_unknown_names_are_refused(clip):
    with pytest.raises(ValueError, match="no metric 'pesq'; expected some of stoi"):
        signal.signal_metrics(clip, clip, RATE, ["pesq"])
    with pytest.raises(ValueError, match="band is 'WB'"):
        ClipPair(clip, clip, RATE).pesq("WB")


# -------------------------------------------------------------------------------------------------------------- warping


def test_warping_finds_the_known_path():
    """Each value twice in one, once in the other: nothing lies between them."""
    a = np.array([[0.0], [1.0], [5.0], [2.0]])
    assert world.warped_distance(a, np.repeat(a, 2, axis=0)) == (0.0, 8)
    assert world.warped_distance(a, a) == (0.0, 4)
    assert world.warped_distance(a[:1], a) == (8.0, 4)
    assert world.warped_distance(a, a[:1]) == (8.0, 4)


def test_warping_is_the_plain_recursion():
    random = np.random.default_rng(2)
    a, b = random.standard_normal((13, 3)), random.standard_normal((9, 3))
    total = np.full((14, 10), np.inf)
    total[0, 0] = 0
    for i in range(13):
        for j in range(9):
            total[i + 1, j + 1] = np.linalg.norm(a[i] - b[j]) + min(total[i, j], total[i, j + 1], total[i + 1, j])
    assert world.warped_distance(a, b)[0] == pytest.approx(total[13, 9])
    assert world.warped_distance(b, a)[0] == pytest.approx(total[13, 9])


def test_a_band_keeps_the_path_near_the_diagonal():
    random = np.random.default_rng(4)
    a = random.standard_normal((40, 2))
    b = np.concatenate([np.repeat(a[:1], 6, axis=0), a[:-6]])  # six steps late
    free, wide, narrow = (world.warped_distance(a, b, band)[0] for band in (None, 6, 2))
    assert free == wide < narrow
    assert world.warped_distance(a, b, 0)[0] == pytest.approx(np.linalg.norm(a - b, axis=1).sum())
    assert world.warped_distance(a, b[:30], 40) == world.warped_distance(a, b[:30])


def test_a_flat_spectrum_has_a_level_and_nothing_else():
    cepstra = world.mel_cepstra(np.full((2, 513), math.e**2))
    assert cepstra[:, 0] == pytest.approx(1.0)  # log amplitude: half of log power
    assert cepstra[:, 1:] == pytest.approx(0.0, abs=1e-12)


def test_visqol_is_no_default_and_has_limits(clip):
    assert "visqol" not in signal.METRICS
    pytest.importorskip("visqol")
    short = ClipPair(clip[:15_999], clip[:15_999], RATE)
    silent = ClipPair(clip[:20_000], 0 * clip[:20_000], RATE)
    assert math.isnan(short.visqol())
    assert math.isnan(silent.visqol())


@pytest.mark.slow
def test_visqol_is_that_of_the_package(clip, noise):
    """Recorded with visqol-python 3.8.0, speech mode, polynomial; and noise costs, the more the louder it is."""
    pytest.importorskip("visqol")
    found = [ClipPair(clip, clip + level * noise[: len(clip)], RATE).visqol() for level in (0.0, 0.003, 0.03)]
    assert found == pytest.approx(VISQOL, abs=0.01)


def test_a_missing_package_is_named_before_the_work(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install visqol-python==3\.8\.0"):
        signal.check_metric_names(["visqol"])
