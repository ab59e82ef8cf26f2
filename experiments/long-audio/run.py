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
from flexicodec.models.windows import Windows


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


def bursts(samples: int) -> torch.Tensor:
    """Noise in bursts of 100 ms, made in a place of its own size: what is measured is the codec's memory."""
    generator, audio = torch.Generator().manual_seed(0), torch.empty(samples)
    for minute in audio.split(60 * 16_000):
        minute.normal_(std=0.1, generator=generator)
        for burst in minute.split(1600):
            burst.mul_(float(torch.rand(1, generator=generator)))
    return audio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="flexicodec-mini")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=0, help="0 keeps torch's own choice")
    parser.add_argument("--window", type=float, default=Windows.seconds, help="seconds of global attention")
    parser.add_argument("--overlap", type=float, default=Windows.overlap_seconds, help="seconds on either side")
    parser.add_argument("--whole", action="store_true", help="no windows, however long the clip")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    codec = build(arguments.model)
    loaded = peak_gib()
    audio = bursts(int(arguments.minutes * 60 * codec.sample_rate))
    windows = None if arguments.whole else Windows(arguments.window, arguments.overlap)

    started, cpu = time.monotonic(), time.process_time()
    tokens = codec.encode(audio, frame_rate=6.25, num_codebooks=8, windows=windows)
    encoded, encode_cpu, encode_peak = time.monotonic(), time.process_time(), peak_gib()
    decoded = codec.decode(tokens, windows=windows)
    finished, decode_cpu = time.monotonic(), time.process_time()
    assert decoded.shape == (1, len(audio))
    result = {
        "model": arguments.model,
        "minutes": arguments.minutes,
        "threads": torch.get_num_threads(),
        "windows": None if windows is None else [windows.seconds, windows.overlap_seconds],
        "info": tokens.info,
        "peak_gib_loaded": round(loaded, 2),
        "peak_gib_after_encode": round(encode_peak, 2),
        "peak_gib_after_decode": round(peak_gib(), 2),
        "peak_gib_over_the_loaded_model": round(peak_gib() - loaded, 2),
        "encode_cpu_seconds_per_minute": round((encode_cpu - cpu) / arguments.minutes, 2),
        "decode_cpu_seconds_per_minute": round((decode_cpu - encode_cpu) / arguments.minutes, 2),
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
