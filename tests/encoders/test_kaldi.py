"""Our filterbank against kaldi-native-fbank, the fallback of FunASR."""

import kaldi_native_fbank
import pytest
import torch

from flexicodec.encoders.base import FrontEndConfig
from flexicodec.encoders.fbank import KaldiFbank


def kaldi_fbank(audio):
    """Log-mel energies [frames, 80] of audio [samples], with FunASR's options and no dither."""
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.samp_freq = 16000
    options.frame_opts.dither = 0.0
    options.frame_opts.window_type = "hamming"
    options.frame_opts.snip_edges = True
    options.mel_opts.num_bins = 80
    options.energy_floor = 0.0
    fbank = kaldi_native_fbank.OnlineFbank(options)
    fbank.accept_waveform(16000, (audio * 32768.0).tolist())
    fbank.input_finished()
    return torch.stack([torch.from_numpy(fbank.get_frame(i).copy()) for i in range(fbank.num_frames_ready)])


def signals(speech):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(17_001, generator=generator)
    time = torch.arange(12_345) / 16000
    return {
        "loud noise": 0.3 * noise,
        "faint noise": 1e-4 * noise,
        "one window": 0.1 * noise[:400],
        "tone on an offset": 0.2 * torch.sin(2 * torch.pi * 1234.5 * time) + 0.4,
        "woman": speech[0][0, :40_001],
        "man": speech[1][0, :40_001],
    }


@pytest.mark.parametrize("name", ["loud noise", "faint noise", "one window", "tone on an offset", "woman", "man"])
def test_fbank_is_kaldis(speech, name):
    audio = signals(speech)[name]
    expected = kaldi_fbank(audio)
    ours = KaldiFbank(FrontEndConfig(dither=0.0)).fbank(audio[None])[0]
    assert ours.shape == expected.shape
    assert float((ours - expected).abs().max() / expected.abs().max()) < 1e-4


def test_digital_silence_has_kaldis_minimum_energy():
    ours = KaldiFbank(FrontEndConfig(dither=0.0)).fbank(torch.zeros(1, 1000))[0]
    assert torch.equal(ours, kaldi_fbank(torch.zeros(1000)))
