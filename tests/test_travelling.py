"""Tokens and codecs in the tools around them: pickles, hashes, torch.save, data loaders, accelerate, tables."""

import copy
import io
import os
import pickle
import subprocess
import sys
import warnings
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import joblib
import numpy as np
import pyarrow
import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import nn

import flexicodec
from flexicodec import TokenFormat, Tokens

FORMAT = TokenFormat(semantic_codebook_size=20, acoustic_codebook_size=6, fingerprint="f00d", model="tiny")
FIXED = TokenFormat(22050, 1764, None, 4032, 1, parallel_codebooks=True)


def made(sizes=(5, 1, 3), format=FORMAT, known=True, info=None):
    """Clips of so many tokens."""
    clips = []
    for seed, size in enumerate(sizes):
        draw = np.random.default_rng(seed)
        semantic = None if format.semantic_codebook_size is None else draw.integers(0, 20, size)
        durations = draw.integers(1, format.max_duration + 1, size)
        lengths = [int(durations.sum()) * format.frame_size - 7] if known else None
        clips.append(Tokens(semantic, draw.integers(0, 6, (2, size)), durations, lengths, format, info))
    return Tokens.cat(clips)


KINDS = {
    "ragged": made(),
    "one": made((4,), info={"policy": "rate", "frame_rate": 6.25}),
    "fixed": made(format=FIXED),
    "unknown lengths": made(known=False),
    "notes": Tokens.cat([made((2,), info={"threshold": 0.5}), made((3,), info={"threshold": 0.25})]),
    "semantic": made().keep(acoustic=0),
}
kinds = pytest.mark.parametrize("tokens", KINDS.values(), ids=KINDS)


def same(ours, theirs):
    return ours == theirs and ours.info == theirs.info and ours.format.model == theirs.format.model


# ------------------------------------------------------------------------------------------- pickles, torch.save, bytes


@kinds
def test_pickles_and_copies_are_equal_and_say_the_same(tokens):
    for again in (pickle.loads(pickle.dumps(tokens)), copy.deepcopy(tokens), copy.copy(tokens)):
        assert same(again, tokens)
    again = pickle.loads(pickle.dumps(tokens))
    _ = repr(tokens), tokens.bitrates_kbps, tokens.times(0)
    assert pickle.dumps(again) == pickle.dumps(tokens)
    assert joblib.hash(again) == joblib.hash(tokens)


def test_hashes_are_equal_between_processes():
    call = (
        "import joblib, torch; from flexicodec import Tokens; "
        "print(joblib.hash(Tokens([1, 2], [[1, 2]], [1, 1], [2560], info={'a': 1})))"
    )
    root = Path(flexicodec.__file__).parents[1]
    here = joblib.hash(Tokens([1, 2], [[1, 2]], [1, 1], [2560], info={"a": 1}))
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == here


def test_a_format_that_was_left_out_stays_left_out():
    tokens = Tokens([1, 2], [[1, 2]], [1, 1])
    explicit = Tokens([1, 2], [[1, 2]], [1, 1], format=TokenFormat())
    assert "no format given" in repr(tokens)
    for again in (tokens, tokens.keep(1), tokens[0], tokens.to("cpu"), pickle.loads(pickle.dumps(tokens))):
        with pytest.raises(ValueError, match="made without a format: format=codec.format"):
            _ = again.bitrates_kbps
    for again in (explicit, pickle.loads(pickle.dumps(explicit))):
        assert float(again.bitrates_kbps) == pytest.approx(12.5 * (15 + 3 + 12) / 1000)


@kinds
def test_torch_load_opens_what_torch_save_wrote(tokens):
    file = io.BytesIO()
    torch.save({"tokens": tokens, "step": 1}, file)
    file.seek(0)
    assert same(torch.load(file)["tokens"], tokens)


def test_torch_load_opens_margins(codec):
    tokens = codec.encode(0.1 * torch.randn(20_000, generator=torch.Generator().manual_seed(0)), margins=True)
    file = io.BytesIO()
    torch.save(tokens, file)
    file.seek(0)
    again = torch.load(file)
    assert again == tokens
    assert torch.equal(again.margins.acoustic, tokens.margins.acoustic)


