"""Peak memory and time of encoding and decoding one long clip.

python experiments/long-audio/run.py --model full --minutes 10
python experiments/long-audio/run.py --model flexicodec-mini --minutes 10
"""

import argparse
import json
import os
import platform
import resource
import time
from pathlib import Path

import torch

import flexicodec


def peak_gib() -> float:
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def build(model: str):
    """Load a model, or build the released architecture with random weights ("full")."""
    if model != "full":
        return flexicodec.load(model)
    from flexicodec.models.flexicodec.model import FlexiCodec

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FlexiCodec().eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="flexicodec-mini")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=0, help="0 keeps torch's own choice")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    codec = build(arguments.model)
    loaded = peak_gib()
    samples = int(arguments.minutes * 60 * codec.sample_rate)
    generator = torch.Generator().manual_seed(0)
    level = torch.rand(samples // 1600 + 1, generator=generator).repeat_interleave(1600)[:samples]
    audio = 0.1 * torch.randn(samples, generator=generator) * level  # noise in bursts of 100 ms

    started = time.monotonic()
    tokens = codec.encode(audio, frame_rate=6.25, num_codebooks=8)
    encoded, encode_peak = time.monotonic(), peak_gib()
    decoded = codec.decode(tokens)
    finished = time.monotonic()
    assert decoded.shape == (1, samples)
    result = {
        "model": arguments.model,
        "minutes": arguments.minutes,
        "threads": torch.get_num_threads(),
        "peak_gib_loaded": round(loaded, 2),
        "peak_gib_after_encode": round(encode_peak, 2),
        "peak_gib_after_decode": round(peak_gib(), 2),
        "encode_seconds": round(encoded - started, 1),
        "decode_seconds": round(finished - encoded, 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
    }
    print(json.dumps(result, indent=2))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
