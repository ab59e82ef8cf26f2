"""The dry run of the GPU benchmark: every part runs on a tiny model and writes its rows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SPEED = Path(__file__).parents[1] / "experiments" / "speed"


def run(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(SPEED.parents[1]), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_every_part_runs_and_is_printed(tmp_path):
    parts = ["limits", "speed mini", "flips", "bulk mini", "profile mini", "compile mini"]
    run(SPEED / "gpu.py", "--output", tmp_path, "--device", "cpu", "--small", "--parts", *parts)
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert not [row for row in rows if "skipped" in row]
    assert {row["part"].split()[0] for row in rows} >= {part.split()[0] for part in parts}
    printed = run(SPEED / "table.py", tmp_path / "results.jsonl")
    for word in ("share of peak", "seconds to compile", "acoustic codes", "reading threads", "GPU busy"):
        assert word in printed


def test_a_part_that_fails_leaves_a_line_that_says_why(tmp_path):
    run(SPEED / "gpu.py", "--output", tmp_path, "--device", "abacus", "--parts", "limits")
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    (row,) = [row for row in map(json.loads, lines) if "skipped" in row]
    assert row["part"] == "limits"
    assert "abacus" in row["skipped"]
    assert "Not measured" in run(SPEED / "table.py", tmp_path / "results.jsonl")
