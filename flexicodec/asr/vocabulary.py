"""Vocabularies of a recogniser: characters, SentencePiece pieces or phones, and conversion of texts to codes.

Code 0 is CTC's blank in all of them. Texts are normalised first, so that case and punctuation do not matter.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, TypeAlias

from flexicodec.asr.text import normalise
from flexicodec.io_utils import needed_for, replacing

PIECES_NAME = "sentencepiece.model"
LEXICON_NAME = "lexicon.tsv"


@dataclass(frozen=True)
class CharacterConfig:
    """One symbol per character."""

    alphabet: str = " 'abcdefghijklmnopqrstuvwxyz"  # in the order of codes; lower case, a space separates words
    kind: Literal["character"] = "character"

    def __post_init__(self) -> None:
        if repeated := sorted({c for c in self.alphabet if self.alphabet.count(c) > 1}):
            raise ValueError(f"alphabet has {repeated} more than once")
        # Marks need a letter before them; one of Han composes with none, but an apostrophe beside it is a quote.
        if unused := [c for c in self.alphabet if c not in " '" and normalise("一" + c) != "一" + c]:
            raise ValueError(f"alphabet has {unused}, but texts are lowered and lose their punctuation first")


@dataclass(frozen=True)
class SentencePieceConfig:
    """Word pieces of SentencePiece's unigram model (arXiv 1808.06226)."""

    size: int = 256  # symbols to aim at, the blank included; a small corpus may give fewer
    model: str | None = None  # file of the SentencePiece model; None: training makes one from its texts
    kind: Literal["sentencepiece"] = "sentencepiece"


@dataclass(frozen=True)
class PhoneConfig:
    """Phones, looked up word by word.

    The lexicon is a text file with a word and its phones per line, separated by white space, as in CMUdict. The first
    of several pronunciations is used, and the phones that occur are the symbols.
    """

    lexicon: str
    kind: Literal["phone"] = "phone"


VocabularyConfig: TypeAlias = CharacterConfig | SentencePieceConfig | PhoneConfig


class Vocabulary(ABC):
    """Symbols by code, and conversion of texts to codes and back."""

    symbols: tuple[str, ...]  # the first is the blank, an empty string

    def __len__(self) -> int:
        return len(self.symbols)

    @abstractmethod
    def encode(self, text: str) -> list[int] | None:
        """Convert a normalised text to codes; None where it has unknown symbols or words."""

    @abstractmethod
    def decode(self, codes: Sequence[int]) -> str:
        """Convert codes (no blanks) to text; phones with spaces between them."""

    @abstractmethod
    def save(self, folder: Path) -> VocabularyConfig:
        """Write the files that `open_vocabulary` needs and return the config, with names relative to the folder."""

    def reference(self, text: str) -> str | None:
        """Return the text of a perfect transcript; None where the vocabulary cannot spell it."""
        codes = self.encode(text)
        return None if codes is None else self.decode(codes)


class _Characters(Vocabulary):
    def __init__(self, config: CharacterConfig):
        self.config = config
        self.symbols = ("", *config.alphabet)
        self._codes = {symbol: code for code, symbol in enumerate(self.symbols)}

    def encode(self, text: str) -> list[int] | None:
        text = normalise(text)
        if not set(text) <= self._codes.keys():
            return None
        return [self._codes[c] for c in text]

    def decode(self, codes: Sequence[int]) -> str:
        return " ".join("".join(self.symbols[code] for code in codes).split())

    def save(self, folder: Path) -> CharacterConfig:
        return self.config


