"""Results of an older commit are still read, summarised and continued."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import soundfile

import flexicodec
from flexicodec.corpus import Utterance
from flexicodec.evaluation.metrics.suite import MetricConfig
from flexicodec.evaluation.results_store import read_rows, to_json
from flexicodec.evaluation.run import EvaluationConfig, evaluate_corpus
from flexicodec.evaluation.summary import summarise

OLD = Path(__file__).parent / "data" / "run_3eceaf6"


def flat(value, path=""):
    """List all values of nested lists and dicts by their path."""
    if not isinstance(value, dict | list):
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {name: each for key, inner in items for name, each in flat(inner, f"{path}/{key}").items()}


def test_older_rows_give_the_same_summary():
    run = json.loads((OLD / "run.json").read_text())
    summary = summarise(read_rows(OLD), run, resamples=100)
    found = flat(json.loads(to_json(asdict(summary))))
    stored = flat(json.loads((OLD / "summary.json").read_text()))
    assert list(found) == list(stored)
    for name, value in stored.items():
        assert found[name] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value), name


def test_an_older_run_continues(tmp_path, speech_folder):
    shutil.copytree(OLD, tmp_path / "run")
    rows = read_rows(OLD)
    (tmp_path / "run" / "rows.jsonl").write_text("".join(map(to_json, rows[1:])))  # the first is measured again
    run = json.loads((OLD / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps({**run, "version": flexicodec.__version__}))
    utterances = []
    for path in sorted(speech_folder.glob("*.flac")):
        utterances.append(Utterance(path, soundfile.info(path).duration, id=path.stem, text="so it is", language="en"))
    config = EvaluationConfig(MetricConfig(metrics=("stoi", "mel_distance")))
    results = evaluate_corpus(utterances, [], tmp_path / "run", config)
    assert results.measured == 1
    assert results.rows[1:] == rows[1:]
    assert results.rows[0]["transcripts"] == rows[0]["transcripts"]
    assert results.rows[0]["stoi"] == pytest.approx(rows[0]["stoi"], abs=1e-6)
