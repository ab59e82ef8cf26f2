"""Distances of waveforms, spectrograms and speakers: invariances, and values for known pairs."""

from functools import partial

import numpy as np
import pytest
import torch

from flexicodec.nn.mel_filters import htk_mel_filters, hz_to_mel, mel_to_hz, slaney_mel_filters
from flexicodec.training.losses import (
    LogMelLoss,
    LogStftLoss,
    SpeakerConsistencyLoss,
    reflect,
    si_sdr_loss,
    waveform_loss,
)

RATE = 22_050
LOSSES = {
    "waveform": waveform_loss,
    "waveform squared": partial(waveform_loss, squared=True),
    "si_sdr": si_sdr_loss,
    "mel": LogMelLoss(RATE, (64, 512), (10, 80)),
    "mel squared": LogMelLoss(RATE, (64, 512), (10, 80), squared=True),
    "stft": LogStftLoss((64, 512)),
}


@pytest.fixture(params=LOSSES)
def loss(request):
    return LOSSES[request.param]


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_padded_batch_is_each_clip_alone(loss):
    lengths = torch.tensor([4000, 2345, 1])
    estimate, reference = noise(3, 4000), noise(3, 4000, seed=1)  # noise, and not silence, past the lengths
    together = loss(estimate, reference, lengths)
    assert together.shape == (3,)
    for item, length in enumerate(lengths.tolist()):
        alone = loss(estimate[item : item + 1, :length], reference[item : item + 1, :length], lengths[item : item + 1])
        torch.testing.assert_close(alone[0], together[item], rtol=1e-4, atol=1e-6)


def test_equal_audio_is_best_and_gradients_point_towards_the_reference(loss):
    reference, lengths = noise(2, 3000), torch.tensor([3000, 2000])
    best = loss(reference, reference, lengths)
    estimate = (0.5 * reference + noise(2, 3000, seed=2) / 5).requires_grad_()
    worse = loss(estimate, reference, lengths)
    assert (best < worse).all()
    worse.sum().backward()
    assert estimate.grad.isfinite().all()
    assert not estimate.grad[1, 2000:].any()
    with torch.no_grad():
        nearer = loss(estimate + 0.1 * (reference - estimate), reference, lengths)
    assert (nearer < worse).all()


def test_silence_has_finite_gradients(loss):
    estimate = torch.zeros(2, 2000, requires_grad=True)
    for reference in (torch.zeros(2, 2000), noise(2, 2000)):
        loss(estimate, reference, torch.tensor([2000, 2000])).sum().backward()
        assert estimate.grad.isfinite().all()


def test_waveforms_differ_by_the_mean_of_samples():
    lengths = torch.tensor([4, 2])
    estimate, reference = torch.zeros(2, 4), torch.tensor([[1.0, -1.0, 2.0, 0.0], [3.0, 1.0, 100.0, 100.0]])
    assert waveform_loss(estimate, reference, lengths).tolist() == [1.0, 2.0]
    assert waveform_loss(estimate, reference, lengths, compatible=True).tolist() == [1.0, 102.0]
    assert waveform_loss(estimate, reference, lengths, squared=True).tolist() == [6 / 4, 10 / 2]


@pytest.mark.parametrize("decibels", [0, 10, 30])
def test_si_sdr_is_the_level_of_noise_whatever_scale_and_offset(decibels):
    reference, lengths = noise(1, 20_000), torch.tensor([20_000])
    other = noise(1, 20_000, seed=1)
    other -= other.mean()
    other -= reference * (other * reference).sum() / reference.square().sum()
    estimate = reference + other * reference.norm() / other.norm() * 10 ** (-decibels / 20)
    for scaled in (estimate, 3 * estimate, 0.1 * estimate + 0.5):
        assert float(si_sdr_loss(scaled, reference, lengths)) == pytest.approx(-decibels, abs=0.05)


def test_windows_are_averaged():
    estimate, reference, lengths = noise(2, 3000), noise(2, 3000, seed=1), torch.tensor([3000, 3000])
    both = LogMelLoss(RATE, (64, 512), (10, 80))
    parts = [LogMelLoss(RATE, (window,), (mels,)) for window, mels in ((64, 10), (512, 80))]
    each = [part(estimate, reference, lengths) for part in parts]
    torch.testing.assert_close(both(estimate, reference, lengths), (each[0] + each[1]) / 2)
    torch.testing.assert_close(both.per_window(estimate, reference, lengths), each)
    with pytest.raises(ValueError, match="2 windows but 1 numbers"):
        LogMelLoss(RATE, (64, 512), (10,))


def test_constants_move_along_and_are_not_saved():
    loss = LogMelLoss(RATE, (64, 512), (10, 80))
    assert not loss.state_dict()
    assert {buffer.device.type for buffer in loss.to("meta").buffers()} == {"meta"}


def test_each_item_is_reflected_at_its_own_end():
    audio = torch.arange(6.0).repeat(3, 1)
    expected = [[2, 1, 0, 1, 2, 3, 4, 5, 4, 3], [2, 1, 0, 1, 2, 3, 2, 1, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]]
    assert reflect(audio, torch.tensor([6, 4, 1]), 2).tolist() == [row[: 6 + 4] for row in expected]


def test_speakers_are_compared_by_angle_and_the_network_stays():
    network = torch.nn.Linear(1600, 4)
    loss = SpeakerConsistencyLoss(network, 16_000)
    reference = noise(2, 1600)
    torch.testing.assert_close(loss(reference, reference), torch.full((2,), -1.0))
    estimate = noise(2, 1600, seed=1).requires_grad_()
    value = loss(estimate, reference)
    assert (value > -1).all()
    value.sum().backward()
    assert estimate.grad.any()
    assert network.weight.grad is None
    assert not list(loss.parameters())


@pytest.mark.parametrize(("rate", "window", "mels"), [(16_000, 1024, 80), (22_050, 2048, 320)])
def test_filters_are_triangles(rate, window, mels):
    peaks, areas = (slaney_mel_filters(rate, window, mels, unit_area=unit) for unit in (False, True))
    assert peaks.shape == areas.shape == (mels, window // 2 + 1)
    assert 0 <= peaks.min() < peaks.max() <= 1
    wide = areas[-mels // 4 :]  # narrow ones fall between the bins
    np.testing.assert_allclose(wide.sum(1) * rate / window, 1.0, atol=0.1)
    inside = slice(peaks[0].argmax() + 1, peaks[-1].argmax())
    np.testing.assert_allclose(peaks.sum(0)[inside], 1.0, atol=1e-5)  # where one falls, the next rises
    frequencies = np.linspace(0, rate / 2, 50)
    np.testing.assert_allclose(mel_to_hz(hz_to_mel(frequencies)), frequencies, atol=1e-6)


def test_htk_filters_are_those_of_transformers():
    from transformers.audio_utils import mel_filter_bank

    expected = mel_filter_bank(257, 64, 0.0, 8000.0, 16_000, mel_scale="htk")
    np.testing.assert_allclose(htk_mel_filters(16_000, 512, 64), expected.T, atol=1e-5)
