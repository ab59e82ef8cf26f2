"""Self-supervised encoders with random weights: the features of transformers, batches, and codecs with them."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import transformers

import flexicodec
from flexicodec import collate
from flexicodec.encoders.base import SemanticEncoder, SSLConfig
from flexicodec.encoders.ssl import ssl_state
from flexicodec.weights import load_exactly
from tests.encoders.self_supervised import KINDS, model_of, name, save_model

every_kind = pytest.mark.parametrize("config", KINDS, ids=name)


@pytest.fixture
def saved(tmp_path):
    """Save a model in transformers' layout."""
    return partial(save_model, tmp_path)


def encoder_of(folder, config):
    with torch.device("meta"):
        encoder = config.build()
    load_exactly(encoder, ssl_state(folder, config))
    return encoder


def noisy(*lengths, seed=0):
    """Clips of rising noise with an offset."""
    generator = torch.Generator().manual_seed(seed)
    return [0.1 * torch.randn(n, generator=generator) * torch.linspace(0.2, 2, n) + 0.05 for n in lengths]


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=2e-4)


@every_kind
def test_features_equal_those_of_transformers(config, saved):
    folder, model = saved(config)
    assert SSLConfig.from_folder(folder, config.layer) == config
    encoder = encoder_of(folder, config)
    (clip,) = noisy(9000)
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(folder)
    values = extractor(clip.numpy(), sampling_rate=16000, return_tensors="pt").input_values
    with torch.no_grad():
        expected = model(values, output_hidden_states=True).hidden_states[config.layer]
    features, lengths = encoder(clip[None], torch.tensor([9000]))
    assert lengths.tolist() == [expected.shape[1]]
    close(features, expected.transpose(1, 2))


@every_kind
def test_a_padded_batch_is_each_clip_alone(config, saved):
    encoder = encoder_of(saved(config)[0], config)
    clips = noisy(400, 16001, 5000, 1280, 16001)
    audio, lengths = collate(clips)
    hiss = torch.where(torch.arange(audio.shape[1]) < lengths[:, None], audio, torch.nan)
    features, frames = encoder(hiss, lengths)
    assert torch.equal(features, encoder(audio, lengths)[0])  # whatever the padding holds, to the bit
    for i, clip in enumerate(clips):
        alone, count = encoder(clip[None], lengths[i : i + 1])
        assert frames[i] == count[0] == (len(clip) - 400) // 320 + 1 == alone.shape[2]
        close(features[i : i + 1, :, : frames[i]], alone)
        assert not features[i, :, frames[i] :].any()
    padded_more, _ = encoder(torch.nn.functional.pad(audio, (0, 3000)), lengths)
    close(padded_more[..., : features.shape[2]], features)


def test_without_the_masks_padding_changes_the_features():
    """Check of the test above: transformers itself depends on padding through the norm over time, given the mask."""
    config = KINDS[0]
    model = model_of(config)
    audio, lengths = collate(noisy(16001, 5000))
    mask = (torch.arange(audio.shape[1]) < lengths[:, None]).long()
    with torch.no_grad():
        batch = model(audio, attention_mask=mask).last_hidden_state[1:, :14]
        alone = model(audio[1:, :5000]).last_hidden_state[:, :14]
    assert (batch - alone).abs().max() > 0.1


def test_it_is_a_frozen_semantic_encoder():
    encoder = KINDS[0].build()
    assert isinstance(encoder, SemanticEncoder)
    assert (encoder.dim, encoder.frame_rate) == (24, 50.0)
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert len(encoder.encoder.layers) == 2  # and not one more than is asked for


# Codecs


@pytest.fixture(scope="module", params=[KINDS[0], KINDS[1], KINDS[7]], ids=name)
def codec(request, make_codec, speech):
    """A tiny codec whose features are centred: those of random weights hardly leave their mean, and all codes agree."""
    codec = make_codec("whole", request.param)
    last = codec.semantic_encoder.encoder.layers[-1]
    bias = (
        last.feed_forward.output_dense.bias
        if request.param.settings.do_stable_layer_norm
        else last.final_layer_norm.bias
    )
    bias.sub_(codec.features(speech[0]).semantic.mean(dim=(0, 2)))
    return codec


def test_a_codec_encodes_with_it(codec, speech):
    tokens = codec.encode(speech[0], frame_rate=5.0)
    assert float(tokens.frame_rates[0]) == pytest.approx(5.0, abs=0.3)
    assert len(tokens.semantic.unique()) > 4
    assert codec.decode(tokens).shape == speech[0].shape
    for samples in (1, 399, 1279, 1281):
        clip = speech[0][:, :samples]
        assert codec.decode(codec.encode(clip)).shape == clip.shape


def test_frames_are_means_of_four(codec, speech):
    audio = speech[0][:, : 1280 * 20]
    encoder_features, _ = codec.semantic_encoder(audio, torch.tensor([audio.shape[1]]))
    assert encoder_features.shape[2] == 79  # the last of 80 would need samples behind the end
    semantic = codec.features(audio).semantic
    close(semantic[..., :19], encoder_features[..., :76].unflatten(-1, (19, 4)).mean(-1))
    close(semantic[..., 19], (encoder_features[..., 76:].sum(-1) + encoder_features[..., -1]) / 4)


def test_tokens_of_a_padded_batch_are_those_of_each_clip(codec, speech):
    clips = [speech[0][0, :20001], speech[1][0, :30000], speech[1][0, 4000:5281], speech[0][0, 9000:9400]]
    audio, lengths = collate(clips)
    together = codec.encode(audio, lengths, frame_rate=6.0)
    for i, clip in enumerate(clips):
        alone = codec.encode(clip, frame_rate=6.0)
        assert torch.equal(together[i].durations, alone.durations)
        assert torch.equal(together[i].semantic, alone.semantic)
        assert (together[i].acoustic == alone.acoustic).float().mean() > 0.99


def test_a_saved_codec_is_the_same_codec(codec, speech, tmp_path):
    codec.save_pretrained(tmp_path)
    state = torch.get_rng_state()
    loaded = flexicodec.load(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert loaded.config == codec.config
    assert loaded.fingerprint == codec.fingerprint == loaded.compute_fingerprint()
    tokens = codec.encode(speech[0], frame_rate=6.0)
    assert loaded.encode(speech[0], frame_rate=6.0) == tokens
    assert torch.equal(loaded.decode(tokens), codec.decode(tokens))
    codec.save_pretrained(tmp_path / "half", dtype=torch.float16)
    assert flexicodec.load(tmp_path / "half").fingerprint == codec.fingerprint


def test_the_layer_is_part_of_the_name(make_codec):
    one, two = (make_codec("whole", replace(KINDS[0], layer=layer)) for layer in (1, 2))
    assert one.token_settings()["semantic_encoder"]["kind"] == "SSLConfig"
    assert one.fingerprint != two.fingerprint


def test_training_leaves_it_frozen(codec, speech):
    before = codec.features(speech[0]).semantic
    codec.train()
    assert not any(module.training for module in codec.semantic_encoder.modules())
    assert torch.equal(codec.features(speech[0]).semantic, before)
    codec.eval()
