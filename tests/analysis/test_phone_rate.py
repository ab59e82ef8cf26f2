"""Counts of clips are exact; simulated relations of frame rate and phone rate are recovered with their numbers."""

import math
from dataclasses import replace

import numpy as np
import pytest

from flexicodec.analysis.acoustic_features import Controls
from flexicodec.analysis.null_codecs import NULLS
from flexicodec.analysis.phone_rate import (
    CONTROLS,
    ClipRates,
    SpokenClip,
    analyze_phone_rate,
    correlatable,
    count_rates,
    excess_over_null,
    group_correlations,
    merge_at,
    null_clips,
    threshold_sweep,
    within_clip_correlation,
)
from flexicodec.analysis.token_timeline import TokenTimeline
from flexicodec.corpus.alignments.alignment import Segment
from flexicodec.statistics import Sampling, fisher_interval, pearson
from tests.analysis.simulated import following, frames_of, ignoring, spoken_clips, with_audio

PHONES = (
    Segment(0.0, 0.4, "sil"),
    Segment(0.4, 0.5, "HH"),
    Segment(0.5, 0.8, "AH0"),
    Segment(0.8, 1.0, "L"),
    Segment(1.0, 1.2, "OW1"),
    Segment(1.2, 2.0, ""),
)


WORDS = (Segment(0.4, 1.2, "hello"),)


CODED = TokenTimeline(np.array([5, 1, 4, 3, 2, 8, 2]), 0.08, 2.0)  # middles .2 .44 .64 .92 1.12 1.52 1.92


def test_counts_are_exact():
    controls = Controls(-20.0, 5.0, 0.7)
    found = count_rates(SpokenClip("a", CODED, PHONES, WORDS, "s", "SX1", controls))
    assert (found.phones, found.syllables, found.words, found.unknown) == (4, 2, 1, 0)
    assert (found.tokens, found.speech_tokens) == (7, 4)
    assert (found.seconds, found.speech_seconds) == (2.0, pytest.approx(0.8))
    assert found.silence_share == pytest.approx(0.6)
    assert (found.log_energy_mean, found.log_energy_std, found.voiced_share) == (-20.0, 5.0, 0.7)
    assert (found.id, found.speaker, found.sentence) == ("a", "s", "SX1")
    assert found.windows == pytest.approx(np.array([[3, 4, 0.6], [1, 3, 0.2]]))


def test_windows_hold_what_is_in_them_and_the_rest_is_in_none():
    found = count_rates(SpokenClip("a", CODED, PHONES), window_seconds=0.8)
    assert found.windows[:, 0].tolist() == [2, 2]  # of 2.0 s, 0.4 remain
    assert count_rates(SpokenClip("a", CODED, PHONES), window_seconds=3.0).windows.shape == (0, 3)


def test_silences_count_by_the_counting():
    clip = SpokenClip("a", CODED, PHONES)
    assert [count_rates(clip, counting=way).phones for way in ("all", "speech", "merged")] == [6, 4, 4]
    with pytest.raises(ValueError, match="expected one of all, speech, merged"):
        count_rates(clip, counting="some")


def test_an_offset_moves_tokens_into_speech():
    assert count_rates(SpokenClip("a", CODED, PHONES), offset=0.25).speech_tokens == 4
    assert count_rates(SpokenClip("a", CODED, PHONES), offset=0.9).speech_tokens == 1


def test_unknown_words_are_no_phones_but_are_counted():
    phones = (Segment(0.0, 0.5, "AH0"), Segment(0.5, 1.0, "spn"), Segment(1.0, 1.5, "T"))
    found = count_rates(SpokenClip("a", CODED, phones))
    assert (found.phones, found.unknown) == (2, 1)


def test_a_number_of_phones_is_enough_with_audio():
    random = np.random.default_rng(0)
    audio = np.concatenate([np.zeros(16000), 0.1 * random.standard_normal(16000)]).astype(np.float32)
    found = count_rates(SpokenClip("a", TokenTimeline(np.full(25, 1), 0.08, 2.0, 8, audio), 12))
    assert (found.phones, found.tokens, found.syllables, found.words, found.windows) == (12, 25, None, None, None)
    assert found.speech_seconds == pytest.approx(1.0, abs=0.08)
    assert found.speech_tokens == pytest.approx(12, abs=1)
    with pytest.raises(ValueError, match="make it with audio="):
        count_rates(SpokenClip("a", CODED, 12))


