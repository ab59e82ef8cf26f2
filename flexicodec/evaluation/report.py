"""A summary as files: `summary.json` for programs, `summary.md` and two pictures for people."""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from flexicodec.evaluation import metrics
from flexicodec.evaluation.plots import CHANCE, at_chance, plot_quality, telling
from flexicodec.evaluation.rows import RUN_NAME, as_json, read_rows
from flexicodec.evaluation.summary import Comparison, Score, Summary, summarise
from flexicodec.evaluation.token_files import with_entropy
from flexicodec.io_utils import replacing
from flexicodec.statistics import Interval

SUMMARY_NAME, REPORT_NAME = "summary.json", "summary.md"
PICTURES = {"bitrate_kbps": "bitrate.png", "frame_rate_hz": "frame_rate.png"}


def write_report(folder: str | Path, resamples: int = 10_000, more: Callable[[Summary], str] | None = None) -> Summary:
    """Summarise the rows of a results folder and write what is said above into it.

    Args:
        folder: That `evaluate_corpus` wrote to.
        resamples: For every interval.
        more: Writes Markdown to put after the first table.

    Raises:
        FileNotFoundError: The folder holds no results.
        ValueError: It holds no rows.
    """
    folder = Path(folder)
    run = json.loads((folder / RUN_NAME).read_text(encoding="utf-8"))
    rows, left_out = with_entropy(folder, read_rows(folder), run)
    summary = replace(summarise(rows, run, resamples), remarks=tuple(left_out))
    with replacing(folder / SUMMARY_NAME) as part:
        part.write_text(json.dumps(json.loads(as_json(summary.as_dict())), indent=1) + "\n", encoding="utf-8")
    drawn = [entry for entry in summary.entries if entry.asked.get("codebooks") is not None and entry.clips]
    pictures = {against: name for against, name in PICTURES.items() if drawn}
    for against, name in pictures.items():
        with replacing(folder / name) as part:
            plot_quality(summary, against).savefig(part, format="png")
    with replacing(folder / REPORT_NAME) as part:
        part.write_text(markdown(summary, tuple(pictures.values()), more(summary) if more else ""), encoding="utf-8")
    return summary


