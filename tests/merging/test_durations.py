"""Laws of durations, and of merging frames into tokens and back."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexicodec.merging import durations_from_starts, merge, token_index, unmerge, validate_durations
from flexicodec.merging.durations import check_max_duration, chop_runs

# Clips of a batch, each a list of durations; the short ones get padded.
BATCHES = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=8), min_size=1, max_size=4)
law = settings(derandomize=True, deadline=None, max_examples=60)


def padded(rows):
    width = max(map(len, rows))
    return torch.tensor([row + [0] * (width - len(row)) for row in rows])


def noise(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


def means_one_by_one(features, durations):
    result = torch.zeros(*features.shape[:2], durations.shape[1], dtype=features.dtype)
    for i, row in enumerate(durations.tolist()):
        start = 0
        for n, duration in enumerate(row):
            if duration:
                result[i, :, n] = features[i, :, start : start + duration].mean(-1)
            start += duration
    return result


def test_the_picture_in_the_docstring():
    starts = torch.tensor([[1, 0, 1, 0, 0, 1]]).bool()
    assert durations_from_starts(starts).tolist() == [[2, 3, 1]]
    assert token_index(torch.tensor([[2, 3, 1]]), 6).tolist() == [[0, 0, 1, 1, 1, 2]]


@law
@given(BATCHES, st.integers(0, 5))
def test_starts_and_indices_lead_back_to_durations(rows, extra):
    durations = padded(rows)
    lengths = durations.sum(-1)
    num_frames = int(lengths.max()) + extra
    index = token_index(durations, num_frames)
    for row, frames in zip(rows, index, strict=True):
        expected = torch.repeat_interleave(torch.tensor(row))
        assert torch.equal(frames[: len(expected)], expected)
        assert (frames[len(expected) :] == durations.shape[1]).all()
    starts = torch.nn.functional.pad(index.diff(dim=-1) > 0, (1, 0), value=False)  # frame 0 starts a token regardless
    starts[:, 1:] |= torch.arange(1, num_frames) >= lengths[:, None]  # and padding counts for nothing
    assert torch.equal(durations_from_starts(starts, lengths), durations)


def test_empty_clips_have_no_tokens():
    starts = torch.ones(2, 3, dtype=torch.bool)
    assert durations_from_starts(starts, torch.tensor([0, 2])).tolist() == [[0, 0], [1, 1]]
    nothing = durations_from_starts(starts, torch.tensor([0, 0]))
    assert nothing.shape == (2, 0)
    assert merge(noise(2, 4, 3), nothing).shape == (2, 4, 0)
    assert torch.equal(unmerge(torch.zeros(2, 4, 0), nothing, 3), torch.zeros(2, 4, 3))
    assert token_index(nothing, 3).eq(0).all()


def test_runs_are_chopped_from_the_left():
    starts = torch.zeros(1, 29, dtype=torch.bool)
    starts[0, 20] = True
    assert durations_from_starts(chop_runs(starts, 8)).tolist() == [[8, 8, 4, 8, 1]]
    assert durations_from_starts(chop_runs(starts, 1)).tolist() == [[1] * 29]
    assert durations_from_starts(chop_runs(starts, None)).tolist() == [[20, 9]]


@law
@given(BATCHES, st.integers(1, 6), st.integers(0, 3))
def test_merge_averages_each_token(rows, dim, extra):
    durations = padded(rows)
    x = noise(len(rows), dim, int(durations.sum(-1).max()) + extra)
    merged = merge(x, durations)
    torch.testing.assert_close(merged, means_one_by_one(x, durations))
    assert (merged.movedim(1, -1)[durations == 0] == 0).all()


@law
@given(BATCHES)
def test_merge_and_unmerge_undo_each_other(rows):
    durations = padded(rows)
    x = noise(len(rows), 5, int(durations.sum(-1).max()))
    merged = merge(x, durations)
    spread = unmerge(merged, durations)
    assert spread.shape == x.shape
    torch.testing.assert_close(merge(spread, durations), merged)  # the mean of every token stays
    latents = noise(*durations.shape, 7).mT * (durations > 0)[:, None]
    torch.testing.assert_close(merge(unmerge(latents, durations), durations), latents)


def test_unmerge_repeats_and_pads_with_zeros():
    latents = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])
    durations = torch.tensor([[2, 1], [1, 0]])
    assert unmerge(latents, durations, 4).tolist() == [[[1, 1, 2, 0]], [[3, 0, 0, 0]]]
    assert unmerge(latents, durations).tolist() == [[[1, 1, 2]], [[3, 0, 0]]]


def test_axes_of_equal_size_are_not_confused():
    x, ones = noise(6, 6, 6), torch.ones(6, 6, dtype=torch.int64)
    assert torch.equal(merge(x, ones), x)
    assert torch.equal(unmerge(x, ones), x)
    halves = torch.tensor([[2, 2, 2, 0, 0, 0]]).repeat(6, 1)
    torch.testing.assert_close(merge(x, halves), means_one_by_one(x, halves))


def test_a_padded_batch_equals_each_clip_alone_bit_by_bit():
    durations = padded([[3, 8, 1, 7, 5], [2], [5, 6]])
    lengths = durations.sum(-1)
    x = noise(3, 4, 30)
    x[torch.arange(30).expand(3, 4, 30) >= lengths[:, None, None]] = float("nan")
    merged, spread = merge(x, durations), unmerge(merge(x, durations), durations)
    for i, row in enumerate([[3, 8, 1, 7, 5], [2], [5, 6]]):
        alone = merge(x[i : i + 1, :, : sum(row)], torch.tensor([row]))
        assert torch.equal(merged[i : i + 1, :, : len(row)], alone)
        assert torch.equal(spread[i : i + 1, :, : sum(row)], unmerge(alone, torch.tensor([row])))
        assert (spread[i, :, sum(row) :] == 0).all()


def test_gradients_reach_every_frame_but_the_padding():
    durations = padded([[3, 1, 4], [2]])
    x = noise(2, 3, 9, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: unmerge(merge(x, durations), durations), x)
    merge(x, durations).sum().backward()
    share = torch.tensor([[1 / 3] * 3 + [1] + [1 / 4] * 4 + [0], [1 / 2] * 2 + [0] * 7], dtype=torch.float64)
    torch.testing.assert_close(x.grad, share[:, None].expand(-1, 3, -1))


def test_long_clips_lose_no_precision():
    x = noise(1, 2, 40_000) + 1000
    durations = torch.full((1, 5000), 8)
    torch.testing.assert_close(merge(x, durations), merge(x.double(), durations).float(), rtol=2e-7, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    x, durations = (noise(1, 3, 16) + 100).to(dtype), torch.tensor([[7, 9]])
    merged = merge(x, durations)
    assert merged.dtype == dtype
    assert torch.equal(merged, merge(x.float(), durations).to(dtype))


def test_uncapped_tokens_may_span_the_clip():
    x = noise(2, 3, 3001)
    torch.testing.assert_close(merge(x, torch.tensor([[3001], [3001]])), x.mean(-1, keepdim=True), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.tensor, np.array, list])
def test_durations_from_a_caller_come_back_as_rows(kind):
    one = validate_durations(kind([2, 3, 1, 0]), torch.tensor([6]), 8)
    assert one.tolist() == [[2, 3, 1]]
    assert one.dtype == torch.int64
    two = validate_durations(kind([[2, 3, 0], [8, 0, 0]]), torch.tensor([5, 8]), 8)
    assert two.tolist() == [[2, 3], [8, 0]]


@pytest.mark.parametrize(
    ("durations", "lengths", "message"),
    [
        ([60, 58], [120], "sum to 118 frames but the audio has 120"),
        ([[3, 3], [4, 3]], [6, 6], r"sum to 7 frames but the audio has 6 \(item 1\)"),
        ([2**62, 2**62, 2**62, 2**62, 6], [6], "sum to"),  # 6 in wrapping int64
        ([2**70], [6], "array of integers"),
        ([2.0, 4.0], [6], "torch.float32, but they count frames"),
        ([True, True], [2], "torch.bool"),
        ([-1, 7], [6], "hold -1"),
        ([3, 0, 3], [6], "0 before the last token"),
        ([0, 6], [6], "0 before the last token"),
        ([[3, 3], [6]], [6, 6], "pad shorter rows"),
        ([3, 3], [6, 6], "own row"),
        ([[3, 3]], [6, 6], r"shape \(1, 2\), but 2 clip"),
        (6, [6], r"shape \(\)"),
        ([[[6]]], [6], r"shape \(1, 1, 1\)"),
        ("six", [6], "array of integers"),
    ],
)
def test_wrong_durations_are_refused(durations, lengths, message):
    with pytest.raises(ValueError, match=message):
        validate_durations(durations, torch.tensor(lengths), None)


def test_durations_over_the_cap_are_refused():
    with pytest.raises(ValueError, match="hold 9, but a token lasts at most max_duration=8"):
        validate_durations([9, 1], torch.tensor([10]), 8)


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "8"])
def test_a_cap_is_a_positive_integer_or_none(value):
    with pytest.raises(ValueError, match="None .* lifts the cap"):
        check_max_duration(value)
