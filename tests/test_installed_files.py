"""Files of other packages: found without an import, and refused if they are not the pinned ones."""

import hashlib

import pytest

from flexicodec.installed_files import PinnedFile


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """Install a distribution by hand: importing it would fail."""
    (tmp_path / "some_weights").mkdir()
    (tmp_path / "some_weights" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "some_weights" / "net.bin").write_bytes(b"weights")
    info = tmp_path / "some_weights-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-weights\nVersion: 1.2\n")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "some_weights" / "net.bin"


def pinned(content=b"weights", path="some_weights/net.bin", distribution="some-weights==1.2"):
    return PinnedFile(distribution, path, hashlib.sha256(content).hexdigest())


def test_the_file_is_found(wheel):
    assert pinned().find() == wheel
    assert pinned().is_installed()


def test_another_content_is_refused_by_name(wheel):
    with pytest.raises(
        ValueError, match=r"net\.bin of some-weights 1\.2 has SHA-256 .* expected .* of some-weights==1\.2"
    ):
        pinned(b"other weights").find()


def test_another_version_may_lack_the_file(wheel):
    missing = pinned(path="some_weights/large.bin", distribution="some-weights==1.1")
    assert not missing.is_installed()
    with pytest.raises(ValueError, match=r"some-weights 1\.2 has no file some_weights/large\.bin; expected .*==1\.1"):
        missing.find()


def test_a_missing_package_is_one_sentence_with_the_command():
    missing = pinned(distribution="no-such-weights==1")
    assert not missing.is_installed()
    with pytest.raises(
        ImportError, match=r"^no-such-weights is not installed: pip install flexicodec-lab\[instruments\]$"
    ):
        missing.find()
