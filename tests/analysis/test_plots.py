"""Pictures show the tokens they are of: boundaries, durations, similarities and thresholds in their places."""

import struct

import pytest
import torch

from flexicodec.analysis.plots import plot_tokens
from flexicodec.analysis.segments import Segment
from flexicodec.tokens import TokenFormat, Tokens

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


def test_everything_stands_where_the_tokens_say():
    audio, tokens, similarities = example(frame_rate=3.25)
    figure = plot_tokens(audio, tokens, similarities)
    spectrogram, blocks, curve = figure.axes
    assert "3.25 Hz asked: 4 tokens" in figure.get_suptitle()
    assert curve.get_xlabel().startswith("time (s)")
    assert curve.get_xlim() == pytest.approx((0, audio.shape[1] / 16000))

    (lines,) = spectrogram.collections
    starts = [segment[0, 0] for segment in lines.get_segments()]
    assert starts == pytest.approx(tokens.times(0)[1:, 0].tolist())
    left, right, _, _ = spectrogram.images[0].get_extent()  # windows of 25 ms, each drawn over its middle 10 ms
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


def test_phones_and_words_stand_below_the_tokens():
    phones = [Segment(0, 0.4, "sil"), Segment(0.4, 0.7, "AA1"), Segment(0.7, 0.701, "T"), Segment(0.9, 1.2, "S")]
    tiers = {"phones": phones, "words": [Segment(0.4, 0.701, "hot")]}
    axes = plot_tokens(*example(), tiers=tiers).axes
    assert [a.get_ylabel() for a in axes[2:4]] == ["phones", "words"]
    assert [(text.get_text(), text.get_rotation()) for text in axes[2].texts] == [("AA1", 0), ("T", 90), ("S", 0)]
    wide, narrow, _ = (text.get_fontsize() for text in axes[2].texts)
    assert narrow < wide  # T has little room, and silence no label
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


def test_what_does_not_belong_together_is_refused():
    audio, tokens, similarities = example()
    with pytest.raises(ValueError, match="tokens of 2 clips"):
        plot_tokens(audio, Tokens.cat([tokens, tokens]))
    with pytest.raises(ValueError, match="a picture shows one"):
        plot_tokens(audio.expand(2, -1), tokens)
    with pytest.raises(ValueError, match="at another rate, or padded"):
        plot_tokens(audio[:, 1:], tokens)
    with pytest.raises(ValueError, match="16 frames have 15 neighbours"):
        plot_tokens(audio, tokens, torch.zeros(1, 16))
    with pytest.raises(ValueError, match="span is 3 to 2"):
        plot_tokens(audio, tokens, span=(3, 2))
