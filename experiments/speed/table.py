"""Print results as Markdown: `python experiments/speed/table.py experiments/speed/results-*.json`.

Takes .json files of run.py and .jsonl files of gpu.py.
"""

import json
import sys
from pathlib import Path

import gpu_table

TARGETS = {  # times faster than the peer, (threads, verb, case)
    (1, "encode", "10 s"): 1.2,
    (1, "encode", "30 s"): 1.6,
    (1, "encode", "4x10 s"): 1.6,
    (1, "decode", "10 s"): 1.12,
    (1, "decode", "30 s"): 1.8,
    (1, "decode", "4x10 s"): 1.8,
    (2, "encode", "10 s"): 1.5,
    (2, "encode", "30 s"): 1.8,
    (2, "encode", "4x10 s"): 1.8,
    (2, "decode", "10 s"): 1.6,
    (2, "decode", "30 s"): 2.2,
    (2, "decode", "4x10 s"): 2.1,
}
BFLOAT16_TARGETS = {
    (1, "encode", "10 s"): 1.8,
    (2, "encode", "10 s"): 2.2,
    (1, "decode", "10 s"): 2.0,
    (2, "decode", "10 s"): 2.8,
}


def main() -> None:
    for path in map(Path, sys.argv[1:]):
        if path.suffix == ".jsonl":
            gpu_table.show(path)
        else:
            show(json.loads(path.read_text()))


def show(result: dict) -> None:
    """Print the tables of one run."""
    times = {
        (row["threads"], row["verb"], row["case"], row["system"], row["precision"]): row for row in result["times"]
    }
    systems = list(dict.fromkeys((row["system"], row["precision"]) for row in result["times"]))
    names = [name if precision == "float32" else f"{name}, {precision}" for name, precision in systems]
    print(
        f"Machine: {result['machine']}, commit {result['commit']}. Products of 2048, GFLOP/s: "
        f"{result['products_gflops']}.\n"
    )
    ours = [system for system in systems if system[0] in ("ours", "compiled")]
    factors = [
        f"{name} faster than the peer by (aim)" for name, system in zip(names, systems, strict=True) if system in ours
    ]
    print(f"| threads | | | {' | '.join(names + factors)} |")
    print("|---" * (len(names + factors) + 3) + "|")
    for threads, verb, case in TARGETS:
        rows = [times.get((threads, verb, case, *system)) for system in systems]
        if not any(rows):
            continue
        cells = [f"{row['median']:.4f} ({row['low']:.4f}-{row['high']:.4f})" if row else "" for row in rows]
        where = threads, verb, case
        peer = times.get((*where, "peer", "float32"))
        for name, precision in ours:
            row, targets = times.get((*where, name, precision)), TARGETS if precision == "float32" else BFLOAT16_TARGETS
            aim = f" ({targets[where]})" if where in targets else ""
            cells.append(f"{peer['median'] / row['median']:.2f}{aim}" if row and peer else "")
        print(f"| {threads} | {verb} | {case} | {' | '.join(cells)} |")
    for name in ("ours", "mini"):
        for verb in ("encode", "decode"):
            pair = [times.get((1, verb, case, name, "float32")) for case in ("32 equal", "32 ragged")]
            if all(pair):
                print(
                    f"\n{name}, {verb}: a ragged batch of 32 has {pair[0]['median'] / pair[1]['median']:.2f} of the "
                    "throughput of an equal one."
                )
    if "memory" in result:
        print("\n| | | loaded, GiB | encode, GiB over it | CPU s per s | decode, GiB over it | CPU s per s |")
        print("|---|---|---|---|---|---|---|")
    for row in result.get("memory", []):
        figures = ("loaded_gib", "encode_over_loaded_gib", "encode_cpu", "decode_over_loaded_gib", "decode_cpu")
        print(f"| {row['system']} | {row['case']} | {' | '.join(f'{row[name]:.3g}' for name in figures)} |")
    for part in ("load", "blocks", "codes"):
        if part in result:
            print(f"\n{part}: {json.dumps(result[part])}")


if __name__ == "__main__":
    main()
