"""All GPU measurements in one command, for at most 8 minutes on a bare machine.

    python experiments/speed/gpu.py --output DIR
    python experiments/speed/table.py DIR/results.jsonl
    python experiments/speed/gpu.py --output DIR --device cpu --small      # a dry run of everything, in a minute

Each part is a separate process, in order of priority. Every result is written at once as a line of JSON, so an
interrupted run keeps its results; a failure is a line with its reason. README.md lists the packages to install.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

# Time limit of each part in seconds, in the order of running.
PARTS = {
    "limits": 25,
    "speed ours": 100,
    "speed mini": 55,
    "flips": 40,
    "bulk mini": 40,
    "bulk ours": 40,
    "profile ours": 25,
    "profile mini": 20,
    "compile ours": 90,
    "compile mini": 50,
}
SLACK = 12  # seconds to import and load, in addition to the part's limit


def run_part(part: str, seconds: float, arguments: argparse.Namespace) -> None:
    """Run a part in a process, and record a failure."""
    command = [sys.executable, __file__, "--part", part, "--seconds", f"{seconds:.0f}", "--device", arguments.device]
    command += ["--output", str(arguments.output)]
    try:
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=seconds + SLACK)
        reason = done.stderr.strip().splitlines()[-1:] if done.returncode else None
    except subprocess.TimeoutExpired:
        reason = [f"stopped after {seconds + SLACK:.0f} s"]
    if reason is not None:
        write(arguments.output, {"part": part, "skipped": (reason or ["no word"])[0][:500]})


def write(folder: Path, row: dict) -> None:
    """Add a line to the results."""
    with (folder / "results.jsonl").open("a") as lines:
        lines.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def measure(part: str, seconds: float, arguments: argparse.Namespace) -> None:
    """Run a part in this process."""
    import gpu_parts

    kind, _, model = part.partition(" ")
    bench = gpu_parts.Bench(arguments.device, arguments.small, time.monotonic() + seconds, arguments.output, write)
    getattr(gpu_parts, kind)(bench, *([model] if model else []))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for results.jsonl and profiles")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a tiny model and short clips, all in this process")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    if arguments.part:
        measure(arguments.part, arguments.seconds, arguments)
        return
    end = time.monotonic() + 60 * arguments.minutes
    (arguments.output / "results.jsonl").unlink(missing_ok=True)
    for part in arguments.parts:
        left = end - time.monotonic() - SLACK
        if left < 10:
            write(arguments.output, {"part": part, "skipped": "the time was over"})
        elif arguments.small:
            try:
                measure(part, min(PARTS[part], left), arguments)
            except Exception as error:
                write(arguments.output, {"part": part, "skipped": f"{type(error).__name__}: {error}"[:500]})
        else:
            run_part(part, min(PARTS[part], left), arguments)


if __name__ == "__main__":
    main()
