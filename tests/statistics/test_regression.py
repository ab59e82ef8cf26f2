"""Lines against scipy, statsmodels and closed forms, and on data whose noise is known."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import optimize, stats

from flexicodec.statistics import FITS, bootstrap, deming, fit_deming, inverse, line_band, ols, pearson, rma


def noisy(items=200, x_noise=0.5, y_noise=0.5, slope=0.7, seed=0):
    """Points on a line of intercept 2, seen through noise in both."""
    random = np.random.default_rng(seed)
    truth = random.normal(10, 1.5, items)
    return truth + random.normal(0, x_noise, items), 2 + slope * truth + random.normal(0, y_noise, items)


def test_least_squares_is_statsmodels():
    x, y = noisy()
    theirs = sm.OLS(y, sm.add_constant(x)).fit()
    ours = ols(x, y, level=0.9)
    limits = theirs.conf_int(0.1)
    assert (ours.intercept.value, ours.slope.value) == pytest.approx(tuple(theirs.params), abs=1e-10)
    assert (ours.intercept.low, ours.intercept.high) == pytest.approx(tuple(limits[0]), abs=1e-10)
    assert (ours.slope.low, ours.slope.high) == pytest.approx(tuple(limits[1]), abs=1e-10)


def test_orthogonal_regression_is_the_first_principal_axis():
    x, y = noisy()
    values, vectors = np.linalg.eigh(np.cov(x, y))
    axis = vectors[:, np.argmax(values)]
    assert fit_deming(x, y)[0] == pytest.approx(axis[1] / axis[0])


@pytest.mark.parametrize("ratio", [0.25, 1.0, 4.0])
def test_deming_is_the_least_distance(ratio):
    x, y = noisy()

    def distance(line):
        return np.sum((y - line[1] - line[0] * x) ** 2) / (ratio + line[0] ** 2)

    found = optimize.minimize(distance, [0.5, 3.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
    assert fit_deming(x, y, ratio) == pytest.approx(tuple(found.x), rel=1e-5)


def test_slopes_are_as_r_to_one_to_its_inverse():
    x, y = noisy()
    r = pearson(x, y)
    slope = {name: fit(x, y)[0] for name, fit in FITS.items()}
    assert slope["ols"] / slope["rma"] == pytest.approx(r)
    assert slope["inverse"] / slope["rma"] == pytest.approx(1 / r)
    assert slope["ols"] < slope["deming"] < slope["inverse"]
    assert slope["inverse"] == pytest.approx(1 / stats.linregress(y, x).slope)


def test_the_papers_numbers_mean_other_slopes():
    """A slope of .5 at r = .775 is .645 by the reduced major axis and .83 by inverse regression."""
    x = np.tile([1.0, -1.0, 1.0, -1.0], 50)
    noise = np.tile([1.0, 1.0, -1.0, -1.0], 50)  # uncorrelated with x
    y = 0.5 * x + 0.5 * math.sqrt(1 / 0.775**2 - 1) * noise
    assert pearson(x, y) == pytest.approx(0.775)
    assert (ols(x, y).slope.value, rma(x, y).slope.value) == (pytest.approx(0.5), pytest.approx(0.645, abs=5e-4))
    assert inverse(x, y).slope.value == pytest.approx(0.8325, abs=5e-4)


def test_noise_in_x_flattens_least_squares_and_not_deming():
    x, y = noisy(items=20_000)
    assert fit_deming(x, y)[0] == pytest.approx(0.7, abs=0.02)
    assert FITS["ols"](x, y)[0] == pytest.approx(0.7 * 1.5**2 / (1.5**2 + 0.5**2), abs=0.02)


def test_both_forms_of_deming_agree():
    x, y = noisy()
    slope, intercept = fit_deming(x, y, 0.3)
    turned, _ = fit_deming(y, x, 1 / 0.3)
    assert slope * turned == pytest.approx(1)
    assert intercept == pytest.approx(y.mean() - slope * x.mean())


def test_a_falling_line_falls():
    x, y = noisy()
    for name, fit in FITS.items():
        assert fit(x, -y) == pytest.approx(tuple(-value for value in fit(x, y))), name
    falling = rma(x, -y).slope
    assert falling.low < falling.value < falling.high < 0


@pytest.mark.parametrize("kind", ["ols", "rma", "deming"])
def test_intervals_cover_as_often_as_they_say(kind):
    """Of 200 draws. Least squares: no noise in x. Reduced major axis: both normal. Deming: as much noise in both."""
    covered = np.zeros(2)
    for seed in range(200):
        x, y = noisy(items=40, x_noise=0.0 if kind == "ols" else 0.5, seed=seed)
        line = {"ols": ols, "rma": rma, "deming": deming}[kind](x, y)
        slope = math.sqrt((0.49 * 2.25 + 0.25) / 2.5) if kind == "rma" else 0.7
        intercept = 9 - slope * 10
        covered += [line.slope.low <= slope <= line.slope.high, line.intercept.low <= intercept <= line.intercept.high]
    assert (covered / 200 >= 0.9).all()
    assert (covered / 200 <= 0.99).all()


@pytest.mark.parametrize("line", [ols, rma, deming, inverse])
def test_perfect_lines_and_degenerate_ones(line):
    x = np.arange(10.0)
    found = line(x, 2 * x + 1)
    assert (found.slope.value, found.intercept.value) == (pytest.approx(2), pytest.approx(1))
    assert (found.slope.low, found.slope.high) == (pytest.approx(2), pytest.approx(2))
    assert math.isnan(line(np.ones(5), np.ones(5)).slope.value)
    two = line(x[:2], x[:2])
    assert two.slope.value == pytest.approx(1)
    assert math.isnan(two.slope.low)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="variance_ratio is 0"):
        fit_deming(np.arange(3.0), np.arange(3.0), 0.0)
    with pytest.raises(ValueError, match=r"shapes \(3,\) and \(2,\)"):
        ols(np.zeros(3), np.zeros(2))


@pytest.mark.parametrize("name", ["ols", "rma"])
def test_a_band_is_the_bootstrap_interval_of_the_lines_height(name):
    x, y = noisy(60)
    speakers = [f"s{i % 12}" for i in range(60)]
    band = line_band(FITS[name], x, y, speakers, resamples=200, seed=3)
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
    assert np.isnan(line_band(FITS["ols"], x, y, ["s"] * 10, resamples=5).low).all()
    with pytest.raises(ValueError, match="resamples is 0"):
        line_band(FITS["ols"], x, y, resamples=0)
