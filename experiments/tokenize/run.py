"""Measure `flexicodec tokenize` on this machine: rates, engines, `encode`, the plan of a large manifest, sizes.

    python experiments/tokenize/run.py MANIFEST OUT --clips 24          # all but the plan
    python experiments/tokenize/run.py --plan-lines 10000000 OUT        # the plan alone

CPU seconds, since walls say little on a shared machine. One thread, one process, the model that ships.
"""

import argparse
import json
import os
import resource
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq

import flexicodec
from flexicodec.corpus import TokenDataset, read_manifest, write_manifest
from flexicodec.models.batch_encode import encode_files
from flexicodec.parallel import one_thread
from flexicodec.token_corpus.lines import plan_lines
from flexicodec.token_corpus.local import LocalEngine
from flexicodec.token_corpus.plan import make_plan
from flexicodec.token_corpus.ray_cluster import run_on_ray
from flexicodec.token_corpus.settings import settings_of
from flexicodec.token_corpus.units import run_unit
from flexicodec.token_corpus.worker import Job

RATES = [12.5, 8.33, 6.25]
UNIT_HOURS = 0.01


def cpu_of_family() -> dict[str, float]:
    """CPU seconds of this process and its descendants: those that work, and Ray's own, which only wait."""
    total = {"work": 0.0, "daemons": 0.0, "at": time.monotonic()}
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            times = process.cpu_times()
            name = " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        works = process.pid == os.getpid() or "UnitActor" in name or "token_corpus.worker" in name
        total["work" if works else "daemons"] += times.user + times.system
    return total


def units_in_process(codec, manifest, folder, rates) -> float:
    """CPU seconds of the units of a plan, in this process."""
    settings = settings_of(codec, [{"frame_rate": rate} for rate in rates], unit_hours=UNIT_HOURS)
    dataset = make_plan(manifest, folder, settings)
    before = time.process_time()
    for unit in range(dataset.num_units):
        run_unit(codec, dataset, unit)
    return time.process_time() - before


def files_in_process(codec, utterances, folder) -> float:
    """CPU seconds of what `flexicodec encode` does after start-up: a file a clip."""
    folder.mkdir()
    before = time.process_time()
    with one_thread():
        for result in encode_files(codec, utterances, in_order=False, frame_rate=6.25):
            result.result().save(folder / f"{result.index}.flxc")
    return time.process_time() - before


def engine(run, manifest, folder, rates) -> dict[str, float]:
    """CPU seconds of an engine and its processes between the plan and the last unit, and wall seconds."""
    stamps = []
    choices = [{"frame_rate": rate} for rate in rates]
    job = Job(str(manifest), str(folder), choices=choices, settings={"unit_hours": UNIT_HOURS})
    run(job, lambda reply: stamps.append(cpu_of_family()))
    return {name: stamps[-1][name] - stamps[0][name] for name in stamps[0]}


def sizes(folder) -> dict[str, float]:
    """Bytes of code columns, and of whole files, over the bits of their fields."""
    dataset = TokenDataset.open(folder)
    shares = {}
    for choice in dataset.choices:
        columns = whole = bits = 0
        for unit in range(dataset.num_units):
            path = dataset.table_path(choice, unit)
            metadata = pq.ParquetFile(path).metadata
            whole += path.stat().st_size
            for group in range(metadata.num_row_groups):
                for j in range(metadata.num_columns):
                    column = metadata.row_group(group).column(j)
                    if column.path_in_schema.startswith(("semantic", "durations", "acoustic")):
                        columns += column.total_compressed_size
            tokens = dataset.report(unit)["files"][choice.name]["tokens"]
            form = dataset.format
            bits += tokens * (form.semantic_bits + form.duration_bits + choice.num_codebooks * form.acoustic_bits)
        shares[f"{choice.name}: code columns / packed bits"] = 8 * columns / bits
        shares[f"{choice.name}: files / packed bits"] = 8 * whole / bits
    return shares


def plan(lines: int, folder: Path) -> dict[str, float]:
    """CPU seconds and memory of the plan of a made-up manifest."""
    path = folder / "synthetic.jsonl"
    with path.open("w") as file:
        for index in range(lines):
            clip = f"speaker{index % 5000:05d}/chapter{index % 90}/{index:09d}"
            row = {"path": f"{clip}.flac", "start": 0.0, "duration": 5 + index % 11, "text": "some words of a clip"}
            file.write(json.dumps(row) + "\n")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    found = plan_lines(path, 4 * 3600, "id")
    spent = time.process_time() - began
    size = path.stat().st_size
    path.unlink()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "lines": found.clips,
        "units": len(found.offsets),
        "bytes": size,
        "CPU s": spent,
        "peak MiB": peak / 1024,
        "of it before the plan, MiB": before / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", nargs="?", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--plan-lines", type=int)
    parser.add_argument("--parts", nargs="+", default=["units", "engines"])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.plan_lines:
        print(json.dumps(plan(args.plan_lines, args.out), indent=1))
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    utterances = read_manifest(args.manifest)[: args.clips]
    manifest = args.out / "clips.jsonl"
    write_manifest(manifest, utterances)
    found: dict[str, object] = {"clips": len(utterances), "seconds": sum(u.duration for u in utterances)}
    if "units" in args.parts:
        found |= measure_units(utterances, manifest, args.out)
    if "engines" in args.parts:
        local = engine(lambda job, told: LocalEngine(job, 1, told).run(), manifest, args.out / "local", RATES)
        on_ray = engine(lambda job, told: run_on_ray(job, "auto", 1, told), manifest, args.out / "ray", RATES)
        found |= {"local engine, one process": local, "Ray, one actor": on_ray}
        found["Ray / local, CPU of the work"] = on_ray["work"] / local["work"]
    print(json.dumps(found, indent=1))


def measure_units(utterances, manifest, out) -> dict[str, float]:
    """One rate, three rates and a file a clip, in this process."""
    codec = flexicodec.load("flexicodec-mini", parts="encode")
    units_in_process(codec, manifest, out / "warm", [6.25])
    one = units_in_process(codec, manifest, out / "one", [6.25])
    found = {"one rate, CPU s": one}
    found["encode, a file a clip"] = files_in_process(codec, utterances, out / "files")
    found["encode / one rate"] = found["encode, a file a clip"] / one
    found["three rates"] = units_in_process(codec, manifest, out / "three", RATES)
    found["three rates / one"] = found["three rates"] / one
    return found | sizes(out / "three")


if __name__ == "__main__":
    main()
