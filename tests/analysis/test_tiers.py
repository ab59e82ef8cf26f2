"""Tokens in Praat's and NIST's files: what was encoded is what stands there, at its time."""

import pytest

from flexicodec.analysis.segments import read_ctm
from flexicodec.analysis.tiers import save_ctm, save_textgrid, token_tiers
from flexicodec.cli import main
from flexicodec.tokens import TokenFormat, Tokens

TIMES = [(0.0, 0.24), (0.24, 0.32), (0.32, 0.92)]  # the last frame lacks half its samples


@pytest.fixture
def tokens():
    return Tokens([7, 8, 9], [[1, 2, 3]], [3, 1, 8], [11 * 1280 + 640])


def spans(tier):
    return [(s.start, s.end, s.label) for s in tier]


def test_tiers_hold_times_durations_and_codes(tokens):
    tiers = token_tiers(tokens)
    assert list(tiers) == ["durations", "codes"]
    for name, labels in (("durations", "318"), ("codes", "789")):
        assert [s.label for s in tiers[name]] == list(labels)
        assert [(s.start, s.end) for s in tiers[name]] == [pytest.approx(each) for each in TIMES]


def test_a_codec_without_semantic_codes_shows_its_first_acoustic_ones():
    tokens = Tokens(None, [[4, 5], [6, 7]], [1, 1], format=TokenFormat(semantic_codebook_size=None, max_duration=1))
    assert [s.label for s in token_tiers(tokens)["codes"]] == ["4", "5"]


def test_praat_files_come_back(tokens, tmp_path):
    from praatio.textgrid import openTextgrid

    save_textgrid(tokens, tmp_path / "a.TextGrid")
    grid = openTextgrid(str(tmp_path / "a.TextGrid"), includeEmptyIntervals=True)
    assert grid.tierNames == ("durations", "codes")
    assert grid.maxTimestamp == pytest.approx(0.92)
    for start, end, label in grid.getTier("codes").entries:
        assert (start, end) == pytest.approx(TIMES[int(label) - 7])


def test_ctm_files_come_back(tokens, tmp_path):
    save_ctm(tokens, tmp_path / "a.ctm", "talk")
    (segments,) = read_ctm(tmp_path / "a.ctm").values()
    assert [s.label for s in segments] == ["3:7", "1:8", "8:9"]
    assert [(s.start, s.end) for s in segments] == [pytest.approx(each, abs=1e-6) for each in TIMES]


def test_info_writes_them(tokens, tmp_path, capsys):
    tokens.save(tmp_path / "my talk.flxc")
    files = ["--textgrid", str(tmp_path / "a.TextGrid"), "--ctm", str(tmp_path / "a.ctm")]
    assert main(["info", str(tmp_path / "my talk.flxc"), *files]) == 0
    assert "tokens" in capsys.readouterr().out
    assert list(read_ctm(tmp_path / "a.ctm")) == ["my_talk"]
    assert '"durations"' in (tmp_path / "a.TextGrid").read_text()


def test_ids_that_were_quoted_for_a_file_name_are_ids_again(tokens, tmp_path):
    tokens.save(tmp_path / "train%2Fclip%20é.flxc")
    assert main(["info", str(tmp_path / "train%2Fclip%20é.flxc"), "--ctm", str(tmp_path / "a.ctm")]) == 0
    assert list(read_ctm(tmp_path / "a.ctm")) == ["train/clip_é"]


def test_only_token_files_have_times(tmp_path, capsys):
    assert main(["info", "flexicodec-mini", "--textgrid", str(tmp_path / "a.TextGrid")]) == 2
    assert "--textgrid and --ctm need a .flxc file" in capsys.readouterr().err


def test_several_clips_are_refused(tokens, tmp_path):
    with pytest.raises(ValueError, match="tokens are of 2 clips"):
        save_textgrid(Tokens.cat([tokens, tokens]), tmp_path / "a.TextGrid")
