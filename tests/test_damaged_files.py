"""Damaged files: whatever happens to the bytes, a reader returns or raises a ValueError, soon and in bounded memory."""

import re
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

import flexicodec
from flexicodec.corpus.token_tables import ClipRow, TableHeader, read_table, table_tokens, write_table
from flexicodec.models.streaming.state import StreamState
from flexicodec.tokens import Tokens
from tests.models.test_convert_nemo import archive_of

AUDIO = ("wav", "flac", "ogg", "opus", "mp3")
KINDS = ("flxc", "parquet", "config", "safetensors", "nemo", "state", *AUDIO)
SLACK_SECONDS = 0.25  # of the CPU: a first import, another thread
SLACK_BYTES = 2**20


def some_audio(samples=8000):
    return 0.1 * torch.randn(1, samples, generator=torch.Generator().manual_seed(0)).cumsum(1).sin()


def read_tokens(path: Path) -> list[Tokens]:
    """Read a table of tokens, by itself: nothing says what its hash was."""
    header, table = read_table(path)
    return list(table_tokens(table, header, path))


@pytest.fixture(scope="module")
def intact(tmp_path_factory, whole, nanocodecs):
    """For each kind the path of a small valid file, and what reads it."""
    folder = tmp_path_factory.mktemp("intact")
    made = {}
    tokens = whole.encode(some_audio())
    tokens.save(folder / "a.flxc")
    made["flxc"] = (folder / "a.flxc", lambda path: Tokens.load(path))
    clips = [ClipRow(f"clip-{number}", tokens, text="a text") for number in range(3)]
    write_table(folder / "a.parquet", clips, TableHeader(tokens.format, whole.num_codebooks, {"threshold": 0.7}))
    made["parquet"] = (folder / "a.parquet", read_tokens)
    model = whole.save_pretrained(folder / "model")
    made["config"] = (model / "config.json", lambda path: flexicodec.load(path.parent))
    made["safetensors"] = (model / "model.safetensors", lambda path: flexicodec.load(path.parent))
    made["nemo"] = (archive_of(nanocodecs["nano"], folder / "a.nemo"), lambda path: flexicodec.load(path))
    stream = whole.streaming_encoder()
    stream.encode(some_audio())
    stream.state.save(folder / "state.pt")
    made["state"] = (folder / "state.pt", StreamState.load)
    for suffix in AUDIO:
        path = folder / f"a.{suffix}"
        flexicodec.write_audio(path, some_audio(), 16_000)
        made[suffix] = (path, flexicodec.read_audio)
    return made


def damage(data: bytes, draw: np.random.Generator) -> bytes:
    """Change bytes in one of the ways of disks, networks and editors."""
    at = int(draw.integers(len(data)))
    # Half of all damage is near the start, where headers are.
    if draw.random() < 0.5:
        at = int(draw.integers(min(len(data), 200)))
    count = int(2 ** draw.uniform(0, 8))
    head, middle, tail = data[:at], data[at : at + count], data[at + count :]
    ways = {
        "cut": lambda: head,
        "tail": lambda: data + draw.bytes(count),
        "flip": lambda: head + bytes([data[at] ^ (1 << int(draw.integers(8)))]) + data[at + 1 :],
        "zeros": lambda: head + bytes(len(middle)) + tail,
        "ones": lambda: head + b"\xff" * len(middle) + tail,
        "noise": lambda: head + draw.bytes(len(middle)) + tail,
        "lost": lambda: head + tail,
        "twice": lambda: head + middle + middle + tail,
        "inserted": lambda: head + draw.bytes(count) + middle + tail,
        "number": lambda: change_number(data, draw),
        "lines": lambda: data.replace(b"\n", b"\r\n"),
        "empty": lambda: b"",
    }
    return ways[list(ways)[int(draw.integers(len(ways)))]]()


def change_number(data: bytes, draw: np.random.Generator) -> bytes:
    """Replace a decimal number, as headers in JSON have them, and make the checksum of a token file right again."""
    found = list(re.finditer(rb"\d+", data[:4000]))
    if not found:
        return data[::-1]
    number = found[int(draw.integers(len(found)))]
    values = (b"0", b"-1", b"1e9", b"99999999999", b"null", b"[]", b'"x"', b"1.5", b"2147483648", b"{}")
    data = data[: number.start()] + values[int(draw.integers(len(values)))] + data[number.end() :]
    if data.startswith(b"FLXC"):
        text = data[9:]
        end = len(text)
        depth = 0
        for i, byte in enumerate(text):
            depth += (byte == 0x7B) - (byte == 0x7D)
            if depth == 0:
                end = i + 1
                break
        header = data[:5] + end.to_bytes(4, "big") + text[:end]
        data = header + zlib.crc32(header).to_bytes(4, "big") + text[end + 4 :]
    return data


def measured(read, path: Path) -> tuple[float, int, str]:
    """Read a file: seconds, peak of traced bytes, and the error that is not allowed, if any."""
    if tracemalloc.is_tracing():
        tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    start = time.process_time()
    problem = ""
    try:
        read(path)
    except ValueError:
        pass
    except Exception as error:
        problem = f"{type(error).__name__}: {str(error)[:200]}"
    seconds = time.process_time() - start
    return seconds, tracemalloc.get_traced_memory()[1] - before, problem


def try_damage(intact, kind: str, count: int, seed: int, traced: bool) -> list[str]:
    """Damage a file so many times; returns a line for each reading that broke the law.

    Memory is counted only where it is traced, which makes reading several times as slow.
    """
    path, read = intact[kind]
    data = path.read_bytes()
    faults = []
    path.write_bytes(b"neither")  # what is imported to read odd files is imported now
    measured(read, path)
    path.write_bytes(data)
    if traced:
        tracemalloc.start()
    try:
        read(path)
        seconds, memory, problem = min(measured(read, path) for _ in range(3))
        assert not problem
        for number in range(count):
            path.write_bytes(damage(data, np.random.default_rng([seed, number])))
            took, peak, problem = measured(read, path)
            if took > 10 * seconds + SLACK_SECONDS:
                problem += f" took {took:.2f} s, the intact file {seconds:.2f} s"
            if traced and peak > memory + 10 * len(data) + SLACK_BYTES:
                problem += f" took {peak} bytes, the intact file of {len(data)} took {memory}"
            if problem:
                faults.append(f"{kind} {seed} {number}: {problem}")
    finally:
        if traced:
            tracemalloc.stop()
        path.write_bytes(data)
    return faults


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_refused(intact, kind):
    assert try_damage(intact, kind, 20, seed=0, traced=False) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_damaged_files(intact, kind):
    assert try_damage(intact, kind, 10_000 // len(KINDS), seed=1, traced=True) == []
