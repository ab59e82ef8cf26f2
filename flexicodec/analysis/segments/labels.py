"""What labels of phones mean: silence, unknown speech, manner of articulation, and the customary 39 classes.

Labels are ARPAbet with stress digits (CMUdict, MFA's english_us_arpa) or TIMIT's 61, in either case. Folding to 39
classes follows K.-F. Lee and H.-W. Hon, "Speaker-independent phone recognition using hidden Markov models" (1989).
"""

SILENCES = frozenset(
    ("", "sp", "sil", "ssil", "silence", "<sil>", "<silence>", "<eps>", "<p:>", "h#", "pau", "epi", "#")
)
UNKNOWNS = frozenset(("spn", "<spn>", "<unk>", "unk", "nsn", "<nib>", "<usb>"))

_MEMBERS = {
    "vowel": "iy ih eh ey ae aa aw ay ah ao oy ow uh uw ux er ax ix axr ax-h",
    "glide": "w y",
    "liquid": "l r el",
    "nasal": "m n ng em en eng nx",
    "fricative": "s sh z zh f th v dh hh hv",
    "affricate": "ch jh",
    "stop": "b d g p t k dx q",
    "closure": "bcl dcl gcl pcl tcl kcl",
}
_CLASS_OF = {phone: name for name, members in _MEMBERS.items() for phone in members.split()}
CLASSES = (*_MEMBERS, "silence", "other")
"""Classes of phones; "other" is what is no English phone: unknown words, noises, labels of another alphabet."""

SYLLABIC = frozenset((*_MEMBERS["vowel"].split(), "el", "em", "en", "eng"))
_FOLDED = {
    **{"ao": "aa", "ax": "ah", "ax-h": "ah", "axr": "er", "hv": "hh", "ix": "ih", "el": "l", "em": "m", "en": "n"},
    **{"nx": "n", "eng": "ng", "zh": "sh", "ux": "uw"},
}


def plain(label: str) -> str:
    """Write a label in lower case and without stress: AH0 becomes ah."""
    return label.strip().lower().rstrip("012")


def is_silence(label: str) -> bool:
    """Tell whether a label stands for silence: empty, sp, sil, and TIMIT's h#, pau and epi; spn is not one."""
    return label.strip().lower() in SILENCES


def is_unknown(label: str) -> bool:
    """Tell whether a label stands for speech that the aligner could not spell: MFA's spn and <unk>."""
    return label.strip().lower() in UNKNOWNS


def phone_class(label: str) -> str:
    """Put a phone into one of `CLASSES`."""
    return "silence" if is_silence(label) else _CLASS_OF.get(plain(label), "other")


def fold(label: str) -> str | None:
    """Fold a phone to one of the 39 classes of Lee and Hon, in lower case.

    Closures and silences become "sil", and the glottal stop q nothing (None), as is the custom.

    Raises:
        ValueError: A label that is no phone of ARPAbet or TIMIT.
    """
    kind, phone = phone_class(label), plain(label)
    if kind == "other":
        raise ValueError(f"{label!r} is no phone of ARPAbet or TIMIT; are the labels IPA, or letters?")
    if kind in ("silence", "closure"):
        return "sil"
    return None if phone == "q" else _FOLDED.get(phone, phone)
