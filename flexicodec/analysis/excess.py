"""By how much the frame rate follows the phone rate more than that of null codecs does, and how that hangs on tau."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float

from flexicodec.analysis.nulls import DRAWN, NULLS
from flexicodec.analysis.rate_table import Over, Table, clusters_of, usable
from flexicodec.analysis.spoken import ClipRates, SpokenClip, count_rates, null_clips
from flexicodec.analysis.within import pooled_correlation, pooled_partial, window_products
from flexicodec.merging import Threshold
from flexicodec.statistics import FITS, Interval, Sampling, fisher_interval, pearson, spearman

Measure = Literal["pearson", "spearman", "within", "within_given_speech"]
_OF_CLIPS: Mapping[str, Callable[..., float]] = {"pearson": pearson, "spearman": spearman}
_OF_WINDOWS: Mapping[str, Callable[..., float]] = {"within": pooled_correlation, "within_given_speech": pooled_partial}


@dataclass(frozen=True)
class Excess:
    """A correlation beside that of a null codec.

    Attributes:
        null: Its name in `nulls.NULLS`.
        measure: Which correlation.
        value: The codec's.
        null_value: The null's, averaged over draws; 0 where it is not defined, as for a rate that never changes.
        excess: The difference; resamples keep codec and null of a clip together.
        draws: Of the null.
        null_frame_rate: Its tokens per second over the corpus.
    """

    null: str
    measure: Measure
    value: float
    null_value: float
    excess: Interval
    draws: int
    null_frame_rate: float


def excess_over(
    clips: Sequence[SpokenClip],
    null: str,
    measures: Sequence[Measure] = ("pearson",),
    *,
    over: Over = "speech",
    counting: str = "speech",
    offset: float = 0.0,
    draws: int = 10,
    sampling: Sampling | None = None,
) -> dict[str, Excess]:
    """Hold correlations against those of a null codec.

    For rates of clips the null has as many tokens in the corpus, for windows as many in every clip.

    Args:
        clips: With the codec's tokens, and their audio where the null listens.
        null: Its name in `nulls.NULLS`.
        measures: Correlations of the rates of clips ("pearson", "spearman"), or of tokens and phones in windows within
            them ("within", or "within_given_speech" with seconds of speech taken out).
        over: Seconds that count in the rates of clips.
        counting: Which phones count.
        offset: Seconds by which tokens are moved.
        draws: Of nulls that are drawn; the others are made once.
        sampling: Of intervals.

    Returns:
        For each measure the two correlations and the difference.

    Raises:
        ValueError: Too few clips, or a null or measure that there is not.
    """
    if unknown := [name for name in measures if name not in {**_OF_CLIPS, **_OF_WINDOWS}]:
        raise ValueError(f"measure is {unknown[0]!r}; expected one of {', '.join({**_OF_CLIPS, **_OF_WINDOWS})}")
    if null not in NULLS:
        raise ValueError(f"null is {null!r}; expected one of {', '.join(NULLS)}")
    sampling, draws = sampling or Sampling(), draws if null in DRAWN else 1
    found: dict[str, Excess] = {}
    for family, per_clip in ((_OF_CLIPS, False), (_OF_WINDOWS, True)):
        wanted = [name for name in measures if name in family]
        if not wanted:
            continue
        own, drawn = _counted(clips, null, per_clip, over, counting, offset, draws, sampling.seed)
        if len(own) < 4:
            raise ValueError(f"{len(own)} clips to correlate, at least 4 are needed")
        arrays = _windows(own, drawn) if per_clip else _rates(own, drawn, over)
        tables = [Table.of(each, over) for each in drawn]
        rate = sum(float(t.tokens.sum()) for t in tables) / sum(float(t.seconds.sum()) for t in tables)
        for name in wanted:
            found[name] = _excess(name, family[name], arrays, own, null, rate, sampling)
    return {name: found[name] for name in measures}


def _counted(
    clips: Sequence[SpokenClip],
    null: str,
    per_clip: bool,
    over: Over,
    counting: str,
    offset: float,
    draws: int,
    seed: int,
) -> tuple[list[ClipRates], list[list[ClipRates]]]:
    """Count what can be correlated, in the codec's tokens and in each draw of the null's."""
    every = [count_rates(clip, counting=counting, offset=offset) for clip in clips]
    kept = {clip.id for clip in usable(every, over)[0]}
    chosen = [clip for clip in clips if clip.id in kept]
    drawn = [
        [
            count_rates(clip, counting=counting, offset=offset)
            for clip in null_clips(chosen, null, per_clip=per_clip, seed=s)
        ]
        for s in range(seed, seed + draws)
    ]
    return [clip for clip in every if clip.id in kept], drawn


def _rates(own: Sequence[ClipRates], drawn: Sequence[Sequence[ClipRates]], over: Over) -> tuple[Any, ...]:
    """Return a function's arrays: phone rates, frame rates, and the null's [clips, draws]."""
    table = Table.of(own, over)
    return table.x, table.y, np.stack([Table.of(each, over).y for each in drawn], axis=1)


def _windows(own: Sequence[ClipRates], drawn: Sequence[Sequence[ClipRates]]) -> tuple[Any, ...]:
    """Return products of deviations of each clip [clips, 3, 3], and the null's [clips, draws, 3, 3]."""
    return window_products(own), np.stack([window_products(each) for each in drawn], axis=1)


