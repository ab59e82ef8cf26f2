"""The demo, with a tiny model instead of the packaged one: files, figures and table."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import flexicodec

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def demo():
    """The script's names."""
    return SimpleNamespace(**runpy.run_path(str(EXAMPLES / "demo.py")))


@pytest.fixture(scope="module")
def model(whole, tmp_path_factory):
    """A folder with a tiny model."""
    return whole.save_pretrained(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def talk(speech, tmp_path):
    """A recording at another rate than the codec's."""
    flexicodec.write_audio(tmp_path / "talk.flac", speech[0][:, :20001], 8000)
    return tmp_path / "talk.flac"


def test_the_example_ships_and_is_linked(demo):
    (linked,) = EXAMPLES.glob("*.flac")
    assert linked.read_bytes() == demo.EXAMPLE.read_bytes()
    assert 6 < flexicodec.read_audio(demo.EXAMPLE).shape[1] / 16000 < 10
    assert linked.name in (EXAMPLES / "README.md").read_text()


def test_files_pictures_and_table(demo, model, talk, tmp_path, capsys):
    output = tmp_path / "deep" / "demo"
    demo.main(["--model", str(model), "--audio", str(talk), "-o", str(output), "--frame-rates", "12.5", "4"])
    wanted = {"original.wav"} | {f"{rate}hz{suffix}" for rate in ("12.5", "4") for suffix in (".flxc", ".wav", ".png")}
    assert {path.name for path in output.iterdir()} == wanted

    codec = flexicodec.load(model)
    original = flexicodec.read_audio(output / "original.wav")
    tokens = flexicodec.Tokens.load(output / "4hz.flxc")
    decoded = flexicodec.read_audio(output / "4hz.wav")
    assert original.shape == decoded.shape == (1, 40002)
    assert tokens == codec.encode(flexicodec.read_audio(talk, 16000), frame_rate=4.0)
    torch.testing.assert_close(decoded, codec.decode(tokens).clamp(-1, 1), atol=1e-4, rtol=0)

    _, _, heading, fast, slow, *_ = capsys.readouterr().out.splitlines()
    assert heading.split("  ")[:3] == ["asked Hz", "realised Hz", "tokens"]
    assert fast.split()[:3] == ["12.5", "12.40", "31"]
    asked, realised, count, size, kbps, stoi, encode_seconds, decode_seconds = map(float, slow.split())
    assert (asked, count) == (4, int(tokens.token_lengths[0]))
    assert realised == pytest.approx(float(tokens.frame_rates[0]), abs=0.01)
    assert size == (output / "4hz.flxc").stat().st_size
    assert kbps == pytest.approx(float(tokens.bitrates_kbps[0]), abs=0.01)
    assert -1 <= stoi <= 1
    assert encode_seconds >= 0
    assert decode_seconds >= 0


def test_too_little_speech_has_no_stoi(demo):
    noise = torch.randn(1, 2000, generator=torch.Generator().manual_seed(0))
    assert demo.intelligibility(noise, noise, 16000) != demo.intelligibility(noise, noise, 16000)  # NaN
    longer = noise.repeat(1, 10)
    assert demo.intelligibility(longer, longer, 16000) == pytest.approx(1)


def test_mistakes_end_in_one_line(demo, model, talk, tmp_path):
    with pytest.raises(SystemExit, match="demo: no such audio file"):
        demo.main(["--model", str(model), "--audio", str(tmp_path / "none.wav"), "-o", str(tmp_path / "demo")])
    with pytest.raises(SystemExit, match="demo: frame_rate is 50 Hz"):
        demo.main(["--model", str(model), "--audio", str(talk), "-o", str(tmp_path / "demo"), "--frame-rates", "50"])
