"""Training text to speech: data of both kinds, learning, exact resume, parts, starts, and four sentences by heart."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import LlamaConfig, LlamaModel

import flexicodec
from flexicodec.asr.moonshine import Moonshine
from flexicodec.cli import main
from flexicodec.config import from_dict, load_yaml, to_dict
from flexicodec.corpus import read_manifest, write_manifest
from flexicodec.encoders import moonshine_weights
from flexicodec.evaluation.metrics.asr import error_rates
from flexicodec.models.tts.characters import CharacterConfig
from flexicodec.models.tts.flow_sampling import FlowSamplingConfig
from flexicodec.models.tts.generation import GenerationConfig
from flexicodec.models.tts.sampling import GREEDY
from flexicodec.training.config import CalibratedRange, OptimConfig, RateConfig
from flexicodec.training.logging import read_curves
from flexicodec.training.tts import trainer as speech_trainer
from flexicodec.training.tts.config import SpeechDataConfig, SpeechTrainingConfig
from flexicodec.training.tts.data import ManifestSpeech, TokenSpeech
from flexicodec.training.tts.trainer import SpeechTrainer, train
from flexicodec.tts import CodecTTS
from flexicodec.tts.speech_models import feature_latents
from tests.tts.tiny_models import MODEL, write_speech

CONFIGS = Path(__file__).parents[2] / "configs" / "tts"
# A folder of speech with train.jsonl, whose clips have texts.
SPEECH = Path(os.environ.get("FLEXICODEC_SPEECH", Path(__file__).parents[3] / "shared" / "speech"))
OPTIM = OptimConfig(learning_rate=5e-3, betas=(0.9, 0.98), warmup_steps=2, ema_decay=0.5)


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    return write_speech(tmp_path_factory.mktemp("speech"))


@pytest.fixture(scope="module")
def codec_folder(whole, tmp_path_factory):
    return whole.save_pretrained(tmp_path_factory.mktemp("codec"))


@pytest.fixture(scope="module")
def tokens_folder(speech, codec_folder, tmp_path_factory):
    """Tokens of the clips at two rates, the faster one with all codebooks."""
    folder = tmp_path_factory.mktemp("tokens") / "out"
    arguments = ["tokenize", str(speech), "-o", str(folder), "--model", str(codec_folder)]
    assert main([*arguments, "--frame-rate", "6.25", "12.5", "--processes", "1"]) == 0
    return folder


@pytest.fixture
def recipe(speech, codec_folder, tmp_path):
    """Make a config of a few steps; `data` replaces settings of the data."""

    def make(output="run", data=(), **settings):
        held = {"manifest": (str(speech),), "feature_cache": str(speech.parent / "cache"), "batch_seconds": 2.5}
        config = SpeechTrainingConfig(
            output=str(tmp_path / output),
            codec=str(codec_folder),
            data=SpeechDataConfig(**{**held, **dict(data)}),
            model=MODEL,
            lm_optim=OPTIM,
            flow_optim=OPTIM,
            steps=2,
            trackers=("jsonl",),
            log_every=1,
            save_every=1,
        )
        return replace(config, **settings)

    return make


def curves(config, name):
    return [value for _, value in read_curves(Path(config.output) / "curves.jsonl")[name]]


def stop_after(monkeypatch, step):
    """Interrupt runs after a step; returns the function that undoes it."""
    look = SpeechTrainer._log_and_save

    def look_and_stop(self, progress):
        look(self, progress)
        if self.step == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(SpeechTrainer, "_log_and_save", look_and_stop)
    return lambda: monkeypatch.setattr(SpeechTrainer, "_log_and_save", look)


# -------------------------------------------------------------------------------------------------------------- data


def make_speech(speech, codec, cache, **settings):
    data = SpeechDataConfig(manifest=(str(speech),))
    return ManifestSpeech(read_manifest(speech), cache, codec, data, CharacterConfig(), **settings)


def test_tokens_of_a_batch_are_those_of_the_codec(speech, whole, tmp_path):
    rates = RateConfig(policies={whole.config.merging.policy: 1.0}, frame_rate_range=(7.0, 7.0))
    clips = make_speech(speech, whole, tmp_path / "cache", rates=rates)
    assert len(clips.ids) == 4  # one has no text
    batch = clips.batch([2, 0], [5, 6], seed=0, step=0)
    for row, clip in enumerate((2, 0)):
        utterance = read_manifest(speech)[clip]
        features = whole.features(flexicodec.read_audio(utterance.path))
        expected = whole.tokenize(features, frame_rate=7.0, num_codebooks=0)
        count = int(batch.lm.token_lengths[row])
        assert batch.lm.durations[row, :count].tolist() == expected.durations[0].tolist()
        agreeing = batch.lm.codes[row, :count] == expected.semantic[0]
        assert agreeing.float().mean() > 0.8  # features are kept in half precision
        assert batch.lm.frame_rate[row].item() == pytest.approx(count / utterance.duration)
        with torch.no_grad():
            latents = feature_latents(whole, features)[0]
        found = batch.latents[row, :, : latents.shape[1]]
        assert (found - latents).square().mean() < 0.05 * latents.square().mean()
    assert batch.frames.tolist() == batch.lm.durations.sum(1).tolist()


def test_rates_differ_by_item_and_step_and_depend_on_nothing_else(speech, whole, tmp_path):
    clips = make_speech(speech, whole, tmp_path / "cache", with_latents=False)
    together = clips.batch([0, 0, 1], [3, 4, 5], seed=0, step=1)
    assert together.latents is None
    assert together.lm.token_lengths[0] != together.lm.token_lengths[1]
    alone = clips.batch([0], [4], seed=0, step=1)
    count = int(alone.lm.token_lengths[0])
    assert together.lm.durations[1, :count].tolist() == alone.lm.durations[0].tolist()
    later = [clips.batch([0], [4], seed=0, step=step).lm.token_lengths.item() for step in range(6)]
    assert len(set(later)) > 2


def test_a_folder_of_tokens_gives_its_own(speech, whole, tokens_folder, tmp_path):
    data = SpeechDataConfig(tokens=str(tokens_folder))
    clips = TokenSpeech(tokens_folder, whole, data, CharacterConfig(), with_latents=True)
    assert len(clips.ids) == 4
    stored = {rate: {t.info["id"]: t for t in flexicodec.corpus.tokens(tokens_folder, rate)} for rate in (6.25, 12.5)}
    seen = set()
    for item in range(8):
        batch = clips.batch([1], [item], seed=0, step=0)
        for rate, by_id in stored.items():
            if by_id["clip-1"].semantic.tolist() == batch.lm.codes.tolist():
                seen.add(rate)
                assert by_id["clip-1"].durations.tolist() == batch.lm.durations.tolist()
    assert seen == {6.25, 12.5}
    # Latents are those of the finer rate, whatever the item's.
    fine = whole.decode(stored[12.5]["clip-1"])
    lengths = torch.tensor([batch.latents.shape[2]])
    with torch.no_grad():
        audio, _ = whole.decode_frames(*whole.smooth_frames(batch.latents, lengths))
    torch.testing.assert_close(audio[:, : fine.shape[1]], fine, atol=1e-4, rtol=1e-4)


def test_texts_of_a_manifest_are_joined_by_id(speech, whole, tokens_folder, tmp_path):
    rows = [json.loads(line) for line in speech.read_text().splitlines()]
    rows = [
        {**row, "path": str(speech.parent / row["path"]), "text": f"new {'ab'[i % 2]}"} for i, row in enumerate(rows)
    ]
    (tmp_path / "other.jsonl").write_text("\n".join(map(json.dumps, rows[:3])))
    data = SpeechDataConfig(tokens=str(tokens_folder), manifest=(str(tmp_path / "other.jsonl"),))
    clips = TokenSpeech(tokens_folder, whole, data, CharacterConfig(), with_latents=False)
    assert clips.text.alphabet == " abenw"
    assert len(clips.ids) == 3


def test_what_is_left_out_is_counted(speech, whole, tmp_path, caplog):
    caplog.set_level("INFO")
    data = SpeechDataConfig(manifest=(str(speech),), min_seconds=0.8, max_seconds=1.1)
    text = CharacterConfig(" abcd")
    clips = ManifestSpeech(read_manifest(speech), tmp_path / "cache", whole, data, replace(text, alphabet=" abd"))
    assert len(clips.ids) == 1
    counts = "left out: 1 without text, 1 too short, 1 too long, 1 with unknown characters"
    assert f"1 of 5 clips are used; {counts}" in caplog.text
    with pytest.raises(ValueError, match="none of 5 clips is left to train on: 1 without text, 4 too short"):
        ManifestSpeech(read_manifest(speech), tmp_path / "cache", whole, replace(data, min_seconds=9), text)


# ---------------------------------------------------------------------------------------------------------- training


def test_it_learns_and_the_model_speaks(recipe, speech):
    config = recipe(data={"validation": str(speech)}, steps=30, log_every=5, save_every=100, validate_every=15)
    state = torch.get_rng_state()
    folder = train(config)
    assert torch.equal(torch.get_rng_state(), state)
    for name in ("loss/codes", "loss/durations", "validation/codes", "validation/durations", "validation/flow"):
        values = curves(config, name)
        assert values[-1] < values[0], name
    held = read_curves(Path(config.output) / "curves.jsonl")
    assert {"grad_norm/lm", "learning_rate/flow", "loss/bits_per_token"} <= set(held)
    tts = flexicodec.load_tts(folder)
    assert isinstance(tts, CodecTTS)
    assert tts.models.config.text.alphabet == " .abcd"
    audio, _ = tts.synthesize("a bad cab", frame_rate=5.0, sampling=FlowSamplingConfig(2))
    assert audio.isfinite().all()


def test_tokens_train_as_well(recipe, tokens_folder):
    data = {"tokens": str(tokens_folder), "manifest": (), "validation": str(tokens_folder)}
    config = recipe(data=data, mixed_precision="bf16")
    AcceleratorState._reset_state()  # Accelerate keeps one precision per process
    folder = train(config)
    AcceleratorState._reset_state()
    assert all(np.isfinite(curves(config, "validation/flow")))
    assert flexicodec.load_tts(folder).models.config.text.alphabet == " .abcd"


def test_an_interrupted_run_resumes_exactly(recipe, monkeypatch):
    straight = train(recipe("straight", steps=4, accumulation=2))
    undo = stop_after(monkeypatch, 2)
    halves = recipe("halves", steps=4, accumulation=2)
    with pytest.raises(KeyboardInterrupt):
        train(halves)
    undo()
    resumed = train(halves)
    first, second = (flexicodec.load_tts(folder).models.state_dict() for folder in (straight, resumed))
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_a_step_of_two_passes_is_that_of_one(recipe, monkeypatch):
    """Gradients are means over tokens and frames, however these are spread over passes."""
    sums = {}
    for accumulation in (1, 2):
        trainer = SpeechTrainer(recipe(f"passes-{accumulation}", accumulation=accumulation, rate_dropout=0.0))
        planned = next(trainer.batches(0))
        trainer.models.eval()  # no dropout
        places = [planned.places] if accumulation == 1 else [planned.places[:1], planned.places[1:]]
        batches = [speech_trainer.PlannedBatch(each, planned.lengths) for each in places]
        found = []

        def look(part, accelerator, finite, found=found):
            found.append(part.bare.code_head.project.weight.grad.clone())
            return True, 0.0

        monkeypatch.setattr(speech_trainer.OptimizedModule, "optimizer_step", look)
        for parts in (trainer.parts, trainer.averages):
            parts.pop("flow")  # whose noise is drawn pass by pass
        trainer.update(batches)
        sums[accumulation] = found[0]
        monkeypatch.undo()
    torch.testing.assert_close(sums[1], sums[2], atol=1e-5, rtol=1e-4)


def test_one_network_can_be_trained_and_the_other_kept(recipe):
    both = train(recipe("both"))
    before = flexicodec.load_tts(both).models
    only = recipe("only", trained=("flow",), init_from=str(both))
    after = flexicodec.load_tts(train(only)).models
    for name, weight in after.lm.state_dict().items():
        assert torch.equal(weight, before.lm.state_dict()[name]), name
    assert not torch.equal(after.flow.layers[0].q_proj.weight, before.flow.layers[0].q_proj.weight)
    assert "loss/codes" not in read_curves(Path(only.output) / "curves.jsonl")
    alone = recipe("alone", trained=("lm",), model=replace(MODEL, flow=None))
    assert flexicodec.load_tts(train(alone)).models.flow is None


def test_a_warm_start_begins_with_the_weights_of_another_model(recipe, tmp_path):
    settings = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    source = LlamaModel(LlamaConfig(vocab_size=9, bos_token_id=None, eos_token_id=None, **settings))
    source.save_pretrained(tmp_path / "llama")
    config = recipe(warm_start=str(tmp_path / "llama"), trained=("lm",), model=replace(MODEL, flow=None))
    trainer = SpeechTrainer(config)
    ours = trainer.models.lm.backbone.layers[0].mlp.up_proj.weight
    assert torch.equal(ours, source.layers[0].mlp.up_proj.weight)
    tts = flexicodec.load_tts(train(config))
    assert tts.models.config.lm.backbone.transformers["model_type"] == "llama"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trained": ("lm",)}, "flow is not trained, and there is no init_from"),
        ({"trained": ()}, "expected some of lm and flow"),
        ({"trained": ("lm", "flow"), "model": replace(MODEL, flow=None)}, "each of them in the model's config"),
        ({"rate_dropout": 1.5}, "rate_dropout is 1.5"),
        ({"steps": 0}, "must be at least 1"),
        ({"init_from": "a", "warm_start": "b"}, "both given"),
        ({"data": SpeechDataConfig(manifest=("a",)), "rates": 1}, None),
    ],
)
def test_configs_that_make_no_sense(recipe, settings, message):
    if message is None:
        for wrong in ({}, {"manifest": ("a",), "batch_seconds": 0.0}):
            with pytest.raises(ValueError, match="there are no data|batch_seconds is 0.0"):
                SpeechDataConfig(**wrong)
        return
    with pytest.raises(ValueError, match=message):
        recipe(**settings)


def test_data_that_do_not_fit(recipe, tokens_folder, spectral, tmp_path):
    spectral.save_pretrained(tmp_path / "spectral")
    data = {"tokens": str(tokens_folder), "manifest": ()}
    with pytest.raises(ValueError, match="tokens of another codec"):
        train(recipe(data=data, codec=str(tmp_path / "spectral")))
    with pytest.raises(ValueError, match="has the rates it was made with"):
        train(recipe(data=data, rates=RateConfig()))
    with pytest.raises(ValueError, match="to be calibrated"):
        train(recipe(rates=RateConfig(threshold_range=CalibratedRange())))
    train(recipe("first"))
    with pytest.raises(ValueError, match="another model"):
        train(recipe("first", model=replace(MODEL, lm=replace(MODEL.lm, head_dim=14))))
    with pytest.raises(ValueError, match="other sizes than the config"):
        train(
            recipe(
                "second", init_from=str(tmp_path / "first" / "model"), model=replace(MODEL, lm=None), trained=("flow",)
            )
        )


def test_the_alphabet_stays_that_of_the_start(recipe, speech, tmp_path, monkeypatch):
    undo = stop_after(monkeypatch, 1)
    config = recipe()
    with pytest.raises(KeyboardInterrupt):
        train(config)
    undo()
    rows = [json.loads(line) for line in speech.read_text().splitlines()]
    rows[1]["text"] = "xyz"
    grown = speech.parent / "grown.jsonl"
    grown.write_text("\n".join(map(json.dumps, rows)))
    data = replace(config.data, manifest=(str(grown),))
    assert flexicodec.load_tts(train(replace(config, data=data))).models.config.text.alphabet == " .abcd"


def test_gradients_that_are_not_finite_stop_the_run(recipe, monkeypatch):
    nats = SpeechTrainer.nats
    monkeypatch.setattr(SpeechTrainer, "nats", lambda self, *given: nats(self, *given) * np.nan)
    with pytest.raises(FloatingPointError, match="not finite in 2 steps in a row"):
        train(recipe(steps=9, max_bad_steps=2))


@pytest.mark.parametrize("name", ["small", "tiny"])
def test_shipped_configs_are_read(name, capsys):
    config = from_dict(SpeechTrainingConfig, load_yaml(CONFIGS / f"{name}.yaml"))
    assert from_dict(SpeechTrainingConfig, to_dict(config)) == config
    assert main(["train-tts", str(CONFIGS / f"{name}.yaml"), "steps=7", "--print-config"]) == 0
    assert "steps: 7\n" in capsys.readouterr().out


def test_the_command_trains(recipe, tmp_path, capsys):
    config = recipe("command", steps=1)
    (tmp_path / "run.json").write_text(json.dumps(to_dict(config)))
    assert main(["train-tts", str(tmp_path / "run.json"), "log_every=1"]) == 0
    folder = Path(capsys.readouterr().out.strip().splitlines()[-1])
    assert flexicodec.load_tts(folder).sample_rate == 16_000


# ---------------------------------------------------------------------------------------------------------- by heart


@pytest.mark.slow
def test_two_processes_are_two_passes(recipe, speech, tmp_path):
    config = recipe("one", steps=3, accumulation=2, data={"validation": str(speech)}, validate_every=3)
    one = flexicodec.load_tts(train(config)).models.state_dict()
    (tmp_path / "run.json").write_text(json.dumps(to_dict(config)))
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "flexicodec.training.tts"]
    changed = [f"output={tmp_path / 'two'}", "accumulation=1"]
    subprocess.run([sys.executable, *launch, str(tmp_path / "run.json"), *changed], check=True, timeout=500)
    two = flexicodec.load_tts(tmp_path / "two" / "model").models.state_dict()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-4)
    both = [read_curves(tmp_path / name / "curves.jsonl")["validation/flow"][-1][1] for name in ("one", "two")]
    assert both[0] == pytest.approx(both[1], rel=1e-4)


@pytest.fixture
def four_sentences(tmp_path):
    """Four clips of 3 to 4.5 s, and their manifest."""
    if not (SPEECH / "train.jsonl").is_file():
        pytest.skip(f"{SPEECH} has no train.jsonl; FLEXICODEC_SPEECH names another folder")
    clips = [clip for clip in read_manifest(SPEECH / "train.jsonl") if clip.text and 3.0 < clip.duration < 4.5]
    chosen = [replace(clip, path=clip.path.absolute()) for clip in clips[:400:100]]
    write_manifest(tmp_path / "four.jsonl", chosen)
    return chosen, tmp_path / "four.jsonl"


@pytest.mark.slow
@pytest.mark.skipif(not moonshine_weights.ENCODER.is_installed(), reason="needs the extra instruments")
def test_four_sentences_are_learnt_by_heart(four_sentences, tmp_path):
    """A minute or two of training; the recogniser then understands them, at every rate that is asked."""
    clips, manifest = four_sentences
    tiny = from_dict(SpeechTrainingConfig, load_yaml(CONFIGS / "tiny.yaml"))
    optim = replace(tiny.lm_optim, learning_rate=2e-3)
    config = replace(
        tiny,
        output=str(tmp_path / "run"),
        data=replace(tiny.data, manifest=(str(manifest),), validation=None),
        lm_optim=optim,
        flow_optim=optim,
        steps=600,
        trackers=("jsonl",),
    )
    tts = flexicodec.load_tts(train(config))
    texts = [clip.text.lower() for clip in clips]
    recognizer = Moonshine.load()
    settings = GenerationConfig(tokens=GREEDY, min_tokens=1)
    for rate in (6.25, 8.33, 12.5):
        made = [tts.synthesize(text, frame_rate=rate, generation=settings) for text in texts]
        assert not any(each.tokens.info["reached_limit"] for each in made)
        rates = torch.cat([each.tokens.frame_rates for each in made])
        assert rates.mean().item() == pytest.approx(rate, rel=0.1)
        transcripts = recognizer.transcribe([each.audio[0].numpy() for each in made])
        assert error_rates(texts, transcripts)["cer"] < 0.2, transcripts
