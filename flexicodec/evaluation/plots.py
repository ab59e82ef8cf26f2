"""Pictures of a summary: quality against measured kilobits per second, across systems, and against frame rate.

matplotlib (the extra `eval`) is imported on first use, and without pyplot: no window, no backend, no global state.
"""

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flexicodec.evaluation import metrics
from flexicodec.evaluation.summary import Entry, Score, Summary
from flexicodec.evaluation.systems import GROUND_TRUTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, PANEL, DPI = 10.0, 2.9, 130  # inches, hence 1300 pixels
SHOWN = (
    "stoi",
    "pesq_wb",
    "mel_distance",
    "wer",
    "similarity",
    "utmos",
    "dnsmos_ovrl",
    "cer",
    "mcd_db",
    "si_sdr_db",
)  # where there
MOST = 6  # panels; more would not be legible
NOT_PERFECT = (
    "wer",
    "cer",
    "utmos",
    "dnsmos_ovrl",
)  # on which recordings too fall short, so that their own score says something
CHANCE = {"wer": 0.95, "cer": 0.95, "pesq_wb": 1.05, "pesq_nb": 1.05}
"""What is as good as nothing: an empty transcript has an error rate of 1, and PESQ ends a little above 1."""
# From Okabe and Ito's palette, which colour-blind readers can tell apart; markers and dashes say the same in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*X"
DODGE = 0.03  # as a share: settings of one rate stand side by side, so that intervals can be told apart
WIDE = 4.0  # ratio of frame rates from which on they are drawn on a log axis
AXES = {"bitrate_kbps": "measured kbps", "frame_rate_hz": "measured tokens per second (Hz)"}


