"""One system in one process: loads it, and times the requests on standard input, one JSON object per line."""

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

import systems

EXAMPLE = Path(__file__).parents[2] / "flexicodec" / "assets" / "example.flac"


def ragged(count: int = 32, shortest: float = 1.0, longest: float = 20.0) -> list[float]:
    """Sample lengths in seconds; the same in every process."""
    chosen = random.Random(0)
    return [round(chosen.uniform(shortest, longest), 2) for _ in range(count)]


CASES = {
    "10 s": [10.0],
    "30 s": [30.0],
    "4x10 s": [10.0] * 4,
    "32 ragged": ragged(),
    "32 equal": [sum(ragged()) / 32] * 32,
    "10 min": [600.0],
    "1 h": [3600.0],
}


def batch(seconds: list[float], sample_rate: int, device: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Make a padded batch, each clip from another position in the speech."""
    lengths = [int(each * sample_rate) for each in seconds]
    wave = systems.speech(EXAMPLE, max(seconds) + 0.37 * len(seconds), sample_rate)
    audio = torch.zeros(len(lengths), max(lengths))
    for index, length in enumerate(lengths):
        start = int(0.37 * index * sample_rate)
        audio[index, :length] = wave[start : start + length]
    return audio.to(device), torch.tensor(lengths) if len(set(lengths)) > 1 else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("system", choices=systems.NAMES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    arguments = parser.parse_args()
    pipe, sys.stdout = sys.stdout, sys.stderr  # output of libraries must not mix with the answers
    torch.set_num_threads(arguments.threads)
    started = time.monotonic()
    with torch.no_grad():
        system = systems.load(arguments.system, arguments.device, arguments.precision)
        torch.set_num_threads(arguments.threads)  # loading the peer sets it to 4
        answer(pipe, made_seconds=time.monotonic() - started, rss_gib=rss())
        held: dict[str, tuple] = {}
        for line in sys.stdin:
            asked = json.loads(line)
            case, verb = asked["case"], asked["do"]
            if case not in held:
                path = asked.get("tokens")  # from another process, for memory measurements
                tokens = torch.load(path, weights_only=False) if path and verb == "decode" else None
                audio, lengths = (
                    batch(CASES[case], system.sample_rate, arguments.device) if tokens is None else (None,) * 2
                )
                held[case] = (audio, lengths, tokens)
            audio, lengths, tokens = held[case]
            if tokens is None and verb != "encode":
                tokens = system.encode(audio, lengths)
                held[case] = (audio, lengths, tokens)
            if verb == "save":
                torch.save(tokens, asked["tokens"])
                answer(pipe)
                continue
            call = partial(system.encode, audio, lengths) if verb == "encode" else partial(system.decode, tokens)
            wall, cpu = timed(call, arguments.device)
            answer(pipe, wall=wall, cpu=cpu, seconds=sum(CASES[case]), peak_gib=peak())


def timed(call, device: str) -> tuple[float, float]:
    """Measure wall and CPU seconds of a call."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def commit_and_machine() -> tuple[str, str]:
    """Return the commit, if this is a checkout, and the processor."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=EXAMPLE.parent)
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    cpu = names[0].split(": ")[1] if names else platform.machine()
    return done.stdout.strip() or "unknown", f"{cpu}, {os.cpu_count()} cores"


def rss() -> float:
    """Return the current resident memory, GiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**30


def peak() -> float:
    """Return the peak resident memory, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def answer(pipe, **values) -> None:
    """Write a line for the driver."""
    pipe.write(json.dumps(values) + "\n")
    pipe.flush()


if __name__ == "__main__":
    main()
