"""Plots show their data: tokens, similarities and thresholds of a clip, and the numbers of a study."""

import struct
from dataclasses import replace

import numpy as np
import pytest
import torch

from flexicodec.analysis import plots
from flexicodec.analysis.plots import plot_tokens
from flexicodec.analysis.token_contents import MANY, MergeProbability
from flexicodec.corpus.alignments.alignment import Segment
from flexicodec.statistics import Interval
from flexicodec.token_format import TokenFormat
from flexicodec.tokens import Tokens

FRAME = 0.08


def example(durations=(3, 1, 8, 4), short=100, **info):
    """Noise, tokens and similarities of a clip whose last frame lacks some samples."""
    frames = sum(durations)
    generator = torch.Generator().manual_seed(0)
    audio = 0.1 * torch.randn(1, 1280 * frames - short, generator=generator)
    codes = torch.zeros(1, len(durations), dtype=torch.int64)
    tokens = Tokens(codes, None, [list(durations)], [audio.shape[1]], info=info)
    similarities = torch.full((frames - 1,), 0.8)
    similarities[[2, 3]] = torch.tensor([0.3, 0.4])
    return audio, tokens, similarities


def labels(axes):
    return axes.get_legend_handles_labels()[1]


def test_plot_positions_follow_the_tokens():
    audio, tokens, similarities = example(frame_rate=3.25)
    figure = plot_tokens(audio, tokens, similarities)
    spectrogram, blocks, curve = figure.axes
    assert "3.25 Hz requested: 4 tokens" in figure.get_suptitle()
    assert curve.get_xlabel().startswith("time (s)")
    assert curve.get_xlim() == pytest.approx((0, audio.shape[1] / 16000))

    (lines,) = spectrogram.collections
    starts = [segment[0, 0] for segment in lines.get_segments()]
    assert starts == pytest.approx(tokens.times(0)[1:, 0].tolist())
    left, right, _, _ = spectrogram.images[0].get_extent()  # windows of 25 ms, each plotted over its middle 10 ms
    assert left == pytest.approx(0.0075)
    assert right == pytest.approx(audio.shape[1] / 16000 - 0.0075, abs=0.01)

    assert [text.get_text() for text in blocks.texts] == ["3", "1", "8", "4"]
    shown = curve.lines[0].get_xydata()
    assert shown[:, 0] == pytest.approx([FRAME * (i + 1) for i in range(15)])
    assert shown[:, 1] == pytest.approx(similarities.tolist())
    assert labels(curve) == [
        "merged",
        "token boundary",
        "boundary: token full at 8 frames",
        "effective threshold 0.400",
    ]


def test_a_chosen_threshold_is_shown_as_chosen():
    audio, tokens, similarities = example(threshold=0.5)
    assert "threshold 0.500" in labels(plot_tokens(audio, tokens, similarities).axes[-1])


def test_tokens_that_no_threshold_gives_have_no_line():
    audio, tokens, similarities = example(durations=(4, 4, 4, 4))
    assert labels(plot_tokens(audio, tokens, similarities).axes[-1]) == ["merged", "token boundary"]


def test_phones_and_words_are_below_the_tokens():
    phones = [Segment(0, 0.4, "sil"), Segment(0.4, 0.7, "AA1"), Segment(0.7, 0.701, "T"), Segment(0.9, 1.2, "S")]
    tiers = {"phones": phones, "words": [Segment(0.4, 0.701, "hot")]}
    axes = plot_tokens(*example(), tiers=tiers).axes
    assert [a.get_ylabel() for a in axes[2:4]] == ["phones", "words"]
    assert [(text.get_text(), text.get_rotation()) for text in axes[2].texts] == [("AA1", 0), ("T", 90), ("S", 0)]
    wide, narrow, _ = (text.get_fontsize() for text in axes[2].texts)
    assert narrow < wide  # T is narrow, and silence has no label
    assert [(p.get_x(), p.get_width()) for p in axes[2].patches] == [
        pytest.approx(each) for each in ((0.4, 0.3), (0.7, 0.001), (0.9, 0.3))
    ]
    assert axes[4].get_ylabel().startswith("similarity")


