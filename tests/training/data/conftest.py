"""Folders of short clips whose every sample says where it is from."""

import numpy as np
import pytest
import soundfile

from flexicodec.training.data import Utterance, write_manifest

RATE = 16_000


def tone(index, samples):
    """Steps of 1/4096 in a pattern of its own for each clip, which 16 bits hold exactly."""
    return ((np.arange(samples) * (index + 3) + 31 * index) % 2048 - 1024).astype(np.float64) / 4096


@pytest.fixture
def clips(tmp_path):
    """Twelve utterances of 0.3 to 1.4 s with texts, and the samples of each."""
    utterances, samples = [], []
    for index in range(12):
        samples.append(tone(index, 4800 + 1600 * index))
        path = tmp_path / "audio" / f"{index}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, samples[-1], RATE)
        utterances.append(Utterance(path, len(samples[-1]) / RATE, text=f"text {index}", speaker=f"s{index % 3}"))
    return utterances, samples


@pytest.fixture
def speech_manifest(clips, tmp_path):
    """A manifest of these utterances."""
    write_manifest(tmp_path / "speech.jsonl", clips[0])
    return tmp_path / "speech.jsonl"
