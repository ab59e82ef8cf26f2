"""Alignments of a manifest by PocketSphinx: kept, found again, counted."""

from dataclasses import replace

import pytest

from flexicodec import cli
from flexicodec.analysis.forced_alignment import align_utterances, alignment_folder
from flexicodec.corpus import Utterance, read_manifest, write_manifest
from flexicodec.corpus.alignments.alignment import read_alignment

pytest.importorskip("pocketsphinx")
TEXTS = ("mother i'm going to study medicine", "voltaire picked up something from the ground and looked at it")


@pytest.fixture
def utterances(speech_folder):
    made = []
    paths = sorted(speech_folder.glob("*.flac"))
    for path, seconds, text in zip(paths, (3.04, 3.38), TEXTS, strict=True):
        made.append(Utterance(path, seconds, text=text, id=path.stem, speaker=path.stem[:4]))
    first = made[0]
    made.append(replace(first, id="numbers", text="in 1984"))
    made.append(replace(first, id="dutch", language="nl"))
    made.append(replace(first, id="silent", text=None))
    made.append(replace(first, id="swapped", text=TEXTS[1]))
    made.append(replace(first, id="missing", path=speech_folder / "none.flac"))
    return made


def test_alignments_are_kept_and_found_again(utterances, tmp_path):
    folder = tmp_path / "eval.alignments"
    first = align_utterances(utterances, folder)
    assert (first.aligned, first.kept, len(first.refused)) == (2, 0, 5)
    assert dict(first.refused)["dutch"] == "not English: its language is 'nl'"
    assert set(first.reasons) > {"digits in the text", "not English", "no text", "audio cannot be read"}
    assert [each.id for each in first.utterances] == [each.id for each in utterances]
    assert len(list(folder.iterdir())) == 2
    words = [segment.label for segment in read_alignment(first.utterances[0].alignment).words if segment.label]
    assert " ".join(words) == TEXTS[0]
    again = align_utterances(utterances, folder)
    assert (again.aligned, again.kept) == (0, 2)
    assert again.utterances == first.utterances
    given = align_utterances(first.utterances, tmp_path / "other")
    assert (given.aligned, given.kept) == (0, 2)
    changed = replace(utterances[0], text="mother i'm going to study")
    assert align_utterances([changed], folder).kept == 0


def test_phones_end_with_clips_of_any_length(utterances, tmp_path):
    """A clip need not end on a whole tenth of a millisecond, to which times are rounded."""
    seconds = [2.5 + samples / 16_000 for samples in range(1, 5)]
    clips = [replace(utterances[0], id=f"{each}", duration=each) for each in seconds]
    result = align_utterances(clips, tmp_path / "made")
    assert result.refused == ()
    for clip, duration in zip(result.utterances, seconds, strict=True):
        end = read_alignment(clip.alignment).phones[-1].end
        assert duration - 0.011 < end < duration + 1e-6


def test_names_are_safe(tmp_path, speech_folder):
    path = next(iter(sorted(speech_folder.glob("*.flac"))))
    odd = Utterance(path, 3.04, text=TEXTS[0], id="../a/" + "b" * 300)
    result = align_utterances([odd], tmp_path / "made")
    assert result.utterances[0].alignment.parent == tmp_path / "made"
    assert result.utterances[0].alignment.is_file()


@pytest.mark.parametrize(("name", "folder"), [("eval.jsonl", "eval.hama"), ("a.b.jsonl.gz", "a.b.hama")])
def test_the_folder_lies_beside_the_manifest(tmp_path, name, folder):
    assert alignment_folder(tmp_path / name, "hama") == tmp_path / folder


def test_analyze_aligns(utterances, tmp_path, capsys):
    write_manifest(tmp_path / "two.jsonl", utterances[:3])
    command = ["analyze", str(tmp_path / "two.jsonl"), "--align", "pocketsphinx", "-o", str(tmp_path / "report")]
    assert cli.main([*command, "--resamples", "10", "--codebooks", "1", "--frame-rate", "6.25"]) == 0
    printed = capsys.readouterr()
    assert "two.pocketsphinx: 2 clips aligned, 0 had an alignment, 1 refused: digits in the text (1)" in printed.err
    assert "not aligned: numbers: digits in the text: 'in 1984'" in printed.err
    assert "without phones: numbers: digits in the text: 'in 1984'" in printed.err
    assert "digits in the text" in (tmp_path / "report" / "report.html").read_text()
    assert "3 clips, 0.00 hours, 1 without phones" in printed.out
    assert len(read_manifest(tmp_path / "two.jsonl")) == 3


def test_hama_needs_no_text(utterances, tmp_path):
    pytest.importorskip("hama")
    result = align_utterances([utterances[3], utterances[4]], tmp_path / "made", "hama")
    assert (result.aligned, result.refused) == (2, ())
    assert len(read_alignment(result.utterances[0].alignment).phones) > 15
