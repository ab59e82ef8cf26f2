"""docs/lm.md: its code runs as written, and it names every layout and preset."""

import re

import pytest

from flexicodec.lm.layouts import SEQUENCES
from flexicodec.lm.packing import pack
from flexicodec.lm.presets import PRESETS
from tests.lm.drawn import FLEXI, make_folder, random_clips


@pytest.fixture
def guide(pytestconfig):
    return (pytestconfig.rootpath / "docs/lm.md").read_text()


def test_every_layout_and_preset_is_named(guide):
    for name in (*SEQUENCES, *PRESETS):
        assert f"| `{name}` |" in guide, name


def test_links_lead_somewhere(guide, pytestconfig):
    for target in re.findall(r"\]\(([^)#]+)", guide):
        assert (pytestconfig.rootpath / "docs" / target).exists(), target


@pytest.mark.slow
def test_its_code_runs(guide, tmp_path, monkeypatch):
    clips = random_clips(1, 40, FLEXI, 0, longest=30)
    pack(make_folder(tmp_path / "tokens", [clips], num_codebooks=0), tmp_path / "packed")
    monkeypatch.chdir(tmp_path)
    page = {"tokens": clips[0]}
    blocks = re.findall(r"^```python\n(.*?)^```", guide, flags=re.MULTILINE | re.DOTALL)
    for block in blocks:
        exec(block.replace("row_length=2048", "row_length=128"), page)
    assert page["texts"] == [[11], [12, 13], [14]]
    assert page["again"] == clips[0]
    assert page["loss"].isfinite()
