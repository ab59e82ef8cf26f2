"""The code of docs/integrations.md runs, and its links lead somewhere."""

import re

import pytest


@pytest.fixture
def guide(pytestconfig):
    return (pytestconfig.rootpath / "docs/integrations.md").read_text()


def test_every_block_of_code_runs(guide, tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path))
    blocks = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, "docs/integrations.md", "exec"), {"__name__": "guide"})


def test_links_lead_somewhere(guide, pytestconfig):
    for target in re.findall(r"\]\(([^)#:]+)[)#]", guide):
        assert (pytestconfig.rootpath / "docs" / target).exists(), target
