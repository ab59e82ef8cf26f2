"""Everything that is asked of gathered clips, at every setting: rates, contents, boundaries, bits.

What cannot be answered for these clips (no alignment, too few of them, a rate that never changes) is left out, with a
note that says why.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from tqdm import tqdm

from flexicodec.analysis.agreement import Agreement, Halves, fit_halves, inform, references_of, score_setting
from flexicodec.analysis.clips import Clip, Gathered, Setting
from flexicodec.analysis.codes import study_codes
from flexicodec.analysis.content import ClassDurations, PerToken, durations_by_class, per_token, ratio
from flexicodec.analysis.digits import DigitStudy, study_digits
from flexicodec.analysis.excess import Excess, Measure, SweepPoint, excess_over, sweep
from flexicodec.analysis.groups import group_correlations
from flexicodec.analysis.information import BoundaryInformation
from flexicodec.analysis.nulls import NULLS
from flexicodec.analysis.phone_rate import PhoneRate, analyze
from flexicodec.analysis.rate_table import Over, Table, usable
from flexicodec.analysis.segments import Segment, label_at, syllables
from flexicodec.analysis.sharing import Merged, merge_odds, merge_shares
from flexicodec.analysis.sound import measure_controls
from flexicodec.analysis.spoken import ClipRates, SpokenClip, count_rates
from flexicodec.analysis.study import Curve, Options, SettingStudy, Study
from flexicodec.analysis.within import Within, within_clips
from flexicodec.merging import Threshold
from flexicodec.statistics import FittedModel, Interval, Sampling, pearson

Found = TypeVar("Found")
CURVE_POINTS = 41  # thresholds of the curve from tau to tokens per second
SWEEP_POINTS = 15  # thresholds at which rates are correlated
SWEEP_RATES = (0.2, 0.96)  # of the grid's rate: where those thresholds begin and end


def study(gathered: Gathered, options: Options | None = None) -> Study:
    """Ask everything of gathered clips.

    Args:
        gathered: From `gather`.
        options: How much is drawn, and what counts; None for the defaults.
    """
    options = options or Options()
    asking = _Asking(gathered, options)
    parts = asking.halves()
    settings = tqdm(gathered.settings, desc="statistics", disable=not options.progress)
    found = tuple(asking.setting(each, parts) for each in settings)
    curve = rate_curve(gathered)
    points = asking.sweep(curve, parts)
    return Study(gathered, found, curve, points, parts, tuple(dict.fromkeys(asking.notes)))


def rate_curve(gathered: Gathered) -> Curve:
    """Count tokens at thresholds from the least similarity up to 1, where nothing is merged."""
    values = [torch.as_tensor(clip.similarities) for clip in gathered.clips]
    frames = torch.tensor([len(each) + 1 for each in values])
    padded = torch.nn.utils.rnn.pad_sequence(values, batch_first=True)
    every = torch.cat(values) if sum(map(len, values)) else torch.zeros(1)
    thresholds = np.linspace(max(-1.0, float(every.min()) - 0.01), 1.0, CURVE_POINTS)
    cap = gathered.format.max_duration
    counts = np.stack([(Threshold(float(t))(padded, frames, max_duration=cap) > 0).sum(1).numpy() for t in thresholds])
    seconds = np.array([clip.seconds for clip in gathered.clips])
    return Curve(thresholds, counts / seconds, counts.sum(1) / seconds.sum())


class _Asking:
    """Questions, with what they share and the notes that come up."""

    def __init__(self, gathered: Gathered, options: Options):
        self.gathered, self.options = gathered, options
        self.notes: list[str] = []
        self.spoken = gathered.with_phones
        self.clusters = gathered.clusters(self.spoken)
        self.timed = [clip for clip in self.spoken if clip.alignment is not None]
        self.base = [_spoken_clip(clip, gathered.settings[0]) for clip in self.spoken]
        self.sampling = Sampling(options.resamples, seed=options.seed)
        self.corpora = {clip.id: clip.corpus for clip in self.spoken}
        alignments = [clip.alignment for clip in self.timed if clip.alignment is not None]
        self.alignments = alignments
        if options.counting != "speech" and not self.timed:
            self.notes.append(f"counting {options.counting!r}: phones without times are counted in one way only")
        self.references = references_of(alignments, [clip.seconds for clip in self.timed]) if alignments else {}

    def attempt(self, what: str, question: Callable[[], Found]) -> Found | None:
        """Ask; what cannot be answered leaves a note."""
        try:
            return question()
        except ValueError as error:
            self.notes.append(f"{what}: {error}")
            return None

    def halves(self) -> Halves | None:
        """Part the clips and fit the offset, at settings that merge anything."""
        merging = [s for s in self.gathered.settings if not self.is_whole(s)]
        if not self.timed or not merging:
            self.notes.append("boundaries: no clip has phones in time, or no setting merges anything")
            return None
        coded = [[clip.coded(setting) for clip in self.timed] for setting in merging]
        clusters = self.gathered.clusters(tuple(self.timed))
        return self.attempt("boundaries", partial(fit_halves, self.references["phones"], coded, clusters))

    def is_whole(self, setting: Setting) -> bool:
        """Tell whether a setting gives every frame a token of its own."""
        return all(bool((clip.tokens[setting.name].durations == 1).all()) for clip in self.gathered.clips)

    def setting(self, setting: Setting, parts: Halves | None) -> SettingStudy:
        """Ask everything of one setting."""
        clips, few = self.gathered.clips, self.options.few
        clusters = self.gathered.clusters()
        tokens = [clip.tokens[setting.name] for clip in clips]
        counts, seconds = np.array([int(t.token_lengths[0]) for t in tokens]), np.array([c.seconds for c in clips])
        offset = parts.offset.seconds if parts else 0.0
        rates = Sampling(few, seed=self.options.seed).interval(ratio, counts, seconds, clusters=clusters)
        bits = np.array([float(t.bitrates_kbps[0] * t.seconds[0]) for t in tokens])
        spoken = [replace(s, coded=c.coded(setting)) for s, c in zip(self.base, self.spoken, strict=True)]
        whole, fixed = self.is_whole(setting), setting.is_exact
        phone_rate = {} if whole or fixed else self.phone_rate(spoken, offset)
        usable_rates = self.usable(spoken, offset) if "speech" in phone_rate else []
        return SettingStudy(
            setting=setting,
            frame_rate=rates,
            frame_rates=counts / seconds,
            nominal_kbps=Sampling(few, seed=self.options.seed).interval(ratio, bits, seconds, clusters=clusters),
            per_token=self.contents(setting, offset),
            durations=self.durations(setting, offset),
            merged=self.merged(setting, offset),
            odds=None if whole else self.odds(setting, offset),
            phone_rate=phone_rate,
            rates=Table.of(usable_rates, "speech") if usable_rates else None,
            groups=self.groups(usable_rates, spoken, offset) if usable_rates else {},
            within=self.within(spoken, offset) if fixed else None,
            excess=self.excess(spoken, offset) if phone_rate else {},
            agreement=() if parts is None or whole else self.agreement(setting, parts),
            information={} if parts is None or whole else self.information(setting, parts),
            codes=self.attempt(
                "bits", partial(study_codes, tokens, self.gathered.levels, clusters=clusters, resamples=few)
            ),
            digits=self.digits(setting, offset),
        )

    # --------------------------------------------------------------------------------------------------- contents

    def contents(self, setting: Setting, offset: float) -> dict[str, PerToken]:
        """Count what tokens hold."""
        clips, tiers = self.timed, {}
        if self.timed:
            tiers = {
                "phones": [a.phones for a in self.alignments],
                "syllables": [syllables(a.phones, a.words) for a in self.alignments],
            }
            if all(a.words for a in self.alignments):
                tiers["words"] = [a.words for a in self.alignments]
        elif self.gathered.source == "recogniser":
            clips = list(self.spoken)
            tiers = {self.gathered.unit: [clip.symbols or () for clip in clips]}
        coded, clusters = [clip.coded(setting) for clip in clips], self.gathered.clusters(tuple(clips))
        return {
            name: per_token(coded, tier, clusters=clusters, offset=offset, resamples=self.options.few)
            for name, tier in tiers.items()
        }

    def durations(self, setting: Setting, offset: float) -> list[ClassDurations]:
        """Count durations by class; where phones have no times, by speech and silence as loudness tells them."""
        if self.timed:
            coded, tiers = [clip.coded(setting) for clip in self.timed], [a.phones for a in self.alignments]
            clusters = self.gathered.clusters(tuple(self.timed))
        else:
            sounds = [SpokenClip(c.id, c.coded(setting), 0) for c in self.gathered.clips]
            coded, tiers = [each.coded for each in sounds], [each.speech for each in sounds]
            clusters = self.gathered.clusters()
        rows = durations_by_class(coded, tiers, clusters=clusters, offset=offset, resamples=self.options.few)
        return rows if self.timed else [row for row in rows if row.name != "other"]

    def merged(self, setting: Setting, offset: float) -> list[Merged]:
        """Count what shares a token."""
        if not self.timed:
            return []
        coded, clusters = [clip.coded(setting) for clip in self.timed], self.gathered.clusters(tuple(self.timed))
        tiers = [a.phones for a in self.alignments]
        return merge_shares(coded, tiers, clusters=clusters, offset=offset, resamples=self.options.few)

    def odds(self, setting: Setting, offset: float) -> FittedModel | None:
        """Explain what shares a token."""
        if not self.timed:
            return None
        coded, tiers = [clip.coded(setting) for clip in self.timed], [a.phones for a in self.alignments]
        question = partial(merge_odds, coded, tiers, clusters=self.gathered.clusters(tuple(self.timed)), offset=offset)
        return self.attempt("odds of merging", question)

    def digits(self, setting: Setting, offset: float) -> DigitStudy | None:
        """Measure what digits tell, about phones where these have times."""
        clips, levels = self.gathered.clips, self.gathered.levels
        codes = [tokens.semantic for tokens in (clip.tokens[setting.name] for clip in clips)]
        found = [each[0].numpy() for each in codes if each is not None]
        if not levels or len(found) < len(clips):
            return None
        phones = [
            None if c.alignment is None else label_at(c.alignment.phones, c.coded(setting).middles(offset))
            for c in clips
        ]
        return study_digits(found, levels, phones, draws=self.options.draws, seed=self.options.seed)

    def agreement(self, setting: Setting, parts: Halves) -> list[Agreement]:
        """Score boundaries."""
        coded, clusters = [clip.coded(setting) for clip in self.timed], self.gathered.clusters(tuple(self.timed))
        options = self.options
        return score_setting(
            self.references, coded, parts, clusters, draws=options.draws, resamples=options.few, seed=options.seed
        )

    def information(self, setting: Setting, parts: Halves) -> dict[str, BoundaryInformation]:
        """Measure what boundaries tell."""
        coded, options = [clip.coded(setting) for clip in self.timed], self.options
        return inform(self.references, coded, parts, draws=options.draws, seed=options.seed)

    # ------------------------------------------------------------------------------------------------------ rates

    def count(self, spoken: Sequence[SpokenClip], offset: float) -> list[ClipRates]:
        """Count phones and tokens of clips."""
        return [count_rates(clip, counting=self.options.counting, offset=offset) for clip in spoken]

    def usable(self, spoken: Sequence[SpokenClip], offset: float) -> list[ClipRates]:
        """Count the clips that are correlated over speech."""
        return usable(self.count(spoken, offset), "speech")[0]

    def groups(self, rates: list[ClipRates], spoken: Sequence[SpokenClip], offset: float) -> dict[str, Interval]:
        """Correlate inside groups; and with the sentences that are left out because all speakers read them."""
        found = group_correlations(rates, self.corpora, self.sampling)
        every = usable(self.count(spoken, offset), "speech", leave_sentences=())[0]
        if len(every) > len(rates):
            table = Table.of(every, "speech")
            found["sentences that all speakers read, too"] = self.sampling.interval(
                pearson, *table.xy, clusters=table.clusters
            )
        return found

    def phone_rate(self, spoken: Sequence[SpokenClip], offset: float) -> dict[str, PhoneRate]:
        """Correlate rates of clips, over speech and over everything."""
        rates = self.count(spoken, offset)
        left: dict[str, list[str]] = {}
        for name, reason in (*self.gathered.unread, *self.gathered.without_phones):
            left.setdefault(reason.split(":")[0], []).append(name)
        overs: tuple[Over, ...] = ("speech", "all")
        found: dict[str, PhoneRate] = {}
        for over in overs:
            question = partial(analyze, rates, over=over, left_out=left, sampling=self.sampling)
            if (answer := self.attempt("frame rate against phone rate", question)) is not None:
                found[over] = answer
        return found

    def within(self, spoken: Sequence[SpokenClip], offset: float) -> Within | None:
        """Correlate windows."""
        return within_clips(self.count(spoken, offset), self.sampling)

    def excess(self, spoken: Sequence[SpokenClip], offset: float) -> dict[str, Mapping[str, Excess]]:
        """Hold correlations against those of nulls."""
        measures: tuple[Measure, ...] = ("pearson", "within", "within_given_speech") if self.timed else ("pearson",)
        options = self.options
        found: dict[str, Mapping[str, Excess]] = {}
        for null in NULLS:
            question = partial(
                excess_over,
                *(spoken, null, measures),
                counting=options.counting,
                offset=offset,
                draws=options.draws,
                sampling=self.sampling,
            )
            if (answer := self.attempt("nulls", question)) is not None:
                found[null] = answer
        return found

    def sweep(self, curve: Curve, parts: Halves | None) -> tuple[SweepPoint, ...]:
        """Correlate rates at thresholds whose corpus rates lie evenly between the grid's and the cap's."""
        low, high = (share * self.gathered.format.base_frame_rate for share in SWEEP_RATES)
        rates = np.linspace(max(low, float(curve.corpus[0]) + 0.05), high, SWEEP_POINTS)
        thresholds = np.interp(rates, curve.corpus, curve.thresholds).tolist()
        offset = parts.offset.seconds if parts else 0.0
        similarities = [clip.similarities for clip in self.spoken]
        sampling = Sampling(self.options.few, seed=self.options.seed)
        counting = self.options.counting
        question = partial(
            sweep, self.base, similarities, thresholds, counting=counting, offset=offset, sampling=sampling
        )
        return tuple(self.attempt("rates by threshold", question) or ())


def _spoken_clip(clip: Clip, setting: Setting) -> SpokenClip:
    """See a clip as phone rates do: with its phones in time, or with their number."""
    coded = clip.coded(setting)
    phones: tuple[Segment, ...] | int = 0
    if clip.alignment is not None:
        phones = clip.alignment.phones
    elif clip.num_phones is not None:
        phones = clip.num_phones
    elif clip.symbols is not None:
        phones = len(clip.symbols)
    in_time = None if isinstance(phones, int) else phones
    return SpokenClip(
        clip.id,
        coded,
        phones,
        () if clip.alignment is None else clip.alignment.words,
        speaker=clip.speaker,
        sentence=clip.sentence,
        controls=measure_controls(clip.audio, coded.sample_rate, in_time),
    )
