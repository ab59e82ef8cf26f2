"""Tokens stored by an evaluation, and their entropy-coded size."""

from dataclasses import replace

import pytest

from flexicodec.corpus import read_manifest
from flexicodec.evaluation.metrics import bitrate
from flexicodec.evaluation.metrics.suite import MetricConfig
from flexicodec.evaluation.report import main_table, notes, write_report
from flexicodec.evaluation.results_store import MAX_NAME_BYTES, add_entropy_rates, read_rows, token_path
from flexicodec.evaluation.run import EvaluationConfig, evaluate_corpus
from flexicodec.evaluation.systems import CodecSystem, Sweep

PLAN = EvaluationConfig(
    MetricConfig(metrics=("si_sdr_db",), transcribers=()),
    Sweep(frame_rates=(6.25,), codebooks=(0, 2)),
    keep_tokens=True,
)


@pytest.fixture
def evaluated(manifest, whole, tmp_path):
    """Six clips through a tiny codec, with their tokens."""
    system = CodecSystem(whole, "tiny")
    return evaluate_corpus(read_manifest(manifest), [system], tmp_path / "out", PLAN), system


def test_bits_are_those_of_models_of_other_clips(evaluated, whole):
    results, system = evaluated
    rows, left_out = add_entropy_rates(results.folder, results.rows, {"systems": {"tiny": system.identity}})
    assert left_out == []
    for setting in ("6.25 Hz, 0 codebooks", "6.25 Hz, 2 codebooks"):
        mine = [row for row in rows if row["setting"] == setting]
        tokens = [whole_tokens(results.folder, row) for row in mine]
        wanted = bitrate.cross_validated_bits(tokens, whole.config.semantic.quantizer.levels)
        for row, bits in zip(mine, wanted, strict=True):
            assert row["entropy_kbps"] * row["coded_seconds"] * 1000 == pytest.approx(sum(bits.values()))
    assert [{**row, "entropy_kbps": 0} for row in rows[6:]] == [{**row, "entropy_kbps": 0} for row in results.rows[6:]]
    assert rows[:6] == results.rows[:6]  # recordings have no tokens


def whole_tokens(folder, row):
    from flexicodec import Tokens

    return Tokens.load(token_path(folder, "tiny", row["setting"], row["id"]))


def test_the_report_has_a_column_for_them(evaluated):
    results, _ = evaluated
    summary = write_report(results.folder, resamples=20)
    assert "kbps, entropy-coded" in main_table(summary)
    entry = summary.find("tiny, 6.25 Hz, 2 codebooks")
    assert 0 < entry.scores["entropy_kbps"].value < 2 * entry.scores["bitrate_kbps"].value


def test_without_all_the_tokens_it_is_said_why(evaluated):
    results, system = evaluated
    run = {"systems": {"tiny": system.identity}}
    row = next(row for row in results.rows if row["setting"] == "6.25 Hz, 2 codebooks")
    token_path(results.folder, "tiny", row["setting"], row["id"]).unlink()
    rows, left_out = add_entropy_rates(results.folder, results.rows, run)
    assert {row["setting"] for row in rows if "entropy_kbps" in row} == {"6.25 Hz, 0 codebooks"}
    assert [each.partition(" (the")[0] for each in left_out] == [
        "No entropy-coded rate, because the tokens of 1 of 6 clips were not kept"
    ]
    assert left_out[0] in notes(write_report(results.folder, resamples=5))
    few = [row for row in results.rows if row["id"] in "1234" and row["setting"] == "6.25 Hz, 0 codebooks"]
    rows, left_out = add_entropy_rates(results.folder, few, run)
    assert rows == few
    assert left_out[0].endswith("because there are 4 clips and its model takes 5 or more: tiny, 6.25 Hz, 0 codebooks.")


@pytest.mark.parametrize("name", ["語" * 30, "x" * 300, "a/b%c" * 60])
def test_long_ids_make_names_that_file_systems_take(tmp_path, name):
    path = token_path(tmp_path, "tiny", "1 Hz", name)
    assert len(path.name.encode()) <= MAX_NAME_BYTES + 5
    assert path.name.isascii()
    assert path.parent == token_path(tmp_path, "tiny", "1 Hz", "short").parent
    assert token_path(tmp_path, "tiny", "1 Hz", name + "!") != path
    path.parent.mkdir(parents=True)
    path.touch()
    assert token_path(tmp_path, "tiny", "1 Hz", "a/b").name == "a%2Fb.flxc"


def test_reasons_are_said_once_for_all_settings(evaluated):
    results, system = evaluated
    for row in results.rows:
        if row["id"] == "1" and "tokens" in row:
            token_path(results.folder, "tiny", row["setting"], row["id"]).unlink()
    _, left_out = add_entropy_rates(results.folder, results.rows, {"systems": {"tiny": system.identity}})
    assert len(left_out) == 1
    assert left_out[0].endswith(": tiny, 6.25 Hz, 0 codebooks; tiny, 6.25 Hz, 2 codebooks.")


def test_tokens_that_cannot_be_written_cost_no_row(manifest, whole, tmp_path):
    out = tmp_path / "out"
    blocked = token_path(out, "tiny", "6.25 Hz, 2 codebooks", "0").parent
    blocked.parent.mkdir(parents=True)
    blocked.touch()  # a file where a folder has to be
    results = evaluate_corpus(read_manifest(manifest), [CodecSystem(whole, "tiny")], out, PLAN)
    assert not results.failed
    rows = [row for row in results.rows if "tokens_error" in row]
    assert {row["setting"] for row in rows} == {"6.25 Hz, 2 codebooks"}
    assert all(row["bitrate_kbps"] > 0 for row in rows)
    said = notes(write_report(out, resamples=5))
    assert said.count("could not be written") == 1
    assert "Tokens of 6 rows could not be written (0): " in said


def test_tokens_that_are_wanted_later_are_made_later(manifest, whole, tmp_path):
    utterances, system, plan = read_manifest(manifest), CodecSystem(whole, "tiny"), replace(PLAN, keep_tokens=False)
    before = evaluate_corpus(utterances, [system, CodecSystem(whole, "other")], tmp_path, plan)
    later = evaluate_corpus(utterances, [system], tmp_path, PLAN)
    assert later.measured == 2 * len(utterances)
    assert later.rows == before.rows == read_rows(tmp_path)  # those of the system that is not asked for stay
    assert "entropy_kbps" in add_entropy_rates(tmp_path, later.rows, {"systems": {"tiny": system.identity}})[0][6]
    assert evaluate_corpus(utterances, [system], tmp_path, PLAN).measured == 0


def test_nothing_is_kept_unless_wanted(manifest, whole, tmp_path):
    plan = replace(PLAN, keep_tokens=False)
    results = evaluate_corpus(read_manifest(manifest), [CodecSystem(whole, "tiny")], tmp_path / "out", plan)
    assert add_entropy_rates(results.folder, results.rows, {}) == (results.rows, [])
    assert results.rows == read_rows(results.folder)


def test_names_become_paths_that_stay_in_the_folder(tmp_path):
    path = token_path(tmp_path, "owner/model", "6.25 Hz, 2 codebooks", "../../etc/a b")
    assert path.parent.parent.parent == tmp_path / "tokens"
    assert path != token_path(tmp_path, "owner/model", "6.25 Hz, 2 codebooks", "..%2F../etc/a b")
