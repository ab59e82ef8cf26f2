"""A correlation of corpora and speakers is told from one of clips."""

import numpy as np
import pytest

from flexicodec.analysis.groups import group_correlations
from flexicodec.analysis.spoken import ClipRates
from flexicodec.statistics import Sampling

QUICK = Sampling(resamples=300)


def clips(tokens_of, corpora=2, speakers=4, each=15, seed=0):
    """Clips of 10 s, and the corpus of each: the second corpus is twice as fast as the first."""
    random = np.random.default_rng(seed)
    rates, names = [], {}
    for corpus in range(corpora):
        for speaker in range(speakers):
            for i in range(each):
                phones, name = int(random.normal(80 + 80 * corpus, 8)), f"{corpus}-{speaker}-{i}"
                tokens = int(tokens_of(corpus, phones, random))
                rates.append(ClipRates(name, f"s{corpus}{speaker}", 10.0, 10.0, phones, phones, tokens, tokens))
                names[name] = f"corpus {corpus}"
    return rates, names


def test_corpora_that_differ_correlate_by_their_means_alone():
    found = group_correlations(*clips(lambda corpus, phones, random: random.normal(40 + 40 * corpus, 4)), QUICK)
    assert list(found) == [
        *("corpus 0 alone", "corpus 1 alone"),
        *("means of corpora taken out", "means of speakers taken out"),
    ]
    for each in found.values():
        assert each.covers_zero
        assert abs(each.value) < 0.25


def test_clips_that_follow_phones_do_so_inside_every_group():
    found = group_correlations(*clips(lambda corpus, phones, random: random.normal(phones / 2, 1)), QUICK)
    for each in found.values():
        assert each.low > 0.85


def test_few_clips_do_not_stand_by_themselves():
    rates, names = clips(lambda corpus, phones, random: phones, speakers=1, each=5)
    assert list(group_correlations(rates, names, QUICK)) == [
        "means of corpora taken out",
        "means of speakers taken out",
    ]


@pytest.mark.parametrize("speaker", [None, "one"])
def test_one_corpus_and_one_speaker_are_no_groups(speaker):
    rates = [ClipRates(str(i), speaker, 10.0, 10.0, 80 + i, 80 + i, 40 + i, 40 + i) for i in range(12)]
    assert group_correlations(rates, {}, QUICK) == {}
