"""A tiny codec in a folder, clips and manifests."""

import json

import numpy as np
import pytest
import soundfile

import flexicodec
from flexicodec.token_corpus.plan import make_plan
from flexicodec.token_corpus.settings import settings_of
from flexicodec.token_corpus.units import run_unit

CHOICES = [{"frame_rate": 6.25, "num_codebooks": 2}, {"threshold": 0.9, "num_codebooks": 0}]


@pytest.fixture(scope="session")
def tiny_folder(whole, tmp_path_factory):
    """The tiny codec as a model that other processes load."""
    folder = tmp_path_factory.mktemp("tiny")
    whole.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder):
    """The same, as they load it."""
    return flexicodec.load(str(tiny_folder), parts="encode")


@pytest.fixture
def make_list(tmp_path):
    """Write clips of noise and a manifest of them; returns its path."""

    def make(count=7, name="list.jsonl", seconds=0.4, first=0):
        (tmp_path / "audio").mkdir(exist_ok=True)
        lines = []
        for index in range(first, first + count):
            samples = int(16_000 * seconds) + 321 * (index % 20)
            noise = np.random.default_rng(index).standard_normal(samples)
            path = tmp_path / "audio" / f"{index}.wav"
            soundfile.write(path, 0.1 * noise * np.sin(np.arange(samples) / 900), 16_000)
            row = {"path": f"audio/{index}.wav", "duration": round(samples / 16_000, 6), "text": f"clip {index}"}
            lines.append(json.dumps(row))
        path = tmp_path / name
        with path.open("a") as file:
            file.write("\n".join(lines) + "\n")
        return path

    return make


@pytest.fixture
def plan(tiny):
    """Plan a folder with units of a second."""

    def make(source, folder, choices=CHOICES, codec=tiny, extend=False, **settings):
        settings = {"unit_hours": 1.0 / 3600, **settings}
        return make_plan(source, folder, settings_of(codec, choices, **settings), extend)

    return make


@pytest.fixture
def tokenized(plan, tiny):
    """Plan a folder and run its units in this process; returns the dataset."""

    def make(source, folder, *arguments, codec=tiny, **settings):
        dataset = plan(source, folder, *arguments, codec=codec, **settings)
        for unit in range(dataset.num_units):
            run_unit(codec, dataset, unit)
        return dataset

    return make
