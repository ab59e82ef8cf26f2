"""Speed and memory of encoding and decoding, ours against other codecs, in one interleaved run.

    python experiments/speed/run.py --peer-python PEER/bin/python --output experiments/speed/results.json

One process per system and number of threads; compared systems are interleaved, for the same load of the machine. On one
thread the figures are CPU time, on more wall time. README.md describes the peer's environment; without it the peer is
left out.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import systems
from worker import commit_and_machine

HERE = Path(__file__).parent
CASES = ("10 s", "30 s", "4x10 s")
BATCHES = ("32 ragged", "32 equal")
PAUSE = 0.1  # seconds before each measurement: the threads of the previous system spin for some 0.04 s


class Worker:
    """A system in a separate process."""

    def __init__(self, system: str, threads: int, python: str, device: str, precision: str = "float32"):
        self.system, self.threads, self.precision = system, threads, precision
        command = [python, str(HERE / "worker.py"), system, "--threads", str(threads), "--device", device]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        environment["PYTHONPATH"] = "" if system == "peer" else str(HERE.parents[1])  # its package has the same name
        self.process = subprocess.Popen(
            [*command, "--precision", precision],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
            cwd=HERE,
        )
        self.made = self._read()

    def measure(self, verb: str, case: str, tokens: str | None = None) -> dict:
        """Time a verb; `tokens` is a file to save tokens to or to decode from."""
        self.process.stdin.write(json.dumps({"do": verb, "case": case, "tokens": tokens}) + "\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _read(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"{self.system} ended with {self.process.wait()}; run worker.py {self.system} to see why"
            )
        return json.loads(line)


def compare(workers: list[Worker], cases, repeats: int, device: str) -> list[dict]:
    """Time every system on every case, interleaved; seconds per second of audio."""
    rows = []
    for case in cases:
        for verb in ("encode", "decode"):
            taken: list[list[float]] = [[] for _ in workers]
            for repeat in range(repeats + 1):
                for index, worker in enumerate(workers):
                    time.sleep(PAUSE)
                    found = worker.measure(verb, case)
                    clock = "cpu" if worker.threads == 1 and device == "cpu" else "wall"
                    if repeat:  # the first one warms up
                        taken[index].append(found[clock] / found["seconds"])
            for worker, times in zip(workers, taken, strict=True):
                row = {"system": worker.system, "precision": worker.precision, "threads": worker.threads}
                row |= {"case": case, "verb": verb, "median": float(np.median(times))}
                row |= {"low": min(times), "high": max(times), "repeats": repeats}
                rows.append(row)
                print(json.dumps(row), flush=True)
    return rows


def memory(system: str, case: str, python: str, device: str) -> dict:
    """Measure peak resident memory over the loaded model, in a new process for each verb."""
    row: dict = {"system": system, "case": case}
    with tempfile.TemporaryDirectory() as folder:
        tokens = str(Path(folder) / "tokens.pt")
        for verb in ("encode", "decode"):
            worker = Worker(system, 1, python, device)
            base = worker.made["rss_gib"]
            found = worker.measure(verb, case, tokens)
            row |= {"loaded_gib": base, f"{verb}_over_loaded_gib": found["peak_gib"] - base}
            row |= {f"{verb}_cpu": found["cpu"] / found["seconds"]}
            if verb == "encode":
                worker.measure("save", case, tokens)
            worker.close()
    print(json.dumps(row), flush=True)
    return row


def products(threads: int) -> dict[str, float]:
    """Measure GFLOP/s of a square matrix product of size 2048 with MKL and oneDNN, the latter in bfloat16 too."""
    code = f"""
import time, torch
torch.set_num_threads({threads})
a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
ways = {{"mkl float32": lambda: a @ b, "onednn bfloat16": lambda x=a.bfloat16(), y=b.bfloat16(): x @ y}}
if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    ways["onednn float32"] = lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
with torch.no_grad():
    for name, way in ways.items():
        way()
        times = []
        for _ in range(9):
            start = time.perf_counter(); way(); times.append(time.perf_counter() - start)
        print(name, "=", round(2 * 2048**3 / sorted(times)[2] / 1e9))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name: float(value) for name, value in (line.split(" = ") for line in done.stdout.splitlines())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="interpreter with flexicodec 0.1.2")
    parser.add_argument("--onnx", metavar="FOLDER", help="output of `flexicodec export`, timed as one more system")
    parser.add_argument("--systems", nargs="+", default=["ours", "compiled", "mini", "peer", "mimi", "encodec", "dac"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--long", nargs="*", default=["10 min", "1 h"], help="cases for memory of our models")
    parts = ["time", "bfloat16", "batch", "memory", "load", "blocks", "codes"]
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.onnx:
        os.environ[systems.EXPORTED] = str(Path(arguments.onnx).resolve())
        arguments.systems.append("onnx")
    chosen = [name for name in arguments.systems if name != "peer" or arguments.peer_python]
    python = {name: arguments.peer_python if name == "peer" else sys.executable for name in chosen}
    parts, device = arguments.parts, arguments.device

    def start(name: str, threads: int, precision: str = "float32") -> Worker:
        return Worker(name, threads, python.get(name, sys.executable), device, precision)

    commit, machine = commit_and_machine()
    result = {"machine": machine, "commit": commit, "device": device, "products_gflops": {}, "times": []}
    for threads in arguments.threads:
        result["products_gflops"][str(threads)] = products(threads)
        workers = [start(name, threads) for name in chosen] if "time" in parts else []
        if "bfloat16" in parts:
            workers += [start(name, threads, "bfloat16") for name in chosen if name in ("ours", "compiled", "mini")]
        result["times"] += compare(workers, CASES, arguments.repeats, device) if workers else []
        for worker in workers:
            worker.close()
    if "batch" in parts:
        workers = [start("ours", 1), start("mini", 1)]
        result["times"] += compare(workers, BATCHES, arguments.repeats, device)
        for worker in workers:
            worker.close()
    if "memory" in parts:
        asked = [("30 s", name) for name in chosen if name != "onnx"]
        asked += [(case, name) for case in arguments.long for name in chosen if name in ("ours", "mini")]
        result["memory"] = [memory(name, case, python[name], device) for case, name in asked]
    for part in ("load", "blocks", "codes"):
        if part in parts:
            done = subprocess.run(
                [sys.executable, str(HERE / f"{part}.py")],
                capture_output=True,
                text=True,
                check=True,
                cwd=HERE.parents[1],
            )
            result[part] = json.loads(done.stdout.splitlines()[-1])
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
