"""Plot decoding time and time to first audio against frame rate.

python experiments/nanocodec/figure.py experiments/nanocodec/results/decoding.json -o experiments/nanocodec/decoding.png
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

NANO, LFSC, FLEXI = "#1f5fa8", "#7a7a7a", "#c4501b"
TICKS = (3, 4, 6.25, 8.33, 12.5, 25)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    rows = list(json.loads(arguments.results.read_text())["rows"].values())
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.5, 4.6), constrained_layout=True)

    parts = (("language model", "-", ("prompt", "lm")), ("codec", ":", ("codec",)), ("both", "--", ("total",)))
    for label, colour in (("NanoCodec", NANO), ("FlexiCodec", FLEXI)):
        own = line(rows, label)
        for part, style, names in parts:
            left.plot(
                *points(own, [f"{name}_seconds" for name in names], per_second=True),
                style,
                color=colour,
                marker="o",
                markersize=4,
                label=f"{label}: {part}",
            )
    for row in rows:
        if row["label"] not in ("NanoCodec 1.1 kbps", "FlexiCodec"):
            left.plot(*points([row], ["total_seconds"], per_second=True), "x", color=colour_of(row), markersize=7)
            name(left, row, ["total_seconds"], per_second=True)
    left.axhline(1, color="black", linewidth=0.7)
    left.set_ylabel("CPU seconds a second of speech")
    left.set_title("Writing and decoding ten seconds, one thread", fontsize=10)
    left.set_ylim(0)

    for label, colour, following in (
        ("NanoCodec", NANO, "causal decoder follows each token"),
        ("FlexiCodec", FLEXI, "windows follow each token"),
    ):
        own = line(rows, label)
        right.plot(
            *points(own, ["total_seconds"]), "--", color=colour, marker="o", markersize=4, label=f"{label}: whole"
        )
        right.plot(
            *points(own, ["each/first_audio_seconds"]),
            "-",
            color=colour,
            marker="o",
            markersize=4,
            label=f"{label}: {following}",
        )
    for row in rows:
        if row["label"] not in ("NanoCodec 1.1 kbps", "FlexiCodec"):
            right.plot(*points([row], ["each/first_audio_seconds"]), "x", color=colour_of(row), markersize=7)
            name(right, row, ["each/first_audio_seconds"])
    right.set_yscale("log")
    right.set_yticks([0.2, 0.5, 1, 2, 5, 10], ["0.2", "0.5", "1", "2", "5", "10"])
    right.minorticks_off()
    right.set_ylabel("seconds to first audio")
    right.set_title("Time to first audio (crosses: followed)", fontsize=10)

    for axis in (left, right):
        axis.set_xscale("log")
        axis.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
        axis.minorticks_off()
        axis.set_xlabel("tokens per second")
        axis.grid(alpha=0.25)
    left.legend(fontsize=7.5, handlelength=4)
    right.legend(fontsize=7.5, handlelength=4, loc=(0.02, 0.27))
    figure.savefig(arguments.output, dpi=130)


def line(rows: list[dict[str, Any]], label: str) -> list[dict[str, Any]]:
    """Select the rows of a curve: FlexiCodec's, or NanoCodec's at 1.1 kbps, by rate."""
    label = "NanoCodec 1.1 kbps" if label == "NanoCodec" else label
    return sorted((row for row in rows if row["label"] == label), key=lambda row: row["frame_rate"])


def points(rows: list[dict[str, Any]], names: list[str], per_second: bool = False) -> tuple[list[float], list[float]]:
    """Return rates, and sums of medians."""
    sums = [sum(row[name]["median"] for name in names) / (row["audio_seconds"] if per_second else 1) for row in rows]
    return [row["frame_rate"] for row in rows], sums


def name(axis: Any, row: dict[str, Any], names: list[str], per_second: bool = False) -> None:
    """Label a point, without overlapping the real-time line."""
    (x,), (y,) = points([row], names, per_second)
    place = (-5, -10) if per_second and 0.9 < y < 1 else (-5, 5)
    axis.annotate(row["label"], (x, y), place, textcoords="offset points", fontsize=7, ha="right", color=colour_of(row))


def colour_of(row: dict[str, Any]) -> str:
    """Return the colour of a family."""
    return LFSC if row["label"].startswith("LFSC") else NANO


if __name__ == "__main__":
    main()
