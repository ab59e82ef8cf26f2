"""Folders in transformers' layout: required, optional and missing weights."""

import json
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file

from flexicodec.encoders.base import SSLConfig
from flexicodec.encoders.ssl import ssl_state
from tests.encoders.self_supervised import KINDS, name, save_model


@pytest.fixture
def saved(tmp_path):
    """Save a model in transformers' layout."""
    return partial(save_model, tmp_path)


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
        ("preprocessor_config.json", {"sampling_rate": 8000}, "takes audio at 8000 Hz, expected 16000"),
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
