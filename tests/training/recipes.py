"""The real recipes at toy size: a recogniser's folder, configs of both stages, and a NanoCodec's."""

import json
from dataclasses import replace
from pathlib import Path

import torch

from flexicodec.asr import Recognizer, RecognizerConfig
from flexicodec.config import from_dict, load_yaml
from flexicodec.encoders.base import SanmConfig
from flexicodec.models.flexicodec.config import AcousticConfig, FlexiCodecConfig, MergingConfig, SemanticConfig
from flexicodec.models.nanocodec.config import DecoderConfig, EncoderConfig, NanoCodecConfig
from flexicodec.nn.transformer import TransformerConfig
from flexicodec.quantize import FSQConfig, GroupedFSQConfig, RVQConfig
from flexicodec.training.config import (
    DataConfig,
    DropoutConfig,
    InitConfig,
    LossWeights,
    OptimConfig,
    RateConfig,
    TrainingConfig,
)
from flexicodec.training.discriminators.config import (
    AdversarialConfig,
    BandDiscriminatorConfig,
    PeriodDiscriminatorConfig,
)

SANM = SanmConfig(num_layers=2, dim=16, num_heads=2, feedforward_dim=32, prompt=(), positions=False, window=4)
SMALL = TransformerConfig(num_layers=1, dim=16, num_heads=2, feedforward_dim=32, window=4)
MODEL = FlexiCodecConfig(
    geometry="whole",
    semantic_encoder=replace(SANM, num_layers=1),
    acoustic=AcousticConfig(width=2, latent_dim=16, decoder_width=32),
    merging=MergingConfig(0.5, (0.0, 1.0), 8, SMALL, SMALL),
    semantic=SemanticConfig(FSQConfig((4, 4)), dim=16, hidden_dim=32, num_layers=1),
    acoustic_quantizer=RVQConfig(num_codebooks=3, codebook_size=16, codebook_dim=4),
    bottleneck=SMALL,
)
ADVERSARY = AdversarialConfig(
    PeriodDiscriminatorConfig(periods=(2, 3), channels=(4, 4, 8)), BandDiscriminatorConfig(windows=(256,), channels=4)
)
HUBERT = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}


def make_recogniser(folder):
    """Save a recogniser with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Recognizer(RecognizerConfig(SANM)).save(folder)


def make_hubert(folder, num_layers):
    """Save a small HuBERT with random weights, as transformers does."""
    from transformers import HubertConfig, HubertModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        HubertModel(HubertConfig(num_hidden_layers=num_layers, **HUBERT)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False}))
    return folder


def recipe(manifest, output, recogniser, **settings):
    """Make the config of a run with everything switched on."""
    config = TrainingConfig(
        output=str(output),
        model=MODEL,
        data=DataConfig(
            manifest=(str(manifest),), validation=str(manifest), validation_clips=2, batch_size=2, crop_seconds=0.5
        ),
        init_from=(InitConfig(str(recogniser)),),
        rates=RateConfig(threshold_range=(0.0, 1.0), policies={"threshold": 0.5, "rate": 0.5}),
        dropout=DropoutConfig(semantic_dropout=0.1),
        losses=LossWeights(repa=1.0),
        adversarial=ADVERSARY,
        optim=OptimConfig(warmup_steps=2, learning_rate=1e-3, reseed_every=3, ema_decay=0.9),
        steps=4,
        trackers=("jsonl",),
        log_every=1,
        sample_every=None,
        validate_every=1000,
        save_every=2,
    )
    return replace(config, **settings)


RECIPES = Path(__file__).parents[2] / "configs" / "nanocodec" / "training"
NANO = NanoCodecConfig(  # 30 samples a frame
    encoder=EncoderConfig((2, 3, 5), 4, kernel_sizes=(3, 7), dilations=(1, 2)),
    decoder=DecoderConfig((5, 3, 2), 24, kernel_sizes=(3, 7), dilations=(1, 2)),
    quantizer=GroupedFSQConfig(3, (5, 4)),
)


def read_recipe(name):
    """Read one of the shipped recipes of NanoCodec."""
    return from_dict(TrainingConfig, load_yaml(RECIPES / f"{name}.yaml"))


def nano_recipe(manifest, output, **settings):
    """Make the config of a run with the tiny recipe's losses, discriminators and optimiser."""
    tiny = read_recipe("tiny")
    config = replace(
        tiny,
        output=str(output),
        model=NANO,
        optim=replace(tiny.optim, warmup_steps=0, schedule="exponential", decay=0.5, epoch_steps=2),
        data=DataConfig(
            manifest=(str(manifest),), validation=str(manifest), validation_clips=2, batch_size=2, crop_seconds=0.3
        ),
        steps=4,
        trackers=("jsonl",),
        log_every=1,
        sample_every=None,
        validate_every=1000,
        save_every=2,
    )
    return replace(config, **settings)