def test_null_tokens_keep_all_else():
    random = np.random.default_rng(0)
    clips = [with_audio(clip, random) for clip in spoken_clips(random, 5, following, noise=0.2)]
    own = [count_rates(clip) for clip in clips]
    for name in ("uniform", "shuffled", "energy"):
        null_rates = [count_rates(clip) for clip in null_clips(clips, name, per_clip=True)]
        assert [(c.id, c.phones, c.tokens, c.speech_seconds) for c in null_rates] == [
            (c.id, c.phones, c.tokens, c.speech_seconds) for c in own
        ]
        corpus = [count_rates(clip) for clip in null_clips(clips, name, per_clip=False)]
        assert sum(c.tokens for c in corpus) == pytest.approx(sum(c.tokens for c in own), abs=5)
    with pytest.raises(ValueError, match="null is 'even'"):
        null_clips(clips, "even", per_clip=True)


# ---- phone rate
QUICK = Sampling(resamples=120)


SLOPE, INTERCEPT, SPREAD, NOISE = 0.5, 2.0, 1.5, 0.6  # r is .78, as the paper's


TRUE_R = SLOPE * SPREAD / math.hypot(SLOPE * SPREAD, NOISE)


def made_of(random, clips=160, speakers=20, follows=True, speaker_spread=0.0, seconds=(80.0, 120.0)):
    """Count phones and tokens of clips long enough to neglect rounding; rates are normal."""
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
    return analyze_phone_rate(made_of(np.random.default_rng(8)), sampling=QUICK)


def test_the_correlation_is_recovered(result):
    for correlation in (result.pearson, result.spearman):
        assert covers(correlation.fisher, TRUE_R)
        assert correlation.bca.low < TRUE_R < correlation.bca.high
    assert result.pearson.value == pytest.approx(TRUE_R, abs=0.06)
    assert (result.clips, result.speakers, result.clusters, result.over) == (160, 20, "speakers", "speech")
    assert result.pearson.bca.clusters == 20


def test_the_slopes_are_recovered(result):
    truth = {"ols": SLOPE, "rma": SLOPE / TRUE_R}
    for name, slope in truth.items():
        assert covers(result.lines[name].slope, slope), name
        assert covers(result.slopes[name], slope), name
        assert covers(result.lines[name].intercept, 11 * (SLOPE - slope) + INTERCEPT), name
        assert result.lines[name].slope.value == pytest.approx(result.slopes[name].value)


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
    """Tokens follow phones here; syllables and words only by their correlation with phones."""
    assert set(result.units) == {"phones", "syllables", "words"}
    assert result.units["phones"].alone.value == result.pearson.value
    assert result.units["syllables"].alone.low > 0.3
    assert result.units["phones"].given_others.low > 0.2
    assert result.units["syllables"].given_others.covers_zero
    assert result.units["words"].given_others.covers_zero


def test_a_shared_cause_is_partialled_out():
    """Silence lowers both rates over whole clips; in speech alone they are independent."""
    random = np.random.default_rng(3)
    clips = made_of(random, clips=80, follows=False)
    shares = random.uniform(0, 0.5, len(clips))
    padded = [
        replace(clip, seconds=clip.speech_seconds / (1 - share), tokens=clip.speech_tokens)
        for clip, share in zip(clips, shares, strict=True)
    ]
    found = analyze_phone_rate(padded, over="all", sampling=QUICK)
    assert found.pearson.bca.low > 0.4
    assert abs(found.controlled["silence_share"].bootstrap.value) < 0.5 * found.pearson.value
    assert analyze_phone_rate(padded, sampling=QUICK).pearson.bca.covers_zero


def test_a_codec_that_ignores_phones_covers_zero_as_often_as_it_says():
    """Of 150 corpora of 40 clips; about 95 %, in Fisher's interval and in that of the bootstrap."""
    covered = np.zeros(2)
    for seed in range(150):
        kept = made_of(np.random.default_rng(seed), clips=40, follows=False)
        x = np.array([clip.phones / clip.speech_seconds for clip in kept])
        y = np.array([clip.speech_tokens / clip.speech_seconds for clip in kept])
        null_rates = QUICK.interval(pearson, x, y)
        covered += [fisher_interval(null_rates.value, 40).covers_zero, null_rates.covers_zero]
    assert (0.9 <= covered / 150).all()
    assert (covered / 150 <= 0.995).all()


