"""Mel frames, resampling, vocoder and the alignment of a voice's prompt."""

import math

import pytest
import torch

from flexicodec.models.tts.config import FlowMatchingConfig, MelConfig, VocosConfig
from flexicodec.models.tts.flow_matching import FlowMatchingDecoder
from flexicodec.models.tts.flow_sampling import FlowSamplingConfig
from flexicodec.models.tts.mel import log_mel, num_mel_frames, resample_sinc
from flexicodec.models.tts.token_decoder import TokenDecoder, VoicePrompt
from flexicodec.models.tts.vocos import InverseSTFT, Vocos

VOCOS = VocosConfig(num_mels=5, dim=12, hidden_dim=24, num_layers=2, window=16, hop=4)


@pytest.fixture(scope="module")
def vocos():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Vocos(VOCOS).eval()


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 2, 7])
def test_a_frame_is_a_hop(vocos, frames):
    assert vocos(torch.randn(2, 5, frames)).shape == (2, 4 * frames)


@torch.no_grad()
def test_a_padded_batch_is_each_item_alone(vocos):
    mel = torch.randn(3, 5, 40)
    lengths = torch.tensor([40, 31, 1])
    audio = vocos(mel, lengths)
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(audio[row, : 4 * length], vocos(mel[row, None, :, :length])[0], atol=1e-5, rtol=1e-4)
        assert not audio[row, 4 * length :].any()


def test_the_inverse_stft_inverts():
    signal = torch.randn(1, 60)
    spectrum = torch.fft.rfft(torch.nn.functional.pad(signal, (6, 6)).unfold(1, 16, 4) * torch.hann_window(16))
    x = torch.cat([spectrum.abs().clamp(min=1e-9).log(), spectrum.angle()], dim=-1)
    torch.testing.assert_close(InverseSTFT(16, 4)(x), signal, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_vocoder_in_half_precision(vocos):
    half = Vocos(VOCOS).eval()
    half.load_state_dict(vocos.state_dict())
    half.to(torch.bfloat16)
    mel = torch.randn(1, 5, 20)
    audio = half(mel)
    assert audio.dtype == torch.float32
    assert float((audio - vocos(mel)).norm() / vocos(mel).norm()) < 0.1


@pytest.mark.parametrize("samples", [721, 959, 960, 24_000, 24_479])
def test_mel_frames_are_whole_hops(samples):
    assert log_mel(torch.randn(1, samples)).shape == (1, 128, samples // 480)


def test_a_louder_tone_has_more_energy_in_its_band():
    time = torch.arange(24_000) / 24_000
    tones = torch.stack([gain * torch.sin(2 * math.pi * 1000 * time) for gain in (0.1, 0.2)])
    mel = log_mel(tones, normalize=False)[:, :, 10]
    assert mel[0].argmax() == mel[1].argmax()
    assert float((mel[1] - mel[0])[mel[0].argmax()]) == pytest.approx(math.log(2), abs=1e-3)


def test_silence_is_the_floor():
    expected = (math.log(1e-5) + 4.92) / math.sqrt(8.14)
    torch.testing.assert_close(log_mel(torch.zeros(1, 2400)), torch.full((1, 128, 5), expected))


def test_too_short_for_a_frame():
    with pytest.raises(ValueError, match="720 samples at 24000 Hz are too short"):
        log_mel(torch.randn(1, 720))


@pytest.mark.parametrize(("samples", "resampled"), [(1, 2), (2, 3), (3, 5), (16_000, 24_000), (16_001, 24_002)])
def test_resampled_lengths(samples, resampled):
    assert resample_sinc(torch.zeros(samples), 16_000, 24_000).shape == (resampled,)
    assert num_mel_frames(samples, 16_000) == resampled // 480


def test_a_tone_stays_a_tone():
    for from_rate, to_rate in ((16_000, 24_000), (44_100, 24_000), (24_000, 24_000)):
        tone = torch.sin(2 * math.pi * 440 * torch.arange(from_rate) / from_rate)
        expected = torch.sin(2 * math.pi * 440 * torch.arange(to_rate) / to_rate)
        middle = slice(500, -500)
        assert float((resample_sinc(tone, from_rate, to_rate) - expected)[middle].abs().max()) < 5e-3


# --------------------------------------------------------------------------------------------------- prompt and target


@pytest.fixture(scope="module")
def decoder():
    flow = FlowMatchingConfig(output_dim=5, dim=8, num_layers=1, num_heads=2, codebook_size=9)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vocos = Vocos(VocosConfig(5, 8, 8, 1, 1920, 480))
        return TokenDecoder(FlowMatchingDecoder(flow), vocos, MelConfig(num_mels=5)).eval()


@pytest.mark.parametrize("samples", [16_000, 33_600, 52_000, 17_279, 18_001])
@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_the_target_begins_where_its_codes_do(decoder, samples, extra):
    """Codecs cover a clip by a frame less or more; the target has 4 mel frames per code all the same."""
    prompt = VoicePrompt(torch.randn(samples), 16_000, torch.zeros(samples // 1280 + extra, dtype=torch.long))
    target = torch.ones(6, dtype=torch.long)
    codes, mel, frames = decoder.align(target, prompt)
    assert frames == 24
    assert mel.shape[1] % 4 == 0
    assert codes[0, mel.shape[1] // 4 :].tolist() == [1] * 6
    assert mel.shape[1] > 4 * (samples // 1280 - 2)
    shifted_codes, shifted_mel, shifted = decoder.align(target, prompt, compatible=True)
    assert shifted == 4 * shifted_codes.shape[1] - shifted_mel.shape[1]
    assert shifted_mel.shape[1] == num_mel_frames(samples, 16_000)


def test_audio_is_as_long_as_its_codes(decoder):
    config = FlowSamplingConfig(steps=1)
    prompt = VoicePrompt(torch.randn(20_000), 16_000, torch.zeros(15, dtype=torch.long))
    target = torch.ones(6, dtype=torch.long)
    for voice in (None, prompt):
        audio = decoder(target, voice, config, seed=1)
        assert audio.shape == (1, 6 * 1920)
        assert torch.equal(audio, decoder(target, voice, config, seed=1))
    assert not torch.equal(audio, decoder(target, prompt, config, seed=2))


def test_decoder_and_vocoder_share_a_mel():
    flow = FlowMatchingDecoder(FlowMatchingConfig(output_dim=6, dim=8, num_layers=1, num_heads=2, codebook_size=9))
    with pytest.raises(ValueError, match="makes 6 mel bands and the vocoder takes 5"):
        TokenDecoder(flow, Vocos(VOCOS))
