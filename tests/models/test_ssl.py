"""Self-supervised encoders with random weights: what transformers hears, in batches as alone, and codecs on top."""

import json
from dataclasses import asdict, fields, replace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import flexicodec
from flexicodec import collate
from flexicodec.config import from_dict, to_dict
from flexicodec.models.flexicodec.checkpoint import load_exactly
from flexicodec.models.flexicodec.config import FlexiCodecConfig
from flexicodec.models.flexicodec.semantic import SanmConfig, SemanticEncoder
from flexicodec.models.flexicodec.ssl import CLASSES, SSLConfig, SSLSettings, ssl_state

TINY = SSLSettings(
    hidden_size=24,
    num_attention_heads=4,
    intermediate_size=40,
    conv_dim=(12,) * 7,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4,
    num_buckets=32,
    max_bucket_distance=40,
)
PLAIN = replace(TINY, num_buckets=320, max_bucket_distance=800)  # for those who know no buckets
LARGE = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}  # habits of the large models
DEPTH = 3
KINDS = [
    SSLConfig("hubert", 2, False, PLAIN),
    SSLConfig("hubert", 2, True, replace(PLAIN, **LARGE)),
    SSLConfig("hubert", 1, True, replace(PLAIN, feat_extract_norm="layer")),
    SSLConfig("hubert", 3, False, replace(PLAIN, do_stable_layer_norm=True)),
    SSLConfig("hubert", 2, False, replace(PLAIN, conv_pos_batch_norm=True, feat_proj_layer_norm=False)),
    SSLConfig("hubert", 0, True, PLAIN),
    SSLConfig("hubert", 0, False, replace(PLAIN, **LARGE)),
    SSLConfig("wavlm", 3, False, TINY),
    SSLConfig("wavlm", 2, True, replace(TINY, **LARGE)),
    SSLConfig("wavlm", 0, False, TINY),
    SSLConfig("wav2vec2", 2, True, PLAIN),
    SSLConfig("wav2vec2", 3, True, replace(PLAIN, **LARGE)),
]


def name(config):
    return f"{config.model_type}-{config.layer}-{config.settings.feat_extract_norm}" + (
        "-stable" * config.settings.do_stable_layer_norm + "-batch" * config.settings.conv_pos_batch_norm
    )


every_kind = pytest.mark.parametrize("config", KINDS, ids=name)


@torch.no_grad()
def model_of(config, head="Model"):
    """Transformers' model with random weights at which everything matters: fresh ones have norms of 1 and no biases."""
    kind = CLASSES[config.model_type]
    settings = getattr(transformers, f"{kind}Config")(**asdict(config.settings), num_hidden_layers=DEPTH)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, kind + head)(settings).eval()
        for key, weight in [*model.named_parameters(), *model.named_buffers()]:
            if weight.ndim == 1 and weight.is_floating_point():
                weight.copy_(
                    0.5 + torch.rand_like(weight) if "var" in key or "norm" in key else 0.3 * torch.randn_like(weight)
                )
            elif "original0" not in key and weight.is_floating_point():
                weight.mul_(3.0)
    return model


@pytest.fixture
def saved(tmp_path):
    """Save a model in transformers' layout, as its own tools do."""

    def save(config, head="Model"):
        model = model_of(config, head)
        model.save_pretrained(tmp_path)
        extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=config.normalise)
        extractor.save_pretrained(tmp_path)
        return tmp_path, getattr(model, config.model_type, model)

    return save


def encoder_of(folder, config):
    with torch.device("meta"):
        encoder = config.build()
    load_exactly(encoder, ssl_state(folder, config))
    return encoder


def noisy(*lengths, seed=0):
    """Clips of hiss that swells, none around zero."""
    generator = torch.Generator().manual_seed(seed)
    return [0.1 * torch.randn(n, generator=generator) * torch.linspace(0.2, 2, n) + 0.05 for n in lengths]


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=2e-4)


