"""Print the results of gpu.py as Markdown; called by table.py for a .jsonl file."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def show(path: Path) -> None:
    """Print all results."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(row["part"] if "skipped" not in row else "skipped", []).append(row)
    for about in parts.get("about", []):
        print(", ".join(f"{name} {value}" for name, value in about.items() if name != "part") + ".\n")
    printers = {
        "limits": limits,
        "speed": speed,
        "compile": compile,
        "flips": flips,
        "bulk": bulk,
        "reading": reading,
        "profile": profile,
        "skipped": skipped,
    }
    for name, printer in printers.items():
        if name in parts:
            printer(parts[name])
            print()


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print a table."""
    head = list(head)
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def limits(rows: list[Row]) -> None:
    table(["products of", "TFLOP/s"], [[row["precision"], f"{row['tflops']:.1f}"] for row in rows])


def speed(rows: list[Row]) -> None:
    """Print the best batch of each setting, then all batches."""
    ways = dict.fromkeys((row["model"], row["verb"], row["precision"]) for row in rows)
    groups = {way: [r for r in rows if (r["model"], r["verb"], r["precision"]) == way] for way in ways}
    best = {way: max(group, key=lambda row: row["hours_per_hour"]) for way, group in groups.items()}
    head = ["", "", "precision", "best batch", "hours of audio per hour", "TFLOP/s", "share of peak", "GiB", "alone"]
    table(
        head,
        [
            [
                *way,
                f"{row['batch']}",
                f"{row['hours_per_hour']:,.0f}",
                f"{row['tflops']:.2f}",
                _percent(row["share_of_peak"]),
                "" if row["gib"] is None else f"{row['gib']:.1f}",
                f"{1000 * groups[way][0]['seconds']:.0f} ms",
            ]
            for way, row in best.items()
        ],
    )
    sizes = sorted({row["batch"] for row in rows})
    print()
    found = {(r["model"], r["verb"], r["precision"], r["batch"]): r for r in rows}
    cells = {way: [found.get((*way, size)) for size in sizes] for way in ways}
    table(
        ["hours per hour, batch of", "", "", *map(str, sizes)],
        [
            [*way, *("" if row is None else f"{row['hours_per_hour']:,.0f}" for row in line)]
            for way, line in cells.items()
        ],
    )


def compile(rows: list[Row]) -> None:
    head = ["", "precision", "", "compiled besides", "batch", "seconds to compile", "hours per hour", "times faster"]
    names = ("model", "precision", "verb", "compiled", "batch", "compile_seconds")
    table(
        head,
        [
            [*(str(row[name]) for name in names), f"{row['hours_per_hour']:,.0f}", f"{row['times_faster']:.2f}"]
            for row in rows
        ],
    )


def flips(rows: list[Row]) -> None:
    head = [
        "against float32 on the CPU",
        "",
        "decisions",
        "flips",
        "of margin above 1e-4",
        "largest margin that flipped",
    ]
    kinds = ("boundaries", "semantic codes, same boundaries", "acoustic codes, same boundaries")
    lines = []
    for row in rows:
        for kind in kinds:
            found = row[kind]
            counts = [str(found[name]) for name in ("decisions", "flips", "flips_above_1e-4")]
            lines.append([row["precision"], kind, *counts, str(found["largest_margin_flipped"] or "")])
    table(head, lines)


def bulk(rows: list[Row]) -> None:
    head = ["from files", "precision", "seconds a batch", "reading threads", "hours per hour"]
    table(
        head,
        [
            [
                row["model"],
                row["precision"],
                f"{row['batch_seconds']:.0f}",
                str(row["workers"] or "0, no overlap"),
                f"{row['hours_per_hour']:,.0f}",
            ]
            for row in rows
        ],
    )


def reading(rows: list[Row]) -> None:
    rates = (f"{row['hours_per_hour']:,.0f} on {row['workers']} threads" for row in rows)
    print(f"Reading alone, hours per hour: {'; '.join(rates)}.")


def profile(rows: list[Row]) -> None:
    """Print time by kind of kernel, and the limiting factor."""
    kinds = list(dict.fromkeys(kind for row in rows for kind in row["kinds"]))
    table(
        ["", "", "precision", "batch", "GPU busy", "kernels", *kinds, "bound by"],
        [
            [
                *(str(row[name]) for name in ("model", "verb", "precision", "batch")),
                _percent(row["busy_share"]),
                str(row["kernels"]),
                *(_percent(row["kinds"].get(kind)) for kind in kinds),
                "launches and waits" if row["busy_share"] < 0.7 else max(row["kinds"], key=row["kinds"].get),
            ]
            for row in rows
        ],
    )
    for row in rows:
        print(f"\n{row['model']}, {row['verb']}, the longest kernels:\n")
        each = [[f"`{top['kernel']}`", f"{1000 * top['seconds']:.2f}", str(top["calls"])] for top in row["top"]]
        table(["kernel", "ms", "calls"], each)


def skipped(rows: list[Row]) -> None:
    print("Not measured:\n")
    for row in rows:
        what = ", ".join(f"{value}" for name, value in row.items() if name != "skipped")
        print(f"- {what}: {row['skipped']}")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"
