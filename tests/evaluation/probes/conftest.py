"""Synthetic clips that probes can learn: letters of 160 ms, each with its own tone, by three speakers."""

import numpy as np
import pytest
import soundfile

from flexicodec.corpus import Utterance

CHORDS = {"a": 300, "b": 900, "c": 1900, "d": 3500, " ": 0}  # Hz
PITCH = {"low": 0.9, "middle": 1.0, "high": 1.1}
SAMPLES = 2560  # two frames of the codec


def render(text, speaker, random):
    time = np.arange(SAMPLES) / 16_000
    tones = [np.sin(2 * np.pi * CHORDS[letter] * PITCH[speaker] * time) * np.hanning(SAMPLES) for letter in text]
    return 0.3 * np.concatenate(tones) + 0.002 * random.standard_normal(SAMPLES * len(text))


@pytest.fixture(scope="session")
def tone_clips(tmp_path_factory):
    """A hundred and twenty clips of two to eight letters, no letter twice in a row."""
    folder = tmp_path_factory.mktemp("tone_clips")
    random = np.random.default_rng(0)
    utterances = []
    for index in range(120):
        letters = [random.choice(list("abcd"))]
        for _ in range(random.integers(1, 7)):
            letters.append(random.choice([each for each in CHORDS if each != letters[-1]]))
        text = "".join(letters).strip()
        speaker = list(PITCH)[index % 3]
        soundfile.write(folder / f"{index}.wav", render(text, speaker, random), 16_000)
        utterances.append(
            Utterance(
                folder / f"{index}.wav", SAMPLES * len(text) / 16_000, text=text, speaker=speaker, id=f"clip{index}"
            )
        )
    return utterances


@pytest.fixture(scope="session")
def tone_codec(make_codec, fake_encoder):
    """A tiny codec whose frozen encoder computes band energies."""
    return make_codec("whole", fake_encoder())
