"""Phone labels: silence, manner classes, closures, syllables, and the parts of a tier that are speech.

Labels are ARPAbet with stress digits (CMUdict, MFA's english_us_arpa), TIMIT's 61 or Buckeye's, in either case, with or
without Kaldi's word positions (`SH_B`); or IPA (MFA's other models) or X-SAMPA (MAUS). ARPAbet's T is a stop and
X-SAMPA's a fricative: `alphabet_of` tells by the vowels of a tier which of the two it is written in.
"""

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float

from flexicodec.corpus.alignments.alignment import SAME_TIME, Segment

# Of MFA, TIMIT, MAUS, Festival and Buckeye; then of lexicons of Kaldi and HTK, and of transcripts
_SILENCES = """
    sp sil ssil silence <sil> <silence> h# #h # ## pau epi <p:> <p> <#> _ {b_trans} {e_trans}
    <eps> !sil <s> </s> !enter !exit sent-start sent-end sent_start sent_end
    [sil] (sil) [silence] (silence) <pause> [pause] (pause)
"""
SILENCES = frozenset(("", *_SILENCES.split()))
# Of MFA and Kaldi; then of Buckeye
UNKNOWNS = frozenset("spn nsn lau unk oov brth noise vocnoise laugh iver unknown exclude cutoff error".split())
_IN_BRACKETS = re.compile(r"<.+>|\[.+\]|\{.+\}|\(.+\)|\++[a-z]+\++")  # <usb>, [noise], +SPN+
_POSITION = re.compile(r"(?<=.)_[BIES]$")  # in a word: beginning, inside, end, or a phone that is the whole word

MANNERS = {
    "vowel": "iy ih eh ey ae aa aw ay ah ao oy ow uh uw ux er ax ix axr ax-h".split(),
    "glide": "w y".split(),
    "liquid": "l r el".split(),
    "nasal": "m n ng em en eng nx".split(),
    "fricative": "s sh z zh f th v dh hh hv".split(),
    "affricate": "ch jh".split(),
    "stop": "b d g p t k dx q tq".split(),
    "closure": "bcl dcl gcl pcl tcl kcl".split(),
}
CLASSES = (*MANNERS, "silence", "other")  # "other": unknown words, noises, labels of another alphabet
_CLASS_OF = {phone: name for name, members in MANNERS.items() for phone in members}

# Symbols of IPA, and of X-SAMPA where these are others (J. C. Wells, "Computer-coding the IPA", 1995)
_SYMBOLS = {
    "vowel": "i y ɨ ʉ ɯ u ɪ ʏ ʊ e ø ɘ ɵ ɤ o ə ɛ œ ɜ ɞ ʌ ɔ æ ɐ a ɶ ɑ ɒ ɚ ɝ ᵻ "
    "1 } M I Y U 2 @\\ 8 7 @ E 9 3 3\\ V O { 6 & A Q I\\ U\\",
    "glide": "j w ɥ ɰ ʍ ʋ H M\\ W P v\\",
    "liquid": "l r ɹ ɾ ɻ ɽ ɫ ʎ ʟ ɭ ɺ ʀ r\\ 4 L 5 L\\ R\\ l\\",
    "nasal": "m ɱ n ɳ ɲ ŋ ɴ F J N N\\",
    "fricative": "ɸ β f v θ ð s z ʃ ʒ ʂ ʐ ç ʝ x ɣ χ ʁ ħ ʕ h ɦ ɬ ɮ ɕ ʑ ɧ "
    "p\\ B T D S Z C j\\ G X R X\\ ?\\ h\\ K K\\ s\\ z\\ x\\",
    "affricate": "ʧ ʤ ʦ ʣ ʨ ʥ",
    "stop": "p b t d ʈ ɖ c ɟ k g ɡ q ɢ ʔ J\\ G\\ ?",
}
_CLASS_OF_SYMBOL = {symbol: name for name, members in _SYMBOLS.items() for symbol in members.split()}
_SAMPA_MARKS = re.compile(r"_[^_]|[`:~=%\"']")  # length, nasality, stress, retroflexion, what follows an underscore
_SYLLABIC_MARK = re.compile("\N{COMBINING VERTICAL LINE BELOW}|\N{COMBINING VERTICAL LINE ABOVE}|=")
ARPABET = "ARPAbet"
IPA = "IPA"  # or X-SAMPA, which writes the same symbols in ASCII

