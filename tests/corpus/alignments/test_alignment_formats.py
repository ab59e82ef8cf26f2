"""Alignments of every format have the right phones, words and times, or are refused in words that name the format."""

import gzip

import pytest

from flexicodec.corpus.alignments.alignment import is_alignment, read_alignment, read_ctm

XLABEL = "signal s01\ntype 0\nseparator ;\nnfields 1\n#\n"
MLF = '#!MLF!#\n"*/u1.lab"\n0 2500000 sil\n2500000 4000000 hh\n.\n"/data/spk/u2.rec"\n0 1000000 s\n.\n'


def in_milliseconds(tier):
    return [(round(1000 * s.start), round(1000 * s.end), s.label) for s in tier]


def read(folder, name, text, **choice):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_alignment(path, **choice)


# ---- phones and words by format
SIL_HH = [(0, 250, "sil"), (250, 400, "hh")]
READ = {
    "Kaldi's CTM": ("a.ctm", "u1 1 0.00 0.25 sil\nu1 1 0.25 0.15 hh\n", SIL_HH, []),
    "CTM with confidences": ("a.ctm", "u1 A 0.25 0.15 hh 0.98\nu1 A 0.0 0.25 sil 1.0\n", SIL_HH, []),
    "CTM of eight columns": (
        "a.ctm",
        ";; NIST\nu1 A 0 .25 sil NA lex unknown\nu1 A .25 .15 hh .9 lex unknown",
        SIL_HH,
        [],
    ),
    "a list named ctm": ("ctm", "u1 1 0.00 0.25 sil\nu1 1 0.25 0.15 hh\n", SIL_HH, []),
    "packed CTM": ("a.ctm.gz", gzip.compress(b"u1 1 0 .25 sil\nu1 1 .25 .15 hh\n"), SIL_HH, []),
    "TIMIT": ("A.PHN", "0 4000 sil\n4000 6400 hh\n", SIL_HH, []),
    "TIMIT, CRLF and BOM": ("a.phn", "\ufeff0 4000 sil\r\n4000 6400 hh\r\n", SIL_HH, []),
    "Buckeye": ("a.phones", XLABEL + "  0.250 122 sil\n  0.400 122 hh; *\n", SIL_HH, []),
    "Festival": ("a.lab", "separator ;\n#\n 0.250 26 sil ;\n 0.400 26 hh ;\n", SIL_HH, []),
    "HTK": ("a.lab", "0 2500000 sil\n2500000 4000000 hh\n", SIL_HH, []),
    "HTK with scores": ("a.LAB", "0 2500000 sil -120.5\r\n2500000 4000000 hh -9e1\r\n", SIL_HH, []),
    "HVite's output": ("a.rec", "0 2500000 sil -120.5\n2500000 4000000 hh -9.5\n", SIL_HH, []),
    "HTK triphones": ("a.lab", "0 2500000 sil\n2500000 4000000 sil-hh+ah\n", SIL_HH, []),
    "HTS": ("a.lab", "0 2500000 x^x-sil+hh=ah@1_1/A:0\n2500000 4000000 x^sil-hh+ah=l@1_2/A:0\n", SIL_HH, []),
    "HTK alternatives": ("a.lab", "0 2500000 sil\n2500000 4000000 hh\n///\n0 4000000 s\n", SIL_HH, []),
    "HTK states": ("a.lab", "0 2500000 sil[2]\n2500000 3000000 hh[2]\n3000000 4000000 hh[3]\n", SIL_HH, []),
    "HTK states, phones, words": (
        "a.lab",
        "0 2500000 s2 -1 sil -2 SENT-START\n2500000 3000000 s2 -1 hh -2 HEY\n3000000 4000000 s3\n",
        SIL_HH,
        [(0, 250, "SENT-START"), (250, 400, "HEY")],
    ),
    "HTK words": (
        "a.lab",
        "0 2500000 sil\n2500000 4000000 hh -1.5 HEY -7\n4000000 5000000 ey\n5000000 6000000 sp\n"
        "6000000 7000000 w 2 WE\n",
        [*SIL_HH, (400, 500, "ey"), (500, 600, "sp"), (600, 700, "w")],
        [(250, 500, "HEY"), (600, 700, "WE")],  # without the pause
    ),
    "MFA's CSV": (
        "a.csv",
        "Begin,End,Label,Type,Speaker\r\n0.25,0.4,he,words,anna\r\n0.0,0.25,sil,phones,anna\r\n0.25,0.4,hh,phones,anna\r\n",
        SIL_HH,
        [(250, 400, "he")],
    ),
    "MFA's JSON": (
        "a.json",
        '{"start": 0, "end": 0.5, "tiers": {"words": {"type": "interval", "entries": [[0.25, 0.4, "he"]]}, '
        '"phones": {"type": "interval", "entries": [[0, 0.25, "sil"], [0.25, 0.4, "hh"]]}}}',
        [*SIL_HH, (400, 500, "")],  # silence up to the end
        [(250, 400, "he"), (400, 500, "")],
    ),
}


