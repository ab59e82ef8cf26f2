"""CPU time of whole command line processes, for two checkouts, interleaved.

python experiments/speed/start.py OTHER_CHECKOUT THIS_CHECKOUT --output experiments/speed/start.json
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

AUDIO = Path(__file__).resolve().parents[2] / "examples" / "librispeech-7021-85628-0027.flac"


def cpu_seconds(checkout: Path, arguments: list[str], cache: Path) -> float:
    """Run this Python with one checkout's package and return the process's CPU time."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    environment["PYTHONPYCACHEPREFIX"] = str(cache)
    before = os.times()
    subprocess.run([sys.executable, *arguments], env=environment, cwd=cache.parent, check=True, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    """Print medians and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkouts", nargs=2, type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        tokens, audio = f"{folder}/x.flxc", f"{folder}/x.wav"
        cli = ["-m", "flexicodec"]
        cases = {
            "encode": [*cli, "encode", str(AUDIO), "-o", tokens],
            "decode": [*cli, "decode", tokens, "-o", audio],
            "info flexicodec-mini": [*cli, "info", "flexicodec-mini"],
            "--help": [*cli, "--help"],
            "import flexicodec": ["-c", "import flexicodec"],
            "import torch": ["-c", "import torch"],
        }
        seconds: dict[str, list[list[float]]] = {name: [[], []] for name in cases}
        for repeat in range(-1, args.repeats):  # the first one fills the caches
            for name, arguments in cases.items():
                for index, checkout in enumerate(args.checkouts):
                    taken = cpu_seconds(checkout.resolve(), arguments, Path(folder) / "cache")
                    if repeat >= 0:
                        seconds[name][index].append(taken)

    results = {}
    for name, (other, this) in seconds.items():
        ratios = [b / a for a, b in zip(other, this, strict=True)]
        results[name] = {
            "other": round(statistics.median(other), 3),
            "this": round(statistics.median(this), 3),
            "ratio": round(statistics.median(ratios), 3),
        }
        print(f"{name:<22} {results[name]}")
    if args.output:
        args.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
