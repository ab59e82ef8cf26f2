"""Lists of other tools: number of clips, ids, speakers, texts, languages, channels and exact samples of each."""

import gzip
import json
import logging
import re

import numpy as np
import pytest
import soundfile

from flexicodec.cli import main
from flexicodec.corpus import read_field, read_list, read_manifest, read_utterance, write_manifest
from flexicodec.corpus.lists.fields import language_code

RATE = 16_000


@pytest.fixture
def folder(tmp_path):
    """A file of 2 s with two channels, and two mono files of 1 s, all of noise in 16 bits."""
    generator = np.random.default_rng(0)
    (tmp_path / "wavs").mkdir()
    for name, shape in (("two", (2 * RATE, 2)), ("wavs/a", (RATE, 1)), ("wavs/b.1", (RATE, 1))):
        samples = generator.integers(-20_000, 20_000, shape, dtype=np.int16)
        soundfile.write(tmp_path / f"{name}.wav", samples, RATE)
    return tmp_path


def samples_of(folder, name, start=0.0, end=None, channel=None):
    """What a clip has to be."""
    samples, _ = soundfile.read(folder / name, dtype="float32", always_2d=True)
    part = samples[round(start * RATE) : None if end is None else round(end * RATE)]
    return part.mean(axis=1) if channel is None else part[:, channel]


def written(folder, content, name="list.jsonl"):
    """Write a list: rows as JSONL, an object as a JSON document, text as it is."""
    if isinstance(content, list):
        content = "\n".join(map(json.dumps, content))
    elif isinstance(content, dict):
        content = json.dumps(content, indent=1)
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name


