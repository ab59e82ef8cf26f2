"""TextGrids are read whole or not at all, and the tiers of two speakers are never mixed."""

import json

import pytest

from flexicodec.corpus.alignments.alignment import Segment, read_alignment

PHONES = [(0.0, 0.5, "SH"), (0.5, 0.75, 'say "!" 5'), (0.75, 1.0, "")]
WORDS = [(0.0, 0.75, "she"), (0.75, 1.0, "")]
HEAD = 'File type = "ooTextFile"\nObject class = "TextGrid"\n\n'


def long_grid(tiers):
    """Praat's long text format of tiers: name to intervals, or points of two values."""
    text = HEAD + f"xmin = 0 \nxmax = 1 \ntiers? <exists> \nsize = {len(tiers)} \nitem []: \n"
    for i, (name, entries) in enumerate(tiers, start=1):
        points = len(entries[0]) == 2
        kind, what = ("TextTier", "points") if points else ("IntervalTier", "intervals")
        text += f'    item [{i}]:\n        class = "{kind}" \n        name = "{name}" \n'
        text += f"        xmin = 0 \n        xmax = 1 \n        {what}: size = {len(entries)} \n"
        for j, (*times, label) in enumerate(entries, start=1):
            text += f"        {what} [{j}]:\n"
            for name_of_time, time in zip(("number",) if points else ("xmin", "xmax"), times, strict=True):
                text += f"            {name_of_time} = {time} \n"
            label = label.replace('"', '""')
            text += f'            {"mark" if points else "text"} = "{label}" \n'
    return text


def short_grid(tiers):
    text = HEAD + f"0\n1\n<exists>\n{len(tiers)}\n"
    for name, entries in tiers:
        text += f'"IntervalTier"\n"{name}"\n0\n1\n{len(entries)}\n'
        for start, end, label in entries:
            label = label.replace('"', '""')
            text += f'{start}\n{end}\n"{label}"\n'
    return text


def json_grid(tiers):
    entries = {name: {"type": "IntervalTier", "entries": entries} for name, entries in tiers}
    return json.dumps({"start": 0, "end": 1, "tiers": entries})


FORMS = {"long": long_grid, "short": short_grid, "json": json_grid}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.TextGrid"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_all_forms_say_the_same(path, form, encoding, line_end):
    text = FORMS[form]([("words", WORDS), ("phones", PHONES)])
    path.write_bytes(text.replace("\n", line_end).encode(encoding))
    found = read_alignment(path)
    assert found.phones == tuple(Segment(*each) for each in PHONES)
    assert found.words == tuple(Segment(*each) for each in WORDS)


@pytest.mark.parametrize("form", FORMS)
def test_no_part_of_a_textgrid_is_taken_as_whole(path, form):
    text = FORMS[form]([("phones", PHONES), ("words", WORDS)]).rstrip()
    for length in (*range(0, len(text), 5), len(text) - 1):
        path.write_text(text[:length])
        with pytest.raises(ValueError, match=r"a\.TextGrid"):
            read_alignment(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (long_grid([("phones", PHONES)]).replace("size = 3", "size = 2"), "3 values follow the 1 tiers"),
        (long_grid([("phones", PHONES)]).replace("size = 3", "size = 4"), "interval 4 of 4 in tier 'phones' is due"),
        (short_grid([("phones", PHONES)]).replace("<exists>\n1", "<exists>\n2"), "tier 2 of 2 is due"),
        (
            long_grid([("phones", PHONES)]).replace("size = 3", "size = 2.5"),
            "size of tier 1 of 1 is 2.5; expected a whole",
        ),
        (short_grid([("phones", PHONES)]).replace("IntervalTier", "Tier"), "tier 1 of 1 is of class 'Tier'"),
        (long_grid([("phones", PHONES)]).replace("xmax = 0.5", "xmax = half"), "was it cut off"),
        (long_grid([("phones", [(0.0, "SH"), (0.5, "IY")])]), "tier 'phones' holds points in time"),
        (long_grid([("phones", PHONES), ("phones", PHONES)]), "has 2 tiers named 'phones'"),
        (long_grid([("phones", [(0.0, 1.0, "")])]), "has no phones: tier 'phones' is empty"),
        (long_grid([("phones", [(0.5, 0.25, "SH")])]), "tier 'phones': segment 'SH' runs from 0.5 to 0.25"),
        (long_grid([("phones", [(0, 0.6, "SH"), (0.5, 1, "IY")])]), "overlap"),
        ('"Praat chronological TextGrid text file"\n0 1\n', "chronological TextGrid; open it in Praat"),
        ("ooBinaryFile\x08TextGrid\0\0", "binary TextGrid; open it in Praat and save it as a text file"),
        (HEAD.replace('"TextGrid"', '"PitchTier"') + "0\n1\n0\n", "no TextGrid that can be read"),
    ],
)
def test_damaged_and_other_grids_are_refused(path, text, message):
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_alignment(path)


