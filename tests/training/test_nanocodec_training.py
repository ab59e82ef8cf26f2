"""The trainer and a NanoCodec: recipes, every loss and discriminator, exact resume, and data parallelism."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from accelerate.state import AcceleratorState
from pystoi import stoi
from safetensors.torch import load_file

import flexicodec
from flexicodec.config import from_dict, load_yaml, overlay, to_dict
from flexicodec.models.flexicodec.config import FlexiCodecConfig
from flexicodec.models.nanocodec.config import PUBLISHED, NanoCodecConfig
from flexicodec.training.config import DataConfig, LossWeights, ReconstructionConfig, TrainingConfig
from flexicodec.training.discriminators.config import SlmDiscriminatorConfig
from flexicodec.training.discriminators.multi_discriminator import Discriminators
from flexicodec.training.generator import make_generator
from flexicodec.training.rate_sampling import rate_config_for, sample_rates
from flexicodec.training.speaker_encoder import SpeakerEncoder
from flexicodec.training.trainer import CodecTrainer, train
from flexicodec.training.training_state import build_codec
from tests.training.recipes import NANO, RECIPES, nano_recipe, read_recipe

WAVLM = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "conv_dim": [4] * 7,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}
GAME = ("loss/adversarial", "loss/feature_matching", "loss/discriminator")


def curves(output):
    rows = (json.loads(line) for line in (Path(output) / "curves.jsonl").read_text().splitlines())
    return [row for row in rows if "loss/total" in row]


def losses(output):
    names = ("loss/total", "loss/log_mel", "loss/stft", *GAME, "grad_norm/generator")
    return np.array([[row.get(name, np.nan) for name in names] for row in curves(output)])


@pytest.fixture(scope="module")
def wavlm(tmp_path_factory):
    """A WavLM with random weights, as transformers saves it."""
    from transformers import WavLMConfig, WavLMModel

    folder = tmp_path_factory.mktemp("wavlm")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        WavLMModel(WavLMConfig(**WAVLM)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def speaker_encoder(tmp_path_factory):
    """H/ASP with random weights, as its authors released it: in the checkpoint of a training."""
    folder = tmp_path_factory.mktemp("speaker")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save({"model": SpeakerEncoder().state_dict(), "step": 1}, folder / "pytorch_model.bin")
    return folder


# -------------------------------------------------------------------------------------------------------------- configs


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_shipped_recipes_are_read(name):
    config = read_recipe(name)
    assert isinstance(config.model, NanoCodecConfig)
    assert from_dict(TrainingConfig, to_dict(config)) == config
    assert config.optim.optimizer == "adam"
    assert config.optim.betas == (0.8, 0.99)
    assert (config.adversarial.every, config.adversarial.average, config.adversarial.centre) == (2, True, False)
    assert config.adversarial.band is None
    assert config.losses.stft == 20 * config.losses.log_mel == 20


def test_recipes_are_of_the_published_models():
    assert read_recipe("nano").model == PUBLISHED["nano_1.78kbps_12.5fps"]
    assert read_recipe("lfsc").model == PUBLISHED["lfsc_1.89kbps_21.5fps"]
    assert (read_recipe("nano").losses.speaker, read_recipe("lfsc").losses.speaker) == (0.1, 0)


def test_no_part_has_the_name_of_another_familys():
    names = [{field.name for field in fields(family)} for family in (FlexiCodecConfig, NanoCodecConfig)]
    assert not names[0] & names[1]


def test_the_parts_of_a_model_tell_its_family():
    def family(model):
        return type(from_dict(TrainingConfig, {"output": "run", "data": {}, "model": model}).model)

    assert family({}) is FlexiCodecConfig
    assert family({"merging": None}) is FlexiCodecConfig
    assert family({"quantizer": {"num_groups": 4}}) is NanoCodecConfig
    assert family(to_dict(NANO)) is NanoCodecConfig
    with pytest.raises(ValueError, match=r"unknown key 'model.merging' \(NanoCodecConfig\)"):
        family({"quantizer": {}, "encoder": {}, "merging": None})
    with pytest.raises(ValueError, match=r"unknown key 'model.encodr' .*did you mean 'encoder'"):
        family({"quantizer": {}, "encodr": {}})


@pytest.mark.parametrize("name", sorted(path.stem for path in (RECIPES.parent / "ablations").glob("*.yaml")))
def test_an_ablation_of_the_paper_goes_over_the_tiny_recipe(name):
    ablation = load_yaml(RECIPES.parent / "ablations" / f"{name}.yaml")
    small = {"encoder": {"width": 6}, "decoder": {"width": 96}}
    config = from_dict(TrainingConfig, overlay(overlay(load_yaml(RECIPES / "tiny.yaml"), ablation), {"model": small}))
    assert config.model.encoder.causal == name.startswith("causal")
    assert build_codec(config).num_codebooks == 8


# ------------------------------------------------------------------------------------------------------------ the steps


@pytest.mark.slow
def test_a_run_gives_a_codec_that_opens(manifest, tmp_path):
    config = nano_recipe(manifest, tmp_path / "run", sample_every=4)
    codec = flexicodec.load(train(config))
    assert codec.config == NANO
    audio = torch.randn(1, 5000, generator=torch.Generator().manual_seed(0)) * 0.1
    tokens = codec.encode(audio)
    assert tokens.semantic is None
    assert tokens.acoustic.shape == (1, 3, 167)
    assert codec.decode(tokens).shape == audio.shape
    rows = curves(config.output)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert {"loss/log_mel", "loss/stft", *GAME, "codebook/acoustic_03/perplexity", "balance/accuracy"} <= rows[0].keys()
    assert not {name for name in rows[0] if "semantic" in name or name in ("loss/mel", "loss/commitment")}
    assert {row["rate/frame_rate"] for row in rows} == {735.0}
    peak = config.optim.learning_rate
    assert [row["learning_rate"] for row in rows] == pytest.approx([peak, peak, peak / 2, peak / 2])
    last = json.loads((tmp_path / "run" / "curves.jsonl").read_text().splitlines()[-1])
    assert "validation/mel_735hz" in last
    kept = {path.suffix for path in (tmp_path / "run" / "samples" / "step-0000004").iterdir()}
    assert kept == {".flac", ".png"}
    info = soundfile.info(next((tmp_path / "run" / "samples" / "step-0000004").glob("*decoded.flac")))
    assert info.samplerate == 22_050


def test_every_loss_and_discriminator_at_once(manifest, tmp_path, wavlm, speaker_encoder):
    audio = {"log_mel", "log_mel_squared", "stft", "waveform", "waveform_squared", "si_sdr", "speaker", "mel"}
    config = nano_recipe(manifest, tmp_path / "run", steps=1)
    config = replace(
        config,
        losses=LossWeights(**dict.fromkeys(audio, 1.0)),
        reconstruction=ReconstructionConfig((64, 256), (8, 20), speaker_encoder=str(speaker_encoder)),
        adversarial=replace(
            config.adversarial, slm=SlmDiscriminatorConfig(str(wavlm), channels=(4, 5, 6)), relative=True
        ),
    )
    trainer = CodecTrainer(config)
    networks = trainer.state
    before = {name: value.clone() for name, value in trainer.codec.named_parameters()}
    discriminator_weights = {name: value.clone() for name, value in networks.discriminators.named_parameters()}
    assert not [name for name in discriminator_weights if "network" in name or "encoder" in name]
    assert len(networks.discriminators.parts) == 5
    trainer.run()
    (row,) = curves(config.output)
    assert row["skipped"] == 0
    assert {f"loss/{name}" for name in audio} | set(GAME) <= row.keys()
    assert -1 <= row["loss/speaker"] < 1
    total = sum(row[f"loss/{name}"] for name in (*audio, "adversarial")) + 2 * row["loss/feature_matching"]
    assert row["loss/total"] == pytest.approx(total, rel=1e-5)
    unchanged = {name for name, value in trainer.codec.named_parameters() if torch.equal(value, before[name])}
    assert not unchanged
    assert not [
        name
        for name, value in networks.discriminators.named_parameters()
        if torch.equal(value, discriminator_weights[name])
    ]


def test_frozen_networks_pass_gradients_and_stay_as_they_are(manifest, tmp_path, wavlm, speaker_encoder):
    """Through the speaker encoder alone, and through the speech model alone, something is learnt."""
    config = nano_recipe(manifest, tmp_path / "run", steps=1)
    speaker = replace(
        config,
        output=str(tmp_path / "speaker"),
        losses=LossWeights(mel=0.0, speaker=1.0),
        reconstruction=ReconstructionConfig(speaker_encoder=str(speaker_encoder)),
        adversarial=None,
    )
    slm = SlmDiscriminatorConfig(str(wavlm), channels=(4, 5))
    adversarial_config = replace(config.adversarial, period=None, spectrogram=None, slm=slm)
    speech = replace(config, losses=LossWeights(mel=0.0), adversarial=adversarial_config)
    for each in (speaker, speech):
        trainer = CodecTrainer(each)
        (frozen,) = (
            [trainer.state.generator.bare.audio_losses.losses["speaker"].embed]
            if each is speaker
            else [part.speech_model for part in trainer.state.discriminators.parts]
        )
        held = {name: value.clone() for name, value in frozen.network.state_dict().items()}
        assert held
        before = {name: value.clone() for name, value in trainer.codec.named_parameters()}
        trainer.run()
        assert all(not torch.equal(value, before[name]) for name, value in trainer.codec.named_parameters())
        assert all(torch.equal(value, held[name]) for name, value in frozen.network.state_dict().items())
        assert not frozen.network.training


def test_discriminators_are_updated_in_every_second_batch(manifest, tmp_path):
    config = nano_recipe(manifest, tmp_path / "run", steps=4, save_every=1, keep_last=4)
    train(config)
    assert ["loss/discriminator" in row for row in curves(config.output)] == [True, False, True, False]
    assert all("loss/adversarial" in row for row in curves(config.output))
    first, second, third, fourth = (
        load_file(folder / "discriminators.safetensors")["parts.0.post.bias"]
        for folder in sorted((tmp_path / "run" / "checkpoints").glob("step-*"))
    )
    assert torch.equal(first, second)
    assert not torch.equal(second, third)
    assert torch.equal(third, fourth)


@pytest.mark.slow  # the trainer's own test is the quick one
def test_a_resumed_run_is_the_run_unbroken(manifest, tmp_path):
    straight = nano_recipe(manifest, tmp_path / "straight", steps=6, save_every=3)
    train(straight)
    broken = replace(straight, output=str(tmp_path / "broken"))
    train(replace(broken, steps=3))
    train(broken)
    np.testing.assert_array_equal(losses(broken.output), losses(straight.output))
    one, other = (flexicodec.load(Path(config.output) / "model").state_dict() for config in (straight, broken))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.slow  # the trainer's own test is the quick one
def test_accumulation_equals_a_larger_batch(manifest, tmp_path):
    whole = nano_recipe(manifest, tmp_path / "whole")
    whole = replace(whole, data=replace(whole.data, batch_size=4))
    parts = replace(whole, output=str(tmp_path / "parts"), data=replace(whole.data, batch_size=2))
    parts = replace(parts, optim=replace(whole.optim, accumulation=2))
    for config in (whole, parts):
        train(config)
    np.testing.assert_allclose(losses(parts.output), losses(whole.output), rtol=2e-4)


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batch(manifest, tmp_path):
    one = nano_recipe(manifest, tmp_path / "one")
    one = replace(one, data=replace(one.data, batch_size=4))
    two = replace(one, output=str(tmp_path / "two"), data=replace(one.data, batch_size=2))
    train(one)
    (tmp_path / "two.json").write_text(json.dumps(to_dict(two)))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launch += ["-m", "flexicodec.training", str(tmp_path / "two.json")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(flexicodec.__file__).parents[1])}

    def launch_two():
        done = subprocess.run(launch, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]

    launch_two()
    np.testing.assert_allclose(losses(two.output), losses(one.output), rtol=2e-4)
    first = losses(two.output)
    shutil.rmtree(tmp_path / "two" / "checkpoints" / "step-0000004")
    launch_two()  # goes on from step 2
    np.testing.assert_allclose(losses(two.output), first, rtol=1e-6)


@pytest.mark.parametrize("reflects", [False, True])
def test_a_padded_batch_is_each_clip_alone(reflects, tmp_path):
    model = replace(NANO, encoder=replace(NANO.encoder, padding_mode="reflect")) if reflects else NANO
    config = nano_recipe("none", tmp_path, model=model, adversarial=None)
    codec = build_codec(config)
    generator = make_generator(codec, config)
    lengths = torch.tensor([3000, 2345, 31])
    audio = 0.1 * torch.randn(3, 3000, generator=torch.Generator().manual_seed(0))
    audio = audio.masked_fill(torch.arange(3000) >= lengths[:, None], 0.0)
    rates, dropout = rate_config_for(config)
    sampled = sample_rates(rates, dropout, (1.0, 1.0), codec.num_codebooks, range(3), seed=0, step=0)
    assert sampled.num_codebooks.tolist() == [3, 3, 3]
    together = generator(audio, lengths, sampled)
    assert together.durations.sum(dim=1).tolist() == [100, 79, 2]
    for item, length in enumerate(lengths.tolist()):
        alone = generator(audio[item : item + 1, :length], lengths[item : item + 1], sampled)
        torch.testing.assert_close(together.audio[item, :length], alone.audio[0], rtol=0, atol=1e-5)
        assert not together.audio[item, length:].any()
        assert torch.equal(together.acoustic[item, :, : alone.acoustic.shape[-1]], alone.acoustic[0])
        for name, loss in alone.losses.items():
            torch.testing.assert_close(together.losses[name][item], loss[0], rtol=1e-4, atol=1e-6)


def test_half_precision_leaves_the_quantiser_alone(manifest, tmp_path):
    AcceleratorState._reset_state()  # Accelerate keeps one precision per process
    trainer = CodecTrainer(nano_recipe(manifest, tmp_path / "run", steps=2, mixed_precision="bf16"))
    seen = []
    trainer.codec.quantizer.register_forward_hook(lambda module, inputs, output: seen.append(output.latents.dtype))
    trainer.run()
    AcceleratorState._reset_state()
    assert set(seen) == {torch.float32}
    assert [row["skipped"] for row in curves(trainer.config.output)] == [0, 0]


def test_unavailable_losses_are_refused(tmp_path):
    config = nano_recipe("none", tmp_path)
    codec = build_codec(config)
    with pytest.raises(ValueError, match="bottleneck of a FlexiCodec, which this model lacks"):
        make_generator(codec, replace(config, losses=LossWeights(repa=1.0)))
    with pytest.raises(ValueError, match=r"reconstruction\.speaker_encoder is null"):
        make_generator(codec, replace(config, losses=LossWeights(speaker=0.1)))
    missing = ReconstructionConfig(speaker_encoder=str(tmp_path))
    with pytest.raises(ValueError, match=r"holds none of .*pytorch_model\.bin"):
        make_generator(codec, replace(config, losses=LossWeights(speaker=0.1), reconstruction=missing))
    adversarial_config = replace(config.adversarial, slm=SlmDiscriminatorConfig(str(tmp_path / "wavlm")))
    with pytest.raises(ValueError, match=r"adversarial\.slm\.source is .*there is no"):
        Discriminators(adversarial_config, codec.sample_rate)


# ---------------------------------------------------------------------------------------------------------- overfitting


@pytest.mark.slow
def test_two_utterances_can_be_overfitted(speech, tmp_path):
    """Takes about 90 s of one core."""
    clips, rate = [recording[0, 4000:20_000] for recording in speech], 16_000
    rows = []
    for index, clip in enumerate(clips):
        soundfile.write(tmp_path / f"{index}.flac", clip.numpy(), rate)
        rows.append({"path": f"{index}.flac", "duration": len(clip) / rate})
    manifest = tmp_path / "two.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)) + "\n")
    tiny = read_recipe("tiny")
    config = replace(
        tiny,
        output=str(tmp_path / "run"),
        data=DataConfig(manifest=(str(manifest),), batch_size=2, crop_seconds=1.0),
        adversarial=None,
        steps=300,
        log_every=50,
        trackers=("jsonl",),
    )
    codec = flexicodec.load(train(config))
    rows = curves(config.output)
    assert rows[-1]["loss/stft"] < 0.6 * rows[0]["loss/stft"]
    scores = []
    for clip in clips:
        resampled = flexicodec.audio.resample(clip[None], rate, codec.sample_rate)
        decoded = flexicodec.audio.resample(codec.decode(codec.encode(resampled)), codec.sample_rate, rate)
        scores.append(float(stoi(clip.numpy(), decoded[0].numpy(), rate)))
    assert min(scores) >= 0.8, scores