def test_speakers_are_the_resampled_clusters():
    """Speakers differ in both rates independently: 20 of them are 20 points, not 160."""
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
    found = analyze_phone_rate(
        [count_rates(c) for c in spoken_clips(random, 40, following, speakers=8)], sampling=QUICK
    )
    assert found.pearson.bca.low > 0.8
    assert found.within.r.low > 0.6
    assert found.within.given_speech.low > 0.5
    assert found.within.slope.high < 1.05  # phones that share a frame share a token
    assert found.phones_per_token.value == pytest.approx(1.15, abs=0.1)
    assert found.controlled == {}  # no audio, no controls
    assert len(found.without_controls) == 40


def test_more_noise_is_less_correlation():
    random = np.random.default_rng(2)
    values = []
    for noise in (0.0, 0.3, 0.6, 1.0):
        clips = [count_rates(c) for c in spoken_clips(random, 60, following, noise=noise, rates=(7.0, 7.0))]
        values.append(within_clip_correlation(clips, QUICK).r.value)
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.7
    assert abs(values[-1]) < 0.15


def test_windows_of_a_codec_that_ignores_phones_cover_zero_as_often_as_they_say():
    covered = np.zeros(2)
    for seed in range(60):
        random = np.random.default_rng(seed)
        found = within_clip_correlation(
            [count_rates(c) for c in spoken_clips(random, 20, ignoring)], Sampling(resamples=100)
        )
        covered += [found.r.covers_zero, found.fisher.covers_zero]
    assert (covered / 60 >= 0.87).all()


def test_pauses_explain_windows_but_not_speech():
    """Tokens throughout speech and none in pauses: phones and tokens correlate only through pauses."""
    random = np.random.default_rng(4)

    def only_speech(random, phones, seconds):
        frames = int(np.ceil(seconds / 0.08))
        silent = [p for p in phones if p.label == "sp"]
        inside = [any(p.start <= 0.08 * t < p.end for p in silent) for t in range(frames)]
        chosen = [t for t in range(frames) if not inside[t] and random.random() < 0.6]
        starts = sorted({0, *chosen})
        return np.diff([*starts, frames])

    clips = [count_rates(c) for c in spoken_clips(random, 80, only_speech, pauses=4, rates=(7.0, 7.0))]
    found = within_clip_correlation(clips, QUICK)
    assert found.r.low > 0.2
    assert found.given_speech.covers_zero
    assert found.clips == 80
    assert found.windows == sum(len(clip.windows) for clip in clips)


def test_without_times_there_are_no_windows():
    assert within_clip_correlation(made_of(np.random.default_rng(0))[:8]) is None
    assert analyze_phone_rate(made_of(np.random.default_rng(0))[:8], sampling=QUICK).within is None


# ------------------------------------------------------------------------------------------------- who is counted


def test_nothing_is_left_out_without_being_counted():
    clips = made_of(np.random.default_rng(0), clips=12)
    changes = [{"phones": 0}, {"speech_seconds": 0.0}, {"speech_tokens": 0}, {"unknown": 1}, {"sentence": "sa1"}]
    changes += [{"voiced_share": math.nan}]
    mixed = [replace(clip, **change) for clip, change in zip(clips, changes, strict=False)] + clips[6:]
    found = analyze_phone_rate(mixed, sampling=QUICK, left_out={"no alignment": ["x", "y"]})
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
    kept, lost = correlatable(mixed, "all")
    assert "no token in speech" not in lost
    assert len(kept) == 8


def test_one_speaker_and_unknown_ones_make_clips_the_clusters():
    clips = made_of(np.random.default_rng(0), clips=30)
    for speaker in ("one", None):
        found = analyze_phone_rate([replace(clip, speaker=speaker) for clip in clips], sampling=QUICK)
        assert (found.clusters, found.speakers) == ("clips", 0 if speaker is None else 1)
        assert found.mixed.kind == "least squares"


