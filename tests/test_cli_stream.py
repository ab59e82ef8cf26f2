"""`flexicodec decode --stream`: audio is written while tokens are still being read."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch

import flexicodec
from flexicodec.cli import main, streaming

ROOT = Path(flexicodec.__file__).parents[1]


@pytest.fixture(scope="module")
def folder(nanocodecs, tmp_path_factory):
    """A saved causal codec: 30 samples a frame."""
    return nanocodecs["causal"].save_pretrained(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def tokens(nanocodecs):
    codec = nanocodecs["causal"]
    codes = torch.randint(codec.format.acoustic_codebook_size, (1, codec.num_codebooks, 5))
    return flexicodec.Tokens(acoustic=codes, format=codec.format)


def lines(tokens):
    return [json.dumps({"acoustic": tokens.acoustic[0, :, n].tolist()}) + "\n" for n in range(tokens.acoustic.shape[2])]


def as_samples(audio):
    return (audio[0] * 32768).round().clamp(-32768, 32767).short().tolist()


def test_audio_appears_before_input_ends(folder, tokens, nanocodecs):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "flexicodec", "decode", "--stream", "--model", str(folder), "-o", "-"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, env=environment, **pipes) as process:
        audio_bytes = b""
        for line in lines(tokens):
            process.stdin.write(line.encode())
            process.stdin.flush()
            audio_bytes += process.stdout.read(2 * 30)  # would wait for ever if the frame did not come by itself
        process.stdin.close()
        assert process.stdout.read() == b""
        printed = process.stderr.read().decode()
    assert process.returncode == 0, printed
    assert printed == "22050 Hz, StreamingDecoder(exact to decode(tokens), latency up to 0.00136 s)\n"
    samples = memoryview(audio_bytes).cast("h").tolist()
    wanted = as_samples(nanocodecs["causal"].decode(tokens))
    assert max(abs(a - b) for a, b in zip(samples, wanted, strict=True)) <= 1


@pytest.fixture
def run(folder, monkeypatch, nanocodecs):
    """Run the command in this process with these lines on stdin."""
    monkeypatch.setitem(vars(flexicodec), "load", lambda *_, **__: nanocodecs["causal"])

    def run(text, *arguments):
        monkeypatch.setattr(sys, "stdin", iter(text))
        return main(["decode", "--stream", *map(str, arguments)])

    return run


@pytest.mark.parametrize("suffix", [".wav", ".raw"])
def test_files_hold_what_was_streamed(run, tokens, nanocodecs, tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    row = tokens.acoustic[0]
    text = [json.dumps({"acoustic": row[:, :3].tolist()}), "\n", *lines(tokens)[3:]]
    assert run(text, "-o", path) == 0
    wanted = as_samples(nanocodecs["causal"].decode(tokens))
    if suffix == ".wav":
        got, rate = soundfile.read(path, dtype="int16")
        assert rate == 22050
        got = got.tolist()
    else:
        got = memoryview(path.read_bytes()).cast("h").tolist()
    assert max(abs(a - b) for a, b in zip(got, wanted, strict=True)) <= 1


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("{", "line 2 of stdin: "),
        ("[1, 2]", "line 2 of stdin: expected a JSON object"),
        ('{"codes": 1}', "expected a JSON object with semantic, acoustic, durations"),
        ('{"acoustic": [1, 2, 3]}', "parallel codebooks"),
        ('{"acoustic": [1, 2, 3, 99999]}', "code 99999"),
        ('{"acoustic": [1, 2, 3, 4], "durations": 2}', "duration"),
        ('{"acoustic": 7}', "acoustic"),
        ('{"acoustic": "abc"}', "acoustic"),
        ('{"audio_lengths": 7}', "expected a JSON object with"),
        ("{}", "expected a JSON object with"),
        ('{"acoustic": [1, 2, 3, 4], "audio_lengths": 0}', "audio length 0"),
        ('{"acoustic": [1, 2, 3, 4], "audio_lengths": 100}', "sum to 1 frames"),
    ],
)
def test_a_bad_line_is_named(run, tokens, tmp_path, capsys, line, match):
    assert run([lines(tokens)[0], line], "-o", tmp_path / "out.wav") == 2
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 2
    assert match in printed[-1]


@pytest.mark.parametrize("blank", ["", '{"acoustic": []}', '{"acoustic": [[], [], [], []]}'])
def test_lines_without_tokens_are_passed_over(run, tokens, nanocodecs, tmp_path, blank):
    first, *rest = lines(tokens)
    assert run([blank, first, blank, *rest, blank], "-o", tmp_path / "out.raw") == 0
    got = memoryview((tmp_path / "out.raw").read_bytes()).cast("h").tolist()
    wanted = as_samples(nanocodecs["causal"].decode(tokens))
    assert max(abs(a - b) for a, b in zip(got, wanted, strict=True)) <= 1


def test_the_last_line_may_say_where_the_clip_ends(run, tokens, nanocodecs, tmp_path, capsys):
    *text, last = lines(tokens)
    last = json.dumps({**json.loads(last), "audio_lengths": 7})
    assert run([*text, last], "-o", tmp_path / "out.raw") == 0
    got = memoryview((tmp_path / "out.raw").read_bytes()).cast("h").tolist()
    wanted = as_samples(nanocodecs["causal"].decode(tokens))[: 4 * 30 + 7]
    assert max(abs(a - b) for a, b in zip(got, wanted, strict=True)) <= 1
    assert run([*text, last, "", text[0]], "-o", tmp_path / "out.raw") == 2
    assert "line 7 of stdin: line 5 ended the clip with its audio_lengths" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".wav", ".raw"])
@pytest.mark.parametrize("text", [[], [""], ["{"], ['{"acoustic": [[], [], [], []]}']])
def test_where_nothing_is_decoded_nothing_is_left(run, tmp_path, suffix, text):
    assert run(text, "-o", tmp_path / f"out{suffix}") == (2 if text == ["{"] else 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_a_token_file_on_stdin_is_named(run, tokens, tmp_path, capsys, errors):
    text = io.TextIOWrapper(io.BytesIO(tokens.to_bytes() + b"\xff"), encoding="utf-8", errors=errors)
    assert run(text, "-o", tmp_path / "out.wav") == 2
    assert "a .flxc file? leave out --stream and name the file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["-o", "out.mp3"], "cannot stream to out.mp3"),
        (["-o", "out"], "cannot stream to out"),
        (["a.flxc", "-o", "-"], "leave out the files"),
        (["-o", "-", "--lookahead", "-1"], "lookahead_frames"),
    ],
)
def test_what_does_not_go_with_streams(run, capsys, arguments, match):
    assert run([], *arguments) == 2
    assert match in capsys.readouterr().err


def test_what_goes_with_streams_alone(capsys):
    assert main(["decode", "a.flxc", "-o", "a.wav", "--lookahead", "3"]) == 2
    assert "--stream" in capsys.readouterr().err
    assert main(["decode", "-o", "a.wav"]) == 2
    assert "no inputs" in capsys.readouterr().err


def test_lines_of_a_dynamic_codec(whole):
    one = '{"semantic": 3, "acoustic": [1, 2], "durations": 4}'
    more = '{"semantic": [3, 4], "acoustic": [[1, 5], [2, 6]], "durations": [4, 1]}'
    first, second, third = streaming.read_lines([one, "", more, '{"semantic": 3, "durations": 1}'], whole, None)
    assert first.acoustic.tolist() == [[[1], [2]]]
    assert first.durations.tolist() == [[4]]
    assert second.acoustic.tolist() == [[[1, 5], [2, 6]]]
    assert third.num_codebooks == 0
    (kept,) = streaming.read_lines([more], whole, 1)
    assert kept.num_codebooks == 1
