"""Does the frame rate adapt inside a clip? Tokens against phones in windows, each clip's own means taken out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from flexicodec.analysis.rate_table import clusters_of
from flexicodec.analysis.spoken import ClipRates
from flexicodec.statistics import Interval, Sampling, fisher_interval


@dataclass(frozen=True)
class Within:
    """Tokens against phones in windows of clips, each clip's own means taken out: does the rate adapt inside a clip?

    Attributes:
        windows: How many, in clips with two or more.
        clips: How many such clips there are.
        r: Correlation of tokens and phones.
        fisher: The same, as if windows were independent.
        given_speech: Partial correlation, seconds of speech in the window taken out: what pauses do not explain.
        slope: Tokens more for each phone more, by least squares.
    """

    windows: int
    clips: int
    r: Interval
    fisher: Interval
    given_speech: Interval
    slope: Interval


def within_clips(rates: Sequence[ClipRates], sampling: Sampling | None = None) -> Within | None:
    """Correlate tokens with phones in windows of clips, with a fixed effect for each clip; None without windows.

    Resamples draw clips (and speakers), never windows by themselves, by way of each clip's products of deviations.
    """
    sampling = sampling or Sampling()
    clips = [clip for clip in rates if clip.windows is not None and len(clip.windows) > 1]
    if len(clips) < 2:
        return None
    products, windows = window_products(clips), sum(len(clip.windows) for clip in clips if clip.windows is not None)
    clusters = clusters_of(clips)
    found = sampling.interval(pooled_correlation, products, clusters=clusters)
    return Within(
        windows=windows,
        clips=len(clips),
        r=found,
        fisher=fisher_interval(found.value, windows, controls=len(clips) - 1, level=sampling.level),
        given_speech=sampling.interval(pooled_partial, products, clusters=clusters),
        slope=sampling.interval(pooled_slope, products, clusters=clusters),
    )


def window_products(clips: Sequence[ClipRates]) -> Float[np.ndarray, "clips 3 3"]:
    """Sum, for each clip, the products of its windows' deviations in phones, tokens and seconds of speech."""
    made = []
    for clip in clips:
        windows = np.zeros((0, 3)) if clip.windows is None else clip.windows
        deviations = windows - windows.mean(0) if len(windows) else windows
        made.append(deviations.T @ deviations)
    return np.stack(made)


def pooled_correlation(products: Float[np.ndarray, "clips 3 3"]) -> float:
    """Correlate phones and tokens within clips, from `window_products`."""
    (xx, xy, _), (_, yy, _), _ = products.sum(0)
    return float(xy / math.sqrt(xx * yy)) if xx * yy > 0 else math.nan


def pooled_slope(products: Float[np.ndarray, "clips 3 3"]) -> float:
    """Regress tokens on phones within clips."""
    (xx, xy, _), _, _ = products.sum(0)
    return float(xy / xx) if xx > 0 else math.nan


def pooled_partial(products: Float[np.ndarray, "clips 3 3"]) -> float:
    """Correlate phones and tokens within clips, seconds of speech taken out."""
    (xx, xy, xz), (_, yy, yz), (_, _, zz) = products.sum(0)
    if zz > 1e-9:
        xx, xy, yy = xx - xz * xz / zz, xy - xz * yz / zz, yy - yz * yz / zz
    return float(xy / math.sqrt(xx * yy)) if min(xx, yy) > 1e-9 else math.nan
