"""Training a recogniser: every vocabulary, exact resume, masks of SpecAugment, error rates, the command."""

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import soundfile
import torch

from flexicodec.asr import (
    CharacterConfig,
    PhoneConfig,
    Recognizer,
    RecognizerConfig,
    SentencePieceConfig,
    open_vocabulary,
    train_pieces,
)
from flexicodec.cli import main
from flexicodec.config import load_yaml, to_dict
from flexicodec.corpus import Utterance
from flexicodec.encoders.base import FrontEndConfig, SanmConfig
from flexicodec.training.asr import trainer as asr
from flexicodec.training.asr.spec_augment import MaskingConfig, mask_features
from flexicodec.training.config import DataConfig
from flexicodec.training.logging import read_curves

SANM = SanmConfig(
    num_layers=2,
    dim=32,
    num_heads=2,
    feedforward_dim=64,
    kernel_size=5,
    prompt=(),
    positions=False,
    window=4,
    front_end=FrontEndConfig(num_mels=20),
)
TEXTS = ("a bad cab", "dad", "a cad", "bad", "cab dad", "add a cab", "1984")
TONES = {" ": 0, "a": 400, "b": 900, "c": 1700, "d": 3000}  # Hz


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """A language of tones: a manifest of learnable clips, one with a text outside the vocabulary."""
    folder = tmp_path_factory.mktemp("tones")
    random = np.random.default_rng(0)
    rows = []
    for index, text in enumerate(TEXTS):
        time = np.arange(2400) / 16_000  # 150 ms a letter
        tones = [np.sin(2 * np.pi * TONES.get(letter, 200) * time) * np.hanning(2400) for letter in text]
        wave = 0.2 * np.concatenate(tones) + 0.001 * random.standard_normal(2400 * len(text))
        soundfile.write(folder / f"{index}.wav", wave, 16_000)
        rows.append(
            {"path": f"{index}.wav", "duration": len(wave) / 16_000, "text": text.capitalize(), "corpus": "tone"}
        )
    (folder / "speech.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (folder / "lexicon.txt").write_text("a AH\nbad B AE D\ncab K AE B\ndad D AE D\ncad K AE D\nadd AE D\n")
    return folder / "speech.jsonl"


def recipe(speech, output, **settings):
    config = asr.ASRTrainingConfig(
        output=str(output),
        model=RecognizerConfig(SANM, CharacterConfig(" abcd")),
        data=DataConfig(manifest=(str(speech),), validation=str(speech), crop_seconds=None, batch_seconds=3.0),
        masking=MaskingConfig(mel_mask_width=5),
        steps=2,
        warmup_steps=1,
        trackers=("jsonl",),
        log_every=1,
        save_every=1,
    )
    return replace(config, **settings)


def losses(output):
    return [value for _, value in read_curves(output / "curves.jsonl")["loss/ctc"]]


@pytest.mark.parametrize("kind", ["character", "sentencepiece", "phone"])
def test_every_vocabulary_trains_and_is_opened(speech, tmp_path, kind):
    vocabulary = {
        "character": CharacterConfig(" abcd"),
        "sentencepiece": SentencePieceConfig(size=20),
        "phone": PhoneConfig(str(speech.parent / "lexicon.txt")),
    }[kind]
    state = torch.get_rng_state()
    folder = asr.train(recipe(speech, tmp_path, model=RecognizerConfig(SANM, vocabulary), dropout=0.1))
    assert torch.equal(torch.get_rng_state(), state)
    recognizer = Recognizer.load(folder)
    audio = torch.from_numpy(soundfile.read(speech.parent / "0.wav", dtype="float32")[0])
    assert isinstance(recognizer.transcribe(audio)[0], str)
    assert recognizer.vocabulary.encode("a bad cab")
    curves = read_curves(tmp_path / "curves.jsonl")
    assert all(np.isfinite(losses(tmp_path)))
    assert set(curves) >= {"grad_norm", "learning_rate", "validation/cer", "validation/wer", "data/replaced"}
    front_end = recognizer.encoder.front_end
    assert front_end.scale.std() > 0  # fitted to the data


def test_training_transcribes_tones(speech, tmp_path):
    config = recipe(speech, tmp_path, steps=120, learning_rate=5e-3, warmup_steps=10, speeds=(), log_every=120)
    recognizer = Recognizer.load(asr.train(replace(config, save_every=1000, masking=MaskingConfig(0, 0, 0.0))))
    clips = [torch.from_numpy(soundfile.read(speech.parent / f"{i}.wav", dtype="float32")[0]) for i in (0, 5)]
    assert [recognizer.transcribe(clip)[0] for clip in clips] == ["a bad cab", "add a cab"]
    assert read_curves(tmp_path / "curves.jsonl")["validation/cer"][-1][1] < 0.05
    (spans,) = recognizer.align(clips[0], None, ["a bad cab"])
    for index, span in enumerate(spans):  # the letters are 150 ms long, a frame has a context of 210 ms
        if span.symbol != " ":
            assert 0.15 * index - 0.12 <= span.start_seconds < 0.15 * (index + 1) + 0.12


def test_an_interrupted_run_resumes_exactly(speech, tmp_path, monkeypatch):
    config = recipe(speech, tmp_path / "straight", steps=4, dropout=0.1, accumulation=2)
    straight = Recognizer.load(asr.train(config))
    look = asr.ASRTrainer._log_and_save

    def look_and_stop(self, progress):
        look(self, progress)
        if self.step == 2:
            raise KeyboardInterrupt

    halves = replace(config, output=str(tmp_path / "halves"))
    monkeypatch.setattr(asr.ASRTrainer, "_log_and_save", look_and_stop)
    with pytest.raises(KeyboardInterrupt):
        asr.train(halves)
    monkeypatch.setattr(asr.ASRTrainer, "_log_and_save", look)
    resumed = Recognizer.load(asr.train(halves))
    np.testing.assert_allclose(losses(tmp_path / "halves"), losses(tmp_path / "straight"), rtol=1e-6)
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_checkpoint_of_another_model_is_refused(speech, tmp_path):
    asr.train(recipe(speech, tmp_path))
    with pytest.raises(ValueError, match="checkpoint in this output folder is of another model"):
        asr.train(recipe(speech, tmp_path, model=RecognizerConfig(SANM, CharacterConfig(" abcde"))))


def test_gradients_that_are_not_finite_are_skipped_and_then_stop_the_run(speech, tmp_path, monkeypatch):
    monkeypatch.setattr(asr.CTCLoss, "forward", lambda self, *inputs: self.recognizer.head.weight.sum()[None] * np.nan)
    with pytest.raises(FloatingPointError, match="not finite in 3 steps in a row, up to step 3"):
        asr.train(recipe(speech, tmp_path, steps=9, max_bad_steps=3))


def test_what_cannot_be_trained_on_is_named(speech, tmp_path):
    with pytest.raises(ValueError, match=r"crop_seconds is 1\.6"):
        recipe(speech, tmp_path, data=DataConfig(manifest=(str(speech),)))
    with pytest.raises(ValueError, match="of opera, and none"):
        asr.train(recipe(speech, tmp_path, eval_corpora=("opera",)))


def test_the_loss_counts_symbols_and_stands_bfloat16():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loss = asr.CTCLoss(Recognizer(RecognizerConfig(SANM, CharacterConfig("ab"))))
        features = torch.randn(2, 12, SANM.front_end.dim)
    lengths, targets, counts = torch.tensor([12, 7]), torch.tensor([[1, 2, 1], [2, 0, 0]]), torch.tensor([3, 1])
    plain = loss(features, lengths, targets, counts)
    alone = loss(features[1:, :7], lengths[1:], targets[1:, :1], counts[1:])
    torch.testing.assert_close(plain[1:], alone, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        rough = loss(features, lengths, targets, counts)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, plain, rtol=0.1, atol=0.1)
    assert loss(features[:, :1], torch.tensor([1, 1]), targets, counts)[0] == 0  # three symbols, two outputs


def test_holes_belong_to_the_item():
    features = torch.ones(3, 90, 7 * 20)
    config = MaskingConfig(mel_masks=2, mel_mask_width=8, time_mask_share=0.15)
    lengths, items = [90, 50, 90], [4, 5, 6]
    together = mask_features(features, lengths, items, 20, config, seed=1)
    assert torch.equal(mask_features(features[1:2], [50], [5], 20, config, seed=1)[0], together[1])
    assert not torch.equal(together[0], together[2])
    assert not torch.equal(mask_features(features, lengths, items, 20, config, seed=2), together)
    for row in together.unflatten(2, (7, 20)):
        assert torch.equal(row, row[:, :1].expand(-1, 7, -1))  # a band is blank in all stacked frames
        assert (row.amax((0, 1)) == 0).sum() <= 16
        assert (row.amax((1, 2)) == 0).sum() <= 12
    assert torch.equal(mask_features(features, lengths, items, 20, MaskingConfig(0, 0, 0.0), 1), features)


def test_error_rates_are_edits_per_character_and_word():
    rates = asr.error_rates(["kitten on a mat", "abc"], ["sitting on a mat", ""])
    assert rates["cer"] == pytest.approx((3 + 3) / 18)
    assert rates["wer"] == pytest.approx(2 / 5)
    assert asr.error_rates(["same"], ["same"]) == {"cer": 0.0, "wer": 0.0}


def test_what_data_workers_are_told_can_be_sent_to_them(speech):
    (speech.parent / "pieces.model").write_bytes(train_pieces(TEXTS[:-1], 20))
    pieces, phones = (str(speech.parent / name) for name in ("pieces.model", "lexicon.txt"))
    for vocabulary in (CharacterConfig("abcd "), SentencePieceConfig(model=pieces), PhoneConfig(phones)):
        keep = pickle.loads(pickle.dumps(partial(asr.is_spellable, open_vocabulary(vocabulary))))
        assert not keep(Utterance(speech, 1.0, text="1984"))
        assert not keep(Utterance(speech, 1.0))
        assert not keep(Utterance(speech, 1.0, text="..."))
        assert keep(Utterance(speech, 1.0, text="A bad cab!"))


# ---------------------------------------------------------------------------------------------------------- commands


@pytest.mark.parametrize("name", ["mini", "sentencepiece", "phones"])
def test_shipped_configs_are_read(name, pytestconfig):
    config = asr.read_config(pytestconfig.rootpath / f"configs/asr/{name}.yaml", ["steps=5"])
    assert config.steps == 5
    assert config.model.encoder.num_layers == 8
    assert config.model.vocabulary.kind == {"mini": "character", "phones": "phone"}.get(name, name)


def a_config(speech, tmp_path, **settings):
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(to_dict(recipe(speech, tmp_path / "run", **settings))))
    return path


