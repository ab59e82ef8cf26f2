"""Plot curves of a run: python experiments/mini/curves.py RUN/curves.jsonl [RUN/curves.jsonl ...] -o docs/curves.png

Several files are plotted in sequence, as parts of one training.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from flexicodec.training.logging import read_curves

PANELS = (
    ("Mel loss", ("loss/mel", "loss/mel_energy", "validation/mel_12.5hz", "validation/mel_6.25hz"), False),
    (
        "Other losses of the codec",
        ("loss/alignment", "loss/commitment", "loss/adversarial", "loss/feature_matching"),
        True,
    ),
    ("Gradient norms", ("grad_norm/generator", "grad_norm/discriminator"), True),
    (
        "Codebooks: perplexity",
        ("codebook/semantic/perplexity", *(f"codebook/acoustic_{k:02d}/perplexity" for k in (1, 4, 12, 24))),
        True,
    ),
    ("Game", ("balance/real_score", "balance/fake_score", "balance/accuracy", "balance/loss_over_chance"), False),
    ("Rates", ("rate/frame_rate", "duration/mean"), False),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curves", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--smooth", type=int, default=5, help="rows to average over")
    arguments = parser.parse_args()

    joined: dict[str, list[tuple[int, float]]] = {}
    stages, done = [], 0
    for path in arguments.curves:
        read = read_curves(path)
        for name, points in read.items():
            joined.setdefault(name, []).extend((step + done, value) for step, value in points)
        done += max(step for points in read.values() for step, _ in points)
        stages.append(done)

    figure, axes = plt.subplots(2, 3, figsize=(13, 6.5), constrained_layout=True)
    for axis, (title, names, logarithmic) in zip(axes.flat, PANELS, strict=True):
        for name in names:
            if name not in joined:
                continue
            steps, values = (np.array(column, dtype=float) for column in zip(*joined[name], strict=True))
            width = 1 if name.startswith("validation") else min(arguments.smooth, len(values))
            smooth = np.convolve(values, np.ones(width) / width, mode="valid")
            label = name.removeprefix("loss/").removeprefix("codebook/").removesuffix("/perplexity")
            axis.plot(steps[width - 1 :], smooth, label=label, marker="o" if width == 1 else None, markersize=3)
        for end in stages[:-1]:
            axis.axvline(end, color="0.6", linewidth=0.8, linestyle=":")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
        if logarithmic:
            axis.set_yscale("log")
        if axis.lines:
            axis.legend(fontsize=7)
    figure.savefig(arguments.output, dpi=110)


if __name__ == "__main__":
    main()
