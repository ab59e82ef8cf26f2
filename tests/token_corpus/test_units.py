"""`run_unit`: the tokens of every clip alone, the same bytes whoever runs it, and bad clips as rows with reasons."""

import errno
import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from token_folders import tables

from flexicodec.code_margins import NOISE
from flexicodec.corpus import Utterance, token_dataset, write_manifest
from flexicodec.corpus.alignments.alignment import Segment, write_textgrid
from flexicodec.models import batch_encode
from flexicodec.token_corpus import units
from flexicodec.token_corpus.settings import settings_of
from flexicodec.token_corpus.units import remaining_units, run_unit, units_of_part

SEVERAL = [{"frame_rate": 6.25, "num_codebooks": 2}, {"threshold": 0.9}, {"frame_rate": 5.0, "policy": "uniform"}]


def alone(codec, path, **choice):
    return codec.encode(batch_encode.read(path, codec.sample_rate), **choice)


def test_tokens_are_those_of_each_clip_alone_at_every_rate(tokenized, tiny, make_list, tmp_path, monkeypatch):
    calls = []
    features = type(tiny).features
    monkeypatch.setattr(type(tiny), "features", lambda *args, **options: calls.append(0) or features(*args, **options))
    source = make_list(4)
    dataset = tokenized(source, tmp_path / "t", SEVERAL)
    assert len(calls) == 4 + 1, "once a clip, and once for the plan"
    assert [choice.name for choice in dataset.choices] == ["6.25hz", "threshold-0.9", "5hz-uniform"]
    for choice, options in zip(dataset.choices, SEVERAL, strict=True):
        found = list(token_dataset.tokens(tmp_path / "t", choice.name))
        expected = [alone(tiny, tmp_path / "audio" / f"{i}.wav", **options) for i in range(4)]
        assert found == expected
        assert [each.info["id"] for each in found] == [f"audio/{i}" for i in range(4)]


def test_what_is_read_back_decodes_to_the_same_audio(tokenized, whole, make_list, tmp_path):
    dataset = tokenized(make_list(1), tmp_path / "t", [{"frame_rate": 6.25}], codec=whole)
    (tokens,) = token_dataset.tokens(dataset.folder)
    assert torch.equal(whole.decode(tokens), whole.decode(alone(whole, tmp_path / "audio/0.wav", frame_rate=6.25)))


def test_the_bytes_do_not_depend_on_order_or_parts_or_batches_read_ahead(plan, tokenized, tiny, make_list, tmp_path):
    source = make_list()
    first = tokenized(source, tmp_path / "first")
    assert first.num_units > 2
    assert not list((tmp_path / "first" / "state").iterdir())
    for number, order in enumerate(([2, 0, 1], [0, 1, 2])):
        dataset = plan(source, tmp_path / str(number))
        for part in order:
            for unit in units_of_part(dataset.num_units, f"{part}/3"):
                run_unit(tiny, dataset, unit, workers=number * 2)
        assert tables(tmp_path / str(number)) == tables(tmp_path / "first")
        assert remaining_units(dataset) == []


def test_a_unit_that_is_done_is_not_made_again(tokenized, tiny, make_list, tmp_path, monkeypatch):
    dataset = tokenized(make_list(2), tmp_path / "t")
    monkeypatch.setattr(units, "encode_files", None)
    assert run_unit(tiny, dataset, 0) == dataset.report(0)


def test_killed_between_files_and_report_it_is_made_again_with_the_same_bytes(
    tokenized, plan, tiny, make_list, tmp_path
):
    source = make_list(3)
    dataset = tokenized(source, tmp_path / "t")
    before = tables(tmp_path / "t")
    for name in before:
        dataset.report_path(int(name[-14:-8])).unlink(missing_ok=True)
    assert remaining_units(dataset) == list(range(dataset.num_units))
    tokenized(source, tmp_path / "t")
    assert tables(tmp_path / "t") == before


