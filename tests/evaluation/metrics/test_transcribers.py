"""Transcribers: tiny models with random weights from a folder to texts, in a batch and alone."""

import logging
import random
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from flexicodec.asr import Recognizer
from flexicodec.evaluation.metrics.asr import open_transcriber
from flexicodec.evaluation.metrics.sensevoice import restored_globals
from tests.evaluation import stand_ins


@pytest.fixture(scope="module")
def clips(speech):
    """Clips of several lengths: speech, silence, and one too short for a frame."""
    first, second = (clip[0].numpy() for clip in speech)
    return [first[:24_000], second[4000:30_000], np.zeros(8000, np.float32), second[5000:9000], second[5000:5016]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder for each kind, and one for HuBERT as the base sizes are."""
    made = {}
    with restored_globals():
        for name, save in (
            ("hubert", stand_ins.save_hubert),
            ("base", lambda folder: stand_ins.save_hubert(folder, norm="group")),
            ("whisper", stand_ins.save_whisper),
            ("sensevoice", stand_ins.save_sensevoice),
        ):
            made[name] = save(tmp_path_factory.mktemp(name))
    return made


@pytest.fixture(scope="module", params=["ctc", "hubert", "base", "whisper", "sensevoice"])
def transcriber(request, folders):
    if request.param == "ctc":
        return open_transcriber()
    kind = "hubert" if request.param == "base" else request.param
    return open_transcriber(f"{kind}:{folders[request.param]}")


def test_a_batch_is_what_each_clip_is_alone(transcriber, clips):
    together = transcriber.transcribe(clips)
    assert together == [transcriber.transcribe([clip])[0] for clip in clips]
    assert together[::-1] == transcriber.transcribe(clips[::-1])
    assert len(set(together[:2])) == 2  # different clips, different texts
    assert len(together[0]) > 3


def test_every_transcriber_has_a_name_and_a_rate(transcriber, clips):
    assert ":" in transcriber.name
    assert transcriber.sample_rate == 16_000
    assert transcriber.transcribe([]) == []
    doubles = [clip.astype(np.float64) for clip in clips]
    assert transcriber.transcribe(doubles) == transcriber.transcribe(clips)


def test_a_fingerprint_is_of_the_weights(transcriber):
    stand_ins.assert_fingerprint_of_weights(transcriber)


def test_the_recogniser_that_ships_is_the_default(clips):
    audio = torch.from_numpy(clips[0])[None]
    assert open_transcriber().transcribe(clips[:1]) == Recognizer.load("recognizer-mini").transcribe(audio)


def test_a_very_short_clip_is_silence_to_hubert(folders, clips):
    assert open_transcriber(f"hubert:{folders['hubert']}").transcribe(clips)[-1] == ""


def test_hubert_decodes_as_ctc_does(folders, clips):
    """Repeats collapse, the blank goes, and the delimiter is a space."""
    transcriber = open_transcriber(f"hubert:{folders['hubert']}")
    text = transcriber.transcribe(clips[:1])[0]
    with torch.no_grad():
        samples = (clips[0] - clips[0].mean()) / np.sqrt(clips[0].var() + 1e-7)
        path = transcriber.module(torch.from_numpy(samples)[None]).logits[0].argmax(-1).tolist()
    kept = [code for before, code in zip([None, *path], path, strict=False) if code != before]
    spelt = "".join(stand_ins.LETTERS[code] for code in kept if code > 3).replace("|", " ")
    assert text == " ".join(spelt.split()) or text == spelt.strip()


def test_whisper_transcribes_long_clips_to_the_end(folders, clips):
    """The stand-in has a window of 2 s: speech after 4 s changes the text."""
    transcriber = open_transcriber(f"whisper:{folders['whisper']}")
    long = np.concatenate([clips[0], clips[1], clips[0]])
    other = np.concatenate([clips[0], clips[1], clips[3]])
    texts = transcriber.transcribe([long, clips[0], other])
    assert texts[1] == transcriber.transcribe(clips[:1])[0]
    assert texts[0] != texts[2]


def test_whisper_is_told_the_language(folders, clips):
    english, german = (open_transcriber(f"whisper:{folders['whisper']}", language=code) for code in ("en", "de"))
    assert english.transcribe(clips[:2]) != german.transcribe(clips[:2])
    same = open_transcriber(f"whisper:{folders['whisper']}", language="eng_latn_us")
    assert same.transcribe(clips[:2]) == english.transcribe(clips[:2])
    detecting = open_transcriber(f"whisper:{folders['whisper']}", language=None)
    assert len(detecting.transcribe(clips[:2])) == 2


def test_sensevoice_restores_global_state(folders, clips):
    def state():
        log = logging.root
        numbers = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        return list(sys.path), list(log.handlers), log.level, log.manager.disable, torch.get_num_threads(), numbers

    before = state()
    open_transcriber(f"sensevoice:{folders['sensevoice']}").transcribe(clips[:1])
    assert state() == before


def test_faster_whisper_is_greedy_and_alone(monkeypatch, tmp_path, clips):
    """With a stand-in for the package, which is not installed here: arguments and joined segments."""
    calls = []

    class WhisperModel:
        def __init__(self, folder, **options):
            calls.append((folder, options))

        def transcribe(self, wave, **options):
            calls.append((len(wave), options))
            return [SimpleNamespace(text=" so"), SimpleNamespace(text=" it is ")], None

    monkeypatch.setitem(sys.modules, "faster_whisper", SimpleNamespace(WhisperModel=WhisperModel))
    with pytest.raises(ValueError, match=r"has no model\.bin; expected a folder of Whisper in CTranslate2"):
        open_transcriber(f"faster-whisper:{tmp_path}")
    (tmp_path / "model.bin").write_bytes(b"weights")
    transcriber = open_transcriber(f"faster-whisper:{tmp_path}", language="de")
    assert transcriber.transcribe(clips[:2]) == ["so it is"] * 2
    assert calls[0][1]["local_files_only"]
    assert calls[1][0] == len(clips[0])
    assert (calls[1][1]["beam_size"], calls[1][1]["language"]) == (1, "de")
    before = transcriber.fingerprint
    (tmp_path / "model.bin").write_bytes(b"others")
    assert open_transcriber(f"faster-whisper:{tmp_path}").fingerprint != before


def test_moonshine_is_english_only(speech):
    with pytest.raises((ValueError, ImportError), match="transcribes English only, and the language is 'nl'"):
        open_transcriber("moonshine", language="nl")


def test_the_recogniser_that_ships_has_a_short_name(clips):
    assert open_transcriber("recognizer-mini").transcribe(clips[:1]) == open_transcriber().transcribe(clips[:1])


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("spec", ["recognizer", "ctc:", "wav2vec:folder", ""])
def test_a_spec_needs_a_kind_and_a_source(spec):
    with pytest.raises(
        ValueError, match="is no transcriber; expected ctc:SOURCE, whisper:SOURCE.*or moonshine, recognizer-mini"
    ):
        open_transcriber(spec)


@pytest.mark.parametrize("kind", ["whisper", "hubert", "sensevoice"])
def test_weights_that_cannot_be_loaded_are_explained(kind, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for source in (str(tmp_path), "nobody/nothing-of-that-name"):
        with pytest.raises(ValueError, match=f"cannot open '{source}' as .*hub id .* run `hf download"):
            open_transcriber(f"{kind}:{source}")


def test_a_folder_without_recogniser_is_named(tmp_path):
    with pytest.raises(ValueError, match="holds no recogniser"):
        open_transcriber(f"ctc:{tmp_path}")


def test_heads_are_not_made_up(tmp_path):
    """A pretrained model has no CTC head; a random one would still produce text."""
    import transformers

    stand_ins.save_hubert(tmp_path)
    transformers.HubertModel(transformers.HubertConfig(**stand_ins.RAW_AUDIO)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no weights for .*not fine-tuned as"):
        open_transcriber(f"hubert:{tmp_path}")


def test_sensevoice_needs_all_weights(folders, tmp_path):
    for file in folders["sensevoice"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    del state["ctc.ctc_lo.weight"]
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="model.pt has no ctc.ctc_lo.weight"):
        open_transcriber(f"sensevoice:{tmp_path}")


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        (np.zeros((2, 800), np.float32), r"one array of shape \[2, 800\]"),
        ([np.zeros((1, 800), np.float32)], r"clip 0 has shape \[1, 800\]"),
        ([np.zeros(800, np.int16)], r"clip 0 is int16"),
        ([np.zeros(800), np.zeros(0)], r"clip 1 has shape \[0\]"),
        ([torch.zeros(800)], "clip 0 is a Tensor"),
        ([np.full(800, np.inf)], "clip 0 contains NaN or Inf"),
    ],
)
def test_bad_clips_are_named(clips, message):
    with pytest.raises(ValueError, match=message):
        open_transcriber().transcribe(clips)
