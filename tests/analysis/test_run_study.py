"""A study runs every analysis possible with its clips, and lists the others."""

from dataclasses import replace

import numpy as np
import pytest

from flexicodec.analysis.collect import collect
from flexicodec.analysis.run_study import StudyOptions, rate_curve, run_study
from flexicodec.statistics import pearson

QUICK = StudyOptions(resamples=20, draws=1)


@pytest.fixture(scope="module")
def found(studied):
    return studied


def by_name(found):
    return {each.setting.name: each for each in found.settings}


def test_every_setting_is_analysed(found, gathered):
    settings = by_name(found)
    assert list(settings) == [setting.name for setting in gathered.settings]
    assert found.main.setting.name == "6.25 Hz"
    assert settings["12.5 Hz"].frame_rate.value == pytest.approx(12.5, rel=0.05)
    for each in found.settings:
        assert each.frame_rate.clusters == 3  # intervals resample speakers
        assert list(each.per_token) == ["phones", "syllables", "words"]
        assert each.codes is not None


def test_rates_that_cannot_vary_are_not_correlated(found):
    settings = by_name(found)
    assert not settings["12.5 Hz"].phone_rate
    assert not settings["12.5 Hz"].agreement
    assert not settings["12.5 Hz"].information
    assert list(settings["6.25 Hz"].information) == ["phones", "syllables", "words"]
    assert not settings["6.25 Hz, every clip"].phone_rate
    assert settings["6.25 Hz, every clip"].within is not None
    assert list(settings["6.25 Hz"].phone_rate) == ["speech", "all"]
    assert settings["6.25 Hz"].excess.keys() >= {"uniform", "random", "mel_cosine"}


def test_numbers_agree_with_each_other(found, gathered):
    each = found.main
    over_all = each.phone_rate["all"]
    assert over_all.frame_rate == pytest.approx(each.frame_rate.value)
    assert over_all.phones_per_token.value == pytest.approx(each.per_token["phones"].mean.value)
    assert each.phone_rate["speech"].pearson.value == pytest.approx(pearson(*each.rates.xy))
    assert each.durations[0].tokens == each.codes.tokens == each.per_token["words"].tokens
    assert each.codes.nominal_kbps.value == pytest.approx(each.nominal_kbps.value)


def test_correlations_inside_speakers(found):
    groups = by_name(found)["6.25 Hz"].groups
    assert list(groups) == ["means of speakers taken out"]
    assert groups["means of speakers taken out"].items == 12


def test_odds_of_merging(found):
    settings = by_name(found)
    assert settings["12.5 Hz"].odds is None
    effects = settings["6.25 Hz"].odds.effects
    assert {"across", "beyond", "silence", "energy_change"} <= effects.keys()
    assert effects["across"].clusters == 3
    pairs = sum(one.pairs for one in settings["6.25 Hz"].merged if one.first == "all")
    assert effects["across"].items == pairs


def test_digits_are_of_tokens_with_phones(found):
    for each in found.settings:
        assert each.digits.tokens == each.codes.tokens
        assert len(each.digits.phones) == len(found.data.levels)
        speech = next(row for row in each.durations if row.name == "speech")
        assert each.digits.spoken == speech.tokens


def test_sentences_that_all_read_are_left_out_and_shown_apart(gathered):
    clips = tuple(replace(clip, sentence="SA1" if i < 3 else f"SX{i}") for i, clip in enumerate(gathered.clips))
    main = run_study(replace(gathered, clips=clips, settings=gathered.settings[1:2]), QUICK).main
    assert main.phone_rate["speech"].left_out == {"sentence that all speakers read": ("0", "1", "2")}
    assert main.phone_rate["speech"].clips == 9
    assert main.groups["sentences that all speakers read, too"].items == 12
    assert main.groups["means of speakers taken out"].items == 9


def test_the_curve_rises_from_the_caps_rate_to_the_grids(found, gathered):
    curve = found.curve
    assert curve.thresholds[-1] == 1.0
    assert (np.diff(curve.clips, axis=0) >= 0).all()
    frames = sum(int(clip.tokens["12.5 Hz"].frame_lengths[0]) for clip in gathered.clips)
    assert curve.corpus[-1] == pytest.approx(frames / gathered.seconds)
    fewest = sum(-(-int(clip.tokens["12.5 Hz"].frame_lengths[0]) // 8) for clip in gathered.clips)
    assert curve.corpus[0] == pytest.approx(fewest / gathered.seconds)


def test_the_sweep_goes_through_the_settings(found):
    rates = [point.frame_rate for point in found.sweep]
    assert rates == sorted(rates)
    assert rates[0] < 6.25 < rates[-1]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers(gathered):
    first, again = (run_study(gathered, QUICK).main for _ in range(2))
    assert again.phone_rate["speech"].pearson == first.phone_rate["speech"].pearson
    assert again.agreement == first.agreement


def test_counts_allow_rates_alone(listening_codec, utterances):
    counted = collect(listening_codec, [replace(u, alignment=None) for u in utterances], frame_rates=(6.25,))
    found = run_study(counted, QUICK)
    assert "boundaries: no clip has phones in time" in found.notes[0]
    assert found.split is None
    (each,) = found.settings
    assert not each.merged
    assert not each.agreement
    assert not each.per_token
    assert each.phone_rate["speech"].within is None
    assert {row.name for row in each.durations} == {"all", "speech", "silence"}
    expected = sum(u.num_phones for u in utterances) / each.durations[0].tokens
    assert each.phone_rate["all"].phones_per_token.value == pytest.approx(expected)
    assert list(each.excess["uniform"]) == ["pearson"]


def test_letters_are_counted_but_are_not_phones_in_time(listening_codec, utterances):
    letters = collect(listening_codec, utterances, frame_rates=(6.25,), source="recogniser")
    found = run_study(letters, QUICK)
    (each,) = found.settings
    assert list(each.per_token) == ["letters"]
    assert each.per_token["letters"].segments == 12 * len("soitis")
    assert not each.agreement
    assert each.phone_rate["speech"].within is None


def test_too_few_clips_leave_notes(listening_codec, utterances):
    found = run_study(collect(listening_codec, utterances[:1], frame_rates=(6.25,)), QUICK)
    told = " ".join(found.notes)
    assert "1 clips to correlate, at least 4 are needed" in told
    assert "two or more are needed to fit on one" in told
    assert "bits: 1 entries of 1 clips or speakers" in told
    assert found.settings[0].per_token["phones"].tokens > 0


def test_clips_of_one_frame(listening_codec, utterances):
    """The shortest clips there are: no pair of frames, hence no similarity."""
    short = [replace(u, duration=0.05, alignment=None) for u in utterances]
    found = collect(listening_codec, short, thresholds=(0.9,))
    assert all(len(clip.similarities) == 0 for clip in found.clips)
    curve = rate_curve(found)
    assert (curve.clips == 20).all()
    assert run_study(found, QUICK).settings[0].frame_rate.value == pytest.approx(20)
