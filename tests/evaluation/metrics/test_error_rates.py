"""Error rates: edit counts of known pairs, normalisers by example, corpus rates as sums over sums."""

import json
import math
from pathlib import Path

import pytest

from flexicodec.evaluation.metrics.asr import (
    ErrorCounts,
    character_errors,
    error_rates,
    open_normaliser,
    pool,
    word_errors,
)

HELD = json.loads((Path(__file__).parent / "data" / "scores.json").read_text())["texts"]


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("a b c", "a b c", ErrorCounts(0, 3)),
        ("a b c", "a x c d", ErrorCounts(2, 3, insertions=1, substitutions=1)),
        ("a b c", "", ErrorCounts(3, 3, deletions=3)),
        ("", "a b", ErrorCounts(2, 0, insertions=2)),
        ("", "", ErrorCounts(0, 0)),
        ("It’s — Well-known!", "its well known", ErrorCounts(1, 3, substitutions=1)),
    ],
)
def test_words(reference, hypothesis, expected):
    assert word_errors(reference, hypothesis) == expected


def test_characters_count_spaces():
    assert character_errors("ab cd", "abcd") == ErrorCounts(1, 5, deletions=1)
    assert character_errors("ab", "axb") == ErrorCounts(1, 2, insertions=1)


# Reference, transcript, language, errors and length in words, errors and length in characters.
SCRIPTS = {
    "spaced reference": ("今 天 天 气", "今天天气。", None, (0, 4), (0, 4)),
    "spaced transcript": ("今天天气", "今 天 天 气", "zh-cn", (0, 4), (0, 4)),
    "a wrong character": ("今天天气", "今 天 天 期", "cmn", (1, 4), (1, 4)),
    "mixed": ("我 用 iPhone", "我用iphone", "zh", (0, 3), (0, 8)),
    "mixed, a wrong word": ("我 用 iPhone 十五", "我用android十五", None, (1, 5), (6, 10)),
    "Latin words of Chinese": ("我用 iPhone Pro", "我用iphonepro", "yue", (2, 4), (0, 11)),
    "a Latin clip in a Chinese list": ("ok bye", "okbye", "zh", (2, 2), (0, 5)),
    "the wrong language": ("今 天", "今天", "en", (0, 2), (0, 2)),
    "Japanese, half width": ("ﾊﾟｿｺﾝ", "パソコン", "jpn", (0, 4), (0, 4)),
    "Thai": ("สวัสดี ครับ", "สวัสดีคับ", "th", (1, 10), (1, 10)),
    "Burmese": ("မင်္ဂလာ ပါ။", "မင်္ဂလာပါ", "mya", (0, 9), (0, 9)),
    "Korean": ("나는 학교에 간다", "나는 학교에간다", "ko", (2, 3), (0, 7)),
    "Hindi": ("नमस्ते दुनिया।", "नमस्ते दुनीया", "hi", (1, 2), (1, 13)),
    "Arabic": ("كِتَابٌ، ٣", "كتاب 3", "ar", (0, 2), (0, 6)),
    "Arabic, marks of the Quran": ("ٱلۡحَمۡدُ", "ٱلحمد", "ar", (0, 1), (0, 5)),
    "single quotes": ("'Go,' he said. ‘Don’t!’", "go he said don't", "en", (0, 4), (0, 16)),
    "Chinese, single quotes": ("说‘好’", "说好", "zh", (0, 2), (0, 2)),
    "Turkish, not said to be": ("İzmir", "izmir", None, (0, 1), (0, 5)),
    "Hebrew": ("שָׁלוֹם", "שלום", "he", (0, 1), (0, 4)),
    "Turkish": ("DIŞ", "dış", "tr", (0, 1), (0, 3)),
    "an English transcript": ("今天", "to day", None, (2, 2), (5, 2)),
    "a Chinese transcript": ("to day", "今天", None, (2, 2), (6, 6)),
    "nothing was said": ("", "今 天", None, (2, 0), (2, 0)),
    "nothing was recognised": ("今 天", "", "zh", (2, 2), (2, 2)),
}


@pytest.mark.parametrize(("reference", "hypothesis", "language", "words", "characters"), SCRIPTS.values(), ids=SCRIPTS)
def test_words_and_characters_of_other_scripts(reference, hypothesis, language, words, characters):
    assert word_errors(reference, hypothesis, language=language)[:2] == words
    assert character_errors(reference, hypothesis, language=language)[:2] == characters
    if words[1] and characters[1]:
        rates = {"wer": words[0] / words[1], "cer": characters[0] / characters[1]}
        assert error_rates([reference], [hypothesis], language=language) == pytest.approx(rates)


