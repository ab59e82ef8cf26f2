"""The page's events, called as functions, and the verb."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from flexicodec import Tokens
from flexicodec.cli import main
from flexicodec.demo.comparison import Setting, played
from flexicodec.demo.page import Handlers, PageOptions
from tests.demo.dropped_files import BAD_FILES

CHOICE = (6.0, 2, "uniform")


@pytest.fixture
def handlers(comparer, tmp_path):
    (tmp_path / "kept").mkdir()
    return Handlers(comparer, tmp_path / "kept")


def test_opening_shows_everything_that_needs_no_recogniser(handlers, comparer, talk):
    session, message, original, decoded, numbers, picture, file, transcripts, row = handlers.open_clip(
        str(talk), *CHOICE
    )
    coded = comparer.encode(comparer.open(talk), Setting(*CHOICE))
    assert (message, transcripts, row) == ("", "", "")
    for (rate, samples), audio in ((original, session.clip.audio), (decoded, coded.audio)):
        assert rate == 16_000
        # int16, which gradio leaves as it is; one axis, where [samples, channels] cannot be mistaken.
        assert (samples.dtype, samples.ndim) == (np.int16, 1)
        assert np.array_equal(samples, played(audio, session.clip.audio))
    assert "6.00 Hz" in numbers
    assert picture.count("<title>token") == 12
    assert Tokens.load(file) == coded.tokens
    assert Path(file).name == "talk {1}-6.00hz.flxc"


def test_moving_changes_all_that_depends_on_it(handlers, talk):
    session = handlers.open_clip(str(talk), *CHOICE)[0]
    message, _, numbers, picture, file = handlers.move(session, 4.0, 0, "uniform")
    assert message == ""
    assert "4.00 Hz" in numbers
    assert "1 + 0" in numbers
    assert picture.count("<title>token") == 8
    assert Tokens.load(file).num_codebooks == 0
    message, decoded, numbers, picture, file = handlers.move(session, 50.0, 0, "uniform")
    assert "frame_rate is 50 Hz" in message
    assert (decoded, numbers, picture, file) == (None, "", "", None)


def test_texts_and_four_rates_follow(handlers, talk):
    session = handlers.open_clip(str(talk), *CHOICE)[0]
    transcripts, picture = handlers.understand(session)
    # Neither HTML nor gradio's templates find anything in a text.
    assert transcripts.count("&lt;b&gt;&#123;&#123;2.0&#125;&#125; seconds") == 2
    assert "hi &amp; &lt;bye&gt;" in picture
    row = handlers.four_rates(session)
    assert row.count("<audio") == 5
    assert "{" not in re.sub(r'"[^"]*"', "", row)


def test_nothing_to_show_before_and_after_a_clip(handlers):
    assert handlers.open_clip(None, *CHOICE) == (None, "", None, None, "", "", None, "", "")
    assert handlers.understand(None) == ("", "")
    assert handlers.four_rates(None) == ""


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_sentences_on_the_page(handlers, tmp_path, name):
    write, _ = BAD_FILES[name]
    write(tmp_path / name)
    session, message, *rest = handlers.open_clip(str(tmp_path / name), *CHOICE)
    assert session is None
    assert 'role="alert"' in message
    assert name in message
    assert str(tmp_path) not in message
    assert not any(rest)


def test_token_files_are_decoded_without_an_original(handlers, comparer, talk, tmp_path):
    coded = comparer.encode(comparer.open(talk), Setting(*CHOICE))
    coded.tokens.save(tmp_path / "talk.flxc")
    session, message, original, decoded, numbers, picture, file, *_ = handlers.open_tokens(str(tmp_path / "talk.flxc"))
    assert "no original" in message
    assert original is None
    assert np.array_equal(decoded[1], played(coded.audio))
    assert "6.00 Hz" in numbers
    assert picture.count("<title>token") == 12
    assert Tokens.load(file) == coded.tokens
    transcripts, _ = handlers.understand(session)
    assert transcripts.count("seconds") == 1
    assert handlers.four_rates(session) == ""
    (tmp_path / "bad.flxc").write_bytes(b"FLXC")
    assert "bad.flxc" in handlers.open_tokens(str(tmp_path / "bad.flxc"))[1]


def test_options_out_of_range():
    for name, value in (("queue", 0), ("concurrency", 0), ("max_megabytes", -1), ("port", 70_000)):
        with pytest.raises(ValueError, match=f"{name} is {value}; expected 1"):
            PageOptions(**{name: value})


# --------------------------------------------------------------------------------------------------------- command line


@pytest.fixture(scope="module")
def model(whole, tmp_path_factory):
    return whole.save_pretrained(tmp_path_factory.mktemp("tiny"))


def test_the_verb_writes_static_pages(model, comparer, talk, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("flexicodec.demo.comparison.Comparer.transcribe", lambda self, audio, sample_rate: "well")
    monkeypatch.setattr("flexicodec.demo.comparison.Comparer._aligners", [])
    assert main(["demo", str(talk.parent), "--model", str(model), "--static", str(tmp_path / "page")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "page" / "index.html")
    assert "talk &#123;1&#125;.wav" in (tmp_path / "page" / "index.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere.wav"], "nowhere.wav"),
        (["EMPTY"], "no files to read in"),
        (["--queue", "0"], "queue is 0"),
        (["--port", "0"], "port is 0"),
        (["--max-seconds", "-1", "--static", "page"], "max_seconds is -1"),
        (["TALK", "--max-seconds", "1", "--static", "page"], "lasts 0.0 min (2.0 s), and this page takes 1 s"),
    ],
)
def test_wrong_arguments_are_one_line(model, talk, tmp_path, monkeypatch, capsys, arguments, sentence):
    (tmp_path / "none").mkdir()
    monkeypatch.chdir(tmp_path)
    named = {"EMPTY": str(tmp_path / "none"), "TALK": str(talk)}
    assert main(["demo", "--model", str(model), *(named.get(each, each) for each in arguments)]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "page").exists()


def test_without_gradio_the_extra_is_named(model, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo", "--model", str(model)]) == 2
    assert "demo-app" in capsys.readouterr().err
