"""Overfitting of four utterances by the whole trainer, with every part of the codec."""

import json
from dataclasses import replace

import pytest
import soundfile
import torch
from pystoi import stoi

import flexicodec
from flexicodec.models.flexicodec.config import AcousticConfig, MergingConfig, SemanticConfig
from flexicodec.nn.transformer import TransformerConfig
from flexicodec.quantize import FSQConfig, RVQConfig
from flexicodec.training.config import DataConfig, DropoutConfig, LossWeights, OptimConfig, RateConfig
from flexicodec.training.trainer import train
from tests.training.recipes import MODEL, make_recogniser, recipe

FRAMES = 13
SAMPLES = FRAMES * 1280
STARTS = (4000, 4000 + SAMPLES)
SMALL = TransformerConfig(num_layers=1, dim=64, num_heads=2, feedforward_dim=128, window=4)
CODEC = replace(
    MODEL,
    acoustic=AcousticConfig(width=4, latent_dim=64, decoder_width=512),
    merging=MergingConfig(0.5, (0.0, 1.0), 8, replace(SMALL, dim=16), SMALL),
    semantic=SemanticConfig(FSQConfig(), dim=32, hidden_dim=64, num_layers=1),
    acoustic_quantizer=RVQConfig(num_codebooks=24, codebook_size=64),
    bottleneck=SMALL,
)


@pytest.fixture
def clips(speech):
    """Two pieces of either recording, a second each."""
    return [recording[0, start : start + SAMPLES] for recording in speech for start in STARTS]


def intelligibility(codec, clips, num_codebooks):
    """Mean STOI of all four at 12.5 Hz."""
    tokens = codec.encode(torch.stack(clips), threshold=1.0, num_codebooks=num_codebooks)
    assert tokens.acoustic.shape == (4, num_codebooks, FRAMES)
    pairs = zip(clips, codec.decode(tokens), strict=True)
    return sum(float(stoi(clip.numpy(), decoded.numpy(), 16_000)) for clip, decoded in pairs) / 4


@pytest.mark.slow
def test_four_utterances_can_be_overfitted(clips, tmp_path):
    """Takes about 90 s of one core.

    At 12.5 Hz with all codebooks, as FSQ, residual quantiser, aggregators and bottleneck pass them on.
    """
    rows = []
    for index, clip in enumerate(clips):
        soundfile.write(tmp_path / f"{index}.flac", clip.numpy(), 16_000)
        rows.append({"path": f"{index}.flac", "duration": SAMPLES / 16_000})
    manifest = tmp_path / "four.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)) + "\n")
    config = recipe(
        manifest,
        tmp_path / "run",
        make_recogniser(tmp_path / "recogniser"),
        model=CODEC,
        data=DataConfig(manifest=(str(manifest),), batch_size=4, crop_seconds=SAMPLES / 16_000),
        rates=RateConfig(unmerged_share=1.0),
        dropout=DropoutConfig(semantic_only_share=0.0, all_codebooks_share=1.0),
        losses=LossWeights(mel=15.0, alignment=0.0),
        adversarial=None,
        optim=OptimConfig(learning_rate=2e-3, warmup_steps=20, final_share=0.05, grad_clip=50.0, ema_decay=None),
        steps=300,
        log_every=50,
        save_every=300,
    )
    codec = flexicodec.load(train(config))
    scores = {count: intelligibility(codec, clips, count) for count in (0, 1, 24)}
    assert scores[24] >= 0.9, scores
    assert scores[0] < scores[1] < scores[24] - 0.05, scores  # the semantic stream alone could not have done it
