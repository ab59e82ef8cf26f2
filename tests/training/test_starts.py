"""Starts of runs: what is refused leaves nothing behind, and a cache of audio belongs to its manifests."""

from dataclasses import replace

import pytest

from flexicodec.training.config import InitConfig
from flexicodec.training.data.clip_cache import cache_file
from flexicodec.training.trainer import train
from tests.training.recipes import make_recogniser, recipe


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"init_from": (InitConfig("runs/stage-one/model"),)}, "config with output: runs/stage-one .*flexicodec-mini"),
        ({"init_from": (InitConfig("runs/stage-one"),)}, "init_from knows no source .* which is missing"),
        ({"manifest": "missing.jsonl"}, "missing.jsonl"),
        ({"validation": "missing.jsonl"}, "missing.jsonl"),
    ],
)
def test_a_refused_start_leaves_nothing_behind(manifest, tmp_path, change, match):
    config = recipe(manifest, tmp_path / "run", make_recogniser(tmp_path / "recogniser"))
    data = config.data
    if "manifest" in change:
        data = replace(data, manifest=(change["manifest"],))
    if "validation" in change:
        data = replace(data, validation=change["validation"])
    config = replace(config, data=data, init_from=change.get("init_from", config.init_from))
    with pytest.raises((ValueError, OSError), match=match):
        train(config)
    assert not (tmp_path / "run").exists()


def test_a_folder_holds_a_cache_per_manifest(tmp_path):
    folder = f"{tmp_path}/audio/"
    files = [
        cache_file(folder, manifests, rate)
        for manifests, rate in (
            (["a/train.jsonl"], "16000.pcm"),
            (["b/train.jsonl"], "16000.pcm"),
            (["a/train.jsonl"], "8000.pcm"),
        )
    ]
    assert len(set(files)) == 3
    assert all(file.name.startswith("train-") and file.parent == tmp_path / "audio" for file in files)
    assert cache_file(folder, ["a/train.jsonl"], "16000.pcm") == files[0]
    assert cache_file(f"{tmp_path}/one.pcm", ["a/train.jsonl"], "16000.pcm") == tmp_path / "one.pcm"
    assert cache_file(None, ["a"], "16000.pcm") is None
