"""`flexicodec analyze`: a manifest in, a report out, and a line for each clip that is left out."""

import json
from dataclasses import replace

import pytest

from flexicodec import cli
from flexicodec.corpus import Utterance, read_manifest, write_manifest
from flexicodec.corpus.alignments.alignment import Segment, read_alignment, write_ctm, write_textgrid
from flexicodec.evaluation.metrics import asr


@pytest.fixture(scope="module")
def folder(tmp_path_factory, speech_folder):
    """Pieces of two recordings, with synthetic phones of 80 ms."""
    folder = tmp_path_factory.mktemp("pieces")
    utterances = []
    for number, path in enumerate(sorted(speech_folder.glob("*.flac"))):
        for start in (0.0, 0.7, 1.4):
            grid = folder / f"{number}-{start}.TextGrid"
            phones = [Segment(0.08 * i, 0.08 * (i + 1), ("AA1", "S", "sil")[i % 3]) for i in range(15)]
            write_textgrid(grid, {"phones": phones}, 1.2)
            known = {"speaker": f"s{number}", "id": f"{number}-{start}", "text": "so it is"}
            utterances.append(Utterance(path, 1.2, start, alignment=grid, **known))
    write_manifest(folder / "pieces.jsonl", utterances)
    missing = [replace(utterances[0], path=folder / "none.wav", id="none"), replace(utterances[1], alignment=None)]
    write_manifest(folder / "odd.jsonl", [*missing, *utterances[2:]])
    return folder


def analyze(folder, output, *arguments, manifest="pieces.jsonl"):
    quick = ["--resamples", "10", "--codebooks", "1", "--frame-rate", "6.25"]
    return cli.main(["analyze", str(folder / manifest), "-o", str(output), *quick, *arguments])


def test_a_report(folder, tmp_path, capsys):
    assert analyze(folder, tmp_path, "--textgrids", "--per-clip") == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{tmp_path / 'report.html'}: 6 clips, 0.00 hours, 0 skipped; tokens against phones")
    assert not printed.err
    about = json.loads((tmp_path / "numbers.json").read_text())["about"]
    assert about["model"] == "flexicodec-mini"
    assert [setting["name"] for setting in about["settings"]] == ["6.25 Hz", "6.25 Hz, every clip"]
    assert (about["clips"], about["speakers"], about["source"]) == (6, 2, "alignment")
    assert "data:image/png" in (tmp_path / "report.html").read_text()
    grids = sorted((tmp_path / "textgrids").iterdir())
    assert [grid.name for grid in grids] == sorted(f"{n}-{start}.TextGrid" for n in (0, 1) for start in (0.0, 0.7, 1.4))
    tokens = read_alignment(grids[0], phone_tier="6.25 Hz").phones
    assert sum(int(token.label) for token in tokens) == 15  # frames
    assert len(read_alignment(grids[0]).phones) == 15


def test_what_is_missing_is_counted(folder, tmp_path, capsys):
    assert analyze(folder, tmp_path, manifest="odd.jsonl") == 1
    printed = capsys.readouterr()
    assert "5 clips, 0.00 hours, 1 without phones, 1 skipped" in printed.out
    assert printed.err.startswith("flexicodec: skipped none: audio cannot be read: no such audio file")
    text = (tmp_path / "report.html").read_text()
    assert "5 of 6 clips were encoded" in text
    assert "Left out: 1 audio cannot be read." in text
    assert "Left out: 1 no alignment." in text
    assert "flexicodec: without phones: 0-0.7: no alignment\n" in printed.err
    assert "<td>none</td><td>audio cannot be read: no such audio file" in text
    assert "<td>0-0.7</td><td>no alignment</td>" in text


def rewritten(folder, name, **changes):
    utterances = [replace(u, **changes) for u in read_manifest(folder / "pieces.jsonl")]
    write_manifest(folder / name, utterances)
    return name


def test_alignments_that_cannot_be_used_are_an_error(folder, tmp_path, capsys):
    manifest = rewritten(folder, "gone.jsonl", alignment=folder / "nowhere.TextGrid")
    assert analyze(folder, tmp_path, manifest=manifest) == 1
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert len(lines) == 5 + 2
    assert lines[0].startswith("flexicodec: without phones: 0-0.0: alignment cannot be used:")
    assert "nowhere.TextGrid" in lines[0]
    assert lines[5:] == [
        "flexicodec: and 1 more, which the report lists",
        "flexicodec: none of 6 clips has phones (alignment); the report has no results on them",
    ]
    text = (tmp_path / "report.html").read_text()
    assert text.count("nowhere.TextGrid") == 6
    assert "1-1.4" in text


