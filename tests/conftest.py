"""Shared by tests: the --goldens option of the parity suite, tiny codecs with random weights, and a little speech."""

import json
import math
from contextlib import contextmanager
from dataclasses import is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from flexicodec.audio import read_audio
from flexicodec.corpus import Utterance, write_manifest
from flexicodec.encoders.base import FrontEndConfig, MoonshineConfig, SanmConfig
from flexicodec.merging.positions import PositionConfig
from flexicodec.models.flexicodec.config import AcousticConfig, FlexiCodecConfig, MergingConfig, SemanticConfig
from flexicodec.models.flexicodec.model import FlexiCodec
from flexicodec.models.nanocodec.config import DecoderConfig, EncoderConfig, NanoCodecConfig, with_causality
from flexicodec.models.nanocodec.model import NanoCodec
from flexicodec.nn.dac import DACEncoder, ResidualUnit
from flexicodec.nn.sequential import Sequential
from flexicodec.nn.spectral import SpectralConfig, TwoRateConfig
from flexicodec.nn.transformer import TransformerConfig
from flexicodec.quantize import FSQConfig, GroupedFSQConfig, RVQConfig

DATA = Path(__file__).parent / "data"


def pytest_addoption(parser):
    parser.addoption(
        "--goldens",
        metavar="DIR",
        type=Path,
        default=DATA,
        help="folder searched for golden cases by tests/parity (default: the small set in tests/data)",
    )


@pytest.fixture(scope="session")
def goldens(pytestconfig):
    """The folder of golden cases."""
    folder = pytestconfig.getoption("--goldens")
    assert folder.is_dir(), f"--goldens {folder} is not a folder"
    return folder


# ------------------------------------------------------------------------------------------------------- tiny codecs


class FakeSemanticEncoder:
    """Stands in for a frozen encoder at any frame rate: log energies of a few bands, seen through a fixed mixture.

    It has no weights and no context, so neighbouring features are equal exactly where the audio is.
    """

    def __init__(self, frame_rate=50.0, dim=12):
        self.frame_rate, self.dim = frame_rate, dim
        self.frame_size = round(16000 / frame_rate)
        self.mixture = torch.randn(8, dim, generator=torch.Generator().manual_seed(3))

    def __call__(self, audio, lengths):
        frames = audio.unfold(1, self.frame_size, self.frame_size)
        bands = torch.fft.rfft(frames)[..., 1:].abs().tensor_split(8, dim=-1)
        energies = torch.stack([band.square().mean(-1) for band in bands], dim=-1)
        features = ((energies + 1e-4).log() @ self.mixture).transpose(1, 2)
        counts = lengths // self.frame_size
        return features.masked_fill(torch.arange(features.shape[2]) >= counts[:, None, None], 0.0), counts


def tiny_config(geometry, dither):
    """A FlexiCodec with every part of the released one, or of a windowed one that covers the whole clip."""
    windowed = geometry == "whole"
    transformer = TransformerConfig(
        num_layers=2, dim=16, num_heads=2, feedforward_dim=32, window=5 if windowed else None, layer_scale_init=0.5
    )
    return FlexiCodecConfig(
        geometry=geometry,
        semantic_encoder=SanmConfig(
            num_layers=3,
            dim=16,
            num_heads=2,
            feedforward_dim=32,
            kernel_size=5,
            prompt=() if windowed else (0, 1, 2, 15),
            positions=not windowed,
            window=4 if windowed else None,
            front_end=FrontEndConfig(num_mels=20, dither=dither),
        ),
        acoustic=AcousticConfig(width=2, latent_dim=12, decoder_width=64),
        merging=MergingConfig(
            threshold=0.7,
            semantic_aggregator=replace(transformer, num_layers=1),
            acoustic_aggregator=replace(transformer, num_layers=1),
        ),
        semantic=SemanticConfig(FSQConfig((8, 8, 5)), dim=24, hidden_dim=32, num_layers=2),
        acoustic_quantizer=RVQConfig(num_codebooks=4, codebook_size=64, codebook_dim=4),
        bottleneck=transformer,
    )


