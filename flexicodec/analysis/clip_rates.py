"""Counts of phones and tokens of clips: over whole clips, over their speech, and in windows of a second.

In windows, each clip's means are subtracted, so that clips differ in nothing but what changes within them.

Rates are per second, over whole clips ("all") or over their speech ("speech": silence is left out of the seconds, and
tokens in it out of the tokens).
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from flexicodec.analysis.acoustic_features import Controls
from flexicodec.analysis.null_codecs import active_frames, null_timelines
from flexicodec.analysis.token_timeline import TokenTimeline
from flexicodec.corpus.alignments.alignment import Segment
from flexicodec.corpus.alignments.phones import (
    count_as,
    in_speech,
    is_unknown,
    speech_before,
    speech_seconds,
    syllables,
    without_silence,
)
from flexicodec.merging import Threshold
from flexicodec.statistics import Interval, Sampling, fisher_interval, speaker_clusters

WINDOW_SECONDS = 1.0

TIMIT_DIALECT = ("SA1", "SA2")
"""Sentences that all speakers of TIMIT read; without them, correlations rest on different texts."""

Over = Literal["speech", "all"]
Values = Float[np.ndarray, " clips"]


@dataclass(frozen=True, eq=False)
class SpokenClip:
    """A clip with its tokens and its phones."""

    id: str
    timeline: TokenTimeline
    phones: tuple[Segment, ...] | int  # in time; or their number without silence, where times are not known
    words: tuple[Segment, ...] = ()
    speaker: str | None = None
    sentence: str | None = None  # name of the text, where speakers read the same: TIMIT's "SA1"
    controls: Controls | None = None

    @property
    def speech(self) -> tuple[Segment, ...]:
        """Segments of speech: the phones, or else the parts of the clip that are loud enough."""
        if not isinstance(self.phones, int):
            return without_silence(self.phones)
        flags = np.concatenate([[False], active_frames(self.timeline), [False]])
        times = np.minimum(np.flatnonzero(np.diff(flags)) * self.timeline.frame_seconds, self.timeline.seconds)
        return tuple(Segment(start, end, "speech") for start, end in times.reshape(-1, 2).tolist())


@dataclass(frozen=True, eq=False)
class ClipRates:
    """Counts of one clip."""

    id: str
    speaker: str | None
    seconds: float
    speech_seconds: float  # without silence
    phones: int
    spoken_phones: int  # the same without silences
    tokens: int
    speech_tokens: int  # tokens whose middle lies in speech
    syllables: int | None = None  # None where phones have no times
    words: int | None = None  # None where they are not known
    unknown: int = 0  # words that the alignment does not spell; their phones are not counted
    sentence: str | None = None
    log_energy_mean: float = np.nan  # dB, over the speech
    log_energy_std: float = np.nan
    voiced_share: float = np.nan
    windows: Float[np.ndarray, "windows 3"] | None = None  # phones, tokens and seconds of speech in each second

    @property
    def silence_share(self) -> float:
        """Share of the clip that is silence."""
        return 1 - self.speech_seconds / self.seconds


def count_rates(
    clip: SpokenClip, *, counting: str = "speech", offset: float = 0.0, window_seconds: float = WINDOW_SECONDS
) -> ClipRates:
    """Count a clip's phones and tokens.

    `counting` is one of `phones.COUNTINGS`; it has no effect where only the number of phones is known. `offset` shifts
    tokens by seconds. What remains after the last whole window is in none.
    """
    speech = clip.speech
    seconds = clip.timeline.seconds
    middles = clip.timeline.middles(offset)
    counts: dict[str, Any] = {"phones": clip.phones, "spoken_phones": clip.phones}
    if not isinstance(clip.phones, int):
        known = [phone for phone in clip.phones if not is_unknown(phone.label)]
        counted = count_as(known, counting)
        counts = {
            "phones": len(counted),
            "spoken_phones": len(without_silence(counted)),
            "syllables": len(syllables(clip.phones, clip.words)),
            "unknown": len(clip.phones) - len(known),
            "windows": np.zeros((0, 3)),
        }
        grid = np.arange(int(seconds / window_seconds + 1e-9) + 1) * window_seconds
        if len(grid) > 1:
            phone_counts, _ = np.histogram([phone.middle for phone in counted], grid)
            token_counts, _ = np.histogram(middles, grid)
            counts["windows"] = np.stack([phone_counts, token_counts, np.diff(speech_before(speech, grid))], axis=1)
    if clip.controls is not None:
        counts |= vars(clip.controls)
    return ClipRates(
        id=clip.id,
        speaker=clip.speaker,
        seconds=seconds,
        speech_seconds=speech_seconds(speech),
        tokens=clip.timeline.num_tokens,
        speech_tokens=int(in_speech(speech, middles).sum()),
        words=len(without_silence(clip.words)) if clip.words else None,
        sentence=clip.sentence,
        **counts,
    )


def null_clips(clips: Sequence[SpokenClip], name: str, *, per_clip: bool, seed: int = 0) -> list[SpokenClip]:
    """Replace the tokens of a corpus by those of a null codec; see `null_timelines`."""
    timelines = [clip.timeline for clip in clips]
    made = null_timelines(name, timelines, np.random.default_rng(seed), per_clip=per_clip)
    return [replace(clip, timeline=timeline) for clip, timeline in zip(clips, made, strict=True)]


def merge_at(clip: SpokenClip, similarities: Float[np.ndarray, " pairs"], threshold: float) -> SpokenClip:
    """Replace a clip's tokens by those of a threshold."""
    frames = clip.timeline.num_frames
    if len(similarities) != frames - 1:
        raise ValueError(f"{len(similarities)} similarities of {clip.id!r}; expected {frames - 1}")
    durations = clip.timeline.cut(Threshold(threshold), similarities)
    return replace(clip, timeline=clip.timeline.with_durations(durations))