@every_kind
def test_it_hears_what_transformers_hears(config, saved):
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


def test_without_the_masks_padding_would_be_heard():
    """The guard of the test above: transformers itself, given the mask, hears padding through the norm over time."""
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


@pytest.mark.parametrize("family", CLASSES)
def test_our_defaults_are_those_of_transformers(family):
    theirs = getattr(transformers, f"{CLASSES[family]}Config")()
    for each in fields(SSLSettings):
        assert getattr(theirs, each.name, each.default) == each.default


# Folders


@pytest.mark.parametrize("config", [KINDS[0], KINDS[8]], ids=name)
def test_heads_and_older_files_are_understood(config, saved):
    folder, _ = saved(config, "ForCTC")
    held = load_file(folder / "model.safetensors")
    expected = ssl_state(folder, config)
    (folder / "model.safetensors").unlink()
    older = {"original0": "weight_g", "original1": "weight_v"}  # names before torch had parametrisations
    for new, old in older.items():
        (key,) = [key for key in held if key.endswith(new)]
        held[key.replace(f"parametrizations.weight.{new}", old)] = held.pop(key)
    torch.save(held, folder / "pytorch_model.bin")
    found = ssl_state(folder, config)
    assert found.keys() == expected.keys() == config.build().state_dict().keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert any(key.startswith("lm_head") for key in held)


def test_half_precision_is_read_as_float32(saved):
    folder, _ = saved(KINDS[0])
    held = load_file(folder / "model.safetensors")
    save_file({key: value.half() for key, value in held.items()}, folder / "model.safetensors")
    assert {value.dtype for value in ssl_state(folder, KINDS[0]).values()} == {torch.float32}


def edit(path, **changes):
    held = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in held.items() if value is not None}))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"model_type": "bert"}, "model_type 'bert', expected hubert, wavlm, wav2vec2"),
        ("config.json", {"num_hidden_layers": 1}, "layer is 2, but the model in .* has 1 blocks; expected 0 to 1"),
        ("config.json", {"adapter_attn_dim": 8}, "attention adapters"),
        ("config.json", {"num_attention_heads": 2}, "not the one in the config: num_attention_heads is 2, not 4"),
        ("config.json", {"hidden_size": "24"}, "hidden_size is '24'"),
        ("preprocessor_config.json", {"sampling_rate": 8000}, "hears audio at 8000 Hz, expected 16000"),
        ("preprocessor_config.json", {"do_normalize": True}, "not the one in the config: normalise is True, not False"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(file, changes, message, saved):
    folder, _ = saved(KINDS[0])
    edit(folder / file, **changes)
    with pytest.raises(ValueError, match=message):
        ssl_state(folder, KINDS[0])


def test_what_a_folder_lacks_is_named(saved, tmp_path):
    with pytest.raises(ValueError, match=r"there is no .*elsewhere/config\.json; expected a local folder"):
        SSLConfig.from_folder(tmp_path / "elsewhere", 1)
    folder, _ = saved(KINDS[0])
    weights = load_file(folder / "model.safetensors")
    gone, other = "encoder.layers.1.attention.q_proj.weight", "encoder.layers.0.attention.r_proj.weight"
    save_file(
        {key: value for key, value in weights.items() if key != gone} | {other: torch.zeros(1)},
        folder / "model.safetensors",
    )
    with pytest.raises(ValueError, match=f"missing: {gone}; unknown: {other}"):
        ssl_state(folder, KINDS[0])
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"no preprocessor_config\.json, which says how .* pass normalise="):
        SSLConfig.from_folder(folder, 2)
    assert SSLConfig.from_folder(folder, 2, normalise=False) == KINDS[0]
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"holds no model\.safetensors and no pytorch_model\.bin"):
        ssl_state(folder, KINDS[0])
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        ssl_state(folder, KINDS[0])


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