def test_one_rate_for_all_clips_has_no_correlation_and_does_not_fail():
    clips = [
        replace(clip, tokens=600, speech_tokens=500, seconds=120.0, speech_seconds=100.0)
        for clip in made_of(np.random.default_rng(0), clips=20)
    ]
    found = analyze_phone_rate(clips, sampling=QUICK)
    assert math.isnan(found.pearson.value)
    assert not found.pearson.bca.covers_zero
    assert found.lines["ols"].slope.value == pytest.approx(0)


def test_bad_calls_are_named():
    clips = made_of(np.random.default_rng(0), clips=5)
    with pytest.raises(ValueError, match="clip 'c0' is there twice"):
        analyze_phone_rate([*clips, clips[0]])
    with pytest.raises(ValueError, match="over is 'some'"):
        analyze_phone_rate(clips, over="some")
    with pytest.raises(ValueError, match="3 clips to correlate, at least 4 are needed; left out: 2 no phones"):
        analyze_phone_rate([*clips[:3], *(replace(clip, phones=0) for clip in clips[3:])])
    with pytest.raises(ValueError, match="left out: none"):
        analyze_phone_rate([])


# ---- groups
SMALL = Sampling(resamples=300)


def clips(tokens_of, corpora=2, speakers=4, each=15, seed=0):
    """Clips of 10 s, and the corpus of each: the second corpus is twice as fast as the first."""
    random = np.random.default_rng(seed)
    rates, names = [], {}
    for corpus in range(corpora):
        for speaker in range(speakers):
            for i in range(each):
                phones, name = int(random.normal(80 + 80 * corpus, 8)), f"{corpus}-{speaker}-{i}"
                tokens = int(tokens_of(corpus, phones, random))
                rates.append(ClipRates(name, f"s{corpus}{speaker}", 10.0, 10.0, phones, phones, tokens, tokens))
                names[name] = f"corpus {corpus}"
    return rates, names


def test_corpora_that_differ_correlate_by_their_means_alone():
    found = group_correlations(*clips(lambda corpus, phones, random: random.normal(40 + 40 * corpus, 4)), SMALL)
    assert list(found) == [
        *("corpus 0 alone", "corpus 1 alone"),
        *("means of corpora taken out", "means of speakers taken out"),
    ]
    for each in found.values():
        assert each.covers_zero
        assert abs(each.value) < 0.25


def test_clips_that_follow_phones_do_so_inside_every_group():
    found = group_correlations(*clips(lambda corpus, phones, random: random.normal(phones / 2, 1)), SMALL)
    for each in found.values():
        assert each.low > 0.85


def test_small_corpora_are_not_correlated_alone():
    rates, names = clips(lambda corpus, phones, random: phones, speakers=1, each=5)
    assert list(group_correlations(rates, names, SMALL)) == [
        "means of corpora taken out",
        "means of speakers taken out",
    ]


@pytest.mark.parametrize("speaker", [None, "one"])
def test_one_corpus_and_one_speaker_are_no_groups(speaker):
    rates = [ClipRates(str(i), speaker, 10.0, 10.0, 80 + i, 80 + i, 40 + i, 40 + i) for i in range(12)]
    assert group_correlations(rates, {}, SMALL) == {}


# ---- excess
ALL = ("pearson", "spearman", "within", "within_given_speech")


def test_a_codec_that_follows_phones_exceeds_nulls_that_do_not():
    clips = spoken_clips(np.random.default_rng(0), 40, following, noise=0.1)
    rate = sum(clip.timeline.num_tokens for clip in clips) / sum(clip.timeline.seconds for clip in clips)
    for null in ("uniform", "random", "shuffled"):
        found = excess_over_null(clips, null, ALL, draws=3, sampling=QUICK)
        assert list(found) == list(ALL)
        for measure, each in found.items():
            assert each.value > 0.5, measure
            assert each.excess.low > 0.2, (null, measure)
            assert each.excess.value == pytest.approx(each.value - each.null_value)
            assert (each.null, each.measure, each.draws) == (null, measure, 1 if null == "uniform" else 3)
            assert each.null_frame_rate == pytest.approx(rate, rel=0.03)


