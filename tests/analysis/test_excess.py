"""What nulls explain is no excess; what they do not, is."""

import numpy as np
import pytest

from flexicodec.analysis.excess import excess_over, merge_at, sweep
from flexicodec.analysis.nulls import NULLS
from flexicodec.analysis.spoken import null_clips
from flexicodec.statistics import Sampling
from tests.analysis.simulated import following, frames_of, ignoring, spoken_clips, with_audio

QUICK = Sampling(resamples=120)
ALL = ("pearson", "spearman", "within", "within_given_speech")


def test_a_codec_that_follows_phones_exceeds_nulls_that_do_not():
    clips = spoken_clips(np.random.default_rng(0), 40, following, noise=0.1)
    rate = sum(clip.coded.num_tokens for clip in clips) / sum(clip.coded.seconds for clip in clips)
    for null in ("uniform", "random", "shuffled"):
        found = excess_over(clips, null, ALL, draws=3, sampling=QUICK)
        assert list(found) == list(ALL)
        for measure, each in found.items():
            assert each.value > 0.5, measure
            assert each.excess.low > 0.2, (null, measure)
            assert each.excess.value == pytest.approx(each.value - each.null_value)
            assert (each.null, each.measure, each.draws) == (null, measure, 1 if null == "uniform" else 3)
            assert each.null_frame_rate == pytest.approx(rate, rel=0.03)


def test_a_codec_that_ignores_phones_exceeds_no_null():
    clips = spoken_clips(np.random.default_rng(7), 40, ignoring)
    for each in excess_over(clips, "random", ALL, draws=3, sampling=QUICK).values():
        assert each.excess.covers_zero


def test_a_null_has_no_excess_over_itself():
    random = np.random.default_rng(0)
    clips = [with_audio(clip, random) for clip in spoken_clips(random, 12, following, pauses=2)]
    for null in ("voice_activity", "energy", "mel_cosine"):
        same = null_clips(clips, null, per_clip=True)
        found = excess_over(same, null, ("within",), sampling=QUICK)["within"]
        assert (found.excess.low, found.excess.value, found.excess.high) == (0, 0, 0)
        assert found.value != 0


def test_pauses_are_what_voice_activity_explains():
    """A codec of speech and silence only follows the phone rate of whole clips no more than that null does."""
    random = np.random.default_rng(1)
    clips = [
        with_audio(clip, random)
        for n in (0, 2, 4, 6)
        for clip in spoken_clips(random, 8, following, (5.0, 5.0), pauses=n)
    ]
    clips = [type(clip)(f"{i}", clip.coded, clip.phones) for i, clip in enumerate(clips)]
    codec = null_clips(clips, "voice_activity", per_clip=False)
    against = {
        null: excess_over(codec, null, over="all", sampling=QUICK)["pearson"] for null in ("uniform", "voice_activity")
    }
    assert against["uniform"].excess.low > 0.2
    assert against["voice_activity"].excess.covers_zero


def test_bad_calls_are_named():
    clips = spoken_clips(np.random.default_rng(0), 5, following)
    with pytest.raises(ValueError, match="measure is 'r'; expected one of pearson"):
        excess_over(clips, "uniform", ("r",))
    with pytest.raises(ValueError, match="null is 'even'; expected one of uniform"):
        excess_over(clips, "even")
    with pytest.raises(ValueError, match="3 clips to correlate"):
        excess_over(clips[:3], "uniform")
    assert set(NULLS) >= {"uniform", "random", "shuffled", "energy", "mel_cosine", "voice_activity"}


# ------------------------------------------------------------------------------------------------------- thresholds


def similar(clip, random):
    """Make similarities that dip where a phone starts, the deeper the clearer."""
    values = random.uniform(0.6, 1.0, frames_of(clip.coded.seconds) - 1)
    for phone in clip.phones[1:]:
        at = round(phone.start / 0.08) - 1
        if 0 <= at < len(values):
            values[at] = random.uniform(0.0, 0.8)
    return values


def test_the_correlation_is_a_function_of_the_threshold():
    random = np.random.default_rng(0)
    clips = spoken_clips(random, 40, following, speakers=8)
    similarities = [similar(clip, random) for clip in clips]
    points = sweep(clips, similarities, (-1.0, 0.3, 0.6, 0.8, 0.95, 1.0), sampling=QUICK)
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
    assert set(merge_at(clip, values, 1.0).coded.durations.tolist()) == {1}
    assert merge_at(clip, values, -1.0).coded.num_tokens == 1
    with pytest.raises(ValueError, match=f"3 similarities of 'clip-0'; expected {len(values)}"):
        merge_at(clip, np.zeros(3), 0.5)
    with pytest.raises(ValueError, match="0 rows of similarities for 1 clips"):
        sweep([clip], [], [0.5])
    with pytest.raises(ValueError, match=r"1 clips to correlate at a threshold of 0.5"):
        sweep([clip], [values], [0.5])
