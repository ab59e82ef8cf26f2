"""What a recogniser understands of decoded speech: word and character errors against what was said.

Conventions: texts are normalised by a named normaliser before they are compared; the name belongs beside every rate.
Rates of a corpus are all errors over the length of all references, never a mean of rates (they are shares: 0.05 is
5 %), and insertions let them exceed 1. What is heard where nothing was said (silence, a text of nothing but signs) is
inserted: it counts above the line of a corpus and adds nothing below it, as jiwer has it for lists of texts. Words
stand between spaces; characters include the spaces between words.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from flexicodec.asr import normalise
from flexicodec.evaluation.sources import fetch

Normaliser = Callable[[str], str]
NORMALISERS = ("basic", "whisper-english")
HIGHER_IS_BETTER = {"wer": False, "cer": False}


@dataclass(frozen=True)
class ErrorCounts:
    """Errors in one transcript, or in many.

    Attributes:
        errors: Insertions, deletions and substitutions in all.
        length: Words or characters of the reference.
        insertions: Heard but not said.
        deletions: Said but not heard.
        substitutions: One heard for another.
    """

    errors: int
    length: int
    insertions: int = 0
    deletions: int = 0
    substitutions: int = 0

    @property
    def rate(self) -> float:
        """Errors per word or character of the reference, a share; NaN for an empty reference."""
        return self.errors / self.length if self.length else math.nan

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        return ErrorCounts(
            self.errors + other.errors,
            self.length + other.length,
            self.insertions + other.insertions,
            self.deletions + other.deletions,
            self.substitutions + other.substitutions,
        )


def open_normaliser(spec: str = "basic") -> Normaliser:
    """Find a normaliser by name.

    Args:
        spec: "basic": lower case, nothing but letters, digits and apostrophes, any language (the recogniser's own).
            "whisper-english": as Whisper's authors evaluate English (contractions, numbers, titles, fillers), by
            transformers. Its table of British and American spellings is part of Whisper's files, so that
            "whisper-english:SOURCE" takes it from a folder or hub id (normalizer.json); without, spellings stay.

    Raises:
        ValueError: There is no such normaliser, or its table cannot be had.
    """
    return _normaliser(spec)


def word_errors(reference: str, hypothesis: str, normaliser: str | Normaliser = "basic") -> ErrorCounts:
    """Count the word errors of a transcript, by jiwer.

    Args:
        reference: What was said.
        hypothesis: What was understood.
        normaliser: A name for `open_normaliser`, or a function from text to text.

    Raises:
        ValueError: Not two texts.
    """
    return _count(reference, hypothesis, normaliser, "words")


def character_errors(reference: str, hypothesis: str, normaliser: str | Normaliser = "basic") -> ErrorCounts:
    """Count the character errors of a transcript, by jiwer; arguments and errors are those of `word_errors`."""
    return _count(reference, hypothesis, normaliser, "characters")


def pool(counts: Iterable[ErrorCounts]) -> ErrorCounts:
    """Add up the errors of many transcripts; its `rate` is the corpus rate."""
    return sum(counts, ErrorCounts(0, 0))


def evaluate(
    references: Sequence[str], hypotheses: Sequence[str], normaliser: str | Normaliser = "basic"
) -> dict[str, float]:
    """Compute the word and character error rates of a corpus, shares; NaN where nothing was said at all.

    They are those of `jiwer.wer` and `jiwer.cer` of the normalised lists.

    Raises:
        ValueError: Not a transcript per reference, or see `word_errors`.
    """
    if isinstance(references, str) or isinstance(hypotheses, str) or len(references) != len(hypotheses):
        raise ValueError(
            f"expected two lists of texts of one length, got {_amount(references)} and {_amount(hypotheses)}"
        )
    pairs = list(zip(references, hypotheses, strict=True))
    return {
        "wer": pool(word_errors(*pair, normaliser) for pair in pairs).rate,
        "cer": pool(character_errors(*pair, normaliser) for pair in pairs).rate,
    }


def _amount(texts: Sequence[str]) -> str:
    return "one text" if isinstance(texts, str) else str(len(texts))


def _count(reference: str, hypothesis: str, normaliser: str | Normaliser, unit: str) -> ErrorCounts:
    try:
        import jiwer
    except ImportError as error:
        raise ImportError("error rates need jiwer: pip install flexicodec-lab[eval]") from error
    for name, text in (("reference", reference), ("hypothesis", hypothesis)):
        if not isinstance(text, str):
            raise ValueError(f"{name} is {text!r}; expected a text (the empty text where nothing was understood)")
    change = open_normaliser(normaliser) if isinstance(normaliser, str) else normaliser
    process = jiwer.process_words if unit == "words" else jiwer.process_characters
    found = process(change(reference), change(hypothesis))
    kinds = found.insertions, found.deletions, found.substitutions
    return ErrorCounts(sum(kinds), found.hits + found.deletions + found.substitutions, *kinds)


@lru_cache(maxsize=8)
def _normaliser(spec: str) -> Normaliser:
    name, _, source = spec.partition(":")
    if name not in NORMALISERS or (source and name != "whisper-english"):
        raise ValueError(
            f"there is no normaliser {spec!r}; expected {', '.join(NORMALISERS)} or whisper-english:SOURCE"
        )
    if name == "basic":
        return normalise
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    spellings: dict[str, str] = {}
    if source:
        file = fetch("Whisper's spellings", source, ["normalizer.json"]) / "normalizer.json"
        if not file.is_file():
            raise ValueError(f"{file} is missing; expected Whisper's table of spellings (a Whisper folder or hub id)")
        spellings = json.loads(file.read_text(encoding="utf-8"))
    normaliser = EnglishTextNormalizer(spellings)
    return lambda text: " ".join(normaliser(text).split())
