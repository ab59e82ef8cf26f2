"""Tokens against phones in windows inside clips: does the rate adapt to the speech within one recording?

Each clip's means are subtracted, so that clips differ in nothing but what changes within them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from flexicodec.analysis.clip_rates import ClipRates, RateTable
from flexicodec.statistics import Interval, Sampling, fisher_interval


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