class _Pieces(Vocabulary):
    """SentencePiece; the blank takes the code 0 of its `<unk>`."""

    def __init__(self, config: SentencePieceConfig, model: bytes):
        self.config = config
        self.model = model
        self._processor: Any = _sentencepiece().SentencePieceProcessor()
        self._processor.LoadFromSerializedProto(model)
        if self._processor.unk_id() != 0 or self._processor.bos_id() != -1 or self._processor.eos_id() != -1:
            raise ValueError(
                "the SentencePiece model has <unk> elsewhere than at 0, or symbols for the start and end of sentences; "
                "make one with unk_id=0, bos_id=-1, eos_id=-1"
            )
        self.symbols = ("", *(self._processor.IdToPiece(code) for code in range(1, self._processor.GetPieceSize())))

    def encode(self, text: str) -> list[int] | None:
        codes = self._processor.EncodeAsIds(normalise(text))
        return None if 0 in codes else codes  # 0 is <unk>

    def decode(self, codes: Sequence[int]) -> str:
        return self._processor.DecodeIds(list(codes)) if len(codes) else ""

    def save(self, folder: Path) -> SentencePieceConfig:
        with replacing(folder / PIECES_NAME) as part:
            part.write_bytes(self.model)
        return SentencePieceConfig(size=len(self), model=PIECES_NAME)


class _Phones(Vocabulary):
    def __init__(self, lexicon: dict[str, tuple[str, ...]]):
        self.lexicon = lexicon
        self.symbols = ("", *sorted({phone for phones in lexicon.values() for phone in phones}))
        self._codes = {symbol: code for code, symbol in enumerate(self.symbols)}

    def encode(self, text: str) -> list[int] | None:
        words = normalise(text).split()
        if not all(word in self.lexicon for word in words):
            return None
        return [self._codes[phone] for word in words for phone in self.lexicon[word]]

    def decode(self, codes: Sequence[int]) -> str:
        return " ".join(self.symbols[code] for code in codes)

    def save(self, folder: Path) -> PhoneConfig:
        lines = (f"{word}\t{' '.join(phones)}\n" for word, phones in self.lexicon.items())
        with replacing(folder / LEXICON_NAME) as part:
            part.write_text("".join(lines), encoding="utf-8")
        return PhoneConfig(LEXICON_NAME)


def open_vocabulary(config: VocabularyConfig, folder: str | Path = ".") -> Vocabulary:
    """Make the vocabulary of a config whose file names are relative to a folder."""
    if isinstance(config, CharacterConfig):
        return _Characters(config)
    name = config.model if isinstance(config, SentencePieceConfig) else config.lexicon
    if name is None:
        raise ValueError("there is no SentencePiece model yet: train-asr makes one, or name a file in `model`")
    path = Path(folder) / name
    if not path.is_file():
        raise ValueError(f"the vocabulary's file {path} is missing")
    if isinstance(config, SentencePieceConfig):
        return _Pieces(config, path.read_bytes())
    return _Phones(read_lexicon(path))


def read_lexicon(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Read words and phones; comments start with `;;;`, and other pronunciations, `word(2)`, are left out."""
    lexicon: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        # WORD(2)  W ER1 D
        word, *phones = line.split() or [";;;"]
        if word.startswith(";;;"):
            continue
        if not phones:
            raise ValueError(f"{path}:{number}: expected a word and its phones, got {line!r}")
        lexicon.setdefault(normalise(re.sub(r"\(\d+\)$", "", word)), tuple(phones))
    if not lexicon:
        raise ValueError(f"{path} lists no words")
    return lexicon


def train_pieces(texts: Iterable[str], size: int) -> bytes:
    """Train a SentencePiece model of at most `size` pieces, the blank included; deterministic."""
    # SentencePiece needs a piece for every character, and one for the blank.
    lines = [line for line in map(normalise, texts) if line]
    characters = len(set("".join(lines)) | {" "})
    if not lines or characters + 1 > size:
        raise ValueError(
            f"{len(lines)} texts of {characters} different characters cannot be cut into {size} pieces; "
            "is the manifest without text, or size too small?"
        )
    model = BytesIO()
    _sentencepiece().SentencePieceTrainer.Train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=size,
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="identity",
        max_sentence_length=1 << 16,
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def _sentencepiece() -> Any:
    with needed_for("a vocabulary of pieces", "sentencepiece", "flexicodec-lab[train]"):
        import sentencepiece
    return sentencepiece