def test_other_bytes_are_not_overwritten(tokenized, tiny, make_list, tmp_path, monkeypatch):
    monkeypatch.setattr(units, "REPORT_WAIT", 0.0)
    dataset = tokenized(make_list(2), tmp_path / "t")
    path = dataset.table_path(dataset.choices[0], 0)
    dataset.report_path(0).unlink()
    path.write_bytes(b"other")
    with pytest.raises(ValueError, match="without a report and with other bytes"):
        run_unit(tiny, dataset, 0)
    assert path.read_bytes() == b"other"
    assert not list(path.parent.glob(".*.part"))


def test_reports_count_what_the_files_hold(tokenized, make_list, tmp_path):
    dataset = tokenized(make_list(5), tmp_path / "t")
    for unit in range(dataset.num_units):
        dataset.check_files(unit)
        report = dataset.report(unit)
        for choice in dataset.choices:
            table = pq.read_table(dataset.table_path(choice, unit))
            said = report["files"][choice.name]
            durations = np.concatenate(table.column("durations").to_pylist())
            assert said["rows"] == len(table) == report["clips"]
            assert said["tokens"] == len(durations) == sum(table.column("num_tokens").to_pylist())
            assert said["frames"] == durations.sum()
            assert {int(key): count for key, count in said["durations"].items()} == dict(
                zip(*np.unique(durations, return_counts=True), strict=True)
            )


# -------------------------------------------------------------------------------------------------------- bad clips