GIGASPEECH = {
    "dataset": "GigaSpeech",
    "language": "EN",
    "audios": [
        {
            **{"title": "n", "path": "two.wav", "aid": "POD1", "source": "podcast", "channels": 1, "speaker": "N/A"},
            **{"duration": 2.0, "sample_rate": 16000},
            "segments": [
                {
                    **{"sid": "POD1_S0", "speaker": "N/A", "begin_time": 0.25, "end_time": 0.75},
                    **{"text_tn": "AS IT RAINED <COMMA> WE LEFT <PERIOD>", "subsets": ["{XS}"]},
                },
                {"sid": "POD1_S1", "speaker": "eve", "begin_time": 1.0, "end_time": 2.0, "text_tn": "<MUSIC>"},
            ],
        }
    ],
}
GIGA = {"language": "en", "corpus": "GigaSpeech"}
WHISPER = {
    "audio_path": "two.wav",
    **{"text": "all of it", "language": "en"},
    "segments": [
        {"id": 0, "start": 0.0, "end": 0.5, "text": " all"},
        {"id": 1, "start": 0.5, "end": 2, "text": "of it"},
    ],
}
# name: (list, expected clips as (file, start, end, channel, fields that differ from None))
LISTS = {
    "ours": (
        [
            {
                "path": "two.wav",
                "start": 0.5,
                "duration": 1.0,
                "channel": 1,
                "id": "x",
                "speaker": "ann",
                "sentence": "SA1",
            }
        ],
        [("two.wav", 0.5, 1.5, 1, {"id": "x", "speaker": "ann", "sentence": "SA1"})],
    ),
    "path and offset": (
        [{"path": "two.wav", "offset": 0.5, "length": "long"}],
        [("two.wav", 0.5, 2.0, None, {"id": "two@0.5"})],
    ),
    "two channels": (
        [{"path": "two.wav", "channel": 0}, {"path": "two.wav", "channel": "B"}],
        [("two.wav", 0, 2, 0, {"id": "two-ch0"}), ("two.wav", 0, 2, 1, {"id": "two-ch1"})],
    ),
    "channels by other names": (
        [
            {"audioFilePath": "two.wav", "channel_selector": 1, "speaker_label": "ann"},
            {"path": "two.wav", "channelIndex": 0},
        ],
        [("two.wav", 0, 2, 1, {"id": "two-ch1", "speaker": "ann"}), ("two.wav", 0, 2, 0, {"id": "two-ch0"})],
    ),
    "NeMo": (
        [
            {"audio_filepath": "wavs/a.wav", "offset": 0.25, "duration": 0.5, "text": "one", "lang": "en-US"},
            {"audio_filepath": "wavs/b.1.wav", "duration": None, "text": "two", "orig_sr": 44100, "num_speakers": 1},
        ],
        [
            ("wavs/a.wav", 0.25, 0.75, None, {"id": "wavs/a@0.25", "text": "one", "language": "en-US"}),
            ("wavs/b.1.wav", 0, 1, None, {"id": "wavs/b.1", "text": "two"}),
        ],
    ),
    "FunASR": (
        [
            {
                **{"key": "BAC1", "source": "wavs/a.wav", "source_len": 98, "target": "今天", "target_len": 2},
                **{"text_language": "<|zh|>"},
            }
        ],
        [("wavs/a.wav", 0, 1, None, {"id": "BAC1", "text": "今天", "language": "zh"})],
    ),
    "WeNet": (
        [{"key": "BAC1", "wav": "wavs/a.wav", "txt": "今天", "start": 0.25, "end": 1.0}],
        [("wavs/a.wav", 0.25, 1.0, None, {"id": "BAC1", "text": "今天"})],
    ),
    "Emilia": (
        [
            {
                **{"id": "EN_B00000_S00000_W000000", "wav": "wavs/a.wav", "text": "you could", "duration": 1.0},
                **{"speaker": "EN_B00000_S00000", "language": "en", "dnsmos": 3.3},
            }
        ],
        [
            (
                *("wavs/a.wav", 0, 1, None),
                {
                    "id": "EN_B00000_S00000_W000000",
                    "text": "you could",
                    "speaker": "EN_B00000_S00000",
                    "language": "en",
                },
            )
        ],
    ),
    "Hugging Face": (
        [
            {"file_name": "wavs/a.wav", "sentence": "yes", "client_id": "c1", "locale": "cy"},
            {
                "audio": {"path": "wavs/b.1.wav", "bytes": None},
                "normalized_text": "two",
                "raw_text": "2",
                "speaker_id": 7,
            },
        ],
        [
            ("wavs/a.wav", 0, 1, None, {"id": "wavs/a", "text": "yes", "speaker": "c1", "language": "cy"}),
            ("wavs/b.1.wav", 0, 1, None, {"id": "wavs/b.1", "text": "two", "speaker": "7"}),
        ],
    ),
    "milliseconds": (
        [{"audioFilepath": "two.wav", "begin_ms": 500, "end_ms": 1250, "utt_id": 0}],
        [("two.wav", 0.5, 1.25, None, {"id": "0"})],
    ),
    "GigaSpeech": (
        GIGASPEECH,
        [
            ("two.wav", 0.25, 0.75, None, {"id": "POD1_S0", "text": "AS IT RAINED, WE LEFT.", **GIGA}),
            ("two.wav", 1.0, 2.0, None, {"id": "POD1_S1", "speaker": "eve", **GIGA}),
        ],
    ),
    "Whisper": (
        [WHISPER],
        [
            ("two.wav", 0.0, 0.5, None, {"id": "two", "text": " all", "language": "en"}),
            ("two.wav", 0.5, 2.0, None, {"id": "two@0.5", "text": "of it", "language": "en"}),
        ],
    ),
    "Whisper, one document": (
        WHISPER,
        [
            ("two.wav", 0.0, 0.5, None, {"id": "two", "text": " all", "language": "en"}),
            ("two.wav", 0.5, 2.0, None, {"id": "two@0.5", "text": "of it", "language": "en"}),
        ],
    ),
    "SpeechBrain": (
        {"u1": {"wav": "wavs/a.wav", "length": 1.0, "words": "one", "spk_id": "s1"}, "u2": {"wav": "wavs/b.1.wav"}},
        [
            ("wavs/a.wav", 0, 1, None, {"id": "u1", "text": "one", "speaker": "s1"}),
            ("wavs/b.1.wav", 0, 1, None, {"id": "u2"}),
        ],
    ),
    "SpeechBrain CSV": (
        'ID,duration,wav,spk_id,wrd\nu1,1.0,wavs/a.wav,s1,"one,\ntwo"\nu2,0.5,wavs/b.1.wav,,\n',
        [
            ("wavs/a.wav", 0, 1, None, {"id": "u1", "text": "one,\ntwo", "speaker": "s1"}),
            ("wavs/b.1.wav", 0, 0.5, None, {"id": "u2"}),
        ],
    ),
    "Common Voice": (
        'client_id\tpath\tsentence\tup_votes\taccents\tlocale\tsegment\nc1\ta.wav\t"No," she said.\t2\t\ten\t\n',
        [("wavs/a.wav", 0, 1, None, {"id": "a", "text": '"No," she said.', "speaker": "c1", "language": "en"})],
    ),
    "Coqui": (
        "audio_file|text|speaker_name|emotion_name\nwavs/a.wav|one, two|ann|neutral\n",
        [("wavs/a.wav", 0, 1, None, {"id": "wavs/a", "text": "one, two", "speaker": "ann"})],
    ),
    "VITS": (
        "wavs/a.wav|one, two\nwavs/b.1.wav|three\n",
        [
            ("wavs/a.wav", 0, 1, None, {"id": "wavs/a", "text": "one, two"}),
            ("wavs/b.1.wav", 0, 1, None, {"id": "wavs/b.1", "text": "three"}),
        ],
    ),
    "LJSpeech": ("a|1, 2|one, two\n", [("wavs/a.wav", 0, 1, None, {"id": "a", "text": "one, two"})]),
    "GPT-SoVITS": (
        "wavs/a.wav|ann|EN|one\n",
        [("wavs/a.wav", 0, 1, None, {"id": "wavs/a", "text": "one", "speaker": "ann", "language": "en"})],
    ),
    "fairseq": (
        "wavs\na.wav\t16000\nb.1.wav\t16000\n",
        [("wavs/a.wav", 0, 1, None, {"id": "wavs/a"}), ("wavs/b.1.wav", 0, 1, None, {"id": "wavs/b.1"})],
    ),
    "samples and words": (
        [{"path": "two.wav", "num_samples": 8000, "sample_rate": 16000, "timestamp": [[0, 100], [100, 200]]}],
        [("two.wav", 0, 0.5, None, {"id": "two"})],
    ),
    "files": ("wavs/a.wav\n\nwavs/b.1.wav\n", [("wavs/a.wav", 0, 1, None, {}), ("wavs/b.1.wav", 0, 1, None, {})]),
}


