"""A corpus through systems: nothing lost, nothing measured twice, the same rows for any number of processes."""

import json
import math
import os
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from flexicodec import Tokens
from flexicodec.corpus import read_manifest
from flexicodec.evaluation.metrics.suite import MetricConfig, fit_to_reference
from flexicodec.evaluation.results_store import read_rows, row_key, token_path
from flexicodec.evaluation.run import EvaluationConfig, evaluate_corpus, length_batches
from flexicodec.evaluation.systems import CodecSystem, Reconstruction, Setting, Sweep

QUICK = MetricConfig(metrics=("mel_distance", "si_sdr_db"), transcribers=())
PLAN = EvaluationConfig(QUICK, Sweep(frame_rates=(12.5, 6.25), codebooks=(0, None)), batch_seconds=2.0)


class Quieter:
    """Returns clips at another rate, shorter, at half the level, and fails where `fails` says so."""

    def __init__(self, sample_rate=16_000, fails=None, name="quieter"):
        self.sample_rate, self.fails, self.name = sample_rate, fails, name
        self.calls = []

    identity = {}  # noqa: RUF012

    def settings(self, sweep):
        return [Setting(codebooks=count) for count in (1, 2)], []

    def reconstruct(self, clips, settings):
        for setting in settings:
            self.calls.append((len(clips), setting.codebooks))
            if self.fails is not None and any(self.fails(clip, setting) for clip in clips):
                raise RuntimeError("out of memory")
            yield [Reconstruction(0.5 * clip[: len(clip) - 7]) for clip in clips]


@pytest.fixture
def utterances(manifest):
    return read_manifest(manifest)


@pytest.fixture
def system(whole):
    return CodecSystem(whole, "tiny")


def test_a_row_for_every_clip_system_and_setting(utterances, system, tmp_path):
    results = evaluate_corpus(utterances, [system], tmp_path, PLAN)
    labels = [f"{rate} Hz, {count} codebooks" for rate in ("12.5", "6.25") for count in (0, 4)]
    wanted = [("ground truth", "", u.id) for u in utterances]
    wanted += [("tiny", label, u.id) for label in labels for u in utterances]
    assert [row_key(row) for row in results.rows] == wanted == [row_key(row) for row in read_rows(tmp_path)]
    assert (results.measured, results.failed, results.notes) == (len(wanted), [], [])
    truth, first = results.rows[0], results.rows[6]
    assert (truth["mel_distance"], truth["speaker"], truth["corpus"]) == (0, "s0", "noise")
    assert first["asked"] == {"frame_rate": 12.5, "threshold": None, "policy": None, "codebooks": 0}
    assert abs(first["tokens"] - 12.5 * first["seconds"]) <= 0.5
    assert first["frame_rate_hz"] == pytest.approx(first["tokens"] / first["coded_seconds"])
    assert {"bitrate_kbps", "file_bytes"} <= first.keys()
    assert "bitrate_kbps" not in truth


def test_guessed_speakers_are_unknown(utterances, tmp_path):
    guessed = [replace(utterances[0], speaker_guessed=True), utterances[1]]
    results = evaluate_corpus(guessed, [], tmp_path, PLAN)
    assert [row["speaker"] for row in results.rows] == [None, utterances[1].speaker]


def test_what_is_there_is_not_measured_again(utterances, system, tmp_path):
    evaluate_corpus(utterances, [system], tmp_path / "a", PLAN)
    whole_run = (tmp_path / "a" / "rows.jsonl").read_text()
    again = evaluate_corpus(utterances, [system], tmp_path / "a", PLAN)
    assert again.measured == 0
    lines = whole_run.splitlines(keepends=True)  # as a killed run leaves them: some rows, and half a row
    (tmp_path / "a" / "rows.jsonl").write_text("".join(lines[:9]) + lines[9][:40])
    resumed = evaluate_corpus(utterances, [system], tmp_path / "a", PLAN)
    assert resumed.measured == len(lines) - 9
    assert (tmp_path / "a" / "rows.jsonl").read_text() == whole_run


