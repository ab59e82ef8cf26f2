"""Text rules that recognisers and error rates share: normalising, and what a word is in scripts without spaces.

Spaces carry no information in Chinese, Japanese, Thai, Lao, Khmer and Burmese: corpora write them between characters,
between words, or not at all. There every character counts as a word, as in the mixed error rate (MER) of code-switched
speech: "我 用 iPhone" is three words. Whisper's `BasicTextNormalizer` does not fit: it replaces combining marks by
spaces, which takes Hindi and Thai words apart.
"""

import re
import unicodedata

# Unicode blocks of scripts that write no spaces between words.
UNSPACED = (
    r"\u0e00-\u0eff"  # Thai, Lao
    r"\u1000-\u109f\uaa60-\uaa7f"  # Burmese and other languages of Myanmar
    r"\u1780-\u17ff"  # Khmer
    r"\u1950-\u19df\u1a20-\u1aaf\uaa80-\uaadf"  # Tai languages
    r"\u1b00-\u1b7f\ua980-\ua9ff"  # Balinese, Javanese
    r"\u2e80-\u312f\u31a0-\u31ff\u3400-\u9fff\uf900-\ufaff\U0001aff0-\U0001b16f\U00020000-\U0003ffff"  # Han, kana
)
HANGUL = r"\u1100-\u11ff\uac00-\ud7ff"  # words have spaces, but where is left to the writer

# Languages whose texts are compared without spaces even where a clip has only Latin letters.
SPACELESS_LANGUAGES = frozenset("zh yue wuu nan hak gan hsn cdo lzh ja th lo km my shn ko".split())
# ISO 639-3, and 639-2 where it has a second code, to the code used here.
SAME_LANGUAGE = {
    **dict.fromkeys(("zho", "chi", "cmn"), "zh"),
    **dict.fromkeys(("mya", "bur"), "my"),
    **dict.fromkeys(("aze", "azj"), "az"),
    **{"tur": "tr", "jpn": "ja", "tha": "th", "lao": "lo", "khm": "km", "kor": "ko", "eng": "en"},
}

# Other characters for the apostrophe, and invisible or typographic ones that stand inside of words.
_REPLACED = str.maketrans(
    {
        **dict.fromkeys("\u2019\u02bc\u055a\u05f3`", "'"),  # also Ukrainian, Armenian, Hebrew geresh
        "\u200b": " ",  # zero-width space, between words of Khmer and Thai
        **dict.fromkeys("\u00ad\u200d\u2060\ufeff\u20e3", ""),  # soft hyphen, joiners, byte order mark, keycap
        **dict.fromkeys(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))), ""),  # variation selectors
        **dict.fromkeys("\u055b\u055c\u055e", ""),  # Armenian stress, exclamation and question: on a vowel
        "\u0640": "",  # Arabic tatweel, which stretches a word
    }
)
_NON_JOINER = re.compile("(?<![\u0600-\u06ff])\u200c")  # between parts of a word in Persian, within it in Indic scripts
# Beside these scripts an apostrophe is a quotation mark: ‘你好’.
_SPACES = re.compile(rf"[\s']+(?=[{UNSPACED}])|(?<=[{UNSPACED}])[\s']+")
_UNSPACED = re.compile(f"([{UNSPACED}])")
_SPACELESS = re.compile(f"[{UNSPACED}{HANGUL}]")


def primary_language(code: str | None) -> str | None:
    """Return the language of a code without region or script, in two letters where this package knows them.

    >>> [primary_language(code) for code in ("zh-CN", "cmn_hans_cn", "en (Welsh)", "yue")]
    ['zh', 'zh', 'en', 'yue']
    """
    parts = re.split(r"[^a-z]+", (code or "").strip().lower())
    return SAME_LANGUAGE.get(parts[0], parts[0]) or None


def normalise(text: str, language: str | None = None) -> str:
    """Lower the case and replace everything except letters, digits and apostrophes by single spaces.

    The text is brought to NFKC, so that composed and decomposed letters and full and half width are alike. Spaces
    and apostrophes beside characters of unspaced scripts are left out.

    Args:
        text: In any script.
        language: ISO 639 code; Turkish and Azeri have a lower case of their own. None: not known.

    >>> normalise("“Don’t!” — well-known")
    "don't well known"
    >>> normalise("今 天， 我 用 ｉＰｈｏｎｅ")
    '今天我用iphone'
    """
    text = unicodedata.normalize("NFKC", text.replace("\u00b4", "'"))  # NFKC makes a space and a mark of an acute
    text = _NON_JOINER.sub("", text).translate(_REPLACED)
    text = _SPACES.sub("", text)
    if primary_language(language) in ("tr", "az"):
        text = text.replace("İ", "i").replace("I", "ı")
    # Again, as marks may have met their letter by now, and lower() can leave a text that is not in normal form.
    # Outside of Turkish, lower() leaves the dot of \u0130 behind as a mark.
    text = unicodedata.normalize("NFKC", text.lower().replace("i\u0307", "i"))
    kept = [" "]
    for c in text:
        category = unicodedata.category(c)[0]
        if category in "LN" or c == "'":
            kept.append(c)
        elif category != "M":
            kept.append(" ")
        elif kept[-1] != " ":  # a mark without a letter is what remains of a symbol
            kept.append(c)
    return _SPACES.sub("", " ".join("".join(kept).split()))


def split_words(text: str) -> list[str]:
    """Split a text at white space, and around every character of an unspaced script.

    >>> split_words("我用iphone pro")
    ['我', '用', 'iphone', 'pro']
    """
    return _UNSPACED.sub(r" \1 ", text).split()


def is_spaceless(text: str, language: str | None = None) -> bool:
    """Tell whether spaces are no characters of this text: by its language, or by any character of it."""
    return primary_language(language) in SPACELESS_LANGUAGES or _SPACELESS.search(text) is not None