def test_a_ctm_of_other_clips_is_an_error_with_a_hint(folder, tmp_path, capsys):
    write_ctm(folder / "other.ctm", {"0-0.00": [Segment(0, 0.1, "AA")]})
    manifest = rewritten(folder, "ctm.jsonl", alignment=folder / "other.ctm")
    assert analyze(folder, tmp_path, "--limit", "1", manifest=manifest) == 1
    assert "has no utterance '0-0.0'; is it '0-0.00'?" in capsys.readouterr().err


def test_cuts_in_alignments_are_counted(folder, tmp_path, capsys):
    rows = "{0} A 0.1 0.2 S\n{0} A 0.29 0.3 AA1\n{0} B 0.1 0.5 T\n"
    (folder / "call.ctm").write_text("".join(rows.format(u.id) for u in read_manifest(folder / "pieces.jsonl")))
    manifest = rewritten(folder, "call.jsonl", alignment=folder / "call.ctm", channel=0)
    utterances = read_manifest(folder / manifest)
    utterances[1] = replace(utterances[1], channel=None)
    write_manifest(folder / manifest, utterances)
    analyze(folder, tmp_path, manifest=manifest)
    error = capsys.readouterr().err
    assert "flexicodec: in alignments: 5 segments cut where the next one starts, of 5 clips\n" in error
    assert "has the channels 'A', 'B'; say which with channel=" in error
    text = (tmp_path / "report.html").read_text()
    assert "In alignments: 5 segments cut where the next one starts, of 5 clips." in text


def test_phones_that_were_asked_for_have_to_be_there(folder, tmp_path, capsys):
    manifest = rewritten(folder, "bare.jsonl", alignment=None, text=None)
    assert analyze(folder, tmp_path / "any", "--limit", "2", manifest=manifest) == 0  # rates are something too
    capsys.readouterr()
    assert analyze(folder, tmp_path / "a", "--limit", "2", "--phones", "alignment", manifest=manifest) == 1
    assert "none of 2 clips has phones (alignment)" in capsys.readouterr().err


@pytest.mark.slow  # two processes start, twice
def test_processes_change_nothing(folder, tmp_path):
    arguments = ("--limit", "3", "--transcriber", "ctc:recognizer-mini")
    assert analyze(folder, tmp_path / "1", *arguments) == 0
    assert analyze(folder, tmp_path / "2", *arguments, "--processes", "2") == 0
    for name in ("numbers.json", "report.html"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


class StandIn:
    """Replaces a large recogniser: returns the number of samples, at another sample rate."""

    sample_rate = 8000

    def transcribe(self, clips):
        return [f"heard {len(clip)}" for clip in clips]


def test_transcripts_are_beside_the_tokens(folder, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(asr, "open_transcriber", lambda *choice: asked.append(choice) or StandIn())
    arguments = ("--transcriber", "sensevoice:DIR", "--limit", "2", "--textgrids", "--phones", "recogniser")
    assert analyze(folder, tmp_path, *arguments) == 0
    assert asked == [("sensevoice:DIR", None)]
    (said,) = read_alignment(tmp_path / "textgrids" / "0-0.0.TextGrid", phone_tier="transcript").phones
    assert said.label == "heard 9600"
    assert (said.start, said.end) == (0, 1.2)
    letters = read_alignment(tmp_path / "textgrids" / "0-0.0.TextGrid", phone_tier="letters").phones
    assert "".join(letter.label for letter in letters) == "soitis"
    text = (tmp_path / "report.html").read_text()
    assert "Transcript of the recogniser: “heard 9600”" in text
    assert "letters of a text are counted, not phones" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--frame-rate", "50"), "frame_rate is 50 Hz"),
        (("--threshold", "1.5"), "threshold is 1.5"),
        (("--limit", "0"), "limit is 0"),
        (("--processes", "0"), "processes is 0"),
        (("--resamples", "-3"), "resamples is -3"),
        (("--transcriber", "sensevoice:nowhere"), "nowhere"),
        (("--recogniser", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(folder, tmp_path, capsys, arguments, message):
    assert analyze(folder, tmp_path / "report", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "report").exists()
