"""From rows to a summary: means and pooled rates with intervals, and paired differences between systems.

Every number has two bootstrap intervals (10,000 resamples, percentile): over clips, and over speakers with their clips,
which is the wider and the safer one where speakers are few. Differences are paired: clip by clip, on the same
resamples. Intervals are each at their own level and not corrected for how many there are.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas
from jaxtyping import Float

from flexicodec.evaluation.results_store import Row
from flexicodec.evaluation.systems import GROUND_TRUTH
from flexicodec.statistics import Interval, Resamples, num_speakers, speaker_clusters


class MetricInfo(NamedTuple):
    """How a metric is shown in tables and plots."""

    label: str  # with its unit
    digits: int = 3  # decimals
    higher_is_better: bool | None = None  # None for rates
    chance: float | None = None  # a value that is as good as nothing
    scale: float = 1.0  # from stored to shown values


RATES = {
    "frame_rate_hz": MetricInfo("Hz", 2),
    "bitrate_kbps": MetricInfo("kbps"),
    "bitrate_mask_kbps": MetricInfo("kbps, durations as a mask"),
    "bitrate_entropy_kbps": MetricInfo("kbps, durations coded"),
    "file_kbps": MetricInfo("kbps of files"),
    "entropy_kbps": MetricInfo("kbps, entropy-coded"),
}
NEW_RATES = ("bitrate_mask_kbps", "bitrate_entropy_kbps")  # which rows of older runs lack
# By kind: the name of a model's metric is KIND.SPEC, as in wer.ctc:recognizer-mini. An empty transcript has an error
# rate of 1, and PESQ ends a little above 1.
METRICS = RATES | {
    "stoi": MetricInfo("STOI", 3, True),
    "estoi": MetricInfo("ESTOI", 3, True),
    "pesq_wb": MetricInfo("PESQ-WB", 2, True, chance=1.05),
    "pesq_nb": MetricInfo("PESQ-NB", 2, True, chance=1.05),
    "si_sdr_db": MetricInfo("SI-SDR, dB", 2, True),
    "mel_distance": MetricInfo("mel distance", 3, False),
    "mcd_db": MetricInfo("MCD, dB", 2, False),
    "mcd_dtw_db": MetricInfo("MCD-DTW, dB", 2, False),
    "visqol": MetricInfo("ViSQOL", 2, True),
    "f0_cents": MetricInfo("F0 error, cents", 0, False),
    "vuv_error": MetricInfo("voicing error", 3, False),
    "wer": MetricInfo("WER, %", 1, False, chance=0.95, scale=100),
    "cer": MetricInfo("CER, %", 1, False, chance=0.95, scale=100),
    "similarity": MetricInfo("similarity", 3, True),
    "utmos": MetricInfo("UTMOS", 2, True),
    "distillmos": MetricInfo("Distill-MOS", 2, True),
    "dnsmos_ovrl": MetricInfo("DNSMOS overall", 2, True),
    "dnsmos_sig": MetricInfo("DNSMOS speech", 2, True),
    "dnsmos_bak": MetricInfo("DNSMOS background", 2, True),
    "dnsmos_p808": MetricInfo("DNSMOS P.808", 2, True),
    "unit_edit": MetricInfo("unit edit distance", 3, False),
    "boundary_f1": MetricInfo("boundary F1", 3, True),
    "acoustic_agreement": MetricInfo("equal acoustic codes", 3, True),
    "boundary_margin": MetricInfo("median boundary margin", 4, True),
    "semantic_margin": MetricInfo("median semantic margin", 4, True),
}
# Kinds that score a clip by itself, so that the recording's own score is what to compare with.
WITHOUT_REFERENCE = ("wer", "cer", "utmos", "distillmos", "dnsmos_ovrl", "dnsmos_sig", "dnsmos_bak", "dnsmos_p808")
OF_TOKENS = ("unit_edit", "boundary_f1", "acoustic_agreement", "boundary_margin", "semantic_margin")
NO_JUDGE = ("recognizer-mini", "ctc:recognizer-mini")  # wrong so often that such a difference says nothing
ERROR_COUNTS = {"wer": ("word_errors", "words"), "cer": ("character_errors", "characters")}  # within a transcript


def metric_kind(metric: str) -> str:
    """Return the name of a metric without the spec of its model."""
    return metric.partition(".")[0]


def metric_info(metric: str) -> MetricInfo:
    """Look up how a metric is shown; a model's metric has the spec in its label."""
    kind, _, spec = metric.partition(".")
    info = METRICS[kind]
    return info._replace(label=f"{info.label} ({spec})") if spec else info


