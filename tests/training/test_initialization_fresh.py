"""Initialisation of a NanoCodec: features keep their scale, and different audio has different codes."""

from dataclasses import replace

import pytest
import torch

from flexicodec.audio import resample
from flexicodec.models.nanocodec.config import EncoderConfig, with_causality
from flexicodec.models.nanocodec.model import NanoCodec
from flexicodec.quantize import GroupedFSQConfig
from flexicodec.training.initialization import init_nanocodec
from tests.training.recipes import NANO, read_recipe

TINY = read_recipe("tiny").model
LFSC = replace(
    NANO,
    encoder=EncoderConfig((2, 3, 5), 8, padding_mode="reflect", dilations=(1,)),
    decoder=replace(
        NANO.decoder,
        width=64,
        causal=False,
        padding_mode="reflect",
        activation="lrelu",
        output_activation="tanh",
        grouped_upsampling=False,
    ),
    quantizer=GroupedFSQConfig(8),
)
MODELS = {
    "tiny": TINY,
    "causal": with_causality(TINY, encoder=True, decoder=True),
    "neither": with_causality(TINY, encoder=False, decoder=False),
    "snake": replace(TINY, decoder=replace(TINY.decoder, activation="snake")),
    "LFSC's": LFSC,
}


@pytest.fixture(scope="module")
def recordings(speech):
    """Two seconds of either recording, at the codec's rate."""
    audio = torch.stack([recording[0, 4000:36_000] for recording in speech])
    return resample(audio, 16_000, 22_050)[:, : 25 * 1764]


@pytest.fixture(params=MODELS)
def codec(request):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        codec = NanoCodec(MODELS[request.param])
        init_nanocodec(codec)
    return codec


@torch.no_grad()
def test_features_keep_their_size(codec, recordings):
    features, sizes = recordings[:, None], []
    for layer in codec.encoder.layers:
        features = layer(features)
        sizes.append(float(features.std()))
    assert 0.2 < min(sizes) <= max(sizes) < 3, sizes
    features, sizes = torch.randn(2, codec.quantizer.dim, 25, generator=torch.Generator().manual_seed(0)), []
    for layer in list(codec.decoder.layers)[:-2]:
        features = layer(features)
        sizes.append(float(features.std()))
    assert 0.2 < min(sizes) <= max(sizes) < 3, sizes


@torch.no_grad()
def test_speech_has_many_codes_and_decodes_to_next_to_nothing(codec, recordings):
    tokens = codec.encode(recordings)
    for codes in tokens.acoustic.transpose(0, 1):
        assert len(codes.unique()) > 12
    assert 1e-4 < float(codec.decode(tokens).std()) < 0.01  # nearly silent


@torch.no_grad()
def test_without_it_all_speech_is_alike(recordings):
    """Why it is there."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        codec = NanoCodec(TINY)
    assert all(len(codes.unique()) <= 2 for codes in codec.encode(recordings).acoustic.transpose(0, 1))