@torch.no_grad()
def enliven(codec, seed):
    """Give every part weights that make its output depend on its input; new convolutions fade to zero."""
    generator = torch.Generator().manual_seed(seed)

    def normal(like, std):
        return torch.randn(like.shape, generator=generator) * std

    for name, weight in codec.named_parameters():
        leaf = name.rsplit(".", 1)[-1]
        if leaf.startswith("scale") or leaf == "alpha":
            weight.copy_(0.6 + normal(weight, 0.1).abs())
        elif weight.ndim == 1:
            weight.copy_(normal(weight, 0.2) + (1.0 if "norm" in name and leaf == "weight" else 0.0))
        elif "codebook" in name or "prompt" in name or "query" in name:
            weight.copy_(normal(weight, 1.0))
        else:
            weight.copy_(normal(weight, 1.0 / math.sqrt(weight[0].numel())))
    for unit in (module for module in codec.modules() if isinstance(module, ResidualUnit)):
        unit[-1].weight.mul_(0.2)  # a residual adds, and every Snake adds an offset
    if isinstance(codec.encoder, DACEncoder):
        codec.encoder.layers[-1].weight.mul_(4.0)
        hiss = codec.encoder(0.05 * torch.randn(1, 1, 12800, generator=generator))
        codec.encoder.layers[-1].bias.sub_(hiss.mean(dim=(0, 2)))
        codec.decoder.layers[-2].weight.mul_(0.05)
    front_end = getattr(codec.semantic_encoder, "front_end", None)
    if front_end is not None:  # about what is usual for speech: log energies of 16-bit samples
        front_end.shift.fill_(-12.0)
        front_end.scale.fill_(0.3)
    codec.semantic_quantizer.project_in.weight.mul_(2.0)
    return codec.eval()


@pytest.fixture(scope="session")
def make_codec():
    """Build a tiny codec: a geometry, another semantic encoder or its config, a dither, other settings."""

    def make(geometry="whole", semantic_encoder=None, *, dither=1.0, seed=0, **settings):
        config = replace(tiny_config(geometry, dither), **settings)
        if is_dataclass(semantic_encoder):
            config, semantic_encoder = replace(config, semantic_encoder=semantic_encoder), None
        with torch.random.fork_rng(devices=[]):
            codec = FlexiCodec(config, semantic_encoder, name=f"tiny-{geometry}")
        return enliven(codec, seed)

    return make


@pytest.fixture(scope="session")
def whole(make_codec):
    """Covers every sample; attention is windowed and independent of the end of the clip."""
    return make_codec("whole")


SPECTRAL = {  # settings of `make_codec`; tokens may be longer than the semantic stream has positions
    "acoustic": SpectralConfig(
        num_mels=20, latent_dim=12, encoder=TwoRateConfig(16, 1, 12, 1), decoder=TwoRateConfig(12, 1, 16, 1)
    ),
    "merging": MergingConfig(
        threshold=0.7,
        semantic_aggregator=PositionConfig(3, hidden_dim=16, unmerge_dim=None),
        acoustic_aggregator=PositionConfig(8, hidden_dim=16, unmerge_dim=16),
    ),
}


@pytest.fixture(scope="session")
def spectral(make_codec):
    """Encodes and decodes spectra, and merges and unmerges by position."""
    return make_codec("whole", **SPECTRAL)


MOONSHINE = MoonshineConfig(
    num_layers=2,
    dim=24,
    num_heads=2,
    feedforward_dim=40,
    rotary_dim=10,
    windows=((6, 2), 4),
    norm_window=(5, 3),
    left_padding=256,
)


@pytest.fixture(scope="session")
def moonshine(make_codec):
    """Has Moonshine's encoder, with windows."""
    return make_codec("whole", MOONSHINE)


@pytest.fixture(scope="session")
def released(make_codec):
    """The released architecture, with prompt, positions and global attention."""
    return make_codec("released")