def format_value(metric: str, value: float) -> str:
    """Format a value for tables: error rates in percent, a dash for NaN."""
    info = metric_info(metric)
    return "–" if math.isnan(value) else f"{value * info.scale:.{info.digits}f}"


# ------------------------------------------------------------------------------------------------------------ summary


@dataclass(frozen=True)
class Score:
    """A number with its two intervals."""

    clips: Interval  # over clips
    speakers: Interval  # over speakers with their clips; its ends are NaN where fewer than two speakers are known

    @property
    def value(self) -> float:
        """The number itself."""
        return self.clips.value


@dataclass(frozen=True)
class Entry:
    """One system at one setting; the fields are those of `summary.json`."""

    system: str
    setting: str  # its label
    asked: dict[str, Any]  # the fields of `systems.Setting`
    clips: int  # that were measured
    failed: int  # that could not be measured
    scores: dict[str, Score]  # metrics and rates by name
    undefined: dict[str, int]  # by metric, measured clips on which it is not defined (PESQ without speech)
    heard: dict[str, int]  # transcribed clips by error rate (this name is in summary.json): with a text in its language
    empty: dict[str, int]  # by error rate, transcribed clips whose text has no words: all errors are insertions
    corpora: dict[str, dict[str, float]]  # metrics by corpus, without intervals

    @property
    def name(self) -> str:
        """System and setting."""
        return f"{self.system}, {self.setting}" if self.setting else self.system

    @property
    def is_coded(self) -> bool:
        """Whether this is a codec and not the recordings, with at least one clip."""
        return self.system != GROUND_TRUTH and self.clips > 0


@dataclass(frozen=True)
class Comparison:
    """Difference of a metric between two entries, over the clips on which both are defined."""

    metric: str
    entry: str
    against: str
    difference: Score


@dataclass(frozen=True)
class Summary:
    """Summary of a run; the fields are those of `summary.json`."""

    run: Mapping[str, Any]  # content of `run.json`
    metrics: list[str]  # their names, in order
    entries: list[Entry]  # ground truth first, then in the order of the rows
    comparisons: list[Comparison]  # see `comparison_pairs`
    speakers: int  # number of known speakers
    remarks: tuple[str, ...] = ()  # further notes on the numbers
    recordings: list[Comparison] = field(default_factory=list)  # differences from the recordings, see there

    def find(self, name: str) -> Entry:
        """Return an entry by its name."""
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise ValueError(f"there is no {name!r}; there are {'; '.join(entry.name for entry in self.entries)}")