def plot_quality(
    summary: Summary,
    against: str = "bitrate_kbps",
    shown: Sequence[str] | None = None,
    path: str | os.PathLike[str] | None = None,
) -> "Figure":
    """Draw a panel for each metric: a point for each system and setting, with its interval over speakers (over clips
    where there is one speaker); lines join settings of a system that differ in rate alone.

    Against bitrate a grey line joins the settings that no other beats at as few bits. What recordings score is dashed.

    Args:
        summary: From `summarise`.
        against: "bitrate_kbps" or "frame_rate_hz".
        shown: Metrics; by default up to six of those that there are, without those that are `at_chance`.
        path: Where to save it (.png, .pdf, .svg, ...); None does not.

    Raises:
        ValueError: Nothing was coded, or a metric or axis that there is not.
    """
    from matplotlib.figure import Figure

    coded = [entry for entry in summary.entries if entry.system != GROUND_TRUTH and entry.clips]
    shown = choose(telling(summary)) if shown is None else list(shown)
    if not coded or against not in AXES or not shown or set(shown) - set(summary.metrics):
        raise ValueError(
            f"there is nothing to draw of {', '.join(shown) or 'no metric'} against {against} for {len(coded)} "
            f"settings; metrics are {', '.join(summary.metrics)}, axes {', '.join(AXES)}"
        )
    columns = 2 if len(shown) == 4 else min(3, len(shown))
    lines = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(WIDTH * max(columns, 2) / 3, 0.9 + PANEL * lines), dpi=DPI, layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False)
    truth = next((entry for entry in summary.entries if entry.system == GROUND_TRUTH), None)
    for axes, metric in zip(panels.flat, shown, strict=False):
        _draw(axes, coded, metric, against)
        if truth is not None and metric.partition(".")[0] in NOT_PERFECT and _finite(truth.scores[metric]):
            height = truth.scores[metric].value * metrics.scale(metric)
            axes.axhline(height, color="0.35", linestyle="--", linewidth=1.1, label="recordings")
    for axes in panels.flat[len(shown) :]:
        axes.axis("off")
    looks = {
        label: handle for axes in panels.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(looks.values(), looks.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    if path is not None:
        figure.savefig(path)
    return figure


def choose(names: Sequence[str]) -> list[str]:
    """Choose metrics to draw: one of each kind, in the order of `SHOWN`."""
    found = [next((name for name in names if name.partition(".")[0] == kind), None) for kind in SHOWN]
    return [name for name in found if name is not None][:MOST]


def telling(summary: Summary) -> list[str]:
    """List the metrics that are not `at_chance`, or all where there are no others."""
    chance = at_chance(summary)
    return [name for name in summary.metrics if name not in chance] or summary.metrics


def at_chance(summary: Summary) -> list[str]:
    """List the metrics for which no coded setting is better than `CHANCE`."""
    coded = [entry for entry in summary.entries if entry.system != GROUND_TRUTH and entry.clips]
    found = []
    for name in summary.metrics:
        level, sign = CHANCE.get(name.partition(".")[0]), 1 if metrics.higher_is_better(name) else -1
        values = [entry.scores[name].value for entry in coded if _finite(entry.scores[name])]
        if level is not None and values and all(sign * value <= sign * level for value in values):
            found.append(name)
    return found


def front(points: Sequence[tuple[float, float]], higher_is_better: bool) -> list[tuple[float, float]]:
    """Keep the points (cost, quality) that no cheaper or equally cheap one reaches, cheapest first."""
    kept: list[tuple[float, float]] = []
    sign = 1 if higher_is_better else -1
    for cost, quality in sorted(points, key=lambda point: (point[0], -sign * point[1])):
        if not kept or sign * quality > sign * kept[-1][1]:
            kept.append((cost, quality))
    return kept


def _draw(axes: "Axes", entries: Sequence[Entry], metric: str, against: str) -> None:
    """Draw one panel."""
    lines = _lines(entries)
    looks = _looks(entries, lines)
    defined = [entry for entry in entries if _finite(entry.scores[metric]) and _finite(entry.scores[against])]
    if against == "bitrate_kbps":
        _draw_front(axes, defined, metric)
    scale = metrics.scale(metric)
    for index, (name, look) in enumerate(looks.items()):
        group = sorted((e for e in defined if lines[e.name] == name), key=lambda entry: entry.scores[against].value)
        if not group:
            continue
        values = [entry.scores[metric].value * scale for entry in group]
        spread = [[abs(v - end * scale) for v, end in zip(values, ends, strict=True)] for ends in _ends(group, metric)]
        aside = DODGE * (index - (len(looks) - 1) / 2) / len(looks) if against == "frame_rate_hz" else 0.0
        places = [entry.scores[against].value * (1 + aside) for entry in group]
        axes.errorbar(
            places, values, spread, markersize=4.5, linewidth=1.1, elinewidth=1.0, capsize=2, label=name, **look
        )
    way = "higher" if metrics.higher_is_better(metric) else "lower"
    axes.set_title(f"{metrics.label(metric)}, {way} is better", fontsize=8.5)
    axes.set_xlabel(AXES[against], fontsize=8)
    axes.tick_params(labelsize=8)
    rates = [entry.scores[against].value for entry in entries]
    if against == "bitrate_kbps" or max(rates) > WIDE * min(rates):
        _space_by_ratio(axes)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)


def _draw_front(axes: "Axes", entries: Sequence[Entry], metric: str) -> None:
    """Draw a broad grey line through the best settings for their bits."""
    points = [(entry.scores["bitrate_kbps"].value, entry.scores[metric].value) for entry in entries]
    best = front(points, metrics.higher_is_better(metric))
    if len(best) > 1:
        x, y = zip(*best, strict=True)
        scaled = [value * metrics.scale(metric) for value in y]
        axes.plot(x, scaled, color="0.83", linewidth=6, zorder=0, label="best for its bits")


def _lines(entries: Sequence[Entry]) -> dict[str, str]:
    """Name the line of each entry: by system, codebooks and how the rate is chosen; by system alone at a fixed rate."""
    rates: dict[str, set[tuple]] = {}
    for entry in entries:
        asked = entry.asked
        rates.setdefault(entry.system, set()).add(
            tuple(asked.get(name) for name in ("frame_rate", "threshold", "policy"))
        )
    lines = {}
    for entry in entries:
        count, asked = entry.asked.get("codebooks"), entry.asked
        by = asked.get("policy") or ("tau" if asked.get("threshold") is not None else None)
        parts = [entry.system, None if count is None else f"{count} codebook{'s' * (count != 1)}", by]
        if len(rates[entry.system]) == 1 and asked.get("frame_rate") is not None:
            parts = [entry.system, f"{asked['frame_rate']:g} Hz"]
        lines[entry.name] = ", ".join(part for part in parts if part)
    return lines


def _looks(entries: Sequence[Entry], lines: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Give each line a colour by its system (by itself, if there is one system), a marker by its codebooks."""
    systems = list(dict.fromkeys(entry.system for entry in entries))
    names = list(dict.fromkeys(lines.values()))
    counts = sorted({entry.asked.get("codebooks") or 0 for entry in entries})
    looks: dict[str, dict[str, Any]] = {}
    for entry in entries:
        name = lines[entry.name]
        colour = systems.index(entry.system) if len(systems) > 1 else names.index(name)
        looks[name] = {
            "color": COLOURS[colour % len(COLOURS)],
            "marker": MARKERS[counts.index(entry.asked.get("codebooks") or 0) % len(MARKERS)],
            "linestyle": ":" if entry.asked.get("policy") else "-",
        }
    return looks


def _space_by_ratio(axes: "Axes") -> None:
    """Make the horizontal axis logarithmic, with plain numbers and not powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _ends(entries: Sequence[Entry], metric: str) -> tuple[list[float], list[float]]:
    """Both ends of each interval, the number itself where there is no interval."""
    scores = [entry.scores[metric] for entry in entries]
    chosen = [score.speakers if math.isfinite(score.speakers.low) else score.clips for score in scores]
    ends = [(i.low, i.high) if math.isfinite(i.low) else (i.value, i.value) for i in chosen]
    return [low for low, _ in ends], [high for _, high in ends]


def _finite(score: Score) -> bool:
    return math.isfinite(score.value)
