"""docs/lm.md names every layout and preset; tests/docs runs its code."""

from flexicodec.lm.layouts import SEQUENCES
from flexicodec.lm.presets import PRESETS


def test_every_layout_and_preset_is_named(pytestconfig):
    guide = (pytestconfig.rootpath / "docs/lm.md").read_text()
    for name in (*SEQUENCES, *PRESETS):
        assert f"| `{name}` |" in guide, name