@pytest.mark.parametrize("name", LISTS)
def test_each_list_gives_its_clips_through_a_manifest_too(folder, name):
    content, expected = LISTS[name]
    found = read_manifest(written(folder, content))
    write_manifest(folder / "ours.jsonl", found)
    assert read_manifest(folder / "ours.jsonl") == found
    assert [u.id for u in read_manifest(folder / "ours.jsonl")] == [u.id for u in found]
    assert len(found) == len(expected)
    for utterance, (file, start, end, channel, fields) in zip(found, expected, strict=True):
        known = {key: value for key, value in vars(utterance).items() if value not in (None, False)}
        for key in ("path", "start", "duration", "channel", *(() if "id" in fields else ("id",))):
            known.pop(key, None)
        assert known == fields
        assert (utterance.channel, utterance.duration) == (channel, pytest.approx(end - start))
        audio = read_utterance(utterance, RATE)
        assert audio.tolist() == samples_of(folder, file, start, end, channel).tolist()


@pytest.mark.parametrize("form", ["array", "array on a line", "gz", "with a mark of byte order"])
def test_json_comes_in_several_forms(folder, form):
    rows = [{"wav": "wavs/a.wav"}, {"wav": "two.wav"}]
    path = folder / ("list.json.gz" if form == "gz" else "list.json")
    if form == "gz":
        with gzip.open(path, "wt") as file:
            file.write("\n".join(map(json.dumps, rows)))
    else:
        mark = "\ufeff" if "mark" in form else ""
        path.write_text(mark + json.dumps(rows, indent=1 if form == "array" else None), encoding="utf-8")
    assert [u.path.name for u in read_manifest(path)] == ["a.wav", "two.wav"]


