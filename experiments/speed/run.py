"""CPU time of encoding and decoding ten seconds on one thread, and of loading, for the released architecture.

Random weights: speed does not depend on their values. Run it as

    python experiments/speed/run.py --output experiments/speed/results.json

The peer's figures are those of `flexicodec` 0.1.2 measured the same way (CPU time, one thread, ten seconds, eight
codebooks with the semantic one) on a machine of the same kind, not in the same run.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import flexicodec
from flexicodec.models.flexicodec.model import FlexiCodec

SECONDS = 10.0
PEER_RTF = {"encode": 0.171, "decode": 0.140, "load_seconds": 17.0}


def cpu_time(function, repeats: int) -> float:
    """Median CPU seconds of a call, after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        started = time.process_time()
        function()
        times.append(time.process_time() - started)
    return float(np.median(times[1:]))


def load_seconds(codec: FlexiCodec) -> float:
    """Wall seconds to open the saved model in half precision, files in the page cache."""
    with tempfile.TemporaryDirectory() as folder:
        codec.save_pretrained(folder, dtype=torch.float16)
        flexicodec.load(folder)
        started = time.monotonic()
        flexicodec.load(folder)
        return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    example = Path(flexicodec.__file__).parent / "assets" / "example.flac"
    speech = flexicodec.read_audio(example, sample_rate=16_000)[0]
    audio = torch.cat([speech, speech])[: int(SECONDS * 16_000)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        codec = FlexiCodec().eval()
    codec.fingerprint  # noqa: B018 (hashed once, at first use)
    features = codec.features(audio)
    tokens = codec.tokenize(features, frame_rate=8.33, num_codebooks=7)
    lengths, frames = features.audio_lengths, features.lengths
    parts = {
        "encode": lambda: codec.encode(audio, frame_rate=8.33, num_codebooks=7),
        "decode": lambda: codec.decode(tokens),
        "semantic encoder": lambda: codec.listen(audio[None], lengths, frames),
        "acoustic encoder": lambda: no_grad(codec.hear, audio[None], lengths, frames),
        "tokenize": lambda: codec.tokenize(features, frame_rate=8.33, num_codebooks=7),
    }
    rtf = {name: round(cpu_time(call, arguments.repeats) / SECONDS, 4) for name, call in parts.items()}
    result = {
        "rtf": rtf,
        "load_seconds": round(load_seconds(codec), 2),
        "peer_recorded": PEER_RTF,
        "faster_than_recorded": {name: round(PEER_RTF[name] / rtf[name], 2) for name in ("encode", "decode")},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, 1 thread",
    }
    print(json.dumps(result, indent=2))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


def no_grad(function, *arguments):
    """Call without gradients, as the public methods do."""
    with torch.no_grad():
        return function(*arguments)


if __name__ == "__main__":
    main()
