"""From rows to numbers one can quote: means and pooled rates with intervals, and paired differences between systems.

Every number has two bootstrap intervals (10,000 resamples, percentile): over clips, and over speakers with their
clips, which is the wider and the safer one where speakers are few. Differences are paired: clip by clip, on the same
resamples. Intervals are each at their own level; many of them at once will not all cover.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from flexicodec.evaluation import metrics
from flexicodec.evaluation.rows import Row
from flexicodec.evaluation.systems import GROUND_TRUTH
from flexicodec.statistics import Interval
from flexicodec.statistics.ratios import Resamples

Columns = Float[np.ndarray, "2 items"]  # above and below the line


@dataclass(frozen=True)
class Score:
    """A number with its intervals.

    Attributes:
        clips: Interval over clips.
        speakers: Interval over speakers, and clips within them; without ends where there is one speaker.
    """

    clips: Interval
    speakers: Interval

    @property
    def value(self) -> float:
        """The number."""
        return self.clips.value


@dataclass(frozen=True)
class Entry:
    """One system at one setting.

    Attributes:
        system: Its name.
        setting: Label of the setting.
        asked: What was asked of it, see `Setting`.
        clips: Clips that were measured.
        failed: Clips that could not be.
        scores: Metrics and rates by name.
        undefined: Clips that were measured and on which a metric is not defined (PESQ where it finds no speech, say).
        corpora: Metrics by corpus, without intervals.
    """

    system: str
    setting: str
    asked: dict[str, Any]
    clips: int
    failed: int
    scores: dict[str, Score]
    undefined: dict[str, int]
    corpora: dict[str, dict[str, float]]

    @property
    def name(self) -> str:
        """System and setting."""
        return f"{self.system}, {self.setting}" if self.setting else self.system


@dataclass(frozen=True)
class Comparison:
    """By how much one entry exceeds another, over the clips on which both are defined."""

    metric: str
    entry: str
    against: str
    difference: Score


@dataclass(frozen=True)
class Summary:
    """A run in numbers.

    Attributes:
        run: What was measured how, as in `run.json`.
        metrics: Their names, in order.
        entries: Ground truth first, then as the rows have them.
        comparisons: Each entry against the first system at the same setting, and against the first setting of its own.
        speakers: How many there are.
    """

    run: Mapping[str, Any]
    metrics: list[str]
    entries: list[Entry]
    comparisons: list[Comparison]
    speakers: int

    def find(self, name: str) -> Entry:
        """Return an entry by its name.

        Raises:
            ValueError: There is none; the message lists those that there are.
        """
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise ValueError(f"there is no {name!r}; there are {'; '.join(entry.name for entry in self.entries)}")

    def as_dict(self) -> dict[str, Any]:
        """The summary as JSON-able values."""
        return asdict(self)


class Table:
    """Rows as columns: for every entry and metric the parts of a ratio, clip by clip, with resamples to draw on.

    Args:
        rows: Of any number of systems and settings, on the same clips.
        resamples: How many to draw.
        level: Of confidence.
        seed: Of the drawing.

    Raises:
        ValueError: No rows.
    """

    def __init__(self, rows: Sequence[Row], resamples: int = 10_000, level: float = 0.95, seed: int = 0):
        if not rows:
            raise ValueError("there are no rows to summarise")
        first = {row["id"]: row for row in rows}
        self.clips = {each: index for index, each in enumerate(first)}
        speakers = [row.get("speaker") or f"clip {each}" for each, row in first.items()]
        self.speakers = len(set(speakers))
        self.corpora = [row.get("corpus") for row in first.values()]
        self.groups: dict[tuple[str, str], list[Row]] = {}
        for row in rows:
            self.groups.setdefault((row["system"], row["setting"]), []).append(row)
        self.draws = [
            Resamples.draw(len(self.clips), clusters, resamples, level, seed) for clusters in (None, speakers)
        ]

    def columns(self, group: tuple[str, str], metric: str) -> Columns:
        """What each clip adds above and below the line; nothing where it failed or the metric is not defined."""
        parts = np.zeros((2, len(self.clips)))
        for row in self.groups[group]:
            parts[:, self.clips[row["id"]]] = metrics.fraction(row, metric)
        return parts

    def score(self, group: tuple[str, str], metric: str) -> Score:
        """Find a metric of an entry."""
        above, below = self.columns(group, metric)
        return Score(*(draws.ratio(above, below) for draws in self.draws))

    def difference(self, group: tuple[str, str], against: tuple[str, str], metric: str) -> Score:
        """Find by how much an entry exceeds another in a metric."""
        above, below = np.stack([self.columns(group, metric), self.columns(against, metric)], axis=1)
        return Score(*(draws.difference(above, below) for draws in self.draws))

    def by_corpus(self, group: tuple[str, str], metric: str) -> dict[str, float]:
        """Find a metric of an entry on each corpus by itself."""
        above, below = self.columns(group, metric)
        found = {}
        for corpus in dict.fromkeys(each for each in self.corpora if each is not None):
            inside = np.array([each == corpus for each in self.corpora])
            count = below[inside].sum()
            found[corpus] = float(above[inside].sum() / count) if count else float("nan")
        return found


def summarise(
    rows: Sequence[Row], run: Mapping[str, Any], resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> Summary:
    """Summarise the rows of a run.

    Args:
        rows: All of them.
        run: What `run.json` holds.
        resamples: For every interval.
        level: Of confidence.
        seed: Of the drawing.
    """
    table, names = Table(rows, resamples, level, seed), list(run["names"])
    entries = [_entry(table, group, names) for group in table.groups]
    pairs = [(group, other) for group in table.groups for other in opponents(group, list(table.groups))]
    comparisons = [
        Comparison(name, _name(group), _name(other), table.difference(group, other, name))
        for group, other in pairs
        for name in [*names, "bitrate_kbps"]
    ]
    return Summary(run, names, entries, comparisons, table.speakers)


def opponents(group: tuple[str, str], groups: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """What an entry is compared with: the first system at the same setting, and its own system's first setting."""
    coded = [each for each in groups if each[0] != GROUND_TRUTH]
    if group not in coded:
        return []
    same = next((each for each in coded if each[1] == group[1]), group)
    own = next(each for each in coded if each[0] == group[0])
    return [each for each in dict.fromkeys([same, own]) if each != group]


def _entry(table: Table, group: tuple[str, str], names: Sequence[str]) -> Entry:
    rows = table.groups[group]
    measured = [row for row in rows if "error" not in row]
    scores = {name: table.score(group, name) for name in [*metrics.RATES, *names]}
    plain = [name for name in names if name.partition(".")[0] not in metrics.COUNTS]
    undefined = {name: sum(metrics.fraction(row, name)[1] == 0 for row in measured) for name in plain}
    by_corpus = {name: table.by_corpus(group, name) for name in names}
    corpora = {
        corpus: {name: by_corpus[name][corpus] for name in names} for corpus in table.by_corpus(group, "frame_rate_hz")
    }
    return Entry(
        system=group[0],
        setting=group[1],
        asked=rows[0].get("asked") or {},
        clips=len(measured),
        failed=len(rows) - len(measured),
        scores=scores,
        undefined={name: count for name, count in undefined.items() if count},
        corpora=corpora,
    )


def _name(group: tuple[str, str]) -> str:
    return ", ".join(part for part in group if part)
