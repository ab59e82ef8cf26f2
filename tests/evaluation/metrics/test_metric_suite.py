"""MetricSuite: every kind of metric is in the rows under its name, computed at its own sample rate."""

import numpy as np
import pytest

from flexicodec.evaluation.metrics import suite as module
from flexicodec.evaluation.metrics.suite import DEFAULT_TRANSCRIBER, SAMPLE_RATE, MetricConfig, MetricSuite
from flexicodec.models.fingerprint import hash_weights


class FakeModel:
    """Stands in for a speaker encoder and for a predictor of scores, both at 8 kHz."""

    sample_rate, metrics, fingerprint = 8_000, ("utmos",), "abc"

    def __init__(self):
        self.lengths = []

    def embed(self, clips):
        self.lengths += [len(clip) for clip in clips]
        return np.stack([[clip.std() or np.nan, 1.0] for clip in clips])

    def predict(self, clips):
        return {"utmos": np.array([len(clip) / 1000 for clip in clips])}


@pytest.fixture
def fake_model(monkeypatch):
    """Put the stand-in where weights would have to be downloaded."""
    model = FakeModel()
    monkeypatch.setattr(module.speaker, "open_speaker_encoder", lambda spec, device: model)
    monkeypatch.setattr(module.mos, "open_mos", lambda spec: model)
    return model


def test_every_kind_has_its_place(fake_model, speech):
    clips = [clip[0].numpy() for clip in speech]
    tools = MetricSuite(MetricConfig(metrics=("stoi",), speaker_encoders=("wavlm:x",), mos=("utmos:y",)))
    assert tools.names == [
        *("stoi", f"wer.{DEFAULT_TRANSCRIBER}", f"cer.{DEFAULT_TRANSCRIBER}", "similarity.wavlm:x", "utmos.utmos:y"),
    ]
    assert tools.identity == {
        DEFAULT_TRANSCRIBER: hash_weights(tools.transcribers[DEFAULT_TRANSCRIBER].module.state_dict()),
        "wavlm:x": "abc",
        "utmos:y": "abc",
    }
    prepared = tools.prepare(clips, ["a text", None])
    assert fake_model.lengths == [-(-len(clip) // 2) for clip in clips]  # at 8 kHz, once for all systems
    found = tools.measure(prepared, clips)
    assert [row["similarity.wavlm:x"] for row in found] == [pytest.approx(1), pytest.approx(1)]
    assert [row["utmos.utmos:y"] for row in found] == [-(-len(clip) // 2) / 1000 for clip in clips]
    assert found[0]["stoi"] == pytest.approx(1)
    assert found[0]["transcripts"][DEFAULT_TRANSCRIBER]["words"] == 2
    assert "transcripts" not in found[1]
    assert len(tools.prepare(clips, [None, None]).audio[0]) == len(clips[0])


def test_a_recogniser_gets_the_clips_in_its_language(speech, monkeypatch):
    class English(FakeModel):
        languages = ("en",)

        def transcribe(self, clips):
            return ["a"] * len(clips)

    monkeypatch.setattr(module.asr, "open_transcriber", lambda spec, device, language: English())
    tools = MetricSuite(MetricConfig(metrics=("stoi",), transcribers=("x",), language=None))
    clips = [speech[0][0].numpy()] * 4
    rows = tools.measure(tools.prepare(clips, ["a", "een", "b", None], ["en", "nl", None, "en"]), clips)
    assert ["transcripts" in row for row in rows] == [True, False, True, False]
    assert set(tools.seconds) == {"signal metrics", "x"}


@pytest.mark.parametrize("language", ["zh", "cmn_hans_cn", None])
def test_recognisers_and_error_rates_know_the_language(monkeypatch, language):
    told = []

    class Recogniser:
        sample_rate = SAMPLE_RATE
        languages = None
        fingerprint = "abc"

        def transcribe(self, clips):
            return ["今天天气", "okbye"]

    def open_transcriber(spec, device, language):
        told.append(language)
        return Recogniser()

    monkeypatch.setattr(module.asr, "open_transcriber", open_transcriber)
    tools = MetricSuite(MetricConfig(metrics=(), language=language))
    assert told == [language]
    clips = [np.zeros(SAMPLE_RATE, np.float32)] * 2
    rows = tools.measure(tools.prepare(clips, ["今 天 天 气。", "ok bye"], [None, "zh-TW"]), clips)
    counts = [row["transcripts"][DEFAULT_TRANSCRIBER] for row in rows]
    assert [(each["word_errors"], each["words"]) for each in counts] == [(0, 4), (2, 2)]
    assert [(each["character_errors"], each["characters"]) for each in counts] == [(0, 4), (0, 5)]


def test_what_is_not_defined_is_nan_and_no_error():
    tools = MetricSuite(MetricConfig(metrics=("stoi", "pesq_wb"), transcribers=()))
    silence = [np.zeros(SAMPLE_RATE, np.float32)]
    row = tools.measure(tools.prepare(silence, [None]), silence)[0]
    assert np.isnan([row["stoi"], row["pesq_wb"]]).all()


def test_one_error_names_all_missing_weights_and_the_options_to_skip_them():
    measures = MetricConfig(
        transcribers=("ctc:nowhere", "ctc:recognizer-mini"),
        speaker_encoders=("wavlm:/nowhere/at-all",),
        mos=("nisqa:x",),
        normaliser="x",
    )
    with pytest.raises(
        ValueError,
        match="could not load x: there is no normaliser 'x'.*; ctc:nowhere: .*; wavlm:/nowhere/at-all: .*; nisqa:x: ",
    ) as caught:
        MetricSuite(measures)
    options = "--normaliser basic --transcriber none --speaker-encoder none --mos none"
    assert str(caught.value).endswith(f". To skip what is missing, pass {options}")


@pytest.mark.parametrize(
    ("measures", "match"),
    [
        (MetricConfig(metrics=("snr",)), "no metric 'snr'; expected some of stoi"),
        (MetricConfig(normaliser="x"), "no normaliser 'x'"),
        (MetricConfig(transcribers=("ctc:nowhere",)), "nowhere"),
        (MetricConfig(speaker_encoders=("wavlm:/nowhere/at-all",)), "/nowhere/at-all"),
        (MetricConfig(mos=("nisqa:x",)), "'nisqa:x' is no predictor"),
    ],
)
def test_what_cannot_be_had_is_said_at_once(measures, match):
    with pytest.raises(ValueError, match=match):
        MetricSuite(measures)
