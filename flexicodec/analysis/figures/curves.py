"""Pictures of what a threshold or a rate does to a corpus: tokens per second, what merging loses, and bits."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from flexicodec.analysis.figures.style import COLOURS, DASHES, GREY, MARKS, Series, canvas, legend_below, whiskers
from flexicodec.analysis.losses import Distortion

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_rate_curve(
    thresholds: Float[np.ndarray, " thresholds"],
    frame_rates: Float[np.ndarray, "thresholds clips"],
    corpus_rates: Float[np.ndarray, " thresholds"],
    used: Mapping[str, tuple[float, float]],
    lowest: float | None,
) -> "Figure":
    """Draw tokens per second against tau: of the corpus, with the middle nine tenths of its clips, and settings in use.

    Args:
        thresholds: In rising order.
        frame_rates: Of every clip.
        corpus_rates: All tokens over all seconds.
        used: tau and corpus rate of settings by name.
        lowest: The rate below which the cap on durations allows none; None without a cap.
    """
    figure, (axes,) = canvas(3.9)
    if frame_rates.shape[1]:
        low, high = np.quantile(frame_rates, [0.05, 0.95], axis=1)
        axes.fill_between(thresholds, low, high, color=COLOURS[0], alpha=0.2, linewidth=0, label="90 % of the clips")
    axes.plot(thresholds, corpus_rates, color=COLOURS[0], label="the corpus")
    for i, (name, (threshold, rate)) in enumerate(used.items(), start=1):
        axes.plot(
            threshold, rate, MARKS[i % 7], color=COLOURS[i % 7], markersize=7, label=f"{name}: tau {threshold:.3f}"
        )
    if lowest is not None:
        axes.axhline(lowest, color=GREY, linestyle=":", label=f"least that the cap allows, {lowest:.2f} Hz")
    axes.set_xlabel("threshold tau (neighbours more alike than this are merged)")
    axes.set_ylabel("tokens per second (Hz)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9)
    return figure


def draw_distortion(found: Distortion, bits_per_token: float | None = None) -> "Figure":
    """Draw what merging loses before quantisation against tokens per second, a line per rule; nothing is decoded.

    `bits_per_token` adds an axis of nominal bits per second above.
    """
    figure, (axes,) = canvas(4.4)
    rates = found.tokens.sum(2) / found.seconds.sum()
    lost = found.lost.sum(2) / max(found.whole.sum(), 1e-8)
    for i, name in enumerate(found.policies):
        axes.plot(rates[i], lost[i], marker=MARKS[i], linestyle=DASHES[i], color=COLOURS[i], markersize=5, label=name)
    axes.set_xlabel("tokens per second (Hz)")
    axes.set_ylabel("share of the features' energy lost (NMSE)")
    axes.set_ylim(bottom=0)
    if bits_per_token:
        kbps = bits_per_token / 1000
        above = axes.secondary_xaxis("top", functions=(lambda x: np.asarray(x) * kbps, lambda x: np.asarray(x) / kbps))
        above.set_xlabel("nominal kbit/s with all codebooks")
    legend_below(axes, drop=-0.16)
    return figure


def draw_bits(nominal: Mapping[str, float], measured: Sequence[Series]) -> "Figure":
    """Draw the bits of each part of a token: what its field takes, and what coding it was measured to cost."""
    figure, (axes,) = canvas(3.9)
    places = np.arange(len(nominal))
    axes.bar(places, list(nominal.values()), 0.85, color="0.88", label="nominal")
    for i, series in enumerate(measured):
        at = [list(nominal).index(str(place)) for place in series.places]
        values = [v.value for v in series.values]
        axes.errorbar(
            at, values, yerr=whiskers(series.values), fmt=MARKS[i], color=COLOURS[i], markersize=5, capsize=2,
            linewidth=1, label=series.name,
        )  # fmt: skip
    axes.set_xticks(places, list(nominal), rotation=90 if len(nominal) > 8 else 0, fontsize=8)
    axes.set_ylabel("bits per token")
    axes.grid(axis="x", visible=False)
    axes.legend(frameon=False, fontsize=9)
    return figure