@pytest.mark.parametrize("case", READ)
def test_phones_and_words_are_read(tmp_path, case):
    name, text, phones, words = READ[case]
    found = read(tmp_path, name, text)
    assert in_milliseconds(found.phones) == phones
    assert in_milliseconds(found.words) == words


@pytest.mark.parametrize(
    ("utterance", "phones"), [("u1", SIL_HH), ("u2", [(0, 100, "s")]), ("spk/u2", [(0, 100, "s")])]
)
def test_a_master_label_file_holds_many_clips(tmp_path, utterance, phones):
    assert in_milliseconds(read(tmp_path, "a.mlf", MLF, utterance=utterance).phones) == phones


@pytest.mark.parametrize(("phones", "words"), [("a.phones", "a.words"), ("a.PHONES", "a.WORDS")])
def test_buckeye_has_words_in_a_file_beside(tmp_path, phones, words):
    (tmp_path / words).write_text(XLABEL + " 0.25 122 <SIL>; S\n 0.4 122 he; hh iy; hh; PRP\n")
    found = read(tmp_path, phones, XLABEL + " 0.25 122 SIL\n 0.4 122 hh\n")
    assert in_milliseconds(found.words) == [(0, 250, "<SIL>"), (250, 400, "he")]
    assert len(found.phones) == 2


# ---- small overlaps
CUT = "segments cut where the next one starts"


@pytest.mark.parametrize(
    ("words", "ends"),
    [
        ("0 11362 she\n11362 16000 had\n15420 17503 your\n", [11362, 15420, 17503]),
        ("5723 10337 she\n9190 11517 had\n", [9190, 11517]),
    ],
)
def test_words_of_timit_share_a_phone(tmp_path, words, ends):
    (tmp_path / "SA1.WRD").write_text(words)
    phones = "0 5723 h#\n5723 9190 sh\n9190 10337 iy\n10337 15420 hv\n15420 16000 jh\n16000 17503 axr\n"
    found = read(tmp_path, "SA1.PHN", phones)
    assert [round(s.end * 16_000) for s in found.words] == ends
    assert [f"{s.start * 16_000:.0f} {s.end * 16_000:.0f} {s.label}" for s in found.phones] == phones.splitlines()
    assert found.changes == {CUT: 1}
    assert (found.within(0, 1).changes, found.within(1, 2).changes) == ({CUT: 1}, {})


def test_neighbours_in_a_ctm_overlap_by_a_frame(tmp_path):
    found = read(tmp_path, "a.ctm", "u 1 0.10 0.11 sh\nu 1 0.20 0.11 iy\nu 1 0.30 0.01 t\n")
    assert in_milliseconds(found.phones) == [(100, 200, "sh"), (200, 300, "iy"), (300, 310, "t")]
    assert found.changes == {CUT: 2}
    with pytest.raises(ValueError, match="segments of u overlap: 'sh' ends at 0.3 s"):
        read(tmp_path, "a.ctm", "u 1 0.10 0.20 sh\nu 1 0.20 0.11 iy\n")


