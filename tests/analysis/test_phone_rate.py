"""Codecs made to follow phones are found to, with the numbers they were made with; others are not."""

import math
from dataclasses import replace

import numpy as np
import pytest

from flexicodec.analysis.phone_rate import analyze
from flexicodec.analysis.rate_table import CONTROLS, usable
from flexicodec.analysis.spoken import ClipRates, count_rates
from flexicodec.analysis.within import within_clips
from flexicodec.statistics import Sampling, fisher_interval, pearson
from tests.analysis.simulated import following, ignoring, spoken_clips

QUICK = Sampling(resamples=120)
SLOPE, INTERCEPT, SPREAD, NOISE = 0.5, 2.0, 1.5, 0.6  # r is .78, as the paper's
TRUE_R = SLOPE * SPREAD / math.hypot(SLOPE * SPREAD, NOISE)


def made_of(random, clips=160, speakers=20, follows=True, speaker_spread=0.0, seconds=(80.0, 120.0)):
    """Count phones and tokens of clips so long that whole numbers hide nothing; rates are normal."""
    phone_rate = random.normal(11, SPREAD, clips)
    of_speaker = random.normal(0, 1, (2, speakers))[:, np.arange(clips) % speakers] * speaker_spread
    base = phone_rate if follows else np.full(clips, 11.0)
    token_rate = INTERCEPT + SLOPE * base + random.normal(0, NOISE, clips) + of_speaker[1]
    return [
        ClipRates(
            id=f"c{i}",
            speaker=f"s{i % speakers}",
            seconds=(length := float(random.uniform(*seconds))) / float(random.uniform(0.8, 0.95)),
            speech_seconds=length,
            phones=round((x + shift) * length),
            spoken_phones=round((x + shift) * length),
            tokens=round(y * length) + 20,
            speech_tokens=round(y * length),
            syllables=round(0.4 * x * length + random.normal(0, 40)),
            words=round(0.25 * x * length + random.normal(0, 40)),
            log_energy_mean=float(random.normal(-25, 2)),
            log_energy_std=float(random.normal(10, 1)),
            voiced_share=float(random.uniform(0.6, 0.8)),
        )
        for i, (x, y, shift) in enumerate(zip(phone_rate, token_rate, of_speaker[0], strict=True))
    ]


def covers(interval, truth):
    return interval.low <= truth <= interval.high


@pytest.fixture(scope="module")
def result():
    return analyze(made_of(np.random.default_rng(8)), sampling=QUICK)


def test_the_correlation_is_recovered(result):
    for correlation in (result.pearson, result.spearman):
        assert covers(correlation.fisher, TRUE_R)
        assert correlation.percentile.low < TRUE_R < correlation.percentile.high
        assert correlation.bca.low < TRUE_R < correlation.bca.high
    assert result.pearson.value == pytest.approx(TRUE_R, abs=0.06)
    assert (result.clips, result.speakers, result.clusters, result.over) == (160, 20, "speakers", "speech")
    assert result.pearson.percentile.clusters == 20


def test_the_slopes_are_recovered(result):
    truth = {"ols": SLOPE, "rma": SLOPE / TRUE_R}
    for name, slope in truth.items():
        assert covers(result.lines[name].slope, slope), name
        assert covers(result.slopes[name], slope), name
        assert covers(result.lines[name].intercept, 11 * (SLOPE - slope) + INTERCEPT), name
        assert result.lines[name].slope.value == pytest.approx(result.slopes[name].value)
    assert result.lines["ols"].slope.value < result.lines["rma"].slope.value


def test_a_ratio_is_no_slope(result):
    assert result.phones_per_token.value == pytest.approx(11 / 7.5, abs=0.02)
    assert result.phones_per_token.value == pytest.approx(result.phone_rate / result.frame_rate)


def test_the_models_say_the_same(result):
    assert covers(result.mixed.effects["phone_rate"], SLOPE)
    assert covers(result.counts.effects["phone_rate"], SLOPE / 7.5)  # of the logarithm, at the mean
    assert result.mixed.converged
    assert result.counts.converged
    assert result.counts.kind == "negative binomial"  # noise of 0.6 Hz in 100 s is more than Poisson's