def test_systems_join_later(utterances, system, tmp_path):
    evaluate_corpus(utterances, [system], tmp_path, PLAN)
    results = evaluate_corpus(utterances, [Quieter()], tmp_path, PLAN)
    assert results.measured == 2 * len(utterances)
    assert list(dict.fromkeys(row["system"] for row in results.rows)) == ["ground truth", "tiny", "quieter"]
    more = evaluate_corpus(utterances, [system], tmp_path, replace(PLAN, sweep=Sweep(frame_rates=(12.5, 4.0))))
    assert more.measured == len(utterances)  # 12.5 Hz with 4 codebooks is there
    settings = [row["setting"] for row in more.rows if row["system"] == "tiny"]
    assert list(dict.fromkeys(settings))[-1] == "4 Hz, 4 codebooks"
    assert len(more.rows) == 8 * len(utterances)


@pytest.mark.parametrize("change", [{"metrics": ("mel_distance",)}, {"normaliser": "whisper-english"}])
def test_other_measures_are_refused(utterances, tmp_path, change):
    evaluate_corpus(utterances, [], tmp_path, PLAN)
    with pytest.raises(ValueError, match=f"measured otherwise: {next(iter(change))}"):
        evaluate_corpus(utterances, [], tmp_path, replace(PLAN, measures=replace(QUICK, **change)))
    with pytest.raises(ValueError, match="the clips .1 missing now, '0' the first"):
        evaluate_corpus(utterances[1:], [], tmp_path, PLAN)
    with pytest.raises(ValueError, match="the clips .1 others now"):
        evaluate_corpus([replace(utterances[0], text="else"), *utterances[1:]], [], tmp_path, PLAN)


def test_clips_join_later(utterances, tmp_path):
    evaluate_corpus(utterances[1:4], [Quieter()], tmp_path, PLAN)
    results = evaluate_corpus(utterances, [Quieter()], tmp_path, PLAN)
    assert results.measured == 3 * (len(utterances) - 3)  # recordings, and two settings
    assert [row["id"] for row in results.rows] == 3 * [u.id for u in utterances]


class FailsOnOneClip(Quieter):
    """Fails on clips of one length, as a library with a bug does."""

    def reconstruct(self, clips, settings):
        if any(len(clip) == self.at for clip in clips):
            raise IndexError
        yield from super().reconstruct(clips, settings)


def test_any_exception_costs_one_clip(utterances, tmp_path):
    system = FailsOnOneClip()
    system.at = round(utterances[2].duration * 16_000)
    results = evaluate_corpus(utterances, [system], tmp_path, PLAN)
    assert {(row["id"], row["error"]) for row in results.failed} == {("2", "IndexError: IndexError")}
    assert len(results.rows) == 3 * len(utterances)
    assert len(results.failed) == 2  # settings


def test_other_weights_under_the_same_name_are_refused(utterances, make_codec, tmp_path):
    evaluate_corpus(utterances[:1], [CodecSystem(make_codec("whole"), "tiny")], tmp_path, PLAN)
    with pytest.raises(ValueError, match="the weights of tiny differ"):
        evaluate_corpus(utterances[:1], [CodecSystem(make_codec("whole", seed=1), "tiny")], tmp_path, PLAN)


@pytest.mark.slow
def test_rows_do_not_depend_on_the_number_of_processes(utterances, whole, tmp_path):
    whole.save_pretrained(tmp_path / "tiny")
    plan = replace(PLAN, measures=MetricConfig(metrics=("mel_distance", "stoi")))
    for processes in (1, 2):
        evaluate_corpus(
            utterances, [str(tmp_path / "tiny")], tmp_path / str(processes), replace(plan, processes=processes)
        )
    assert (tmp_path / "1" / "rows.jsonl").read_text() == (tmp_path / "2" / "rows.jsonl").read_text()