@pytest.mark.slow
def test_importing_torch_first_is_enough_for_torch_load(tmp_path):
    torch.save(made(), tmp_path / "tokens.pt")
    call = f"import torch, flexicodec; print(len(torch.load({str(tmp_path / 'tokens.pt')!r})))"
    root = Path(flexicodec.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "3"


def test_bytes_and_open_files_are_files(tmp_path):
    tokens = KINDS["one"]
    data = tokens.to_bytes()
    tokens.save(tmp_path / "a.flxc")
    written = io.BytesIO()
    tokens.save(written)
    assert written.getvalue() == data == (tmp_path / "a.flxc").read_bytes()
    with open(tmp_path / "a.flxc", "rb") as file:
        for source in (data, bytearray(data), memoryview(data), io.BytesIO(data), file, tmp_path / "a.flxc"):
            assert same(Tokens.load(source), tokens)
    assert same(Tokens.from_bytes(data), tokens)
    assert Tokens.from_bytes(data, acoustic=1) == tokens.keep(acoustic=1)
    with pytest.raises(ValueError, match="open as text; a .flxc file is opened as bytes"):
        Tokens.load(io.StringIO("FLXC"))
    for damaged in (data[:20], b"", b"RIFF" + data):
        with pytest.raises(ValueError, match=r"not a \.flxc file|cut short"):
            Tokens.from_bytes(damaged)


# --------------------------------------------------------------------------------------- data loaders and accelerate


def test_a_data_loader_collates_and_pins():
    clips = [KINDS["ragged"][i] for i in range(3)]
    loader = torch.utils.data.DataLoader(clips, batch_size=2, collate_fn=Tokens.cat, num_workers=1)
    batches = list(loader)
    assert [len(each) for each in batches] == [2, 1]
    assert Tokens.cat(batches) == KINDS["ragged"]
    if torch.cuda.is_available():
        assert KINDS["ragged"].pin_memory().durations.is_pinned()


def test_accelerate_sends_and_gathers():
    tokens = KINDS["ragged"]
    assert send_to_device(tokens, "cpu", non_blocking=True) == tokens
    assert Accelerator(cpu=True).gather_for_metrics(tokens) == tokens


# --------------------------------------------------------------------------------------------------------------- tables


@kinds
def test_tables_there_and_back(tokens):
    columns = tokens.to_dict()
    assert {len(values) for values in columns.values()} == {len(tokens)}
    assert [len(row) for row in columns["durations"]] == tokens.token_lengths.tolist()
    table = pyarrow.table(columns)
    frame = table.to_pandas()
    arrays = {name: list(frame[name]) for name in frame}
    for given in (columns, table.to_pydict(), arrays):
        assert same(Tokens.from_dict(given), tokens)
    rows = [Tokens.from_dict({**row, "speaker": "a"}) for row in table.to_pylist()]
    assert same(Tokens.cat(rows), tokens)


def test_a_table_of_codes_alone_needs_its_format():
    columns = {"semantic": [[1, 2], [3]], "acoustic": [[[1, 2]], [[3]]], "durations": [[1, 1], [2]]}
    tokens = Tokens.from_dict(columns, format=FORMAT)
    assert tokens.token_lengths.tolist() == [2, 1]
    assert Tokens.from_dict({name: torch.tensor(values[0]) for name, values in columns.items()}, FORMAT) == tokens[0]
    for wrong, match in (
        (columns, "no column format; say whose tokens these are"),
        ({"text": ["a"]}, r"no column semantic or acoustic among \['text'\]"),
        ({**columns, "durations": [[1, 1]]}, "'durations': 1"),
    ):
        with pytest.raises(ValueError, match=match):
            Tokens.from_dict(wrong)


# --------------------------------------------------------------------------------------------------------------- codecs


def test_a_codec_hashes_the_same_before_and_after_use(make_codec):
    codec = make_codec("whole")
    before = pickle.dumps(codec)
    audio = 0.1 * torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    tokens = codec.encode(audio, frame_rate=6.25)
    codec.decode(tokens)
    list(codec.streaming_encoder().encode_options)
    assert pickle.dumps(codec) == before
    assert pickle.loads(before).encode(audio, frame_rate=6.25) == tokens


def hash_elsewhere(folder, calls=""):
    """Hash a saved codec in another process, whose sets have another order."""
    code = f"import joblib, flexicodec, numpy as np; codec = flexicodec.load({str(folder)!r}); {calls}"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", code + "print(joblib.hash(codec))"],
        capture_output=True,
        text=True,
        cwd=Path(flexicodec.__file__).parents[1],
        env=environment,
        check=True,
    )
    return done.stdout.strip()