@pytest.fixture(scope="session", params=["whole", "released"])
def codec(request):
    """A tiny codec of either geometry; shared, as codecs may be."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def fake_encoder():
    """The class of the fake semantic encoder."""
    return FakeSemanticEncoder


TINY_LFSC = NanoCodecConfig(
    encoder=EncoderConfig((2, 3, 5), 4, padding_mode="reflect", dilations=(1,)),
    decoder=DecoderConfig((5, 3, 2), 32, False, "reflect", "lrelu", "tanh", grouped_upsampling=False, dilations=(1, 2)),
    quantizer=GroupedFSQConfig(3, (8, 7, 6, 6)),
)
TINY_NANO = NanoCodecConfig(
    encoder=EncoderConfig((2, 3, 5), 3),
    decoder=DecoderConfig((5, 3, 2), 24),  # 3 channels at the end: half of them is no whole number
    quantizer=GroupedFSQConfig(4, (9, 8, 8, 7)),
)
TINY_NANOCODECS = {
    "lfsc": TINY_LFSC,
    "nano": TINY_NANO,
    "causal": with_causality(TINY_NANO, encoder=True, decoder=True),
    "noncausal": with_causality(TINY_NANO, encoder=False, decoder=False),
}


def set_size(conv, outputs, size):
    """Give each channel of a convolution mean 0 and this deviation, going by its outputs."""
    mean, factor = outputs.mean(dim=(0, 2)), size / outputs.std(dim=(0, 2))
    conv.weight.mul_(factor[:, None, None])
    conv.bias.sub_(mean).mul_(factor)


@torch.no_grad()
def make_tiny_nanocodec(config, seed=0, name="tiny-nano"):
    """An LFSC or NanoCodec of 30 samples a frame whose weights matter: latents and audio of about the usual size."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        codec = NanoCodec(config, name).eval()
        for weight in codec.parameters():
            if weight.ndim == 1:
                weight.normal_(std=0.1)
            elif weight.shape[0] == 1 and weight.shape[2] == 1:  # alpha of a Snake
                weight.uniform_(0.5, 1.5)
            else:
                weight.normal_(std=1.0 / math.sqrt(weight[0].numel()))
        set_size(codec.encoder.layers[-1], codec.encoder(0.1 * torch.randn(1, 1, 6000)), 1.0)
        before = Sequential(list(codec.decoder.layers)[:-1])(torch.randn(1, config.quantizer.dim, 100))
        set_size(codec.decoder.layers[-2], before, 0.3)
    return codec


@pytest.fixture(scope="session")
def make_nanocodec():
    """Build a tiny NanoCodec from a config, with random weights."""
    return make_tiny_nanocodec


@pytest.fixture(scope="session")
def nanocodecs():
    """Tiny codecs by name: LFSC's layout, NanoCodec's, and NanoCodec's with everything causal or nothing."""
    return {name: make_tiny_nanocodec(config) for name, config in TINY_NANOCODECS.items()}


@pytest.fixture(scope="session", params=TINY_NANOCODECS)
def nanocodec(request, nanocodecs):
    """Each of the tiny ones."""
    return nanocodecs[request.param]


@pytest.fixture(params=["float64", "bfloat16", "meta", "inference"])
def other_settings(request):
    """A caller's settings that loading must not be changed by; `tests/models/test_process_settings.py` has more."""
    if request.param == "meta":
        return torch.device("meta")
    if request.param == "inference":
        return torch.inference_mode()
    return default_dtype(getattr(torch, request.param))


@contextmanager
def default_dtype(dtype):
    """Change the default dtype for a while."""
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


# ------------------------------------------------------------------------------------------------------------ speech


@pytest.fixture(scope="session")
def speech_folder():
    """Two short recordings (LibriSpeech, see NOTICE)."""
    return DATA / "speech"


@pytest.fixture(scope="session")
def speech(speech_folder):
    """Two recordings of a woman and of a man, about 3 s, [1, S] each at 16 kHz."""
    return [read_audio(path) for path in sorted(speech_folder.glob("*.flac"))]


# ------------------------------------------------------------- clips whose every sample says where it is from

RATE = 16_000


def tone(index, samples):
    """Steps of 1/4096 in a pattern of its own for each clip, which 16 bits hold exactly."""
    return ((np.arange(samples) * (index + 3) + 31 * index) % 2048 - 1024).astype(np.float64) / 4096


@pytest.fixture
def clips(tmp_path):
    """Twelve utterances of 0.3 to 1.4 s with texts, and the samples of each."""
    utterances, samples = [], []
    for index in range(12):
        samples.append(tone(index, 4800 + 1600 * index))
        path = tmp_path / "audio" / f"{index}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, samples[-1], RATE)
        utterances.append(Utterance(path, len(samples[-1]) / RATE, text=f"text {index}", speaker=f"s{index % 3}"))
    return utterances, samples


@pytest.fixture
def speech_manifest(clips, tmp_path):
    """A manifest of these utterances."""
    write_manifest(tmp_path / "speech.jsonl", clips[0])
    return tmp_path / "speech.jsonl"


@pytest.fixture
def manifest(tmp_path):
    """Six clips of 0.5 to 1 s of filtered noise, each with a short text."""
    random = np.random.default_rng(0)
    rows = []
    for index in range(6):
        samples = int(8000 + 1600 * index)
        wave = 0.1 * np.convolve(random.standard_normal(samples), np.ones(8) / 8, mode="same")
        soundfile.write(tmp_path / f"{index}.wav", wave, 16_000)
        rows.append(
            {
                "path": f"{index}.wav",
                "duration_s": samples / 16_000,
                "text_norm": "a tale of"[: 3 + index],
                "speaker": f"s{index % 2}",
                "corpus": "noise",
            }
        )
    path = tmp_path / "speech.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path