class Fatal(Quieter):
    """Takes its process with it."""

    def reconstruct(self, clips, settings):
        os._exit(1)


@pytest.mark.slow
def test_a_process_that_dies_is_said_and_costs_no_rows(utterances, tmp_path):
    plan = replace(PLAN, processes=2)
    with pytest.raises(OSError, match=r"a process died.*the same command goes on"):
        evaluate_corpus(utterances, [Fatal()], tmp_path, plan)
    rows = evaluate_corpus(utterances, [], tmp_path, PLAN).rows
    assert [row["id"] for row in rows if row["system"] == "ground truth"] == [u.id for u in utterances]


def test_output_is_resampled_and_fitted_to_the_reference_but_not_made_louder(utterances, tmp_path):
    plan = replace(PLAN, measures=MetricConfig(metrics=("si_sdr_db", "mel_distance"), transcribers=()))
    rows = evaluate_corpus(utterances, [Quieter(24_000)], tmp_path, plan).rows
    quieter = [row for row in rows if row["system"] == "quieter"]
    assert all(row["si_sdr_db"] > 20 for row in quieter)  # the same wave, but for resampling and 7 samples
    assert all(row["mel_distance"] == pytest.approx(math.log10(2), abs=0.05) for row in quieter)


def test_fitting():
    wave = np.arange(1, 5, dtype=np.float32) / 10
    np.testing.assert_array_equal(fit_to_reference(wave, 16_000, 3), wave[:3])
    np.testing.assert_array_equal(fit_to_reference(wave, 16_000, 6), [*wave, 0, 0])
    assert len(fit_to_reference(np.zeros(2400, np.float32), 24_000, 1600)) == 1600
    with pytest.raises(ValueError, match="NaN or Inf"):
        fit_to_reference(np.array([np.nan], np.float32), 16_000, 1)


def test_a_clip_that_cannot_be_read_is_counted_and_tried_again(utterances, system, tmp_path):
    missing = utterances[2].path
    content = missing.read_bytes()
    missing.unlink()
    results = evaluate_corpus(utterances, [system], tmp_path / "out", PLAN)
    assert {(row["id"], row["system"]) for row in results.failed} == {("2", "ground truth"), ("2", "tiny")}
    assert len(results.failed) == 5
    assert all("no such audio file" in row["error"] and "mel_distance" not in row for row in results.failed)
    missing.write_bytes(content)
    again = evaluate_corpus(utterances, [system], tmp_path / "out", PLAN)
    assert (again.measured, again.failed) == (5, [])
    fresh = evaluate_corpus(utterances, [system], tmp_path / "fresh", PLAN)
    for row, other in zip(again.rows, fresh.rows, strict=True):
        assert row_key(row) == row_key(other)
        assert row["mel_distance"] == pytest.approx(other["mel_distance"], rel=1e-3)


def test_a_clip_that_breaks_a_codec_takes_no_other_with_it(utterances, tmp_path):
    longest = max(round(u.duration * 16_000) for u in utterances)
    broken = Quieter(fails=lambda clip, setting: len(clip) == longest and setting.codebooks == 2)
    rows = evaluate_corpus(utterances, [broken], tmp_path, replace(PLAN, batch_seconds=60)).rows
    failed = [row for row in rows if "error" in row]
    assert [(row["id"], row["setting"], row["error"]) for row in failed] == [
        ("5", "2 codebooks", "RuntimeError: out of memory")
    ]
    assert len(rows) == 3 * len(utterances)
    assert broken.calls[:2] == [(6, 1), (6, 2)]
    assert broken.calls[2:4] == [(1, 1), (1, 2)]  # then one by one


