"""Every block of code of the documentation runs, page by page from top to bottom, in a folder with a little speech.

Commands of this package run in this process; those of pip, make and pytest are compared with the project's files.
Training is only asked for its configuration, and a page that names a model without weights here gets a tiny one.
"""

import json
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

import flexicodec
from flexicodec.cli import main
from flexicodec.config import from_dict, load_yaml, overlay, parse_yaml
from flexicodec.lm.packing import pack
from flexicodec.quantize import RVQConfig
from flexicodec.training.config import TrainingConfig
from tests.docs.pages import PAGES, ROOT, blocks, name
from tests.docs.pages import commands as command_lines
from tests.lm.drawn import FLEXI, make_folder, random_clips

# Pages whose code runs on tiny models; all others use the packaged one.
TINY = {
    *("README.md", "docs/python.md", "docs/concepts.md", "docs/rates.md", "docs/streaming.md", "docs/models.md"),
    *("docs/merging.md", "docs/export.md"),
}
FAST = TINY - {"docs/export.md"} | {"CONTRIBUTING.md", "docs/install.md", "docs/finetune.md", "docs/training.md"}
# What a block says, and what a test takes in its place.
INSTEAD = {
    "--device cuda": "--device cpu",
    'device="cuda"': 'device="cpu"',
    "row_length=2048": "row_length=128",
    "-o probe": "-o probe --set fit.epochs=1",
    "-o results": "-o results --mos none",  # minutes
}
OWN_TEST = "docs/tts.md"  # tests/tts/test_tts_guide.py
WITH_CODE = [page for page in PAGES if page != OWN_TEST and any(block.is_run for block in blocks(page))]
RUNS = [pytest.param(page, id=name(page), marks=() if name(page) in FAST else pytest.mark.slow) for page in WITH_CODE]


# ----------------------------------------------------------------------------------------------- a folder and its names


@pytest.fixture(scope="module")
def tiny(make_codec):
    """As many codebooks as the pages ask for."""
    return make_codec("whole", acoustic_quantizer=RVQConfig(num_codebooks=8, codebook_size=64, codebook_dim=4))


@pytest.fixture
def desk(speech, tmp_path, monkeypatch):
    """The folder in which blocks run: recordings, manifests, a tokenizer, and the configs of the checkout."""
    from tokenizers import Tokenizer, models

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    flexicodec.write_audio("talk.flac", speech[0][:, :24_001], 16_000)  # no whole number of frames
    rows = []
    for index, clip in enumerate(speech):
        file = f"{'ab'[index]}.wav"
        for folder in ("speech", "speech/train", "speech/eval", "corpus", "mine", "mine-eval"):
            Path(folder).mkdir(exist_ok=True)
            flexicodec.write_audio(f"{folder}/{file}", clip[:, : 30_000 + 1000 * index], 16_000)
            Path(folder, file).with_suffix(".txt").write_text("a text")
        row = {"id": "ab"[index], "path": f"corpus/{file}", "duration": 1.8, "text": "a text", "num_phones": 20 + index}
        rows.append(json.dumps({**row, "speaker": f"s{index}"}) + "\n")
    for manifest in ("train", "eval", "aligned"):
        Path(f"{manifest}.jsonl").write_text("".join(rows))
    Path("qwen").mkdir()
    Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")).save("qwen/tokenizer.json")
    return tmp_path


@pytest.fixture
def names(tiny, speech, desk):
    """Names that pages take for known."""
    audio = speech[0][:, :24_001]
    tokens = tiny.encode(audio, threshold=0.6)
    sent, played = [], []
    starts = range(0, tokens.durations.shape[1], 4)
    return {
        **{"flexicodec": flexicodec, "codec": tiny, "audio": audio, "tokens": tokens, "threshold": 0.6},
        **{"lengths": None, "voice": None},
        **{f"clip_{letter}": audio[0, : 5000 * count] for count, letter in enumerate("abc", start=1)},
        **{"microphone": audio.split(5000, dim=1), "send": sent.append, "sent": sent},
        **{"tokens_as_they_come": [part(tokens, at, at + 4) for at in starts], "play": played.append, "played": played},
    }


def part(tokens, start, end):
    """Some tokens of a clip, as a streaming encoder says them: the last ones have the rest of the clip's samples."""
    semantic, acoustic = tokens.semantic[:, start:end], tokens.acoustic[:, :, start:end]
    durations = tokens.durations[:, start:end]
    before = int(tokens.durations[:, :start].sum()) * tokens.format.frame_size
    samples = min(int(durations.sum()) * tokens.format.frame_size, int(tokens.audio_lengths) - before)
    return flexicodec.Tokens(semantic, acoustic, durations, [samples], tokens.format)


@pytest.fixture
def stand_ins(tiny, released, nanocodecs, names, monkeypatch):
    """Return a function that puts tiny models in the place of those that a page names."""

    def install():
        models, load = {"weights/flexicodec": released}, flexicodec.load

        def tiny_load(model="flexicodec-mini", **choices):
            if Path(model).is_dir():
                return load(model, **choices)
            return nanocodecs["nano"] if model.endswith(".nemo") else models.get(model, tiny)

        monkeypatch.setattr(flexicodec, "load", tiny_load)

    return install


