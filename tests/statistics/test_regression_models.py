"""Models recover the parameters of simulated data, and note when they cannot."""

import math

import numpy as np
import pytest
import statsmodels.api as sm

from flexicodec.statistics import count_model, logistic_model, mixed_model


def covers(interval, truth):
    return interval.low <= truth <= interval.high


@pytest.fixture
def random():
    return np.random.default_rng(4)


def test_counts_that_vary_more_than_poissons_are_negative_binomial(random):
    x, seconds = random.normal(11, 1.5, 600), random.uniform(2, 10, 600)
    mean = seconds * np.exp(0.5 + 0.08 * x)
    counts = random.poisson(mean * random.gamma(5, 1 / 5, 600))  # alpha = 0.2
    found = count_model(counts, {"phone_rate": x}, seconds)
    assert found.kind == "negative binomial"
    assert found.converged
    assert covers(found.effects["phone_rate"], 0.08)
    assert covers(found.effects["intercept"], 0.5)
    assert found.variances["alpha"] == pytest.approx(0.2, abs=0.04)
    assert found.variances["dispersion"] > 2


def test_counts_that_vary_less_are_poissons_with_narrow_intervals(random):
    x, seconds = random.normal(11, 1.5, 400), random.uniform(2, 10, 400)
    mean = seconds * np.exp(0.5 + 0.08 * x)
    counts = np.maximum(0, np.rint(mean + random.normal(0, 0.3 * np.sqrt(mean))))
    found = count_model(counts, {"phone_rate": x}, seconds)
    assert (found.kind, found.variances["alpha"], found.converged) == ("poisson", 0.0, True)
    assert found.variances["dispersion"] < 0.3
    assert covers(found.effects["phone_rate"], 0.08)
    naive = sm.GLM(counts, sm.add_constant(x), family=sm.families.Poisson(), offset=np.log(seconds)).fit()
    width = found.effects["phone_rate"].high - found.effects["phone_rate"].low
    assert width < 0.5 * np.diff(naive.conf_int()[1])[0]
    assert found.effects["phone_rate"].value == pytest.approx(naive.params[1])


def test_clusters_that_vary_together_widen(random):
    speakers = np.repeat(np.arange(30), 20)
    x = np.repeat(random.normal(0, 1, 30), 20)
    counts = random.poisson(np.exp(3 + 0.1 * x + np.repeat(random.normal(0, 0.3, 30), 20)))
    alone, clustered = (count_model(counts, {"x": x}, np.ones(600), clusters=c) for c in (None, speakers.tolist()))
    widths = [found.effects["x"].high - found.effects["x"].low for found in (alone, clustered)]
    assert widths[1] > 2 * widths[0]
    assert clustered.effects["x"].clusters == 30


def test_few_clusters_and_one_are_said(random):
    counts = random.poisson(5, 40)
    few = count_model(counts, {}, np.ones(40), clusters=[i % 4 for i in range(40)])
    one = count_model(counts, {}, np.ones(40), clusters=["a"] * 40)
    assert "4 clusters are few" in few.notes[0]
    assert "one cluster only" in one.notes[0]


def test_speakers_have_an_intercept_of_their_own(random):
    speakers = np.repeat(np.arange(40), 10)
    x = random.normal(11, 1.5, 400)
    y = 1 + 0.5 * x + np.repeat(random.normal(0, 0.8, 40), 10) + random.normal(0, 0.4, 400)
    found = mixed_model(y, {"phone_rate": x}, {"speaker": speakers.tolist()})
    assert (found.kind, found.converged) == ("mixed", True)
    assert covers(found.effects["phone_rate"], 0.5)
    assert found.variances["speaker"] == pytest.approx(0.64, rel=0.4)
    assert found.variances["noise"] == pytest.approx(0.16, rel=0.2)


def test_crossed_groupings_are_told_apart(random):
    speaker, sentence = np.repeat(np.arange(12), 15), np.tile(np.arange(15), 12)
    x = random.normal(0, 1, 180)
    effects = random.normal(0, 1.0, 12)[speaker] + random.normal(0, 0.5, 15)[sentence]
    y = 0.3 * x + effects + random.normal(0, 0.2, 180)
    found = mixed_model(y, {"x": x}, {"speaker": speaker.tolist(), "sentence": sentence.tolist()})
    assert found.converged
    assert covers(found.effects["x"], 0.3)
    assert found.variances["speaker"] > found.variances["sentence"] > found.variances["noise"]
    assert found.variances["noise"] == pytest.approx(0.04, rel=0.3)


def test_one_speaker_is_least_squares_and_said(random):
    x = random.normal(0, 1, 50)
    y = x + random.normal(0, 1, 50)
    found = mixed_model(y, {"x": x}, {"speaker": ["a"] * 50, "sentence": list(range(50))})
    assert found.kind == "least squares"
    assert found.effects["x"].value == pytest.approx(sm.OLS(y, sm.add_constant(x)).fit().params[1])
    assert [note.split()[0] for note in found.notes] == ["speaker", "sentence"]


def test_speakers_that_do_not_differ_are_a_note_not_a_warning(random):
    x = random.normal(0, 1, 60)
    y = x + random.normal(0, 1, 60)
    y -= np.repeat([y[i : i + 10].mean() for i in range(0, 60, 10)], 10)
    found = mixed_model(y, {"x": x}, {"speaker": np.repeat(np.arange(6), 10).tolist()})
    assert found.notes
    assert found.variances.get("speaker", 0.0) == pytest.approx(0, abs=1e-3)
    assert covers(found.effects["x"], 1.0)


def test_odds_are_found(random):
    x = random.normal(0, 1, 2000)
    outcome = random.random(2000) < 1 / (1 + np.exp(-(0.5 + 0.8 * x)))
    found = logistic_model(outcome, {"x": x})
    assert covers(found.effects["x"], 0.8)
    assert covers(found.effects["intercept"], 0.5)


def test_outcomes_that_can_be_told_without_fail_are_noted():
    x = np.linspace(-1, 1, 40)
    found = logistic_model(x > 0, {"x": x})
    assert found.notes or not found.converged


def test_what_cannot_be_fitted_is_said():
    found = count_model(np.zeros(20), {"x": np.arange(20.0)}, np.ones(20))
    assert not found.converged or found.effects["intercept"].value < -10 or math.isnan(found.effects["x"].low)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: count_model(np.array([1.5]), {}, np.ones(1)), "were rates given"),
        (lambda: count_model(np.ones(2), {}, np.zeros(2)), "exposure has to be above 0"),
        (lambda: count_model(np.ones(2), {"x": np.ones(3)}, np.ones(2)), "x has shape"),
        (lambda: count_model(np.ones(2), {}, np.ones(2), clusters=["a"]), "1 items of 2"),
        (lambda: logistic_model(np.array([0.5, 1]), {}), "0 or 1"),
        (lambda: mixed_model(np.ones(2), {}, {"speaker": ["a"]}), "1 labels for 2 items"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