def correlatable(
    rates: Sequence[ClipRates], over: Over, leave_sentences: Sequence[str] = TIMIT_DIALECT
) -> tuple[list[ClipRates], dict[str, tuple[str, ...]]]:
    """Select clips that can be correlated; returns them, and the ids of the others by reason."""
    repeated = [name for name, times in Counter(clip.id for clip in rates).items() if times > 1]
    if repeated:
        raise ValueError(f"clip {repeated[0]!r} is there twice; expected every id once (are two corpora mixed?)")
    unwanted = {sentence.lower() for sentence in leave_sentences}
    kept: list[ClipRates] = []
    lost: dict[str, tuple[str, ...]] = {}
    for clip in rates:
        reasons = {
            "sentence that all speakers read": (clip.sentence or "").lower() in unwanted,
            "words that the alignment does not spell": clip.unknown > 0,
            "no phones": clip.phones == 0,
            "no speech": clip.speech_seconds <= 0,
            "no token in speech": over == "speech" and clip.speech_tokens == 0,
        }
        reason = next((name for name, applies in reasons.items() if applies), None)
        if reason is None:
            kept.append(clip)
        else:
            lost[reason] = (*lost.get(reason, ()), clip.id)
    return kept, lost


@dataclass(frozen=True, eq=False)
class RateTable:
    """Counts of clips as columns, over all or over speech."""

    phones: Values
    tokens: Values
    seconds: Values
    clusters: list[str] | None  # speaker of each clip; None where clips are resampled

    @classmethod
    def of(cls, rates: Sequence[ClipRates], over: Over) -> "RateTable":
        """Lay out clips as columns."""
        names = ("phones", "tokens", "seconds")
        if over == "speech":
            names = ("spoken_phones", "speech_tokens", "speech_seconds")
        clusters = speaker_clusters([clip.speaker for clip in rates], [clip.id for clip in rates])
        phones, tokens, seconds = columns_of(rates, names).T
        return cls(phones, tokens, seconds, clusters)

    @property
    def x(self) -> Values:
        """Phones per second."""
        return self.phones / self.seconds

    @property
    def y(self) -> Values:
        """Tokens per second."""
        return self.tokens / self.seconds

    @property
    def xy(self) -> tuple[Values, Values]:
        """Both rates."""
        return self.x, self.y

    @property
    def frame_rate(self) -> float:
        """Tokens per second over the corpus."""
        return float(self.tokens.sum() / self.seconds.sum())

    def interval(self, statistic: Callable[..., float], sampling: Sampling, *more: Any, **options: Any) -> Interval:
        """Bootstrap a statistic of both rates, and of more arrays."""
        return sampling.interval(statistic, self.x, self.y, *more, clusters=self.clusters, **options)


