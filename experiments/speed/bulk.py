"""Cost and gain of reader threads during encoding: `python experiments/speed/bulk.py speech/eval.jsonl`.

The variants are interleaved, for the same load of the machine; files are in the page cache after the first round, which
is not counted. Prints a JSON object.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from worker import commit_and_machine

import flexicodec
from flexicodec.corpus import read_manifest
from flexicodec.models.batch_encode import encode_files, read

WAYS = {
    "one by one": {"batch_seconds": 0, "workers": 0},
    "one by one, 1 thread reads": {"batch_seconds": 0, "workers": 1},
    "one by one, 2 threads read": {"batch_seconds": 0, "workers": 2},
    "batches of 60 s, 1 thread reads": {"batch_seconds": 60, "workers": 1},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--model", default="flexicodec-mini")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--files", type=int, default=24)
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    codec = flexicodec.load(arguments.model, device=arguments.device)
    listed = read_manifest(arguments.manifest)
    utterances = listed[:: max(1, len(listed) // arguments.files)][: arguments.files]
    seconds = sum(utterance.duration for utterance in utterances)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in (*WAYS, "reading alone")}
    for _ in range(arguments.turns + 1):
        for name in taken:
            wall, cpu = time.perf_counter(), time.process_time()
            if name in WAYS:
                done = list(encode_files(codec, utterances, frame_rate=6.25, **WAYS[name]))
                assert all(each.error is None for each in done)
            else:
                for utterance in utterances:
                    read(utterance, codec.sample_rate)
            taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    commit, machine = commit_and_machine()
    rows = {
        name: {
            "wall_per_second": round(float(np.median([wall for wall, _ in times[1:]])) / seconds, 5),
            "cpu_per_second": round(float(np.median([cpu for _, cpu in times[1:]])) / seconds, 5),
            "cpu_low_high": [round(edge(cpu for _, cpu in times[1:]) / seconds, 5) for edge in (min, max)],
        }
        for name, times in taken.items()
    }
    about = {"commit": commit, "machine": machine, "torch": torch.__version__, "threads": torch.get_num_threads()}
    print(json.dumps({**about, "files": len(utterances), "seconds": round(seconds, 1), "ways": rows}, indent=1))


if __name__ == "__main__":
    main()