def markdown(summary: Summary, pictures: Iterable[str] = (), more: str = "") -> str:
    """Write a summary as a page of Markdown."""
    run = summary.run
    parts = [
        "# Evaluation",
        f"{run['clips']} clips of {summary.speakers or 'unknown'} speakers, {run['seconds']:.0f} s. "
        f"Rules: {run['rules']}. Error rates are total errors over total length of clips that have a text; texts "
        f"normalised by `{run['normaliser']}`. Rates are those measured: all tokens over all seconds. "
        f"flexicodec-lab {run['version']}.",
        main_table(summary),
        notes(summary),
        more,
        *(f"![{Path(name).stem}]({name})" for name in pictures),
        _not_drawn(summary) if pictures else "",
        f"## Intervals\n\n{_level(summary)} bootstrap intervals, over clips / over speakers with their clips "
        "(a clip of an unknown speaker by itself; none where fewer than two speakers are known).",
        interval_table(summary),
        "## Paired differences\n\nThe first less the second, over the clips on which both are defined, with the same "
        "two intervals. Better or worse: neither covers 0. Intervals are not widened for how many there are.",
        comparison_table(summary),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def main_table(summary: Summary, shown: Sequence[str] | None = None) -> str:
    """Make the table of all systems and settings, without intervals.

    Args:
        summary: From `summarise`.
        shown: Metrics; all by default.
    """
    columns = [*metrics.RATES, *(summary.metrics if shown is None else shown)]
    columns = [name for name in columns if any(math.isfinite(entry.scores[name].value) for entry in summary.entries)]
    rows = [
        [entry.name, str(entry.clips), *(metrics.show(name, entry.scores[name].value) for name in columns)]
        for entry in summary.entries
    ]
    return table(["system", "clips", *map(metrics.label, columns)], rows)


def notes(summary: Summary) -> str:
    """Say what the numbers rest on: clips with a text, those that failed or do not define a metric, and remarks."""
    lines = _heard(summary) + _failed(summary) + _undefined(summary)
    return "\n".join([*lines, *(f"- {remark}" for remark in summary.remarks)])


def _failed(summary: Summary) -> list[str]:
    """Say what failed."""
    return [
        f"- {entry.name}: {entry.failed} {'clip failed and counts' if entry.failed == 1 else 'clips failed and count'} "
        "nowhere; `error` in their rows says why."
        for entry in summary.entries
        if entry.failed
    ]


def _undefined(summary: Summary) -> list[str]:
    """Say on how many clips each metric is not defined, once for entries that have it alike, and what follows."""
    found: dict[str, dict[str, list[str]]] = {}
    for entry in summary.entries:
        for name, count in entry.undefined.items():
            found.setdefault(name, {}).setdefault(f"{count} of {entry.clips} clips", []).append(entry.name)
    lines = []
    for name, counts in found.items():
        told = [f"{count} ({_names(summary, entries)})" for count, entries in counts.items()]
        lines.append(
            f"- {metrics.label(name)} is not defined, and left out of the mean, on {'; on '.join(told)}."
            + (" These means rest on different clips; paired differences do not." if len(counts) > 1 else "")
        )
    return lines


def _not_drawn(summary: Summary) -> str:
    """Say which metrics the pictures do without."""
    left = [name for name in at_chance(summary) if name not in telling(summary)]
    told = [f"{metrics.label(name)} ({metrics.show(name, CHANCE[name.partition('.')[0]])})" for name in left]
    return (
        f"Not drawn, because no setting is better than chance (the number in brackets): {', '.join(told)}."
        if told
        else ""
    )


def _names(summary: Summary, names: Sequence[str]) -> str:
    return "all rows" if len(names) == len(summary.entries) else "; ".join(names)


def _heard(summary: Summary) -> list[str]:
    """Say on how many clips error rates rest, once for all entries that have it alike."""
    found: dict[str, list[str]] = {}
    for entry in summary.entries:
        for name in (each for each in entry.heard if each.startswith("wer.")):
            text = f"WER/CER ({name.partition('.')[2]}) on {entry.heard[name]} of {entry.clips} clips"
            if without := entry.clips - entry.heard[name]:
                text += f"; {without} have no text in the recogniser's language"
            if empty := entry.empty.get(name, 0):
                text += f"; in {empty} the text has no words, and all that was heard is inserted"
            found.setdefault(text, []).append(entry.name)
    everyone = len(summary.entries)
    return [f"- {'All rows' if len(names) == everyone else '; '.join(names)}: {text}." for text, names in found.items()]


def interval_table(summary: Summary) -> str:
    """Make a table with a row for each number, its interval over clips and that over speakers."""
    rows = [
        [entry.name, metrics.label(name), *_score(name, entry.scores[name])]
        for entry in summary.entries
        for name in [*metrics.RATES, *summary.metrics]
        if math.isfinite(entry.scores[name].value)
    ]
    return table(["system", "metric", "value", "clips", "speakers"], rows)


def comparison_table(summary: Summary) -> str:
    """Make the table of paired differences."""
    rows = [
        [each.entry, each.against, metrics.label(each.metric), *_score(each.metric, each.difference), verdict(each)]
        for each in summary.comparisons
        if math.isfinite(each.difference.value)
    ]
    return table(["first", "second", "metric", "difference", "clips", "speakers", "the first is"], rows) if rows else ""


def verdict(comparison: Comparison) -> str:
    """Say whether the first of two is better or worse, where no interval that there is covers 0; nothing of rates."""
    both = (comparison.difference.clips, comparison.difference.speakers)
    intervals = [interval for interval in both if math.isfinite(interval.low)]
    if comparison.metric in metrics.RATES:
        return ""
    if not intervals or any(interval.covers_zero for interval in intervals):
        return "not clear"
    return "better" if (comparison.difference.value > 0) == metrics.higher_is_better(comparison.metric) else "worse"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def _score(metric: str, score: Score) -> list[str]:
    return [metrics.show(metric, score.value), _interval(metric, score.clips), _interval(metric, score.speakers)]


def _interval(metric: str, interval: Interval) -> str:
    if not math.isfinite(interval.low):
        return "–"
    return f"{metrics.show(metric, interval.low)} to {metrics.show(metric, interval.high)}"


def _level(summary: Summary) -> str:
    levels = {score.clips.level for entry in summary.entries for score in entry.scores.values()}
    return f"{100 * max(levels):g} %"