def columns_of(rates: Sequence[ClipRates], names: Sequence[str]) -> Float[np.ndarray, "clips names"]:
    """Lay out fields of clips as columns; None becomes NaN."""
    return np.array([[getattr(clip, name) for name in names] for clip in rates], dtype=np.float64)


# ------------------------------------------------------------------------------------------------- windows inside clips


@dataclass(frozen=True)
class WithinClip:
    """Tokens against phones in windows of one second with a fixed effect for each clip: does the rate adapt inside?"""

    windows: int  # in clips with two or more
    clips: int
    r: Interval
    fisher: Interval  # the same, as if windows were independent
    given_speech: Interval  # partial correlation, controlling for the seconds of speech in the window
    slope: Interval  # tokens per phone, by least squares


def within_clip_correlation(rates: Sequence[ClipRates], sampling: Sampling | None = None) -> WithinClip | None:
    """Correlate tokens with phones in windows of clips, each clip's means subtracted; None without windows.

    The bootstrap resamples clips or speakers, not windows, by way of each clip's products of deviations.
    """
    sampling = sampling or Sampling()
    clips = []
    windows = 0
    for clip in rates:
        if clip.windows is not None and len(clip.windows) > 1:
            clips.append(clip)
            windows += len(clip.windows)
    if len(clips) < 2:
        return None
    products = window_products(clips)
    clusters = RateTable.of(clips, "all").clusters
    r = sampling.interval(pooled_correlation, products, clusters=clusters)
    return WithinClip(
        windows=windows,
        clips=len(clips),
        r=r,
        fisher=fisher_interval(r.value, windows, controls=len(clips) - 1, level=sampling.level),
        given_speech=sampling.interval(pooled_partial, products, clusters=clusters),
        slope=sampling.interval(pooled_slope, products, clusters=clusters),
    )


def window_products(clips: Sequence[ClipRates]) -> Float[np.ndarray, "clips 3 3"]:
    """Return the summed products of each clip's window deviations in phones, tokens and seconds of speech."""
    products = np.zeros((len(clips), 3, 3))
    for product, clip in zip(products, clips, strict=True):
        if clip.windows is not None and len(clip.windows):
            deviations = clip.windows - clip.windows.mean(0)
            product[:] = deviations.T @ deviations
    return products


def pooled_correlation(products: Float[np.ndarray, "clips 3 3"]) -> float:
    """Correlate phones and tokens within clips, from `window_products`."""
    (xx, xy, _), (_, yy, _), _ = products.sum(0)
    if min(xx, yy) <= 1e-9:
        return math.nan
    return float(xy / math.sqrt(xx * yy))


def pooled_partial(products: Float[np.ndarray, "clips 3 3"]) -> float:
    """Correlate phones and tokens within clips, controlling for seconds of speech."""
    total = products.sum(0)
    if total[2, 2] > 1e-9:
        total = total - np.outer(total[2], total[2]) / total[2, 2]
    return pooled_correlation(total[None])


def pooled_slope(products: Float[np.ndarray, "clips 3 3"]) -> float:
    """Regress tokens on phones within clips."""
    (xx, xy, _), _, _ = products.sum(0)
    return float(xy / xx) if xx > 0 else math.nan
