"""Text rules: what normalising makes alike, in which scripts, and what a word is where no spaces are written."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexicodec.asr import CharacterConfig, normalise, open_vocabulary
from flexicodec.asr.text import is_spaceless, primary_language, split_words

# The same words, written in two ways.
ALIKE = {
    "Chinese, spaced": ("今 天 天 气", "今天天气"),
    "Chinese, ideographic space": ("今天　天气", "今天天气"),
    "Chinese, punctuation": ("“你好”，《世界》！——对吗？（是）、……", "你好世界对吗是"),
    "Chinese and English": ("我 用 iPhone。", "我用iPhone"),
    "Chinese, full width": ("我用ｉＰｈｏｎｅ１５", "我用iphone15"),
    "Chinese, ideographic variant": ("葛\U000e0100城", "葛城"),
    "Chinese, single quotes": ("他说‘你好’，'再见'", "他说你好再见"),
    "Chinese, name with a dot": ("约翰·史密斯", "约翰史密斯"),
    "rare Han": ("𠮷 野 家", "𠮷野家"),
    "Cantonese": ("佢哋 喺 度 。", "佢哋喺度"),
    "Japanese, punctuation": ("「今日は、」と・言った。〜", "今日はと言った"),
    "Japanese, half width": ("ｶﾞｷﾞ ﾊﾟｿｺﾝ｡", "ガギパソコン"),
    "Japanese, spaced half width": ("ﾊ ﾟ", "パ"),
    "Japanese, decomposed": (unicodedata.normalize("NFD", "がぎぐ"), "がぎぐ"),
    "Thai, spaced": ("สวัสดี ครับ", "สวัสดีครับ"),
    "Thai, every character": ("ส ว ั ส ด ี", "สวัสดี"),
    "Thai, zero-width spaces": ("สวัสดี\u200bครับ", "สวัสดีครับ"),
    "Lao": ("ສະບາຍ ດີ", "ສະບາຍດີ"),
    "Khmer": ("សួស្តី\u200bពិភពលោក។", "សួស្តី ពិភពលោក"),
    "Burmese": ("မင်္ဂလာပါ ၊ ကမ္ဘာ ။", "မင်္ဂလာပါကမ္ဘာ"),
    "Korean, decomposed": (unicodedata.normalize("NFD", "나는 학교에"), "나는 학교에"),
    "Hindi, danda": ("नमस्ते दुनिया।॥", "नमस्ते दुनिया"),
    "Bengali, joiner": ("র\u200d্যাব", "র্যাব"),
    "Sinhala, joiner": ("ශ්\u200dරී", "ශ්රී"),
    "Arabic": ("هل، أنت؛ هنا؟", "هل أنت هنا"),
    "Arabic, tatweel": ("كتـــاب", "كتاب"),
    "Arabic, presentation forms": ("ﻻ", "لا"),
    "Urdu": ("یہ ہے۔", "یہ ہے"),
    "Persian, non-joiner": ("می\u200cخواهم", "می خواهم"),
    "Hebrew": ("שלום־עולם׃", "שלום עולם"),
    "Hebrew, geresh": ("ג׳ירפה", "ג'ירפה"),
    "Spanish": ("¿Qué tal? ¡Bien!", "qué tal bien"),
    "Spanish, decomposed": (unicodedata.normalize("NFD", "Qué mañana"), "qué mañana"),
    "French": ("« L’été », dit-elle…", "l'été dit elle"),
    "German": ("„Grüße“, sagte er – laut", "grüße sagte er laut"),
    "Greek": ("«Τι κάνεις;»", "τι κάνεις"),
    "Amharic": ("ሰላም፡ለዓለም።", "ሰላም ለዓለም"),
    "Armenian": ("Ինչո՞ւ, բարև՛։", "ինչու բարև"),
    "Tibetan": ("བཀྲ་ཤིས།", "བཀྲ ཤིས"),
    "Ukrainian": ("П\u02bcять п’ять", "п'ять п'ять"),
    "Vietnamese": (unicodedata.normalize("NFD", "Tiếng Việt"), "tiếng việt"),
    "English, no-break space and tab": ("well\u00a0known\tname\n", "well known name"),
    "English, acute and grave for an apostrophe": ("don´t, can`t", "don't can't"),
    "English, soft hyphen": ("co\u00adoperate", "cooperate"),
    "English, emoji": ("I ❤️ you 1️⃣", "i you 1"),
    "English, full width": ("ＡＢＣ　１２３", "abc 123"),
    "English, byte order mark": ("\ufeffhello", "hello"),
}


@pytest.mark.parametrize(("written", "plain"), ALIKE.values(), ids=ALIKE.keys())
def test_writing_does_not_matter(written, plain):
    assert normalise(written) == normalise(plain)
    assert normalise(normalise(written)) == normalise(written)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hello world", ["hello", "world"]),
        ("我用iphone pro", ["我", "用", "iphone", "pro"]),
        ("スーパーへ", list("スーパーへ")),
        ("人々", ["人", "々"]),
        ("ส วัส", ["ส", "ว", "ั", "ส"]),
        ("나는 학교에", ["나는", "학교에"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("2024年", ["2024", "年"]),
        ("𠮷a", ["𠮷", "a"]),
        ("", []),
    ],
)
def test_characters_of_unspaced_scripts_are_words(text, words):
    assert split_words(text) == words


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("hello world", None, False),
        ("hello world", "en-GB", False),
        ("hello world", "zh-CN", True),
        ("我 用 iphone", "en", True),  # a list with the wrong language
        ("나는 학교에", None, True),
        ("नमस्ते दुनिया", "hi", False),
        ("xin chào", "vi", False),
        ("", "ja", True),
    ],
)
def test_where_spaces_are_no_characters(text, language, expected):
    assert is_spaceless(text, language) is expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        *((code, "zh") for code in ("zh", "zh-cn", "zh_TW", "ZH", "cmn", "cmn_hans_cn", "zho", "chi")),
        *((code, code[:3]) for code in ("yue", "yue-HK", "yue_hant_hk", "wuu", "nan")),
        *((code, "ja") for code in ("ja", "jpn", "ja-JP")),
        *((code, "en") for code in ("en", "eng", "en (Welsh)", "en-US")),
        ("kor", "ko"),
        ("bur", "my"),
        (None, None),
        ("", None),
    ],
)
def test_codes_of_languages(code, expected):
    assert primary_language(code) == expected


def test_turkish_has_a_lower_case_of_its_own():
    assert normalise("DIŞ İSTANBUL", "tr") == normalise(unicodedata.normalize("NFD", "dış istanbul"), "tur")
    assert normalise("İI", "az") == "iı"
    assert normalise("I", "en") == normalise("I") == "i"
    assert normalise("İstanbul") == normalise("i\u0307stanbul") == "istanbul"  # where the language is not known


@given(st.text(st.sampled_from("aé今が ゙ｶﾞ나ᄂ\u0301ั ก。'’\u200b\u200c\u200d\ufe0f🙂İ\u0640م"), max_size=12))
def test_normalising_again_changes_nothing(text):
    once = normalise(text)
    assert normalise(once) == once
    assert once == unicodedata.normalize("NFKC", once)
    assert "".join(split_words(once)) == once.replace(" ", "")


def test_alphabets_of_other_scripts():
    """Marks are symbols of their own, and a spaced text is spelt without a symbol for the space."""
    assert open_vocabulary(CharacterConfig("今天气")).reference("今 天 天 气。") == "今天天气"
    assert open_vocabulary(CharacterConfig("नमस\u094dत\u0947 ")).reference("नमस्ते।") == "नमस्ते"
