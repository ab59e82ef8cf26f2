"""A summary as files: `summary.json` for programs, `summary.md` and two plots (quality against kbps and Hz) for people.

matplotlib (the extra `eval`) is imported on first use, and without pyplot: no window, no backend, no global state.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexicodec.evaluation.results_store import RUN_NAME, add_entropy_rates, read_rows, to_json
from flexicodec.evaluation.summary import (
    RATES,
    Comparison,
    Entry,
    Score,
    Summary,
    format_value,
    metric_info,
    metric_kind,
    summarise,
)
from flexicodec.evaluation.systems import GROUND_TRUTH
from flexicodec.io_utils import replacing
from flexicodec.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUMMARY_NAME = "summary.json"
REPORT_NAME = "summary.md"
PLOT_NAMES = {"bitrate_kbps": "bitrate.png", "frame_rate_hz": "frame_rate.png"}

PANEL_KINDS = "stoi pesq_wb mel_distance wer similarity utmos dnsmos_ovrl cer mcd_db si_sdr_db".split()
MAX_PANELS = 6  # more would not be legible
# Columns of the table on a terminal, in this order: rates, then the first so many of the metrics that were measured.
TERMINAL_RATES = ("frame_rate_hz", "bitrate_kbps")
TERMINAL_KINDS = (
    "wer stoi pesq_wb similarity utmos distillmos dnsmos_ovrl unit_edit boundary_f1 cer mel_distance".split()
)
TERMINAL_METRICS = 6
USELESS_WER = 0.5  # of the recordings, from which on a recogniser does not understand them
NOT_PERFECT = ("wer", "cer", "utmos", "dnsmos_ovrl")  # recordings do not reach the best value, so theirs is drawn
AXES = {"bitrate_kbps": "measured kbps", "frame_rate_hz": "measured tokens per second (Hz)"}
# From Okabe and Ito's palette, which colour-blind readers can tell apart; markers and dashes say the same in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*X"
DODGE = 0.03  # as a share: intervals of settings of one rate are drawn side by side, to tell them apart
LOG_RATIO = 4.0  # ratio of frame rates from which on their axis is logarithmic


def write_report(folder: str | Path, resamples: int = 10_000, more: Callable[[Summary], str] | None = None) -> Summary:
    """Summarise the rows of a results folder, and write `summary.json`, `summary.md` and the plots into it.

    `more` returns Markdown to insert after the first table.
    """
    folder = Path(folder)
    run = json.loads((folder / RUN_NAME).read_text(encoding="utf-8"))
    rows, remarks = add_entropy_rates(folder, read_rows(folder), run)
    summary = replace(summarise(rows, run, resamples), remarks=tuple(remarks))
    with replacing(folder / SUMMARY_NAME) as part:
        values = json.loads(to_json(asdict(summary)))
        part.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    # Plots need at least one coded setting.
    plots = []
    if any(entry.asked.get("codebooks") is not None and entry.clips for entry in summary.entries):
        for against, name in PLOT_NAMES.items():
            with replacing(folder / name) as part:
                plot_quality(summary, against).savefig(part, format="png")
            plots.append(name)
    with replacing(folder / REPORT_NAME) as part:
        part.write_text(markdown(summary, plots, more(summary) if more else ""), encoding="utf-8")
    return summary


# ----------------------------------------------------------------------------------------------------------- markdown


def markdown(summary: Summary, plots: Sequence[str] = (), more: str = "") -> str:
    """Write a summary as a page of Markdown."""
    # Rules come first: numbers made by other rules do not compare.
    run = summary.run
    level = 100 * summary.entries[0].scores["frame_rate_hz"].clips.level
    parts = [
        "# Evaluation",
        f"{run['clips']} clips of {summary.speakers or 'unknown'} speakers, {run['seconds']:.0f} s. "
        f"Rules: {run['rules']}. Error rates are total errors over total length of clips that have a text; texts "
        f"normalised by `{run['normaliser']}`; in scripts without spaces (Chinese, Japanese, Thai, ...) every "
        "character is a word and spaces are not counted. Rates are those measured: all tokens over all seconds; kbps "
        "are codes and durations at fixed width (3 bits a token where tokens last up to 8 frames). "
        f"flexicodec-lab {run['version']}.",
        main_table(summary),
        notes(summary),
        more,
        *(f"![{Path(name).stem}]({name})" for name in plots),
        _left_out_of_plots(summary) if plots else "",
        f"## Intervals\n\n{level:g} % bootstrap intervals, over clips / over speakers with their clips "
        "(a clip of an unknown speaker by itself; none where fewer than two speakers are known).",
        interval_table(summary),
        "## Paired differences\n\nThe first less the second, over the clips on which both are defined, with the same "
        "two intervals. Better or worse: neither covers 0. Intervals are not widened for how many there are.",
        comparison_table(summary),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def main_table(summary: Summary, shown: Sequence[str] | None = None, rates: Sequence[str] = tuple(RATES)) -> str:
    """Make the table of all systems and settings, without intervals; `shown` chooses metrics (default: all)."""
    columns = []
    for name in [*rates, *(summary.metrics if shown is None else shown)]:
        if any(name in entry.scores and _is_defined(entry.scores[name]) for entry in summary.entries):
            columns.append(name)
    rows = []
    for entry in summary.entries:
        values = [format_value(name, entry.scores[name].value) for name in columns]
        rows.append([entry.name, str(entry.clips), *values])
    return markdown_table(["system", "clips", *(metric_info(name).label for name in columns)], rows)


def terminal_table(summary: Summary) -> str:
    """Make the table of the few columns that matter most, and say where the others are."""
    kinds = [*TERMINAL_KINDS, *dict.fromkeys(map(metric_kind, summary.metrics))]
    ordered = sorted(summary.metrics, key=lambda name: kinds.index(metric_kind(name)))
    shown = ordered[:TERMINAL_METRICS]
    table = main_table(summary, shown, TERMINAL_RATES)
    left_out = len(ordered) - len(shown)
    return table + (f"\n\n{left_out} more metrics, and intervals, are in the report." if left_out else "")


def interval_table(summary: Summary) -> str:
    """Make the table of every number with both intervals."""
    rows = []
    for entry in summary.entries:
        for name in [*RATES, *summary.metrics]:
            if name in entry.scores and _is_defined(entry.scores[name]):
                rows.append([entry.name, metric_info(name).label, *_score_cells(name, entry.scores[name])])
    return markdown_table(["system", "metric", "value", "clips", "speakers"], rows)


def comparison_table(summary: Summary) -> str:
    """Make the table of paired differences; empty without any."""
    rows = []
    for each in [*summary.comparisons, *summary.recordings]:
        if _is_defined(each.difference):
            cells = _score_cells(each.metric, each.difference)
            label = metric_info(each.metric).label
            rows.append([each.entry, each.against, label, *cells, sign_of_difference(each)])
    head = ["first", "second", "metric", "difference", "clips", "speakers", "the first is"]
    return markdown_table(head, rows) if rows else ""


def sign_of_difference(comparison: Comparison) -> str:
    """Say "better" or "worse" where no interval covers 0, "not clear" elsewhere, and nothing for rates."""
    higher_is_better = metric_info(comparison.metric).higher_is_better
    if higher_is_better is None:
        return ""
    difference = comparison.difference
    intervals = [each for each in (difference.clips, difference.speakers) if math.isfinite(each.low)]
    if not intervals or any(interval.covers_zero for interval in intervals):
        return "not clear"
    return "better" if (difference.value > 0) == higher_is_better else "worse"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def notes(summary: Summary) -> str:
    """List what the numbers rest on, once for all entries of which the same is true, and the remarks."""
    names: dict[str, list[str]] = {}
    for entry in summary.entries:
        for text in _entry_notes(entry):
            names.setdefault(text, []).append(entry.name)
    lines = []
    for text, entries in names.items():
        who = "All rows" if len(entries) == len(summary.entries) else "; ".join(entries)
        lines.append(f"- {who}: {text}.")
    for metric in summary.metrics:
        if len({entry.undefined.get(metric, 0) for entry in summary.entries}) > 1:
            label = metric_info(metric).label
            lines.append(f"- Means of {label} rest on different clips; paired differences do not.")
    lines += _recogniser_notes(summary)
    return "\n".join([*lines, *(f"- {remark}" for remark in summary.remarks)])


def _recogniser_notes(summary: Summary) -> list[str]:
    """Say where a recogniser fails on the recordings themselves, or finds more errors than there are words."""
    lines = []
    for metric in (name for name in summary.metrics if metric_kind(name) == "wer"):
        spec = metric.removeprefix("wer.")
        values = {entry.name: entry.scores[metric].value for entry in summary.entries}
        recordings = [value for name, value in values.items() if name == GROUND_TRUTH]
        if any(value >= USELESS_WER for value in recordings):
            lines.append(
                f"- The recogniser {spec} has a WER of {format_value(metric, recordings[0])} % on the recordings "
                "themselves: it does not understand them, and its error rates say nothing about codecs. Name another "
                "with --transcriber."
            )
        above = [name for name, value in values.items() if value > 1]
        if above:
            lines.append(
                f"- WER above 100 % ({spec}; {'; '.join(above)}): more wrong and inserted words than spoken ones."
            )
    return lines


def _entry_notes(entry: Entry) -> list[str]:
    """Say on how many clips an entry's error rates rest, how many failed, and where a metric is not defined."""
    texts = []
    for metric in (name for name in entry.heard if metric_kind(name) == "wer"):  # CER rests on the same clips
        text = f"WER/CER ({metric.removeprefix('wer.')}) on {entry.heard[metric]} of {entry.clips} clips"
        if without := entry.clips - entry.heard[metric]:
            text += f"; {without} have no text in the recogniser's language"
        if empty := entry.empty.get(metric, 0):
            text += f"; in {empty} the text has no words, and all recognised words are insertions"
        texts.append(text)
    if entry.failed:
        verb = "clip failed and counts" if entry.failed == 1 else "clips failed and count"
        texts.append(f"{entry.failed} {verb} nowhere; `error` in their rows says why")
    for metric, count in entry.undefined.items():
        label = metric_info(metric).label
        texts.append(f"{label} is not defined, and left out of the mean, on {count} of {entry.clips} clips")
    return texts