def test_a_codec_has_one_hash_in_all_processes(whole, tmp_path):
    folder = whole.save_pretrained(tmp_path / "model")
    here = joblib.hash(flexicodec.load(folder))
    other = flexicodec.load(folder)
    other.encode(np.zeros(9000, np.float32))
    assert joblib.hash(other) == here
    assert hash_elsewhere(folder) == here
    assert hash_elsewhere(folder, "codec.encode(np.ones(9000, np.float32)); codec.fingerprint; ") == here
    with torch.no_grad():
        other.semantic_quantizer.project_in.weight[0, 0] += 1e-3
    assert joblib.hash(other) != here


ATTRIBUTES = ("dtype", "shape", "requires_grad", "is_leaf")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
def test_weights_come_out_of_pickles_as_they_went_in(whole, dtype, shape):
    codec = copy.deepcopy(whole)
    codec.register_buffer("extra", torch.randn(shape).to(dtype))
    codec.frozen = nn.Parameter(torch.ones(2, 3).T, requires_grad=False)
    codec.tied = codec.frozen
    again = pickle.loads(pickle.dumps(codec))
    assert torch.equal(again.extra, codec.extra)
    assert again.tied is again.frozen
    for name, ours in again.state_dict(keep_vars=True).items():
        theirs = codec.state_dict(keep_vars=True)[name]
        assert type(ours) is type(theirs)
        assert [getattr(ours, each) for each in ATTRIBUTES] == [getattr(theirs, each) for each in ATTRIBUTES]
        assert torch.equal(ours, theirs)
        assert ours.data_ptr() != theirs.data_ptr() or not ours.numel()


def test_weights_in_shared_memory_stay_shared(whole):
    codec = copy.deepcopy(whole).share_memory()
    weight = codec.semantic_quantizer.project_in.weight
    sent = ForkingPickler.dumps(codec)
    received = ForkingPickler.loads(sent).semantic_quantizer.project_in.weight
    with torch.no_grad():
        weight[0, 0] = 7.0
    assert received[0, 0] == 7.0


def test_copies_of_codecs_are_codecs(whole):
    shallow = copy.copy(whole)
    assert shallow.semantic_quantizer is whole.semantic_quantizer
    assert copy.deepcopy([whole, whole])[0].fingerprint == shallow.fingerprint == whole.fingerprint


def test_read_only_arrays_are_encoded_and_decoded(whole):
    """As they come from Ray's object store and from memory-mapped files."""
    audio = 0.1 * np.random.default_rng(0).standard_normal(20_000).astype(np.float32)
    tokens = whole.encode(audio)
    audio.flags.writeable = False
    assert whole.encode(audio) == tokens
    parts = {name: getattr(tokens, name).numpy() for name in ("semantic", "acoustic", "durations", "audio_lengths")}
    for array in parts.values():
        array.flags.writeable = False
    given = Tokens(**parts, format=tokens.format)
    assert given == tokens
    assert torch.equal(whole.decode(given), whole.decode(tokens))
    read_only = {name: weight.numpy().copy() for name, weight in whole.state_dict().items()}
    for array in read_only.values():
        array.flags.writeable = False
    codec = copy.deepcopy(whole)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.from_numpy
        codec.load_state_dict({name: torch.from_numpy(array) for name, array in read_only.items()}, assign=True)
    assert codec.encode(audio) == tokens
    assert torch.equal(codec.decode(tokens), whole.decode(tokens))
