"""Figures of `many_speakers.py`: clips and speakers, every speaker alone, and correlations by frame rate."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from flexicodec.analysis.plots import COLOURS, DASHES, GREY, MARKERS, PAPER_R

SHOWN = ("threshold", "centroid", "variance", "mel cosine")


def plot_all(results: dict[str, Any], folder: Path) -> None:
    """Write all figures."""
    main = next(row for row in results["rows"] if "points" in row)
    for name, figure in {
        "scatter": plot_scatter(main),
        "by_speaker": plot_speakers(main),
        "sweep": plot_sweep(results["sweep"]),
    }.items():
        figure.savefig(folder / f"{name}.png", dpi=130, bbox_inches="tight")


def plot_scatter(row: dict[str, Any]) -> Figure:
    """Plot clips in grey, speakers in colour, and the line of least squares through the clips."""
    x, y = np.array(row["points"]).T
    speakers = np.array([each["rates"] for each in row["by_speaker"].values()])
    figure = Figure(figsize=(6, 4.5))
    axes = figure.subplots()
    axes.plot(x, y, ".", color="0.75", markersize=4, label=f"{len(x)} clips, r = {row['r'][0]:.2f}")
    label = f"speakers, r = {row['r_between_speakers'][0]:.2f} ({len(speakers)} of {row['speakers']} shown)"
    axes.plot(*speakers.T, "o", color=COLOURS[1], label=label)
    slope = row["slope"][0]
    ends = np.array([x.min(), x.max()])
    axes.plot(ends, y.mean() + slope * (ends - x.mean()), color=COLOURS[0], label=f"least squares, slope {slope:.2f}")
    axes.set(xlabel="phones per second of speech", ylabel="tokens per second of speech")
    axes.set_title(f"LibriSpeech, one threshold, {row['tokens_per_second']:.2f} Hz", fontsize=10)
    axes.legend(fontsize=8)
    return figure


def plot_speakers(row: dict[str, Any]) -> Figure:
    """Plot the correlation among the clips of each speaker."""
    found = sorted(row["by_speaker"].values(), key=lambda each: each["r"][0])
    value, low, high = np.array([each["r"] for each in found]).T
    figure = Figure(figsize=(6, 3.6))
    axes = figure.subplots()
    place = np.arange(len(found))
    axes.errorbar(place, value, [value - low, high - value], fmt="o", color=COLOURS[0], markersize=4, linewidth=1)
    axes.axhline(PAPER_R, color=COLOURS[1], linestyle="--", label=f"paper, TIMIT, all speakers mixed: {PAPER_R}")
    inside = row["r_within_speakers"][0]
    axes.axhline(inside, color=GREY, linestyle=":", label=f"all speakers, their means removed: {inside:.2f}")
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set(xlabel="speakers, by their r", ylabel="r between clips of one speaker", xticks=[])
    axes.legend(fontsize=8, loc="lower right")
    return figure


def plot_sweep(points: list[dict[str, Any]]) -> Figure:
    """Plot three correlations by frame rate, for policies and a null codec."""
    kinds = {"r": "between clips", "r_within_speakers": "within speakers", "r_within_clips": "within clips (1 s)"}
    figure = Figure(figsize=(9, 3.4))
    for axes, (kind, title) in zip(figure.subplots(1, 3, sharey=True), kinds.items(), strict=True):
        for i, policy in enumerate(SHOWN):
            chosen = sorted((each["tokens_per_second"], each[kind]) for each in points if each["policy"] == policy)
            axes.plot(*np.array(chosen).T, color=COLOURS[i], marker=MARKERS[i], linestyle=DASHES[i], label=policy)
        axes.axhline(PAPER_R, color=GREY, linewidth=0.8)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("tokens per second")
    figure.axes[0].set_ylabel("r with phones per second")
    figure.axes[2].legend(fontsize=8, loc="lower right")
    return figure