# ---- alternatives
ALTERNATIVES = """u A * * <ALT_BEGIN>
u A 0.0 0.1 sh
u A 0.1 0.1 iy
u A * * <ALT>
u A 0.0 0.2 s
u A * * <ALT>
u A * * @
u A * * <ALT_END>
u A 0.2 0.1 t
"""


def test_the_first_alternative_is_read_and_others_are_counted(tmp_path):
    found = read(tmp_path, "a.ctm", ALTERNATIVES)
    assert [s.label for s in found.phones] == ["sh", "iy", "t"]
    assert found.changes == {"labels of alternatives left out": 1}
    assert len(read_ctm(tmp_path / "a.ctm")["u"]) == 3


# ---- channels and speakers
CALL = "c A 0.0 0.5 sh\nc B 0.2 0.5 iy\nc A 0.5 0.5 t\n"
PANEL = "c 1 0.0 0.5 sh 1 lex anna\nc 1 0.2 0.5 iy 1 lex ben\nc 1 0.5 0.5 t 1 lex anna\n"


@pytest.mark.parametrize(
    ("text", "choice", "labels"),
    [
        (CALL, {"channel": "A"}, "sh t"),
        (CALL, {"channel": "b"}, "iy"),
        (CALL, {"channel": 0}, "sh t"),
        (CALL, {"channel": 1}, "iy"),
        (CALL.replace("A", "1").replace("B", "2"), {"channel": 1}, "iy"),
        (CALL.replace("A", "0").replace("B", "1"), {"channel": 1}, "iy"),
        (CALL.replace("A", "1").replace("B", "2"), {"channel": "B"}, "iy"),
        (CALL.replace("A", "0").replace("B", "1") + "d 1 0 1 s\n", {"channel": 1, "utterance": "d"}, "s"),
        (PANEL, {"speaker": "ben"}, "iy"),
        (PANEL, {"speaker": "Anna"}, "sh t"),
        ("c 1 0 1 sh\n", {"channel": 1, "speaker": "ben"}, "sh"),  # Kaldi's channel is always 1, and tells nothing
    ],
)
def test_one_voice_of_a_ctm_is_read(tmp_path, text, choice, labels):
    assert " ".join(s.label for s in read(tmp_path, "a.ctm", text, **choice).phones) == labels


@pytest.mark.parametrize(
    ("text", "choice", "message"),
    [
        (CALL, {}, "has the channels 'A', 'B'; say which with channel="),
        (CALL, {"channel": 2}, "has the channels 'A', 'B', but not 2"),
        (CALL.replace("B", "A"), {"channel": 0}, "are two speakers in one tier"),
        ("c A 0 1 sh\n", {"channel": 1}, "has the channels 'A', but not 1"),
        (PANEL, {}, "has the speakers 'anna', 'ben'; say which with speaker="),
        (PANEL, {"speaker": "cora"}, "has the speakers 'anna', 'ben', but not 'cora'"),
    ],
)
def test_voices_are_not_guessed(tmp_path, text, choice, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, "a.ctm", text, **choice)


def test_words_are_of_the_channel_of_the_phones(tmp_path):
    (tmp_path / "words.ctm").write_text("c 1 0.0 1.0 she\nc 2 0.2 0.5 he\n")
    found = read(tmp_path, "phones.ctm", CALL, words=tmp_path / "words.ctm", channel="B")
    assert [s.label for s in (*found.phones, *found.words)] == ["iy", "he"]
    with pytest.raises(ValueError, match="words.ctm has the channels '1', '2', but not 'C'"):
        read(tmp_path, "phones.ctm", "c C 0 1 sh\nc D 0 1 s", words=tmp_path / "words.ctm", channel="C")
    with pytest.raises(ValueError, match="has the channels"):
        read_ctm(tmp_path / "words.ctm")


