"""`flexicodec evaluate` from the command line to the output folder."""

import itertools
import json
import re

import pytest

from flexicodec.cli import main
from flexicodec.cli.evaluate import spread
from flexicodec.evaluation.metrics.suite import default_measures

NO_MODELS = ["--transcriber", "none", "--speaker-encoder", "none", "--mos", "none"]
QUICK = ["--metrics", "mel_distance", *NO_MODELS, "--resamples", "50"]


@pytest.fixture(scope="module")
def model(whole, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    whole.save_pretrained(folder)
    return str(folder)


def test_one_command_leaves_rows_report_and_plots(manifest, model, tmp_path, capsys):
    out = tmp_path / "results"
    command = ["evaluate", str(manifest), "--model", model, "--frame-rate", "12.5", "4", "--codebooks", "0", "7", "all"]
    assert main([*command, "-o", str(out), *QUICK, "--parquet"]) == 0
    said = capsys.readouterr()
    assert "tiny: 7 codebooks left out; it has 0 to 4 acoustic ones" in said.err
    assert "| tiny, 4 Hz, 0 codebooks | 6 |" in said.out
    assert "summary.md: 30 rows measured, 30 in all" in said.out
    assert {path.name for path in out.iterdir()} == {
        *("rows.jsonl", "rows.parquet", "run.json", "summary.json", "summary.md", "bitrate.png", "frame_rate.png"),
        ".lock",
    }
    held = json.loads((out / "run.json").read_text())
    assert held["settings"]["tiny"][0] == "12.5 Hz, 0 codebooks"
    assert main([*command, "-o", str(out), *QUICK]) == 0
    assert "0 rows measured, 30 in all" in capsys.readouterr().out


def test_several_models_with_names_on_some_clips(manifest, model, nanocodecs, tmp_path, capsys):
    nanocodecs["nano"].save_pretrained(tmp_path / "nano")
    models = ["--model", f"a={model}", "--model", str(tmp_path / "nano")]
    assert main(["evaluate", str(manifest), *models, "-o", str(tmp_path / "r"), *QUICK, "--limit", "3"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "r" / "rows.jsonl").read_text().splitlines()]
    assert {(row["system"], row["id"]) for row in rows} == {
        (name, clip) for name in ("ground truth", "a", "nano") for clip in ("0", "2", "4")
    }


def test_a_higher_limit_goes_on(manifest, model, tmp_path, capsys):
    command = ["evaluate", str(manifest), "--model", model, "-o", str(tmp_path / "r"), *QUICK, "--limit"]
    assert main([*command, "3"]) == 0
    capsys.readouterr()
    assert main([*command, "5"]) == 0
    assert "4 rows measured, 10 in all" in capsys.readouterr().out


def test_recordings_that_are_not_there_are_one_line(model, tmp_path, capsys):
    rows = [{"path": f"wrong/{name}.wav", "duration_s": 1.0} for name in "ab"]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["evaluate", str(tmp_path / "m.jsonl"), "--model", model, "-o", str(tmp_path / "r"), *QUICK]) == 2
    said = capsys.readouterr()
    assert re.search(r"none of the 2 recordings of .*m\.jsonl is there; the first: .*a\.wav is missing", said.err)
    assert said.out == ""


def test_nothing_measured_is_no_table(model, tmp_path, capsys):
    (tmp_path / "a.wav").write_text("no audio")
    (tmp_path / "m.jsonl").write_text(json.dumps({"path": "a.wav", "duration_s": 1.0}) + "\n")
    assert main(["evaluate", str(tmp_path / "m.jsonl"), "--model", model, "-o", str(tmp_path / "r"), *QUICK]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "2 of 2 rows failed, of 1 clip" in said.err


@pytest.mark.parametrize("count", [1, 6, 225])
def test_limits_nest_and_spread(count):
    chosen = [spread(count, limit) for limit in range(1, count + 1)]
    assert all(set(few) < set(more) for few, more in itertools.pairwise(chosen))
    assert chosen[-1] == spread(count, None) == list(range(count))
    for few in chosen:
        gaps = [b - a for a, b in itertools.pairwise([*few, count])]
        assert max(gaps) <= 4 * count / len(few)


def test_a_failed_clip_shows_in_the_exit_code(manifest, model, tmp_path, capsys):
    (tmp_path / "3.wav").unlink()
    assert main(["evaluate", str(manifest), "--model", model, "-o", str(tmp_path / "r"), *QUICK]) == 1
    said = capsys.readouterr()
    assert "failed 3: FileNotFoundError: no such audio file" in said.err
    assert "2 of 12 rows failed, of 1 clip;" in said.err
    assert "- All rows: 1 clip failed and counts nowhere" in said.out


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--codebooks", "some"], "--codebooks is some; expected whole numbers, or all"),
        (["--metrics", "pesk"], "no metric 'pesk'"),
        (["--limit", "0"], "--limit is 0"),
        (["--resamples", "-3"], "resamples is -3; expected 1 or more"),
        (["--resamples", "0"], "resamples is 0"),
        (["--transcriber", "sphinx:x"], "'sphinx:x' is no transcriber"),
        (["--frame-rate", "99"], "frame_rate is 99"),
        (["--perturb", "noise:20"], "no perturbation 'noise:20'; expected some of noise:20db"),
        (["--protocol", "paper", "--threshold", "0.9"], "has its own thresholds"),
        (["--model", "nowhere"], "there is no model 'nowhere'"),
    ],
)
def test_what_makes_no_sense_is_one_line(manifest, model, tmp_path, capsys, options, match):
    base = [] if "--model" in options else ["--model", model]
    command = ["evaluate", str(manifest), *base, "-o", str(tmp_path / "r")]
    assert main([*command, *(NO_MODELS if "--transcriber" not in options else NO_MODELS[2:]), *options]) == 2
    said = capsys.readouterr().err
    assert match in said
    assert said.count("\n") == 1


