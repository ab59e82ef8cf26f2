"""`load` of names, runs, checkpoints and exports: each is opened, or refused with what to do."""

import json

import pytest
import torch

import flexicodec
from flexicodec.tokens import Tokens

REFUSED = [
    ("flexicodec-mni", "did you mean flexicodec-mini"),
    ("mini", "did you mean flexicodec-mini"),
    ("FlexiCodec_Mini", "did you mean flexicodec-mini"),
    ("recognizer-mini", r"recogniser and no codec: flexicodec.asr.Recognizer.load\('recognizer-mini'\)"),
    ("mini-onnx", r"holds exported graphs; flexicodec.export.runtime.load_exported\('mini-onnx'\) runs them"),
    ("runs/going/checkpoints/step-0000100/average.safetensors", "is a checkpoint .* load takes the run's folder"),
    ("runs/going/checkpoints/step-0000100", "is a checkpoint .* init_from of another run takes the checkpoint"),
    ("runs/going", "has not written its model yet"),
    ("runs/goign", r"runs/goign is missing here \(did you mean runs/going\?\)"),
]


@pytest.fixture
def files(tmp_path, monkeypatch, whole):
    """Folders of an export, of a run that goes on and of one that has ended."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "mini-onnx").mkdir()
    (tmp_path / "mini-onnx" / "export.json").write_text(json.dumps({"layout": 1}))
    checkpoint = tmp_path / "runs" / "going" / "checkpoints" / "step-0000100"
    checkpoint.mkdir(parents=True)
    (checkpoint / "checkpoint.json").write_text("{}")
    (checkpoint / "average.safetensors").write_bytes(b"")
    whole.save_pretrained(tmp_path / "runs" / "mp" / "model")
    (tmp_path / "runs" / "mp" / "checkpoints").mkdir()


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(("model", "match"), REFUSED)
def test_what_is_no_model_says_what_it_is(model, match):
    with pytest.raises(ValueError, match=match):
        flexicodec.load(model)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("path", ["runs/mp", "runs/mp/model", "runs/mp/"])
def test_a_run_is_its_model_and_gives_it_its_name(path, whole):
    codec = flexicodec.load(path)
    assert codec.fingerprint == whole.fingerprint
    assert codec.format.model == "mp"


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "gpu"])
def test_a_device_that_is_not_there_is_named_before_loading(device):
    if device == "cuda" and torch.cuda.is_available():
        return
    with pytest.raises(ValueError, match=f"device '{device}' cannot be used"):
        flexicodec.load("no-such-model", device=device)


def test_saving_into_a_missing_folder_names_it(whole, tmp_path):
    tokens = Tokens([1], [[2]], [1], format=whole.format)
    for save in (tokens.save, whole.streaming_decoder().state.save):
        with pytest.raises(FileNotFoundError, match=r"cannot write .*missing/a: the folder .*missing does not exist"):
            save(tmp_path / "missing" / "a")


def test_semantic_parts_name_the_remedy(whole, tmp_path):
    whole.save_pretrained(tmp_path / "model")
    codec = flexicodec.load(tmp_path / "model", parts="semantic")
    audio = 0.1 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="without its encoder; it encodes semantic codes alone, num_codebooks=0"):
        codec.encode(audio)
    assert codec.encode(audio, num_codebooks=0) == whole.encode(audio, num_codebooks=0)
