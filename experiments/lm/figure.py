"""Plot what run.py measured: python experiments/lm/figure.py experiments/lm/results.json -o experiments/lm/lm.png"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PANELS = (
    ("Bits per second of speech", lambda row: row["bits_per_second"]),
    ("Bits per token", lambda row: row["bits_per_token"]),
    ("Training, seconds per hour of audio", lambda row: row["training_seconds_per_hour_of_audio"]),
    ("Continuation, seconds per second", lambda row: row["continuation"]["seconds_per_second_of_speech"]),
)
BUDGETS = {"compute": "same compute", "audio": "same seconds of audio"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    rows = json.loads(args.results.read_text())["runs"]
    first = max(row["rate"] for row in rows)
    figure, axes = plt.subplots(1, len(PANELS), figsize=(14, 3.4), constrained_layout=True)
    for axis, (title, value) in zip(axes, PANELS, strict=True):
        for budget, label in BUDGETS.items():
            # The highest rate is the same run in both.
            chosen = [row for row in rows if row["budget"] == budget or row["rate"] == first]
            chosen.sort(key=lambda row: row["rate"])
            rates = [row["tokens_per_second"] for row in chosen]
            values = [value(row) for row in chosen]
            if isinstance(values[0], list):
                middle = [each[0] for each in values]
                errors = [[each[0] - each[1] for each in values], [each[2] - each[0] for each in values]]
                axis.errorbar(rates, middle, errors, marker="o", capsize=3, label=label)
            else:
                axis.plot(rates, values, marker="o", label=label)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("tokens per second")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(args.output, dpi=110)


if __name__ == "__main__":
    main()