REFUSED = {
    "times that disagree": ({"path": "a.wav", "start": 0, "offset": 0.5}, "start says 0 s and offset says 0.5 s"),
    "end and duration": ({"path": "a.wav", "start": 1, "end": 2, "duration": 3}, "start, end, duration disagree"),
    "end before start": ({"path": "a.wav", "start": 1, "end": 0.5}, "duration is -0.5"),
    "unknown start": ({"path": "wavs/a.wav", "onset": 0.5}, r"onset \(0.5\) looks like a time; rename it"),
    "pair of times": ({"path": "wavs/a.wav", "timestamp": [0.5, 1]}, "timestamp .* looks like a time"),
    "table of times": ({"path": "wavs/a.wav", "interval": {"from": 0.5}}, "interval .* looks like a time"),
    "times in an object": ({"path": "wavs/a.wav", "segment": {"start": 0.5, "end": 1}}, "segment .* looks like a time"),
    "a pair": ({"path": "wavs/a.wav", "trim": [0.5, 1]}, "trim .* looks like a time"),
    "unknown length": ({"path": "wavs/a.wav", "speech_seconds": 0.5}, "speech_seconds .* looks like a time"),
    "samples from a start on": ({"path": "wavs/a.wav", "start": 0.1, "num_samples": 800}, "num_samples .* looks like"),
    "start in samples": ({"path": "wavs/a.wav", "start_sample": 800, "duration": 0.1}, "start_sample .* looks like"),
    "text for a time": ({"path": "a.wav", "duration": "long"}, "its duration is 'long'"),
    "duration in ms": ({"path": "wavs/a.wav", "duration": 1000}, "milliseconds are to be called duration_ms"),
    "no audio": ({"text": "one", "duration": 1}, "no key names an audio file"),
    "several files": ({"audio_filepath": ["a.wav", "b.wav"], "duration": 1}, "expected one name"),
    "a URL": ({"audio": "https://host/a.wav", "duration": 1}, "which is no file"),
    "a command": ({"source": "sph2pipe a.sph |", "duration": 1}, "which is no file"),
    "audio inside": ({"audio": {"array": [0.1], "sampling_rate": 8000}}, "in the list itself"),
    "channels": (
        {"path": "two.wav", "channel": [0, 1], "duration": 1},
        r"channel is \[0, 1\]; expected a whole number",
    ),
    "text of words": ({"path": "a.wav", "text": ["a", "b"], "duration": 1}, "expected a string"),
    "missing file": ({"path": "gone.wav"}, "no such audio file"),
    "start beyond the end": ({"path": "wavs/a.wav", "start": 3}, "it starts at 3 s"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_rows_that_cannot_be_right_are_named(folder, name):
    row, message = REFUSED[name]
    good = {"path": "wavs/a.wav"}
    rows = [{**row, "id": "u7"}, good] if name == "duration in ms" else [good, {**row, "id": "u7"}]
    line = rows.index({**row, "id": "u7"}) + 1
    with pytest.raises(ValueError, match=rf"list\.jsonl:{line} \(u7\): expected .*{message}"):
        read_manifest(written(folder, rows))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"path": "a.wav"},\n{"path": }]', r"list\.jsonl:2: expected"),
        ("a.wav|b|c\n", r"the columns .* are not known; give the table a header"),
        ("a.wav|ann|one two three|x\n", "are not known"),
        ("text,duration\none,1\n", "are not known"),
        ("path|text\nwavs/a.wav|one|two\n", r"list\.jsonl:2: 3 columns, expected 2"),
        ('{"recording_id": "r", "id": "s", "start": 0, "duration": 1}', "lhotse supervisions; make cuts"),
        ({"utts": {"u": {"input": [{"feat": "ark:1"}]}}}, r"entry 1 \(u\): .*no key names an audio file"),
    ],
)
def test_files_that_are_no_such_list_are_refused(folder, content, message):
    with pytest.raises(ValueError, match=message):
        read_manifest(written(folder, content))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wav.scp", "Kaldi"),
        ("train.scp", r"wav\.scp"),
        ("x.tar.gz", "unpack it"),
        ("x.parquet", "flexicodec manifest"),
        ("", "-o"),
    ],
)
def test_what_holds_audio_is_no_list(tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        read_manifest(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "message"),
    [("two.wav", "no text in UTF-8 .*is it audio"), ("latin.csv", "latin.csv is no text in UTF-8 .*iconv")],
)
def test_a_list_in_another_encoding_is_named(folder, name, message):
    (folder / "latin.csv").write_bytes("path,text\nwavs/a.wav,été\n".encode("latin-1"))
    with pytest.raises(ValueError, match=message):
        read_manifest(folder / name)


