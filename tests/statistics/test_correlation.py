"""Correlations and lines against scipy, statsmodels and closed forms; intervals against their nominal coverage."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from flexicodec.statistics import (
    FITS,
    Sampling,
    bootstrap,
    fisher_interval,
    fit_line,
    fixed_effects_corr,
    line_band,
    num_controls,
    partial_corr,
    pearson,
    semi_partial_corr,
    spearman,
)
from flexicodec.statistics.correlation import regress_out


@pytest.fixture
def data():
    """Two variables that depend on three controls."""
    random = np.random.default_rng(0)
    controls = random.standard_normal((80, 3))
    x = controls @ [1.0, -0.5, 0.2] + random.standard_normal(80)
    y = 0.6 * x + controls @ [0.3, 0.8, 0.0] + random.standard_normal(80)
    return x, y, controls


def explained(y, *columns):
    design = np.column_stack([np.ones(len(y)), *columns])
    return 1 - np.linalg.lstsq(design, y, rcond=None)[1][0] / np.sum((y - y.mean()) ** 2)


def test_plain_ones_are_scipys(data):
    x, y, _ = data
    assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    tied = np.round(x)
    assert spearman(tied, y) == pytest.approx(stats.spearmanr(tied, y).statistic, abs=1e-12)


def test_one_control_has_a_closed_form(data):
    x, y, controls = data
    z = controls[:, 0]
    xy, xz, yz = pearson(x, y), pearson(x, z), pearson(y, z)
    expected = (xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2))
    assert partial_corr(x, y, z[:, None]) == pytest.approx(expected, abs=1e-12)
    assert semi_partial_corr(x, y, z[:, None]) == pytest.approx((xy - xz * yz) / math.sqrt(1 - xz**2), abs=1e-12)


def test_several_controls_come_from_the_inverse_of_the_correlations(data):
    x, y, controls = data
    precision = np.linalg.inv(np.corrcoef(np.column_stack([x, y, controls]), rowvar=False))
    expected = -precision[0, 1] / math.sqrt(precision[0, 0] * precision[1, 1])
    assert partial_corr(x, y, controls) == pytest.approx(expected, abs=1e-12)


def test_the_gain_is_that_of_two_regressions(data):
    x, y, controls = data
    expected = explained(y, *controls.T, x) - explained(y, *controls.T)
    assert semi_partial_corr(x, y, controls) ** 2 == pytest.approx(expected, abs=1e-12)


def test_controls_that_say_nothing_change_nothing(data):
    x, y, controls = data
    more = np.column_stack([controls, np.full(80, 3.0), controls[:, 0] - 2 * controls[:, 1]])
    assert partial_corr(x, y, more) == pytest.approx(partial_corr(x, y, controls), abs=1e-9)
    assert (num_controls(controls), num_controls(more), num_controls(np.ones((80, 2)))) == (3, 3, 0)
    assert partial_corr(x, y, np.ones((80, 1))) == pytest.approx(pearson(x, y), abs=1e-12)
    assert num_controls(1e-6 * controls) == 3
    almost = np.nextafter(0.15, np.where(x > 0, 1, 0))[:, None]  # constant, but for rounding
    assert partial_corr(x, y, almost) == pytest.approx(pearson(x, y), abs=1e-12)


def test_what_is_left_knows_nothing_of_the_controls(data):
    x, _, controls = data
    left = regress_out(x, controls)
    assert np.abs(left @ controls).max() < 1e-9
    assert left.sum() == pytest.approx(0, abs=1e-9)


def test_a_variable_made_of_controls_has_no_partial_correlation(data):
    _, y, controls = data
    assert math.isnan(partial_corr(controls[:, 0] + 5, y, controls))


def test_within_groups_is_partial_on_their_indicators(data):
    x, y, _ = data
    groups = np.arange(80) % 7
    x = x + 10 * groups  # what groups differ in does not count
    indicators = np.eye(7)[groups][:, 1:]
    assert fixed_effects_corr(x, y, groups.tolist()) == pytest.approx(partial_corr(x, y, indicators), abs=1e-9)


def test_groups_alone_give_nothing():
    groups = [0] * 5 + [1] * 5
    assert math.isnan(fixed_effects_corr(np.array(groups, float), np.arange(10.0), groups))


@pytest.mark.parametrize("statistic", [pearson, spearman])
def test_constants_and_single_items_have_no_correlation(statistic):
    assert math.isnan(statistic(np.full(5, 0.1), np.arange(5.0)))
    assert math.isnan(statistic(np.ones(1), np.ones(1)))
    assert math.isnan(statistic(np.ones(0), np.ones(0)))


def test_perfect_correlations_are_one():
    x = np.linspace(0, 1, 50)
    assert pearson(x, 3 * x + 1) == pytest.approx(1.0)
    assert -1 <= pearson(x, -x) <= -1 + 1e-12
    assert spearman(x, np.exp(5 * x)) == pytest.approx(1.0)


@pytest.mark.parametrize(("items", "low", "high"), [(1680, 0.755, 0.793), (192, 0.711, 0.826), (6300, 0.765, 0.785)])
def test_fishers_intervals_of_the_papers_correlation(items, low, high):
    found = fisher_interval(0.775, items)
    assert (found.low, found.high) == (pytest.approx(low, abs=6e-4), pytest.approx(high, abs=6e-4))


def test_fishers_interval_is_scipys(data):
    x, y, _ = data
    theirs = stats.pearsonr(x, y).confidence_interval(0.9)
    found = fisher_interval(pearson(x, y), 80, level=0.9)
    assert (found.low, found.high) == (pytest.approx(theirs.low, abs=1e-12), pytest.approx(theirs.high, abs=1e-12))


def test_controls_cost_items_and_ranks_cost_width():
    assert fisher_interval(0.5, 30, controls=4).low == pytest.approx(fisher_interval(0.5, 26).low)
    assert fisher_interval(0.5, 30, ranks=True).low < fisher_interval(0.5, 30).low
    assert fisher_interval(0.0, 30, ranks=True).low == fisher_interval(0.0, 30).low


@pytest.mark.parametrize(
    ("correlate", "ranks", "controls"), [(pearson, False, 0), (spearman, True, 0), ("partial", False, 2)]
)
def test_fishers_interval_covers_the_truth_as_often_as_it_says(correlate, ranks, controls):
    """Of 400 samples of two normal variables with a correlation of 0.6; for ranks 6/pi asin(r/2)."""
    random = np.random.default_rng(11)
    truth = 6 / math.pi * math.asin(0.3) if ranks else 0.6
    covered = 0
    for _ in range(400):
        x = random.standard_normal(40)
        y = 0.6 * x + 0.8 * random.standard_normal(40)
        if controls:
            z = random.standard_normal((40, controls))
            r = partial_corr(x + z.sum(1), y - z.sum(1), z)
        else:
            r = correlate(x, y)
        found = fisher_interval(r, 40, ranks=ranks, controls=controls)
        covered += found.low <= truth <= found.high
    assert 0.92 <= covered / 400 <= 0.98


@pytest.mark.parametrize(("value", "items"), [(float("nan"), 100), (0.5, 3), (0.5, 0)])
def test_too_little_has_no_interval(value, items):
    found = fisher_interval(value, items)
    assert math.isnan(found.low)
    assert not found.covers_zero


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"correlation is 1.5; expected -1 to 1"):
        fisher_interval(1.5, 10)
    with pytest.raises(ValueError, match="not percent"):
        fisher_interval(0.5, 10, level=95)
    with pytest.raises(ValueError, match=r"shapes \(3,\) and \(4,\)"):
        pearson(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match=r"shapes \(3,\) and \(2,\)"):
        fit_line("ols", np.zeros(3), np.zeros(2))


# -------------------------------------------------------------------------------------------------------------- lines


def noisy(items=200, x_noise=0.5, y_noise=0.5, slope=0.7, seed=0):
    """Points on a line of intercept 2, with noise in both variables."""
    random = np.random.default_rng(seed)
    truth = random.normal(10, 1.5, items)
    return truth + random.normal(0, x_noise, items), 2 + slope * truth + random.normal(0, y_noise, items)


def test_least_squares_is_statsmodels():
    x, y = noisy()
    theirs = sm.OLS(y, sm.add_constant(x)).fit()
    ours = fit_line("ols", x, y, level=0.9)
    limits = theirs.conf_int(0.1)
    assert (ours.intercept.value, ours.slope.value) == pytest.approx(tuple(theirs.params), abs=1e-10)
    assert (ours.intercept.low, ours.intercept.high) == pytest.approx(tuple(limits[0]), abs=1e-10)
    assert (ours.slope.low, ours.slope.high) == pytest.approx(tuple(limits[1]), abs=1e-10)


def test_slopes_are_as_r_to_one():
    x, y = noisy()
    r = pearson(x, y)
    slope = {name: fit(x, y)[0] for name, fit in FITS.items()}
    assert slope["ols"] / slope["rma"] == pytest.approx(r)
    assert slope["ols"] == pytest.approx(stats.linregress(x, y).slope)
    assert slope["ols"] / slope["rma"] == pytest.approx(slope["rma"] * stats.linregress(y, x).slope)


def test_the_papers_numbers_mean_other_slopes():
    """A slope of .5 at r = .775 is .645 by the reduced major axis."""
    x = np.tile([1.0, -1.0, 1.0, -1.0], 50)
    noise = np.tile([1.0, 1.0, -1.0, -1.0], 50)  # uncorrelated with x
    y = 0.5 * x + 0.5 * math.sqrt(1 / 0.775**2 - 1) * noise
    assert pearson(x, y) == pytest.approx(0.775)
    assert fit_line("ols", x, y).slope.value == pytest.approx(0.5)
    assert fit_line("rma", x, y).slope.value == pytest.approx(0.645, abs=5e-4)


def test_a_falling_line_falls():
    x, y = noisy()
    for name, fit in FITS.items():
        assert fit(x, -y) == pytest.approx(tuple(-value for value in fit(x, y))), name
    falling = fit_line("rma", x, -y).slope
    assert falling.low < falling.value < falling.high < 0


@pytest.mark.parametrize("kind", ["ols", "rma"])
def test_intervals_cover_as_often_as_they_say(kind):
    """Of 200 samples. Least squares: no noise in x. Reduced major axis: both normal."""
    covered = np.zeros(2)
    for seed in range(200):
        x, y = noisy(items=40, x_noise=0.0 if kind == "ols" else 0.5, seed=seed)
        line = fit_line(kind, x, y)
        slope = math.sqrt((0.49 * 2.25 + 0.25) / 2.5) if kind == "rma" else 0.7
        intercept = 9 - slope * 10
        covered += [line.slope.low <= slope <= line.slope.high, line.intercept.low <= intercept <= line.intercept.high]
    assert (covered / 200 >= 0.9).all()
    assert (covered / 200 <= 0.99).all()


@pytest.mark.parametrize("kind", FITS)
def test_perfect_lines_and_degenerate_ones(kind):
    x = np.arange(10.0)
    found = fit_line(kind, x, 2 * x + 1)
    assert (found.slope.value, found.intercept.value) == (pytest.approx(2), pytest.approx(1))
    assert (found.slope.low, found.slope.high) == (pytest.approx(2), pytest.approx(2))
    for constant in (np.ones(5), np.full(7, 0.1), np.ones(1), np.ones(0)):  # 0.1 has a mean that is rounded
        assert math.isnan(fit_line(kind, constant, constant).slope.value)
    two = fit_line(kind, x[:2], x[:2])
    assert two.slope.value == pytest.approx(1)
    assert math.isnan(two.slope.low)


@pytest.mark.parametrize("name", ["ols", "rma"])
def test_a_band_is_the_bootstrap_interval_of_the_lines_height(name):
    x, y = noisy(60)
    speakers = [f"s{i % 12}" for i in range(60)]
    band = line_band(FITS[name], x, y, Sampling(resamples=200, seed=3), speakers)
    assert (band.x[0], band.x[-1]) == (x.min(), x.max())

    def height(place):
        def statistic(x, y):
            slope, intercept = FITS[name](x, y)
            return intercept + slope * place

        return bootstrap(statistic, x, y, clusters=speakers, resamples=200, seed=3)

    for i in (0, 20, 40):
        expected = height(band.x[i])
        assert (band.low[i], band.high[i]) == pytest.approx((expected.low, expected.high))
    assert band.high[20] - band.low[20] < band.high[0] - band.low[0]  # narrowest in the middle


def test_one_speaker_has_no_band():
    x, y = noisy(10)
    assert np.isnan(line_band(FITS["ols"], x, y, Sampling(resamples=5), ["s"] * 10).low).all()
    with pytest.raises(ValueError, match="resamples is 0"):
        line_band(FITS["ols"], x, y, Sampling(resamples=0))