def test_instruments_are_the_default_and_report_their_seconds(speech_folder, model, tmp_path, capsys):
    """All default instruments on one clip; the paired difference with the recording is in the report."""
    text = "mother i'm going to study medicine"
    row = {"path": str(speech_folder / "4970-29095-0008.flac"), "duration_s": 3.04, "text": text, "lang": "en"}
    (tmp_path / "one.jsonl").write_text(json.dumps(row) + "\n")
    command = ["evaluate", str(tmp_path / "one.jsonl"), "--model", model, "-o", str(tmp_path / "r")]
    assert main([*command, "--metrics", "mel_distance", "--resamples", "20"]) == 0
    said = capsys.readouterr().out
    run = json.loads((tmp_path / "r" / "run.json").read_text())
    wanted = default_measures()
    assert run["transcribers"] == list(wanted.transcribers)
    assert run["normaliser"] == wanted.normaliser
    assert run["speaker_encoders"] == ["ge2e"]
    assert run["mos"] == list(wanted.mos)
    assert "similarity (ge2e)" in said
    assert re.search(r"seconds per instrument, over all processes: ge2e [\d.]+, signal metrics [\d.]+, dist", said)
    report = (tmp_path / "r" / "summary.md").read_text()
    assert re.search(r"\| tiny, 4 codebooks \| ground truth \| Distill-MOS \(distillmos\) \| -", report)
    if "moonshine" in wanted.transcribers:
        rows = [json.loads(line) for line in (tmp_path / "r" / "rows.jsonl").read_text().splitlines()]
        assert rows[0]["transcripts"]["moonshine"]["text"] == "Mother, I am going to study medicine."
        assert re.search(r"\| tiny, 4 codebooks \| ground truth \| WER, % \(moonshine\) \|", report)


def test_tokens_of_perturbed_clips(manifest, model, tmp_path, capsys):
    command = ["evaluate", str(manifest), "--model", model, "-o", str(tmp_path / "r"), *QUICK, "--frame-rate", "6.25"]
    command += ["--codebooks", "0", "4"]
    assert main([*command, "--perturb", "gain:0db", "noise:0db", "shift:80ms"]) == 0
    said = capsys.readouterr().out
    assert "unit edit distance (noise:0db)" in said
    assert "not defined" not in said.replace("SI-SDR", "")
    rows = [json.loads(line) for line in (tmp_path / "r" / "rows.jsonl").read_text().splitlines()]
    coded = [row for row in rows if row["system"] == "tiny"]
    assert len(coded) == 12
    for row in coded:
        assert row["unit_edit.gain:0db"] == 0
        assert row["boundary_f1.gain:0db"] == 1
        assert row["acoustic_agreement.gain:0db"] == (None if row["asked"]["codebooks"] == 0 else 1)
        assert row["semantic_margin"] > 0
    assert sum(row["unit_edit.noise:0db"] for row in coded) > 0
    assert not any("unit_edit.gain:0db" in row for row in rows if row["system"] == "ground truth")


def test_another_language_has_no_default_recogniser(manifest, model, tmp_path, capsys):
    command = ["evaluate", str(manifest), "--model", model, "-o", str(tmp_path / "r"), "--language", "nl"]
    assert main([*command, "--speaker-encoder", "none", "--mos", "none", "--limit", "1", *QUICK[:2]]) == 0
    assert "no error rates: there is no default recogniser for the language 'nl'" in capsys.readouterr().err
    assert json.loads((tmp_path / "r" / "run.json").read_text())["transcribers"] == []


def test_the_protocol_in_one_command(tmp_path, capsys, model):
    import numpy as np
    import soundfile

    folder = tmp_path / "test-clean" / "61" / "70968"
    folder.mkdir(parents=True)
    noise = 0.05 * np.random.default_rng(0).standard_normal(16_000 * 4)
    soundfile.write(folder / "61-70968-0000.flac", noise, 16_000)
    (folder / "61-70968.trans.txt").write_text("61-70968-0000 HOLD FAST\n")
    local = ["--metrics", "mcd_db", "--transcriber", "none", "--normaliser", "basic"]
    local += ["--speaker-encoder", "none", "--mos", "none", "--resamples", "20"]
    command = ["evaluate", str(tmp_path / "test-clean"), "--protocol", "paper", "--model", model]
    assert main([*command, "-o", str(tmp_path / "r"), *local]) == 0
    said = capsys.readouterr()
    assert "**Not the paper's list**: 1 clip of" in said.out
    assert "| third party | 0.867 | 6.36 |" in said.out
    assert "tiny: 7 codebooks left out" in said.err
