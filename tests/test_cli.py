"""The command line, with a tiny codec in place of a model: files in and out, errors in one line, exit codes."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import flexicodec
from flexicodec.cli import file_jobs, main
from flexicodec.cli.verify import RELEASED_PARAMETERS
from flexicodec.io_utils import AUDIO_SUFFIXES
from flexicodec.models.codec import Codec
from flexicodec.models.streaming.state import Windows
from flexicodec.tokens import TokenFormat, Tokens


class FakeCodec(Codec):
    """Implements the interface with one codebook entry and silence; rates divide the frame rate."""

    model_type = "fake"
    sample_rate = 16000
    frame_size = 1280
    token_modules = ("quantizer",)
    num_codebooks = 4

    def __init__(self, name="fake"):
        super().__init__()
        self.name, self.precisions = name, []
        self.quantizer = nn.Linear(3, 2)

    @property
    def format(self):
        return TokenFormat(acoustic_codebook_size=16, fingerprint=self.fingerprint, model=self.name)

    def config_dict(self):
        return {"name": self.name, "levels": [8, 8]}

    def encode(self, audio, lengths=None, threshold=None, frame_rate=None, num_codebooks=None, precision="float32"):
        self.precisions.append(precision)
        if frame_rate is not None and not 0 < frame_rate <= self.base_frame_rate:
            raise ValueError(f"frame_rate is {frame_rate} Hz, expected at most {self.base_frame_rate}")
        frames = -(-audio.shape[-1] // self.frame_size)
        duration = 1 if frame_rate is None else round(self.base_frame_rate / frame_rate)
        durations = [duration] * (frames // duration) + [frames % duration] * (frames % duration > 0)
        codebooks = self.num_codebooks if num_codebooks is None else num_codebooks
        zeros = torch.zeros(1, codebooks, len(durations), dtype=torch.int64)
        return Tokens(
            torch.zeros(1, len(durations), dtype=torch.int64), zeros, [durations], [audio.shape[-1]], self.format
        )

    def decode(self, tokens, *, precision="float32"):
        self.precisions.append(precision)
        self.check_tokens(tokens)
        return torch.zeros(1, int(tokens.audio_lengths[0]))


@pytest.fixture(autouse=True)
def loads(monkeypatch):
    """Replace `flexicodec.load` by the fake; returns the arguments of every call."""
    torch.manual_seed(0)
    codecs, calls = {"flexicodec-mini": FakeCodec(), "other": FakeCodec("other")}, []

    def load(name, **options):
        calls.append((name, options))
        if name not in codecs:
            raise ValueError(f"unknown model {name!r};\n  known: {', '.join(codecs)}")
        return codecs[name]

    monkeypatch.setitem(vars(flexicodec), "load", load)
    return calls


@pytest.fixture
def speech(tmp_path):
    """A folder with two recordings of odd lengths, one of them deeper."""
    folder = tmp_path / "speech"
    (folder / "deep").mkdir(parents=True)
    flexicodec.write_audio(folder / "a.wav", torch.full((1, 12801), 0.1), 16000)
    flexicodec.write_audio(folder / "deep" / "b.flac", torch.full((1, 4000), 0.1), 8000)
    return folder


def run(*arguments):
    return main([str(argument) for argument in arguments])


def below(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def the_line(capsys):
    """Return the single line on stderr."""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("flexicodec: ")
    return line


def test_a_recording_comes_back_with_its_length(speech, tmp_path, capsys):
    assert run("encode", speech / "a.wav", "-o", tmp_path / "new" / "a.flxc", "--frame-rate", 6.25) == 0
    tokens = Tokens.load(tmp_path / "new" / "a.flxc")
    assert tokens.durations.tolist() == [[2, 2, 2, 2, 2, 1]]
    assert capsys.readouterr() == (f"{tmp_path / 'new' / 'a.flxc'}: {tokens}\n", "")

    assert run("decode", tmp_path / "new" / "a.flxc", "-o", tmp_path / "back.wav") == 0
    assert flexicodec.read_audio(tmp_path / "back.wav").shape == (1, 12801)


def test_folders_keep_their_layout(speech, tmp_path, capsys):
    assert run("encode", speech, "-o", tmp_path / "tokens") == 0
    assert below(tmp_path / "tokens") == ["a.flxc", "deep/b.flxc"]
    assert run("decode", tmp_path / "tokens", "-o", tmp_path / "audio") == 0
    assert below(tmp_path / "audio") == ["a.wav", "deep/b.wav"]
    assert run("reconstruct", speech, "-o", tmp_path / "again") == 0
    assert below(tmp_path / "again") == ["a.wav", "deep/b.wav"]
    assert flexicodec.read_audio(tmp_path / "again" / "deep" / "b.wav").shape == (1, 8000)
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "2 of 2 files written: 1.3 s of audio, 13.85 Hz, 0.47 kbps"
    assert [line.split(":")[0] for line in out.splitlines()] == ["2 of 2 files written"] * 3
    assert err == ""  # no progress bar away from a terminal


def test_a_bad_file_is_reported_and_skipped(speech, tmp_path, capsys):
    (speech / "broken.wav").write_bytes(b"not audio")
    assert run("encode", speech, speech / "missing.wav", "-o", tmp_path / "tokens") == 1
    assert below(tmp_path / "tokens") == ["a.flxc", "deep/b.flxc"]
    out, err = capsys.readouterr()
    assert out.startswith("2 of 4 files written: 1.3 s of audio, ")
    assert [line.split(": ")[1] for line in err.splitlines()] == [
        f"skipped {speech / 'broken.wav'}",
        f"skipped {speech / 'missing.wav'}",
    ]


def test_files_that_are_not_read_are_counted_and_named(speech, tmp_path, capsys):
    """A folder holds what people keep beside recordings."""
    for name in ("deep/clip.mp4", "deep/a.txt", "b.txt", "README", "._a.wav"):
        (speech / name).touch()
    (speech / "c.m4a").write_bytes(b"not audio")
    for verb in ("encode", "reconstruct"):
        assert run(verb, speech, "-o", tmp_path / verb / "deeper", "--model", "other") == 1
        out, err = capsys.readouterr()
        assert out.startswith("2 of 4 files written: ")
        assert out.endswith("; not read, as by name they are no audio: 2 .txt, 1 no suffix\n")
        assert [line.split(": ")[1] for line in err.splitlines()] == [
            f"skipped {speech / 'c.m4a'}",
            f"skipped {speech / 'deep' / 'clip.mp4'}",
        ]


def test_files_side_by_side_give_what_each_gives_alone(speech, tmp_path, monkeypatch, whole, capsys):
    monkeypatch.setitem(vars(flexicodec), "load", lambda *_, **__: whole)
    (speech / "bad.wav").write_text("no audio")
    assert run("encode", speech, "-o", tmp_path / "alone", "--frame-rate", 6.25) == 1
    options = ["--frame-rate", 6.25, "--batch-seconds", 4, "--workers", 2]
    assert run("encode", speech, "-o", tmp_path / "batches", *options) == 1
    assert below(tmp_path / "batches") == below(tmp_path / "alone") == ["a.flxc", "deep/b.flxc"]
    for name in below(tmp_path / "alone"):
        assert Tokens.load(tmp_path / "batches" / name) == Tokens.load(tmp_path / "alone" / name)
    assert capsys.readouterr().err.count("skipped") == 2
    assert run("encode", speech, "-o", tmp_path / "batches", "--batch-seconds", -1) == 2


def test_a_policy_by_name(speech, tmp_path, monkeypatch, whole, capsys):
    monkeypatch.setitem(vars(flexicodec), "load", lambda *_, **__: whole)
    target = tmp_path / "a.flxc"
    policy = "joint:acoustic=0.3,cap=4"
    assert run("encode", speech / "a.wav", "-o", target, "--frame-rate", 6.25, "--policy", policy) == 0
    tokens = Tokens.load(target)
    assert tokens.info == {"policy": "joint:cap=4,acoustic=0.3", "frame_rate": 6.25}
    assert tokens == whole.encode(flexicodec.read_audio(speech / "a.wav"), frame_rate=6.25, policy=policy)
    assert run("reconstruct", speech / "a.wav", "-o", tmp_path / "a.wav", "--policy", "centroid:threshold=0.5") == 0
    assert run("encode", speech / "a.wav", "-o", target, "--policy", "centriod:threshold=0.5") == 2
    assert "did you mean 'centroid'" in capsys.readouterr().err
    assert run("encode", speech / "a.wav", "-o", target, "--policy", "joint") == 2
    assert "with frame_rate=" in capsys.readouterr().err
    assert run("calibrate", speech, "--frame-rate", 6.25, "--policy", "joint") == 0
    assert capsys.readouterr().out.startswith("policy joint:threshold=")


def test_codebooks_are_counted_without_the_semantic_one(speech, tmp_path):
    for codebooks in (0, 3):
        run("encode", speech / "a.wav", "-o", tmp_path / "a.flxc", "--codebooks", codebooks)
        assert Tokens.load(tmp_path / "a.flxc").num_codebooks == codebooks
    assert run("decode", tmp_path / "a.flxc", "-o", tmp_path / "a.wav", "--codebooks", 2) == 0
    assert run("decode", tmp_path / "a.flxc", "-o", tmp_path / "a.wav", "--codebooks", 4) == 1


def test_tokens_of_another_model_are_refused(speech, tmp_path, capsys):
    run("encode", speech / "a.wav", "-o", tmp_path / "a.flxc", "--model", "other")
    capsys.readouterr()
    assert run("decode", tmp_path / "a.flxc", "-o", tmp_path / "a.wav") == 1
    assert "made by another model" in the_line(capsys)
    assert not (tmp_path / "a.wav").exists()


def test_an_unknown_model_is_one_line(speech, tmp_path, capsys):
    assert run("encode", speech, "-o", tmp_path / "tokens", "--model", "flexicodec-midi") == 2
    assert the_line(capsys) == "flexicodec: unknown model 'flexicodec-midi'; known: flexicodec-mini, other"


def test_a_device_that_is_not_there_is_one_line(speech, tmp_path, capsys):
    assert run("encode", speech, "-o", tmp_path / "tokens", "--device", "abacus") == 2
    assert "device 'abacus' cannot be used" in the_line(capsys)


def test_a_rate_the_model_does_not_take_is_one_error_for_all_files(speech, tmp_path, capsys):
    assert run("encode", speech, "-o", tmp_path / "tokens", "--frame-rate", 25) == 2
    assert "frame_rate is 25.0 Hz" in the_line(capsys)
    assert not (tmp_path / "tokens").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "VERB"),
        (["encode", "a.wav"], "-o/--output"),
        (["encode", "a.wav", "-o", "x", "--threshold", "0.9", "--frame-rate", "6"], "not allowed with"),
        (["encode", "a.wav", "-o", "x", "--codebooks", "some"], "invalid int value"),
        (["recode", "a.wav"], "recode"),
    ],
)
def test_a_bad_command_is_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(*arguments)
    assert message in the_line(capsys)


def test_options_reach_the_model(speech, tmp_path, loads):
    run("encode", speech, "-o", tmp_path / "out", "--sensevoice", "sv", "--device", "cpu")
    run("info", "other")
    assert loads == [
        ("flexicodec-mini", {"sensevoice": "sv", "device": "cpu", "parts": "encode"}),
        ("other", {"sensevoice": None, "device": None, "parts": "all"}),
    ]


def test_plans_are_made_before_a_model_is_loaded(speech, tmp_path, loads, capsys):
    (speech / "a.flac").touch()
    assert run("encode", speech, "-o", tmp_path / "out") == 2
    assert "would both be written to" in the_line(capsys)
    assert loads == []


def plan(inputs, output, read=AUDIO_SUFFIXES, written=file_jobs.WRITABLE_SUFFIXES):
    return file_jobs.plan([Path(path) for path in inputs], str(output), read, written)


def test_a_file_of_any_name_is_read_where_it_was_named(tmp_path):
    assert plan(["talk.dat"], "out.flac") == [(Path("talk.dat"), Path("out.flac"))]
    assert plan(["in.1/talk.dat"], "out.d/") == [(Path("in.1/talk.dat"), Path("out.d/talk.wav"))]
    assert plan(["x/talk.v2.mp3", "y/b.ogg"], "out") == [
        (Path("x/talk.v2.mp3"), Path("out/talk.v2.wav")),
        (Path("y/b.ogg"), Path("out/b.wav")),
    ]
    assert plan(["talk.dat"], tmp_path) == [(Path("talk.dat"), tmp_path / "talk.wav")]


def test_outputs_of_an_earlier_run_are_no_inputs(speech):
    once = plan([speech], speech / "out")
    for _, target in once:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    (speech / "._a.wav").touch()
    assert plan([speech], speech / "out") == once
    assert [target.name for _, target in once] == ["a.wav", "b.wav"]


def test_plans_that_would_lose_something_are_refused(speech, tmp_path):
    file, empty = speech / "a.wav", tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="would both be written to"):
        plan([file, speech / "deep" / ".." / "a.wav"], tmp_path / "out")
    with pytest.raises(ValueError, match="is an input and would be overwritten"):
        plan([speech], speech)
    with pytest.raises(ValueError, match="is an input and would be overwritten"):
        plan([file], file)
    with pytest.raises(ValueError, match="several inputs need a folder"):
        plan([speech], tmp_path / "out.wav")
    with pytest.raises(ValueError, match="several inputs need a folder"):
        plan([file, "b.wav"], tmp_path / "out.wav")
    with pytest.raises(ValueError, match=r"cannot write .*talk\.flxc: expected \.wav"):
        plan([file], tmp_path / "talk.flxc")
    with pytest.raises(ValueError, match="no files to read in"):
        plan([empty], tmp_path / "out")
    (tmp_path / "taken").touch()
    with pytest.raises(ValueError, match="taken is a file; expected a folder"):
        plan([file], tmp_path / "taken")


def test_info_of_a_file(speech, tmp_path, capsys):
    run("encode", speech / "a.wav", "-o", tmp_path / "a.flxc", "--frame-rate", 6.25)
    capsys.readouterr()
    assert run("info", tmp_path / "a.flxc") == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if "  " in line)
    assert rows["samples"] == "12801 at 16000 Hz"
    assert rows["tokens"] == "6, of 1 to 8 frames"
    assert rows["acoustic"] == "4 codebooks of 16 codes"
    assert rows["fingerprint"] == Tokens.load(tmp_path / "a.flxc").format.fingerprint

    (tmp_path / "cut.flxc").write_bytes((tmp_path / "a.flxc").read_bytes()[:-3])
    assert run("info", tmp_path / "cut.flxc") == 2
    the_line(capsys)
    assert run("info", speech / "a.wav") == 2
    assert "is a recording" in the_line(capsys)


def test_info_says_how_a_long_clip_was_taken(released, tmp_path, capsys):
    audio = torch.randn(1, 40_000, generator=torch.Generator().manual_seed(0)) * 0.1
    choices = {"threshold": 0.7, "windows": Windows(2.0, 0.5), "precision": "bfloat16"}
    released.encode(audio, **choices).save(tmp_path / "long.flxc")
    assert run("info", tmp_path / "long.flxc") == 0
    (made,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("made with")]
    assert "window_seconds 2.0, overlap_seconds 0.5, precision bfloat16" in made


def test_info_of_a_model(capsys):
    assert run("info", "other") == 0
    out = capsys.readouterr().out
    assert "12.5 Hz" in out
    assert "  quantizer  8\n" in out
    assert "  levels: [8, 8]\n" in out


def test_calibrate_prints_what_was_found(speech, monkeypatch, capsys):
    asked, skipped = {}, []

    def calibrate(codec, speech, frame_rate, progress):
        asked.update(speech=speech, frame_rate=frame_rate, progress=progress)
        return SimpleNamespace(threshold=0.8671, mean=6.24, std=0.7, n=2, skipped=skipped)

    monkeypatch.setitem(vars(flexicodec), "calibrate", calibrate)
    assert run("calibrate", speech, "--frame-rate", 6.25) == 0
    assert asked == {"speech": [str(speech)], "frame_rate": 6.25, "progress": False}
    assert capsys.readouterr().out.startswith("threshold 0.8671\n")

    skipped.append("a.wav: not audio")
    assert run("calibrate", speech, "--frame-rate", 6.25) == 1
    assert the_line(capsys) == "flexicodec: skipped a.wav: not audio"


def released_codec():
    """A fake whose parts have the sizes of the released model's, on the meta device."""
    codec = FakeCodec()
    del codec.quantizer
    for part, count in RELEASED_PARAMETERS.items():
        module = nn.Module()
        module.weight = nn.Parameter(torch.empty(count, device="meta"))
        codec.add_module(part, module)
    codec.semantic_encoder.front_end = nn.Module()
    codec.semantic_encoder.front_end.register_buffer("shift", torch.tensor([-8.311879, -8.6]))
    codec.load_report = SimpleNamespace(
        expected_extras=("repa_mlp.0.weight", "repa_mlp.0.bias"),
        unexpected_extras=(),
        semantic_source="SenseVoiceSmall",
        ignored_settings=("is_causal",),
    )
    return codec


