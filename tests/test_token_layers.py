"""Tokens in files: what comes back, what it costs, and headers that lie."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from flexicodec import token_file
from flexicodec.tokens import TokenFormat, Tokens
from tests.test_tokens import batch, one_clip, some_clip


@settings(derandomize=True, deadline=None)
@given(some_clip())
def test_load_gives_what_was_saved(tmp_path_factory, tokens):
    path = tmp_path_factory.mktemp("clip") / "clip.flxc"
    tokens.save(path)
    assert Tokens.load(str(path)) == tokens
    header = token_file.unpack_header(path.read_bytes())
    payload = sum(header.tokens * bits for bits in header.bits)
    assert payload == pytest.approx(1000 * float(tokens.bitrates_kbps * tokens.seconds))
    assert path.stat().st_size == header.start + sum(header.layer_bytes(i) + 4 for i in range(len(header.bits)))
    for count in range(int(tokens.semantic is None), tokens.num_codebooks + 1):
        assert Tokens.load(path, acoustic=count) == tokens.keep(acoustic=count)


def test_a_batch_of_one_saves_without_its_padding(tmp_path):
    padded = Tokens([[1, 2, 0, 0]], None, [[3, 4, 0, 0]])
    padded.save(tmp_path / "clip.flxc")
    assert Tokens.load(tmp_path / "clip.flxc").durations.tolist() == [[3, 4]]
    with pytest.raises(ValueError, match=r"3 clips, but a .flxc file holds one.*tokens\[i\].save"):
        batch().save(tmp_path / "clips.flxc")


def test_ten_seconds_take_little_more_than_their_bits(tmp_path):
    format = TokenFormat(fingerprint="0123456789abcdef", model="flexicodec-mini")
    info = {"frame_rate": 6.4}
    tokens = one_clip(64, 24, format, durations=[[2] * 61 + [1] * 3], audio_lengths=[160000], info=info)
    path = tmp_path / "clip.flxc"
    for kept, budget in ((24, 450), (8, 350), (0, 300)):
        tokens.keep(acoustic=kept).save(path)
        assert path.stat().st_size <= 64 * (15 + 3 + 12 * kept) // 8 + budget


def small_file(folder):
    path = folder / "clip.flxc"
    tokens = one_clip(3, 2, info={"threshold": 0.5})
    tokens.save(path)
    return path, path.read_bytes(), tokens


def test_any_flipped_bit_is_refused(tmp_path):
    path, data, _ = small_file(tmp_path)
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        with pytest.raises(ValueError, match=r"clip.flxc: .*(FLXC|version|checksum|cut short)"):
            Tokens.load(path)


def test_a_cut_file_gives_its_whole_layers_to_who_asks_for_them(tmp_path):
    path, data, tokens = small_file(tmp_path)
    header = token_file.unpack_header(data)
    ends = np.cumsum([header.start] + [header.layer_bytes(i) + 4 for i in range(4)])[2:]
    for length in range(len(data)):
        path.write_bytes(data[:length])
        for count in range(3):
            if length >= ends[count]:
                assert Tokens.load(path, acoustic=count) == tokens.keep(acoustic=count)
            else:
                with pytest.raises(ValueError, match=r"clip.flxc: .*(cut short|not a .flxc)"):
                    Tokens.load(path, acoustic=count)
        with pytest.raises(ValueError, match=r"cut short|not a .flxc"):
            Tokens.load(path)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="3 acoustic codebooks asked, 2 there"):
        Tokens.load(path, acoustic=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": None}, "sample_rate is None"),
        ({"rate": "16000"}, "sample_rate is '16000'"),
        ({"semantic": 64}, "layers of .* bits do not go with"),
        ({"semantic": None}, "layers of .* bits do not go with"),
        ({"acoustic": 4096}, "layers of .* bits do not go with"),
        ({"acoustic": 5}, "acoustic code 5"),
        ({"max_duration": 9}, "layers of .* bits do not go with"),
        ({"max_duration": 5}, "layers|duration"),
        ({"samples": 10**6}, "were the tokens made from a resampled copy"),
        ({"samples": 1.5}, "audio_lengths has type float64"),
        ({"samples": []}, "audio_lengths has 0 entries"),
        ({"samples": 2**70}, "audio_lengths has type object"),
        ({"info": []}, "expected a dict"),
        ({"author": "me"}, "author"),
    ],
)
def test_a_header_that_does_not_go_with_the_layers_is_refused(tmp_path, changes, message):
    path, data, tokens = small_file(tmp_path)
    tokens = replace(tokens, acoustic=[[[5, 0, 1], [0, 3, 5]]], durations=[[6, 1, 8]], audio_lengths=None)
    tokens.save(path)
    header = token_file.unpack_header(path.read_bytes())
    layers = token_file.unpack_layers(path.read_bytes(), header)
    path.write_bytes(token_file.pack(header.fields | changes, list(zip(layers, header.bits, strict=True))))
    with pytest.raises(ValueError, match=message):
        Tokens.load(path)


def test_the_header_is_readable(tmp_path):
    _, data, tokens = small_file(tmp_path)
    size = int.from_bytes(data[5:9], "big")
    assert json.loads(data[9 : 9 + size]) == {
        "model": "tiny",
        "fingerprint": "f00d",
        "rate": 16000,
        "frame": 1280,
        "semantic": 20,
        "acoustic": 6,
        "max_duration": 8,
        "parallel": False,
        "samples": tokens.audio_lengths.item(),
        "info": {"threshold": 0.5},
        "tokens": 3,
        "bits": [5, 3, 3, 3],
    }
