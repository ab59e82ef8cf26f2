"""Phone labels: silence, manner classes, closures, syllables, and the parts of a tier that are speech.

Labels are ARPAbet with stress digits (CMUdict, MFA's english_us_arpa) or TIMIT's 61, in either case.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float

from flexicodec.corpus.alignment import SAME_TIME, Segment

SILENCES = frozenset(
    ("", "sp", "sil", "ssil", "silence", "<sil>", "<silence>", "<eps>", "<p:>", "h#", "pau", "epi", "#")
)
UNKNOWNS = frozenset(("spn", "<spn>", "<unk>", "unk", "nsn", "<nib>", "<usb>"))

MANNERS = {
    "vowel": "iy ih eh ey ae aa aw ay ah ao oy ow uh uw ux er ax ix axr ax-h".split(),
    "glide": "w y".split(),
    "liquid": "l r el".split(),
    "nasal": "m n ng em en eng nx".split(),
    "fricative": "s sh z zh f th v dh hh hv".split(),
    "affricate": "ch jh".split(),
    "stop": "b d g p t k dx q".split(),
    "closure": "bcl dcl gcl pcl tcl kcl".split(),
}
CLASSES = (*MANNERS, "silence", "other")  # "other": unknown words, noises, labels of another alphabet
SYLLABIC = frozenset((*MANNERS["vowel"], "el", "em", "en", "eng"))
RELEASES = {"bcl": ("b",), "dcl": ("d", "jh"), "gcl": ("g",), "pcl": ("p",), "tcl": ("t", "ch"), "kcl": ("k",)}

# The 39 classes of K.-F. Lee and H.-W. Hon, "Speaker-independent phone recognition using hidden Markov models" (1989)
_FOLDS = "ao>aa ax>ah ax-h>ah axr>er hv>hh ix>ih el>l em>m en>n nx>n eng>ng zh>sh ux>uw"
FOLDED = dict(pair.split(">") for pair in _FOLDS.split())

COUNTINGS = ("all", "speech", "merged")
"""Ways to count phones: every label; without silences; and with a closure and its release as one."""


def strip_stress(label: str) -> str:
    """Return a label in lower case and without stress: AH0 becomes ah."""
    return label.strip().lower().rstrip("012")


def is_silence(label: str) -> bool:
    """Return whether a label stands for silence: empty, sp, sil, and TIMIT's h#, pau and epi; spn does not."""
    return label.strip().lower() in SILENCES


def is_unknown(label: str) -> bool:
    """Return whether a label stands for speech that the aligner could not spell: MFA's spn and <unk>."""
    return label.strip().lower() in UNKNOWNS


def phone_class(label: str) -> str:
    """Return the class of a phone, one of `CLASSES`."""
    if is_silence(label):
        return "silence"
    phone = strip_stress(label)
    for name, members in MANNERS.items():
        if phone in members:
            return name
    return "other"


def fold_to_39(label: str) -> str | None:
    """Map a phone to one of the 39 classes of Lee and Hon; closures and silences to "sil", the glottal stop to None."""
    kind = phone_class(label)
    if kind == "other":
        raise ValueError(f"{label!r} is no phone of ARPAbet or TIMIT; are the labels IPA, or letters?")
    if kind in ("silence", "closure"):
        return "sil"
    phone = strip_stress(label)
    return None if phone == "q" else FOLDED.get(phone, phone)


def without_silence(tier: Sequence[Segment]) -> tuple[Segment, ...]:
    """Return the segments of a tier that are not silence."""
    return tuple(s for s in tier if not is_silence(s.label))


def speech_seconds(tier: Sequence[Segment]) -> float:
    """Sum the durations of all segments that are not silence."""
    return math.fsum(s.duration for s in without_silence(tier))


def in_speech(tier: Sequence[Segment], times: Float[np.ndarray, " times"]) -> Bool[np.ndarray, " times"]:
    """Return for each time whether it lies in a segment that is not silence."""
    speech = without_silence(tier)
    starts = np.array([s.start for s in speech])
    ends = np.array([s.end for s in speech] + [-1.0])  # the last entry is for times before all speech
    before = np.searchsorted(starts, times, side="right") - 1
    return (before >= 0) & (np.asarray(times) < ends[before])


def speech_before(tier: Sequence[Segment], times: Float[np.ndarray, " times"]) -> Float[np.ndarray, " times"]:
    """Return the seconds of speech from the beginning of the clip to each time."""
    knots = [0.0]
    sums = [0.0]
    for segment in without_silence(tier):
        knots += [segment.start, segment.end]
        sums += [sums[-1], sums[-1] + segment.duration]
    return np.interp(times, knots, sums)