SYLLABIC = frozenset((*MANNERS["vowel"], "el", "em", "en", "eng"))
RELEASES = {"bcl": ("b",), "dcl": ("d", "jh"), "gcl": ("g",), "pcl": ("p",), "tcl": ("t", "ch"), "kcl": ("k",)}

# The 39 classes of K.-F. Lee and H.-W. Hon, "Speaker-independent phone recognition using hidden Markov models" (1989)
_FOLDS = "ao>aa ax>ah ax-h>ah axr>er hv>hh ix>ih el>l em>m en>n nx>n eng>ng zh>sh ux>uw"
FOLDED = dict(pair.split(">") for pair in _FOLDS.split())

COUNTINGS = ("all", "speech", "merged")
"""Ways to count phones: every label; without silences; and with a closure and its release as one."""


def phone_name(label: str, alphabet: str = ARPABET) -> str:
    """Return a label without stress and word position, and in lower case where case means nothing: AH0_B becomes ah."""
    name = _POSITION.sub("", label.strip())
    if alphabet == IPA:
        return name.lstrip('ˈˌ"%')
    name = name.lower()
    return name.rstrip("012") or name


def is_silence(label: str) -> bool:
    """Return whether a label stands for silence: empty, sp, sil, and TIMIT's h#, pau and epi; spn does not."""
    return _POSITION.sub("", label.strip()).lower() in SILENCES


def is_unknown(label: str) -> bool:
    """Return whether a label stands for noise, or speech that was not spelled: spn, <unk>, Buckeye's VOCNOISE."""
    name = _POSITION.sub("", label.strip()).lower()
    return name in UNKNOWNS or (name not in SILENCES and _IN_BRACKETS.fullmatch(name) is not None)


def has_primary_stress(label: str) -> bool:
    """Return whether a label is marked with primary stress: AH1, or an IPA symbol after its mark."""
    name = _POSITION.sub("", label.strip())
    return name.startswith(("ˈ", '"')) or (name.endswith("1") and _arpabet_class(name) == "vowel")


def alphabet_of(labels: Iterable[str]) -> str:
    """Tell `ARPABET` (TIMIT's and Buckeye's labels too) from `IPA` (X-SAMPA too) by the labels of a tier.

    All vowels of ARPAbet have two letters, which few phones of the others have in common.
    """
    ours = theirs = 0
    for label in labels:
        if not (is_silence(label) or is_unknown(label)):
            kind = _arpabet_class(label)
            ours += kind == "vowel"
            theirs += kind is None and _symbol_class(label) is not None
    return IPA if theirs > ours else ARPABET


def phone_class(label: str, alphabet: str = ARPABET) -> str:
    """Return the class of a phone, one of `CLASSES`; a phone that the alphabet lacks is looked up in the other one."""
    if is_silence(label):
        return "silence"
    if is_unknown(label):
        return "other"
    kinds = [_arpabet_class(label), _symbol_class(label)]
    if alphabet == IPA:
        kinds.reverse()
    return kinds[0] or kinds[1] or "other"


def _arpabet_class(label: str) -> str | None:
    name = phone_name(label)
    if name not in _CLASS_OF and name[:-1] in MANNERS["vowel"] and name.endswith("n"):
        return "vowel"  # nasalised in Buckeye: aan
    return _CLASS_OF.get(name)


