"""The site builds, and a warning fails it."""

import os
import re
import subprocess
import sys

import pytest

from tests.docs.pages import ROOT


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(ROOT / "mkdocs.yml")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run([*command, "--site-dir", str(tmp_path)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    # What mkdocs only remarks on: links to pages that it leaves out.
    assert not re.findall(r".*contains a link to.*", done.stderr)
    for page in ("index.html", "findings/index.html", "api/codecs/index.html", "cards/flexicodec-mini/index.html"):
        assert "</html>" in (tmp_path / page).read_text()
    concepts = (tmp_path / "concepts/index.html").read_text()
    assert concepts.count('<div class="picture">') == 4
    assert 'id="flexicodec.Tokens"' in (tmp_path / "api/tokens/index.html").read_text()
