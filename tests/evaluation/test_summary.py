"""Summaries of rows whose numbers are known."""

import json

import numpy as np
import pytest

from flexicodec.evaluation import metrics, mos, signal
from flexicodec.evaluation.plots import at_chance, choose, front, plot_quality
from flexicodec.evaluation.report import main_table, markdown, notes, verdict, write_report
from flexicodec.evaluation.rows import as_json
from flexicodec.evaluation.summary import Table, opponents, summarise
from flexicodec.statistics import bootstrap

RUN = {
    "names": ["stoi", "mel_distance", "wer.ctc:x", "cer.ctc:x"],
    "normaliser": "basic",
    "rules": "as they are",
    "clips": 40,
    "seconds": 200.0,
    "version": "0",
    "systems": {},
    "settings": {},
}
CLIPS = 40


def rows_of(system, setting, stoi, rate=10.0, **asked):
    """Rows of forty clips of eight speakers in two corpora, with word errors that are 1 for each."""
    random = np.random.default_rng(5)
    lengths = random.integers(2, 9, CLIPS)
    return [
        {
            "id": f"c{i}",
            "speaker": f"s{i % 8}",
            "corpus": "a" if i < 10 else "b",
            "seconds": float(lengths[i]),
            "system": system,
            "setting": setting,
            "asked": asked,
            "stoi": float(stoi[i]),
            "mel_distance": 1.0 - float(stoi[i]),
            "frame_rate_hz": rate + (i % 2),
            "bitrate_kbps": (rate + (i % 2)) / 10,
            "file_kbps": None,
            "transcripts": {
                "ctc:x": {
                    "word_errors": 1,
                    "words": int(lengths[i]),
                    "character_errors": 2,
                    "characters": 20,
                    "text": "",
                }
            },
        }
        for i in range(CLIPS)
    ]


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(0)
    base = 0.6 + 0.05 * random.standard_normal(CLIPS)
    truth = rows_of("ground truth", "", np.ones(CLIPS))
    for row in truth:
        del row["frame_rate_hz"], row["bitrate_kbps"]
    return [
        *truth,
        *rows_of("one", "6 Hz", base, 6.0, frame_rate=6.0, codebooks=2),
        *rows_of("one", "12 Hz", base + 0.01, 12.0, frame_rate=12.0, codebooks=2),
        *rows_of("two", "6 Hz", base + random.standard_normal(CLIPS) * 0.2, 6.0, frame_rate=6.0, codebooks=4),
    ]


@pytest.fixture(scope="module")
def summary(rows):
    return summarise(rows, RUN, resamples=800)


def values(rows, system, setting, name):
    return np.array([row[name] for row in rows if (row["system"], row["setting"]) == (system, setting)])


def test_means_and_their_intervals_are_those_of_bootstrap(rows, summary):
    stoi = values(rows, "one", "6 Hz", "stoi")
    score = summary.find("one, 6 Hz").scores["stoi"]
    wanted = bootstrap(np.mean, stoi, resamples=800)
    assert (score.clips.value, score.clips.low, score.clips.high) == pytest.approx(
        (stoi.mean(), wanted.low, wanted.high)
    )
    speakers = [f"s{i % 8}" for i in range(CLIPS)]
    wanted = bootstrap(np.mean, stoi, clusters=speakers, resamples=800)
    assert (score.speakers.low, score.speakers.high) == pytest.approx((wanted.low, wanted.high))
    assert (score.clips.clusters, score.speakers.clusters, summary.speakers) == (CLIPS, 8, 8)


def test_error_rates_and_rates_are_sums_over_sums(rows, summary):
    lengths = values(rows, "one", "6 Hz", "seconds")
    scores = summary.find("one, 6 Hz").scores
    assert scores["wer.ctc:x"].value == pytest.approx(CLIPS / lengths.sum())
    assert scores["cer.ctc:x"].value == pytest.approx(0.1)
    rates = values(rows, "one", "6 Hz", "frame_rate_hz")
    assert scores["frame_rate_hz"].value == pytest.approx((rates * lengths).sum() / lengths.sum())
    assert scores["bitrate_kbps"].value == pytest.approx(scores["frame_rate_hz"].value / 10)
    assert np.isnan(summary.find("ground truth").scores["bitrate_kbps"].value)


