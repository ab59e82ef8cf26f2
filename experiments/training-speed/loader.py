"""Throughput of the data loader: seconds of audio per second, from files, cache and shards, with and without workers.

    python experiments/training-speed/loader.py train.jsonl --output experiments/training-speed/loader.json

Cache and shards are first written to a temporary folder, which is not counted. Every figure is the best of three
consecutive series of batches, after some to warm up; the batches are discarded.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from flexicodec.corpus import read_manifest, write_manifest
from flexicodec.io_utils import replacing
from flexicodec.training.config import AugmentationConfig, DataConfig
from flexicodec.training.data import training_batches, write_shards

SAMPLE_RATE = 16_000
AUGMENTATION = AugmentationConfig(gain_db=(-6.0, 6.0), loudness_dbfs=-25.0, codec_share=0.2)


def throughput(config: DataConfig, seconds: float) -> float:
    """Measure seconds of audio per second of wall time."""
    batches = training_batches(config, sample_rate=SAMPLE_RATE, seed=0)
    sum(len(batch.items) for batch in islice(batches, 2 + 4 * config.workers))  # workers start and fill their queues
    best = 0.0
    for _ in range(3):
        seconds_read, started = 0.0, time.perf_counter()
        while time.perf_counter() - started < seconds / 3:
            seconds_read += float(next(batches).lengths.sum()) / SAMPLE_RATE
        best = max(best, seconds_read / (time.perf_counter() - started))
    return round(best, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--limit", type=int, help="clips to use, the first ones of the manifest")
    parser.add_argument("--seconds", type=float, default=15.0, help="to measure each figure for (default: %(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()

    utterances = read_manifest(arguments.manifest)[: arguments.limit]
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "speech.jsonl"
        write_manifest(manifest, utterances)
        shards = write_shards(utterances, Path(folder) / "shards").shards
        files = DataConfig((str(manifest),))
        cached = replace(files, audio_cache=str(Path(folder) / "audio.cache"))
        sources = {
            "files": files,
            "cache": cached,
            "shards": DataConfig(shards=tuple(map(str, shards))),
            "files, whole utterances": replace(files, crop_seconds=None),
            "cache, augmented": replace(cached, augmentation=AUGMENTATION),
        }
        found = {
            name: {str(n): throughput(replace(config, workers=n), arguments.seconds) for n in arguments.workers}
            for name, config in sources.items()
        }
    result = {
        "audio_seconds_per_second": found,
        "by": "source, then workers (0: in the training process)",
        "crops": f"{files.batch_size} of {files.crop_seconds} s a batch",
        "clips": len(utterances),
        "hours": round(sum(u.duration for u in utterances) / 3600, 2),
        "formats": sorted({u.path.suffix for u in utterances}),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} of {os.cpu_count()} cores",
        "torch": torch.__version__,
    }
    print(json.dumps(result, indent=2))
    if arguments.output:
        with replacing(arguments.output) as part:
            part.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
