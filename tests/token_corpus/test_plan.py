"""Plans: the same manifest is the same units, whatever its lines look like, and one that changed is refused by line."""

import gzip
import json
import tarfile
import tracemalloc

import pytest

from flexicodec.corpus import Utterance, write_manifest
from flexicodec.corpus.manifest import default_id
from flexicodec.token_corpus import lines as token_lines
from flexicodec.token_corpus.lines import plan_lines
from flexicodec.token_corpus.plan import read_units, unit_clips
from flexicodec.token_corpus.worker import Job, plan_job

ROWS = [
    {"path": "a.wav", "duration": 1.5},
    {"path": "b/ü.flac", "start": 2.0, "duration": 3.0, "text": "ß"},
    {"path": "c.wav", "duration": 9, "id": "long"},
    {"audio_filepath": "d.wav", "offset": 1, "duration_ms": 250, "gender": "f"},
    {"path": "e.wav", "duration": 2.0, "channel": 1},
]


def written(path, rows=ROWS, end="\n", last="\n", before=""):
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_bytes((before + end.join(lines) + last).encode())
    return path


WRITINGS = {
    "plain": {},
    "no line feed at the end": {"last": ""},
    "CRLF": {"end": "\r\n", "last": "\r\n"},
    "byte order mark": {"before": "\ufeff"},
    "blank lines": {"end": "\n\n", "last": "\n\n\n"},
}


@pytest.mark.parametrize("name", WRITINGS)
def test_units_are_cut_at_lines_where_their_seconds_are_reached(tmp_path, name):
    path = written(tmp_path / "m.jsonl", **WRITINGS[name])
    found = plan_lines(path, 4.0, "id")
    assert found.seconds == pytest.approx([4.5, 9.0, 2.25])
    assert found.clips == 5
    data = path.read_bytes()
    ends = [*found.offsets[1:], len(data)]
    stretches = [data[start:end].decode("utf-8-sig") for start, end in zip(found.offsets, ends, strict=True)]
    assert [json.loads(line) for part in stretches for line in part.split("\n") if line.strip()] == ROWS
    assert [part.count("\n") for part in stretches[:-1]] == found.lines[:-1]
    assert sum(found.lines) == len(found.crcs)


def test_a_recording_longer_than_a_unit_is_one(tmp_path):
    rows = [{"path": f"{i}.wav", "duration": 5.0} for i in range(3)]
    assert plan_lines(written(tmp_path / "m.jsonl", rows), 4.0, "id").lines == [1, 1, 1]


@pytest.mark.parametrize(
    ("path", "start", "channel"),
    [
        *[("a/b.wav", 0.0, None), ("a/b", 0.0, None), ("a.b/c", 0.0, None), ("a/.wav", 0.0, None), ("a/b.", 0.0, None)],
        *[("b.tar.gz", 0.0, None), ("a.wav", 1.5, None), ("a.wav", 0.0, 1), ("a b.é", 0, None), ("..a.wav", 0, None)],
    ],
)
def test_fast_ids_are_those_of_manifests(path, start, channel):
    assert token_lines._default_id(path, start, channel) == default_id(path, start, channel)