def test_verify_names_what_differs_from_the_released_weights(speech, monkeypatch, capsys):
    codec = released_codec()
    monkeypatch.setitem(vars(flexicodec), "load", lambda name, **options: codec)
    assert run("verify", "folder", "--audio", speech / "a.wav") == 0
    out = capsys.readouterr().out
    assert "2 (repa_mlp.0)" in out
    assert "differs" not in out
    assert "3.420" in out  # what was reported

    codec.bottleneck = None  # a fixed-rate model has no such part
    assert run("verify", "folder", "--audio", speech / "a.wav") == 0
    assert "absent" in capsys.readouterr().out

    codec.encoder = nn.Linear(5, 7)
    codec.semantic_encoder.front_end.shift[0] = 0.0
    codec.load_report.unexpected_extras = ("flow.weight",)
    assert run("verify", "folder", "--audio", speech / "a.wav") == 1
    out = capsys.readouterr().out
    assert "PROBLEM: encoder is not that of the released model" in out
    assert "PROBLEM: semantic_encoder.front_end.shift is not" in out
    assert "PROBLEM: the file holds unknown weights" in out


def test_verify_compares_models_of_our_own_without_problems(capsys):
    assert run("verify", "other") == 0
    out = capsys.readouterr().out
    assert "example.flac" in out
    assert "PROBLEM" not in out


