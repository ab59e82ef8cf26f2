"""The protocol of the paper, on a tiny LibriSpeech with a tiny codec."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile

import flexicodec
from flexicodec.corpus import Utterance
from flexicodec.evaluation import paper_protocol
from flexicodec.evaluation.metrics.suite import MetricConfig
from flexicodec.evaluation.report import write_report
from flexicodec.evaluation.run import EvaluationConfig, evaluate_corpus
from flexicodec.evaluation.summary import summarise
from flexicodec.evaluation.systems import CodecSystem

RATE = 16_000
SECONDS = {
    "61-70968-0000": 4.0,
    "61-70968-0001": 3.9,
    "61-70968-0002": 4.1,
    "121-121726-0000": 10.0,
    "121-121726-0001": 10.1,
}


@pytest.fixture(scope="module")
def librispeech(tmp_path_factory):
    """Four clips of two speakers, two of them 4 to 10 s long."""
    root = tmp_path_factory.mktemp("corpora") / "LibriSpeech" / "test-clean"
    random = np.random.default_rng(0)
    for name, seconds in SECONDS.items():
        folder = root.joinpath(*name.split("-")[:2])
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"{name}.flac", 0.05 * random.standard_normal(round(seconds * RATE)), RATE)
        with (folder / f"{folder.parent.name}-{folder.name}.trans.txt").open("a") as file:
            file.write(f"{name} HOLD FAST\n")
    return root


@pytest.mark.parametrize("up", [0, 1, 2])
def test_the_list_is_found_and_its_length_checked(librispeech, up):
    clips = paper_protocol.paper_list([librispeech, *librispeech.parents][up])
    assert [u.id for u in clips.utterances] == [
        "121-121726-0000",
        "61-70968-0000",
        "61-70968-0002",
    ]  # both ends included
    assert [(u.speaker, u.language, u.text) for u in clips.utterances[:2]] == [
        ("121", "en", "HOLD FAST"),
        ("61", "en", "HOLD FAST"),
    ]
    assert not clips.is_complete
    assert clips.note.startswith("**Not the paper's list**: 3 clips of 4 to 10 s among 5;")
    assert "2,620, of which 1,237 are that long" in clips.note


def test_the_right_number_is_said_to_be_right(librispeech):
    clips = paper_protocol.paper_list(librispeech)
    whole = replace(clips, utterances=clips.utterances[:1] * 1237, found=2620)
    assert whole.is_complete
    assert whole.note == "The list: 1,237 clips of 4 to 10 s among 2,620, the number that the third party reports."
    assert "1 that cannot be read" in replace(whole, unreadable=[("x.flac", "damaged")]).note


def test_a_list_without_such_clips_is_refused(tmp_path, manifest):
    with pytest.raises(ValueError, match="none of 6 clips .* lasts 4 to 10 s"):
        paper_protocol.paper_list(manifest)
    with pytest.raises(FileNotFoundError):
        paper_protocol.paper_list(tmp_path / "nowhere.jsonl")


def test_published_numbers_have_sources():
    points = paper_protocol.published("operating_points")
    assert [(p["by"], p["threshold"], p["wer_q1"]) for p in points if p["threshold"] == "0.867"] == [
        ("paper", "0.867", "4.15"),
        ("third party", "0.867", "4.43"),
    ]
    table = {row["system"]: row for row in paper_protocol.published("table5")}
    assert (table["DAC"]["pesq"], table["EnCodec"]["bitrate_kbps"]) == ("3.77", "6.0")
    assert all(row["source"] for row in [*points, *table.values()])
    assert {p["threshold"] for p in points} - {""} == {str(tau) for tau in paper_protocol.SWEEP.thresholds}


@pytest.mark.slow
def test_dry_run_with_random_weights(librispeech, make_codec, tmp_path):
    quantizer = make_codec("whole").config.acoustic_quantizer
    codec = make_codec("whole", acoustic_quantizer=replace(quantizer, num_codebooks=8))
    clips = paper_protocol.paper_list(librispeech)
    clips = replace(clips, utterances=clips.utterances[1:])  # the short ones, to be quick
    measures = replace(paper_protocol.METRICS, transcribers=("ctc:recognizer-mini",), normaliser="basic")
    measures = replace(measures, speaker_encoders=(), mos=(), metrics=("pesq_nb", "mcd_db"))
    results = evaluate_corpus(
        clips.utterances, [CodecSystem(codec, "tiny")], tmp_path, EvaluationConfig(measures, paper_protocol.SWEEP)
    )
    assert not results.failed
    summary = write_report(tmp_path, 50, lambda found: paper_protocol.comparison(found, clips))
    page = (tmp_path / "summary.md").read_text()
    assert [e.setting for e in summary.entries if e.system == "tiny"] == [
        f"tau {tau:g}, {count} codebooks" for tau in (1, 0.91, 0.9, 0.867, 0.8, 0.75, 0.7) for count in (0, 7)
    ]
    assert "**Not the paper's list**" in page
    assert "| paper | 0.867 | 6.25 | 4.15 | 2.53 | 2.76 | 3.42 | 0.71 | 4.18 |" in page
    assert "| third party | 0.91 | 8.39 | 3.04 | 2.34 | 3.13 | 3.27 | 0.8 | 4.16 |" in page
    lean, full = (summary.find(f"tiny, tau 0.91, {count} codebooks").scores for count in (0, 7))
    wer = [100 * scores["wer.ctc:recognizer-mini"].value for scores in (lean, full)]
    ours = f"| tiny | 0.91 | {full['frame_rate_hz'].value:.2f} | {wer[0]:.2f} | {wer[1]:.2f} |"
    assert f"{ours} {full['pesq_nb'].value:.2f} | {full['mcd_db'].value:.2f} | – | – |" in page
    assert "Parity is not judged: these are not the paper's clips." in page
    assert "### Parity" not in page


def measured(scores, fingerprint="0" * 16):
    """The page of one system at tau 0.91 with 7 codebooks, on as many clips as the paper's."""
    run = {"names": list(scores), "systems": {"big": {"fingerprint": fingerprint}}}
    asked = {"threshold": 0.91, "codebooks": 7}
    row = {"id": "x", "system": "big", "setting": "tau 0.91", "asked": asked, "seconds": 1.0, **scores}
    utterance = Utterance("x.flac", 5.0, id="x")
    clips = paper_protocol.PaperList([utterance] * paper_protocol.CLIPS, paper_protocol.CLIPS_OF_TEST_CLEAN, [])
    return paper_protocol.comparison(summarise([row], run, resamples=5), clips)


