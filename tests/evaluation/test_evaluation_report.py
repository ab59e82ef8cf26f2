"""Reports: tables, files and plots of a summary whose numbers are known."""

import json

import numpy as np
import pytest

from flexicodec.evaluation.report import (
    main_table,
    markdown,
    panel_metrics,
    pareto_front,
    plot_quality,
    terminal_table,
    uninformative_metrics,
    write_report,
)
from flexicodec.evaluation.results_store import to_json
from flexicodec.evaluation.summary import summarise
from tests.evaluation.known_rows import CLIPS, RUN


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


def test_a_terminal_shows_few_columns(rows):
    names = ["mel_distance", "stoi", *(f"unit_edit.noise:{level}db" for level in range(9)), "wer.ctc:x"]
    changed = [row | {name: 0.5 for name in names if name.startswith("unit")} for row in rows]
    said = terminal_table(summarise(changed, RUN | {"names": names}, resamples=5))
    head = said.splitlines()[0].strip("| ").split(" | ")
    assert head[:6] == ["system", "clips", "Hz", "kbps", "WER, % (ctc:x)", "STOI"]
    assert len(head) == 10
    assert said.endswith("6 more metrics, and intervals, are in the report.")


def test_a_page_states_rules_intervals_and_pairs(summary):
    page = markdown(summary, ["bitrate.png"], "## More")
    for wanted in ("40 clips of 8 speakers", "as they are", "95 % bootstrap", "## More", "![bitrate](bitrate.png)"):
        assert wanted in page
    assert "| one, 12 Hz | one, 6 Hz | STOI | 0.010 | 0.010 to 0.010 | 0.010 to 0.010 | better |" in page


def test_files_are_written_and_hold_the_numbers(rows, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    (tmp_path / "rows.jsonl").write_text("".join(map(to_json, rows)))
    summary = write_report(tmp_path, resamples=50, more=lambda found: f"{len(found.entries)} entries")
    held = json.loads((tmp_path / "summary.json").read_text())
    assert held["entries"][1]["scores"]["stoi"]["clips"]["value"] == summary.entries[1].scores["stoi"].value
    assert held["entries"][0]["scores"]["bitrate_kbps"]["clips"]["value"] is None
    assert "4 entries" in (tmp_path / "summary.md").read_text()
    for name in ("bitrate.png", "frame_rate.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_points_lie_where_they_were_measured(summary):
    figure = plot_quality(summary, shown=["stoi", "wer.ctc:x"])
    first, second = figure.axes[:2]
    plotted = {bar.get_label(): bar.lines[0].get_xydata() for bar in first.containers}
    assert set(plotted) == {"one, 2 codebooks", "two, 6 Hz"}  # the second has one rate
    scores = [summary.find(name).scores for name in ("one, 6 Hz", "one, 12 Hz")]
    np.testing.assert_allclose(
        plotted["one, 2 codebooks"], [[each["bitrate_kbps"].value, each["stoi"].value] for each in scores]
    )
    assert first.get_title() == "STOI, higher is better"
    assert second.get_title() == "WER, % (ctc:x), lower is better"
    truth = [line for line in second.lines if line.get_label() == "recordings"]
    assert truth[0].get_ydata()[0] == pytest.approx(100 * summary.find("ground truth").scores["wer.ctc:x"].value)
    assert not [line for line in first.lines if line.get_label() == "recordings"]


def test_intervals_of_equal_rate_are_shifted_apart_and_points_are_not(summary):
    figure = plot_quality(summary, "frame_rate_hz", ["stoi"])
    rates = [summary.find(name).scores["frame_rate_hz"].value for name in ("one, 6 Hz", "one, 12 Hz")]
    (points,) = [line for line in figure.axes[0].lines if line.get_label() == "one, 2 codebooks"]
    np.testing.assert_allclose(points.get_xdata(), rates)
    places = [bar.lines[0].get_xdata()[0] for bar in figure.axes[0].containers]
    assert places[0] < summary.find("one, 6 Hz").scores["frame_rate_hz"].value < places[1]


def test_only_existing_metrics_can_be_plotted(summary, rows):
    with pytest.raises(ValueError, match="nothing to draw of pesq_wb against"):
        plot_quality(summary, shown=["pesq_wb"])
    with pytest.raises(ValueError, match="against loudness"):
        plot_quality(summary, "loudness")
    with pytest.raises(ValueError, match="for 0 settings"):
        plot_quality(summarise(rows[:CLIPS], RUN, resamples=5))


def test_plotted_metrics_are_one_of_each_kind():
    names = ["si_sdr_db", "stoi", "wer.a", "wer.b", "cer.a", "utmos.x", "pesq_wb", "mcd_db", "mel_distance"]
    assert panel_metrics(names) == ["stoi", "pesq_wb", "mel_distance", "wer.a", "utmos.x", "cer.a"]


def test_error_rates_at_chance_are_not_plotted_and_a_note_states_it(rows, tmp_path):
    changed = [dict(row) for row in rows]
    for row in changed[CLIPS:]:
        spec = row["transcripts"]["ctc:x"]
        row["transcripts"] = {"ctc:x": {**spec, "word_errors": spec["words"]}}
    summary = summarise(changed, RUN, resamples=5)
    assert uninformative_metrics(summary) == ["wer.ctc:x"]
    titles = [axes.get_title() for axes in plot_quality(summary).axes]
    assert not [title for title in titles if title.startswith("WER")]
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    (tmp_path / "rows.jsonl").write_text("".join(map(to_json, changed)))
    write_report(tmp_path, resamples=5)
    said = "Not drawn, because no setting is better than chance (the number in brackets): WER, % (ctc:x) (95.0)."
    assert said in (tmp_path / "summary.md").read_text()
    assert uninformative_metrics(summarise(rows, RUN, resamples=5)) == []


def test_the_front_is_what_no_cheaper_one_reaches():
    points = [(1, 5), (2, 4), (3, 6), (3, 7), (4, 7), (0.5, 1)]
    assert pareto_front(points, True) == [(0.5, 1), (1, 5), (3, 7)]
    assert pareto_front(points, False) == [(0.5, 1)]
    assert pareto_front([], True) == []
