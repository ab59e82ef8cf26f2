"""Runs from beginning to end at toy size: both stages, exact resume, accumulation, failures and messages."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

import flexicodec
from flexicodec.config import to_dict
from flexicodec.models.flexicodec.config import SemanticConfig
from flexicodec.quantize import RVQConfig, VQConfig
from flexicodec.training import trainer as trainer_module
from flexicodec.training.config import CalibratedRange, DropoutConfig, InitConfig, RateConfig
from flexicodec.training.optim import learning_rate_factor
from flexicodec.training.trainer import CodecTrainer, train
from tests.training.recipes import ADVERSARY, MODEL, make_recogniser, recipe

VQ = SemanticConfig(VQConfig(codebook_size=16, codebook_dim=4), dim=16, hidden_dim=32, num_layers=1)


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory):
    return make_recogniser(tmp_path_factory.mktemp("recogniser"))


def curves(output):
    return [json.loads(line) for line in (Path(output) / "curves.jsonl").read_text().splitlines()]


def losses(output, names=("loss/total", "loss/mel", "loss/adversarial", "loss/discriminator", "grad_norm/generator")):
    return np.array([[row.get(name, np.nan) for name in names] for row in curves(output) if "loss/total" in row])


def weights(folder):
    return flexicodec.load(folder).state_dict()


def test_both_stages_give_a_codec_that_opens(manifest, tmp_path, recogniser):
    fixed = recipe(manifest, tmp_path / "fixed", recogniser, model=replace(MODEL, merging=None, bottleneck=None))
    fixed = replace(fixed, adversarial=None, losses=replace(fixed.losses, repa=0.0))
    first = train(fixed)
    unmerged = flexicodec.load(first)
    audio = torch.randn(1, 5000, generator=torch.Generator().manual_seed(0)) * 0.1
    assert unmerged.encode(audio).durations.tolist() == [[1] * 4]

    new = ("semantic_aggregator.*", "acoustic_aggregator.*", "bottleneck.*")
    dynamic = recipe(manifest, tmp_path / "dynamic", recogniser, init_from=(InitConfig(str(first), (), new),))
    codec = flexicodec.load(train(dynamic))
    assert codec.decode(codec.encode(audio, frame_rate=6.25)).shape == audio.shape
    rows = curves(tmp_path / "dynamic")
    assert [row["step"] for row in rows if "loss/total" in row] == [1, 2, 3, 4]
    assert {"loss/mel", "loss/adversarial", "loss/feature_matching", "loss/alignment", "loss/repa"} <= rows[0].keys()
    assert {"codebook/semantic/perplexity", "codebook/acoustic_01/use", "rate/frame_rate"} <= rows[0].keys()
    assert {"balance/real_score", "grad_norm/discriminator", "learning_rate", "duration/mean"} <= rows[0].keys()
    assert "validation/mel_6.25hz" in rows[-1]
    frozen = {name: value for name, value in codec.state_dict().items() if name.startswith("semantic_encoder.")}
    assert all(torch.equal(value, unmerged.state_dict()[name]) for name, value in frozen.items())


@pytest.mark.parametrize("quantizer", ["fsq", pytest.param("vq", marks=pytest.mark.slow)])
def test_the_decoder_alone_is_trained(manifest, tmp_path, recogniser, quantizer):
    """Tokens stay, with their fingerprint, and everything else moves; also where codebooks are running means."""
    model = MODEL if quantizer == "fsq" else replace(MODEL, semantic=VQ)
    start = train(recipe(manifest, tmp_path / "start", recogniser, model=model))
    before = flexicodec.load(start)
    config = recipe(manifest, tmp_path / "decoder", recogniser, model=model, init_from=(InitConfig(str(start)),))
    config = replace(config, trained="decoder", optim=replace(config.optim, reseed_every=2))
    config = replace(config, losses=replace(config.losses, alignment=0.0))
    after = flexicodec.load(train(config))
    assert after.fingerprint == after.compute_fingerprint() == before.fingerprint
    audio = torch.randn(1, 9000, generator=torch.Generator().manual_seed(0)) * 0.1
    tokens = before.encode(audio, frame_rate=6.25)
    assert after.encode(audio, frame_rate=6.25) == tokens
    assert not torch.equal(after.decode(tokens), before.decode(tokens))
    old = before.state_dict()
    for name, value in after.state_dict().items():
        if name.split(".")[0] in before.token_modules:
            assert torch.equal(value, old[name]), name
    moved = {name.split(".")[0] for name, value in after.state_dict().items() if not torch.equal(value, old[name])}
    assert moved == {"bottleneck", "decoder"}
    with pytest.raises(ValueError, match="trained is 'decoder' and init_from is empty"):
        replace(config, init_from=())


def test_a_killed_run_resumes_exactly(manifest, tmp_path, recogniser):
    straight = recipe(manifest, tmp_path / "straight", recogniser, steps=20, save_every=5)
    train(straight)
    broken = replace(straight, output=str(tmp_path / "broken"))
    (tmp_path / "broken.json").write_text(json.dumps(to_dict(broken)))
    command = [sys.executable, "-m", "flexicodec.training", str(tmp_path / "broken.json")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(flexicodec.__file__).parents[1])}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        log, deadline = tmp_path / "broken" / "curves.jsonl", time.monotonic() + 120
        while not log.exists() or len(log.read_text().splitlines()) < 7:
            assert process.poll() is None, process.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    train(broken)
    assert [row["step"] for row in curves(broken.output) if "loss/total" in row] == list(range(1, 21))
    np.testing.assert_allclose(losses(broken.output), losses(straight.output), rtol=1e-6, atol=1e-9)
    one, other = (weights(Path(output) / "model") for output in (straight.output, broken.output))
    assert all(torch.allclose(value, other[name], rtol=1e-6, atol=1e-7) for name, value in one.items())


def test_accumulation_equals_a_larger_batch(manifest, tmp_path, recogniser):
    whole = recipe(manifest, tmp_path / "whole", recogniser)
    whole = replace(whole, data=replace(whole.data, batch_size=4))
    parts = replace(whole, output=str(tmp_path / "parts"), data=replace(whole.data, batch_size=2))
    parts = replace(parts, optim=replace(whole.optim, accumulation=2))
    for config in (whole, parts):
        train(config)
    np.testing.assert_allclose(losses(parts.output), losses(whole.output), rtol=2e-4)


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batch(manifest, tmp_path, recogniser):
    one = recipe(manifest, tmp_path / "one", recogniser)
    one = replace(one, data=replace(one.data, batch_size=4), optim=replace(one.optim, reseed_every=4), steps=8)
    one = replace(one, model=replace(MODEL, acoustic_quantizer=RVQConfig(3, 24, 4)))
    one = replace(one, dropout=DropoutConfig(0.0, 0.5), rates=RateConfig((0.0, 1.0), unmerged_share=0.7))
    two = replace(one, output=str(tmp_path / "two"), data=replace(one.data, batch_size=2))
    train(one)
    (tmp_path / "two.json").write_text(json.dumps(to_dict(two)))
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]  # as accelerate's launcher does
    launch += ["-m", "flexicodec.training", str(tmp_path / "two.json")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(flexicodec.__file__).parents[1])}

    def launch_two():
        done = subprocess.run([sys.executable, *launch], env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]

    launch_two()
    np.testing.assert_allclose(losses(two.output), losses(one.output), rtol=2e-4)
    last = [row for row in curves(two.output) if "validation/mel" in row][-1]["validation/mel"]
    assert last == pytest.approx(
        [row for row in curves(one.output) if "validation/mel" in row][-1]["validation/mel"], rel=2e-4
    )
    assert max(row.get("codebook/reseeded", 0) for row in curves(one.output)) > 0

    first = losses(two.output)
    shutil.rmtree(tmp_path / "two" / "checkpoints" / "step-0000008")
    launch_two()  # goes on from step 6, with what both processes had seen
    np.testing.assert_allclose(losses(two.output), first, rtol=1e-6)


def test_both_networks_follow_the_schedule_whenever_the_adversary_joins(manifest, tmp_path, recogniser):
    config = recipe(manifest, tmp_path / "run", recogniser, steps=4)
    trainer = CodecTrainer(replace(config, adversarial=replace(config.adversarial, start_step=2, learning_rate=0.5)))
    trainer.run()
    rows = [row for row in curves(config.output) if "loss/total" in row]
    assert ["loss/adversarial" in row for row in rows] == [False, False, True, True]
    for learner, peak in ((trainer.state.generator, 1e-3), (trainer.state.adversary, 0.5)):
        factor = learning_rate_factor(config.optim, 3, 4)
        assert learner.optimizer.param_groups[0]["lr"] == pytest.approx(peak * factor)


def test_samples_and_pictures_are_kept(manifest, tmp_path, recogniser):
    train(recipe(manifest, tmp_path / "run", recogniser, steps=2, sample_every=2, trackers=("tensorboard", "jsonl")))
    kept = {path.suffix for path in (tmp_path / "run" / "samples" / "step-0000002").iterdir()}
    assert kept == {".flac", ".png"}
    assert list((tmp_path / "run").rglob("events.out.tfevents.*"))


@pytest.mark.parametrize("spoil", [lambda loss: loss * float("inf"), lambda loss: loss + float("nan")])
def test_steps_that_are_not_finite_are_skipped_counted_and_ended(manifest, tmp_path, recogniser, monkeypatch, spoil):
    config = recipe(manifest, tmp_path / "run", recogniser, steps=6, max_bad_steps=3)
    genuine, bad = trainer_module.generator_losses, {2}

    def sometimes_infinite(made, *rest):
        found = genuine(made, *rest)
        if trainer.step in bad:
            found["mel"] = spoil(found["mel"])
        return found

    monkeypatch.setattr(trainer_module, "generator_losses", sometimes_infinite)
    trainer = CodecTrainer(config)
    trainer.run()
    assert [row["skipped"] for row in curves(config.output) if "skipped" in row] == [0, 0, 1, 0, 0, 0]
    assert all(value.isfinite().all() for value in trainer.codec.state_dict().values())

    bad |= set(range(3, 9))
    trainer = CodecTrainer(replace(config, output=str(tmp_path / "doomed"), steps=9))
    with pytest.raises(FloatingPointError, match=r"3 steps in a row, up to step 5.*step-0000002"):
        trainer.run()


def test_features_that_are_not_finite_leave_no_trace(manifest, tmp_path, recogniser, monkeypatch):
    config = recipe(manifest, tmp_path / "run", recogniser, steps=4, model=replace(MODEL, semantic=VQ))
    config = replace(config, optim=replace(config.optim, reseed_every=1), data=replace(config.data, batch_size=6))
    trainer = CodecTrainer(config)
    real_acoustic = trainer.codec.encode_acoustic
    monkeypatch.setattr(
        trainer.codec,
        "encode_acoustic",
        lambda *given: real_acoustic(*given) * (float("nan") if trainer.step == 1 else 1.0),
    )
    real_semantic = trainer.codec.encode_semantic
    monkeypatch.setattr(
        trainer.codec,
        "encode_semantic",
        lambda *given: real_semantic(*given) * (float("nan") if trainer.step == 2 else 1.0),
    )
    trainer.run()
    assert [row["skipped"] for row in curves(config.output) if "skipped" in row] == [0, 1, 1, 0]
    assert all(value.isfinite().all() for value in trainer.codec.state_dict().values())
    assert all(value.isfinite().all() for value in trainer.state.average.state_dict().values())


def test_a_weight_of_zero_leaves_a_loss_out(manifest, tmp_path, recogniser):
    config = recipe(manifest, tmp_path / "run", recogniser, steps=1)
    train(replace(config, losses=replace(config.losses, codebook=0.0)))
    assert "loss/codebook" not in curves(config.output)[0]


def test_a_checkpoint_of_another_model_is_refused_and_other_changes_are_said(manifest, tmp_path, recogniser, caplog):
    config = recipe(manifest, tmp_path / "run", recogniser, steps=2)
    train(config)
    with pytest.raises(ValueError, match="another model.*init_from"):
        CodecTrainer(replace(config, model=replace(MODEL, bottleneck=None)))
    train(replace(config, steps=3, optim=replace(config.optim, learning_rate=1e-4)))
    assert "other settings" in caplog.text
    assert "optim" in caplog.text


def test_a_range_of_rates_is_calibrated_and_kept(manifest, tmp_path, recogniser):
    rates = RateConfig(threshold_range=CalibratedRange((4.0, 11.0), clips=6))
    config = recipe(manifest, tmp_path / "run", recogniser, rates=rates, steps=2)
    trainer = CodecTrainer(config)
    low, high = trainer.threshold_range
    assert -1 < low < high <= 1
    trainer.run()
    assert CodecTrainer(replace(config, steps=3)).threshold_range == (low, high)
    assert CodecTrainer(replace(config, steps=3, rates=RateConfig((0.5, 0.6)))).threshold_range == (0.5, 0.6)


def test_discriminators_go_on_where_others_stopped(manifest, tmp_path, recogniser):
    config = recipe(manifest, tmp_path / "first", recogniser, steps=2)
    train(config)
    (checkpoint,) = (tmp_path / "first" / "checkpoints").glob("step-0000002")
    expected = load_file(checkpoint / "discriminators.safetensors")
    for source in (checkpoint, checkpoint / "discriminators.safetensors"):
        second = replace(config, output=str(tmp_path / "second"), adversarial=replace(ADVERSARY, init_from=str(source)))
        found = CodecTrainer(second).state.discriminators.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in found.items())
    for adversarial_config, message in (
        (replace(ADVERSARY, init_from=str(tmp_path)), "no discriminators.safetensors"),
        (replace(ADVERSARY, init_from=str(checkpoint), band=None), "other settings"),
    ):
        with pytest.raises(ValueError, match=message):
            CodecTrainer(replace(second, adversarial=adversarial_config))


def test_no_frozen_encoder_no_training(manifest, tmp_path, recogniser):
    with pytest.raises(ValueError, match="train-asr"):
        CodecTrainer(recipe(manifest, tmp_path / "run", recogniser, init_from=()))


def test_the_frozen_encoder_stays_frozen_and_in_float32(manifest, tmp_path, recogniser):
    config = recipe(manifest, tmp_path / "run", recogniser, steps=1, mixed_precision="bf16")
    AcceleratorState._reset_state()  # Accelerate keeps one precision per process
    trainer = CodecTrainer(config)
    seen = []
    trainer.codec.semantic_encoder.register_forward_hook(
        lambda module, inputs, output: seen.append((module.training, output[0].dtype, torch.is_grad_enabled()))
    )
    before = {name: value.clone() for name, value in trainer.codec.semantic_encoder.state_dict().items()}
    trainer.run()
    assert seen
    AcceleratorState._reset_state()
    assert set(seen) == {(False, torch.float32, False)}
    assert all(torch.equal(value, before[name]) for name, value in trainer.codec.semantic_encoder.state_dict().items())
