"""The text front end of released weights: English phones by espeak-ng, rewritten for Whisper's byte-pair vocabulary.

Whisper's vocabulary spends several ids on most phonetic letters, so these are replaced by letters that cost one each.
"""

import base64
import re
import shutil
import subprocess
import unicodedata
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import tiktoken

ENGLISH = "en"
ENGLISH_VOICE = "en-us"
FIRST_LANGUAGE = 50_259  # id of the first of `LANGUAGES`
# Whisper's languages, in the order of their ids.
LANGUAGES = (
    "en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th ur hr "
    "bg lt la mi ml cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr pa si km sn "
    "yo so af oc ka be tg sd gu am yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt haw ln ha ba jw su"
).split()

# Marks that stay in the text; espeak reads what is between them. Points and commas inside numbers are no marks.
MARKS = re.compile(r"(\s*(?:(?<!\d)[.,]|[.,](?!\d)|[;:!?¡¿—…\"«»“”(){}\[\]])[;:,.!?¡¿—…\"«»“”(){}\[\]\s]*)")
STRESS = re.compile("[ˈˌ]")
LANGUAGE_SWITCH = re.compile(r"\([a-z-]+\)")  # espeak marks words that it reads as of another language
REWRITTEN = str.maketrans(
    {
        "\u02d0": "~",  # long
        "\u028c": "\u03b1",  # alpha
        "\u0251": "\u03b1",
        "\u026a": "\u03b9",  # iota
        "\u028a": "\u03c5",  # upsilon
        "\u0279": "r",
        "\u0250": "a",
        "\u0283": "\u03c1",  # rho
        "\u025b": "\u03b5",  # epsilon
        "\u014b": "ng",
        "\u0261": "g",
        "\u0254": "\u03bf",  # omicron
        "\u0292": "\u03c8",  # psi
        "\u027e": "\u03c4",  # tau
        "\u025a": "\u0259r",
        "\u1d7b": "i",
        "\u025c": "\u0259",
    }
)
# How GPT-2, and Whisper after it, splits text before pairs of bytes are merged.
SPLIT = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


class TextFrontend(Protocol):
    """Text to the ids that a model was trained with."""

    def encode(self, text: str, language: str = ENGLISH) -> list[int]:
        """Return the ids of a text.

        Raises:
            ValueError: An empty text, a language or characters that it does not know.
        """


class EspeakFrontend:
    """Phones of espeak-ng's American English voice in Whisper's ids, with the language's id in front.

    Args:
        espeak: Name or path of espeak-ng's binary. Ids depend on its version; released weights were trained with 1.51
            or near it.
        compatible: Read every language with the English voice, as upstream does; False refuses all but English.
    """

    def __init__(self, espeak: str = "espeak-ng", *, compatible: bool = False) -> None:
        self.espeak = espeak
        self.compatible = compatible

    def encode(self, text: str, language: str = ENGLISH) -> list[int]:
        """See `TextFrontend.encode`."""
        if language not in LANGUAGES:
            raise ValueError(f"language is {language!r}; expected one of Whisper's codes, such as 'en'")
        if not self.compatible:
            check_english(text, language)
        rewritten = rewrite(self.phonemize(text))
        if not rewritten:
            raise ValueError(f"the text {text!r} holds nothing that is spoken")
        return encode_rewritten(rewritten, language)

    def phonemize(self, text: str) -> str:
        """Return a text in phones (IPA), punctuation kept, no stress marks; a space at the end as phonemizer has it."""
        # Even parts are read, odd ones are marks.
        parts = MARKS.split(text.replace("^", "'"))
        spoken = []
        for index, part in enumerate(parts):
            spoken.append(part if index % 2 else self._read(part))
        return "".join(spoken).strip() + " "

    def _read(self, text: str) -> str:
        if not text.strip():
            return ""
        binary = shutil.which(self.espeak)
        if binary is None:
            raise ValueError(
                f"{self.espeak} was not found, and it turns text into phones; install it (apt install espeak-ng)"
            )
        command = [binary, "-q", "--ipa", "-v", ENGLISH_VOICE, "--stdin"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, encoding="utf-8", check=False)
        if done.returncode != 0:
            raise ValueError(f"{self.espeak} failed on {text!r}: {done.stderr.strip()}")
        phones = LANGUAGE_SWITCH.sub("", STRESS.sub("", done.stdout))
        return " ".join(phones.split())


def rewrite(phones: str) -> str:
    """Replace phonetic letters by those that Whisper's vocabulary has; not every pair stays apart."""
    return phones.strip().translate(REWRITTEN)


def encode_rewritten(text: str, language: str = ENGLISH) -> list[int]:
    """Return the id of the language, then those of the text."""
    return [FIRST_LANGUAGE + LANGUAGES.index(language), *_vocabulary().encode_ordinary(text)]


def check_english(text: str, language: str) -> None:
    """Refuse languages and letters that the English voice cannot read.

    Raises:
        ValueError: Says which.
    """
    if language != ENGLISH:
        raise ValueError(
            f"language is {language!r}, but this front end reads English only; with compatible=True it reads any "
            "language with the English voice, as upstream does"
        )
    if not text.strip():
        raise ValueError("the text is empty")
    unknown = [letter for letter in text if letter.isalpha() and "LATIN" not in unicodedata.name(letter, "")]
    if unknown:
        shown = "".join(dict.fromkeys(unknown))[:10]
        raise ValueError(f"the text has letters that no English word has ({shown}); is it in another language?")


@cache
def _vocabulary() -> "tiktoken.Encoding":
    """Whisper's multilingual vocabulary, without special ids."""
    try:
        import tiktoken
    except ImportError as error:
        raise ImportError("tiktoken is not installed: pip install flexicodec-lab[tts]") from error
    path = files("flexicodec") / "assets" / "whisper" / "multilingual.tiktoken"
    ranks = {}
    for line in path.read_bytes().splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    return tiktoken.Encoding("multilingual", pat_str=SPLIT, mergeable_ranks=ranks, special_tokens={})