def test_compiling_comes_first(speech, tmp_path, capsys, monkeypatch):
    called = []
    for name in ("compile", "encode", "decode"):
        method = getattr(FakeCodec, name)

        def noted(codec, *given, name=name, method=method, **choices):
            called.append(name)
            return method(codec, *given, **choices)

        monkeypatch.setattr(FakeCodec, name, noted)
    tokens = tmp_path / "a.flxc"
    for verb, source, target in (("encode", "a.wav", tokens), ("reconstruct", "a.wav", tmp_path / "b.wav")):
        called.clear()
        assert run(verb, speech / source, "-o", target, "--compile") == 0
        assert called[:2] == ["compile", "encode"]
    called.clear()
    assert run("decode", tokens, "-o", tmp_path / "a.wav", "--compile") == 0
    assert called == ["compile", "decode"]
    called.clear()
    assert run("decode", tokens, "-o", tmp_path / "c.wav") == 0
    assert called == ["decode"]


def test_half_the_precision_is_passed_on(speech, tmp_path, capsys):
    codec, tokens = flexicodec.load("flexicodec-mini"), tmp_path / "a.flxc"
    half = ("--precision", "bfloat16")
    assert run("encode", speech / "a.wav", "-o", tokens, *half) == 0
    assert run("decode", tokens, "-o", tmp_path / "a.wav", *half) == 0
    assert run("reconstruct", speech / "a.wav", "-o", tmp_path / "b.wav", *half) == 0
    assert run("decode", tokens, "-o", tmp_path / "c.wav") == 0
    asked = [precision for precision in codec.precisions if precision != "float32"]
    assert asked == ["bfloat16"] * 4
    assert codec.precisions[-1] == "float32"
    for verb in ("encode", "decode"):
        assert run(verb, "--stream", "-o", "-", *half) == 2
        assert "--precision is for files" in the_line(capsys)