def _symbol_class(label: str) -> str | None:
    """Return the class of a phone in IPA or X-SAMPA by its first symbols; None for what is no single phone."""
    kinds = []
    name = unicodedata.normalize("NFC", phone_name(label, IPA))
    for symbol in re.findall(r".\\?", _SAMPA_MARKS.sub("", name)):
        plain = unicodedata.normalize("NFD", symbol)[0]  # a vowel without its accent
        kind = _CLASS_OF_SYMBOL.get(symbol) or _CLASS_OF_SYMBOL.get(plain)
        if kind:  # marks such as length, tones and tie bars have none
            kinds.append(kind)
    if not kinds or len(kinds) > 3:
        return None
    if kinds[0] == "vowel" or len(kinds) == 1:  # diphthongs, vowels with r
        return kinds[0]
    if kinds == ["stop", "fricative"]:
        return "stop" if name[-1] in "hɦ" else "affricate"
    return kinds[0] if kinds[1:] == kinds[:1] else None  # long consonants: tt


def fold_to_39(label: str) -> str | None:
    """Map a phone to one of the 39 classes of Lee and Hon; closures and silences to "sil", the glottal stop to None."""
    if is_silence(label):
        return "sil"
    phone = phone_name(label)
    if phone not in _CLASS_OF:
        raise ValueError(f"{label!r} is no phone of ARPAbet or TIMIT; are the labels IPA, or letters?")
    if _CLASS_OF[phone] == "closure":
        return "sil"
    return None if phone in ("q", "tq") else FOLDED.get(phone, phone)


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
            releases = RELEASES[phone_name(closure.label)]
            if phone and phone_name(phone.label) in releases and phone.start <= closure.end + SAME_TIME:
                phone = Segment(closure.start, phone.end, phone.label)
            else:
                merged.append(Segment(closure.start, closure.end, releases[0]))
            closure = None
        if phone and phone_name(phone.label) in RELEASES:
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
_ONSET_NAMES = dict(
    pair.split(">")
    for pair in "θ>th T>th ð>dh D>dh ʃ>sh S>sh ʒ>zh Z>zh h>hh ɦ>hh tʃ>ch tS>ch dʒ>jh dZ>jh ɹ>r r\\>r ʁ>r R>r j>y ɡ>g "
    "ɫ>l ɾ>dx 4>dx ʔ>q ?>q c>k ɟ>g ɲ>n ç>hh C>hh x>hh ts>ch pf>f ʋ>v".split()
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
    alphabet = alphabet_of(phone.label for phone in phones)
    for run in _phones_by_word(merge_closures(phones), without_silence(words)):
        names = [_onset_name(phone.label, alphabet) for phone in run]
        nuclei = [i for i, phone in enumerate(run) if _is_nucleus(phone.label, alphabet)]
        starts = [0]
        for before, nucleus in zip(nuclei, nuclei[1:], strict=False):
            starts.append(next(i for i in range(before + 1, nucleus + 1) if tuple(names[i:nucleus]) in ONSETS))
        for first, last in zip(starts, [*starts[1:], len(run)], strict=True):
            label = " ".join(phone.label for phone in run[first:last])
            found.append(Segment(run[first].start, run[last - 1].end, label))
    return tuple(found)


def _is_nucleus(label: str, alphabet: str) -> bool:
    is_syllabic = alphabet == IPA and _SYLLABIC_MARK.search(label) is not None
    return is_syllabic or phone_name(label) in SYLLABIC or phone_class(label, alphabet) == "vowel"


def _onset_name(label: str, alphabet: str) -> str:
    """Return the name of a consonant as `ONSETS` has it; consonants that English lacks count as its nearest ones."""
    if alphabet == ARPABET:
        return phone_name(label)
    name = re.sub("[ʰʲʷː:_`]|[^\\w?@\\\\]", "", phone_name(label, IPA))  # without marks of secondary articulation
    return _ONSET_NAMES.get(name, name)


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
