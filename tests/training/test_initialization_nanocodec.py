"""Weights for a NanoCodec to start from: folders, NeMo's archives, checkpoints, parts of them, and none at all."""

import logging
from dataclasses import replace

import pytest
import torch

import flexicodec
from flexicodec.models.nanocodec.config import with_causality
from flexicodec.models.nanocodec.model import NanoCodec
from flexicodec.quantize import GroupedFSQConfig
from flexicodec.training.config import InitConfig
from flexicodec.training.initialization import init_from
from flexicodec.training.trainer import CodecTrainer, train
from flexicodec.training.training_state import build_codec
from tests.models.test_convert_nemo import archive_of
from tests.training.recipes import NANO, nano_recipe


def fresh(config=NANO, seed=1):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NanoCodec(config)


def assert_filled(codec, expected, parts=("encoder", "decoder")):
    """These parts are the expected weights, and the others as they were."""
    before = fresh(codec.config).state_dict()
    for name, value in codec.state_dict().items():
        assert torch.equal(value, (expected if name.startswith(parts) else before)[name]), name


@pytest.fixture(scope="module")
def trained():
    return fresh(seed=2)


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    return trained.save_pretrained(tmp_path_factory.mktemp("trained"))


def plain(codec):
    """The same in NeMo's settings that the archive writer of the tests has: the default kernels."""
    config = codec.config
    return replace(
        config,
        encoder=replace(config.encoder, kernel_sizes=(3, 7, 11)),
        decoder=replace(config.decoder, kernel_sizes=(3, 7, 11)),
    )


def test_a_saved_model_or_an_archive_fills_everything(trained, folder, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    codec = fresh()
    init_from(codec, [InitConfig(str(folder))])
    assert_filled(codec, trained.state_dict())
    assert [record.levelname for record in caplog.records] == ["INFO"]

    released = fresh(plain(trained), seed=3)
    archive = archive_of(released, tmp_path / "model.nemo", naming="old")
    for source in (archive, tmp_path):
        codec = fresh(released.config)
        init_from(codec, [InitConfig(str(source))])
        for name, value in codec.state_dict().items():
            torch.testing.assert_close(value, released.state_dict()[name])


def test_a_checkpoint_or_a_run_gives_what_would_be_exported(manifest, tmp_path):
    config = nano_recipe(manifest, tmp_path / "run", steps=2)
    exported = flexicodec.load(train(config)).state_dict()
    for source in (tmp_path / "run" / "checkpoints" / "step-0000002", tmp_path / "run"):
        codec = fresh()
        init_from(codec, [InitConfig(str(source))])
        assert_filled(codec, exported)
    weights = tmp_path / "run" / "checkpoints" / "step-0000002" / "generator.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"the checkpoint .*step-0000002 is damaged"):
        init_from(fresh(), [InitConfig(str(weights.parent))])


def test_fine_tuning_starts_where_the_source_stopped(folder, trained, manifest, tmp_path):
    config = nano_recipe(manifest, tmp_path / "run", init_from=(InitConfig(str(folder)),))
    folded = CodecTrainer(config).state.export(tmp_path / "untrained", (1.0, 1.0), half=False)
    for name, value in flexicodec.load(folded).state_dict().items():
        torch.testing.assert_close(value, trained.state_dict()[name])


def test_parts_come_alone_and_other_settings_are_said(trained, folder, caplog):
    causal = with_causality(NANO, encoder=True, decoder=True)
    codec = fresh(causal)
    init_from(codec, [InitConfig(str(folder), ("encoder",))])
    assert_filled(codec, trained.state_dict(), ("encoder",))
    assert "made with other settings: encoder.causal, encoder.padding_mode" in caplog.text
    caplog.clear()
    init_from(fresh(replace(NANO, quantizer=GroupedFSQConfig(3, (4, 5)))), [InitConfig(str(folder))])
    assert "made with other settings: quantizer.levels" in caplog.text
    with pytest.raises(ValueError, match=r"no parts \['quantizer'\]; the model's are decoder, encoder"):
        init_from(fresh(), [InitConfig(str(folder), ("quantizer",))])


def test_what_does_not_fit_is_refused(folder, tmp_path, whole):
    wider = replace(NANO, quantizer=GroupedFSQConfig(4, (5, 4)))
    with pytest.raises(ValueError, match=r"decoder\.layers\.0\.weight is \(24, 6, 7\) instead of \(24, 8, 7\)"):
        init_from(fresh(wider), [InitConfig(str(folder))])
    with pytest.raises(ValueError, match="init_from cannot read 'nowhere': there is no model 'nowhere'"):
        init_from(fresh(), [InitConfig("nowhere")])
    other = whole.save_pretrained(tmp_path / "flexicodec")
    with pytest.raises(ValueError, match=r"lacks decoder\.|does not fit the model"):
        init_from(fresh(), [InitConfig(str(other))])


def test_nothing_is_needed(tmp_path):
    codec = build_codec(nano_recipe("none", tmp_path))
    init_from(codec, [])
    assert all(value.isfinite().all() for value in codec.state_dict().values())