def test_controls_that_have_nothing_to_do_with_it_change_little(result):
    assert set(result.controlled) == {*CONTROLS, "all"}
    for name, controlled in result.controlled.items():
        assert covers(controlled.bootstrap, TRUE_R), name
        assert covers(controlled.fisher, TRUE_R), name
        assert controlled.r_squared_gain == pytest.approx(TRUE_R**2, abs=0.1)
    assert result.controlled["all"].controls == CONTROLS
    assert result.without_controls == ()


def test_units_are_told_apart(result):
    """Tokens follow phones here; syllables and words only in as much as they go with phones."""
    assert set(result.units) == {"phones", "syllables", "words"}
    assert result.units["phones"].alone.value == result.pearson.value
    assert result.units["syllables"].alone.low > 0.3
    assert result.units["phones"].given_others.low > 0.2
    assert result.units["syllables"].given_others.covers_zero
    assert result.units["words"].given_others.covers_zero


def test_a_shared_cause_is_taken_out():
    """Silence makes rates over whole clips small together; speech alone knows of no connection."""
    random = np.random.default_rng(3)
    clips = made_of(random, clips=80, follows=False)
    shares = random.uniform(0, 0.5, len(clips))
    padded = [
        replace(clip, seconds=clip.speech_seconds / (1 - share), tokens=clip.speech_tokens)
        for clip, share in zip(clips, shares, strict=True)
    ]
    found = analyze(padded, over="all", sampling=QUICK)
    assert found.pearson.percentile.low > 0.5
    assert abs(found.controlled["silence_share"].bootstrap.value) < 0.5 * found.pearson.value
    assert analyze(padded, sampling=QUICK).pearson.percentile.covers_zero


def test_a_codec_that_ignores_phones_covers_zero_as_often_as_it_says():
    """Of 150 corpora of 40 clips; about 95 %, in Fisher's interval and in that of the bootstrap."""
    covered = np.zeros(2)
    for seed in range(150):
        kept = made_of(np.random.default_rng(seed), clips=40, follows=False)
        x = np.array([clip.phones / clip.speech_seconds for clip in kept])
        y = np.array([clip.speech_tokens / clip.speech_seconds for clip in kept])
        drawn = QUICK.interval(pearson, x, y)
        covered += [fisher_interval(drawn.value, 40).covers_zero, drawn.covers_zero]
    assert (0.9 <= covered / 150).all()
    assert (covered / 150 <= 0.995).all()


def test_speakers_are_why_clusters_are_drawn():
    """Speakers differ in both rates, for reasons of their own: 20 of them are 20 points, not 160."""
    covered = np.zeros(2)
    for seed in range(40):
        clips = made_of(np.random.default_rng(seed), follows=False, speaker_spread=3.0)
        x = np.array([clip.phones / clip.speech_seconds for clip in clips])
        y = np.array([clip.speech_tokens / clip.speech_seconds for clip in clips])
        clustered = Sampling(resamples=100).interval(pearson, x, y, clusters=[clip.speaker for clip in clips])
        covered += [fisher_interval(pearson(x, y), 160).covers_zero, clustered.covers_zero]
    single, clustered = covered / 40
    assert single < 0.6
    assert clustered > 0.85


# ------------------------------------------------------------------------------------------ from phones and tokens


def test_tokens_that_follow_phones_do_so_inside_clips():
    random = np.random.default_rng(1)
    found = analyze([count_rates(c) for c in spoken_clips(random, 40, following, speakers=8)], sampling=QUICK)
    assert found.pearson.percentile.low > 0.8
    assert found.within.r.low > 0.6
    assert found.within.given_speech.low > 0.5
    assert found.within.slope.high < 1.05  # phones that share a frame share a token
    assert found.phones_per_token.value == pytest.approx(1.15, abs=0.1)
    assert found.controlled == {}  # no sound, no controls
    assert len(found.without_controls) == 40


def test_more_noise_is_less_correlation():
    random = np.random.default_rng(2)
    values = []
    for noise in (0.0, 0.3, 0.6, 1.0):
        clips = [count_rates(c) for c in spoken_clips(random, 60, following, noise=noise, rates=(7.0, 7.0))]
        values.append(within_clips(clips, QUICK).r.value)
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.7
    assert abs(values[-1]) < 0.15


