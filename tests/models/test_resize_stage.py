"""Resizing a stream gives what resizing the whole gives, for every ratio and any chunks."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexicodec.models.flexicodec.frame_resampler import resample_frames
from flexicodec.models.flexicodec.resize_stage import FrameResampler

RATIOS = [Fraction(4, 3), Fraction(4), Fraction(2), Fraction(1), Fraction(1, 2), Fraction(3, 4), Fraction(997, 747)]
laws = settings(max_examples=30, deadline=None, derandomize=True)


@pytest.mark.parametrize("ratio", RATIOS, ids=str)
@laws
@given(sizes=st.lists(st.integers(0, 7), max_size=8), rest=st.integers(1, 20), short=st.integers(-1, 1))
def test_any_chunks_give_the_whole(ratio, sizes, rest, short):
    inputs = sum(sizes) + rest
    outputs = max(1, int(inputs / ratio) + short)  # the last input may stand in for some, or not be needed
    x = torch.randn(2, 3, inputs, generator=torch.Generator().manual_seed(0))
    lengths = torch.full((2,), inputs), torch.full((2,), outputs)
    wanted = resample_frames(x, *lengths, float(ratio))
    stage = FrameResampler(ratio, 3)
    state, got, at, done = stage.initial_state(), [], 0, 0
    for size in sizes:
        y, state = stage.step(x[..., at : at + size], state, None)
        at, done = at + size, done + y.shape[-1]
        assert done <= outputs + (short < 0) + 1
        got.append(y)
        assert state.kept.shape[-1] <= max(2, ratio.numerator) + 7
    if done <= outputs:
        got.append(stage.step(x[..., at:], state, outputs - done)[0])
        torch.testing.assert_close(torch.cat(got, dim=-1), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("ratio", RATIOS, ids=str)
def test_it_waits_for_as_much_as_it_says(ratio):
    stage = FrameResampler(ratio, 1)
    for outputs in (1, 2, 3, 10):
        needed = stage.inputs_needed(outputs)
        for inputs, ready in ((needed, True), (needed - 1, False)):
            y, _ = stage.step(torch.zeros(1, 1, inputs), stage.initial_state(), None)
            assert (y.shape[-1] >= outputs) is ready