BAD_LINES = {
    "no JSON": ("{", ":2: expected a JSON object"),
    "a list": ("[1]", r":2: .*\(it is list\)"),
    "no audio": ('{"duration": 1}', ":2: .*no key names an audio file"),
    "negative": ('{"path": "x.wav", "duration": -1}', ":2: .*duration is -1"),
    "unknown time": ('{"path": "x.wav", "duration": 1, "onset": 2}', ":2: .*onset .* looks like a time"),
    "start": ('{"path": "x.wav", "duration": 1, "start": -2}', ":2: .*start is -2"),
    "stream": ('{"path": "s3://x.wav", "duration": 1}', ":2: .*is no file"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_bad_lines_are_named(tmp_path, name):
    line, message = BAD_LINES[name]
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=message):
        plan_lines(path, 4.0, "id")


def test_ids_that_repeat_are_named_and_paths_may_take_their_place(tmp_path):
    rows = [{"path": f"{i}.wav", "duration": 1.0, "id": f"x{i % 2}"} for i in range(3)]
    path = written(tmp_path / "m.jsonl", rows)
    with pytest.raises(ValueError, match=r"1 ids occur more than once \('x0' in lines 1 and 3\); --ids path"):
        plan_lines(path, 4.0, "id")
    assert plan_lines(path, 4.0, "path").clips == 3


def test_the_order_of_settings_does_not_matter_and_workers_read_their_own_lines(plan, make_list, tmp_path):
    source = make_list()
    one = plan(source, tmp_path / "one")
    other = plan(source, tmp_path / "other", margins=False, unit_hours=1 / 3600)
    assert one.record == other.record
    assert one.plan == other.plan
    names = [clip.utterance.id for unit in range(one.num_units) for clip in unit_clips(one, unit)]
    assert names == [f"audio/{i}" for i in range(7)]
    assert all(clip.utterance.path.is_file() for clip in unit_clips(one, 0))


def test_a_manifest_that_grew_extends_and_keeps_its_units(plan, make_list, tmp_path):
    source = make_list(5)
    before = read_units(plan(source, tmp_path / "t"))
    with source.open("rb+") as file:  # without the last line feed
        file.truncate(source.stat().st_size - 1)
    assert plan(source, tmp_path / "u").num_units == len(before.offsets)
    source.write_bytes(source.read_bytes() + b"\n")
    make_list(4, first=5)
    with pytest.raises(ValueError, match="has grown .* --extend adds its lines"):
        plan(source, tmp_path / "t")
    dataset = plan(source, tmp_path / "t", extend=True)
    after = read_units(dataset)
    assert after.offsets[: len(before.offsets)] == before.offsets
    assert after.lines[: len(before.lines)] == before.lines
    assert sum(after.lines) == 9
    assert plan(source, tmp_path / "t").record == dataset.record
    assert plan(source, tmp_path / "t", extend=True).record == dataset.record


CHANGES = {
    "line 2 differs": lambda lines: [lines[0], lines[1].replace(b"clip", b"Clip"), *lines[2:]],
    "line 1 differs": lambda lines: lines[1:],
    "line 5 differs": lambda lines: lines[:4],
}


@pytest.mark.parametrize("extend", [False, True])
@pytest.mark.parametrize("message", CHANGES)
def test_a_manifest_that_changed_is_refused_by_its_line(plan, make_list, tmp_path, message, extend):
    source = make_list(5)
    dataset = plan(source, tmp_path / "t")
    source.write_bytes(b"".join(CHANGES[message](source.read_bytes().splitlines(keepends=True))))
    with pytest.raises(ValueError, match=message):
        plan(source, tmp_path / "t", extend=extend)
    if message != "line 5 differs":  # a worker that began before
        with pytest.raises(ValueError, match="has changed since the tokens were planned"):
            list(unit_clips(dataset, 0))


OTHERS = {
    "frame_rate": ({"choices": [{"frame_rate": 5.0, "num_codebooks": 2}]}, r"choices is .*5hz.*6.25hz"),
    "codebooks": ({"choices": [{"frame_rate": 6.25, "num_codebooks": 1}]}, "choices is .*1 codebooks.* 2 codebooks"),
    "batch_seconds": ({"batch_seconds": 2.0}, r"batch_seconds is 2.0, but .* made with 0.0 \(dataset.json\)"),
    "precision": ({"precision": "bfloat16"}, "precision is 'bfloat16'"),
    "unit_hours": ({"unit_hours": 2}, "unit_hours is 2.0"),
    "margins": ({"margins": True}, "margins is True"),
    "ids": ({"ids": "path"}, "ids is 'path'"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_settings_that_differ_are_named(plan, make_list, tmp_path, name):
    source = make_list(2)
    plan(source, tmp_path / "t", [{"frame_rate": 6.25, "num_codebooks": 2}])
    settings, message = OTHERS[name]
    with pytest.raises(ValueError, match=message):
        plan(source, tmp_path / "t", **{"choices": [{"frame_rate": 6.25, "num_codebooks": 2}], **settings})


def test_what_is_not_said_is_as_it_was(plan, make_list, tmp_path, tiny):
    source = make_list(3)
    chosen = [{"frame_rate": 6.25, "num_codebooks": 2}, {"threshold": 0.9, "num_codebooks": 1}]
    dataset = plan(source, tmp_path / "t", chosen, margins=True, batch_seconds=3.0)
    assert plan_job(Job(str(source), str(tmp_path / "t")), tiny).record == dataset.record
    same = Job(str(source), str(tmp_path / "t"), choices=chosen[::-1], settings={"margins": True})
    assert plan_job(same, tiny).record == dataset.record
    with pytest.raises(ValueError, match="batch_seconds is 2.0"):
        plan_job(Job(str(source), str(tmp_path / "t"), settings={"batch_seconds": 2.0}), tiny)
    with pytest.raises(ValueError, match="expected k/n"):
        plan_job(Job(str(source), str(tmp_path / "t"), part="4/4"), tiny)
    with pytest.raises(FileNotFoundError, match="is missing"):
        plan_job(Job(str(source) + "x", str(tmp_path / "t")), tiny)
    with pytest.raises(ValueError, match="nothing to extend"):
        plan_job(Job(str(source), str(tmp_path / "new"), extend=True), tiny)


def as_late_segments(source):
    """The second line is two clips, which the first does not tell."""
    lines = source.read_text().splitlines()
    row = json.loads(lines[1])
    segments = [{"start": 0.0, "end": 0.2}, {"start": 0.2, "end": 0.4}]
    lines[1] = json.dumps({"path": row["path"], "segments": segments})
    source.write_text("\n".join(lines) + "\n")
    packed = source.with_name("late.jsonl.gz")
    packed.write_bytes(gzip.compress(source.read_bytes()))
    return source, packed


def test_a_list_that_turns_out_not_to_be_plain_is_listed_anew(plan, tiny, make_list, tmp_path):
    for number, source in enumerate(as_late_segments(make_list(3))):
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        dataset = plan(source, tmp_path / "elsewhere" / str(number), unit_hours=1.0)
        clips = list(unit_clips(dataset, 0))
        assert [clip.utterance.start for clip in clips] == [0.0, 0.0, 0.2, 0.0]
        assert all(clip.utterance.path.is_file() for clip in clips)
        assert plan(source, tmp_path / "elsewhere" / str(number), unit_hours=1.0).record == dataset.record


def test_another_codec_is_named(plan, make_list, tmp_path, make_codec):
    source = make_list(2)
    plan(source, tmp_path / "t")
    with pytest.raises(ValueError, match="fingerprint is .* made with"):
        plan(source, tmp_path / "t", codec=make_codec("whole", seed=5))


# ------------------------------------------------------------------------------------------------------ other sources


def as_table(source, rows):
    path = source.with_name("list.csv")
    path.write_text("audio_file,text\n" + "".join(f"{row['path']},{row['text']}\n" for row in rows))
    return path


def as_document(source, rows):
    path = source.with_name("list.json")
    path.write_text(json.dumps({f"utt{i}": {"wav": row["path"]} for i, row in enumerate(rows)}, indent=1))
    return path


def as_gzip(source, rows):
    path = source.with_name("packed.jsonl.gz")
    path.write_bytes(gzip.compress(source.read_bytes()))
    return path


def as_segments(source, rows):
    path = source.with_name("segments.jsonl")
    entries = [
        {"path": row["path"], "segments": [{"begin": 0.1, "end": 0.2}, {"begin": 0.2, "end": 0.3}]} for row in rows
    ]
    path.write_text("\n".join(map(json.dumps, entries)))
    return path


def as_unstated(source, rows):
    path = source.with_name("unstated.jsonl")
    path.write_text("\n".join(json.dumps({"path": row["path"]}) for row in rows))
    return path


def as_folder(source, rows):
    return source.parent / "audio"


def as_tar(source, rows):
    path = source.with_name("shard-000.tar")
    with tarfile.open(path, "w") as tar:
        for row in rows:
            tar.add(source.parent / row["path"], row["path"].replace("/", "-"))
    return path


def as_parquet(source, rows):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = source.with_name("audio.parquet")
    audio = [{"bytes": (source.parent / row["path"]).read_bytes(), "path": row["path"]} for row in rows]
    pq.write_table(pa.table({"audio": audio, "text": [row["text"] for row in rows]}), path)
    return path


SOURCES = (as_table, as_document, as_gzip, as_segments, as_unstated, as_folder, as_tar, as_parquet)


@pytest.mark.parametrize("write", SOURCES)
def test_every_source_is_planned_and_read(plan, make_list, tmp_path, write, tokenized):
    plain = make_list(3)
    rows = [json.loads(line) for line in plain.read_text().splitlines()]
    (tmp_path / "elsewhere").mkdir()
    source = write(plain, rows)
    dataset = tokenized(source, tmp_path / "elsewhere" / "t")
    reports = [dataset.report(unit) for unit in range(dataset.num_units)]
    assert [report["bad"] for report in reports] == [[]] * len(reports)
    assert sum(report["clips"] for report in reports) == (6 if write is as_segments else 3)
    expected = 0.6 if write is as_segments else sum(row["duration"] for row in rows)
    assert sum(report["seconds"] for report in reports) == pytest.approx(expected, abs=1e-3)
    assert plan(source, tmp_path / "elsewhere" / "t").record == dataset.record


def test_a_clip_of_unknown_duration_that_cannot_be_read_is_bad_and_others_go_on(tokenized, make_list, tmp_path):
    source = make_list(1)
    path = source.with_name("unstated.jsonl")
    path.write_text('{"path": "audio/0.wav"}\n{"path": "audio/none.wav"}\n')
    dataset = tokenized(path, tmp_path / "t")
    bad = [entry for unit in range(dataset.num_units) for entry in dataset.report(unit)["bad"]]
    assert [(name.rpartition("/")[2], kind) for name, kind, _ in bad] == [("none", "FileNotFoundError")]


def test_memory_of_a_plan_is_a_few_bytes_a_line(tmp_path):
    path = tmp_path / "m.jsonl"
    count = 20_000
    write_manifest(path, (Utterance(tmp_path / f"{i}.wav", 7.5, text="of the same words") for i in range(count)))
    tracemalloc.start()
    found = plan_lines(path, 4 * 3600, "id")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.clips == count
    assert peak < 60 * count