def test_a_codec_listens_with_it(codec, speech):
    tokens = codec.encode(speech[0], frame_rate=5.0)
    assert float(tokens.frame_rates[0]) == pytest.approx(5.0, abs=0.3)
    assert len(tokens.semantic.unique()) > 4
    assert codec.decode(tokens).shape == speech[0].shape
    for samples in (1, 399, 1279, 1281):
        clip = speech[0][:, :samples]
        assert codec.decode(codec.encode(clip)).shape == clip.shape


def test_frames_are_means_of_four(codec, speech):
    audio = speech[0][:, : 1280 * 20]
    heard, _ = codec.semantic_encoder(audio, torch.tensor([audio.shape[1]]))
    assert heard.shape[2] == 79  # the last of 80 would need samples behind the end
    semantic = codec.features(audio).semantic
    close(semantic[..., :19], heard[..., :76].unflatten(-1, (19, 4)).mean(-1))
    close(semantic[..., 19], (heard[..., 76:].sum(-1) + heard[..., -1]) / 4)


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


# Configs


def test_configs_survive_json():
    for config in KINDS:
        whole = FlexiCodecConfig(geometry="whole", semantic_encoder=config)
        assert from_dict(FlexiCodecConfig, json.loads(json.dumps(to_dict(whole)))) == whole
    assert isinstance(from_dict(FlexiCodecConfig, {"semantic_encoder": {"dim": 8}}).semantic_encoder, SanmConfig)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ({"model_type": "hubert", "layr": 3}, "unknown key 'semantic_encoder.layr' .*did you mean 'layer'"),
        ({"model_type": "hubart", "layer": 3}, "semantic_encoder.model_type is 'hubart'; .*did you mean 'hubert'"),
        ({"model_type": "hubert"}, "missing required key 'semantic_encoder.layer' of SSLConfig"),
        ({"model_type": "hubert", "layer": -1}, "semantic_encoder: layer is -1"),
        (
            {"model_type": "hubert", "layer": 1, "settings": {"hidden_sise": 4}},
            "unknown key 'semantic_encoder.settings.hidden_sise' .*did you mean 'hidden_size'",
        ),
        (
            {"model_type": "hubert", "layer": 1, "settings": {"hidden_size": 100}},
            "semantic_encoder.settings: 12 attention heads do not divide hidden_size 100",
        ),
        ({"model_type": "wavlm", "layer": 1, "settings": {"conv_dim": [8]}}, "have 1, 7 and 7 values"),
        (
            {"model_type": "wavlm", "layer": 1, "settings": {"conv_stride": [5, 4, 4, 4, 4, 2, 2]}},
            "need [0-9]+ samples for a frame; expected at most 1280",
        ),
        (
            {"model_type": "hubert", "layer": 1, "settings": {"num_buckets": 8}},
            "settings.num_buckets is 8, which hubert does not know; it belongs to wavlm",
        ),
        ({"num_layer": 3, "dim": 8}, "unknown key 'semantic_encoder.num_layer' .*did you mean 'num_layers'"),
        ({"num_layers": "3"}, "semantic_encoder.num_layers is '3'"),
    ],
)
def test_slips_in_configs_are_named(encoder, message):
    with pytest.raises(ValueError, match=message):
        from_dict(FlexiCodecConfig, {"geometry": "whole", "semantic_encoder": encoder})


def test_only_whole_frames_go_with_it(make_codec):
    with pytest.raises(ValueError, match="geometry 'released' counts the frames of SAN-M .*choose geometry 'whole'"):
        FlexiCodecConfig(semantic_encoder=KINDS[0])
    with pytest.raises(ValueError, match="geometry 'released' counts the frames of SAN-M .*SSLEncoder"):
        make_codec("released", KINDS[0].build())
    with pytest.raises(ValueError, match="the encoder was built from SSLConfig.* make them the same"):
        make_codec("whole", KINDS[0].build())
    with pytest.raises(ValueError, match="model_type is 'hubart', expected one of hubert, wavlm, wav2vec2"):
        SSLConfig("hubart", 1)
