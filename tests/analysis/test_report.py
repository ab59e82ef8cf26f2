"""The report has every number of a study, in a self-contained page and in numbers.json."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile

from flexicodec.analysis.collect import collect
from flexicodec.analysis.report import Number, _digit_rows, make_figures, make_tables, to_html, write_report
from flexicodec.analysis.run_study import StudyOptions, run_study
from flexicodec.corpus import Utterance
from flexicodec.statistics import Interval

QUICK = StudyOptions(resamples=20, draws=1)


class Page(HTMLParser):
    """Collects tags and their attributes, and checks that every opened tag is closed."""

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


def page_text(folder):
    """Return the text of a page as a reader sees it."""
    return " ".join("".join(Page((folder / "report.html").read_text()).text).split())


@pytest.fixture(scope="module")
def folder(studied, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_report(studied, {"model": "tiny <whole>", "manifest": "made & up"}, folder)
    return folder


def test_the_page_loads_nothing(folder):
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert not page.all("link")
    assert not page.all("script")
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    assert not re.search(r"url\(|@import|https?://", text)
    assert {each["name"] for each in page.all("meta") if "name" in each} == {"viewport"}
    assert "prefers-color-scheme: dark" in text


def test_every_figure_is_embedded_with_a_description_and_is_a_file(studied, folder):
    page = Page((folder / "report.html").read_text())
    names = set(make_figures(studied))
    assert len(names) == len(page.all("img")) == 13
    assert all(len(image["alt"]) > 20 for image in page.all("img"))
    assert {path.stem for path in (folder / "figures").iterdir()} == names


def test_contents_link_to_sections(folder):
    page = Page((folder / "report.html").read_text())
    assert [each["href"] for each in page.all("a")] == [f"#{each['id']}" for each in page.all("section")]
    assert len(page.all("section")) == 9


def test_names_are_escaped(folder):
    text = (folder / "report.html").read_text()
    assert "tiny &lt;whole&gt;" in text
    assert "made &amp; up" in text
    assert "<whole>" not in text


def test_every_number_is_in_the_json_with_its_unit(folder):
    numbers = json.loads((folder / "numbers.json").read_text())
    assert numbers["about"]["model"] == "tiny <whole>"
    assert numbers["about"]["clips"] == 12
    assert len(numbers["numbers"]) > 300
    assert all({"table", "row", "column", "value", "unit"} <= each.keys() for each in numbers["numbers"])
    places = [(each["table"], each["row"], each["column"]) for each in numbers["numbers"]]
    assert len(set(places)) == len(places)
    r = next(n for n in numbers["numbers"] if n["table"] == "correlations" and n["column"] == "Pearson r, bootstrap")
    assert r["low"] <= r["value"] <= r["high"]
    assert (r["level"], r["items"], r["clusters"]) == (0.95, 12, 3)


def test_every_table_and_cell_is_on_the_page(studied, folder):
    text = page_text(folder)
    tables = make_tables(studied)
    assert text.count("setting, over: null") == 1
    assert len(Page((folder / "report.html").read_text()).all("table")) == len(tables)
    for rows in tables.values():
        for row in rows:
            for heading, cell in row.items():
                assert heading in text
                assert " ".join(str(cell).split()) in text


def test_numbers_of_the_summary_are_those_of_the_tables(studied, folder):
    summary = page_text(folder).split("Summary")[2].split("Data")[0]
    speech = studied.main.phone_rate["speech"]
    assert f"over {speech.clips} clips: r = {speech.pearson.bca}" in summary
    for beside in studied.main.excess.values():
        assert f"{beside['pearson'].null_value:.3f}, difference {beside['pearson'].excess}" in summary
    assert "0.775 on TIMIT" in summary


def test_the_answer_comes_first(studied, folder):
    text = page_text(folder)
    r = studied.main.phone_rate["speech"].pearson.bca
    assert f"correlate with r = {r}" in text.split("Summary")[0]
    page = (folder / "report.html").read_text()
    assert page.index("Scatter plot of tokens") < page.index("<nav>")


def test_tables_fit_a_page_of_1280_pixels(studied, folder):
    """By the longest words of each column: 6.6 px a character at .78 rem, .35 rem of padding on either side."""
    for name, rows in make_tables(studied).items():
        width = 0
        for column in rows[0]:
            words = [word for row in rows for word in str(row.get(column, "")).split(" ")] + column.split(" ")
            width += 6.6 * max(map(len, words)) + 11.2
        assert width < 1184 - 32, (name, width)


def test_phones_that_are_all_one_have_no_share(studied):
    digits = studied.main.digits
    one = replace(digits, phone_entropy=0.0)
    shares = [row["share of the phones' entropy"] for row in _digit_rows("x", one)]
    assert all(math.isnan(share.value) for share in shares)


def test_a_report_of_counts_is_shorter(listening_codec, utterances, tmp_path):
    counted = collect(listening_codec, [replace(u, alignment=None) for u in utterances[:6]], frame_rates=(6.25,))
    write_report(run_study(counted, QUICK), {}, tmp_path)
    text = page_text(tmp_path)
    assert "there are no boundaries to compare" in text
    assert "Phones are counted from texts" in text


def test_a_report_of_one_clip_says_what_is_missing(listening_codec, utterances, tmp_path):
    single = collect(listening_codec, utterances[:1], thresholds=(0.9,), source="recogniser")
    write_report(run_study(single, QUICK), {}, tmp_path)
    text = page_text(tmp_path)
    assert "Not computed: frame rate against phone rate: 1 clips" in text
    assert "Frame rate against letter rate" in text
    assert "letters of a text are counted, not phones" in text


@pytest.mark.slow
def test_clips_shorter_than_a_frame_are_left_out_of_spreads(listening_codec, utterances, tmp_path):
    soundfile.write(tmp_path / "click.wav", np.zeros(1), 16_000)
    click = Utterance(tmp_path / "click.wav", 1 / 16_000, id="click")

    def rates(listed, folder):
        study = run_study(collect(listening_codec, listed, thresholds=(0.9,)), QUICK)
        write_report(study, {}, folder)
        return make_tables(study)["rates"][0], page_text(folder)

    with_click, page_with_click = rates([*utterances, click], tmp_path / "with")
    without, page_without = rates(utterances, tmp_path / "without")
    assert "Clips shorter than a frame, 1 here, are not in the spread." in page_with_click
    assert "shorter than a frame" not in page_without.split("Frame rates")[2].split("Token contents")[0]
    for column in ("spread (Hz)", "middle 90 % (Hz)"):
        assert with_click[column] == without[column]


# ------------------------------------------------------------------------------------------------------------ numbers


def test_numbers_as_text():
    assert str(Number(0.12345, "1", 2)) == "0.12"
    assert str(Number(math.nan, "1")) == "–"
    assert str(Number(Interval(0.5, 0.25, 0.75, 0.95, 9, 3), "Hz", 1)) == "0.5 [0.2,\u00a00.8]"
    assert str(Number(Interval(0.5, math.nan, math.nan, 0.95, 9, 1), "Hz")) == "0.500"


def test_numbers_as_json():
    known = Number(Interval(0.5, 0.25, math.inf, 0.9, 9, 3), "Hz", how="a guess").as_dict()
    assert known.pop("how") == "a guess"
    assert known == {"value": 0.5, "unit": "Hz", "low": 0.25, "high": None, "level": 0.9, "items": 9, "clusters": 3}
    assert Number(math.nan, "1").as_dict() == {"value": None, "unit": "1"}


def test_tooltips_explain_a_number():
    rows = [{"row": "first", "r": Number(Interval(0.5, 0.2, 0.8, 0.95, 9, 3), "Hz")}, {"row": "a < b"}]
    page = Page(to_html(rows))
    assert page.all("span")[0]["title"] == "unit Hz, items 9, level 0.95, clusters 3"
    assert "a < b" in page.text  # escaped in the source
    assert "–" in page.text  # a row without this column
