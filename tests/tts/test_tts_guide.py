"""The code, commands and configs in docs/tts.md run as written, with tiny models in place of the named ones."""

import re

import pytest

import flexicodec
from flexicodec.config import apply_overrides, from_dict, load_yaml
from flexicodec.models.tts import generation
from flexicodec.training.tts.config import SpeechTrainingConfig
from flexicodec.tts import text_to_speech
from flexicodec.tts.codec_tts import CodecTTS
from tests.tts.tiny_models import make_models


@pytest.fixture
def guide(pytestconfig):
    return (pytestconfig.rootpath / "docs/tts.md").read_text()


def test_its_code_runs(guide, whole, release, letters, speech, tmp_path, monkeypatch):
    load = flexicodec.load_tts
    models = {
        "RELEASE": load(release, front_end=letters),
        "runs/tts-small/model": CodecTTS(make_models(whole), whole),
    }
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(flexicodec, "load_tts", lambda model: models[model])
    short = generation.GenerationConfig(min_tokens=2, max_tokens=2)
    monkeypatch.setitem(text_to_speech.TextToSpeech.synthesize.__kwdefaults__, "generation", short)
    flexicodec.write_audio("ref.wav", speech[0], 16_000)
    page = {"flexicodec": flexicodec}
    blocks = re.findall(r"^```python\n(.*?)^```", guide, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(block, page)
        assert (tmp_path / "out.wav").is_file()
    assert [page[name].info["seed"] for name in ("first", "second")] == [1, 2]
    assert (tmp_path / "hello.flxc").is_file()


def test_its_commands_are_configs(guide, pytestconfig):
    commands = re.findall(r"^flexicodec train-tts (\S+\.yaml) ?(.*)$", guide, flags=re.MULTILINE)
    assert len(commands) == 2
    for config, overrides in commands:
        held = apply_overrides(load_yaml(pytestconfig.rootpath / config), overrides.split())
        assert from_dict(SpeechTrainingConfig, held).codec == "flexicodec-mini"


def test_links_lead_somewhere(guide, pytestconfig):
    for target in re.findall(r"\]\(([^)#]+)", guide):
        if not target.startswith("http"):
            assert (pytestconfig.rootpath / "docs" / target).exists(), target
