"""The README's code runs as written, with tiny models in place of the named ones."""

import re
from pathlib import Path

import pytest
import torch

import flexicodec
from flexicodec.models.streaming.decoder import StreamingDecoder
from flexicodec.models.streaming.encoder import StreamingEncoder
from flexicodec.quantize import RVQConfig

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def tiny(make_codec):
    """As many codebooks as the README asks for."""
    return make_codec("whole", acoustic_quantizer=RVQConfig(num_codebooks=8, codebook_size=64, codebook_dim=4))


@pytest.fixture
def page(tiny, released, nanocodecs, speech, tmp_path, monkeypatch):
    """Names that the README assumes, in a folder with a recording."""
    models, load = {"flexicodec-mini": tiny, "weights/flexicodec": released}, flexicodec.load

    def stand_in(model="flexicodec-mini", **choices):
        if Path(model).is_dir():
            return load(model, **choices)
        return nanocodecs["nano"] if model.endswith(".nemo") else models[model]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(flexicodec, "load", stand_in)
    audio = speech[0][:, :24_001]  # no whole number of frames
    flexicodec.write_audio("talk.flac", audio, 16_000)
    tokens = tiny.encode(audio, threshold=0.6)
    chunks = torch.arange(0, tokens.durations.shape[1], 4)
    sent, played = [], []
    return {
        **{"flexicodec": flexicodec, "codec": tiny, "audio": audio, "tokens": tokens, "threshold": 0.6},
        **{f"clip_{name}": audio[0, : 5000 * count] for count, name in enumerate("abc", start=1)},
        **{"microphone": audio.split(5000, dim=1), "send": sent.append, "sent": sent},
        **{"tokens_as_they_come": [part(tokens, at, at + 4) for at in chunks], "play": played.append, "played": played},
    }


def part(tokens, start, end):
    semantic, acoustic = tokens.semantic[:, start:end], tokens.acoustic[:, :, start:end]
    durations = tokens.durations[:, start:end]
    # As a streaming encoder says it: the last tokens have the rest of the clip's samples.
    before = int(tokens.durations[:, :start].sum()) * tokens.format.frame_size
    samples = min(int(durations.sum()) * tokens.format.frame_size, int(tokens.audio_lengths) - before)
    return flexicodec.Tokens(semantic, acoustic, durations, [samples], tokens.format)


@pytest.mark.parametrize(
    "block", BLOCKS, ids=[f"line {README[: README.index(code)].count(chr(10)) + 1}" for code in BLOCKS]
)
def test_a_block_runs(page, block):
    before = page["codec"], page["audio"], page["tokens"]
    exec(re.sub(r"(\w+)=\.\.\.", r"\1=tokens.\1", block), page)
    codec, audio, tokens = before
    if page["sent"]:
        got = flexicodec.Tokens.concat([each for each in page["sent"] if each is not None])
        assert got.durations.tolist() == tokens.durations.tolist()
    if page["played"]:
        heard = torch.cat(page["played"], dim=1)
        assert heard.shape[1] == audio.shape[1]


def test_streams_end_alike():
    """Both streams end in the way described in the README."""
    assert "streaming_encoder" in README
    for stream, verb in ((StreamingEncoder, "encode"), (StreamingDecoder, "decode")):
        assert {verb, f"{verb}_each", "flush", "reset", "load_state"} <= set(dir(stream))
