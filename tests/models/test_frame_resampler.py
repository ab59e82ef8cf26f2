"""From the frozen encoder's clock to the codec's."""

import pytest
import torch
import torch.nn.functional as F

from flexicodec.models.flexicodec.frame_resampler import resample_frames


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
def test_where_the_encoder_stops_short_its_last_frame_stands_in(ratio):
    features = noise(1, 4, 60)
    resized = resample_frames(features[..., :50], torch.tensor([50]), torch.tensor([int(60 / ratio)]), ratio)
    torch.testing.assert_close(resized[..., -1], features[..., 49])
    assert torch.equal(
        resized, resample_frames(features, torch.tensor([50]), torch.tensor([int(60 / ratio)]), ratio)
    )  # garbage behind the end