def test_the_command_trains(speech, tmp_path, capsys):
    path = a_config(speech, tmp_path)
    assert main(["train-asr", str(path), "model.encoder.num_layers=1", "--print-config"]) == 0
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    assert load_yaml(tmp_path / "printed.yaml")["model"]["encoder"]["num_layers"] == 1
    assert main(["train-asr", str(path), "steps=1"]) == 0
    folder = capsys.readouterr().out.strip()
    assert Recognizer.load(folder).config.encoder == SANM
    assert main(["train-asr", str(path), "stepps=1"]) == 2
    assert "did you mean 'steps'" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_are_one_with_two_passes(speech, tmp_path):
    path = a_config(speech, tmp_path, steps=3, data=replace(recipe(speech, tmp_path).data, batch_seconds=2.0))
    asr.train(asr.read_config(path, [f"output={tmp_path / 'one'}", "accumulation=2"]))
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]  # what Accelerate does on GPUs
    command = [sys.executable, *launch, "-m", "flexicodec.training.asr", str(path), f"output={tmp_path / 'two'}"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-5)
    one, two = (Recognizer.load(tmp_path / name / "model").state_dict() for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-4)
    curves = [read_curves(tmp_path / name / "curves.jsonl")["validation/cer"] for name in ("one", "two")]
    assert curves[0] == curves[1]
