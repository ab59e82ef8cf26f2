"""Every packaged config can be read; every ablation trains for a step, at toy size."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from flexicodec.config import from_dict, load_yaml, to_dict
from flexicodec.encoders.base import SSLConfig
from flexicodec.hub import load
from flexicodec.merging.positions import PositionConfig
from flexicodec.models.flexicodec.model import FlexiCodec
from flexicodec.nn.spectral import SpectralConfig, TwoRateConfig
from flexicodec.quantize import RVQConfig, VQConfig
from flexicodec.training.config import TrainingConfig
from flexicodec.training.trainer import CodecTrainer, train
from flexicodec.training.training_state import TrainingState
from tests.training.recipes import ADVERSARY, MODEL, SMALL, make_hubert, make_recogniser

CONFIGS = Path(__file__).parents[2] / "configs" / "flexicodec"
ABLATIONS = sorted(path.stem for path in (CONFIGS / "ablations").glob("*.yaml"))


def read(name):
    return from_dict(TrainingConfig, load_yaml(CONFIGS / f"{name}.yaml"))


@pytest.mark.parametrize(
    "name",
    [
        *(
            "fixed_rate",
            "dynamic",
            "spectral",
            "mini_fixed",
            "mini",
            "mini_cpu",
            "mini_spectral_fixed",
            "mini_spectral",
        ),
        "finetune_mini",
        "finetune_decoder",
        "finetune_decoder_24khz",
    ],
)
def test_shipped_configs_are_read_and_built(name):
    config = read(name)
    assert config.init_from or name in ("fixed_rate", "dynamic", "spectral")  # whose sources depend on the machine
    assert from_dict(TrainingConfig, to_dict(config)) == config
    with torch.device("meta"):
        codec = FlexiCodec(config.model)
    assert codec.base_frame_rate == 12.5
    assert (codec.encoder.out_channels, codec.decoder.in_channels) == (config.model.acoustic.latent_dim,) * 2


def test_finetuning_builds_the_model_that_ships():
    """So that its weights fit, and that the same options still give the same tokens."""
    assert read("finetune_mini").model == load("flexicodec-mini").config


def test_a_codec_on_spectra_trains_on_the_mel_loss_alone(manifest, tmp_path):
    """Twenty steps of mini_spectral at toy size, in its precision."""
    AcceleratorState._reset_state()  # Accelerate keeps one precision per process
    config = read("mini_spectral")
    merging = replace(
        config.model.merging,
        semantic_aggregator=PositionConfig(8, hidden_dim=16),
        acoustic_aggregator=PositionConfig(8, hidden_dim=16, unmerge_dim=16),
    )
    sizes = TwoRateConfig(32, 1, 32, 1)
    acoustic = replace(config.model.acoustic, num_mels=40, latent_dim=16, encoder=sizes, decoder=sizes)
    config = replace(
        config,
        output=str(tmp_path / "run"),
        model=replace(
            MODEL,
            acoustic=acoustic,
            merging=merging,
            bottleneck=None,
            acoustic_quantizer=RVQConfig(3, 16, codebook_dim=None),
        ),
        codebooks=replace(config.codebooks, start_step=6),
        data=replace(
            config.data,
            manifest=(str(manifest),),
            validation=str(manifest),
            batch_size=4,
            crop_seconds=0.48,
            audio_cache=None,
        ),
        init_from=(replace(config.init_from[0], source=str(make_recogniser(tmp_path / "recogniser"))),),
        optim=replace(config.optim, warmup_steps=2),
        trackers=("jsonl",),
        steps=20,
        log_every=1,
        save_every=20,
        validate_every=20,
    )
    trainer = CodecTrainer(config)
    before = {key: value.clone() for key, value in trainer.codec.named_parameters()}
    trainer.run()
    rows = [json.loads(line) for line in (tmp_path / "run" / "curves.jsonl").read_text().splitlines()]
    losses = [row["loss/mel_energy"] for row in rows if "loss/mel_energy" in row]
    assert len(losses) == 20
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])
    assert not {"loss/adversarial", "loss/mel", "loss/waveform"} & rows[0].keys()
    kept = {key for key, value in trainer.codec.named_parameters() if torch.equal(value, before[key])}
    assert all(key.startswith("semantic_encoder.") for key in kept), kept
    codec = load(train(config))  # resumed at its end, and exported
    AcceleratorState._reset_state()
    audio = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 9000)).astype(np.float32)) * 0.1
    assert codec.decode(codec.encode(audio, frame_rate=6.25)).shape == audio.shape


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_is_an_overlay_of_a_few_lines(name):
    lines = (CONFIGS / "ablations" / f"{name}.yaml").read_text().splitlines()
    assert 3 <= len([line for line in lines if not line.startswith("#")]) <= 12
    assert lines[0].startswith("# ")
    ablation = read(f"ablations/{name}")
    assert ablation != replace(read("mini"), output=ablation.output)
    assert ablation != replace(read("mini_spectral"), output=ablation.output)


def shrink(config, manifest, output, encoder):
    """Make a packaged config tiny, without changing its subject."""
    model = config.model
    merging, quantizer = model.merging, model.semantic.quantizer
    if merging is not None:
        small = {name: smaller(getattr(merging, name)) for name in ("semantic_aggregator", "acoustic_aggregator")}
        merging = replace(merging, **small)
    acoustic = MODEL.acoustic
    if isinstance(model.acoustic, SpectralConfig):
        sizes = TwoRateConfig(32, 1, 32, 1)
        acoustic = replace(model.acoustic, num_mels=40, latent_dim=acoustic.latent_dim, encoder=sizes, decoder=sizes)
    acoustic_quantizer = model.acoustic_quantizer
    if isinstance(acoustic_quantizer, RVQConfig):
        width = acoustic_quantizer.codebook_dim and MODEL.acoustic_quantizer.codebook_dim
        acoustic_quantizer = replace(MODEL.acoustic_quantizer, codebook_dim=width)
    model = replace(
        model,
        semantic_encoder=encoder,
        acoustic=acoustic,
        merging=merging,
        semantic=replace(
            MODEL.semantic,
            quantizer=replace(quantizer, codebook_size=64)
            if isinstance(quantizer, VQConfig)
            else MODEL.semantic.quantizer,
        ),
        acoustic_quantizer=acoustic_quantizer,
        bottleneck=smaller(model.bottleneck),
    )
    data = replace(config.data, manifest=(str(manifest),), batch_size=2, crop_seconds=0.5, workers=0, audio_cache=None)
    return replace(
        config,
        output=str(output),
        model=model,
        data=data,
        adversarial=config.adversarial and ADVERSARY,
        trackers=("jsonl",),
        mixed_precision="no",
        steps=1,
        log_every=1,
    )


def smaller(part):
    """Make a transformer or an aggregator tiny."""
    if isinstance(part, PositionConfig):
        return replace(part, hidden_dim=16, unmerge_dim=part.unmerge_dim and 16)
    return part and replace(SMALL, window=part.window)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Toy-size weights under the names that the ablations start from."""
    folder = tmp_path_factory.mktemp("sources")
    recogniser = make_recogniser(folder / "recogniser")
    found = {
        "flexicodec/assets/recognizer-mini": recogniser,
        "models/hubert-base-ls960": make_hubert(folder / "hubert", 10),
    }
    for stage_one in ("mini_fixed", "mini_spectral_fixed"):
        config = shrink(read(stage_one), "none", folder, MODEL.semantic_encoder)
        config = replace(config, init_from=(replace(config.init_from[0], source=str(recogniser)),))
        networks = TrainingState(config, Accelerator(cpu=True))
        name = f"runs/{stage_one.replace('_', '-')}/model"
        found[name] = networks.export(folder / stage_one, (1.0, 1.0), half=False)
    return found


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_trains_for_a_step(name, manifest, tmp_path, sources):
    config, encoder = read(f"ablations/{name}"), MODEL.semantic_encoder
    if name == "ssl":
        hubert = sources["models/hubert-base-ls960"]
        encoder = SSLConfig.from_folder(hubert, config.model.semantic_encoder.layer)
    config = shrink(config, manifest, tmp_path / "run", encoder)
    starts = [replace(each, source=str(sources[each.source])) for each in config.init_from]
    config = replace(config, init_from=tuple(starts))
    trainer = CodecTrainer(config)
    before = {key: value.clone() for key, value in trainer.codec.named_parameters()}
    trainer.run()
    row = json.loads((tmp_path / "run" / "curves.jsonl").read_text().splitlines()[0])
    assert row["skipped"] == 0
    assert row["loss/mel" if config.losses.mel else "loss/mel_energy"] > 0
    changed = {
        key.split(".")[0] for key, value in trainer.codec.named_parameters() if not torch.equal(value, before[key])
    }
    assert {"decoder", "semantic_encoder_stack"} <= changed
    assert "encoder" in changed or name == "semantic_only"  # which nothing but weight decay reaches then
    assert "semantic_encoder" not in changed
    assert ("semantic_aggregator" in changed) == (name not in ("fixed_rate", "mean_pooling"))
    if name == "semantic_only":
        assert "codebook/acoustic_01/use" not in row
