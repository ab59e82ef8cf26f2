"""Instruments: every kind lands in the rows under its name, at the rate it takes."""

import numpy as np
import pytest

from flexicodec.evaluation import instruments as module
from flexicodec.evaluation.instruments import OWN_RECOGNIZER, SAMPLE_RATE, Instruments, Measures
from flexicodec.evaluation.systems import weights_digest


class Ear:
    """Stands in for an encoder of voices and for a predictor of scores; both hear at 8 kHz."""

    sample_rate, metrics, fingerprint = 8_000, ("utmos",), "abc"

    def __init__(self):
        self.lengths = []

    def embed(self, clips):
        self.lengths += [len(clip) for clip in clips]
        return np.stack([[clip.std() or np.nan, 1.0] for clip in clips])

    def predict(self, clips):
        return {"utmos": np.array([len(clip) / 1000 for clip in clips])}


@pytest.fixture
def ear(monkeypatch):
    """Put the stand-in where weights would have to be downloaded."""
    ear = Ear()
    monkeypatch.setattr(module.speaker, "open_speaker_encoder", lambda spec, device: ear)
    monkeypatch.setattr(module.mos, "open_mos", lambda spec: ear)
    return ear


def test_every_kind_has_its_place(ear, speech):
    clips = [clip[0].numpy() for clip in speech]
    tools = Instruments(Measures(metrics=("stoi",), speaker_encoders=("wavlm:x",), mos=("utmos:y",)))
    assert tools.names == [
        *("stoi", f"wer.{OWN_RECOGNIZER}", f"cer.{OWN_RECOGNIZER}", "similarity.wavlm:x", "utmos.utmos:y"),
    ]
    assert tools.identity == {
        OWN_RECOGNIZER: weights_digest(tools.transcribers[OWN_RECOGNIZER].recognizer),
        "wavlm:x": "abc",
        "utmos:y": "abc",
    }
    prepared = tools.prepare(clips, ["a text", None])
    assert ear.lengths == [-(-len(clip) // 2) for clip in clips]  # at 8 kHz, once for all systems
    found = tools.measure(prepared, clips)
    assert [row["similarity.wavlm:x"] for row in found] == [pytest.approx(1), pytest.approx(1)]
    assert [row["utmos.utmos:y"] for row in found] == [-(-len(clip) // 2) / 1000 for clip in clips]
    assert found[0]["stoi"] == pytest.approx(1)
    assert found[0]["transcripts"][OWN_RECOGNIZER]["words"] == 2
    assert "transcripts" not in found[1]
    assert len(tools.prepare(clips, [None, None]).audio[0]) == len(clips[0])


def test_what_is_not_defined_is_nan_and_no_error():
    tools = Instruments(Measures(metrics=("stoi", "pesq_wb"), transcribers=()))
    silence = [np.zeros(SAMPLE_RATE, np.float32)]
    row = tools.measure(tools.prepare(silence, [None]), silence)[0]
    assert np.isnan([row["stoi"], row["pesq_wb"]]).all()


def test_all_that_is_missing_is_said_together_with_how_to_do_without():
    measures = Measures(
        transcribers=("ctc:nowhere", "ctc:recognizer-mini"),
        speaker_encoders=("wavlm:/nowhere/at-all",),
        mos=("ears:x",),
        normaliser="x",
    )
    with pytest.raises(ValueError, match="cannot be had: x, ctc:nowhere, wavlm:/nowhere/at-all, ears:x; ") as caught:
        Instruments(measures)
    wanted = "to do without: --normaliser basic --transcriber none --speaker-encoder none --mos none; why: [1] "
    assert wanted in str(caught.value)


@pytest.mark.parametrize(
    ("measures", "match"),
    [
        (Measures(metrics=("snr",)), "no metric 'snr'; expected some of stoi"),
        (Measures(normaliser="x"), "no normaliser 'x'"),
        (Measures(transcribers=("ctc:nowhere",)), "nowhere"),
        (Measures(speaker_encoders=("wavlm:/nowhere/at-all",)), "/nowhere/at-all"),
        (Measures(mos=("ears:x",)), "'ears:x' is no predictor"),
    ],
)
def test_what_cannot_be_had_is_said_at_once(measures, match):
    with pytest.raises(ValueError, match=match):
        Instruments(measures)
