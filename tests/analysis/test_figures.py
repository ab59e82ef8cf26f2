"""Pictures show the numbers they are given, in places that can be found again."""

import numpy as np
import pytest

from flexicodec.analysis.content import ALL, SPEECH, ClassDurations, PerToken
from flexicodec.analysis.figures import (
    Series,
    draw_bits,
    draw_class_durations,
    draw_correlations,
    draw_distortion,
    draw_durations,
    draw_intervals,
    draw_merge_shares,
    draw_rate_curve,
    draw_scatter,
    draw_segments_per_token,
)
from flexicodec.analysis.losses import Distortion
from flexicodec.analysis.sharing import Merged
from flexicodec.statistics import Interval, fit_line


def around(value, half=0.1):
    return Interval(value, value - half, value + half, 0.95, 10, 10)


def labels(axes):
    return axes.get_legend_handles_labels()[1]


def heights(container):
    return [bar.get_height() for bar in container]


@pytest.fixture
def rows():
    histogram = (6, 3, 0, 1)
    names = (ALL, SPEECH, "vowel", "silence")
    return [ClassDurations(name, histogram, around(1.6), around(0.1)) for name in names]


def test_durations_stand_beside_each_other_in_speech_and_silence(rows):
    (axes,) = draw_durations({"6 Hz": rows}, 0.08).axes
    speech, silence = axes.containers
    assert heights(speech) == heights(silence) == [0.6, 0.3, 0.0, 0.1]
    assert "in speech: 1.60 frames on average, 10 tokens" in labels(axes)[0]
    assert "80 ms" in axes.get_xlabel()


def test_a_panel_for_each_setting(rows):
    assert len(draw_durations({"6 Hz": rows, "4 Hz": rows}, 0.08).axes) == 2


def test_classes_have_their_means(rows):
    (axes,) = draw_class_durations({"6 Hz": rows}).axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["vowel", "silence"]
    assert axes.containers[0].lines[0].get_xdata().tolist() == [1.6, 1.6]


def test_phones_per_token():
    shares = tuple(around(share, 0.01) for share in (0.1, 0.5, 0.2, 0.15, 0.05))
    (axes,) = draw_segments_per_token({"6 Hz": PerToken(around(1.5), shares, around(1.9), 100, 150, 0)}, "phones").axes
    assert heights(axes.containers[-1]) == [0.1, 0.5, 0.2, 0.15, 0.05]
    assert labels(axes) == ["6 Hz: 1.50 on average"]


def test_merging_is_written_into_the_cells():
    found = [
        Merged("inside", ALL, ALL, 300, around(0.7)),
        Merged("inside", "vowel", "vowel", 100, around(0.64)),
        Merged("across", "vowel", "stop", 50, around(0.2)),
    ]
    inside, across, _ = draw_merge_shares(found, "6 Hz").axes
    assert [text.get_text() for text in inside.texts] == ["64", "·"]
    assert [text.get_text() for text in across.texts] == ["·", "20", "·", "·"]
    assert [tick.get_text() for tick in across.get_yticklabels()] == ["vowel", "stop"]


def test_the_rate_curve_has_its_band_and_marks():
    thresholds = np.linspace(0, 1, 5)
    clips = np.linspace(2, 12, 5)[:, None] + np.array([-1, 0, 1])
    (axes,) = draw_rate_curve(thresholds, clips, clips.mean(1), {"6 Hz": (0.4, 6.0)}, 1.5625).axes
    curve, mark, least = axes.lines
    assert curve.get_ydata() == pytest.approx([2, 4.5, 7, 9.5, 12])
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (0.4, 6.0)
    assert "6 Hz: tau 0.400" in labels(axes)
    assert least.get_ydata()[0] == 1.5625
    assert len(draw_rate_curve(thresholds, clips, clips.mean(1), {}, None).axes[0].lines) == 1


def test_losses_are_pooled_over_clips():
    lost = np.array([[[1.0, 3.0], [0.0, 2.0]]])
    found = Distortion(("a rule",), (4.0, 8.0), lost, np.array([10.0, 10.0]), 10 * lost + 10, np.array([5.0, 5.0]))
    figure = draw_distortion(found, 250)
    (line,) = figure.axes[0].lines
    assert line.get_ydata() == pytest.approx([0.2, 0.1])
    assert line.get_xdata() == pytest.approx([6.0, 4.0])
    (above,) = figure.axes[0].child_axes
    assert above.get_xlabel() == "nominal kbit/s with all codebooks"


def test_bits_stand_on_their_fields():
    measured = Series("coded", ("semantic", "durations"), (around(9), around(2)))
    (axes,) = draw_bits({"durations": 3, "semantic": 15}, [measured]).axes
    assert heights(axes.containers[0]) == [3, 15]
    assert axes.containers[1].lines[0].get_xydata().tolist() == [[1, 9], [0, 2]]


def test_the_scatter_keeps_to_the_clips():
    x = np.linspace(8, 12, 9)
    y = 1 + 0.5 * x + 0.1 * np.cos(7 * x)
    (axes,) = draw_scatter(
        x, y, {"least squares": fit_line("ols", x, y)}, x_label="phones", y_label="tokens", title="t"
    ).axes
    clips, line, mean = axes.lines
    assert clips.get_xydata() == pytest.approx(np.stack([x, y], 1))
    assert np.diff(line.get_ydata()) / np.diff(line.get_xdata()) == pytest.approx(fit_line("ols", x, y).slope.value)
    assert mean.get_xydata()[0] == pytest.approx([x.mean(), y.mean()])
    low, high = axes.get_ylim()
    assert low < y.min() < y.max() < high < y.max() + 1
    assert labels(axes)[0].startswith("least squares: 0.49 x + 1.1")


def test_intervals_have_a_row_for_each_place():
    series = [
        Series("6 Hz", ("codec", "uniform"), (around(0.5), around(0.1))),
        Series("4 Hz", ("codec",), (around(0.4),)),
    ]
    (axes,) = draw_intervals(series, label="r", marks=[("paper", 0.775)]).axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["codec", "uniform"]
    first, second = (container.lines[0] for container in axes.containers)
    assert first.get_xdata().tolist() == [0.5, 0.1]
    assert [round(y) for y in first.get_ydata()] == [0, 1]
    assert second.get_ydata()[0] > first.get_ydata()[0]
    assert "paper" in labels(axes)


def test_correlations_run_along_an_axis():
    series = [Series("phones", (4.0, 6.0), (around(0.3), around(0.5)))]
    (axes,) = draw_correlations(series, x_label="Hz", marks=[("paper", 0.775)]).axes
    assert axes.lines[0].get_xydata().tolist() == [[4.0, 0.3], [6.0, 0.5]]
    assert len(axes.collections) == 1


def test_places_and_values_belong_together():
    with pytest.raises(ValueError, match="'a' has 2 places for 1 values"):
        Series("a", (1.0, 2.0), (around(1),))