def test_numbers_are_read_as_praat_writes_them(path):
    path.write_text(long_grid([("phones", [("6.5e-05", 0.5, "SH"), (0.5, "1", "IY")])]) + "! a remark\n")
    assert read_alignment(path).phones == (Segment(6.5e-05, 0.5, "SH"), Segment(0.5, 1.0, "IY"))


def test_intervals_are_preferred_to_points_of_a_like_name(path):
    path.write_text(long_grid([("phone", [(0.1, "x")]), ("phones", PHONES)]))
    assert len(read_alignment(path).phones) == 3


def test_phones_do_not_depend_on_words_that_are_points(path):
    path.write_text(long_grid([("phones", PHONES), ("words", [(0.1, "x")])]))
    found = read_alignment(path)
    assert (len(found.phones), found.words) == (3, ())
    assert found.changes == {"tiers of words left out, which hold points": 1}


@pytest.mark.parametrize("phones", ["phones", "anna - phones"])
def test_words_of_speakers_without_phones_are_counted(path, phones):
    path.write_text(grid_of(phones, "ben - words", "cora - words"))
    found = read_alignment(path)
    assert (len(found.phones), found.words) == (1, ())
    assert found.changes == {"tiers of words left out, whose speakers have no phones": 1}


# ---- speakers
def grid_of(*names):
    """Tiers whose only label is the name of the tier."""
    return long_grid([(name, [(0.0, 1.0, name)]) for name in names])


MFA = ("anna - words", "anna - phones", "ben - words", "ben - phones")


@pytest.mark.parametrize(
    ("names", "choice", "phones", "words"),
    [
        (MFA, {"speaker": "anna"}, "anna - phones", "anna - words"),
        (MFA, {"speaker": "BEN"}, "ben - phones", "ben - words"),
        (MFA[1:3] + MFA[3:], {"speaker": "anna"}, "anna - phones", None),  # words of the other are not hers
        (MFA[:2], {}, "anna - phones", "anna - words"),
        (MFA, {"phone_tier": "ben - phones"}, "ben - phones", "ben - words"),
        (("A - phones", "B - phones", "B - words"), {"channel": 1, "speaker": "x"}, "B - phones", "B - words"),
        (("phones", "words"), {"speaker": "anna", "channel": 1}, "phones", "words"),
        (("anna_phones", "ben_phones", "ben_words"), {"speaker": "ben"}, "ben_phones", "ben_words"),
        (("phones (anna)", "words (anna)"), {}, "phones (anna)", "words (anna)"),
        (("phones_v2", "words"), {}, "phones_v2", "words"),
        (("MAU", "ORT-MAU", "KAN-MAU"), {}, "MAU", "ORT-MAU"),
        (("MAU", "phones"), {}, "phones", None),
    ],
)
def test_tiers_of_one_speaker_are_read(path, names, choice, phones, words):
    path.write_text(grid_of(*names))
    found = read_alignment(path, **choice)
    assert [s.label for s in (*found.phones, *found.words)] == [each for each in (phones, words) if each]


@pytest.mark.parametrize(
    ("names", "choice", "message"),
    [
        (MFA, {}, "has the speakers 'anna', 'ben'; say which with speaker="),
        (MFA, {"speaker": "cora"}, "has the speakers 'anna', 'ben', but not 'cora'"),
        (MFA[:2], {"speaker": "ben"}, "has the speakers 'anna', but not 'ben'"),
        (("phones", "ben - phones"), {}, "has the speakers one without a name, 'ben'; say which"),
        (("anna_phones", "ben_phones"), {}, "has the speakers 'anna', 'ben'"),
    ],
)
def test_speakers_are_not_guessed(path, names, choice, message):
    path.write_text(grid_of(*names))
    with pytest.raises(ValueError, match=message):
        read_alignment(path, **choice)
