"""Peak memory and time of encoding or decoding one long clip, one process per measurement.

python experiments/long-audio/run.py encode --model full --minutes 60 --tokens /tmp/hour.flxc --output full-60.jsonl
python experiments/long-audio/run.py decode --model full --minutes 60 --tokens /tmp/hour.flxc --output full-60.jsonl
"""

import argparse
import json
import os
import resource
import subprocess
import time
from pathlib import Path

import torch

import flexicodec


def peak_gib() -> float:
    """Return the peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def resident_gib() -> float:
    """Return the current resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**30


def build(model: str):
    """Load a model, or build the released architecture with random weights ("full")."""
    if model != "full":
        return flexicodec.load(model)
    from flexicodec.models.flexicodec.model import FlexiCodec

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FlexiCodec().eval()


def bursts(samples: int) -> torch.Tensor:
    """Generate noise bursts of 100 ms in place: only the codec's memory is to be measured."""
    generator, audio = torch.Generator().manual_seed(0), torch.empty(samples)
    for minute in audio.split(60 * 16_000):
        minute.normal_(std=0.1, generator=generator)
        for burst in minute.split(1600):
            burst.mul_(float(torch.rand(1, generator=generator)))
    return audio


def machine() -> str:
    """Describe the machine and the software."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    cpu = names[0].split(": ")[1] if names else "unknown"
    return f"{cpu}, {os.cpu_count()} cores, torch {torch.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("encode", "decode"))
    parser.add_argument("--model", default="flexicodec-mini")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--window", type=float, default=flexicodec.Windows.seconds, help="seconds of global attention")
    parser.add_argument("--overlap", type=float, default=flexicodec.Windows.overlap_seconds, help="seconds either side")
    parser.add_argument("--whole", action="store_true", help="no windows for clips of any length")
    parser.add_argument("--tokens", type=Path, required=True, help="file written by encode and read by decode")
    parser.add_argument("--output", type=Path, help="file to append a line of JSON to")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    windows = None if arguments.whole else flexicodec.Windows(arguments.window, arguments.overlap)

    codec = build(arguments.model)
    samples = int(arguments.minutes * 60 * codec.sample_rate)
    built_peak, loaded = peak_gib(), resident_gib()
    if arguments.verb == "encode":
        audio = bursts(samples)
        started, cpu = time.monotonic(), time.process_time()
        tokens = codec.encode(audio, frame_rate=6.25, windows=windows)
        wall, cpu = time.monotonic() - started, time.process_time() - cpu
        peak = peak_gib()
        tokens.save(arguments.tokens)
    else:
        tokens = flexicodec.Tokens.load(arguments.tokens)
        started, cpu = time.monotonic(), time.process_time()
        audio = codec.decode(tokens, windows=windows)
        wall, cpu = time.monotonic() - started, time.process_time() - cpu
        peak = peak_gib()
        assert audio.shape == (1, samples)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    result = {
        "model": arguments.model,
        "verb": arguments.verb,
        "minutes": arguments.minutes,
        "threads": torch.get_num_threads(),
        "windows": None if windows is None else [windows.seconds, windows.overlap_seconds],
        "info": tokens.info,
        "tokens": int(tokens.token_lengths),
        "gib_loaded": round(loaded, 2),
        "gib_peak_of_loading": round(built_peak, 2),
        "gib_peak": round(peak, 2),
        "gib_over_the_loaded_model": round(peak - loaded, 2),
        "gib_of_the_audio": round(samples * 4 / 2**30, 2),
        "cpu_seconds": round(cpu, 1),
        "wall_seconds": round(wall, 1),
        "cpu_seconds_per_second_of_audio": round(cpu / arguments.minutes / 60, 4),
        "machine": machine(),
        "commit": commit,
    }
    print(json.dumps(result, indent=2))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        with arguments.output.open("a") as lines:
            lines.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