@pytest.mark.parametrize("normaliser", ["basic", "whisper-english", str])
def test_any_normaliser_takes_any_space(normaliser):
    """jiwer itself splits at U+0020 alone."""
    assert error_rates(["a\tb\nc\u00a0d\u3000e"], ["a b  c d e"], normaliser) == {"wer": 0.0, "cer": 0.0}
    assert error_rates(["今 天"], ["今天"], normaliser) == {"wer": 0.0, "cer": 0.0}


def test_case_and_punctuation_do_not_matter():
    assert word_errors("HELLO, World.", "hello world").errors == 0


def test_corpus_rates_are_sums_over_sums():
    """One short clip all wrong and one long clip all right: 1 word of 10, not half."""
    references, hypotheses = ["no", "one two three four five six seven eight nine"], ["yes", None]
    hypotheses[1] = references[1]
    assert error_rates(references, hypotheses)["wer"] == pytest.approx(0.1)
    counts = pool(word_errors(*pair) for pair in zip(references, hypotheses, strict=True))
    assert counts == ErrorCounts(1, 10, substitutions=1)
    assert counts.rate == pytest.approx(0.1)


def test_a_corpus_is_counted_as_jiwer_counts_it():
    import jiwer

    references = ["so it is", "", "…", "one two", "never mind"]
    hypotheses = ["so is it", "who said", "that", "one two", ""]
    plain = [text.replace("…", "") for text in references]
    found = error_rates(references, hypotheses)
    assert found == {"wer": jiwer.wer(plain, hypotheses), "cer": jiwer.cer(plain, hypotheses)}
    assert found["wer"] == pytest.approx((2 + 2 + 1 + 0 + 2) / 7)  # words recognised in silence are insertions
    assert math.isnan(error_rates(["", "…"], hypotheses[1:3])["wer"])


def test_rates_are_the_reference_libraries():
    references, hypotheses = zip(*HELD["pairs"], strict=True)
    found = error_rates(references, hypotheses)
    assert found == pytest.approx({name: HELD[name] for name in ("wer", "cer")}, abs=1e-6)
    counts = [word_errors(*pair) for pair in HELD["pairs"]]
    assert [[each.insertions, each.deletions, each.substitutions] for each in counts] == HELD["words"]


def test_rates_may_exceed_one_and_may_not_exist():
    assert word_errors("a", "b c d").rate == 3.0
    assert math.isnan(word_errors("", "b").rate)
    assert math.isnan(pool([]).rate)
    assert all(math.isnan(value) for value in error_rates([], []).values())


def test_whispers_normaliser_knows_english():
    normaliser = open_normaliser("whisper-english")
    assert normaliser("Mr. Brown, um, twenty-one colours [noise] can't") == "mister brown 21 colours can not"
    assert word_errors("He won't pay $20", "he will not pay twenty dollars", "whisper-english").errors == 0


def test_whispers_spellings_come_from_its_files(tmp_path):
    (tmp_path / "normalizer.json").write_text(json.dumps({"colours": "colors"}))
    normaliser = open_normaliser(f"whisper-english:{tmp_path}")
    assert normaliser("Colours") == "colors"


def test_any_function_is_a_normaliser():
    assert word_errors("a-b", "a b", lambda text: text.replace("-", " ")).errors == 0


def test_english_titles_are_words():
    spoken = open_normaliser("english")
    assert spoken("Mrs. Grey and Mr. O'Neill, ' Dr. St. John") == "missus grey and mister o'neill doctor st john"
    assert word_errors("MISSUS GREY", "Mrs. Grey", "english").errors == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: word_errors(None, "a"), "reference is None; expected a text"),
        (lambda path: word_errors("a", ["a"]), "hypothesis is"),
        (lambda path: word_errors("a", "a", "whisper"), "no normaliser 'whisper'; expected basic, whisper-english"),
        (lambda path: open_normaliser("basic:folder"), "no normaliser 'basic:folder'"),
        (lambda path: open_normaliser(f"whisper-english:{path}"), "normalizer.json is missing"),
        (lambda path: error_rates("a text", "a text"), "expected two lists of texts, got 'a text'"),
        (lambda path: error_rates(["a"], []), "got 1 references and 0 hypotheses"),
    ],
)
def test_bad_input_is_named(call, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        call(tmp_path)
