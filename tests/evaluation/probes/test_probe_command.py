"""`flexicodec probe`: from manifests to results on disk."""

import json
from pathlib import Path

import pytest

from flexicodec.cli import main
from flexicodec.corpus import read_field, write_manifest

ASR = ("fit.epochs=1", "dim=8", "fit.batch_seconds=10", "resamples=20")
CLASSIFY = ("resamples=20",)


@pytest.fixture
def manifests(tone_clips, tmp_path):
    """Manifests of training and test clips, with a field of their own."""
    for name, clips in (("train", tone_clips[:24]), ("test", tone_clips[100:106])):
        write_manifest(tmp_path / f"{name}.jsonl", clips)
        rows = [json.loads(line) | {"length": "long"} for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for row in rows[::2]:
            row["length"] = "short"
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "train.jsonl"), str(tmp_path / "test.jsonl")


@pytest.fixture
def model(whole, tmp_path):
    return str(whole.save_pretrained(tmp_path / "codec"))


def rows(folder):
    return [json.loads(line) for line in (folder / "clips.jsonl").read_text().splitlines()]


def test_asr(manifests, model, tmp_path, capsys):
    arguments = ["--frame-rate", "10", "6.25", "--codebooks", "0", "--model", model, "--set", *ASR]
    assert main(["probe", "asr", *manifests, *arguments, "-o", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in printed] == ["continuous", "10 Hz", "6.25 Hz"]
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [result["name"] for result in content["results"]] == ["continuous", "10 Hz", "6.25 Hz"]
    assert content["config"]["fit"]["epochs"] == 1
    first = content["results"][0]
    assert f"CER {first['cer']['value']:.3f}" in printed[0]
    assert "transcripts" not in first
    assert len(rows(tmp_path / "out")) == 3 * 6
    assert rows(tmp_path / "out")[0].keys() == {
        "representation",
        "id",
        "speaker",
        "reference",
        "text",
        "characters",
        "words",
    }
    assert len(list((tmp_path / "out" / "cache").iterdir())) == 6


def test_speakers_are_classified_on_a_split_of_one_manifest(manifests, model, tmp_path, capsys):
    arguments = ["--min-clips", "3", "--no-bound", "--threshold", "0.9", "--model", model, "--set", *CLASSIFY]
    assert main(["probe", "classify", manifests[0], *arguments, "-o", str(tmp_path / "out")]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("tau 0.9 ")
    guesses = rows(tmp_path / "out")
    assert {row["representation"] for row in guesses} == {"tau 0.9"}
    assert {row["label"] for row in guesses} == {"low", "middle", "high"}
    assert all(row["label"] == row["speaker"] for row in guesses)


def test_guessed_speakers_are_said_to_be_guesses(manifests, model, tmp_path, capsys):
    guessed = [json.loads(line) | {"speaker_guessed": True} for line in Path(manifests[0]).read_text().splitlines()]
    Path(manifests[0]).write_text("".join(json.dumps(row) + "\n" for row in guessed))
    arguments = ["--min-clips", "3", "--no-bound", "--threshold", "0.9", "--model", model, "--set", *CLASSIFY]
    assert main(["probe", "classify", manifests[0], *arguments, "-o", str(tmp_path / "out")]) == 0
    assert "the speakers of 24 clips of" in capsys.readouterr().err


def test_any_field_is_a_label_and_other_speakers_are_tested(manifests, model, tmp_path, capsys):
    arguments = ["--label", "length", "--no-bound", "--model", model, "--train-hours", "0.005", "--set", *CLASSIFY]
    assert main(["probe", "classify", manifests[0], *arguments, "-o", str(tmp_path / "one")]) == 0
    assert main(["probe", "classify", *manifests, *arguments, "-o", str(tmp_path / "two")]) == 0
    assert {row["label"] for row in rows(tmp_path / "two")} == {"long", "short"}
    assert len(rows(tmp_path / "two")) == 6
    assert len({row["speaker"] for row in rows(tmp_path / "one")}) < 3
    result = json.loads((tmp_path / "one" / "results.json").read_text())["results"][0]
    assert result["classes"] == 2
    with pytest.raises(ValueError, match=r"has a field 'lenght'; known fields: path, start, duration"):
        read_field(manifests[0], "lenght")


def test_the_interval_of_a_speaker_alone_is_over_clips(manifests, model, tmp_path):
    path = tmp_path / "alone.jsonl"
    lines = [line for line in (tmp_path / "test.jsonl").read_text().splitlines() if '"low"' in line]
    path.write_text("\n".join(lines))
    arguments = ["--no-bound", "--codebooks", "0", "--model", model, "--set", *ASR]
    assert main(["probe", "asr", manifests[0], str(path), *arguments, "-o", str(tmp_path / "out")]) == 0
    (result,) = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert (result["name"], result["cer"]["clusters"], result["cer"]["items"]) == ("own rate", 2, 2)


def test_mistakes_are_one_line_errors(manifests, model, tmp_path, capsys):
    out = ["--model", model, "-o", str(tmp_path / "out")]
    assert main(["probe", "asr", *manifests, "--set", "fit.epoch=3", *out]) == 2
    assert "unknown key 'fit.epoch' (FitConfig); did you mean 'epochs'?" in capsys.readouterr().err
    assert main(["probe", "classify", manifests[0], "--label", "mood", *out]) == 2
    assert "has a field 'mood'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["probe", *out])
    assert not (tmp_path / "out").exists()
