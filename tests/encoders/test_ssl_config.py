"""Configs of self-supervised encoders: transformers' defaults, and errors that name the mistake."""

import json
from dataclasses import fields

import pytest
import transformers

from flexicodec.config import from_dict, to_dict
from flexicodec.encoders.base import SanmConfig, SSLConfig, SSLSettings
from flexicodec.encoders.ssl import CLASSES
from flexicodec.models.flexicodec.config import FlexiCodecConfig
from tests.encoders.self_supervised import KINDS


@pytest.mark.parametrize("family", CLASSES)
def test_our_defaults_are_those_of_transformers(family):
    theirs = getattr(transformers, f"{CLASSES[family]}Config")()
    for each in fields(SSLSettings):
        assert getattr(theirs, each.name, each.default) == each.default


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
