"""Alignments survive writing and reading, in seconds, and all formats agree."""

import pytest

from flexicodec.corpus.alignments.alignment import (
    Alignment,
    Segment,
    read_alignment,
    read_ctm,
    write_ctm,
    write_textgrid,
)

PHONES = (Segment(0.0, 0.25, "sil"), Segment(0.25, 0.4, "HH"), Segment(0.4, 0.625, "AY1"), Segment(0.75, 1.0, "sp"))


WORDS = (Segment(0.25, 0.625, "hi"),)


LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 1.25
tiers? <exists>
size = 1
item []:
    item [1]:
        class = "IntervalTier"
        name = "{name}"
        xmin = 0
        xmax = 1.25
        intervals: size = 2
        intervals [1]:
            xmin = 0
            xmax = 0.5
            text = "AA1"
        intervals [2]:
            xmin = 0.5
            xmax = 1.25
            text = ""
"""


SHORT = """File type = "ooTextFile"
Object class = "TextGrid"

0
1.25
<exists>
1
"IntervalTier"
"phones"
0
1.25
2
0
0.5
"AA1"
0.5
1.25
""
"""


def labelled(tier):
    return [segment for segment in tier if segment.label]


def test_textgrids_come_back(tmp_path):
    path = tmp_path / "clip.TextGrid"
    write_textgrid(path, {"phones": PHONES, "words": WORDS, "tokens": ()}, end=1.25)
    found = read_alignment(path)
    assert tuple(labelled(found.phones)) == PHONES
    assert tuple(labelled(found.words)) == WORDS
    assert found.end == 1.25  # gaps are empty intervals, up to the end
    assert [s.label for s in found.phones] == ["sil", "HH", "AY1", "", "sp", ""]


def test_segments_that_praat_would_refuse_are_mended(tmp_path):
    tier = [Segment(0.0, 0.5004, "a"), Segment(0.5, 0.5, "gone"), Segment(0.5, 1.0, "b")]
    write_textgrid(tmp_path / "clip.TextGrid", {"phones": tier}, end=1.0)
    assert read_alignment(tmp_path / "clip.TextGrid").phones == (Segment(0.0, 0.5, "a"), Segment(0.5, 1.0, "b"))


@pytest.mark.parametrize("text", [LONG.format(name="phones"), SHORT])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_praats_own_formats_are_read(tmp_path, text, encoding):
    path = tmp_path / "praat.TextGrid"
    path.write_text(text, encoding=encoding)
    found = read_alignment(path)
    assert found.phones == (Segment(0.0, 0.5, "AA1"), Segment(0.5, 1.25, ""))
    assert found.words == ()


@pytest.mark.parametrize("name", ["phones", "Phone", "speaker 1 - phones", "MAU"])
def test_usual_tiers_are_found(tmp_path, name):
    (tmp_path / "a.TextGrid").write_text(LONG.format(name=name))
    assert len(read_alignment(tmp_path / "a.TextGrid").phones) == 2


def test_other_tiers_are_named_and_missing_ones_listed(tmp_path):
    path = tmp_path / "a.TextGrid"
    path.write_text(LONG.format(name="lautsegmente"))
    with pytest.raises(ValueError, match="has the tiers 'lautsegmente', but none of the usual names"):
        read_alignment(path)
    assert len(read_alignment(path, phone_tier="lautsegmente").phones) == 2
    with pytest.raises(ValueError, match="none named 'worte'"):
        read_alignment(path, phone_tier="lautsegmente", word_tier="worte")


def test_what_lasts_beyond_the_clip_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="lasts 1 s, but the clip 0.9 s"):
        write_textgrid(tmp_path / "a.TextGrid", {"phones": PHONES}, end=0.9)
    with pytest.raises(ValueError, match="no tiers to write"):
        write_textgrid(tmp_path / "a.TextGrid", {}, end=0.9)
    assert not list(tmp_path.iterdir())


def test_broken_textgrids_are_named(tmp_path):
    (tmp_path / "a.TextGrid").write_text("not a TextGrid")
    with pytest.raises(ValueError, match="a.TextGrid is no TextGrid that can be read"):
        read_alignment(tmp_path / "a.TextGrid")
    with pytest.raises(FileNotFoundError):
        read_alignment(tmp_path / "b.TextGrid")


def test_ctm_comes_back(tmp_path):
    path = tmp_path / "phones.ctm"
    write_ctm(path, {"one": PHONES, "two": WORDS})
    found = read_ctm(path)
    assert list(found) == ["one", "two"]
    for ours, theirs in zip(PHONES, found["one"], strict=True):
        assert ours.label == theirs.label
        assert (theirs.start, theirs.end) == (pytest.approx(ours.start), pytest.approx(ours.end))
    assert path.read_text().splitlines()[0] == "one 1 0.000000 0.250000 sil"


def test_ctm_as_kaldi_and_nist_write_it(tmp_path):
    path = tmp_path / "phones.ctm"
    path.write_text(";; a remark\n\nu1 A 0.40 0.22 AY1 0.98\nu1 A 0.25 0.15 HH 0.97\n")
    assert [s.label for s in read_ctm(path)["u1"]] == ["HH", "AY1"]
    assert read_alignment(path).phones[0].start == 0.25  # one utterance needs no name


def test_ctm_pairs_phones_with_words(tmp_path):
    write_ctm(tmp_path / "phones.ctm", {"one": PHONES, "two": PHONES[1:]})
    write_ctm(tmp_path / "words.ctm", {"one": WORDS, "two": WORDS})
    found = read_alignment(tmp_path / "phones.ctm", words=tmp_path / "words.ctm", utterance="two")
    assert [s.label for s in found.phones] == ["HH", "AY1", "sp"]
    assert [s.label for s in found.words] == ["hi"]
    with pytest.raises(ValueError, match="holds 2 utterances; say which"):
        read_alignment(tmp_path / "phones.ctm")
    with pytest.raises(ValueError, match="no utterance 'twoo'; is it 'two'"):
        read_alignment(tmp_path / "phones.ctm", utterance="twoo")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("u1 A 0.1 0.2\n", "line 1: 'u1 A 0.1 0.2' is not"),
        ("u1 A x 0.2 a\n", "could not convert"),
        ("u1 A 0.1 -0.2 a\n", "expected seconds from 0 up"),
        ("u1 A 0.0 0.5 a\nu1 A 0.2 0.5 b\n", "segments of u1 overlap"),
    ],
)
def test_broken_ctm_is_named(tmp_path, text, message):
    (tmp_path / "a.ctm").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_ctm(tmp_path / "a.ctm")


def test_ctm_holds_no_spaces(tmp_path):
    with pytest.raises(ValueError, match="hold a space"):
        write_ctm(tmp_path / "a.ctm", {"one": [Segment(0, 1, "two words")]})
    write_ctm(tmp_path / "a.ctm", {"one": [Segment(0, 1, "")]})
    assert read_ctm(tmp_path / "a.ctm") == {}


@pytest.mark.parametrize(("phn", "wrd"), [("SX1.phn", "SX1.wrd"), ("SX1.PHN", "SX1.WRD")])
def test_timit_counts_samples(tmp_path, phn, wrd):
    (tmp_path / phn).write_text("0 3050 h#\n3050 4559 sh\n4559 8000 ix\n")
    assert read_alignment(tmp_path / phn).words == ()
    (tmp_path / wrd).write_text("3050 8000 she\n")
    found = read_alignment(tmp_path / phn)
    assert found.phones[1] == Segment(3050 / 16000, 4559 / 16000, "sh")
    assert found.words == (Segment(3050 / 16000, 0.5, "she"),)


def test_broken_timit_and_other_files_are_named(tmp_path):
    (tmp_path / "a.phn").write_text("0 0.5 sh\n")
    with pytest.raises(ValueError, match="line 1: '0 0.5 sh' is not `first last label`, in samples"):
        read_alignment(tmp_path / "a.phn")
    with pytest.raises(ValueError, match=r"expected a file with one of the suffixes .TextGrid, .ctm, .phn"):
        read_alignment(tmp_path / "a.npy")


def test_every_kind_of_file_says_the_same(tmp_path):
    write_textgrid(tmp_path / "a.TextGrid", {"phones": PHONES}, end=1.0)
    write_ctm(tmp_path / "a.ctm", {"a": PHONES})
    lines = (f"{round(s.start * 16000)} {round(s.end * 16000)} {s.label}\n" for s in PHONES)
    (tmp_path / "a.phn").write_text("".join(lines))
    read = [labelled(read_alignment(tmp_path / name).phones) for name in ("a.TextGrid", "a.ctm", "a.phn")]
    for other in read[1:]:
        assert [(s.start, s.label) for s in other] == [(pytest.approx(s.start, abs=1e-6), s.label) for s in read[0]]


def test_two_speakers_in_one_tier_are_refused():
    with pytest.raises(ValueError, match="are two speakers in one tier"):
        Alignment((Segment(0, 1, "a"), Segment(0.5, 2, "b")))