def test_differences_are_paired(summary):
    found = {(each.entry, each.against, each.metric): each for each in summary.comparisons}
    slower = found["one, 12 Hz", "one, 6 Hz", "stoi"]
    assert slower.difference.value == pytest.approx(0.01)
    assert slower.difference.clips.low == pytest.approx(0.01, rel=1e-4)  # the same for every clip, however clips differ
    assert slower.difference.clips.high == pytest.approx(0.01, rel=1e-4)
    assert verdict(slower) == "better"
    assert verdict(found["one, 12 Hz", "one, 6 Hz", "mel_distance"]) == "better"
    assert verdict(found["two, 6 Hz", "one, 6 Hz", "stoi"]) == "not clear"
    assert verdict(found["one, 12 Hz", "one, 6 Hz", "bitrate_kbps"]) == ""
    assert {(entry, against) for entry, against, _ in found} == {
        ("one, 12 Hz", "one, 6 Hz"),
        ("two, 6 Hz", "one, 6 Hz"),
    }


def entry_of(system, rate, codebooks, kbps, policy=None):
    rows = rows_of(system, f"{rate} Hz {policy}, {codebooks}", np.ones(CLIPS), frame_rate=rate, codebooks=codebooks)
    rows = [{**row, "bitrate_kbps": kbps, "asked": {**row["asked"], "policy": policy}} for row in rows]
    return summarise(rows, {**RUN, "names": []}, resamples=2).entries[0]


def test_within_a_system_rates_policies_and_codebooks_are_compared_one_at_a_time():
    entries = [entry_of("a", rate, count, rate * count) for rate in (12, 6) for count in (0, 7, 24)]
    entries.append(entry_of("a", 6, 7, 42, "uniform"))
    found = [[(each.asked["frame_rate"], each.asked["codebooks"]) for each in opponents(e, entries)] for e in entries]
    most = (12, 24)
    assert found == [[most], [most], [], [(12, 0), (6, 24)], [(12, 7), (6, 24)], [most], [(12, 7), (6, 7)]]


def test_systems_meet_at_the_same_setting_or_the_nearest_bitrate():
    first = [entry_of("a", 12, 24, 4.0), entry_of("a", 12, 7, 1.3), entry_of("a", 6, 7, 0.6)]
    second = [entry_of("b", 12, 7, 9.0), entry_of("b", 75, 7, 0.9), entry_of("b", 75, 2, float("nan"))]
    truth = summarise(rows_of("ground truth", "", np.ones(CLIPS)), {**RUN, "names": []}, resamples=2).entries
    entries = [*truth, *first, *second]
    found = [[each for each in opponents(one, entries) if each.system == "a"] for one in second]
    assert found == [[first[1]], [first[1]], []]  # the same label, the nearest ratio (0.9 to 1.3 and 0.6), none
    assert opponents(truth[0], entries) == []
    assert not [each for one in first for each in opponents(one, entries) if each.system != "a"]


def test_clips_without_a_text_are_counted(rows):
    changed = [dict(row) for row in rows]
    for row in changed:
        if int(row["id"][1:]) < 15:
            del row["transcripts"]
    for row in changed[15 : 4 * CLIPS : CLIPS]:
        counts = {"word_errors": 500, "words": 0, "character_errors": 900, "characters": 0, "text": "x"}
        row["transcripts"] = {"ctc:x": counts}
    summary = summarise(changed, RUN, resamples=50)
    entry = summary.find("one, 6 Hz")
    lengths = values(rows, "one", "6 Hz", "seconds")
    assert (entry.heard["wer.ctc:x"], entry.empty["wer.ctc:x"], entry.scores["wer.ctc:x"].clips.items) == (25, 1, 25)
    assert entry.scores["wer.ctc:x"].value == pytest.approx((24 + 500) / lengths[16:].sum())  # as jiwer counts
    assert entry.corpora["b"]["wer.ctc:x"] == entry.scores["wer.ctc:x"].value
    assert np.isnan(entry.corpora["a"]["wer.ctc:x"])
    said = "- All rows: WER/CER (ctc:x) on 25 of 40 clips; 15 have no text in the recogniser's language; in 1 the text"
    assert notes(summary).startswith(said)
    assert said in markdown(summary)


def test_rates_are_over_the_seconds_that_were_coded(rows):
    coded = [{**row, "coded_seconds": 2 * row["seconds"] - (index % 3)} for index, row in enumerate(rows)]
    mine = [row for row in coded if (row["system"], row["setting"]) == ("one", "6 Hz")]
    tokens = sum(row["frame_rate_hz"] * row["coded_seconds"] for row in mine)
    scores = summarise(coded, RUN, resamples=5).find("one, 6 Hz").scores
    assert scores["frame_rate_hz"].value == pytest.approx(tokens / sum(row["coded_seconds"] for row in mine))


