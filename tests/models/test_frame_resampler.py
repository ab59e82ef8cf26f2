"""Resampling from the encoder's frame rate to the codec's, of whole clips and of streams in any chunks."""

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from flexicodec.models.flexicodec.frame_resampler import FrameResampler, resample_frames


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_without_a_ratio_each_clip_is_stretched_to_fit():
    source, target = torch.tensor([17, 2, 50]), torch.tensor([12, 1, 37])
    features = noise(3, 4, 50)
    resized = resample_frames(features, source, target, None)
    assert resized.shape == (3, 4, 37)
    for i, (before, after) in enumerate(zip(source.tolist(), target.tolist(), strict=True)):
        expected = F.interpolate(features[i : i + 1, :, :before], size=after, mode="linear", align_corners=False)
        torch.testing.assert_close(resized[i : i + 1, :, :after], expected, atol=1e-5, rtol=1e-5)
        assert not resized[i, :, after:].any()


@pytest.mark.parametrize("ratio", [4 / 3, 1.0, 2.0, 4.0, 0.5, 2.5])
def test_with_a_ratio_the_place_decides_and_not_the_length(ratio):
    frames = int(60 / ratio)
    features = noise(1, 4, 60)
    whole = resample_frames(features, torch.tensor([60]), torch.tensor([frames]), ratio)
    part = resample_frames(features[..., :40], torch.tensor([40]), torch.tensor([int(40 / ratio)]), ratio)
    inner = int(38 / ratio)
    assert torch.equal(part[..., :inner], whole[..., :inner])


@pytest.mark.parametrize("ratio", [4 / 3, 1.0, 2.0, 4.0, 0.5, 2.5, None])
def test_a_ramp_stays_a_ramp(ratio):
    frames = 30 if ratio is None else int(60 / ratio)
    ramp = torch.arange(60.0).expand(1, 1, 60)
    resized = resample_frames(ramp, torch.tensor([60]), torch.tensor([frames]), ratio)[0, 0]
    centre = (torch.arange(frames) + 0.5) * (ratio or 2.0) - 0.5
    torch.testing.assert_close(resized, centre.clamp(0, 59))


@pytest.mark.parametrize("ratio", [4 / 3, 4.0])
def test_missing_encoder_frames_repeat_the_last_one(ratio):
    features = noise(1, 4, 60)
    resized = resample_frames(features[..., :50], torch.tensor([50]), torch.tensor([int(60 / ratio)]), ratio)
    torch.testing.assert_close(resized[..., -1], features[..., 49])
    assert torch.equal(
        resized, resample_frames(features, torch.tensor([50]), torch.tensor([int(60 / ratio)]), ratio)
    )  # garbage behind the end


RATIOS = [Fraction(4, 3), Fraction(4), Fraction(2), Fraction(1), Fraction(1, 2), Fraction(3, 4), Fraction(997, 747)]
laws = settings(max_examples=30, deadline=None, derandomize=True)


@pytest.mark.parametrize("ratio", RATIOS, ids=str)
@laws
@given(sizes=st.lists(st.integers(0, 7), max_size=8), rest=st.integers(1, 20), short=st.integers(-1, 1))
def test_any_chunks_give_the_whole(ratio, sizes, rest, short):
    inputs = sum(sizes) + rest
    outputs = max(1, int(inputs / ratio) + short)  # the last input may be repeated, or be unused
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
        assert state.buffer.shape[-1] <= max(2, ratio.numerator) + 7
    if done <= outputs:
        got.append(stage.step(x[..., at:], state, outputs - done)[0])
        torch.testing.assert_close(torch.cat(got, dim=-1), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("ratio", RATIOS, ids=str)
def test_the_stated_look_ahead_is_exact(ratio):
    stage = FrameResampler(ratio, 1)
    for outputs in (1, 2, 3, 10):
        needed = stage.inputs_needed(outputs)
        for inputs, ready in ((needed, True), (needed - 1, False)):
            y, _ = stage.step(torch.zeros(1, 1, inputs), stage.initial_state(), None)
            assert (y.shape[-1] >= outputs) is ready