def _excess(
    measure: Measure,
    statistic: Callable[..., float],
    arrays: tuple[Any, ...],
    own: Sequence[ClipRates],
    null: str,
    null_frame_rate: float,
    sampling: Sampling,
) -> Excess:
    *fixed, mine, theirs = arrays
    draws = theirs.shape[1]

    def of_null(*rows: Any) -> float:
        *same, each = rows
        return float(np.mean([np.nan_to_num(statistic(*same, each[:, d])) for d in range(draws)]))

    def difference(*rows: Any) -> float:
        *same, of_codec, each = rows
        return statistic(*same, of_codec) - of_null(*same, each)

    found = sampling.interval(difference, *fixed, mine, theirs, clusters=clusters_of(own))
    return Excess(null, measure, statistic(*fixed, mine), of_null(*fixed, theirs), found, draws, null_frame_rate)


@dataclass(frozen=True)
class SweepPoint:
    """The frame rate against the phone rate at one threshold.

    Attributes:
        threshold: tau.
        frame_rate: Tokens per second over the corpus.
        clips: How many are in it.
        r: Pearson's correlation of the rates of clips, by bootstrap; NaN where every clip has the same rate.
        fisher: The same by Fisher's z, as if clips were independent.
        slope: By least squares.
        within: Correlation of tokens and phones in windows within clips; NaN where phones have no times.
    """

    threshold: float
    frame_rate: float
    clips: int
    r: Interval
    fisher: Interval
    slope: float
    within: float


def sweep(
    clips: Sequence[SpokenClip],
    similarities: Sequence[Float[np.ndarray, " pairs"]],
    thresholds: Sequence[float],
    *,
    over: Over = "speech",
    counting: str = "speech",
    offset: float = 0.0,
    sampling: Sampling | None = None,
) -> list[SweepPoint]:
    """Merge at one threshold after another, and correlate each time.

    Args:
        clips: Whose tokens give way to those of each threshold.
        similarities: Of each frame of a clip with the next.
        thresholds: To try.
        over: Seconds that count.
        counting: Which phones count.
        offset: Seconds by which tokens are moved.
        sampling: Of intervals.

    Raises:
        ValueError: Not one row of similarities for each clip, or too few clips.
    """
    if len(similarities) != len(clips):
        raise ValueError(f"{len(similarities)} rows of similarities for {len(clips)} clips; expected one for each")
    sampling = sampling or Sampling(resamples=2000)
    points = []
    for threshold in thresholds:
        merged = [merge_at(clip, values, threshold) for clip, values in zip(clips, similarities, strict=True)]
        kept, _ = usable([count_rates(clip, counting=counting, offset=offset) for clip in merged], over)
        if len(kept) < 4:
            raise ValueError(f"{len(kept)} clips to correlate at a threshold of {threshold:g}, at least 4 are needed")
        table = Table.of(kept, over)
        points.append(
            SweepPoint(
                threshold=float(threshold),
                frame_rate=float(table.tokens.sum() / table.seconds.sum()),
                clips=len(kept),
                r=sampling.interval(pearson, *table.xy, clusters=table.clusters),
                fisher=fisher_interval(pearson(*table.xy), len(kept), level=sampling.level),
                slope=FITS["ols"](*table.xy)[0],
                within=pooled_correlation(window_products(kept)) if kept[0].windows is not None else math.nan,
            )
        )
    return points


def merge_at(clip: SpokenClip, similarities: Float[np.ndarray, " pairs"], threshold: float) -> SpokenClip:
    """Give a clip the tokens of a threshold."""
    values, lengths = torch.as_tensor(np.asarray(similarities))[None], torch.tensor([clip.coded.num_frames])
    if values.shape[1] != clip.coded.num_frames - 1:
        raise ValueError(f"{values.shape[1]} similarities of {clip.id!r}; expected {clip.coded.num_frames - 1}")
    durations = Threshold(threshold)(values, lengths, max_duration=clip.coded.max_duration)[0].numpy()
    return replace(clip, coded=clip.coded.with_durations(durations))
