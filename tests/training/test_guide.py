"""The configs, commands and curves in docs/training.md match the code."""

import re

import pytest

from flexicodec.config import from_dict, load_yaml, overlay, parse_yaml
from flexicodec.training.config import TrainingConfig


@pytest.fixture
def guide(pytestconfig):
    return (pytestconfig.rootpath / "docs/training.md").read_text()


def test_every_overlay_is_a_config(guide, pytestconfig):
    blocks = re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL)
    assert len(blocks) > 4
    for block in blocks:
        settings = parse_yaml(block, "docs/training.md")
        named = pytestconfig.rootpath / settings.pop("base", "")
        base = named if named.is_file() else pytestconfig.rootpath / "configs/flexicodec/mini.yaml"
        assert from_dict(TrainingConfig, overlay(load_yaml(base), settings))


def test_links_lead_somewhere(guide, pytestconfig):
    for target in re.findall(r"\]\(([^)#]+)", guide):
        assert (pytestconfig.rootpath / "docs" / target).exists(), target