def tier_boundaries(tier: Sequence[Segment], seconds: float) -> Float[np.ndarray, " boundaries"]:
    """Return the times at which segments other than silence start or end, for a clip of so many seconds.

    A time that two segments share counts once. The beginning and the end of the clip are left out: every tokenizer
    gets these right.
    """
    times = np.array([(s.start, s.end) for s in without_silence(tier)], dtype=float).reshape(-1)
    times = np.sort(times)
    times = times[(times > SAME_TIME) & (times < seconds - SAME_TIME)]
    return times[np.diff(times, prepend=-1.0) > SAME_TIME]


def merge_closures(phones: Sequence[Segment]) -> tuple[Segment, ...]:
    """Join each closure with the release that follows it: bcl b becomes b, tcl ch becomes ch.

    A closure that is not released becomes its stop: kcl alone is a k.
    """
    merged: list[Segment] = []
    closure: Segment | None = None
    for phone in [*phones, None]:  # None flushes a closure at the end
        if closure is not None:
            releases = RELEASES[strip_stress(closure.label)]
            if phone and strip_stress(phone.label) in releases and phone.start <= closure.end + SAME_TIME:
                phone = Segment(closure.start, phone.end, phone.label)
            else:
                merged.append(Segment(closure.start, closure.end, releases[0]))
            closure = None
        if phone and strip_stress(phone.label) in RELEASES:
            closure = phone
        elif phone:
            merged.append(phone)
    return tuple(merged)


def count_as(phones: Sequence[Segment], counting: str) -> tuple[Segment, ...]:
    """Return the phones that count under one of `COUNTINGS`."""
    if counting not in COUNTINGS:
        raise ValueError(f"counting is {counting!r}; expected one of {', '.join(COUNTINGS)}")
    if counting == "all":
        return tuple(phones)
    if counting == "merged":
        phones = merge_closures(phones)
    return without_silence(phones)


_SINGLE = "p b t d k g f v th dh s z sh zh hh hv ch jh m n l r w y dx q"
_CLUSTERS = (
    "p l,p r,p y,b l,b r,b y,t r,t w,t y,d r,d w,d y,k l,k r,k w,k y,g l,g r,g w,g y,f l,f r,f y,v y,th r,th w,sh r,"
    "hh w,hh y,m y,n y,l y,s l,s w,s p,s t,s k,s f,s m,s n,s y,s p l,s p r,s p y,s t r,s t y,s k l,s k r,s k w,s k y"
)
ONSETS = frozenset([(), *((phone,) for phone in _SINGLE.split()), *(tuple(c.split()) for c in _CLUSTERS.split(","))])


def syllables(phones: Sequence[Segment], words: Sequence[Segment] = ()) -> tuple[Segment, ...]:
    """Group phones into syllables by the rule of maximal onsets.

    Every vowel is a nucleus. Of the consonants between two nuclei, the longest ending that can begin an English word
    goes to the later syllable (D. Kahn, "Syllable-based generalizations in English phonology", 1976). Syllables do not
    cross words, silences or unknown words; a TIMIT closure counts as one phone with its release.

    Returns:
        Syllables, each labelled with its phones; phones without a vowel (a lone "s h h") form one syllable.
    """
    found: list[Segment] = []
    for run in _phones_by_word(merge_closures(phones), without_silence(words)):
        names = [strip_stress(phone.label) for phone in run]
        nuclei = [i for i, name in enumerate(names) if name in SYLLABIC]
        starts = [0]
        for before, nucleus in zip(nuclei, nuclei[1:], strict=False):
            starts.append(next(i for i in range(before + 1, nucleus + 1) if tuple(names[i:nucleus]) in ONSETS))
        for first, last in zip(starts, [*starts[1:], len(run)], strict=True):
            label = " ".join(phone.label for phone in run[first:last])
            found.append(Segment(run[first].start, run[last - 1].end, label))
    return tuple(found)


def _phones_by_word(phones: Sequence[Segment], words: Sequence[Segment]) -> Iterator[list[Segment]]:
    """Yield runs of phones in which syllables may form: phones of one word, without a silence between them."""
    run: list[Segment] = []
    word = 0
    place_before = (0, False)
    for phone in phones:
        while word < len(words) and words[word].end <= phone.middle:
            word += 1
        inside = word < len(words) and words[word].start <= phone.middle
        place = (word, inside)
        separates = is_silence(phone.label) or is_unknown(phone.label)
        if run and (separates or place != place_before):
            yield run
            run = []
        if not separates:
            run.append(phone)
        place_before = place
    if run:
        yield run
