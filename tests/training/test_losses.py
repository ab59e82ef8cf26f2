"""Losses against their definitions."""

import numpy as np
import pytest
import torch

from flexicodec.nn.mel_filters import slaney_mel_filters
from flexicodec.training.losses import MelEnergyLoss, MultiScaleMelLoss, feature_alignment_loss, power_spectrum


@pytest.fixture
def noise():
    return torch.randn(2, 8000, generator=torch.Generator().manual_seed(0)) * 0.1


def test_equal_audio_costs_nothing_and_louder_audio_its_level(noise):
    loss = MultiScaleMelLoss(16_000, windows=(512,), num_mels=(40,))
    assert loss(noise, noise).tolist() == [0.0, 0.0]
    assert loss(10 * noise, noise).tolist() == pytest.approx([1.0, 1.0], abs=1e-3)  # log10 of ten, in every band


def test_scales_are_summed(noise):
    other = noise.roll(100, dims=1)
    both = MultiScaleMelLoss(16_000, windows=(256, 1024), num_mels=(20, 80))(other, noise)
    one, two = (MultiScaleMelLoss(16_000, (w,), (m,))(other, noise) for w, m in ((256, 20), (1024, 80)))
    torch.testing.assert_close(both, one + two)


def test_an_items_loss_is_its_own_whatever_it_is_batched_with(noise):
    loss = MultiScaleMelLoss(16_000, windows=(512, 64), num_mels=(40, 10))
    other, lengths = noise.roll(100, dims=1), torch.tensor([8000, 4100])
    together = loss(other, noise, lengths)
    for item, length in enumerate(lengths):
        alone = loss(other[item : item + 1, :length], noise[item : item + 1, :length])
        torch.testing.assert_close(together[item : item + 1], alone)


def test_the_gradient_points_towards_the_reference(noise):
    estimate = (0.5 * noise).requires_grad_()
    MultiScaleMelLoss(16_000)(estimate, noise).sum().backward()
    assert torch.isfinite(estimate.grad).all()
    assert float((estimate.grad * noise).sum()) < 0  # louder is better


def test_mel_energies_cost_half_the_log_of_their_ratio_above_the_floor(noise):
    loss = MelEnergyLoss(16_000, windows=(512, 128), num_mels=(40, 10))
    assert loss(noise, noise).tolist() == [0.0, 0.0]
    loud = 100 * noise
    assert loss(10 * loud, loud).tolist() == pytest.approx([np.log(10)] * 2, rel=1e-4)  # the mean over windows
    assert loss(1e-5 * noise, 1e-4 * noise).max() < 1e-3  # below the floor nobody hears a difference
    other, lengths = noise.roll(100, dims=1), torch.tensor([8000, 4100])
    together = loss(other, noise, lengths)
    alone = loss(other[1:, :4100], noise[1:, :4100])
    torch.testing.assert_close(together[1:], alone)


@pytest.mark.parametrize("window", [8, 64])
def test_the_power_spectrum_and_its_gradient_are_those_of_the_fourier_transform(window):
    audio = torch.randn(2, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    taper = torch.hann_window(window, dtype=torch.float64)
    power = power_spectrum(audio, taper)
    spectrum = torch.stft(audio, window, window // 4, window=taper, center=False, return_complex=True)
    torch.testing.assert_close(power.mT, spectrum.abs().square())
    weights = torch.randn(power.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad((power * weights).sum(), audio, retain_graph=True)
    theirs = torch.autograd.grad((spectrum.abs().square().mT * weights).sum(), audio)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("rate", "window", "mels"), [(16_000, 1024, 80), (24_000, 2048, 100)])
def test_filters_cover_the_band_and_have_unit_area(rate, window, mels):
    filters = slaney_mel_filters(rate, window, mels)
    assert filters.shape == (mels, window // 2 + 1)
    wide = filters[mels // 2 :]  # narrow ones fall between the bins
    np.testing.assert_allclose(wide.sum(1) * rate / window, 1.0, atol=0.1)
    centres = filters.argmax(1) * rate / window
    assert (np.diff(centres) >= 0).all()
    assert centres[-1] > 0.9 * rate / 2


def test_alignment_counts_valid_tokens_only():
    semantic, target = torch.zeros(2, 3, 4), torch.ones(2, 3, 4)
    target[1, :, 2:] = 100.0
    assert feature_alignment_loss(semantic, target, torch.tensor([4, 2])).tolist() == pytest.approx([1.0, 1.0])


def test_autocast_does_not_reach_the_mel_loss(noise):
    loss, other = MultiScaleMelLoss(16_000), noise.roll(100, dims=1)
    exact = loss(other, noise)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(other, noise), exact)


def test_windows_and_mels_must_pair():
    with pytest.raises(ValueError, match="2 windows but 1 numbers"):
        MultiScaleMelLoss(16_000, (256, 512), (20,))