def _left_out_of_plots(summary: Summary) -> str:
    """Report the metrics that the plots leave out."""
    informative = informative_metrics(summary)
    left_out = [name for name in summary.metrics if name not in informative]
    labels = [f"{metric_info(name).label} ({format_value(name, metric_info(name).chance or 0)})" for name in left_out]
    if not labels:
        return ""
    return f"Not drawn, because no setting is better than chance (the number in brackets): {', '.join(labels)}."


def _score_cells(metric: str, score: Score) -> list[str]:
    cells = [format_value(metric, score.value)]
    for interval in (score.clips, score.speakers):
        low = format_value(metric, interval.low)
        cells.append(f"{low} to {format_value(metric, interval.high)}" if math.isfinite(interval.low) else low)
    return cells


def _is_defined(score: Score) -> bool:
    return math.isfinite(score.value)


# -------------------------------------------------------------------------------------------------------------- plots


def plot_quality(summary: Summary, against: str = "bitrate_kbps", shown: Sequence[str] | None = None) -> "Figure":
    """Plot metrics (by default up to six of the `informative_metrics`) against "bitrate_kbps" or "frame_rate_hz".

    In a panel for each metric every system and setting is a point with its interval over speakers (over clips where
    there is one speaker). Lines join settings of a system that differ in rate alone. Against bitrate a grey line joins
    the settings that no other beats at as few bits. The recordings' value is dashed.
    """
    from matplotlib.figure import Figure

    coded = [entry for entry in summary.entries if entry.is_coded]
    shown = panel_metrics(informative_metrics(summary)) if shown is None else list(shown)
    if not coded or against not in AXES or not shown or set(shown) - set(summary.metrics):
        raise ValueError(
            f"there is nothing to draw of {', '.join(shown) or 'no metric'} against {against} for {len(coded)} "
            f"settings; metrics are {', '.join(summary.metrics)}, axes {', '.join(AXES)}"
        )
    # Panels, with one legend below all of them.
    num_columns = 2 if len(shown) == 4 else min(3, len(shown))
    num_rows = math.ceil(len(shown) / num_columns)
    size = (10.0 * max(num_columns, 2) / 3, 0.9 + 2.9 * num_rows)  # inches; 1300 pixels wide with three columns
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    panels = figure.subplots(num_rows, num_columns, squeeze=False).flat
    truth = next((entry for entry in summary.entries if entry.system == GROUND_TRUTH), None)
    handles: dict[str, Any] = {}
    for axes, metric in zip(panels, shown, strict=False):
        _draw_panel(axes, coded, metric, against)
        if truth is not None and metric_kind(metric) in NOT_PERFECT and _is_defined(truth.scores[metric]):
            height = truth.scores[metric].value * metric_info(metric).scale
            axes.axhline(height, color="0.35", linestyle="--", linewidth=1.1, label="recordings")
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)  # the line's before that of its intervals
    for axes in panels[len(shown) :]:
        axes.axis("off")
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def panel_metrics(names: Sequence[str]) -> list[str]:
    """Choose metrics to draw: one of each kind, in the order of `PANEL_KINDS`."""
    first_of_kind = {metric_kind(name): name for name in reversed(names)}
    return [first_of_kind[kind] for kind in PANEL_KINDS if kind in first_of_kind][:MAX_PANELS]


