"""A study of collected clips: every analysis at every setting, and the results.

An analysis that these clips do not allow (no alignment, too few of them, a rate that never changes) leaves its field
empty, and a note that says why.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from tqdm import tqdm

from flexicodec.analysis import boundary_scores, code_entropy, token_contents
from flexicodec.analysis.acoustic_features import measure_controls
from flexicodec.analysis.clip_rates import (
    ClipRates,
    Over,
    RateTable,
    SpokenClip,
    WithinClip,
    correlatable,
    count_rates,
    within_clip_correlation,
)
from flexicodec.analysis.collect import AnalysisClip, AnalysisData, RateSetting
from flexicodec.analysis.null_codecs import NULLS
from flexicodec.analysis.phone_rate import (
    ExcessOverNull,
    Measure,
    PhoneRate,
    SweepPoint,
    analyze_phone_rate,
    excess_over_null,
    group_correlations,
    threshold_sweep,
)
from flexicodec.analysis.token_timeline import TokenTimeline
from flexicodec.corpus.alignments.alignment import Segment, label_at
from flexicodec.corpus.alignments.phones import syllables
from flexicodec.merging import Threshold
from flexicodec.parallel import bar_settings
from flexicodec.statistics import FittedModel, Interval, Sampling, pearson

Tier = Sequence[Segment]

CURVE_POINTS = 41  # thresholds of the curve of tokens per second
SWEEP_POINTS = 15  # thresholds at which rates are correlated
SWEEP_RATES = (0.2, 0.96)  # lowest and highest corpus rate of the sweep, as shares of the base frame rate
MOST_RESAMPLES = 2000  # for intervals of which there are many


@dataclass(frozen=True)
class StudyOptions:
    """How a study samples and counts.

    Attributes:
        resamples: Bootstrap resamples of correlations and slopes; other intervals take 2,000 at most.
        draws: Samples of each random null codec.
        seed: Of all random numbers.
        counting: Phones that count: "all", "speech" (no silences), "merged" (closures joined to their releases too).
        progress: Show a progress bar.
    """

    resamples: int = 10_000
    draws: int = 10
    seed: int = 0
    counting: str = "speech"
    progress: bool = False


@dataclass
class SettingResults:
    """Results at one setting; fields that the clips do not allow stay empty or None."""

    setting: RateSetting
    frame_rate: Interval  # tokens per second over all clips
    frame_rates: Float[np.ndarray, " clips"]  # tokens per second of each clip
    nominal_kbps: Interval  # bits of all fields per second over all clips
    codes: code_entropy.CodeStudy | None = None  # true bitrate
    digits: code_entropy.DigitStudy | None = None  # of semantic codes of an FSQ

    # What tokens contain
    per_token: dict[str, token_contents.SegmentsPerToken] = field(default_factory=dict)  # by "phones", "words", ...
    durations: list[token_contents.ClassDurations] = field(default_factory=list)
    merged: list[token_contents.MergeProbability] = field(default_factory=list)
    odds: FittedModel | None = None  # of neighbouring frames to be merged

    # Token boundaries against those of phones, syllables and words
    agreement: list[boundary_scores.TierAgreement] = field(default_factory=list)
    information: dict[str, boundary_scores.BoundaryInformation] = field(default_factory=dict)  # by tier

    # Frame rate against phone rate, where the frame rate varies between clips
    phone_rate: dict[str, PhoneRate] = field(default_factory=dict)  # over "speech" and over "all"
    rates: RateTable | None = None  # of the clips that are correlated over speech
    groups: dict[str, Interval] = field(default_factory=dict)  # correlations inside corpora and speakers
    excess: dict[str, dict[str, ExcessOverNull]] = field(default_factory=dict)  # by null codec
    within: WithinClip | None = None  # in windows, where the frame rate does not vary


@dataclass(frozen=True)
class RateCurve:
    """Tokens per second as a function of the threshold: of each clip, and of all clips together."""

    thresholds: Float[np.ndarray, " thresholds"]
    clips: Float[np.ndarray, "thresholds clips"]
    corpus: Float[np.ndarray, " thresholds"]


@dataclass(frozen=True)
class StudyResults:
    """Results of a study."""

    data: AnalysisData
    settings: list[SettingResults]
    curve: RateCurve
    sweep: list[SweepPoint]  # correlation of rates by threshold; empty with too few clips
    split: boundary_scores.FitTestSplit | None  # clips that fitted the offset, and clips that are scored
    notes: list[str]  # analyses that were left out, and why

    @property
    def offset(self) -> float:
        """Seconds by which tokens were moved."""
        return self.split.offset.seconds if self.split else 0.0

    @property
    def fixed(self) -> list[SettingResults]:
        """Settings with one threshold for all clips."""
        return [each for each in self.settings if not each.setting.is_exact]

    @property
    def long_enough(self) -> Bool[np.ndarray, " clips"]:
        """Clips that last a frame; tokens per second of shorter ones have no meaning."""
        samples = np.array([clip.seconds * self.data.format.sample_rate for clip in self.data.clips])
        return samples >= self.data.format.frame_size - 0.5

    @property
    def main(self) -> SettingResults:
        """Setting that is reported in detail: one threshold, and a rate nearest to half the base frame rate."""
        half = self.data.format.base_frame_rate / 2
        return min(self.fixed, key=lambda each: abs(each.frame_rate.value - half))


def run_study(data: AnalysisData, options: StudyOptions | None = None) -> StudyResults:
    """Run every analysis on collected clips."""
    options = options or StudyOptions()
    study = _Study(data, options)
    settings = tqdm(data.settings, desc="statistics", **bar_settings(options.progress))
    results = [study.setting(each) for each in settings]
    curve = rate_curve(data)
    sweep = study.sweep(curve)
    return StudyResults(data, results, curve, sweep, study.split, list(dict.fromkeys(study.notes)))


def rate_curve(data: AnalysisData) -> RateCurve:
    """Count tokens at thresholds from the lowest similarity up to 1, where nothing is merged."""
    similarities = [torch.as_tensor(clip.similarities) for clip in data.clips]
    frames = torch.tensor([len(each) + 1 for each in similarities])
    padded = torch.nn.utils.rnn.pad_sequence(similarities, batch_first=True)
    lowest = min((float(each.min()) for each in similarities if len(each)), default=0.0)
    thresholds = np.linspace(max(-1.0, lowest - 0.01), 1.0, CURVE_POINTS)
    counts = []
    for threshold in thresholds.tolist():
        durations = Threshold(threshold)(padded, frames, max_duration=data.format.max_duration)
        counts.append((durations > 0).sum(1).numpy())
    tokens = np.stack(counts)
    seconds = np.array([clip.seconds for clip in data.clips])
    return RateCurve(thresholds, tokens / seconds, tokens.sum(1) / seconds.sum())


class _Study:
    """The analyses, with the data that they share and the notes on those that failed."""

    def __init__(self, data: AnalysisData, options: StudyOptions):
        self.data = data
        self.options = options
        self.notes: list[str] = []
        self.sampling = Sampling(options.resamples, seed=options.seed)
        self.few = Sampling(min(options.resamples, MOST_RESAMPLES), seed=options.seed)

        # Clips with phones from any source, and those with phones in time.
        self.spoken = [_spoken_clip(clip, data.settings[0]) for clip in data.with_phones]
        self.timed = tuple(clip for clip in data.with_phones if clip.alignment is not None)
        self.clusters = data.clusters(self.timed)
        self.alignments = [clip.alignment for clip in self.timed if clip.alignment is not None]
        self.phones = [alignment.phones for alignment in self.alignments]
        if options.counting != "speech" and not self.timed:
            self.notes.append(f"counting {options.counting!r}: phones without times are counted in one way only")

        # One offset for all settings that merge anything, fitted on half of the clips.
        self.split: boundary_scores.FitTestSplit | None = None
        merging = [setting for setting in data.settings if self.merges(setting)]
        if self.timed and merging:
            self.references = boundary_scores.reference_boundaries(
                self.alignments, [clip.seconds for clip in self.timed]
            )
            timelines = [_timelines(self.timed, setting) for setting in merging]
            with self.noting("boundaries"):
                self.split = boundary_scores.split_and_fit_offset(self.references["phones"], timelines, self.clusters)
        else:
            self.notes.append("boundaries: no clip has phones in time, or no setting merges anything")
        self.offset = self.split.offset.seconds if self.split else 0.0
        self.counting: dict[str, Any] = {"counting": options.counting, "offset": self.offset}

    @contextmanager
    def noting(self, analysis: str) -> Iterator[None]:
        """Turn a `ValueError` of an analysis into a note."""
        try:
            yield
        except ValueError as error:
            self.notes.append(f"{analysis}: {error}")

    def merges(self, setting: RateSetting) -> bool:
        """Tell whether any token of a setting has more than one frame."""
        return any(bool((clip.tokens[setting.name].durations > 1).any()) for clip in self.data.clips)

    def setting(self, setting: RateSetting) -> SettingResults:
        """Run every analysis of one setting."""
        tokens = [clip.tokens[setting.name] for clip in self.data.clips]
        counts = np.array([int(each.token_lengths[0]) for each in tokens])
        bits = np.array([float(each.bitrates_kbps[0] * each.seconds[0]) for each in tokens])
        seconds = np.array([clip.seconds for clip in self.data.clips])
        clusters = self.data.clusters()
        results = SettingResults(
            setting,
            frame_rate=self.few.interval(token_contents.ratio_of_sums, counts, seconds, clusters=clusters),
            frame_rates=counts / seconds,
            nominal_kbps=self.few.interval(token_contents.ratio_of_sums, bits, seconds, clusters=clusters),
        )
        merges = self.merges(setting)
        self.add_rates(results, merges)
        self.add_contents(results, merges)
        if merges and self.split is not None:
            self.add_boundaries(results, self.split)
        with self.noting("bits"):
            results.codes = code_entropy.study_codes(
                tokens, self.data.levels, clusters=clusters, resamples=self.few.resamples
            )
        self.add_digits(results)
        return results

    def add_rates(self, results: SettingResults, merges: bool) -> None:
        """Compare tokens with phones: over clips if the rate varies between them, else in windows within clips."""
        spoken = []
        rates = []
        for each, clip in zip(self.spoken, self.data.with_phones, strict=True):
            spoken.append(replace(each, timeline=clip.timeline(results.setting)))
            rates.append(count_rates(spoken[-1], **self.counting))
        if results.setting.is_exact:
            results.within = within_clip_correlation(rates, self.sampling)
            return
        if not merges:
            return

        left_out: dict[str, list[str]] = {}
        for name, reason in (*self.data.unread, *self.data.without_phones):
            left_out.setdefault(reason.split(":")[0], []).append(name)
        overs: tuple[Over, ...] = ("speech", "all")
        for over in overs:
            with self.noting("frame rate against phone rate"):
                analysis = analyze_phone_rate(rates, over=over, left_out=left_out, sampling=self.sampling)
                results.phone_rate[over] = analysis
        if "speech" in results.phone_rate:
            self.add_groups(results, rates)
        if results.phone_rate:
            self.add_excess(results, spoken)

    def add_groups(self, results: SettingResults, rates: Sequence[ClipRates]) -> None:
        """Correlate inside groups, and with the sentences that are left out because all speakers read them."""
        correlated, _ = correlatable(rates, "speech")
        results.rates = RateTable.of(correlated, "speech")
        corpora = {clip.id: clip.corpus for clip in self.data.with_phones}
        results.groups = group_correlations(correlated, corpora, self.sampling)
        every, _ = correlatable(rates, "speech", leave_sentences=())
        if len(every) > len(correlated):
            r = RateTable.of(every, "speech").interval(pearson, self.sampling)
            results.groups["sentences that all speakers read, too"] = r

    def add_excess(self, results: SettingResults, spoken: Sequence[SpokenClip]) -> None:
        """Compare correlations with those of null codecs."""
        measures: tuple[Measure, ...] = ("pearson",)
        if self.timed:
            measures = ("pearson", "within", "within_given_speech")
        options = {**self.counting, "draws": self.options.draws, "sampling": self.sampling}
        for null in NULLS:
            with self.noting("nulls"):
                results.excess[null] = excess_over_null(spoken, null, measures, **options)

    def add_contents(self, results: SettingResults, merges: bool) -> None:
        """Measure what tokens contain: segments, durations by class, and which frames share a token."""
        options: dict[str, Any] = {"offset": self.offset, "resamples": self.few.resamples}
        if self.timed:
            timelines = _timelines(self.timed, results.setting)
            options["clusters"] = self.clusters
            tiers: dict[str, Sequence[Tier]] = {"phones": self.phones}
            tiers["syllables"] = [syllables(each.phones, each.words) for each in self.alignments]
            words = [each.words for each in self.alignments]
            if all(words):
                tiers["words"] = words
            for unit, tier in tiers.items():
                results.per_token[unit] = token_contents.segments_per_token(timelines, tier, **options)
            results.durations = token_contents.durations_by_class(timelines, self.phones, **options)
            results.merged = token_contents.merge_probabilities(timelines, self.phones, **options)
            if merges:
                with self.noting("odds of merging"):
                    options.pop("resamples")
                    results.odds = token_contents.merge_odds(timelines, self.phones, **options)
            return

        # Speech that is found by loudness has no class of phones; a recogniser's symbols have none either.
        timelines = _timelines(self.data.clips, results.setting)
        speech = [SpokenClip("", timeline, 0).speech for timeline in timelines]
        rows = token_contents.durations_by_class(timelines, speech, clusters=self.data.clusters(), **options)
        results.durations = [row for row in rows if row.name != "other"]
        if self.data.source == "recogniser":
            clips = self.data.with_phones
            symbols = [clip.symbols or () for clip in clips]
            counts = token_contents.segments_per_token(
                _timelines(clips, results.setting), symbols, clusters=self.data.clusters(clips), **options
            )
            results.per_token[self.data.unit] = counts

    def add_boundaries(self, results: SettingResults, split: boundary_scores.FitTestSplit) -> None:
        """Score token boundaries against those of phones, syllables and words."""
        timelines = _timelines(self.timed, results.setting)
        options: dict[str, Any] = {"draws": self.options.draws, "seed": self.options.seed}
        results.information = boundary_scores.tier_information(self.references, timelines, split, **options)
        options["resamples"] = self.few.resamples
        results.agreement = boundary_scores.score_tiers(self.references, timelines, split, self.clusters, **options)

    def add_digits(self, results: SettingResults) -> None:
        """Measure what each digit of the semantic codes tells, about phones where these have times."""
        codes = []
        phones: list[Sequence[str] | None] = []
        for clip in self.data.clips:
            semantic = clip.tokens[results.setting.name].semantic
            if semantic is None or not self.data.levels:
                return
            codes.append(semantic[0].numpy())
            labels = None
            if clip.alignment is not None:
                labels = label_at(clip.alignment.phones, clip.timeline(results.setting).middles(self.offset))
            phones.append(labels)
        options = {"draws": self.options.draws, "seed": self.options.seed}
        results.digits = code_entropy.study_digits(codes, self.data.levels or (), phones, **options)

    def sweep(self, curve: RateCurve) -> list[SweepPoint]:
        """Correlate rates at thresholds whose corpus rates are evenly spaced."""
        low, high = (share * self.data.format.base_frame_rate for share in SWEEP_RATES)
        rates = np.linspace(max(low, float(curve.corpus[0]) + 0.05), high, SWEEP_POINTS)
        thresholds = np.interp(rates, curve.corpus, curve.thresholds).tolist()
        similarities = [clip.similarities for clip in self.data.with_phones]
        points: list[SweepPoint] = []
        with self.noting("rates by threshold"):
            points = threshold_sweep(self.spoken, similarities, thresholds, sampling=self.few, **self.counting)
        return points


def _timelines(clips: Sequence[AnalysisClip], setting: RateSetting) -> list[TokenTimeline]:
    return [clip.timeline(setting) for clip in clips]


def _spoken_clip(clip: AnalysisClip, setting: RateSetting) -> SpokenClip:
    """Return a clip with its phones in time, or with their number."""
    timeline = clip.timeline(setting)
    words: tuple[Segment, ...] = ()
    phones: tuple[Segment, ...] | int = 0
    in_time = None
    if clip.alignment is not None:
        words = clip.alignment.words
        phones = clip.alignment.phones
        in_time = phones
    elif clip.num_phones is not None:
        phones = clip.num_phones
    elif clip.symbols is not None:
        phones = len(clip.symbols)
    controls = measure_controls(clip.audio, timeline.sample_rate, in_time)
    return SpokenClip(clip.id, timeline, phones, words, speaker=clip.speaker, sentence=clip.sentence, controls=controls)