def test_parity_shows_every_number_and_picks_none():
    page = measured({"pesq_nb": 3.11, "pesq_wb": 2.6, "mcd_db": 3.9, "mcd_dtw_db": 3.25})
    for line in (
        "| big | 0.91 | PESQ | PESQ-NB | 3.11 | 3.13 | 0.05 | yes |",
        "| big | 0.91 | PESQ | PESQ-WB | 2.60 | 3.13 | 0.05 | no |",
        "| big | 0.91 | MCD, dB | MCD, dB | 3.90 | 3.27 | 0.1 | no |",
        "| big | 0.91 | MCD, dB | MCD-DTW, dB | 3.25 | 3.27 | 0.1 | yes |",
    ):
        assert line in page


def test_similarity_by_another_encoder_is_labelled_and_not_compared():
    page = measured({"pesq_nb": 3.11, "similarity.wavlm:microsoft/wavlm-base-plus-sv": 0.801})
    parity = page.partition("### Parity")[2].partition("###")[0]
    assert "similarity" not in parity
    assert "0.80 (other encoder)" in page
    assert "by wavlm:microsoft/wavlm-base-plus-sv, a fallback" in page
    assert "other encoder" not in measured({"pesq_nb": 3.11})


def test_the_packaged_model_gets_no_parity_table():
    page = measured({"pesq_nb": 3.11}, flexicodec.load("flexicodec-mini").fingerprint)
    assert "Parity is not judged: the model that ships" in page
    assert "### Parity" not in page


def test_the_papers_sweep_of_tau_is_there():
    points = {p["threshold"]: p for p in paper_protocol.published("operating_points") if p["by"] == "paper"}
    assert [
        (points[tau]["frame_rate_hz"], points[tau]["wer_q1"], points[tau]["wer_q1_8"]) for tau in ("0.7", "0.75")
    ] == [
        ("3.0", "51.5", "18.1"),
        ("3.6", "29.5", "8.9"),
    ]
    assert (points["0.8"]["wer_q1"], points["0.9"]["wer_q1"]) == ("14.4", "3.13")


def test_the_model_that_ships_is_warned_of(librispeech):
    shipped = flexicodec.load("flexicodec-mini").fingerprint
    clips = paper_protocol.paper_list(librispeech)
    for name, fingerprint, warned in (("mini", shipped, True), ("mini", "0" * 16, False)):
        run = {"names": ["stoi"], "systems": {name: {"fingerprint": fingerprint}}}
        row = {"id": "x", "system": name, "setting": "", "asked": {}, "seconds": 1.0, "stoi": 0.5}
        page = paper_protocol.comparison(summarise([row], run, resamples=5), clips)
        assert ("**mini: trained on 26 of the 40 speakers of test-clean.**" in page) is warned


def test_what_the_protocol_measures_can_be_named():
    assert isinstance(paper_protocol.METRICS, MetricConfig)
    assert len(paper_protocol.METRICS.transcribers) == 2  # the paper does not say which
    assert {"pesq_nb", "pesq_wb", "mcd_db", "mcd_dtw_db"} <= set(paper_protocol.METRICS.metrics)
