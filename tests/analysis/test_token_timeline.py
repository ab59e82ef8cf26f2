"""Times of tokens agree with `Tokens.times`, and invalid input is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexicodec.analysis.token_timeline import (
    TokenTimeline,
    boundary_mask,
    effective_threshold,
    save_ctm,
    save_textgrid,
    token_tiers,
)
from flexicodec.cli import main
from flexicodec.corpus.alignments.alignment import read_ctm
from flexicodec.merging import ExactRate, Threshold, Uniform
from flexicodec.token_format import TokenFormat
from flexicodec.tokens import Tokens


def tokens_of(*durations, short=100):
    samples = sum(durations) * 1280 - short
    return Tokens(torch.zeros(1, len(durations), dtype=torch.int64), None, [list(durations)], [samples])


@pytest.mark.parametrize("short", [0, 100, 1279])
def test_boundaries_and_middles_are_those_of_the_tokens(short):
    tokens = tokens_of(3, 1, 8, 4, short=short)
    coded = TokenTimeline.of(tokens, np.zeros(16 * 1280 - short, dtype=np.float32))
    times = tokens.times(0).numpy()
    assert coded.boundaries() == pytest.approx(times[1:, 0])
    assert coded.middles() == pytest.approx(times.mean(1))
    assert (coded.num_frames, coded.num_tokens, coded.max_duration) == (16, 4, 8)
    assert coded.seconds == pytest.approx(float(tokens.seconds[0]))


@pytest.mark.parametrize("number", [2, 5, 16])
def test_a_policy_cuts_a_clip_into_other_tokens(number):
    coded = TokenTimeline.of(tokens_of(3, 1, 8, 4))
    similarities = np.random.default_rng(number).random(15)
    cut = coded.with_durations(coded.cut(ExactRate(float(number)), similarities))
    assert (cut.num_tokens, cut.num_frames, cut.seconds) == (number, 16, coded.seconds)
    assert coded.cut(Threshold(1.0), similarities).tolist() == [1] * 16


def test_padding_of_a_batch_falls_away():
    batch = Tokens.cat([tokens_of(3, 1, 8, 4), tokens_of(2, 5)])
    assert TokenTimeline.of(batch[1]).durations.tolist() == [2, 5]


def test_moved_boundaries_stay_inside():
    coded = TokenTimeline(np.array([1, 1, 2]), 0.08, 0.32)
    assert coded.boundaries(-0.08).tolist() == pytest.approx([0.08])
    assert coded.boundaries(0.2).tolist() == pytest.approx([0.28])
    assert TokenTimeline(np.array([4]), 0.08, 0.32).boundaries().tolist() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([2, 0], 0.08, 0.16), "was padding left in"),
        (([], 0.08, 0.16), "was padding left in"),
        (([0.5], 0.08, 0.16), "in seconds"),
        (([9], 0.08, 0.72), "more than max_duration=8"),
        (([2], 0.0, 0.16), "expected seconds above 0"),
        (([2, 2], 0.08, 5.0), "are they of another clip"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    durations, *times = arguments
    with pytest.raises(ValueError, match=message):
        TokenTimeline(np.array(durations), *times)


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(ValueError, match="tokens are of 2 clips"):
        TokenTimeline.of(Tokens.cat([tokens_of(1), tokens_of(1)]))
    with pytest.raises(ValueError, match="at another rate"):
        TokenTimeline.of(tokens_of(4), np.zeros(8000))
    with pytest.raises(ValueError, match="sum to 5 frames, but the clip has 4"):
        TokenTimeline(np.array([4]), 0.08, 0.32).with_durations(np.array([5]))


# ---- thresholds
def tokens_with(durations, max_duration=8):
    return Tokens(torch.zeros_like(durations), None, durations, format=TokenFormat(max_duration=max_duration))


@st.composite
def clips(draw):
    """Similarities of a clip without ties [1, T - 1], and a cap."""
    frames = draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    similarities = (torch.randperm(frames - 1, generator=generator) + 1.0)[None] / frames
    return similarities, draw(st.sampled_from([1, 3, 8, None]))


@settings(derandomize=True, deadline=None)
@given(clips(), st.floats(0.1, 12.5))
def test_it_reproduces_tokens_made_by_rate(clip, frame_rate):
    similarities, cap = clip
    lengths = torch.tensor([similarities.shape[1] + 1])
    durations = ExactRate(frame_rate)(similarities, lengths, seconds=lengths / 12.5, max_duration=cap)
    threshold = effective_threshold(tokens_with(durations, cap), similarities[0])
    assert threshold is not None
    assert torch.equal(Threshold(threshold)(similarities, lengths, max_duration=cap), durations)


def test_a_lower_rate_never_has_a_higher_threshold():
    similarities, lengths = torch.rand(1, 99, generator=torch.Generator().manual_seed(0)), torch.tensor([100])
    made = [ExactRate(rate)(similarities, lengths, seconds=[8.0], max_duration=8) for rate in (12.5, 9, 6, 4, 2)]
    thresholds = [effective_threshold(tokens_with(durations), similarities[0]) for durations in made]
    assert thresholds == sorted(thresholds, reverse=True)
    assert thresholds[0] == similarities.max()


def test_only_full_tokens_have_no_cut_by_similarity():
    assert effective_threshold(tokens_with(torch.tensor([[8, 8, 4]])), torch.full((19,), 0.9)) == -1


def test_even_durations_have_none():
    similarities = torch.rand(1, 49, generator=torch.Generator().manual_seed(0))
    durations = Uniform(6.25)(similarities, torch.tensor([50]), seconds=[4.0], max_duration=8)
    assert effective_threshold(tokens_with(durations), similarities[0]) is None


def test_boundaries_lie_between_tokens():
    assert boundary_mask(tokens_with(torch.tensor([[2, 3, 1]]))).tolist() == [
        False,
        True,
        False,
        False,
        True,
    ]
    assert boundary_mask(tokens_with(torch.tensor([[1]]))).tolist() == []


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_it_is_at_most_the_threshold_that_was_chosen(threshold):
    similarities = torch.rand(1, 99, generator=torch.Generator().manual_seed(1))
    durations = Threshold(threshold)(similarities, torch.tensor([100]), max_duration=8)
    assert threshold - 0.1 < effective_threshold(tokens_with(durations), similarities[0]) <= threshold


# ---- tiers
TIMES = [(0.0, 0.24), (0.24, 0.32), (0.32, 0.92)]  # the last frame lacks half its samples


@pytest.fixture
def tokens():
    return Tokens([7, 8, 9], [[1, 2, 3]], [3, 1, 8], [11 * 1280 + 640])


def spans(tier):
    return [(s.start, s.end, s.label) for s in tier]


def test_tiers_hold_times_durations_and_codes(tokens):
    tiers = token_tiers(tokens)
    assert list(tiers) == ["durations", "codes"]
    for name, labels in (("durations", "318"), ("codes", "789")):
        assert [s.label for s in tiers[name]] == list(labels)
        assert [(s.start, s.end) for s in tiers[name]] == [pytest.approx(each) for each in TIMES]


def test_a_codec_without_semantic_codes_shows_its_first_acoustic_ones():
    tokens = Tokens(None, [[4, 5], [6, 7]], [1, 1], format=TokenFormat(semantic_codebook_size=None, max_duration=1))
    assert [s.label for s in token_tiers(tokens)["codes"]] == ["4", "5"]


def test_praat_files_come_back(tokens, tmp_path):
    from praatio.textgrid import openTextgrid

    save_textgrid(tokens, tmp_path / "a.TextGrid")
    grid = openTextgrid(str(tmp_path / "a.TextGrid"), includeEmptyIntervals=True)
    assert grid.tierNames == ("durations", "codes")
    assert grid.maxTimestamp == pytest.approx(0.92)
    for start, end, label in grid.getTier("codes").entries:
        assert (start, end) == pytest.approx(TIMES[int(label) - 7])


def test_ctm_files_come_back(tokens, tmp_path):
    save_ctm(tokens, tmp_path / "a.ctm", "talk")
    (segments,) = read_ctm(tmp_path / "a.ctm").values()
    assert [s.label for s in segments] == ["3:7", "1:8", "8:9"]
    assert [(s.start, s.end) for s in segments] == [pytest.approx(each, abs=1e-6) for each in TIMES]


def test_info_writes_them(tokens, tmp_path, capsys):
    tokens.save(tmp_path / "my talk.flxc")
    files = ["--textgrid", str(tmp_path / "a.TextGrid"), "--ctm", str(tmp_path / "a.ctm")]
    assert main(["info", str(tmp_path / "my talk.flxc"), *files]) == 0
    assert "tokens" in capsys.readouterr().out
    assert list(read_ctm(tmp_path / "a.ctm")) == ["my_talk"]
    assert '"durations"' in (tmp_path / "a.TextGrid").read_text()


def test_ids_that_were_quoted_for_a_file_name_are_ids_again(tokens, tmp_path):
    tokens.save(tmp_path / "train%2Fclip%20é.flxc")
    assert main(["info", str(tmp_path / "train%2Fclip%20é.flxc"), "--ctm", str(tmp_path / "a.ctm")]) == 0
    assert list(read_ctm(tmp_path / "a.ctm")) == ["train/clip_é"]


def test_only_token_files_have_times(tmp_path, capsys):
    assert main(["info", "flexicodec-mini", "--textgrid", str(tmp_path / "a.TextGrid")]) == 2
    assert "--textgrid and --ctm need a .flxc file" in capsys.readouterr().err


def test_several_clips_are_refused(tokens, tmp_path):
    with pytest.raises(ValueError, match="tokens are of 2 clips"):
        save_textgrid(Tokens.cat([tokens, tokens]), tmp_path / "a.TextGrid")
