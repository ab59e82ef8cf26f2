"""Synthetic speech with phones known to the sample, as files and a manifest."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile

from flexicodec.analysis.collect import collect
from flexicodec.analysis.run_study import StudyOptions, run_study
from flexicodec.corpus import Utterance, read_manifest, write_manifest
from flexicodec.corpus.alignments.alignment import Segment, write_textgrid

RATE = 16_000
QUICK = StudyOptions(resamples=40, draws=2)
SOUNDS = {"AA1": (220, 880), "IY0": (200, 2400), "S": (), "N": (180, 300), "T": (), "sil": None}


def synthesize_phone(label, samples, random):
    """Two partials for voiced phones, noise for unvoiced ones, near silence for silence."""
    partials = SOUNDS[label]
    if partials is None:
        return 1e-4 * random.standard_normal(samples)
    if not partials:
        return 0.05 * random.standard_normal(samples)
    time = np.arange(samples) / RATE
    return sum(0.2 * np.sin(2 * np.pi * hertz * time) for hertz in partials)


def utter(random, pace):
    """Words of two to four phones of 60 to 200 ms, a pause after some of them; samples, phones and words."""
    wave, phones, words = [], [Segment(0.0, 0.1, "sil")], []
    wave.append(synthesize_phone("sil", RATE // 10, random))
    for number in range(random.integers(3, 6)):
        start = phones[-1].end
        for label in random.choice(["AA1", "S", "IY0", "N", "T"], size=random.integers(2, 5)):
            samples = int(random.uniform(0.06, 0.2) / pace * RATE)
            wave.append(synthesize_phone(str(label), samples, random))
            phones.append(Segment(phones[-1].end, phones[-1].end + samples / RATE, str(label)))
        words.append(Segment(start, phones[-1].end, f"word{number}"))
        if number % 2:
            wave.append(synthesize_phone("sil", RATE // 5, random))
            phones.append(Segment(phones[-1].end, phones[-1].end + 0.2, "sil"))
    return np.concatenate(wave), phones, words


@pytest.fixture(scope="session")
def spoken_folder(tmp_path_factory):
    """Twelve clips of three speakers with TextGrids, counts of phones, and texts."""
    folder = tmp_path_factory.mktemp("spoken")
    random = np.random.default_rng(5)
    utterances = []
    for i in range(12):
        wave, phones, words = utter(random, pace=0.7 + 0.06 * i)
        path, grid = folder / f"{i}.wav", folder / f"{i}.TextGrid"
        soundfile.write(path, wave, RATE)
        write_textgrid(grid, {"words": words, "phones": phones}, len(wave) / RATE)
        count = sum(p.label != "sil" for p in phones)
        seconds, speaker = len(wave) / RATE, f"s{i % 3}"
        utterances.append(
            Utterance(path, seconds, text="so it is", speaker=speaker, id=str(i), num_phones=count, alignment=grid)
        )
    write_manifest(folder / "spoken.jsonl", utterances)
    return folder


@pytest.fixture(scope="session")
def utterances(spoken_folder):
    """The same as a list."""
    return [replace(u, id=u.path.stem) for u in read_manifest(spoken_folder / "spoken.jsonl")]


@pytest.fixture(scope="session")
def listening_codec(make_codec, fake_encoder):
    """A tiny codec with loudness and spectral shape as semantic features."""
    return make_codec(semantic_encoder=fake_encoder())


@pytest.fixture(scope="session")
def gathered(listening_codec, utterances):
    """These clips at the grid's rate, at half of it over all clips, and at half of it in every clip."""
    return collect(listening_codec, utterances, frame_rates=(12.5, 6.25), per_clip=True)


@pytest.fixture(scope="session")
def studied(gathered):
    """A study of them with few resamples."""
    return run_study(gathered, QUICK)