def test_a_codec_that_ignores_phones_exceeds_no_null():
    clips = spoken_clips(np.random.default_rng(7), 40, ignoring)
    for each in excess_over_null(clips, "random", ALL, draws=3, sampling=QUICK).values():
        assert each.excess.covers_zero


def test_a_null_codec_has_no_excess_over_itself():
    random = np.random.default_rng(0)
    clips = [with_audio(clip, random) for clip in spoken_clips(random, 12, following, pauses=2)]
    for null in ("voice_activity", "energy", "mel_cosine"):
        same = null_clips(clips, null, per_clip=True)
        found = excess_over_null(same, null, ("within",), sampling=QUICK)["within"]
        assert (found.excess.low, found.excess.value, found.excess.high) == (0, 0, 0)
        assert found.value != 0


def test_pauses_are_explained_by_voice_activity():
    """A codec of speech and silence only follows the phone rate of whole clips no more than that null does."""
    random = np.random.default_rng(1)
    clips = [
        with_audio(clip, random)
        for n in (0, 2, 4, 6)
        for clip in spoken_clips(random, 8, following, (5.0, 5.0), pauses=n)
    ]
    clips = [type(clip)(f"{i}", clip.timeline, clip.phones) for i, clip in enumerate(clips)]
    codec = null_clips(clips, "voice_activity", per_clip=False)
    against = {
        null: excess_over_null(codec, null, over="all", sampling=QUICK)["pearson"]
        for null in ("uniform", "voice_activity")
    }
    assert against["uniform"].excess.low > 0.2
    assert against["voice_activity"].excess.covers_zero


def test_bad_excess_calls_are_named():
    clips = spoken_clips(np.random.default_rng(0), 5, following)
    with pytest.raises(ValueError, match="measure is 'r'; expected one of pearson"):
        excess_over_null(clips, "uniform", ("r",))
    with pytest.raises(ValueError, match="null is 'even'; expected one of uniform"):
        excess_over_null(clips, "even")
    with pytest.raises(ValueError, match="3 clips to correlate"):
        excess_over_null(clips[:3], "uniform")
    assert set(NULLS) >= {"uniform", "random", "shuffled", "energy", "mel_cosine", "voice_activity"}


# ------------------------------------------------------------------------------------------------------- thresholds


def similar(clip, random):
    """Make similarities with a dip at the start of each phone."""
    values = random.uniform(0.6, 1.0, frames_of(clip.timeline.seconds) - 1)
    for phone in clip.phones[1:]:
        at = round(phone.start / 0.08) - 1
        if 0 <= at < len(values):
            values[at] = random.uniform(0.0, 0.8)
    return values


def test_the_correlation_is_a_function_of_the_threshold():
    random = np.random.default_rng(0)
    clips = spoken_clips(random, 40, following, speakers=8)
    similarities = [similar(clip, random) for clip in clips]
    points = threshold_sweep(clips, similarities, (-1.0, 0.3, 0.6, 0.8, 0.95, 1.0), sampling=QUICK)
    rates = [point.frame_rate for point in points]
    assert rates == sorted(rates)
    assert points[-1].frame_rate == pytest.approx(12.5, abs=0.2)
    best = points[2]
    assert best.r.low > 0.6
    assert best.fisher.value == best.r.value
    assert best.r.clusters == 8
    assert best.within > 0.4
    assert best.slope > 0.4
    assert best.r.value > points[4].r.value > abs(np.nan_to_num(points[-1].r.value)) - 0.5
    assert [point.clips for point in points] == [40] * 6


def test_a_threshold_of_one_keeps_frames_apart():
    random = np.random.default_rng(0)
    clip = spoken_clips(random, 1, following)[0]
    values = similar(clip, random)
    assert set(merge_at(clip, values, 1.0).timeline.durations.tolist()) == {1}
    assert merge_at(clip, values, -1.0).timeline.num_tokens == 1
    with pytest.raises(ValueError, match=f"3 similarities of 'clip-0'; expected {len(values)}"):
        merge_at(clip, np.zeros(3), 0.5)
    with pytest.raises(ValueError, match="0 rows of similarities for 1 clips"):
        threshold_sweep([clip], [], [0.5])
    with pytest.raises(ValueError, match=r"1 clips to correlate at a threshold of 0.5"):
        threshold_sweep([clip], [values], [0.5])
