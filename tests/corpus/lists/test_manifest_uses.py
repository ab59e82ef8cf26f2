"""The manifest of `flexicodec manifest` is read by evaluate, analyze, calibrate and training: ids, channels, CTMs."""

import json
from itertools import islice

import numpy as np
import pytest
import soundfile

import flexicodec
from flexicodec.analysis.collect import clip_alignment
from flexicodec.cli import main
from flexicodec.corpus import read_manifest, read_utterance
from flexicodec.corpus.alignments.alignment import Segment
from flexicodec.evaluation.metrics.suite import MetricConfig
from flexicodec.evaluation.results_store import read_rows
from flexicodec.evaluation.run import EvaluationConfig, evaluate_corpus
from flexicodec.training.config import DataConfig
from flexicodec.training.data import AudioCache, training_batches

RATE = 16_000
QUICK = EvaluationConfig(MetricConfig(metrics=("si_sdr_db",), transcribers=()))


@pytest.fixture
def listed(tmp_path):
    """A manifest that `flexicodec manifest` made of another list: two channels of one file, with a CTM by ids."""
    (tmp_path / "calls").mkdir()
    samples = np.random.default_rng(0).integers(-9_000, 9_000, (RATE, 2), dtype=np.int16)
    soundfile.write(tmp_path / "calls" / "call.wav", samples, RATE)
    phones = {name: [Segment(0.1, 0.4, label)] for name, label in (("call-A", "AA"), ("call-B", "IY"))}
    with (tmp_path / "calls" / "phones.ctm").open("w") as file:
        for name, (segment,) in phones.items():
            file.write(f"{name} 1 {segment.start} {segment.end - segment.start:.1f} {segment.label}\n")
    rows = []
    for channel, name in enumerate(("call-A", "call-B")):
        row = {
            "utt_id": name,
            "wav": "calls/call.wav",
            "channel": channel,
            "txt": name,
            "alignment": "calls/phones.ctm",
        }
        rows.append(json.dumps(row))
    (tmp_path / "foreign.jsonl").write_text("\n".join(rows))
    assert main(["manifest", str(tmp_path / "foreign.jsonl"), "-o", str(tmp_path / "calls" / "m.jsonl")]) == 0
    return tmp_path / "calls" / "m.jsonl", samples / 32768


def test_the_manifest_names_files_below_it(listed):
    path, samples = listed
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["path"], row["alignment"], row["id"], row["channel"]) for row in rows] == [
        ("call.wav", "phones.ctm", "call-A", 0),
        ("call.wav", "phones.ctm", "call-B", 1),
    ]
    for channel, utterance in enumerate(read_manifest(path)):
        assert read_utterance(utterance, RATE).tolist() == samples[:, channel].tolist()


def test_alignments_are_found_by_id(listed):
    labels = [clip_alignment(each, each.duration).phones[0].label for each in read_manifest(listed[0])]
    assert labels == ["AA", "IY"]


def test_evaluation_knows_the_channel(listed, tmp_path):
    path, _ = listed
    evaluate_corpus(read_manifest(path), [], tmp_path / "run", QUICK)
    assert [row["id"] for row in read_rows(tmp_path / "run")] == ["call-A", "call-B"]
    assert not any("error" in row for row in read_rows(tmp_path / "run"))
    # The other channel under the same id is another clip.
    path.write_text(path.read_text().replace('"channel": 0', '"channel": 1'))
    with pytest.raises(ValueError, match="others now, by their text or length, 'call-A' the first"):
        evaluate_corpus(read_manifest(path), [], tmp_path / "run", QUICK)


@pytest.mark.parametrize("cached", [False, True])
def test_training_reads_the_channel(listed, tmp_path, cached):
    path, samples = listed
    cache = str(tmp_path / "cache") if cached else None
    config = DataConfig((str(path),), crop_seconds=None, batch_seconds=1.0, audio_cache=cache)
    read = [batch.audio[0].tolist() for batch in islice(training_batches(config, sample_rate=RATE, seed=0), 2)]
    assert sorted(read) == sorted(samples.T.tolist())


def test_a_cache_of_the_other_channel_is_refused(listed, tmp_path):
    utterances = read_manifest(listed[0])
    AudioCache(utterances, tmp_path / "cache", RATE)
    with pytest.raises(ValueError, match="clip 0 has channel 0, expected 1"):
        AudioCache(utterances[::-1], tmp_path / "cache", RATE)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".JSONL"])  # NeMo's lists are .json
def test_calibration_takes_manifests(whole, listed, suffix):
    path = listed[0].rename(listed[0].with_suffix(suffix))
    found = flexicodec.calibrate(whole, path, 6.25)
    assert (found.n, found.seconds, found.skipped) == (2, 2.0, ())
    with path.open("a") as file:
        file.write('{"path": "gone.wav", "duration": 1.0}\n')
    (skipped,) = flexicodec.calibrate(whole, path, 6.25).skipped
    assert skipped.startswith("gone: no such audio file")