# ---- what is refused
REFUSED = {
    "turns of NIST": (
        "a.stm",
        "f A anna 0.0 1.0 <o> hello\n",
        "a.stm holds NIST STM: turns of speakers without phones",
    ),
    "turns of a diariser": ("a.rttm", "SPEAKER f 1 0 1 <NA> <NA> a <NA>\n", "a.rttm holds NIST RTTM: turns"),
    "words of TIMIT": ("a.WRD", "0 100 she\n", "holds TIMIT words; name the .phn"),
    "words of Buckeye": ("a.words", XLABEL, "holds Buckeye words; name the .phones"),
    "ELAN": ("a.eaf", "<xml/>", "ELAN document; export it as a Praat TextGrid"),
    "a transcript": ("a.lab", "she had your dark suit\n", "a.lab holds text without times, a transcript"),
    "seconds for HTK": ("a.lab", "0.0 0.25 sil\n", "whole units of 100 ns; are these seconds"),
    "nothing": ("a.lab", "\n", "has no phones: tier 'phones' is empty"),
    "states of HTK": ("a.lab", "0 1 s2\n1 2 s3\n", "holds HTK states without phones; run HVite with -m"),
    "no header": ("a.phones", "0.5 122 sil\n", "no label file of xwaves"),
    "time goes back": ("a.phones", XLABEL + " 0.5 122 s\n 0.4 122 t\n", "line 7: .* the end in seconds and after"),
    "no master label file": ("a.mlf", MLF[8:], "no HTK master label file"),
    "a master label file cut off": ("a.mlf", MLF[:-2], "ends inside '/data/spk/u2', without the dot"),
    "a master label file of two": ("a.mlf", MLF, "holds 2 utterances; say which"),
    "a master label file as one clip": ("a.lab", MLF, "master label file of HTK, with many clips; rename it to .mlf"),
    "folders in a master label file": ("a.mlf", MLF.replace('lab"', 'lab" -> "x"'), "line 2: .* names no file"),
    "an empty CTM": ("a.ctm", ";; nothing\n", "holds no utterances; is it empty"),
    "times unknown": ("a.ctm", "u A * * sh\n", "line 1: .*unknown time"),
    "alternatives cut off": ("a.ctm", ALTERNATIVES[:50], "have no <ALT_END>; was the file cut off"),
    "alternatives of nothing": ("a.ctm", "u A * * <ALT_END>\n", "out of order"),
    "Kaldi's phone numbers": ("a.ctm", "u 1 0 .1 12\nu 1 .1 .2 7\n", r"numbers in place of phones .12, 7.; .*int2sym"),
    "Latin-1": ("a.ctm", "u 1 0 .1 \xe4\n".encode("latin-1"), "neither UTF-8 nor UTF-16"),
    "gzip data cut off": ("a.ctm.gz", gzip.compress(b"u 1 0 1 s\n")[:-9], "damaged gzip data"),
    "other JSON": ("a.json", '{"text": "hi", "speaker": 3}', "JSON with 'text', 'speaker'; expected `tiers`"),
    "JSON cut off": ("a.json", '{"tiers": {"phones": ', "damaged JSON .* was it cut off"),
    "JSON of other tiers": ("a.json", '{"end": 1, "tiers": {"phones": [1]}}', "malformed tiers"),
    "other CSV": ("a.csv", "path,text\na.wav,hi\n", "CSV with the columns path, text; expected Begin, End"),
    "CSV without a time": ("a.csv", "Begin,End,Label,Type\n,0.5,s,phones\n", "line 2"),
    "an unknown suffix": ("a.npy", b"\x93NUMPY", "no alignment that can be read; expected a file with one of"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_files_are_refused_by_name(tmp_path, case):
    name, text, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path, name, text)
    assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.TextGrid", "", True),
        ("A.PHN", "0 1 h#", True),
        ("a.lab", "0 2500000 sil\n", True),
        ("a.lab", XLABEL + " 0.5 122 sil\n", True),
        ("a.lab", "she had your dark suit\n", False),
        ("a.lab", "2 times 3\n", False),
        ("a.json", '{"start": 0, "end": 1, "tiers": {}}', True),
        ("a.json", '{"text": "hi"}', False),
        ("a.csv", "Begin,End,Label,Type,Speaker\r\n", True),
        ("a.csv", "path,text\n", False),
        ("a.txt", "0 1 h#", False),
    ],
)
def test_alignments_are_told_from_other_files(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    assert is_alignment(tmp_path / name) is expected
    assert not is_alignment(tmp_path / "none.TextGrid")