def test_without_similarities_there_is_no_curve():
    audio, tokens, _ = example()
    assert len(plot_tokens(audio[0], tokens).axes) == 2


@pytest.mark.parametrize("samples", [1, 399, 1280])
def test_the_shortest_clips_and_silence(tmp_path, samples):
    tokens = Tokens([0], None, [1], samples)
    plot_tokens(torch.zeros(1, samples), tokens, torch.zeros(0), path=tmp_path / "short.png")
    assert (tmp_path / "short.png").stat().st_size > 0


def test_other_rates_and_durations_without_a_cap():
    format = TokenFormat(sample_rate=24000, frame_size=1000, max_duration=None)
    tokens = Tokens([0, 0], None, [20, 4], 24000, format)
    spectrogram, blocks = plot_tokens(torch.randn(24000).mul(0.1), tokens).axes
    assert spectrogram.images[0].get_extent()[1] == pytest.approx(1, abs=0.02)
    assert [text.get_text() for text in blocks.texts] == ["20", "4"]


def test_long_clips_are_shown_in_part():
    audio, tokens, similarities = example(durations=(3, 1, 8, 4) * 20)
    tokens_shown = [plot_tokens(audio, tokens, span=span).axes for span in (None, (1.0, 2.0))]
    assert [axes[0].get_xlim() for axes in tokens_shown] == [(0, 12), (1, 2)]
    assert len(tokens_shown[0][1].texts) > len(tokens_shown[1][1].texts) > 0


def test_the_file_is_1300_pixels_wide(tmp_path):
    plot_tokens(*example(), path=tmp_path / "tokens.png", title="a title")
    assert struct.unpack(">I", (tmp_path / "tokens.png").read_bytes()[16:20]) == (1300,)


def test_audio_tokens_and_similarities_must_match():
    audio, tokens, similarities = example()
    with pytest.raises(ValueError, match="tokens of 2 clips"):
        plot_tokens(audio, Tokens.cat([tokens, tokens]))
    with pytest.raises(ValueError, match="expected one clip"):
        plot_tokens(audio.expand(2, -1), tokens)
    with pytest.raises(ValueError, match="at another rate, or padded"):
        plot_tokens(audio[:, 1:], tokens)
    with pytest.raises(ValueError, match="16 frames have 15 neighbours"):
        plot_tokens(audio, tokens, torch.zeros(1, 16))
    with pytest.raises(ValueError, match="span is 3 to 2"):
        plot_tokens(audio, tokens, span=(3, 2))


# ------------------------------------------------------------------------------------------------- results of a study


def around(value, half=0.1):
    return Interval(value, value - half, value + half, 0.95, 10, 10)


def heights(container):
    return [bar.get_height() for bar in container]


def ticks(axis):
    return [tick.get_text() for tick in axis.get_ticklabels()]


def test_durations_in_speech_and_in_silence(studied):
    figure = plots.plot_durations(studied.fixed, FRAME)
    assert len(figure.axes) == len(studied.fixed) == 2
    for axes, each in zip(figure.axes, studied.fixed, strict=True):
        for bars, name in zip(axes.containers, ("speech", "silence"), strict=True):
            (row,) = [row for row in each.durations if row.name == name]
            assert heights(bars) == pytest.approx(np.array(row.histogram) / row.tokens)
            assert f"in {name}: {row.mean.value:.2f} frames on average" in "".join(labels(axes))
    assert "80 ms" in figure.axes[-1].get_xlabel()


def test_segments_per_token(studied):
    (axes,) = plots.plot_segments_per_token(studied.fixed, "syllables").axes
    for bars, each in zip(axes.containers[1::2], studied.fixed, strict=True):  # error bars are between
        assert heights(bars) == [share.value for share in each.per_token["syllables"].shares]
    assert ticks(axes.xaxis)[-1] == f"{MANY} or more"
    assert axes.get_xlabel() == "syllables in a token"