def bad_clips(folder):
    """Files that cannot be tokenised, each with the class of the error and words of its message."""
    good, _ = soundfile.read(folder / "0.wav")
    soundfile.write(folder / "nan.wav", np.full(8000, np.nan), 16_000, subtype="FLOAT")
    soundfile.write(folder / "loud.wav", np.full(8000, 1e9), 16_000, subtype="FLOAT")
    (folder / "text.wav").write_text("no audio at all")
    (folder / "empty.wav").write_bytes(b"")
    (folder / "folder.wav").mkdir()
    soundfile.write(folder / "whole.flac", good, 16_000)
    (folder / "torn.flac").write_bytes((folder / "whole.flac").read_bytes()[:2000])
    return {
        "none.wav": ("FileNotFoundError", "no such audio file"),
        "nan.wav": ("ValueError", "NaN"),
        "loud.wav": ("ValueError", "full scale"),
        "text.wav": ("ValueError", "text.wav"),
        "empty.wav": ("ValueError", "empty.wav"),
        "folder.wav": ("FileNotFoundError", "folder.wav"),
        "torn.flac": ("ValueError", "torn.flac"),
        "0.wav": ("ValueError", "is said to end at"),  # shorter than the manifest says
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_clips_are_rows_of_the_report_and_the_others_go_on(tokenized, plan, tiny, make_list, tmp_path, workers):
    source = make_list(3)
    expected = bad_clips(tmp_path / "audio")
    good = source.read_text().splitlines()
    bad = [json.dumps({"path": f"audio/{name}", "duration": 0.5, "id": f"bad/{name}"}) for name in expected]
    bad[-1] = json.dumps({"path": "audio/0.wav", "duration": 3.5, "id": "bad/0.wav"})
    source.write_text("\n".join([good[0], *bad[:4], good[1], *bad[4:], good[2]]) + "\n")
    dataset = plan(source, tmp_path / "t", unit_hours=1.0)
    report = run_unit(tiny, dataset, 0, workers=workers)
    assert [name.removeprefix("bad/") for name, _, _ in report["bad"]] == list(expected)
    for name, kind, message in report["bad"]:
        assert kind == expected[name.removeprefix("bad/")][0]
        assert expected[name.removeprefix("bad/")][1] in message
    rows = pq.read_table(dataset.table_path(dataset.choices[0], 0))
    assert rows.column("id").to_pylist() == [f"audio/{i}" for i in range(3)]


def test_one_sample_and_silence_are_clips_like_any_other(tokenized, tmp_path):
    (tmp_path / "audio").mkdir()
    lengths = {"one": 1, "silence": 16_000, "less": 1279, "more": 1281}
    for name, samples in lengths.items():
        soundfile.write(tmp_path / "audio" / f"{name}.wav", np.zeros(samples), 16_000)
    utterances = [Utterance(tmp_path / "audio" / f"{name}.wav", n / 16_000) for name, n in lengths.items()]
    write_manifest(tmp_path / "m.jsonl", utterances)
    dataset = tokenized(tmp_path / "m.jsonl", tmp_path / "t", [{"threshold": 0.9}], unit_hours=1.0)
    assert dataset.report(0)["bad"] == []
    found = list(token_dataset.tokens(tmp_path / "t"))
    assert [int(each.audio_lengths[0]) for each in found] == list(lengths.values())


def test_a_clip_that_the_codec_refuses_is_bad(tokenized, plan, tiny, make_list, tmp_path, monkeypatch):
    features = type(tiny).features

    def refuse(self, audio, lengths=None, **options):
        if audio.shape[-1] == 6400 + 321:
            raise RuntimeError("not this one")
        return features(self, audio, lengths, **options)

    monkeypatch.setattr(type(tiny), "features", refuse)
    dataset = tokenized(make_list(3), tmp_path / "t", unit_hours=1.0)
    assert dataset.report(0)["bad"] == [["audio/1", "RuntimeError", "not this one"]]


def test_batches_that_fail_are_counted_and_those_too_large_are_an_error(plan, tiny, make_list, tmp_path, monkeypatch):
    source = make_list(4)
    features = type(tiny).features

    def failing(error):
        def fail(self, audio, lengths=None, **options):
            if len(audio) > 1:
                raise error()
            return features(self, audio, lengths, **options)

        return fail

    dataset = plan(source, tmp_path / "t", unit_hours=1.0, batch_seconds=1.0)
    monkeypatch.setattr(type(tiny), "features", failing(lambda: torch.OutOfMemoryError("out of memory")))
    with pytest.raises(ValueError, match="batch of 1 s does not fit the memory .* smaller --batch-seconds"):
        run_unit(tiny, dataset, 0)
    assert dataset.units_done() == []
    monkeypatch.setattr(type(tiny), "features", failing(lambda: RuntimeError("some batch")))
    report = run_unit(tiny, dataset, 0)
    assert report["bad"] == []
    assert report["batches_split"] == 1  # of two clips; the other two are batches of their own


# --------------------------------------------------------------------------------------------------------- other rows


def test_margins_words_and_hashes_are_in_the_table(tokenized, tiny, make_list, tmp_path, monkeypatch):
    source = make_list(2)
    phones = (Segment(0.0, 0.2, "s"), Segment(0.2, 0.4, "t"))
    words = (Segment(0.0, 0.1, ""), Segment(0.1, 0.2, "so"), Segment(0.2, 0.4, "it"))
    write_textgrid(tmp_path / "0.TextGrid", {"phones": phones, "words": words}, 0.4)
    (tmp_path / "1.TextGrid").write_text("no grid")
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    rows[1]["path"] = rows[0]["path"]
    rows[1] |= {"id": "again", "duration": rows[0]["duration"], "speaker": "anna", "language": "en", "corpus": "made"}
    for index, row in enumerate(rows):
        row["alignment"] = f"{index}.TextGrid"
    source.write_text("\n".join(map(json.dumps, rows)))
    dataset = tokenized(source, tmp_path / "t", [{"threshold": 0.9}], margins=True, unit_hours=1.0)
    table = pq.read_table(dataset.table_path(dataset.choices[0], 0)).to_pylist()
    assert [row["words"] for row in table] == [["so", "it"], None]
    assert table[0]["word_ends"] == pytest.approx([0.2, 0.4])
    assert dataset.report(0)["alignments_unread"] == 1
    assert table[0]["audio_hash"] == table[1]["audio_hash"]
    assert len(table[0]["audio_hash"]) == 8
    assert (table[1]["speaker"], table[1]["language"], table[1]["corpus"]) == ("anna", "en", "made")
    assert table[0]["path"] == "audio/0.wav"
    tokens = alone(tiny, tmp_path / "audio/0.wav", threshold=0.9, margins=True)
    assert table[0]["fragile_tokens"] == int(tokens.margins.fragile(tokens.durations, NOISE).sum())


def test_codecs_of_one_rate_too(plan, nanocodecs, make_list, tmp_path):
    codec = nanocodecs["nano"]
    source = make_list(2)
    dataset = plan(source, tmp_path / "t", [{}], codec=codec, unit_hours=1.0)
    assert run_unit(codec, dataset, 0)["bad"] == []
    found = list(token_dataset.tokens(tmp_path / "t"))
    assert found == [alone(codec, tmp_path / "audio" / f"{i}.wav") for i in range(2)]
    with pytest.raises(ValueError, match="has one rate only"):
        settings_of(codec, [{}, {"frame_rate": codec.base_frame_rate}])


WRONG = {
    "frame_rate": ({"choices": [{"frame_rate": 50.0}]}, "frame_rate"),
    "codebooks": ({"choices": [{"num_codebooks": 99}]}, "num_codebooks is 99"),
    "twice": ({"choices": [{"frame_rate": 5.0}, {"frame_rate": 5}]}, "5hz, 5hz are not all different"),
    "batch_seconds": ({"batch_seconds": -1.0}, "batch_seconds is -1"),
    "unit_hours": ({"unit_hours": 0.0}, "unit_hours is 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_settings_are_found_before_anything_is_written(tiny, name):
    settings, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        settings_of(tiny, **{"choices": [{}], **settings})


@pytest.mark.parametrize("part", ["3/3", "-1/3", "1", "a/b", "1/0"])
def test_parts_that_cannot_be_are_refused(part):
    with pytest.raises(ValueError, match="expected k/n with k from 0"):
        units_of_part(10, part)


def test_another_codec_is_refused(plan, make_codec, make_list, tmp_path):
    dataset = plan(make_list(1), tmp_path / "t")
    with pytest.raises(ValueError, match="load the model of the plan"):
        run_unit(make_codec("whole", seed=5), dataset, 0)


# ------------------------------------------------------------------------------------------------------ disk and folder


ERRORS = {
    "full": OSError(errno.ENOSPC, "No space left on device"),
    "not ours": PermissionError(errno.EACCES, "Permission denied"),
}


@pytest.mark.parametrize("where", ["write_table", "write_json", "_sync"])
@pytest.mark.parametrize("name", ERRORS)
def test_what_cannot_be_written_stops_the_job_and_loses_nothing(
    plan, tokenized, tiny, make_list, tmp_path, monkeypatch, name, where
):
    source = make_list(5)
    dataset = plan(source, tmp_path / "t")
    run_unit(tiny, dataset, 0)
    before = tables(tmp_path / "t")

    def fail(*_, **__):
        raise ERRORS[name]

    with monkeypatch.context() as patched:
        if where == "_sync":
            patched.setattr(units.os, "replace", fail)
        else:
            patched.setattr(units, where, fail)
        with pytest.raises(OSError, match=ERRORS[name].strerror):
            run_unit(tiny, dataset, 1)
    assert dataset.units_done() == [0]
    assert not list((tmp_path / "t").rglob("*.part"))
    assert not list((tmp_path / "t" / "state").iterdir())
    assert before.items() <= tables(tmp_path / "t").items()
    tokenized(source, tmp_path / "t")
    assert tables(tmp_path / "t") == tables(tokenized(source, tmp_path / "u").folder)


def test_an_unreadable_disk_is_a_bad_clip(tokenized, make_list, tmp_path, monkeypatch):
    read = units.UnitClip._audio

    def fail(self, sample_rate):
        if self.place == 1:
            raise OSError(errno.EIO, "Input/output error")
        return read(self, sample_rate)

    monkeypatch.setattr(units.UnitClip, "_audio", fail)
    dataset = tokenized(make_list(3), tmp_path / "t", unit_hours=1.0)
    assert [entry[:2] for entry in dataset.report(0)["bad"]] == [["audio/1", "OSError"]]
    assert replace(dataset).report(0)["clips"] == 3