def test_texts_are_transcribed_in_one_language(utterances, tmp_path):
    spoken = [replace(utterances[0], language="en (Welsh)"), replace(utterances[1], language="nl"), utterances[2]]
    spoken += [replace(utterances[3], text=None)]
    plan = replace(PLAN, measures=MetricConfig(metrics=("si_sdr_db",)))
    rows = evaluate_corpus(spoken, [], tmp_path, plan).rows
    assert ["transcripts" in row for row in rows] == [True, False, True, False]
    counts = rows[0]["transcripts"]["ctc:recognizer-mini"]
    assert counts["characters"] == len(spoken[0].text.strip())
    assert counts["words"] == len(spoken[0].text.split())
    # Codes of one language are alike, whatever their region and length.
    codes = zip(utterances[:3], ("cmn", "zh_TW", "yue"), strict=True)
    spoken_chinese = [replace(utterance, language=code, text="今 天") for utterance, code in codes]
    chinese = replace(plan, measures=replace(plan.measures, language="zh-CN"))
    rows = evaluate_corpus(spoken_chinese, [], tmp_path / "zh", chinese).rows
    assert [row.get("transcripts", {}).get("ctc:recognizer-mini", {}).get("words") for row in rows] == [2, 2, None]
    everything = replace(plan, measures=replace(plan.measures, language=None))
    rows = evaluate_corpus(spoken, [], tmp_path / "all", everything).rows
    assert ["transcripts" in row for row in rows] == [True, True, True, False]


def test_tokens_are_kept_where_wanted(utterances, system, whole, tmp_path):
    evaluate_corpus(utterances[:2], [system], tmp_path, replace(PLAN, keep_tokens=True))
    rows = [row for row in read_rows(tmp_path) if row["system"] == "tiny"]
    for row in rows:
        tokens = Tokens.load(token_path(tmp_path, "tiny", row["setting"], row["id"]))
        assert int(tokens.token_lengths[0]) == row["tokens"]
        assert tokens.num_codebooks == row["asked"]["codebooks"]
        whole.check_tokens(tokens)


def test_batches_hold_clips_of_like_length(utterances):
    batches = length_batches(utterances, 2.0)
    assert sorted(u.id for batch in batches for u in batch) == sorted(u.id for u in utterances)
    assert all(batch[0].duration * len(batch) <= 2.0 for batch in batches)
    assert batches == length_batches(utterances[::-1], 2.0)
    assert [len(batch) for batch in length_batches(utterances, 0.1)] == [1] * len(utterances)


@pytest.mark.parametrize(
    ("plan", "match"),
    [
        (replace(PLAN, processes=0), "processes is 0"),
        (replace(PLAN, batch_seconds=0), "batch_seconds 0"),
        (replace(PLAN, measures=MetricConfig(metrics=("pesk",))), "no metric 'pesk'"),
        (replace(PLAN, measures=replace(QUICK, normaliser="none")), "no normaliser 'none'"),
    ],
)
def test_what_makes_no_sense_is_refused(utterances, tmp_path, plan, match):
    with pytest.raises(ValueError, match=match):
        evaluate_corpus(utterances, [], tmp_path / "out", plan)
    assert not (tmp_path / "out").exists()


def test_ids_and_names_have_to_be_unique(utterances, system, tmp_path):
    with pytest.raises(ValueError, match=r"1 ids occur more than once \(0\)"):
        evaluate_corpus([utterances[0], utterances[0]], [], tmp_path, PLAN)
    with pytest.raises(ValueError, match="two models are called 'tiny'"):
        evaluate_corpus(utterances, [system, system], tmp_path, PLAN)
    with pytest.raises(ValueError, match="no clips"):
        evaluate_corpus([], [system], tmp_path, PLAN)


def test_stereo_and_other_rates_are_read_as_mono_at_16_khz(utterances, tmp_path):
    wave, rate = soundfile.read(utterances[0].path)
    soundfile.write(tmp_path / "stereo.wav", np.stack([wave, np.zeros_like(wave)], axis=1), rate)
    stereo = replace(utterances[0], path=tmp_path / "stereo.wav")
    rows = evaluate_corpus([stereo], [Quieter(16_000)], tmp_path / "out", PLAN).rows
    assert json.dumps([row.get("error") for row in rows]) == "[null, null, null]"
