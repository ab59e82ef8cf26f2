"""Files of commit 3eceaf6 (tests/data/made-by-3eceaf6) still load and give the same tokens."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import flexicodec
from flexicodec.cli import main
from flexicodec.tokens import Tokens

FILES = Path(__file__).parent / "data" / "made-by-3eceaf6"
CLIP = FILES.parent / "speech" / "4970-29095-0008.flac"


def clip(codec, tokens):
    """Read the part of the clip that stored tokens were made from."""
    audio = flexicodec.read_audio(CLIP, sample_rate=codec.sample_rate)
    return audio[:, : int(tokens.audio_lengths)]


@pytest.mark.parametrize(
    ("model", "choices"),
    [
        ("flexicodec", {"threshold": 0.7}),
        ("nanocodec", {}),
    ],
)
def test_a_codec_gives_the_same_tokens_as_before(model, choices):
    stored = Tokens.load(FILES / f"{model}.flxc")
    codec = flexicodec.load(FILES / model)
    assert codec.fingerprint == codec.compute_fingerprint() == stored.format.fingerprint
    tokens = codec.encode(clip(codec, stored), **choices)
    assert tokens == stored
    assert tokens.info == stored.info


@pytest.mark.parametrize("model", ["flexicodec", "nanocodec", "flexicodec-mini"])
def test_a_token_file_is_written_as_it_was(model):
    file = FILES / f"{model}.flxc"
    assert Tokens.load(file).to_bytes() == file.read_bytes()


def test_tokens_of_the_first_mini_are_refused_by_its_name():
    with pytest.raises(ValueError, match=r"\(flexicodec-mini v1\).*flexicodec-mini v1 ships no more: encode the audio"):
        flexicodec.load("flexicodec-mini").decode(Tokens.load(FILES / "flexicodec-mini.flxc"))


def test_a_token_file_still_decodes_to_the_same_audio():
    audio = flexicodec.load(FILES / "flexicodec").decode(Tokens.load(FILES / "flexicodec.flxc"))
    np.testing.assert_allclose(audio[0].numpy(), np.load(FILES / "flexicodec.npy"), atol=1e-5)


def test_a_checkpoint_resumes_as_the_run_went_on(manifest, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shutil.copytree(FILES / "checkpoint" / "step-0000002", tmp_path / "run" / "checkpoints" / "step-0000002")
    config = json.loads((FILES / "checkpoint" / "step-0000002" / "config.json").read_text())
    config["output"] = str(tmp_path / "run")
    config["data"] |= {"manifest": [str(manifest)], "validation": str(manifest)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["train", str(tmp_path / "config.json")]) == 0

    def losses(path):
        rows = map(json.loads, path.read_text().splitlines())
        return {
            row["step"]: {k: v for k, v in row.items() if k.startswith("loss/")} for row in rows if "loss/mel" in row
        }

    expected = losses(FILES / "checkpoint" / "curves.jsonl")
    resumed = losses(tmp_path / "run" / "curves.jsonl")
    assert list(resumed) == [3, 4]
    for step, values in resumed.items():
        assert values == pytest.approx(expected[step], rel=1e-4)
