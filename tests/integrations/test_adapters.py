"""Adapters of `integrations/`: against codecscope itself, and against the interfaces of benchmarks pip does not have.

`SoundCodec`, `audiocodecs` and `moss_eval` below are their base classes written anew from their documentation.
"""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import flexicodec

FOLDER = Path(__file__).parents[2] / "integrations"
RATE = 16_000


def speechlike(samples, seed=0):
    generator = torch.Generator().manual_seed(seed)
    level = torch.rand(1, samples // 1600 + 1, generator=generator).repeat_interleave(1600, dim=1)
    return (0.2 * level[0, :samples] * torch.randn(samples, generator=generator)).numpy()


# -------------------------------------------------------------------------------------------------------- interfaces


class BaseCodec:
    def __init__(self):
        self.device = "cpu"
        self.config()


@dataclass
class ExtractedUnit:
    unit: torch.Tensor
    stuff_for_synth: object


class Codec(torch.nn.Module):
    def __init__(self, sample_rate, orig_sample_rate, mode="reconstruct"):
        super().__init__()
        self.sample_rate, self.orig_sample_rate, self.mode = sample_rate, orig_sample_rate, mode

    def forward(self, sig, length=None):
        length = torch.ones(len(sig)) if length is None else length
        tokens = sig if self.mode == "decode" else self._sig_to_toks(sig, length)
        return tokens if self.mode == "encode" else self._toks_to_sig(tokens, length)


@dataclass
class ReconstructOutput:
    audio: torch.Tensor
    reference: torch.Tensor
    sample_rate: int
    extra: dict | None = None


class AudioModelAdapter:
    def __init__(self, config, device="cpu"):
        self.config, self.device, self.name = dict(config), device, config.get("name")

    def metadata(self):
        return {"name": self.name, "max_nq": self.max_nq}


INTERFACES = {
    "SoundCodec.base_codec.general": {"BaseCodec": BaseCodec, "ExtractedUnit": ExtractedUnit},
    "audiocodecs.codec": {"Codec": Codec},
    "moss_eval.adapters.base": {"AudioModelAdapter": AudioModelAdapter, "ReconstructOutput": ReconstructOutput},
}


@pytest.fixture
def adapter(monkeypatch):
    """Import an adapter by its file's name."""
    for name, members in INTERFACES.items():
        parts = name.split(".")
        for i in range(1, len(parts) + 1):
            monkeypatch.setitem(sys.modules, ".".join(parts[:i]), ModuleType(".".join(parts[:i])))
        vars(sys.modules[name]).update(members)

    def imported(name):
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return imported


@pytest.fixture(scope="module")
def folder(spectral, tmp_path_factory):
    return str(spectral.save_pretrained(tmp_path_factory.mktemp("model")))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_adapters_are_short(path):
    code = path.read_text().split('"""')[2]
    assert len([line for line in code.splitlines() if line]) < 40


# ------------------------------------------------------------------------------------------------------------ adapters


def test_codec_superb(adapter, folder, spectral):
    class Ours(adapter("codec_superb").Codec):
        model, options = folder, {"frame_rate": 5.0}

    codec = Ours()
    audio = speechlike(30_000)
    tokens = spectral.encode(torch.tensor(audio), frame_rate=5.0)
    for array in (audio, audio.astype(np.float64), torch.tensor(audio), np.stack([audio, audio])):
        found = codec.extract_unit({"audio": {"array": array, "sampling_rate": RATE}})
        assert torch.equal(found.unit, torch.cat([tokens.semantic, tokens.acoustic[0]]))
    decoded = codec.decode_unit(found.stuff_for_synth)
    assert decoded.shape == audio.shape
    assert np.array_equal(decoded, spectral.decode(tokens)[0].numpy())
    assert codec.kbps == pytest.approx(float(tokens.bitrates_kbps[0]))
    resampled = codec.extract_unit({"audio": {"array": speechlike(24_000), "sampling_rate": 24_000}})
    assert float(resampled.stuff_for_synth.seconds) == 1


def test_dasb(adapter, folder, spectral):
    module = adapter("dasb_codec")
    batch = torch.stack([torch.tensor(speechlike(30_000)), torch.tensor(speechlike(30_000, 1))])
    batch[1, 15_000:] = 0
    length = torch.tensor([1.0, 0.5])
    tokens = spectral.encode(batch, [30_000, 15_000], frame_rate=5.0, num_codebooks=2)
    encoder = module.FlexiCodec(RATE, "encode", folder, frame_rate=5.0, num_codebooks=2)
    codes = encoder(batch, length)
    assert codes.shape == (2, tokens.durations.shape[1], encoder.num_codebooks) == (2, codes.shape[1], 4)
    assert torch.equal(codes[..., -1], tokens.durations)
    assert int(codes[..., :-1].max()) < encoder.vocab_size
    assert torch.equal(encoder.kbps, tokens.bitrates_kbps)
    decoded = module.FlexiCodec(RATE, "decode", folder, num_codebooks=2)(codes, length)
    for i, samples in enumerate([30_000, 15_000]):  # which end with whole frames here
        torch.testing.assert_close(decoded[i, :samples], spectral.decode(tokens)[i, :samples], atol=1e-5, rtol=0)
    both = module.FlexiCodec(RATE, "reconstruct", folder, frame_rate=5.0, num_codebooks=2)
    assert torch.equal(both(batch, length), decoded)
    assert both.embs().shape[:2] == (4, both.vocab_size)
    assert torch.equal(both._sig_to_qfeats(batch, length), spectral.embed(tokens).movedim(1, 2))
    assert both._sig_to_feats(batch, length).shape[:2] == (2, int(tokens.frame_lengths.max()))


def test_moss_eval(adapter, folder, spectral):
    module = adapter("audio_tokenizer_eval")
    found = module.FlexiCodecAdapter({"name": "ours", "model": folder, "frame_rate": 5.0, "nq": "1..2"})
    stereo = torch.tensor(np.stack([speechlike(48_000), speechlike(48_000, 1)]))
    result = found.reconstruct(stereo, 48_000, nq=2)
    assert result.audio.shape == result.reference.shape == (1, 16_000)
    assert result.sample_rate == RATE
    tokens = spectral.encode(result.reference, frame_rate=5.0, num_codebooks=1)
    assert torch.equal(result.audio, spectral.decode(tokens))
    assert result.extra["bitrate_kbps"] == found.metadata()["bitrate_kbps"] == float(tokens.bitrates_kbps[0])
    assert found.max_nq == 1 + spectral.num_codebooks


def test_codecscope_counts_the_true_bitrate(adapter, folder, spectral):
    codecscope = pytest.importorskip("codecscope")
    audio = speechlike(40 * 1280)
    for options in ({"threshold": 1.0}, {"frame_rate": 5.0}, {"frame_rate": 5.0, "num_codebooks": 0}):
        ours = adapter("codecscope_adapter").FlexiCodecAdapter(folder, **options)
        report = codecscope.analyze(audio, RATE, ours)
        tokens = spectral.encode(torch.tensor(audio), **options)
        assert report.bitrate == pytest.approx(1000 * float(tokens.bitrates_kbps[0]), rel=0.01)
        assert report.frame_rate == pytest.approx(float(tokens.frame_rates[0]))
        assert report.n_codebooks == 1 + tokens.num_codebooks
        assert str(options.get("frame_rate", "threshold=1.0")) in report.codec


def test_the_model_that_ships(adapter):
    """All defaults, once for each."""
    audio = speechlike(8000)
    superb = adapter("codec_superb").Codec()
    unit = superb.extract_unit({"audio": {"array": audio, "sampling_rate": RATE}}).unit
    sound = adapter("dasb_codec").FlexiCodec(RATE)(torch.tensor(audio)[None])
    result = (
        adapter("audio_tokenizer_eval").FlexiCodecAdapter({"name": "mini"}).reconstruct(torch.tensor(audio)[None], RATE)
    )
    assert unit.shape[0] == 1 + flexicodec.load(parts="decode").num_codebooks
    assert sound.shape[1] >= len(audio) == result.audio.shape[1]
