"""From rows to numbers one can quote: means and pooled rates with intervals, and paired differences between systems.

Every number has two bootstrap intervals (10,000 resamples, percentile): over clips, and over speakers with their
clips, which is the wider and the safer one where speakers are few. Differences are paired: clip by clip, on the same
resamples. Intervals are each at their own level; many of them at once will not all cover.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from flexicodec.evaluation import metrics
from flexicodec.evaluation.rows import Row
from flexicodec.evaluation.systems import GROUND_TRUTH
from flexicodec.statistics import Interval, clusters, num_speakers
from flexicodec.statistics.ratios import Resamples

Columns = Float[np.ndarray, "2 items"]  # above and below the line


@dataclass(frozen=True)
class Score:
    """A number with its intervals.

    Attributes:
        clips: Interval over clips.
        speakers: Interval over speakers, and clips within them; without ends where fewer than two speakers are known.
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
        heard: Clips that an error rate rests on, by its name: those with a text that the recogniser was to hear.
        empty: Of them, those whose text has no words once normalised: all that is heard there is inserted.
        corpora: Metrics by corpus, without intervals.
    """

    system: str
    setting: str
    asked: dict[str, Any]
    clips: int
    failed: int
    scores: dict[str, Score]
    undefined: dict[str, int]
    heard: dict[str, int]
    empty: dict[str, int]
    corpora: dict[str, dict[str, float]]

    @property
    def group(self) -> tuple[str, str]:
        """System and setting, apart."""
        return self.system, self.setting

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
        comparisons: Paired differences, see `opponents`.
        speakers: How many are known.
        remarks: What else has to be said about the numbers.
    """

    run: Mapping[str, Any]
    metrics: list[str]
    entries: list[Entry]
    comparisons: list[Comparison]
    speakers: int
    remarks: tuple[str, ...] = ()

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
        speakers = [row.get("speaker") for row in first.values()]
        self.speakers = num_speakers(speakers)
        drawn = clusters(speakers, list(first)) or [""] * len(first)  # a single cluster has no interval
        self.corpora = [row.get("corpus") for row in first.values()]
        self.groups: dict[tuple[str, str], list[Row]] = {}
        for row in rows:
            self.groups.setdefault((row["system"], row["setting"]), []).append(row)
        self.draws = [Resamples.draw(len(self.clips), units, resamples, level, seed) for units in (None, drawn)]

    def columns(self, group: tuple[str, str], metric: str) -> Columns:
        """What each clip adds above and below the line; NaN where it failed or the metric is not defined."""
        parts = np.full((2, len(self.clips)), np.nan)
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
            count = np.nansum(below[inside])
            found[corpus] = float(np.nansum(above[inside]) / count) if count else math.nan
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
    comparisons = [
        Comparison(name, entry.name, other.name, table.difference(entry.group, other.group, name))
        for entry in entries
        for other in opponents(entry, entries)
        for name in [*names, "bitrate_kbps"]
    ]
    return Summary(run, names, entries, comparisons, table.speakers)


def opponents(entry: Entry, entries: Sequence[Entry]) -> list[Entry]:
    """What an entry is compared with.

    Of its own system: the first rate with as many codebooks, the first way to spend the same rate on as many codebooks,
    and the most codebooks at the same rate. Of the systems before its own: the first that has the same setting, or else
    what the first of them all has at the nearest measured bitrate.
    """
    coded = [each for each in entries if each.system != GROUND_TRUTH]
    if entry not in coded:
        return []
    own = [each for each in coded if each.system == entry.system]
    alike = [each for each in own if _codebooks(each) == _codebooks(entry)]
    found = [alike[0], next(each for each in alike if _rate(each)[:2] == _rate(entry)[:2])]
    found.append(max((each for each in own if _rate(each) == _rate(entry)), key=_codebooks))
    before = coded[: coded.index(own[0])]
    same = [each for each in before if each.setting == entry.setting and each.system != entry.system]
    found += same[:1] or _nearest(entry, [each for each in before if each.system == before[0].system])
    names = dict.fromkeys(each.name for each in found if each.name != entry.name)
    return [next(each for each in found if each.name == name) for name in names]


def _rate(entry: Entry) -> tuple[Any, Any, Any]:
    asked = entry.asked
    return asked.get("frame_rate"), asked.get("threshold"), asked.get("policy")


def _codebooks(entry: Entry) -> int:
    count = entry.asked.get("codebooks")
    return -1 if count is None else int(count)


def _nearest(entry: Entry, others: Sequence[Entry]) -> list[Entry]:
    """Find the other of the nearest bitrate, as a ratio; none where nothing was measured."""

    def kbps(each: Entry) -> float:
        return each.scores["bitrate_kbps"].value

    there = [each for each in others if kbps(each) > 0] if kbps(entry) > 0 else []
    return [min(there, key=lambda each: abs(math.log(kbps(each) / kbps(entry))))] if there else []


def _entry(table: Table, group: tuple[str, str], names: Sequence[str]) -> Entry:
    rows = table.groups[group]
    measured = [row for row in rows if "error" not in row]
    scores = {name: table.score(group, name) for name in [*metrics.RATES, *names]}
    plain = [name for name in names if name.partition(".")[0] not in metrics.COUNTS]
    undefined = {name: sum(math.isnan(metrics.fraction(row, name)[1]) for row in measured) for name in plain}
    errors = [name for name in names if name not in plain]
    lengths = {name: [metrics.fraction(row, name)[1] for row in measured] for name in errors}
    heard = {name: sum(length >= 0 for length in found) for name, found in lengths.items()}
    empty = {name: sum(length == 0 for length in found) for name, found in lengths.items()}
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
        heard=heard,
        empty={name: count for name, count in empty.items() if count},
        corpora=corpora,
    )
