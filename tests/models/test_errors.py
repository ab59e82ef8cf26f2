"""Errors of public functions, and fingerprints that follow the weights."""

import copy
import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import flexicodec
from flexicodec import hub
from flexicodec.cli import main
from flexicodec.merging import ExactRate, Threshold, Uniform
from flexicodec.models.flexicodec.config import FlexiCodecConfig
from flexicodec.models.flexicodec.model import FlexiCodec


def test_the_fingerprint_follows_the_weights(whole):
    before = whole.fingerprint
    codebook = whole.acoustic_quantizer.quantizers[0].codebook.weight
    held = codebook.detach().clone()
    with torch.no_grad():
        codebook.mul_(1.5)
    assert whole.fingerprint != before
    with torch.no_grad():
        codebook.copy_(held)
    assert whole.fingerprint == before


def test_settings_that_only_concern_decoding_or_limits_do_not_rename_a_model(make_codec):
    whole = make_codec("whole")
    settings = whole.token_settings()
    merging = replace(whole.config.merging, threshold=0.123, max_duration=5)
    acoustic = replace(whole.config.acoustic, decoder_width=2 * whole.config.acoustic.decoder_width)
    whole.config = replace(whole.config, merging=merging, acoustic=acoustic, bottleneck=None)
    assert whole.token_settings() == settings
    whole.config = replace(whole.config, geometry="released")
    assert whole.token_settings() != settings


def test_defaults_are_left_out_of_the_name():
    with torch.device("meta"):
        codec = FlexiCodec(FlexiCodecConfig())
    parts = {"semantic_encoder", "acoustic", "merging", "semantic", "acoustic_quantizer", "bottleneck"}
    assert set(codec.token_settings()) == parts
    assert codec.token_settings()["semantic_encoder"] == {"kind": "SanmConfig", "front_end": {"kind": "FrontEndConfig"}}


def test_a_damaged_folder_is_refused_by_name(whole, tmp_path, capsys):
    whole.save_pretrained(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors cannot be read as weights"):
        flexicodec.load(tmp_path)
    assert main(["info", str(tmp_path)]) == 2
    assert "cannot be read as weights" in capsys.readouterr().err
    weights.write_bytes(data)
    config.write_text(json.dumps({"model_type": "flexicodec"}))
    with pytest.raises(ValueError, match="has no config and no fingerprint"):
        flexicodec.load(tmp_path)


def test_verify_notices_weights_that_were_changed_behind_its_back(whole, tmp_path, capsys):
    whole.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"fingerprint": "0123456789abcdef"}))
    assert main(["verify", str(tmp_path)]) == 1
    assert "not those that the fingerprint" in capsys.readouterr().out


@pytest.mark.parametrize("choice", [{"sensevoice": "somewhere"}, {"revision": "main"}])
def test_arguments_that_cannot_apply_are_refused(whole, tmp_path, choice):
    whole.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="of no use|belongs to a hub id"):
        flexicodec.load(tmp_path, **choice)


@pytest.mark.parametrize("channels", ["mix", "error"])
def test_rows_are_clips_and_never_channels(whole, channels):
    with pytest.raises(ValueError, match=r"give one clip of 2 channels as \[1, 2, 4000\]"):
        whole.encode(torch.zeros(2, 4000), channels=channels)
    assert len(whole.encode(torch.zeros(2, 4000))) == 2


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"threshold": 10**400}, "a number of 401 digits"),
        ({"frame_rate": 10**400}, "a number of 401 digits"),
        ({"max_duration": 2**80}, "None lifts the cap"),
        ({"sample_rate": 10**9}, "at most 1000000 Hz"),
        ({"sample_rate": 2**70}, "at most 1000000 Hz"),
        ({"policy": Uniform(100.0)}, "frame_rate is 100 Hz"),
        ({"policy": ExactRate(0.1)}, r"frame_rate is 0\.1 Hz"),
        ({"policy": Threshold}, "or a MergingPolicy"),
    ],
)
def test_numbers_out_of_range(whole, choice, message):
    with pytest.raises(ValueError, match=message):
        whole.encode(torch.zeros(4000), **choice)


def test_a_policy_and_its_name_are_one_thing(whole, speech):
    by_name = whole.encode(speech[0], frame_rate=6.25, policy="uniform")
    by_object = whole.encode(speech[0], policy=Uniform(6.25))
    assert by_name == by_object
    assert by_name.info == by_object.info


def test_a_fixed_rate_model_accepts_what_it_does(make_codec):
    codec = make_codec("whole", merging=None)
    audio = torch.zeros(5000)
    tokens = codec.encode(audio)
    assert codec.encode(audio, threshold=1.0) == tokens
    assert codec.encode(audio, frame_rate=12.5) == tokens
    for choice in ({"threshold": 0.9}, {"frame_rate": 6.25}):
        with pytest.raises(ValueError, match="fixed rate of 12.5 Hz"):
            codec.encode(audio, **choice)


def test_sensevoice_comes_from_modelscope_where_its_name_says_so(tmp_path, monkeypatch):
    asked = []

    def snapshot_download(repo, revision=None, allow_patterns=None):
        asked.append((repo, allow_patterns))
        (tmp_path / "model.pt").write_bytes(b"")
        return str(tmp_path)

    monkeypatch.setitem(sys.modules, "modelscope", SimpleNamespace(snapshot_download=snapshot_download))
    assert hub._sensevoice_file("iic/SenseVoiceSmall") == tmp_path / "model.pt"
    assert asked == [("iic/SenseVoiceSmall", ["model.pt", "am.mvn"])]
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(ValueError, match=r"install flexicodec-lab\[funasr\]"):
        hub._sensevoice_file("iic/SenseVoiceSmall")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_refused_in_words(codec, dtype):
    other = copy.deepcopy(codec).to(dtype)
    with pytest.raises(ValueError, match="precision='bfloat16'"):
        other.encode(torch.randn(1, 16_000))


def test_a_model_that_was_made_in_inference_mode_works_in_and_out_of_it(codec, tmp_path):
    codec.save_pretrained(tmp_path)
    audio = torch.randn(1, 16_000)
    with torch.inference_mode():
        made = flexicodec.load(tmp_path)
        tokens = made.encode(audio, frame_rate=6.25)
    assert torch.equal(made.encode(audio, frame_rate=6.25).acoustic, tokens.acoustic)
    assert made.decode(tokens).shape == audio.shape


def test_semantic_tokens_alone_take_no_step_for_the_acoustic_ones(whole):
    called = []
    hooks = [
        part.register_forward_hook(lambda *_: called.append(1))
        for part in (whole.encoder, whole.acoustic_aggregator, whole.semantic_decoder_stack)
    ]
    tokens = whole.encode(torch.randn(1, 16_000), frame_rate=6.25, num_codebooks=0)
    for hook in hooks:
        hook.remove()
    assert not called
    assert tokens.acoustic.shape[1] == 0
