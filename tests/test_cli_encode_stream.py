"""`flexicodec encode --stream`: tokens are written while samples are still being read."""

import io
import json
import sys
from types import SimpleNamespace

import pytest
import torch

import flexicodec
from flexicodec.cli import main, streaming


class Trickle(io.BytesIO):
    """A byte stream with reads of odd sizes."""

    def read1(self, size=-1):
        return super().read(min(size, 4999))


@pytest.fixture
def run(monkeypatch, whole, nanocodecs):
    """Run the command in this process with these bytes on stdin."""
    codecs = {"whole": whole, "nano": nanocodecs["causal"]}

    def run(samples, *arguments, kind="whole"):
        monkeypatch.setitem(vars(flexicodec), "load", lambda *_, **__: codecs[kind])
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Trickle(samples)))
        return main(["encode", "--stream", *map(str, arguments)])

    return run


def raw(audio):
    return (audio * 32768).round().clamp(-32768, 32767).to(torch.int16).numpy().astype("<i2").tobytes()


@pytest.fixture(scope="module")
def audio():
    generator = torch.Generator().manual_seed(0)
    level = torch.rand(120, generator=generator).repeat_interleave(1600)
    return 0.2 * level * torch.randn(192_000, generator=generator)


def test_lines_are_the_tokens_of_the_whole_and_what_decode_reads(run, whole, audio, capsys):
    assert run(raw(audio), "-o", "-", "--threshold", "0.95", "--codebooks", "2") == 0
    printed = capsys.readouterr()
    assert printed.err.startswith(
        "16000 Hz, StreamingEncoder(exact to encode(audio, threshold=0.95, num_codebooks=2), l"
    )
    lines = printed.out.splitlines()
    assert len(lines) > 1
    pieces = list(streaming.read_lines(lines, whole, None))
    wanted = whole.encode((audio * 32768).round().to(torch.int16), threshold=0.95, num_codebooks=2)
    for name in ("semantic", "acoustic", "durations"):
        assert torch.equal(torch.cat([getattr(piece, name) for piece in pieces], dim=-1), getattr(wanted, name))


def test_a_short_lookahead_is_sooner(run, audio, capsys):
    arguments = ("-o", "-", "--frame-rate", "5", "--lookahead", "3", "--chunk-frames", "1")
    assert run(raw(audio), *arguments) == 0
    said = capsys.readouterr().err
    assert (
        "EarlyStreamingEncoder(not exact to encode(audio, frame_rate=5.0, policy='running'), latency up to 0.96 s"
        in said
    )
    assert main(["encode", "in.wav", "-o", "out.flxc", "--chunk-frames", "2"]) == 2
    assert "--lookahead and --chunk-frames are for --stream; files are encoded whole" in capsys.readouterr().err


def test_a_codec_of_fixed_rate_writes_codes_alone(run, nanocodecs, audio, tmp_path):
    path = tmp_path / "tokens.jsonl"
    assert run(raw(audio[:601]), "-o", path, kind="nano") == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {tuple(line) for line in lines[:-1]} == {("acoustic",)}
    assert tuple(lines[-1]) == ("acoustic", "audio_lengths")
    assert lines[-1]["audio_lengths"] == 601 - 30 * (601 // 30)
    codes = torch.cat([torch.tensor(line["acoustic"]) for line in lines], dim=1)
    wanted = nanocodecs["causal"].encode((audio[:601] * 32768).round().to(torch.int16))
    assert torch.equal(codes[None], wanted.acoustic)


@pytest.mark.parametrize(
    ("kind", "samples", "codebooks"),
    [("whole", 40_001, None), ("whole", 20_001, 0), ("nano", 601, None), ("nano", 600, None)],
)
def test_there_and_back_is_as_long_as_it_was(
    run, whole, nanocodecs, audio, capsys, monkeypatch, kind, samples, codebooks
):
    choice = [] if codebooks is None else ["--codebooks", codebooks]
    assert run(raw(audio[:samples]), "-o", "-", *choice, kind=kind) == 0
    lines, audio_bytes = capsys.readouterr().out.splitlines(), io.BytesIO()
    monkeypatch.setattr(sys, "stdin", iter(lines))
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=audio_bytes))
    assert main(["decode", "--stream", "-o", "-"]) == 0
    codec = whole if kind == "whole" else nanocodecs["causal"]
    tokens = codec.encode((audio[:samples] * 32768).round().to(torch.int16), num_codebooks=codebooks)
    wanted = (codec.decode(tokens)[0] * 32768).round().clamp(-32768, 32767)
    got = torch.frombuffer(bytearray(audio_bytes.getvalue()), dtype=torch.int16)
    assert got.shape == (samples,)
    assert (got - wanted).abs().max() <= 1


def test_nothing_in_nothing_out(run, capsys):
    assert run(b"", "-o", "-") == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["-o", "tokens.flxc"], "cannot stream tokens to tokens.flxc"),
        (["a.wav", "-o", "-"], "leave out the files"),
        (["-o", "-", "--codebooks", "99"], "num_codebooks is 99"),
        (["-o", "-", "--frame-rate", "99"], "frame_rate is 99 Hz"),
    ],
)
def test_what_does_not_go_with_streams(run, capsys, arguments, match):
    assert run(b"", *arguments) == 2
    assert match in capsys.readouterr().err


def test_half_a_sample(run, audio, capsys):
    assert run(raw(audio)[:-1], "-o", "-") == 2
    assert "in the middle of a 16-bit sample" in capsys.readouterr().err


def test_samples_are_never_cut_in_two():
    data = bytes(range(256)) * 100
    blocks = list(streaming.read_samples(Trickle(data)))
    assert b"".join(block.astype("<i2").tobytes() for block in blocks) == data
    assert len(blocks) > 3


def test_files_still_need_names(capsys):
    assert main(["encode", "-o", "out"]) == 2
    assert "no inputs" in capsys.readouterr().err
