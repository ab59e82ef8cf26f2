"""`flexicodec pack`."""

import pytest

from flexicodec.cli import main
from flexicodec.cli.pack import load_tokenizer
from flexicodec.lm.packed import PackedTokens
from tests.lm.drawn import make_folder, random_clips

CLIPS = random_clips(1, 6)


@pytest.fixture
def tokens(tmp_path):
    return make_folder(tmp_path / "tokens", [CLIPS[:4], CLIPS[4:]])


@pytest.fixture
def tokenizer(tmp_path):
    """A tokenizer of letters with a gap in its ids; its file holds truncation and padding."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 5}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.add_special_tokens(["[PAD]", "[END]"])
    made.enable_truncation(3)
    made.enable_padding(pad_id=3, pad_token="[PAD]")
    (tmp_path / "lm").mkdir()
    made.save(str(tmp_path / "lm" / "tokenizer.json"))
    return tmp_path / "lm"


def test_a_corpus(tokens, tmp_path, capsys):
    folder = tmp_path / "packed"
    assert main(["pack", str(tokens), "-o", str(folder), "--frame-rate", "6.25", "--codebooks", "0"]) == 0
    packed = PackedTokens.open(folder)
    assert [packed.tokens(number) for number in range(6)] == [clip.keep(0) for clip in CLIPS]
    count = sum(int(clip.token_lengths) for clip in CLIPS)
    assert f"6 clips, 0.0{round(sum(float(clip.seconds) for clip in CLIPS) / 36)}" in capsys.readouterr().out
    assert main(["pack", str(tokens), "-o", str(folder), "--frame-rate", "made", "--codebooks", "0"]) == 0
    assert f"{count} tokens" in capsys.readouterr().out


def test_texts(tokens, tokenizer, tmp_path, capsys):
    folder = tmp_path / "packed"
    assert main(["pack", str(tokens), "-o", str(folder), "--tokenizer", str(tokenizer)]) == 0
    packed = PackedTokens.open(folder)
    assert packed.vocabulary.base == 6  # one above the largest id; the tokenizer counts 5
    assert packed.text.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1]
    assert "0 clips without text" in capsys.readouterr().out


def test_a_base_that_is_larger(tokens, tokenizer, tmp_path):
    arguments = ["pack", str(tokens), "-o", str(tmp_path / "packed"), "--tokenizer", str(tokenizer), "--base", "64"]
    assert main(arguments) == 0
    assert PackedTokens.open(tmp_path / "packed").vocabulary.special("START") == 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--frame-rate", "8.33"], "no tokens of 8.33; expected one of made"),
        (["--codebooks", "9"], "9 acoustic codebooks asked, 2 there"),
        (["--tokenizer", "nowhere.json"], "nowhere.json is missing"),
        (["--base", "-1"], "base is -1"),
    ],
)
def test_mistakes_are_a_line(tokens, tmp_path, capsys, change, message):
    assert main(["pack", str(tokens), "-o", str(tmp_path / "packed"), *change]) == 2
    assert message in capsys.readouterr().err


def test_no_tokenizer(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is no tokenizer.json"):
        load_tokenizer(str(tmp_path))