def informative_metrics(summary: Summary) -> list[str]:
    """List the metrics that are not `uninformative_metrics`, or all where there are no others."""
    uninformative = uninformative_metrics(summary)
    return [name for name in summary.metrics if name not in uninformative] or summary.metrics


def uninformative_metrics(summary: Summary) -> list[str]:
    """List the metrics by which no coded setting is better than chance (`MetricInfo.chance`)."""
    coded = [entry for entry in summary.entries if entry.is_coded]
    names = []
    for name in summary.metrics:
        info = metric_info(name)
        values = [entry.scores[name].value for entry in coded if _is_defined(entry.scores[name])]
        if info.chance is None or not values:
            continue
        if (max(values) <= info.chance) if info.higher_is_better else (min(values) >= info.chance):
            names.append(name)
    return names


def pareto_front(points: Sequence[tuple[float, float]], higher_is_better: bool) -> list[tuple[float, float]]:
    """Keep the points (cost, quality) that no cheaper or equally cheap one reaches, cheapest first."""
    sign = 1 if higher_is_better else -1
    front: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda point: (point[0], -sign * point[1])):
        if not front or sign * quality > sign * front[-1][1]:
            front.append((cost, quality))
    return front


def _draw_panel(axes: "Axes", entries: Sequence[Entry], metric: str, against: str) -> None:
    info = metric_info(metric)
    defined = {}
    for entry in entries:
        if _is_defined(entry.scores[metric]) and _is_defined(entry.scores[against]):
            defined[entry.name] = entry
    # Best quality for the bits, behind everything else.
    if against == "bitrate_kbps":
        points = [(entry.scores[against].value, entry.scores[metric].value * info.scale) for entry in defined.values()]
        front = pareto_front(points, bool(info.higher_is_better))
        if len(front) > 1:
            axes.plot(*zip(*front, strict=True), color="0.83", linewidth=6, zorder=0, label="best for its bits")
    # Settings with their intervals, a line each; colour by system (or line, with one system), marker by codebooks.
    systems = list(dict.fromkeys(entry.system for entry in entries))
    counts = sorted({entry.asked.get("codebooks") or 0 for entry in entries})
    lines = _lines(entries)
    for index, (name, line) in enumerate(lines.items()):
        asked = line[-1].asked
        colour = systems.index(line[0].system) if len(systems) > 1 else index
        style: dict[str, Any] = {"markersize": 4.5, "linewidth": 1.1}
        style["color"] = COLOURS[colour % len(COLOURS)]
        style["marker"] = MARKERS[counts.index(asked.get("codebooks") or 0) % len(MARKERS)]
        style["linestyle"] = ":" if asked.get("policy") else "-"
        shift = 1.0
        if against == "frame_rate_hz":
            shift += DODGE * (index - (len(lines) - 1) / 2) / len(lines)
        drawn = [entry for entry in line if entry.name in defined]
        drawn.sort(key=lambda entry: entry.scores[against].value)
        places = [entry.scores[against].value for entry in drawn]
        intervals = [_drawn_interval(entry.scores[metric]) for entry in drawn]
        values = [interval.value * info.scale for interval in intervals]
        below = [abs(interval.value - interval.low) * info.scale for interval in intervals]
        above = [abs(interval.value - interval.high) * info.scale for interval in intervals]
        if drawn:
            # Points where they were measured; their intervals beside those of the same rate.
            axes.plot(places, values, label=name, **style)
            shifted = [place * shift for place in places]
            bars = {"color": style["color"], "linestyle": "", "elinewidth": 1.0, "capsize": 2}
            axes.errorbar(shifted, values, (below, above), label=name, **bars)
    # Title and axes.
    direction = "higher" if info.higher_is_better else "lower"
    axes.set_title(f"{info.label}, {direction} is better", fontsize=8.5)
    axes.set_xlabel(AXES[against], fontsize=8)
    axes.tick_params(labelsize=8)
    rates = [entry.scores[against].value for entry in entries]
    if against == "bitrate_kbps" or max(rates) > LOG_RATIO * min(rates):
        _use_log_axis(axes)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)