def test_unreadable_clips_are_listed_and_durations_counted(folder, caplog):
    (folder / "bad.wav").write_bytes(b"no audio")
    rows = [{"path": "bad.wav", "utt": "u1"}, {"path": "two.wav", "offset": 1.5}, {"path": "two.wav", "duration": 1}]
    path = written(folder, rows)
    listing = read_list(path)
    assert [remark.partition(":")[0] for remark in listing.remarks] == [
        "1 of 2 durations are those of the files",
        "2 clips have several channels and name none",
    ]
    good = written(folder, rows[1:], "good.jsonl")
    with caplog.at_level(logging.INFO):
        assert len(read_manifest(good)) == 2
    assert "good.jsonl: 1 of 2 durations are those of the files" in caplog.text
    ((name, reason),) = listing.unreadable
    assert name == f"{path}:1 (u1)"
    assert "bad.wav" in reason
    with pytest.raises(ValueError, match=r"list\.jsonl:1 \(u1\): .*bad\.wav"):
        read_manifest(path)


def test_checking_decodes_every_clip(folder, capsys):
    soundfile.write(folder / "torn.flac", np.random.default_rng(0).uniform(-0.5, 0.5, RATE), RATE)
    (folder / "torn.flac").write_bytes((folder / "torn.flac").read_bytes()[:8000])
    rows = [{"path": "torn.flac", "duration": 1.0, "id": "torn"}, {"path": "two.wav", "duration": 1.0}]
    path = written(folder, rows)
    assert main(["manifest", str(path), "-o", str(folder / "m.jsonl")]) == 0
    assert main(["manifest", str(path), "-o", str(folder / "m.jsonl"), "--check"]) == 1
    assert "skipped torn: " in capsys.readouterr().err
    assert [u.path.name for u in read_manifest(folder / "m.jsonl")] == ["two.wav"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"path": "wavs/a.wav", "duration": 5.0}, "said to end at 5 s, but .*a.wav ends at 1 s"),
        ({"audio_filepath": "wavs/a.wav", "offset": 3.0, "duration": 0.5}, "said to end at 3.5 s, but .* at 1 s"),
        ({"path": "two.wav", "duration": 2.0, "channel": 2}, r"channel 2 \(from 0\) is named, but .*two.wav has 2"),
        ({"path": "gone.wav", "duration": 1.0}, "no such audio file: .*gone.wav"),
        ({"wav": "{data_root}/a.wav", "length": 1.0}, "no such audio file: .*data_root"),
    ],
)
def test_a_manifest_of_a_list_leaves_out_what_files_do_not_have(folder, capsys, row, reason):
    path = written(folder, [{**row, "id": "bad"}, {"path": "two.wav", "duration": 1.0, "channel": 1}])
    assert main(["manifest", str(path), "-o", str(folder / "m.jsonl")]) == 1
    printed = capsys.readouterr()
    assert re.search(f"skipped bad: .*{reason}", printed.err)
    assert "manifest, 1 clips" in printed.out
    assert len(read_manifest(folder / "m.jsonl")) == 1


def test_ids_of_a_list_that_repeat_are_replaced_and_counted(folder):
    names = ("two.wav", "wavs/a.wav", "wavs/b.1.wav")
    rows = [{"path": name, "id": key} for name, key in zip(names, ("x", "x", "y"), strict=True)]
    listing = read_list(written(folder, rows))
    assert [u.id for u in listing.utterances] == [str(folder / "two"), str(folder / "wavs" / "a"), "y"]
    assert "2 clips have ids that are not unique; they are named by their files" in listing.remarks


def test_fields_are_read_whatever_a_list_calls_them(folder):
    path = written(folder, [{"wav": "two.wav", "spk": "s1", "emotion": "calm"}, {"wav": "wavs/a.wav", "spk": 5}])
    assert read_field(path, "emotion") == ["calm", None]
    assert read_field(path, "spk") == ["s1", 5]
    assert read_field(path, "speaker") == ["s1", "5"]
    with pytest.raises(ValueError, match="no field 'age'|has a field 'age'; known fields: wav, spk, emotion"):
        read_field(path, "age")


@pytest.mark.parametrize(
    ("value", "code"),
    [
        *(
            ("English", "en"),
            ("mandarin", "zh"),
            ("EN", "en"),
            ("en-GB", "en-GB"),
            ("en_us", "en-us"),
            ("<|yue|>", "yue"),
        ),
        *(("en (Welsh)", "en (Welsh)"), ("Klingon", "Klingon"), ("", None), (3, None), (None, None)),
    ],
)
def test_languages_become_codes(value, code):
    assert language_code(value) == code
