"""The text front end of models that are trained here: characters of the text, or of its phones, as ids.

Case, typographic apostrophes and white space make no difference, and punctuation that was not in training counts as a
space. Letters and digits that were not in training are errors.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from flexicodec.models.tts.text import ENGLISH, EspeakFrontend, check_english

APOSTROPHES = str.maketrans(dict.fromkeys("\u2019\u02bc\u2018`\u00b4", "'"))


@dataclass(frozen=True)
class CharacterConfig:
    """What a text is spelt with.

    Attributes:
        alphabet: Characters with an id, in this order; None takes those of the training texts.
        phones: Spell the phones that espeak-ng's American English voice reads, instead of the text.
    """

    alphabet: str | None = None
    phones: bool = False

    def __post_init__(self) -> None:
        letters = self.alphabet or ""
        if self.alphabet is not None and (" " not in letters or len(set(letters)) != len(letters)):
            raise ValueError(f"alphabet is {letters!r}; expected each character once, and a space among them")


class CharacterFrontend:
    """Text to ids by an alphabet; a `TextFrontend`.

    Args:
        config: With an alphabet.
    """

    def __init__(self, config: CharacterConfig) -> None:
        if config.alphabet is None:
            raise ValueError("alphabet is missing; training takes it from its texts")
        self.config = config
        self.ids = {letter: number for number, letter in enumerate(config.alphabet)}

    def encode(self, text: str, language: str = ENGLISH) -> list[int]:
        """Return the id of each character; see `TextFrontend.encode`."""
        spelt = spell(text, self.config, language)
        kept = "".join(letter if letter in self.ids or not _is_mark(letter) else " " for letter in spelt)
        kept = " ".join(kept.split())
        if not kept:
            raise ValueError(f"the text {text!r} holds nothing that is spoken" if text.strip() else "the text is empty")
        unknown = "".join(dict.fromkeys(letter for letter in kept if letter not in self.ids))
        if unknown:
            hint = "; write numbers in words" if any(letter.isdigit() for letter in unknown) else ""
            raise ValueError(
                f"the text has characters that were not in training ({unknown[:10]}){hint}; is it in another language?"
            )
        return [self.ids[letter] for letter in kept]


def spell(text: str, config: CharacterConfig, language: str = ENGLISH) -> str:
    """Return the characters of a text, or of its phones: lower case, single spaces, composed letters."""
    if config.phones:
        check_english(text, language)
        return EspeakFrontend().phonemize(text).strip()
    lowered = unicodedata.normalize("NFKC", text.translate(APOSTROPHES)).lower()
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", lowered)).strip()


def collect_alphabet(spelt: Iterable[str]) -> str:
    """Return the characters of spelt texts, with a space among them, in order."""
    return "".join(sorted({" "}.union(*map(set, spelt))))


def _is_mark(letter: str) -> bool:
    """Tell whether a character is punctuation or another mark, and no letter, digit or combining mark."""
    return unicodedata.category(letter)[0] in "PSZ"
