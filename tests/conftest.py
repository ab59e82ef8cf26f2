"""The --goldens option of the parity suite."""

from pathlib import Path

import pytest


def pytest_addoption(parser):
    parser.addoption(
        "--goldens",
        metavar="DIR",
        type=Path,
        default=Path(__file__).parent / "data",
        help="folder searched for golden cases by tests/parity (default: the small set in tests/data)",
    )


@pytest.fixture(scope="session")
def goldens(pytestconfig):
    """The folder of golden cases."""
    folder = pytestconfig.getoption("--goldens")
    assert folder.is_dir(), f"--goldens {folder} is not a folder"
    return folder
