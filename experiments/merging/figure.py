"""Plot WER against the frame rate by policy; run.py draws it, and so does

python experiments/merging/figure.py experiments/merging/results.json -o experiments/merging/wer.png
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# The policies shown, in the order of the legend: name in the results, label, colour, line
LINES = (
    ("adjacent cosine", "adjacent cosine (`rate`)", "#c4501b", "-"),
    ("uniform", "uniform (`uniform`)", "#7a7a7a", "-"),
    ("centroid, one threshold", "cosine with the token's mean, one threshold (`centroid`)", "#3b8a5a", "--"),
    ("variance", "minimum variance (`variance`)", "#1f5fa8", "-"),
    ("recognition", "learned cost of tokens (`recognition`)", "#8a3b9a", "-"),
)
TICKS = (2.5, 3, 4, 5, 6.25, 8.33, 10)


def draw(summary: list[dict[str, Any]], output: Path) -> None:
    """Draw a line with its interval for each policy, and what is lost without merging."""
    figure, axis = plt.subplots(figsize=(7.2, 4.4), constrained_layout=True)
    for name, label, colour, style in LINES:
        rows = sorted((row for row in summary if row["policy"] == name), key=lambda row: row["rate"])
        rates = [row["tokens_per_second"] for row in rows]
        value, low, high = zip(*([100 * x for x in row["wer"]] for row in rows), strict=True)
        axis.plot(rates, value, style, color=colour, marker="o", markersize=4, label=label)
        axis.fill_between(rates, low, high, color=colour, alpha=0.12, linewidth=0)
    (unmerged,) = (row for row in summary if row["policy"] == "unmerged" and row["rate"] == 12.5)
    axis.axhline(100 * unmerged["wer"][0], color="black", linewidth=0.8, linestyle=":", label="not merged")
    axis.set_xscale("log")
    axis.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axis.minorticks_off()
    axis.set_ylim(0, 70)
    axis.set_xlabel("tokens per second")
    axis.set_ylabel("WER, %")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(output, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    draw(json.loads(arguments.results.read_text())["summary"], arguments.output)


if __name__ == "__main__":
    main()
