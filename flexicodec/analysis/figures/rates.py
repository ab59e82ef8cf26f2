"""Pictures of frame rate against phone rate: clips as dots, lines through them, and correlations with intervals."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from flexicodec.analysis.figures.style import COLOURS, DASHES, GREY, MARKS, Series, canvas, legend_below, whiskers
from flexicodec.statistics import Band, Line

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_scatter(
    x: Float[np.ndarray, " clips"],
    y: Float[np.ndarray, " clips"],
    lines: Mapping[str, Line],
    *,
    x_label: str,
    y_label: str,
    title: str,
    bands: Mapping[str, Band] = MappingProxyType({}),
) -> "Figure":
    """Draw clips as dots, with fitted lines by their names, and bands round those that have one."""
    figure, (axes,) = canvas(4.8)
    axes.plot(x, y, "o", color=GREY, markersize=3.5, alpha=0.55, markeredgewidth=0)
    reach = np.array([x.min(), x.max()]) if len(x) else np.array([0.0, 1.0])
    for i, (name, line) in enumerate(lines.items()):
        slope, intercept = line.slope.value, line.intercept.value
        said = f"{name}: {slope:.2f} x {'+' if intercept >= 0 else '−'} {abs(intercept):.2f}"
        if name in bands:
            band = bands[name]
            axes.fill_between(band.x, band.low, band.high, color=COLOURS[i], alpha=0.2, linewidth=0, zorder=1)
        axes.plot(reach, intercept + slope * reach, linestyle=DASHES[i], color=COLOURS[i], linewidth=2, label=said)
    if len(y):  # steep lines may leave the picture, the clips not
        margin = 0.08 * float(np.ptp(y)) or 0.5
        axes.set_ylim(float(y.min()) - margin, float(y.max()) + margin)
    axes.plot(np.mean(x), np.mean(y), "+", color="black", markersize=12, markeredgewidth=2, label="mean")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title(title, fontsize=10)
    legend_below(axes, drop=-0.14)
    return figure


def draw_intervals(
    series: Sequence[Series],
    *,
    label: str,
    reference: float | None = 0.0,
    marks: Sequence[tuple[str, float]] = (),
    log: bool = False,
) -> "Figure":
    """Draw values with intervals as dots in rows, one row a place, one mark a series.

    Args:
        series: Their places are names; a row for each, in the order they first appear.
        label: Of the axis.
        reference: Where a thin line stands; None for none.
        marks: Named values from elsewhere, as dotted lines.
        log: Space the axis by ratios.
    """
    names = list(dict.fromkeys(str(place) for each in series for place in each.places))
    figure, (axes,) = canvas((0.26 + 0.08 * len(series)) * len(names) + 1.3)
    step = 0.7 / max(len(series), 1)
    for i, each in enumerate(series):
        places = [names.index(str(place)) + step * (i - (len(series) - 1) / 2) for place in each.places]
        axes.errorbar(
            [v.value for v in each.values], places, xerr=whiskers(each.values), fmt=MARKS[i % 7],
            color=COLOURS[i % 7], markersize=5, capsize=2, linewidth=1.2, label=each.name,
        )  # fmt: skip
    if reference is not None:
        axes.axvline(reference, color="black", linewidth=0.8)
    for i, (name, value) in enumerate(marks):
        axes.axvline(value, color=COLOURS[(len(series) + i) % 7], linestyle=":", linewidth=1.6, label=name)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(label)
    if log:
        axes.set_xscale("log", subs=(2, 5))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}")
    if len(series) + len(marks) > 1:
        legend_below(axes, drop=-0.55 / figure.get_figheight())
    return figure


def draw_correlations(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str = "correlation r",
    marks: Sequence[tuple[str, float]] = (),
    above: tuple[str, Sequence[tuple[float, str]]] | None = None,
) -> "Figure":
    """Draw values with bands of their intervals along an axis of numbers.

    Args:
        series: Their places are numbers.
        x_label: Of the axis below.
        y_label: Of the axis of values.
        marks: Named values from elsewhere, as dotted lines.
        above: Label of a second axis above, and what it says at which places of the one below.
    """
    figure, (axes,) = canvas(3.9 if above is None else 4.4)
    if above is not None:
        label, ticks = above
        top = axes.secondary_xaxis("top")
        top.set_ticks([place for place, _ in ticks], [text for _, text in ticks], fontsize=8, rotation=45)
        top.set_xlabel(label)
    for i, each in enumerate(series):
        places = np.array(each.places, dtype=float)
        axes.fill_between(
            places,
            [v.low for v in each.values],
            [v.high for v in each.values],
            color=COLOURS[i],
            alpha=0.15,
            linewidth=0,
        )
        axes.plot(
            places, [v.value for v in each.values], color=COLOURS[i], linestyle=DASHES[i], marker=MARKS[i],
            markersize=4, label=each.name,
        )  # fmt: skip
    axes.axhline(0, color="black", linewidth=0.8)
    for i, (name, value) in enumerate(marks):
        axes.axhline(value, color=COLOURS[(len(series) + i) % 7], linestyle=":", linewidth=1.6, label=name)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    legend_below(axes, drop=-0.16)
    return figure
