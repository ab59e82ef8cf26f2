"""The text front end: marks, rewriting, ids and what is refused; a script stands in for espeak-ng."""

import sys

import pytest

from flexicodec.models.tts.text import FIRST_LANGUAGE, LANGUAGES, EspeakFrontend, encode_rewritten, rewrite


@pytest.fixture
def front_end(tmp_path):
    """Reads every part in capitals, with stress marks, a language switch and a line end."""
    script = tmp_path / "espeak"
    code = "import sys; text = sys.stdin.read(); print('(fr)ˈ' + ' '.join(text.split()).upper() + '(en)\\n')"
    script.write_text(f"#!{sys.executable}\n{code.replace('; ', chr(10))}\n")
    script.chmod(0o755)
    return EspeakFrontend(str(script))


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("hello", "HELLO "),
        ("  two  spaces ", "TWO SPACES "),
        ("Hello, world.", "HELLO, WORLD. "),
        ('"Yes," he said... (no)!', '"YES," HE SAID... (NO)! '),
        ("$3.50 or 1,000 or 5.", "$3.50 OR 1,000 OR 5. "),
        ("coat^s", "COAT'S "),
        ("sea-shells", "SEA-SHELLS "),
    ],
)
def test_marks_stay_and_the_rest_is_read(front_end, text, read):
    assert front_end.phonemize(text) == read


def test_rewriting_takes_letters_that_cost_one_id():
    pytest.importorskip("tiktoken")
    plain = "θɪŋk ʃiː"
    assert rewrite(f" {plain} ") == "θιngk ρi~"
    assert len(encode_rewritten(rewrite(plain))) < len(encode_rewritten(plain))


def test_ids_begin_with_the_language(front_end):
    pytest.importorskip("tiktoken")
    assert front_end.encode("hello")[0] == FIRST_LANGUAGE
    compatible = EspeakFrontend(front_end.espeak, compatible=True)
    assert compatible.encode("bonjour", "fr")[0] == FIRST_LANGUAGE + LANGUAGES.index("fr") == 50_265
    assert compatible.encode("你好", "zh")[0] == 50_260


@pytest.mark.parametrize(
    ("text", "language", "message"),
    [
        ("", "en", "the text is empty"),
        (" \n", "en", "the text is empty"),
        ("bonjour", "fr", "language is 'fr', but this front end reads English only"),
        ("hello", "english", "language is 'english'; expected one of Whisper's codes"),
        ("hello 你好", "en", "letters that no English word has (你好)"),
        ("Привет", "en", "is it in another language?"),
    ],
)
def test_what_english_cannot_read(front_end, text, language, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011, the message is compared as it is
        front_end.encode(text, language)
    assert message in str(error.value)


@pytest.mark.parametrize("text", ["naïve café", "It's 5 o'clock & 20 % off - really?", "Æon, Łódź"])
def test_what_english_can_read(front_end, text):
    pytest.importorskip("tiktoken")
    assert len(front_end.encode(text)) > 1


def test_without_espeak_one_sentence_says_what_to_install():
    with pytest.raises(ValueError, match=r"^no-such-espeak was not found, .*; install it \(apt install espeak-ng\)$"):
        EspeakFrontend("no-such-espeak").encode("hello")


def test_a_failing_espeak_is_named(tmp_path):
    script = tmp_path / "espeak"
    script.write_text("#!/bin/sh\necho broken >&2; exit 3\n")
    script.chmod(0o755)
    with pytest.raises(ValueError, match="failed on 'hello': broken"):
        EspeakFrontend(str(script)).encode("hello")