def test_windows_of_a_codec_that_ignores_phones_cover_zero_as_often_as_they_say():
    covered = np.zeros(2)
    for seed in range(60):
        random = np.random.default_rng(seed)
        found = within_clips([count_rates(c) for c in spoken_clips(random, 20, ignoring)], Sampling(resamples=100))
        covered += [found.r.covers_zero, found.fisher.covers_zero]
    assert (covered / 60 >= 0.87).all()


def test_pauses_explain_windows_but_not_speech():
    """Tokens everywhere in speech and none in pauses: phones and tokens go together only as far as pauses do."""
    random = np.random.default_rng(4)

    def only_speech(random, phones, seconds):
        frames = int(np.ceil(seconds / 0.08))
        silent = [p for p in phones if p.label == "sp"]
        inside = [any(p.start <= 0.08 * t < p.end for p in silent) for t in range(frames)]
        chosen = [t for t in range(frames) if not inside[t] and random.random() < 0.6]
        starts = sorted({0, *chosen})
        return np.diff([*starts, frames])

    clips = [count_rates(c) for c in spoken_clips(random, 80, only_speech, pauses=4, rates=(7.0, 7.0))]
    found = within_clips(clips, QUICK)
    assert found.r.low > 0.2
    assert found.given_speech.covers_zero
    assert found.clips == 80
    assert found.windows == sum(len(clip.windows) for clip in clips)


def test_without_times_there_are_no_windows():
    assert within_clips(made_of(np.random.default_rng(0))[:8]) is None
    assert analyze(made_of(np.random.default_rng(0))[:8], sampling=QUICK).within is None


# ------------------------------------------------------------------------------------------------- who is counted


def test_nothing_is_left_out_without_being_counted():
    clips = made_of(np.random.default_rng(0), clips=12)
    changes = [{"phones": 0}, {"speech_seconds": 0.0}, {"speech_tokens": 0}, {"unknown": 1}, {"sentence": "sa1"}]
    changes += [{"voiced_share": math.nan}]
    mixed = [replace(clip, **change) for clip, change in zip(clips, changes, strict=False)] + clips[6:]
    found = analyze(mixed, sampling=QUICK, left_out={"no alignment": ["x", "y"]})
    assert found.left_out == {
        "no alignment": ("x", "y"),
        "no phones": ("c0",),
        "no speech": ("c1",),
        "no token in speech": ("c2",),
        "words that the alignment does not spell": ("c3",),
        "sentence that all speakers read": ("c4",),
    }
    assert (found.clips, found.without_controls) == (7, ("c5",))
    assert found.clips + sum(map(len, found.left_out.values())) == 12 + 2
    kept, lost = usable(mixed, "all")
    assert "no token in speech" not in lost
    assert len(kept) == 8


def test_one_speaker_and_unknown_ones_make_clips_the_clusters():
    clips = made_of(np.random.default_rng(0), clips=30)
    for speaker in ("one", None):
        found = analyze([replace(clip, speaker=speaker) for clip in clips], sampling=QUICK)
        assert (found.clusters, found.speakers) == ("clips", 0 if speaker is None else 1)
        assert found.mixed.kind == "least squares"


def test_one_rate_for_all_clips_has_no_correlation_and_does_not_fail():
    clips = [
        replace(clip, tokens=600, speech_tokens=500, seconds=120.0, speech_seconds=100.0)
        for clip in made_of(np.random.default_rng(0), clips=20)
    ]
    found = analyze(clips, sampling=QUICK)
    assert math.isnan(found.pearson.value)
    assert not found.pearson.percentile.covers_zero
    assert found.lines["ols"].slope.value == pytest.approx(0)


def test_bad_calls_are_named():
    clips = made_of(np.random.default_rng(0), clips=5)
    with pytest.raises(ValueError, match="clip 'c0' is there twice"):
        analyze([*clips, clips[0]])
    with pytest.raises(ValueError, match="over is 'some'"):
        analyze(clips, over="some")
    with pytest.raises(ValueError, match="3 clips to correlate, at least 4 are needed; left out: 2 no phones"):
        analyze([*clips[:3], *(replace(clip, phones=0) for clip in clips[3:])])
    with pytest.raises(ValueError, match="left out: none"):
        analyze([])
