"""Summaries of rows whose numbers are known."""

import copy

import numpy as np
import pytest

from flexicodec.evaluation.metrics import signal
from flexicodec.evaluation.report import markdown, notes, sign_of_difference
from flexicodec.evaluation.summary import (
    METRICS,
    RATES,
    MetricTable,
    comparison_pairs,
    format_value,
    metric_info,
    summarise,
)
from flexicodec.statistics import bootstrap
from tests.evaluation.known_rows import CLIPS, RUN, rows_of


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
    assert sign_of_difference(slower) == "better"
    assert sign_of_difference(found["one, 12 Hz", "one, 6 Hz", "mel_distance"]) == "better"
    assert sign_of_difference(found["two, 6 Hz", "one, 6 Hz", "stoi"]) == "not clear"
    assert sign_of_difference(found["one, 12 Hz", "one, 6 Hz", "bitrate_kbps"]) == ""
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
    found = [
        [(each.asked["frame_rate"], each.asked["codebooks"]) for each in comparison_pairs(e, entries)] for e in entries
    ]
    most = (12, 24)
    assert found == [[most], [most], [], [(12, 0), (6, 24)], [(12, 7), (6, 24)], [most], [(12, 7), (6, 7)]]


def test_systems_meet_at_the_same_setting_or_the_nearest_bitrate():
    first = [entry_of("a", 12, 24, 4.0), entry_of("a", 12, 7, 1.3), entry_of("a", 6, 7, 0.6)]
    second = [entry_of("b", 12, 7, 9.0), entry_of("b", 75, 7, 0.9), entry_of("b", 75, 2, float("nan"))]
    truth = summarise(rows_of("ground truth", "", np.ones(CLIPS)), {**RUN, "names": []}, resamples=2).entries
    entries = [*truth, *first, *second]
    found = [[each for each in comparison_pairs(one, entries) if each.system == "a"] for one in second]
    assert found == [[first[1]], [first[1]], []]  # the same label, the nearest ratio (0.9 to 1.3 and 0.6), none
    assert comparison_pairs(truth[0], entries) == []
    assert not [each for one in first for each in comparison_pairs(one, entries) if each.system != "a"]


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
    assert "- one, 6 Hz: STOI is not defined, and left out of the mean, on 1 of 38 clips." in notes(summary)


def test_what_is_not_defined_is_said_once_for_all_settings(rows):
    changed = [dict(row) for row in rows]
    for row in changed:
        if row["id"] == changed[0]["id"]:
            row["stoi"] = None
    said = notes(summarise(changed, RUN, resamples=5))
    assert said.endswith(f"- All rows: STOI is not defined, and left out of the mean, on 1 of {CLIPS} clips.")
    changed[CLIPS + 1]["stoi"] = None
    said = notes(summarise(changed, RUN, resamples=5))
    assert said.count("STOI is not defined") == 2
    assert f"- one, 6 Hz: STOI is not defined, and left out of the mean, on 2 of {CLIPS} clips." in said
    assert said.endswith("- Means of STOI rest on different clips; paired differences do not.")


def test_corpora_by_themselves(rows, summary):
    stoi = values(rows, "two", "6 Hz", "stoi")
    found = summary.find("two, 6 Hz").corpora
    assert found["a"]["stoi"] == pytest.approx(stoi[:10].mean())
    assert found["b"]["stoi"] == pytest.approx(stoi[10:].mean())


def test_one_speaker_gives_no_interval_over_speakers(rows):
    table = MetricTable([{**row, "speaker": "s"} for row in rows], resamples=50)
    score = table.score(("one", "6 Hz"), "stoi")
    assert np.isnan(score.speakers.low)
    assert np.isfinite(score.clips.low)


def test_clips_of_unknown_speakers_stand_for_themselves(rows):
    some = [{**row, "speaker": None if row["speaker"] == "s0" else row["speaker"]} for row in rows]
    table = MetricTable(some, resamples=5)
    assert (table.num_speakers, table.score(("one", "6 Hz"), "stoi").speakers.clusters) == (7, 7 + CLIPS // 8)
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


def test_every_metric_has_a_name_and_a_direction():
    assert set(signal.METRICS) < set(METRICS)
    for name, info in METRICS.items():
        assert (info.higher_is_better is None) is (name in RATES)
    assert metric_info("utmos.utmos:here").label == "UTMOS (utmos:here)"
    for name, higher_is_better in (("similarity.x", True), ("utmos.x", True), ("wer.x", False)):
        assert metric_info(name).higher_is_better is higher_is_better


def test_numbers_are_shown_as_tables_have_them():
    assert format_value("wer.x", 0.12345) == "12.3"
    assert format_value("stoi", 0.12345) == "0.123"
    assert format_value("utmos.x", 3.14159) == "3.14"
    assert format_value("pesq_wb", float("nan")) == "–"


@pytest.mark.parametrize(("errors", "said"), [(3, "does not understand them"), (99, "WER above 100 % (ctc:x; ")])
def test_a_useless_recogniser_is_named(rows, errors, said):
    changed = copy.deepcopy(list(rows))
    assert "recogniser ctc:x has" not in notes(summarise(changed, RUN, resamples=5))
    for row in changed:
        row["transcripts"]["ctc:x"]["word_errors"] = errors
    assert said in notes(summarise(changed, RUN, resamples=5))