def _drawn_interval(score: Score) -> Interval:
    """Choose the interval over speakers, or over clips, or the number alone."""
    for interval in (score.speakers, score.clips):
        if math.isfinite(interval.low):
            return interval
    return replace(score.clips, low=score.value, high=score.value)


def _lines(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Group entries by the line that joins them: system, codebooks and sort of rate; system and rate if it has one."""
    # Systems with one rate are a single point for each number of codebooks, so these are joined.
    rates: dict[str, set[tuple[Any, ...]]] = {}
    for entry in entries:
        rate = tuple(entry.asked.get(name) for name in ("frame_rate", "threshold", "policy"))
        rates.setdefault(entry.system, set()).add(rate)
    lines: dict[str, list[Entry]] = {}
    for entry in entries:
        frame_rate, threshold, policy = (entry.asked.get(name) for name in ("frame_rate", "threshold", "policy"))
        codebooks = entry.asked.get("codebooks")
        parts = [entry.system]
        if len(rates[entry.system]) == 1 and frame_rate is not None:
            parts.append(f"{frame_rate:g} Hz")
        else:
            if codebooks is not None:
                parts.append(f"{codebooks} codebook{'s' * (codebooks != 1)}")
            if policy or threshold is not None:
                parts.append(policy or "tau")
        lines.setdefault(", ".join(parts), []).append(entry)
    return lines


def _use_log_axis(axes: "Axes") -> None:
    """Make the horizontal axis logarithmic, with plain numbers instead of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
