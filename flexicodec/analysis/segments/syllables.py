"""Syllables by rule, from phones and words: every vowel is a nucleus, and onsets are as long as English allows.

The rule of maximal onsets (D. Kahn, "Syllable-based generalizations in English phonology", 1976): of the consonants
between two nuclei, the longest ending that can begin an English word goes to the later syllable. Syllables do not reach
across words, nor across a silence or an unknown word.
"""

from collections.abc import Iterator, Sequence

from flexicodec.analysis.segments.labels import SYLLABIC, is_silence, is_unknown, plain
from flexicodec.analysis.segments.phones import merge_closures
from flexicodec.analysis.segments.segment import Segment

_SINGLE = "p b t d k g f v th dh s z sh zh hh hv ch jh m n l r w y dx q"
_CLUSTERS = (
    "p l,p r,p y,b l,b r,b y,t r,t w,t y,d r,d w,d y,k l,k r,k w,k y,g l,g r,g w,g y,f l,f r,f y,v y,th r,th w,sh r,"
    "hh w,hh y,m y,n y,l y,s l,s w,s p,s t,s k,s f,s m,s n,s y,s p l,s p r,s p y,s t r,s t y,s k l,s k r,s k w,s k y"
)
ONSETS = frozenset([(), *((phone,) for phone in _SINGLE.split()), *(tuple(c.split()) for c in _CLUSTERS.split(","))])


def syllables(phones: Sequence[Segment], words: Sequence[Segment] = ()) -> tuple[Segment, ...]:
    """Group phones into syllables.

    Args:
        phones: In order of time; a TIMIT closure counts as one with its release.
        words: Phones of different words, by their midpoints, are in different syllables; without words only silences
            and unknown words part them.

    Returns:
        Syllables, each labelled with its phones; what has no vowel (a lone "s h h") is one syllable.
    """
    return tuple(syllable for stretch in _stretches(phones, words) for syllable in _split(stretch))


def _stretches(phones: Sequence[Segment], words: Sequence[Segment]) -> Iterator[list[Segment]]:
    """Yield the phones between which syllables may run: those of a word."""
    said = [word for word in words if not is_silence(word.label)]
    stretch: list[Segment] = []
    word, before = 0, (0, False)
    for phone in merge_closures(phones):
        while word < len(said) and said[word].end <= phone.middle:
            word += 1
        here = word, word < len(said) and said[word].start <= phone.middle
        apart = is_silence(phone.label) or is_unknown(phone.label)
        if stretch and (apart or here != before):
            yield stretch
            stretch = []
        if not apart:
            stretch.append(phone)
        before = here
    if stretch:
        yield stretch


def _split(stretch: Sequence[Segment]) -> Iterator[Segment]:
    """Part the phones of a word before the longest onset of every nucleus but the first."""
    names = [plain(phone.label) for phone in stretch]
    nuclei = [i for i, name in enumerate(names) if name in SYLLABIC]
    cuts = [0]
    for before, nucleus in zip(nuclei, nuclei[1:], strict=False):
        cuts.append(next(i for i in range(before + 1, nucleus + 1) if tuple(names[i:nucleus]) in ONSETS))
    for first, last in zip(cuts, [*cuts[1:], len(stretch)], strict=True):
        label = " ".join(phone.label for phone in stretch[first:last])
        yield Segment(stretch[first].start, stretch[last - 1].end, label)
