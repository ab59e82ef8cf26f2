"""Tiny text-to-speech models of our own, and manifests of sentences, for tests of speaking and training."""

import json

import numpy as np
import soundfile
import torch

from flexicodec.models.tts.characters import CharacterConfig
from flexicodec.models.tts.config import FlowMatchingConfig
from flexicodec.models.tts.token_lm import BackboneConfig, TokenLMConfig
from flexicodec.tts.speech_models import SpeechModelConfig, SpeechModels

MODEL = SpeechModelConfig(
    lm=TokenLMConfig(BackboneConfig(1, 16, 2, 24, dropout=0.1), head_dim=12),
    flow=FlowMatchingConfig(dim=16, num_layers=1, num_heads=2),
)
LETTERS = " 'abcdefghijklmnopqrstuvwxyz"
TEXTS = ("Ab a cab.", "dad", "a cad", "bad", "")  # the last is left out


def make_models(codec, seed=0):
    """Networks with random weights for a codec."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = SpeechModelConfig(MODEL.lm, MODEL.flow, CharacterConfig(LETTERS)).fitted(codec)
        return SpeechModels(config).eval()


def write_speech(folder):
    """Write clips of noise bursts with texts; return the manifest."""
    random = np.random.default_rng(0)
    rows = []
    for index, text in enumerate(TEXTS):
        samples = 12_000 + 2_000 * index
        wave = np.convolve(random.standard_normal(samples), np.ones(8) / 8, mode="same")
        wave = 0.1 * wave * np.repeat(random.uniform(0.1, 1, samples // 1000), 1000)
        soundfile.write(folder / f"{index}.wav", wave, 16_000)
        rows.append({"path": f"{index}.wav", "duration": samples / 16_000, "text": text, "id": f"clip-{index}"})
    (folder / "speech.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder / "speech.jsonl"
