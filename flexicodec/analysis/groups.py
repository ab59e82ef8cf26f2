"""The correlation of rates inside groups of clips: of one corpus, of one speaker.

Corpora and speakers differ in pace, in recording and in accent at once. A correlation over a mixture of them may be
that of their means alone; here each corpus stands by itself, and means are taken out.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from flexicodec.analysis.rate_table import Table
from flexicodec.analysis.spoken import ClipRates
from flexicodec.statistics import Interval, Sampling, fixed_effects_corr, pearson

FEWEST = 10  # clips of a corpus that is shown by itself


def group_correlations(
    rates: Sequence[ClipRates], corpora: Mapping[str, str | None], sampling: Sampling
) -> dict[str, Interval]:
    """Correlate phones and tokens per second of speech inside groups.

    Args:
        rates: Clips that can be correlated, see `rate_table.usable`.
        corpora: Of each clip, by its id.
        sampling: Of intervals, which draw speakers where there are several.

    Returns:
        By name: each corpus, where there are several; the corpora's means taken out; the speakers' means taken out,
        where these are known. Empty for clips of one corpus and one speaker.
    """
    found: dict[str, Interval] = {}
    names = [corpora.get(clip.id) or "no corpus named" for clip in rates]
    if len(set(names)) > 1:
        for name in dict.fromkeys(names):
            of_corpus = Table.of([clip for clip, its in zip(rates, names, strict=True) if its == name], "speech")
            if len(of_corpus.x) >= FEWEST:
                found[f"{name} alone"] = sampling.interval(pearson, *of_corpus.xy, clusters=of_corpus.clusters)
        found["means of corpora taken out"] = _within(rates, names, sampling)
    speakers = [clip.speaker for clip in rates]
    if None not in speakers and len(set(speakers)) > 1:
        found["means of speakers taken out"] = _within(rates, [str(each) for each in speakers], sampling)
    return found


def _within(rates: Sequence[ClipRates], labels: Sequence[str], sampling: Sampling) -> Interval:
    table = Table.of(rates, "speech")
    return sampling.interval(fixed_effects_corr, *table.xy, np.array(labels), clusters=table.clusters)