# ----------------------------------------------------------------------------------------------------- how a block runs


def run_python(block, names):
    code = re.sub(r"(\w+)=\.\.\.", r"\1=tokens.\1", block.code)
    exec(compile(code, block.place, "exec"), names)


def run_yaml(block, names):
    """An overlay of a training config; one that names a file is written, for the commands behind it."""
    settings = parse_yaml(block.code, block.place)
    named = ROOT / settings.pop("base", "")
    base = named if named.is_file() else ROOT / "configs/flexicodec/mini.yaml"
    assert from_dict(TrainingConfig, overlay(load_yaml(base), settings))


def run_sql(block, names):
    duckdb = pytest.importorskip("duckdb")
    assert duckdb.sql(block.code).fetchall()


def run_bash(block, names):
    for line in command_lines(block):
        words = shlex.split(line, comments=True)
        while "=" in words[0]:  # a variable of the environment, for this command
            words = words[1:]
        command = Path(words[0]).name
        assert command in COMMANDS, f"{block.place}: no test for {command}"
        COMMANDS[command](words[1:])


def run_flexicodec(words):
    if words[0] in ("train", "train-asr"):
        words = [*words, "--print-config"]
    assert main(words) == 0, words


def check_pip(words):
    """Extras of this project, or versions that constraints.txt has."""
    pyproject, constraints = (ROOT / "pyproject.toml").read_text(), (ROOT / "constraints.txt").read_text()
    assert words[0] == "install"
    for wanted in words[1:]:
        extras = re.fullmatch(r"\.\[([\w,-]+)\]", wanted)
        assert extras or re.search(rf"^{re.escape(wanted)}\b", constraints, re.MULTILINE), wanted
        for extra in extras[1].split(",") if extras else []:
            assert re.search(rf"^{extra} = \[", pyproject, re.MULTILINE), extra


def check_make(words):
    for target in words:
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target


def check_pytest(words):
    """Markers of the project, and folders that exist."""
    for before, word in zip(["", *words], words, strict=False):
        if before == "-m":
            assert f'"{word}: ' in (ROOT / "pyproject.toml").read_text(), word
        elif word.startswith("tests/"):
            assert (ROOT / word).exists(), word


COMMANDS = {"flexicodec": run_flexicodec, "pip": check_pip, "make": check_make, "pytest": check_pytest}
RUNNERS = {"python": run_python, "bash": run_bash, "yaml": run_yaml, "sql": run_sql}


# ------------------------------------------------------------------------------------------------------------ the tests


@pytest.mark.parametrize("page", RUNS)
def test_a_page_runs(page, names, stand_ins, desk):
    if name(page) in TINY:
        stand_ins()
    todo = [block for block in blocks(page) if block.is_run]
    prepare(name(page), todo, names)
    before = names["codec"], names["audio"], names["tokens"]
    for block in todo:
        if name(page) == "docs/lm.md" and block.language == "python" and names.get("clips") is None:
            use_random_corpus(names)
        code = block.code
        for said, done in INSTEAD.items():
            code = code.replace(said, done)
        RUNNERS[block.language](block._replace(code=code), names)
    check_results(names, *before)


def prepare(page, todo, names):
    """Put on the desk what earlier pages or other people made."""
    if page == "docs/analysis.md":
        flexicodec.load().encode(names["audio"], frame_rate=6.25).save("talk.flxc")
    for block in todo:  # configs that a page shows under a name
        named = re.match(r"# (\w+\.yaml) ", block.code)
        if block.language == "yaml" and named:
            Path(named[1]).write_text(block.code)


def use_random_corpus(names):
    """For language models: more clips than there is speech, in place of what the commands packed."""
    names["clips"] = random_clips(1, 40, FLEXI, 0, longest=30)
    names["tokens"] = names["clips"][0]
    shutil.rmtree("packed")
    pack(make_folder(Path("drawn"), [names["clips"]], num_codebooks=0), Path("packed"))


def check_results(names, codec, audio, tokens):
    """What streams sent and played is the whole clip, and what a layout wrote is read back."""
    if names["sent"]:
        got = flexicodec.Tokens.concat([each for each in names["sent"] if each is not None])
        assert got.durations.tolist() == tokens.durations.tolist()
    if names["played"]:
        assert torch.cat(names["played"], dim=1).shape[1] == audio.shape[1]
    if "clips" in names and "again" in names:
        assert names["texts"] == [[11], [12, 13], [14]]
        assert names["again"] == names["clips"][0]
        assert names["loss"].isfinite()


def test_streams_end_alike():
    """Both streams end in the way described on the page of streams."""
    from flexicodec.models.streaming.decoder import StreamingDecoder
    from flexicodec.models.streaming.encoder import StreamingEncoder

    assert "streaming_encoder" in (ROOT / "docs/streaming.md").read_text()
    for stream, verb in ((StreamingEncoder, "encode"), (StreamingDecoder, "decode")):
        assert {verb, f"{verb}_each", "flush", "reset", "load_state"} <= set(dir(stream))


def test_pages_that_are_told_apart_exist():
    """A page that is renamed would run on another model, or not at all."""
    assert {name(page) for page in WITH_CODE} >= TINY | FAST
    assert os.sep == "/"