def test_what_failed_or_is_not_defined_is_left_out_and_counted(rows):
    changed = [dict(row) for row in rows]
    changed[CLIPS]["stoi"] = None
    for row in changed[CLIPS + 1 : CLIPS + 3]:
        for name in ("stoi", "mel_distance", "transcripts", "frame_rate_hz", "bitrate_kbps"):
            del row[name]
        row["error"] = "no such file"
    summary = summarise(changed, RUN, resamples=50)
    entry = summary.find("one, 6 Hz")
    stoi = values(rows, "one", "6 Hz", "stoi")
    assert (entry.clips, entry.failed, entry.undefined) == (CLIPS - 2, 2, {"stoi": 1})
    assert entry.scores["stoi"].value == pytest.approx(stoi[3:].mean())
    assert entry.scores["mel_distance"].clips.items == CLIPS - 2
    paired = next(each for each in summary.comparisons if each.metric == "stoi")
    assert paired.difference.value == pytest.approx(0.01)
    assert paired.difference.clips.items == CLIPS - 3
    assert "one, 6 Hz: 2 clips failed" in notes(summary)
    assert "- STOI is not defined, and left out of the mean, on 1 of 38 clips (one, 6 Hz)." in notes(summary)


def test_what_is_not_defined_is_said_once_for_all_settings(rows):
    changed = [dict(row) for row in rows]
    for row in changed:
        if row["id"] == changed[0]["id"]:
            row["stoi"] = None
    said = notes(summarise(changed, RUN, resamples=5))
    assert f"on 1 of {CLIPS} clips (all rows).\n" in said + "\n"
    changed[CLIPS + 1]["stoi"] = None
    said = notes(summarise(changed, RUN, resamples=5))
    assert said.count("STOI is not defined") == 1
    assert f"; on 2 of {CLIPS} clips (one, 6 Hz). These means rest on different clips" in said


def test_corpora_by_themselves(rows, summary):
    stoi = values(rows, "two", "6 Hz", "stoi")
    found = summary.find("two, 6 Hz").corpora
    assert found["a"]["stoi"] == pytest.approx(stoi[:10].mean())
    assert found["b"]["stoi"] == pytest.approx(stoi[10:].mean())


def test_one_speaker_gives_no_interval_over_speakers(rows):
    table = Table([{**row, "speaker": "s"} for row in rows], resamples=50)
    score = table.score(("one", "6 Hz"), "stoi")
    assert np.isnan(score.speakers.low)
    assert np.isfinite(score.clips.low)


