"""Ids per CPU second of the packed loader, in one process, on made-up tokens of the released codec's sizes.

python experiments/lm/loader_speed.py --output experiments/lm/loader_speed.json
"""

import argparse
import json
import platform
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from flexicodec import TokenFormat
from flexicodec.lm import Vocabulary, delayed_layout, make_layout
from flexicodec.lm.loader import PackedDataset, PackedLoader
from flexicodec.lm.packed import PackedTokens

CLIPS = 200_000  # of 28 tokens on average, as 5 s at about 6 Hz have
CODEBOOKS = 8


def make_corpus(folder: Path) -> PackedTokens:
    """Write arrays as `pack` does."""
    random = np.random.default_rng(0)
    counts = random.integers(8, 49, CLIPS)
    offsets = np.append(0, np.cumsum(counts))
    np.save(folder / "offsets.npy", offsets)
    np.save(folder / "semantic.npy", random.integers(0, 32_768, offsets[-1]).astype(np.uint16))
    np.save(folder / "durations.npy", random.choice([1, 1, 2, 2, 2, 3, 4, 8], offsets[-1]).astype(np.uint8))
    np.save(folder / "acoustic.npy", random.integers(0, 4096, (offsets[-1], CODEBOOKS)).astype(np.uint16))
    Vocabulary(0, TokenFormat(), CODEBOOKS).save(folder / "vocabulary.json")
    record = {"version": 1, "tokenizer": None, "choice": {"frame_rate": 6.25, "threshold": None, "policy": None}}
    (folder / "packed.json").write_text(json.dumps(record))
    return PackedTokens.open(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    semantic = Vocabulary(0, TokenFormat())
    layouts = {name: make_layout(name, semantic) for name in ("marked", "paired", "frames")}
    layouts["flat, 8 codebooks"] = make_layout("flat", Vocabulary(0, TokenFormat(), CODEBOOKS))
    layouts["delayed, 8 codebooks"] = delayed_layout(Vocabulary(0, TokenFormat(), CODEBOOKS))
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        packed = make_corpus(Path(folder))
        for name, layout in layouts.items():
            begin = time.process_time()
            dataset = PackedDataset(packed, layout, 2048)
            dataset.num_rows(0)
            planned = time.process_time()
            batches = list(islice(PackedLoader(dataset, 8), 60))
            seconds = time.process_time() - planned
            ids = sum(int((batch.document >= 0).sum()) * len(layout.streams) for batch in batches)
            steps = sum(batch.document.numel() for batch in batches)
            full = ids / (steps * len(layout.streams))
            results[name] = {
                "million_ids_per_cpu_second": round(ids / seconds / 1e6, 2),
                "share_of_rows_filled": round(full, 4),
                "planning_cpu_seconds_per_million_clips": round((planned - begin) / CLIPS * 1e6, 2),
            }
            print(name, results[name], flush=True)
    machine = {
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    args.output.write_text(json.dumps({**machine, "layouts": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