class MetricTable:
    """Rows of several systems and settings as data frames, with the resamples that all intervals share.

    `clips` has speaker and corpus by clip id. `groups` has the rows of each system and setting by clip id; what is
    nested in a row is a column of its own there (transcripts.SPEC.words).
    """

    def __init__(self, rows: Sequence[Row], resamples: int = 10_000, level: float = 0.95, seed: int = 0):
        if not rows:
            raise ValueError("there are no rows to summarise")
        frame = pandas.json_normalize(list(rows))
        for column in ("speaker", "corpus", "error", "coded_seconds"):
            if column not in frame:
                frame[column] = None
        frame["coded_seconds"] = frame["coded_seconds"].astype(float).fillna(frame["seconds"])
        self.clips = frame.drop_duplicates("id").set_index("id")[["speaker", "corpus"]]
        self.groups: dict[tuple[str, str], pandas.DataFrame] = {
            group: part.set_index("id") for group, part in frame.groupby(["system", "setting"], sort=False)
        }
        speakers = [None if pandas.isna(speaker) else speaker for speaker in self.clips["speaker"]]
        self.num_speakers = num_speakers(speakers)
        by_speaker = speaker_clusters(speakers, list(self.clips.index)) or [""] * len(
            speakers
        )  # one cluster has no interval
        self._over_clips = Resamples.sample(len(speakers), None, resamples, level, seed)
        self._over_speakers = Resamples.sample(len(speakers), by_speaker, resamples, level, seed)

    def terms(self, group: tuple[str, str], metric: str) -> pandas.DataFrame:
        """Return what each row of a group adds to the numerator and the denominator of a metric; NaN if nothing.

        A metric of a corpus is the ratio of the two sums. A mean sums value and 1, an error rate errors and words, a
        rate tokens (or kilobits) and seconds. A reference without words adds its insertions and 0.
        """
        rows = self.groups[group]
        kind, _, spec = metric.partition(".")
        if kind in ERROR_COUNTS:
            errors, length = (f"transcripts.{spec}.{name}" for name in ERROR_COUNTS[kind])
            terms = rows.reindex(columns=[errors, length])
            terms.columns = ["numerator", "denominator"]
            return terms.astype(float)
        values = rows.reindex(columns=[metric])[metric].astype(float)
        weights = rows["coded_seconds"] if metric in RATES else pandas.Series(1.0, rows.index)
        return pandas.DataFrame({"numerator": values * weights, "denominator": weights.where(values.notna())})

    def score(self, group: tuple[str, str], metric: str) -> Score:
        """Compute a metric of a group with its intervals."""
        numerator, denominator = self._columns(group, metric)
        return Score(self._over_clips.ratio(numerator, denominator), self._over_speakers.ratio(numerator, denominator))

    def difference(self, group: tuple[str, str], against: tuple[str, str], metric: str) -> Score:
        """Compute by how much a metric of a group exceeds that of another, paired over the clips that both have."""
        pairs = np.stack([self._columns(group, metric), self._columns(against, metric)], axis=1)
        return Score(self._over_clips.difference(*pairs), self._over_speakers.difference(*pairs))

    def by_corpus(self, group: tuple[str, str], metric: str) -> dict[str, float]:
        """Compute a metric of a group on each corpus alone; NaN where nothing is defined."""
        numerator, denominator = self._columns(group, metric)
        values = {}
        for corpus in self.clips["corpus"].dropna().unique():
            inside = (self.clips["corpus"] == corpus).to_numpy()
            total = np.nansum(denominator[inside])
            values[corpus] = float(np.nansum(numerator[inside]) / total) if total else math.nan
        return values

    def _columns(self, group: tuple[str, str], metric: str) -> Float[np.ndarray, "2 clips"]:
        """Align the terms of a group with `clips`."""
        return self.terms(group, metric).reindex(self.clips.index).to_numpy().T


