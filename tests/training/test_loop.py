"""The whole recipe at toy size: a recogniser, a codec around its first blocks, resume, export."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import flexicodec
from flexicodec.blocks.transformer import TransformerConfig
from flexicodec.config import from_dict, load_yaml
from flexicodec.models.flexicodec.config import AcousticConfig, FlexiCodecConfig, MergingConfig, SemanticConfig
from flexicodec.models.flexicodec.semantic import SanmConfig
from flexicodec.quantize import FSQConfig, RVQConfig
from flexicodec.training import asr, loop
from flexicodec.training.config import CodecTrainingConfig, DataConfig, OptimConfig, RateConfig
from flexicodec.training.step import draw_choices

SANM = SanmConfig(num_layers=2, dim=16, num_heads=2, feedforward_dim=32, prompt=(), positions=False, window=4)
SMALL = TransformerConfig(num_layers=1, dim=16, num_heads=2, feedforward_dim=32, window=4)


@pytest.fixture
def recogniser(manifest, tmp_path):
    config = asr.ASRTrainingConfig(
        manifest=str(manifest),
        eval_manifest=str(manifest),
        output=str(tmp_path / "asr"),
        encoder=SANM,
        eval_corpora=("noise",),
        steps=2,
        batch_seconds=3.0,
        bf16=False,  # Accelerate keeps one precision per process, and the codec below wants float32
        log_every=1,
        eval_every=2,
    )
    rate = asr.train(config)
    assert rate > 0
    return tmp_path / "asr" / "asr.safetensors"


@pytest.fixture
def config(manifest, tmp_path, recogniser):
    model = FlexiCodecConfig(
        geometry="whole",
        semantic_encoder=replace(SANM, num_layers=1),
        acoustic=AcousticConfig(width=2, latent_dim=16, decoder_width=32),
        merging=MergingConfig(0.5, (0.0, 1.0), 8, SMALL, SMALL),
        semantic=SemanticConfig(FSQConfig((4, 4)), dim=16, hidden_dim=32, num_layers=1),
        acoustic_quantizer=RVQConfig(num_codebooks=3, codebook_size=16, codebook_dim=4),
        bottleneck=SMALL,
    )
    return CodecTrainingConfig(
        output=str(tmp_path / "codec"),
        asr_weights=str(recogniser),
        model=model,
        data=DataConfig(manifest=str(manifest), batch_size=2, crop_seconds=0.5),
        rates=RateConfig(threshold_range=(0.0, 1.0)),
        optim=OptimConfig(warmup_steps=1),
        steps=4,
        log_every=1,
        save_every=2,
    )


def losses(folder):
    return [json.loads(line)["mel"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_codec_is_trained_resumed_and_opened(config, tmp_path, monkeypatch):
    folder = loop.train(config)
    codec = flexicodec.load(folder)
    audio = torch.randn(1, 5000, generator=torch.Generator().manual_seed(0)) * 0.1
    assert codec.decode(codec.encode(audio, frame_rate=6.25)).shape == audio.shape
    frozen = codec.semantic_encoder.state_dict()
    trained = loop.first_blocks(loop.load_file(config.asr_weights), config.model.semantic_encoder)
    assert all(torch.allclose(frozen[name], trained[name].half().float()) for name in frozen)

    # the same run, broken off after two steps and taken up again
    halves = replace(config, output=str(tmp_path / "halves"))
    save = loop._save

    def save_and_stop(path, model, optimizer, schedule, step, config):
        save(path, model, optimizer, schedule, step, config)
        if step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        loop.train(halves)
    monkeypatch.setattr(loop, "_save", save)
    loop.train(halves)
    np.testing.assert_allclose(losses(tmp_path / "halves"), losses(tmp_path / "codec"), rtol=1e-6)


def test_choices_depend_on_seed_and_step_alone():
    rates = RateConfig(threshold_range=(0.3, 0.6), unmerged_share=0.5)
    first, second = (draw_choices(rates, 8, 64, seed=0, step=3) for _ in range(2))
    assert first.thresholds == second.thresholds
    assert torch.equal(first.num_codebooks, second.num_codebooks)
    assert draw_choices(rates, 8, 64, seed=0, step=4).thresholds != first.thresholds
    assert all(t == 1.0 or 0.3 <= t <= 0.6 for t in first.thresholds)
    assert 0.2 < sum(t == 1.0 for t in first.thresholds) / 64 < 0.8
    assert set(first.num_codebooks.tolist()) <= set(range(9))
    assert draw_choices(rates, 8, 2, seed=0, step=3).thresholds == first.thresholds[:2]  # batch size does not matter


@pytest.mark.parametrize(
    ("path", "kind"),
    [("configs/asr/mini.yaml", asr.ASRTrainingConfig), ("configs/flexicodec/mini.yaml", CodecTrainingConfig)],
)
def test_shipped_configs_are_read(path, kind, pytestconfig):
    assert isinstance(from_dict(kind, load_yaml(pytestconfig.rootpath / path)), kind)


def test_edit_distance():
    assert asr.character_errors("kitten", "sitting") == 3
    assert asr.character_errors("abc", "") == 3
    assert asr.character_errors("", "ab") == 2
    assert asr.character_errors("same", "same") == 0


def test_greedy_ctc_drops_blanks_and_repeats(monkeypatch):
    model = asr.CTCModel(SANM)
    symbols = [1 + asr.ALPHABET.index(c) for c in "hhel"] + [0] + [1 + asr.ALPHABET.index(c) for c in "lo"] + [0]
    scores = torch.nn.functional.one_hot(torch.tensor([symbols]), len(asr.ALPHABET) + 1).float()
    monkeypatch.setattr(asr.CTCModel, "forward", lambda self, features, lengths: (scores, torch.tensor([8])))
    assert model.transcribe(torch.zeros(1, 4000), torch.tensor([4000])) == ["hello"]
