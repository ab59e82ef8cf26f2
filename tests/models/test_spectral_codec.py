"""A codec on spectra that merges by position: the laws of every codec, and what is its own."""

from dataclasses import replace

import pytest
import torch

import flexicodec
from flexicodec.config import from_dict, to_dict
from flexicodec.merging.durations import Repeater
from flexicodec.merging.positions import PositionConfig, PositionUnmerger
from flexicodec.models.flexicodec import chunked
from flexicodec.models.flexicodec.config import AcousticConfig, FlexiCodecConfig, MergingConfig
from flexicodec.models.flexicodec.model import FlexiCodec
from flexicodec.models.margins import compare_codes
from flexicodec.models.streaming.state import Windows
from flexicodec.nn.spectral import SpectralConfig
from flexicodec.nn.transformer import TransformerConfig


def bursts(samples, seed=0):
    """Noise that is loud and soft for a tenth of a second each."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.rand(1, samples // 1600 + 1, generator=generator).repeat_interleave(1600, dim=1)
    return 0.2 * level[:, :samples] * torch.randn(1, samples, generator=generator)


@pytest.mark.parametrize("samples", [1, 159, 1279, 1280, 1281, 40_001])
def test_a_clip_of_any_length_comes_back_as_long(spectral, samples):
    audio = bursts(samples)
    for choice in ({}, {"threshold": 1.0}, {"frame_rate": 4.0}, {"num_codebooks": 0}):
        tokens = spectral.encode(audio, **choice)
        assert int(tokens.durations.sum()) == -(-samples // 1280)
        decoded = spectral.decode(tokens)
        assert decoded.shape == audio.shape
        assert decoded.isfinite().all()
        assert decoded.abs().max() <= 1


@pytest.mark.parametrize("max_duration", [2, 8, 30, None])
def test_any_cap_may_be_asked_for(spectral, max_duration):
    audio = 0.0 * bursts(60 * 1280)  # silence: tokens as long as they may be
    tokens = spectral.encode(audio, threshold=0.0, max_duration=max_duration, windows=None)
    assert int(tokens.durations.max()) == (60 if max_duration is None else max_duration)
    assert spectral.decode(tokens).shape == audio.shape


@pytest.mark.parametrize("piece", [1, 64])
def test_pieces_of_a_long_clip_give_the_whole(spectral, piece, monkeypatch):
    monkeypatch.setattr(chunked, "PIECE_FRAMES", piece)
    audio, windows = bursts(60_001), Windows(1.0, 0.3)
    for choice in ({"threshold": 0.7}, {"frame_rate": 5.0, "num_codebooks": 2}):
        tokens = spectral.encode(audio, windows=None, margins=True, **choice)
        pieces = spectral.encode(audio, windows=windows, **choice)
        if tokens != pieces:
            found = compare_codes(tokens, pieces)
            assert not any(part.flips(above=1e-5) for part in (found.boundaries, found.semantic, found.acoustic))
        decoded = spectral.decode(tokens, windows=windows)
        torch.testing.assert_close(decoded, spectral.decode(tokens, windows=None), atol=2e-5, rtol=0)


def test_the_latency_of_a_stream_is_what_the_layers_look_ahead(spectral):
    """Half a mel window, the ConvNeXt blocks of either rate, and the windows of the inverse STFT."""
    blocks = 3 * 320 + 3 * 1280  # one block of each rate, three steps to either side
    assert spectral.encoder.lookahead == (1024 - 320) // 2 + blocks
    assert spectral.decoder.lookahead * 1280 >= blocks + 1


def test_a_saved_model_is_the_same(spectral, tmp_path):
    spectral.save_pretrained(tmp_path)
    loaded = flexicodec.load(tmp_path)
    assert loaded.config == spectral.config
    assert loaded.fingerprint == spectral.fingerprint
    audio = bursts(20_000)
    tokens = spectral.encode(audio)
    assert loaded.encode(audio) == tokens
    assert torch.equal(loaded.decode(tokens), spectral.decode(tokens))
    only_decodes = flexicodec.load(tmp_path, parts="decode")
    assert torch.equal(only_decodes.decode(tokens), spectral.decode(tokens))
    assert flexicodec.load(tmp_path, parts="encode").encode(audio) == tokens


def test_sizes_of_the_decoder_do_not_rename_tokens(spectral):
    acoustic, merging = spectral.config.acoustic, spectral.config.merging
    wider = replace(
        spectral.config,
        acoustic=replace(acoustic, decoder=replace(acoustic.decoder, fast_dim=20), istft_window=1280),
        merging=replace(merging, acoustic_aggregator=replace(merging.acoustic_aggregator, unmerge_dim=9)),
    )
    other = replace(spectral.config, acoustic=replace(acoustic, num_mels=21))

    def settings(config):
        with torch.device("meta"):
            return FlexiCodec(config).token_settings()

    assert settings(wider) == spectral.token_settings()
    assert settings(other) != spectral.token_settings()
    assert settings(other)["acoustic"]["kind"] == "SpectralConfig"


def test_keys_choose_the_kind_of_part():
    plain = {"geometry": "whole", "acoustic": {"num_mels": 64}}
    plain["merging"] = {"semantic_aggregator": {"num_layers": 2}, "acoustic_aggregator": {"positions": 8}}
    config = from_dict(FlexiCodecConfig, plain)
    assert isinstance(config.acoustic, SpectralConfig)
    assert isinstance(config.merging.semantic_aggregator, TransformerConfig)
    assert isinstance(config.merging.acoustic_aggregator, PositionConfig)
    assert from_dict(FlexiCodecConfig, to_dict(config)) == config
    assert isinstance(from_dict(FlexiCodecConfig, {"acoustic": {"latent_dim": 64}}).acoustic, AcousticConfig)
    with pytest.raises(ValueError, match=r"unknown key 'acoustic.num_mel' \(SpectralConfig\); did you mean 'num_mels'"):
        from_dict(FlexiCodecConfig, {"geometry": "whole", "acoustic": {"num_mel": 64, "hop": 320}})
    with pytest.raises(ValueError, match="cannot go with a SpectralConfig for acoustic; choose geometry 'whole'"):
        from_dict(FlexiCodecConfig, {"acoustic": {"num_mels": 64}})


@pytest.mark.parametrize(
    ("semantic", "acoustic", "positions"),
    [
        (None, None, None),
        (PositionConfig(4), None, 4),
        (None, PositionConfig(6), 6),
        (PositionConfig(4), PositionConfig(6), 6),  # one unmerger serves the sum of both streams
        (PositionConfig(4), PositionConfig(6, unmerge_dim=None), 4),
    ],
)
def test_one_unmerger_serves_both_streams(spectral, semantic, acoustic, positions):
    merging = MergingConfig(semantic_aggregator=semantic, acoustic_aggregator=acoustic)
    with torch.device("meta"):
        unmerger = FlexiCodec(replace(spectral.config, merging=merging)).unmerger
    assert isinstance(unmerger, Repeater if positions is None else PositionUnmerger)
    assert positions is None or unmerger.positions == positions


def test_decoding_in_half_precision_is_near(spectral):
    tokens = spectral.encode(bursts(30_000))
    exact, near = spectral.decode(tokens), spectral.decode(tokens, precision="bfloat16")
    assert near.dtype == torch.float32
    assert not torch.equal(exact, near)
    assert (exact - near).square().mean() < 0.01 * exact.square().mean()


def test_8_bits_store_a_rounded_model_of_its_own_name(spectral, tmp_path):
    folder = spectral.save_pretrained(tmp_path / "a", torch.int8)
    rounded = flexicodec.load(folder)
    assert rounded.fingerprint == rounded.compute_fingerprint() != spectral.fingerprint
    # Rows are off by half of their largest value's 127th part at most; what is no matrix is stored in half precision.
    for name, value in spectral.state_dict().items():
        other = rounded.state_dict()[name]
        step = value.abs().amax(dim=-1, keepdim=True) / 127 if value.ndim > 1 else torch.tensor(0.0)
        assert ((other - value).abs() <= step / 2 + value.abs() * 1e-3 + 1e-7).all(), name
    whole = spectral.save_pretrained(tmp_path / "b", torch.float16)
    sizes = [(each / "model.safetensors").stat().st_size for each in (folder, whole)]
    assert sizes[0] < sizes[1]  # half of it where rows are long
    # Rounding what is rounded changes nothing but the last bits.
    again = flexicodec.load(rounded.save_pretrained(tmp_path / "c", torch.int8))
    for name, value in rounded.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=1e-6, atol=1e-9)