def summarise(
    rows: Sequence[Row], run: Mapping[str, Any], resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> Summary:
    """Summarise all rows of a run; `run` is the content of `run.json`."""
    table = MetricTable(rows, resamples, level, seed)
    asked = {(row["system"], row["setting"]): row.get("asked") or {} for row in rows}
    names = list(run["names"])
    entries = [_entry(table, group, names, asked[group]) for group in table.groups]
    comparisons = []
    for entry in entries:
        for other in comparison_pairs(entry, entries):
            for name in [*names, "bitrate_kbps"]:
                difference = table.difference((entry.system, entry.setting), (other.system, other.setting), name)
                comparisons.append(Comparison(name, entry.name, other.name, difference))
    recordings = _against_recordings(table, entries, names)
    return Summary(run, names, entries, comparisons, table.num_speakers, recordings=recordings)


def _against_recordings(table: MetricTable, entries: Sequence[Entry], names: Sequence[str]) -> list[Comparison]:
    """Compare scores that need no reference (error rates, opinion scores) with those of the recordings themselves."""
    recordings = [entry for entry in entries if entry.system == GROUND_TRUTH]
    if not recordings:
        return []
    original = recordings[0]
    comparisons = []
    for entry in entries:
        for name in names:
            kind, _, spec = name.partition(".")
            if entry.system != GROUND_TRUTH and kind in WITHOUT_REFERENCE and spec not in NO_JUDGE:
                difference = table.difference((entry.system, entry.setting), (GROUND_TRUTH, original.setting), name)
                comparisons.append(Comparison(name, entry.name, original.name, difference))
    return comparisons


def _entry(table: MetricTable, group: tuple[str, str], names: Sequence[str], asked: dict[str, Any]) -> Entry:
    is_measured = table.groups[group]["error"].isna()
    num_measured = int(is_measured.sum())
    undefined: dict[str, int] = {}
    heard: dict[str, int] = {}
    empty: dict[str, int] = {}
    for name in names:
        lengths = table.terms(group, name)["denominator"][is_measured]
        num_undefined = int(lengths.isna().sum())
        num_empty = int((lengths == 0).sum())
        if metric_kind(name) in ERROR_COUNTS:
            heard[name] = num_measured - num_undefined
            if num_empty:
                empty[name] = num_empty
        elif num_undefined and not (num_undefined == num_measured and metric_kind(name) in OF_TOKENS):
            undefined[name] = num_undefined
    rates = [name for name in RATES if name not in NEW_RATES or name in table.groups[group]]
    return Entry(
        system=group[0],
        setting=group[1],
        asked=asked,
        clips=num_measured,
        failed=len(is_measured) - num_measured,
        scores={name: table.score(group, name) for name in [*rates, *names]},
        undefined=undefined,
        heard=heard,
        empty=empty,
        corpora=pandas.DataFrame({name: table.by_corpus(group, name) for name in names}).to_dict("index"),
    )


# -------------------------------------------------------------------------------------------------------- comparisons


def comparison_pairs(entry: Entry, entries: Sequence[Entry]) -> list[Entry]:
    """List the entries that an entry is compared with.

    Of its own system: the first rate with as many codebooks, the first policy at the same rate and with as many
    codebooks, and the most codebooks at the same rate. Of the systems before its own: the first that has the same
    setting, or else the first system's setting of the nearest measured bitrate.
    """
    coded = [other for other in entries if other.system != GROUND_TRUTH]
    if entry not in coded:
        return []
    own = [other for other in coded if other.system == entry.system]
    same_codebooks = [other for other in own if _codebooks(other) == _codebooks(entry)]
    pairs = [same_codebooks[0]]
    pairs.append(next(other for other in same_codebooks if _rate(other)[:2] == _rate(entry)[:2]))
    pairs.append(max((other for other in own if _rate(other) == _rate(entry)), key=_codebooks))
    earlier = coded[: coded.index(own[0])]
    same_setting = [other for other in earlier if other.setting == entry.setting and other.system != entry.system]
    if same_setting:
        pairs.append(same_setting[0])
    else:
        pairs += _nearest_bitrate(entry, [other for other in earlier if other.system == earlier[0].system])
    by_name: dict[str, Entry] = {}
    for other in pairs:
        if other.name != entry.name:
            by_name.setdefault(other.name, other)
    return list(by_name.values())


def _rate(entry: Entry) -> tuple[Any, Any, Any]:
    return entry.asked.get("frame_rate"), entry.asked.get("threshold"), entry.asked.get("policy")


def _codebooks(entry: Entry) -> int:
    count = entry.asked.get("codebooks")
    return -1 if count is None else int(count)


def _nearest_bitrate(entry: Entry, others: Sequence[Entry]) -> list[Entry]:
    """Find the other entry of the nearest bitrate, as a ratio; none where nothing was measured."""
    kbps = entry.scores["bitrate_kbps"].value
    candidates = [other for other in others if other.scores["bitrate_kbps"].value > 0]
    if not candidates or not kbps > 0:
        return []
    return [min(candidates, key=lambda other: abs(math.log(other.scores["bitrate_kbps"].value / kbps)))]