def test_merge_probabilities_are_written_into_the_cells():
    found = [
        MergeProbability("inside", "all", "all", 300, around(0.7)),
        MergeProbability("inside", "vowel", "vowel", 100, around(0.64)),
        MergeProbability("across", "vowel", "stop", 50, around(0.2)),
    ]
    inside, across, _ = plots.plot_merge_probabilities(found, "6 Hz").axes
    assert [text.get_text() for text in inside.texts] == ["64", "·"]
    assert [text.get_text() for text in across.texts] == ["·", "20", "·", "·"]
    assert ticks(across.yaxis) == ["vowel", "stop"]


def test_the_rate_curve_goes_through_the_settings(studied):
    (axes,) = plots.plot_rate_curve(studied).axes
    curve, *marks, lowest = axes.lines
    assert curve.get_ydata() == pytest.approx(studied.curve.corpus)
    for mark, each in zip(marks, studied.fixed, strict=True):
        threshold = mark.get_xdata()[0]
        assert threshold == each.setting.threshold
        assert mark.get_ydata()[0] == pytest.approx(np.interp(threshold, *curve.get_data()), abs=0.3)
        assert f"{each.setting.name}: threshold {threshold:.3f}" in labels(axes)
    assert lowest.get_ydata()[0] == 12.5 / 8
    assert len(axes.collections) == 1  # the band of the clips


def test_distortion_is_pooled_over_clips(studied):
    figure = plots.plot_distortion(studied)
    distortion = studied.data.distortion
    assert labels(figure.axes[0]) == list(distortion.policies)
    for line, lost in zip(figure.axes[0].lines, distortion.lost, strict=True):
        assert line.get_ydata() == pytest.approx(lost.sum(1) / distortion.whole.sum())
    (above,) = figure.axes[0].child_axes
    assert above.get_xlabel() == "nominal kbit/s with all codebooks"


def test_the_scatter_has_a_point_per_clip_and_two_lines(studied):
    (axes,) = plots.plot_scatter(studied.main, "phones").axes
    rates = studied.main.rates
    clips, first, second, mean = axes.lines
    assert clips.get_xydata() == pytest.approx(np.stack([rates.x, rates.y], 1))
    for line, fitted in zip((first, second), studied.main.phone_rate["speech"].lines.values(), strict=False):
        assert np.diff(line.get_ydata()) / np.diff(line.get_xdata()) == pytest.approx(fitted.slope.value)
    assert mean.get_xydata()[0] == pytest.approx([rates.x.mean(), rates.y.mean()])
    assert len(axes.collections) == 2  # a band per line
    low, high = axes.get_ylim()
    assert low < rates.y.min() < rates.y.max() < high < rates.y.max() + 1
    assert [label.split(":")[0] for label in labels(axes)] == ["least squares", "reduced major axis", "mean"]


def test_intervals_have_a_row_for_each_name():
    series = {"6 Hz": {"codec": around(0.5), "uniform": around(0.1)}, "4 Hz": {"codec": around(0.4)}}
    (axes,) = plots.plot_intervals(series, "r", reference=0.0).axes
    assert ticks(axes.yaxis) == ["codec", "uniform"]
    first, second = (container.lines[0] for container in axes.containers)
    assert first.get_xdata().tolist() == [0.5, 0.1]
    assert [round(y) for y in first.get_ydata()] == [0, 1]
    assert second.get_ydata()[0] > first.get_ydata()[0]
    assert labels(axes) == ["6 Hz", "4 Hz"]


def test_values_without_intervals_have_no_bars():
    values, ends = plots._values_and_ends([replace(around(0.5), low=np.nan, high=np.nan), around(0.1)])
    assert values.tolist() == [0.5, 0.1]
    assert ends == pytest.approx(np.array([[0, 0.1], [0, 0.1]]))


def test_the_sweep_has_thresholds_above_and_the_papers_value(studied):
    (axes,) = plots.plot_sweep(studied).axes
    assert axes.lines[0].get_xydata()[:, 1] == pytest.approx([point.r.value for point in studied.sweep])
    assert "paper, TIMIT: 0.775" in labels(axes)
    (top,) = axes.child_axes
    assert top.get_xlabel() == "threshold"
    assert ticks(top.xaxis) == [f"{point.threshold:.3f}" for point in studied.sweep]
