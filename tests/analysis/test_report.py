"""Reports hold every number, once in each of their forms, and nothing that has to be fetched."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile

from flexicodec.analysis.asking import study
from flexicodec.analysis.figures.style import canvas
from flexicodec.analysis.gather import gather
from flexicodec.analysis.report import Document, Figure, List, Number, Prose, Section, Table, make_report, write
from flexicodec.analysis.report.pages import to_html, to_markdown
from flexicodec.analysis.study import Options
from flexicodec.corpus import Utterance
from flexicodec.statistics import Interval


class Reader(HTMLParser):
    """Collects tags and their attributes, and sees that what is opened is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def document(studied):
    return make_report(studied, {"model": "tiny <whole>", "manifest": "made & up"})


@pytest.fixture(scope="module")
def folder(document, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write(document, folder)
    return folder


def test_a_page_needs_nothing_beside_it(folder):
    text = (folder / "report.html").read_text()
    page = Reader(text)
    assert not page.all("link")
    assert not page.all("script")
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    assert not re.search(r"url\(|@import|https?://", text)
    assert {each["name"] for each in page.all("meta") if "name" in each} == {"viewport"}
    assert "prefers-color-scheme: dark" in text


def test_every_picture_says_what_it_shows(document, folder):
    page = Reader((folder / "report.html").read_text())
    names = [figure.name for figure in document.figures()]
    assert len(set(names)) == len(names) == len(page.all("img")) == 13
    assert all(len(image["alt"]) > 20 for image in page.all("img"))
    assert {path.stem for path in (folder / "figures").iterdir()} == set(names)


def test_contents_lead_to_sections(document, folder):
    page = Reader((folder / "report.html").read_text())
    assert [each["href"] for each in page.all("a")] == [f"#{each['id']}" for each in page.all("section")]
    assert len(page.all("section")) == len(document.sections) == 9


def test_what_was_typed_is_escaped(folder):
    text = (folder / "report.html").read_text()
    assert "tiny &lt;whole&gt;" in text
    assert "made &amp; up" in text
    assert "<whole>" not in text


def test_every_number_is_in_the_json_with_its_unit(document, folder):
    held = json.loads((folder / "numbers.json").read_text())
    assert held["about"]["model"] == "tiny <whole>"
    assert held["about"]["clips"] == 12
    assert len(held["numbers"]) > 300
    assert all({"table", "row", "column", "value", "unit"} <= each.keys() for each in held["numbers"])
    places = [(each["table"], each["row"], each["column"]) for each in held["numbers"]]
    assert len(set(places)) == len(places)
    r = next(n for n in held["numbers"] if n["table"] == "correlations" and n["column"] == "Pearson r, bootstrap")
    assert r["low"] <= r["value"] <= r["high"]
    assert (r["level"], r["items"], r["clusters"]) == (0.95, 12, 3)


def test_the_paper_stands_beside(folder):
    text = (folder / "report.md").read_text()
    assert "0.775" in text
    assert "TIMIT" in text


def test_both_forms_have_the_same_tables(document, folder):
    markdown = (folder / "report.md").read_text()
    page = " ".join("".join(Reader((folder / "report.html").read_text()).text).split())
    for section in document.sections:
        for table in (block for block in section.blocks if isinstance(block, Table)):
            assert table.caption in markdown
            for row in table.rows:
                assert "| " + " | ".join(str(cell) for cell in row) + " |" in markdown
                assert str(row[0]) in page


def test_a_report_of_counts_is_shorter(listening_codec, utterances):

    from flexicodec.analysis.gather import gather

    counted = gather(listening_codec, [replace(u, alignment=None) for u in utterances[:6]], frame_rates=(6.25,))
    text = to_markdown(make_report(study(counted, Options(resamples=20, draws=1)), {}))
    assert "nothing to hold boundaries against" in text
    assert "Phones are counted from texts" in text


def test_a_report_of_one_clip_says_what_is_missing(listening_codec, utterances, tmp_path):

    single = gather(listening_codec, utterances[:1], thresholds=(0.9,), source="recogniser")
    document = make_report(study(single, Options(resamples=20, draws=1)), {})
    write(document, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "What could not be answered" in text
    assert "Frame rate against letter rate" in text
    assert "letters of a text, not phones" in text


# ------------------------------------------------------------------------------------------------------ its parts


def test_numbers_as_they_are_written():
    assert str(Number(0.12345, "1", digits=2)) == "0.12"
    assert str(Number(math.nan, "1")) == "–"
    assert str(Number.of(Interval(0.5, 0.25, 0.75, 0.95, 9, 3), "Hz", digits=1)) == "0.5 [0.2, 0.8]"
    assert str(Number.of(Interval(0.5, math.nan, math.nan, 0.95, 9, 1), "Hz")) == "0.500"


def test_numbers_as_json_has_them():
    known = Number.of(Interval(0.5, 0.25, math.inf, 0.9, 9, 3), "Hz", "a guess").as_dict()
    assert known.pop("how") == "a guess"
    assert known == {"value": 0.5, "unit": "Hz", "low": 0.25, "high": None, "level": 0.9, "items": 9, "clusters": 3}
    assert Number(math.nan, "1").as_dict() == {"value": None, "unit": "1"}


def test_tooltips_say_what_a_number_is():
    table = Table("t", "caption", ("row", "r"), (("first", Number.of(Interval(0.5, 0.2, 0.8, 0.95, 9, 3), "Hz")),))
    page = Reader(to_html(Document("title", "lead", (Section("A section", (table,)),)), {}))
    assert page.all("td")[1]["title"] == "Hz, 95 % interval, 9 items, 3 clusters"


def test_rows_have_a_cell_for_each_column():
    with pytest.raises(ValueError, match="table 't' has 2 columns, but a row of 1 cells"):
        Table("t", "", ("a", "b"), (("only",),))


def test_bars_in_cells_do_not_break_a_table():
    table = Table("t", "caption", ("a", "b"), (("x | y", 3),))
    blocks = (Prose("Text."), List(("one", "two")), table, Figure("f", "caption", "alt", canvas()[0]))
    text = to_markdown(Document("Title", "Lead.", (Section("Part", blocks),)))
    assert "| x \\| y | 3 |" in text
    assert "- one\n- two" in text
    assert "![alt](figures/f.png)" in text


def drawing(blocks, name):
    return next(block for block in blocks if isinstance(block, Figure) and block.name == name).drawing


def blocks_of(document):
    return [block for section in document.sections for block in section.blocks]


def test_lines_have_their_bands_and_correlations_their_tau(document, studied):
    scatter = drawing(blocks_of(document), "scatter").axes[0]
    bands = [
        each for each in scatter.collections if type(each).__name__ in ("PolyCollection", "FillBetweenPolyCollection")
    ]
    assert len(bands) == 2
    top = drawing(blocks_of(document), "sweep").axes[0].child_axes[0]
    assert top.get_xlabel() == "tau"
    assert [tick.get_text() for tick in top.get_xticklabels()] == [f"{point.threshold:.3f}" for point in studied.sweep]


def test_clips_shorter_than_a_frame_are_left_out_of_spreads(listening_codec, utterances, tmp_path):
    soundfile.write(tmp_path / "click.wav", np.zeros(1), 16_000)
    click = Utterance(tmp_path / "click.wav", 1 / 16_000, id="click")

    def rates(listed):
        page = make_report(study(gather(listening_codec, listed, thresholds=(0.9,)), Options(20, 2)), {})
        return next(block for block in blocks_of(page) if isinstance(block, Table) and block.name == "rates")

    with_click, without = rates([*utterances, click]), rates(utterances)
    assert "Clips shorter than a frame, 1 here, are left out of it." in with_click.caption
    assert "shorter than a frame" not in without.caption
    assert with_click.rows[0][3:5] == without.rows[0][3:5]
