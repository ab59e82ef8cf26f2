"""Laws of the `.flxc` format: integers and tokens round trip, altered and forged files are refused."""

import json
import os
import stat
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexicodec import token_file
from flexicodec.token_file import pack, pack_integers, unpack_header, unpack_integers, unpack_layers
from flexicodec.tokens import TokenFormat, Tokens
from tests.test_tokens import batch, one_clip, some_clip

FIELDS = {"name": "Gespräch", "rate": 12.5, "none": None}
LAYERS = [
    (np.array([5, 0, 7]), 3),
    (np.zeros(3, np.int64), 0),
    (np.array([4095, 1, 2048]), 12),
    (np.array([1, 2, 3]), 2),
]
SMALL = pack(FIELDS, LAYERS)


def unpack(data, count=None):
    header = unpack_header(data)
    return header.fields, [layer.tolist() for layer in unpack_layers(data, header, count)]


def forged(header, layers=b""):
    """A file with any header and a correct checksum."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    head = struct.pack(">4sBI", b"FLXC", 1, len(text)) + text
    return head + struct.pack(">I", zlib.crc32(head)) + layers


@st.composite
def values_and_bits(draw):
    bits = draw(st.integers(0, 32))
    return draw(st.lists(st.integers(0, 2**bits - 1), max_size=40)), bits


@settings(derandomize=True, deadline=None)
@given(values_and_bits())
def test_integers_come_back(case):
    values, bits = case
    packed = pack_integers(np.array(values, np.int64), bits)
    assert len(packed) == (len(values) * bits + 7) // 8
    assert int.from_bytes(packed, "big") >> (-len(values) * bits % 8) == sum(
        value << bits * place for place, value in enumerate(reversed(values))
    )
    assert unpack_integers(packed, len(values), bits).tolist() == values


@settings(derandomize=True, deadline=None, max_examples=50)
@given(
    st.lists(values_and_bits(), min_size=1, max_size=5),
    st.dictionaries(
        st.text(max_size=5).filter(lambda k: k not in ("tokens", "bits")), st.none() | st.text() | st.integers()
    ),
)
def test_files_come_back(cases, fields):
    count = min(len(values) for values, _ in cases)
    data = pack(fields, [(np.array(values[:count], np.int64), bits) for values, bits in cases])
    assert unpack(data) == (fields, [values[:count] for values, _ in cases])


@pytest.mark.parametrize("bits", [1, 2, 7, 8, 9, 15, 16, 17, 31, 32])
def test_largest_value_of_a_width(bits):
    largest = np.array([2**bits - 1, 0, 2**bits - 1])
    assert unpack_integers(pack_integers(largest, bits), 3, bits).tolist() == largest.tolist()
    with pytest.raises(ValueError, match=f"do not fit into {bits} bits"):
        pack_integers(largest + 1, bits)


def test_every_altered_byte_is_refused():
    for place in range(len(SMALL)):
        for value in set(range(256)) - {SMALL[place]}:
            altered = SMALL[:place] + bytes([value]) + SMALL[place + 1 :]
            with pytest.raises(ValueError, match=r"FLXC|version|checksum|cut short"):
                unpack(altered)


def test_every_truncation_and_extension_is_refused():
    for length in range(len(SMALL)):
        with pytest.raises(ValueError, match=r"not a .flxc file|cut short"):
            unpack(SMALL[:length])
    for extra in (b"\0", b"FLXC", SMALL):
        with pytest.raises(ValueError, match="appended"):
            unpack(SMALL + extra)
        with pytest.raises(ValueError, match="appended"):
            unpack(SMALL + extra, 1)


def test_fewer_layers_need_fewer_bytes():
    header, expected = unpack_header(SMALL), unpack(SMALL)[1]
    end = header.start
    for count in range(len(LAYERS) + 1):
        if count:
            end += header.layer_bytes(count - 1) + 4
        for length in (end, end + 1, len(SMALL)):  # what lies behind may be missing, in part or whole
            assert unpack(SMALL[:length], count)[1] == expected[:count]
        if count:
            with pytest.raises(ValueError, match=f"only the {count - 1} layers before can be read"):
                unpack(SMALL[: end - 1], count)
    assert end == len(SMALL)
    with pytest.raises(ValueError, match="asked for 5 layers, the file has 4"):
        unpack(SMALL, 5)


def test_layers_of_another_place_or_file_do_not_fit():
    layers = [(np.array([1, 2, 3]), 8), (np.array([4, 5, 6]), 8)]
    ours, theirs = pack({"clip": 1}, layers), pack({"clip": 2}, layers)
    size = 3 + 4
    swapped = ours[: -2 * size] + ours[-size:] + ours[-2 * size : -size]
    for data in (swapped, ours[:-size] + theirs[-size:], ours[: -2 * size] + theirs[-2 * size :]):
        with pytest.raises(ValueError, match="checksum"):
            unpack(data)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"bits": [3]}, "None tokens"),
        ({"tokens": 3}, "layers of None bits"),
        ({"tokens": -1, "bits": [3]}, "-1 tokens"),
        ({"tokens": 3.0, "bits": [3]}, "3.0 tokens"),
        ({"tokens": True, "bits": [3]}, "True tokens"),
        ({"tokens": 10**12, "bits": [0]}, "1000000000000 tokens"),
        ({"tokens": 3, "bits": [33]}, r"\[33\] bits"),
        ({"tokens": 3, "bits": [-3]}, r"\[-3\] bits"),
        ({"tokens": 3, "bits": ["3"]}, r"\['3'\] bits"),
        ({"tokens": 2**24, "bits": [0] * 100}, "100 layers of 16777216 integers without a bit"),
        ({"tokens": 2**24, "bits": [32]}, "cut short"),
        ([1], "a JSON list"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"tokens": ' + b"9" * 5000 + b"}", "not JSON|tokens"),
    ],
)
def test_a_false_header_is_refused(header, message):
    with pytest.raises(ValueError, match=message):
        unpack(forged(header))


def test_filling_bits_must_be_zero():
    layer = bytes([0b10100001])  # 101, and 1 among the filling
    header = forged({"tokens": 1, "bits": [3]})
    crc = struct.pack(">I", zlib.crc32(layer, zlib.crc32(header[:-4])))
    with pytest.raises(ValueError, match="behind the last integer"):
        unpack(header + layer + crc)


def test_a_newer_version_says_so():
    with pytest.raises(ValueError, match="version 2.*newer release"):
        unpack(SMALL[:4] + b"\2" + SMALL[5:])


@pytest.mark.parametrize(
    ("fields", "layers", "message"),
    [
        ({"tokens": 3}, LAYERS, "belong to the file format"),
        ({"rate": float("nan")}, LAYERS, "not JSON compliant"),
        ({"rate": object()}, LAYERS, "JSON values only"),
        ({"text": "x" * 2**20}, LAYERS, "more than 1048576"),
        ({}, [], "one common count"),
        ({}, [(np.array([1]), 1), (np.array([1, 1]), 1)], "one common count"),
        ({}, [(np.array([1.0]), 1)], "expected integers"),
        ({}, [(np.array([[1]]), 1)], "along one axis"),
        ({}, [(np.array([-1]), 8)], "do not fit"),
        ({}, [(np.array([1]), 33)], "33 bits"),
    ],
)
def test_what_cannot_be_packed(fields, layers, message):
    with pytest.raises(ValueError, match=message):
        pack(fields, layers)


def test_write_replaces_the_file_at_once_with_usual_permissions(tmp_path):
    path = tmp_path / "clip.flxc"
    token_file.write(path, b"old")
    token_file.write(str(path), b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.flxc"]
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_a_failed_write_leaves_everything_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "clip.flxc"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        token_file.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_write_follows_a_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    token_file.write(tmp_path / "link", b"data")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"data"


# Clips of tokens


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
