"""A folder of tiny speech-like clips with a manifest, and a recipe small enough for a test."""

import json

import numpy as np
import pytest
import soundfile


@pytest.fixture
def manifest(tmp_path):
    """Six clips of 0.5 to 1 s of filtered noise, each with a short text."""
    random = np.random.default_rng(0)
    rows = []
    for index in range(6):
        samples = int(8000 + 1600 * index)
        wave = 0.1 * np.convolve(random.standard_normal(samples), np.ones(8) / 8, mode="same")
        soundfile.write(tmp_path / f"{index}.wav", wave, 16_000)
        rows.append(
            {
                "path": f"{index}.wav",
                "duration_s": samples / 16_000,
                "text_norm": "a tale of"[: 3 + index],
                "speaker": f"s{index % 2}",
                "corpus": "noise",
            }
        )
    path = tmp_path / "speech.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path