def test_clips_of_unknown_speakers_stand_for_themselves(rows):
    some = [{**row, "speaker": None if row["speaker"] == "s0" else row["speaker"]} for row in rows]
    table = Table(some, resamples=5)
    assert (table.speakers, table.score(("one", "6 Hz"), "stoi").speakers.clusters) == (7, 7 + CLIPS // 8)
    nobody = summarise([{**row, "speaker": None} for row in rows], RUN, resamples=5)
    assert nobody.speakers == 0
    assert np.isnan(nobody.find("one, 6 Hz").scores["stoi"].speakers.low)
    assert "40 clips of unknown speakers" in markdown(nobody)


def test_nothing_to_summarise_and_unknown_entries():
    with pytest.raises(ValueError, match="no rows"):
        summarise([], RUN)


def test_an_unknown_entry_is_answered_with_those_there_are(summary):
    with pytest.raises(ValueError, match="no 'three'; there are ground truth; one, 6 Hz"):
        summary.find("three")


# ---------------------------------------------------------------------------------------------------------- reports


def test_the_table_shows_what_the_summary_holds(summary):
    head, _, *lines = main_table(summary, ["stoi", "wer.ctc:x"]).splitlines()
    assert head == "| system | clips | Hz | kbps | STOI | WER, % (ctc:x) |"
    assert len(lines) == 4
    entry = summary.find("one, 12 Hz")
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    rate, stoi, wer = (entry.scores[name].value for name in ("frame_rate_hz", "stoi", "wer.ctc:x"))
    assert cells == [
        *("one, 12 Hz", "40", f"{rate:.2f}", f"{rate / 10:.3f}", f"{stoi:.3f}", f"{100 * wer:.1f}"),
    ]


def test_a_page_states_rules_intervals_and_pairs(summary):
    page = markdown(summary, ["bitrate.png"], "## More")
    for wanted in ("40 clips of 8 speakers", "as they are", "95 % bootstrap", "## More", "![bitrate](bitrate.png)"):
        assert wanted in page
    assert "| one, 12 Hz | one, 6 Hz | STOI | 0.010 | 0.010 to 0.010 | 0.010 to 0.010 | better |" in page


def test_files_are_written_and_hold_the_numbers(rows, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    (tmp_path / "rows.jsonl").write_text("".join(map(as_json, rows)))
    summary = write_report(tmp_path, resamples=50, more=lambda found: f"{len(found.entries)} entries")
    held = json.loads((tmp_path / "summary.json").read_text())
    assert held["entries"][1]["scores"]["stoi"]["clips"]["value"] == summary.entries[1].scores["stoi"].value
    assert held["entries"][0]["scores"]["bitrate_kbps"]["clips"]["value"] is None
    assert "4 entries" in (tmp_path / "summary.md").read_text()
    for name in ("bitrate.png", "frame_rate.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


# ------------------------------------------------------------------------------------------------------------ plots


def test_points_lie_where_they_were_measured(summary):
    figure = plot_quality(summary, shown=["stoi", "wer.ctc:x"])
    first, second = figure.axes[:2]
    drawn = {bar.get_label(): bar.lines[0].get_xydata() for bar in first.containers}
    assert set(drawn) == {"one, 2 codebooks", "two, 6 Hz"}  # the second has one rate
    scores = [summary.find(name).scores for name in ("one, 6 Hz", "one, 12 Hz")]
    np.testing.assert_allclose(
        drawn["one, 2 codebooks"], [[each["bitrate_kbps"].value, each["stoi"].value] for each in scores]
    )
    assert first.get_title() == "STOI, higher is better"
    assert second.get_title() == "WER, % (ctc:x), lower is better"
    truth = [line for line in second.lines if line.get_label() == "recordings"]
    assert truth[0].get_ydata()[0] == pytest.approx(100 * summary.find("ground truth").scores["wer.ctc:x"].value)
    assert not [line for line in first.lines if line.get_label() == "recordings"]


def test_settings_of_one_rate_stand_side_by_side(summary):
    figure = plot_quality(summary, "frame_rate_hz", ["stoi"])
    places = [bar.lines[0].get_xdata()[0] for bar in figure.axes[0].containers]
    assert places[0] < summary.find("one, 6 Hz").scores["frame_rate_hz"].value < places[1]


def test_only_what_is_there_can_be_drawn(summary, rows):
    with pytest.raises(ValueError, match="nothing to draw of pesq_wb against"):
        plot_quality(summary, shown=["pesq_wb"])
    with pytest.raises(ValueError, match="against loudness"):
        plot_quality(summary, "loudness")
    with pytest.raises(ValueError, match="for 0 settings"):
        plot_quality(summarise(rows[:CLIPS], RUN, resamples=5))


def test_metrics_that_are_drawn_are_one_of_each_kind():
    names = ["si_sdr_db", "stoi", "wer.a", "wer.b", "cer.a", "utmos.x", "pesq_wb", "mcd_db", "mel_distance"]
    assert choose(names) == ["stoi", "pesq_wb", "mel_distance", "wer.a", "utmos.x", "cer.a"]


def test_error_rates_of_chance_are_not_drawn_and_that_is_said(rows, tmp_path):
    changed = [dict(row) for row in rows]
    for row in changed[CLIPS:]:
        spec = row["transcripts"]["ctc:x"]
        row["transcripts"] = {"ctc:x": {**spec, "word_errors": spec["words"]}}
    summary = summarise(changed, RUN, resamples=5)
    assert at_chance(summary) == ["wer.ctc:x"]
    titles = [axes.get_title() for axes in plot_quality(summary).axes]
    assert not [title for title in titles if title.startswith("WER")]
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    (tmp_path / "rows.jsonl").write_text("".join(map(as_json, changed)))
    write_report(tmp_path, resamples=5)
    said = "Not drawn, because no setting is better than chance (the number in brackets): WER, % (ctc:x) (95.0)."
    assert said in (tmp_path / "summary.md").read_text()
    assert at_chance(summarise(rows, RUN, resamples=5)) == []


def test_the_front_is_what_no_cheaper_one_reaches():
    points = [(1, 5), (2, 4), (3, 6), (3, 7), (4, 7), (0.5, 1)]
    assert front(points, True) == [(0.5, 1), (1, 5), (3, 7)]
    assert front(points, False) == [(0.5, 1)]
    assert front([], True) == []


# ---------------------------------------------------------------------------------------------------------- metrics


def test_every_metric_has_a_name_and_a_direction():
    for name in (*signal.METRICS, "wer.x", "cer.x", "similarity.x", *(f"{each}.x" for each in mos.HIGHER_IS_BETTER)):
        assert metrics.label(name)
        assert metrics.higher_is_better(name) in (True, False)
    assert metrics.label("utmos.utmos:here") == "UTMOS (utmos:here)"
    assert [metrics.higher_is_better(name) for name in ("similarity.x", "utmos.x", "wer.x")] == [True, True, False]


def test_numbers_are_shown_as_tables_have_them():
    assert metrics.show("wer.x", 0.12345) == "12.3"
    assert metrics.show("stoi", 0.12345) == "0.123"
    assert metrics.show("utmos.x", 3.14159) == "3.14"
    assert metrics.show("pesq_wb", float("nan")) == "–"
