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
