"""A file or folder that is not there is called missing, by every way in, and its nearest neighbour is named."""

import pytest
import torch
from safetensors.torch import save_file

import flexicodec
from flexicodec.asr import Recognizer
from flexicodec.cli import main
from flexicodec.weights import read_weights

# What is given, and the neighbour that is meant, in a folder of the files below.
FILES = ("talk.flxc", "model.nemo", "weights.safetensors", "trained/config.json")
MODELS = {
    "x.nemo": None,
    "modle.nemo": "model.nemo",
    "./modle.nemo": "model.nemo",
    "trained/model.nemo": None,
    "nowhere/x.nemo": None,
    "nvidia/nemo-nano-codec-22khz-1.78kbps-12.5fps.nemo": None,
    "weigths.safetensors": "weights.safetensors",
    "trained/confg.json": "trained/config.json",
    "x.pt": None,
    "talc.flxc": "talk.flxc",
    "trainde": "trained",
    "./trainde": "trained",
    "nowhere/at/all": None,
    "~/nowhere": None,
    "flexicodec-mimi": "flexicodec-mini",
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


@pytest.mark.parametrize(("given", "meant"), MODELS.items(), ids=MODELS)
def test_models(given, meant, capsys):
    said = f"{given.removeprefix('./')} is missing" + (f" (did you mean {meant}?)" if meant else "")
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (its words are checked below)
        flexicodec.load(given)
    assert said in str(caught.value)
    assert main(["decode", "talk.flxc", "-o", "talk.wav", "--model", given]) == 2
    assert said in capsys.readouterr().err
    assert main(["info", given]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("given", ["talc.flxc", "./talc.flxc"])
def test_token_files(given, capsys):
    said = "talc.flxc is missing (did you mean talk.flxc?)"
    with pytest.raises(FileNotFoundError) as caught:
        flexicodec.Tokens.load(given)
    assert said in str(caught.value)
    assert main(["decode", given, "-o", "talk.wav"]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("given", ["tokens", "tokens/talk.flxc"])
def test_folders_of_token_files(given, capsys):
    assert main(["decode", given, "-o", "out/"]) == 1
    assert f"{given} is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (lambda: flexicodec.load("trained", filename="x.safetensors"), "trained/x.safetensors is missing"),
        (lambda: Recognizer.load("trainde"), r"the folder trainde is missing \(did you mean trained\?\)"),
        (lambda: read_weights("weigths.safetensors"), r"missing \(did you mean weights.safetensors\?\)"),
        (lambda: flexicodec.load("talk.flxc"), "talk.flxc is a token file and no model"),
        (lambda: flexicodec.Tokens.load("trained"), "trained is a folder"),
    ],
)
def test_parts_of_a_model(load, message):
    with pytest.raises(ValueError, match=message):
        load()


def test_sensevoice(folder):
    (folder / "upstream").mkdir()
    save_file({"a": torch.zeros(1)}, folder / "upstream" / "12hz_v1_half.safetensors")
    for given in ("modle.pt", "./SenseVoice", "nowhere/model.pt"):
        with pytest.raises(ValueError, match=f"sensevoice='{given}': .* is missing"):
            flexicodec.load("upstream", sensevoice=given)
