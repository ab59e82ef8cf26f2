"""Packing: what went in comes out, a corpus that grew is a longer one, and what is wrong is named."""

import pickle
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flexicodec import TokenFormat, read_audio
from flexicodec.corpus import token_dataset
from flexicodec.lm import Vocabulary, make_layout
from flexicodec.lm.loader import PackedDataset
from flexicodec.lm.packed import PackedTokens
from flexicodec.lm.packing import pack
from flexicodec.token_corpus.plan import make_plan
from flexicodec.token_corpus.settings import settings_of
from flexicodec.token_corpus.units import run_unit
from tests.lm.drawn import FLEXI, FORMATS, characters, make_folder, random_clips

WIDE = TokenFormat(semantic_codebook_size=2**16 + 5, acoustic_codebook_size=2**17, max_duration=300, fingerprint="w")
NANO = replace(FORMATS["nanocodec"], fingerprint="nano")


@pytest.mark.parametrize(
    ("format", "num_codebooks"), [(FLEXI, 2), (FLEXI, 0), (WIDE, 1), (NANO, 3), (FORMATS["no cap"], 1)]
)
def test_what_is_packed_is_there(tmp_path, format, num_codebooks):
    clips = random_clips(1, 7, format, num_codebooks)
    folder = make_folder(tmp_path / "tokens", [clips[:3], [], clips[3:]], format=format, num_codebooks=num_codebooks)
    packed = pack(folder, tmp_path / "packed")
    assert packed.num_clips == 7
    assert [packed.tokens(number) for number in range(7)] == clips
    assert packed.tokens(4).info == {"id": "2-1"}
    assert packed.clips.column("speaker").to_pylist() == ["s0", "s1", "s2", "s0", "s1", "s2", "s3"]
    assert packed.record["tokens"] == sum(int(clip.token_lengths) for clip in clips)
    assert (packed.durations is None) == (format.max_duration == 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packed", "tokens"]


def test_fewer_codebooks_and_smaller_types(tmp_path):
    clips = random_clips(1, 3)
    packed = pack(make_folder(tmp_path / "tokens", [clips]), tmp_path / "packed", 6.25, num_codebooks=1)
    assert packed.tokens(2) == clips[2].keep(1)
    assert [packed.semantic.dtype, packed.durations.dtype, packed.acoustic.dtype] == [np.uint16, np.uint8, np.uint16]


def test_texts(tmp_path, caplog):
    folder = make_folder(tmp_path / "tokens", [random_clips(1, 6)])
    packed = pack(folder, tmp_path / "packed", base=26, tokenizer=characters)
    assert packed.text.tolist() == [0, 1] + [0, 1] * 2 + [0, 1] * 3 + [0, 1]
    assert packed.text_offsets.tolist() == [0, 0, 2, 6, 12, 12, 14]
    assert "1 of 6 clips have no text" in caplog.text
    with pytest.raises(ValueError, match="ids up to 1 and base is 1; base is the number of rows"):
        pack(folder, tmp_path / "small", base=1, tokenizer=characters)


def test_a_corpus_that_grew_keeps_its_clips(tmp_path):
    clips = random_clips(1, 9)
    folder = make_folder(tmp_path / "tokens", [clips[:3], clips[3:5]])
    pack(folder, tmp_path / "packed")
    before = (tmp_path / "packed" / "packed.json").stat().st_mtime_ns
    pack(folder, tmp_path / "packed")  # nothing to do
    assert (tmp_path / "packed" / "packed.json").stat().st_mtime_ns == before
    make_folder(tmp_path / "tokens", [clips[:3], clips[3:5], clips[5:]])
    packed = pack(folder, tmp_path / "packed")
    assert [packed.tokens(number) for number in range(9)] == clips


def test_two_corpora_follow_each_other(tmp_path):
    clips = random_clips(1, 5)
    folders = [make_folder(tmp_path / "a", [clips[:2]]), make_folder(tmp_path / "b", [clips[2:]])]
    packed = pack(folders, tmp_path / "packed")
    assert [packed.tokens(number) for number in range(5)] == clips


def test_copies_open_the_files_again(tmp_path):
    packed = pack(make_folder(tmp_path / "tokens", [random_clips(1, 300)]), tmp_path / "packed")
    assert len(pickle.dumps(packed)) < 1000
    assert np.array_equal(pickle.loads(pickle.dumps(packed)).semantic, packed.semantic)


def set_code(path, name, value):
    """Replace a clip's first code; the report knows the new file."""
    table = pq.read_table(path)
    rows = table.column(name).to_pylist()
    rows[1][0] = value
    at = table.column_names.index(name)
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(rows, table.schema.field(at).type)), path)


DAMAGE = {
    "was altered: its SHA-256 is": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"),
    "bytes, its report says .* was it cut off": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "is missing, and the report of its unit": lambda path: path.unlink(),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_altered_units_are_refused(tmp_path, message):
    folder = make_folder(tmp_path / "tokens", [random_clips(1, 3), random_clips(2, 3)])
    DAMAGE[message](folder / "made" / "000001.parquet")
    with pytest.raises(ValueError, match=f"000001.parquet.*{message}"):
        pack(folder, tmp_path / "packed")
    assert [path.name for path in tmp_path.iterdir()] == ["tokens"]  # nothing is left behind


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("semantic", 40, "clip 0-1: semantic code 40 of token 0 in clip 0, expected 0 to 39"),
        ("durations", 0, "clip 0-1: duration 0"),
        ("durations", 9, "clip 0-1: duration 9"),
        ("acoustic", 16, "clip 0-1: acoustic code 16"),
    ],
)
def test_codes_out_of_range_are_refused(tmp_path, monkeypatch, name, value, message):
    folder = make_folder(tmp_path / "tokens", [random_clips(1, 3)])
    set_code(folder / "made" / "000000.parquet", name, value)
    monkeypatch.setattr(token_dataset.TokenDataset, "check_files", lambda *_: None)
    with pytest.raises(ValueError, match=message):
        pack(folder, tmp_path / "packed")


def test_two_vocabularies_are_refused(tmp_path):
    first = make_folder(tmp_path / "a", [random_clips(1, 3)])
    foreign = replace(FLEXI, fingerprint="other")
    other = make_folder(tmp_path / "b", [random_clips(1, 3, foreign)], format=foreign)
    with pytest.raises(ValueError, match="a and .*b differ in fingerprint: 'abc' and 'other'; tokens of two vocab"):
        pack([first, other], tmp_path / "packed")
    other = make_folder(tmp_path / "c", [random_clips(1, 3)], frame_rate=8.33)
    with pytest.raises(ValueError, match="differ in frame_rate: 6.25 and 8.33"):
        pack([first, other], tmp_path / "packed", "made")
    # A file of another codec in the folder: its report fits it, its footer does not fit dataset.json.
    make_folder(tmp_path / "d", [random_clips(1, 3, foreign)], format=foreign)
    make_folder(tmp_path / "e", [random_clips(1, 3)])
    for name in ("made/000000.parquet", "units/000000.json"):
        (tmp_path / "e" / name).write_bytes((tmp_path / "d" / name).read_bytes())
    with pytest.raises(ValueError, match="made by another model: fingerprint other"):
        pack(tmp_path / "e", tmp_path / "packed")


def test_outputs_with_something_else_are_refused(tmp_path):
    folder = make_folder(tmp_path / "tokens", [random_clips(1, 3), random_clips(2, 3)])
    pack(folder, tmp_path / "packed")
    with pytest.raises(ValueError, match="was packed with num_codebooks 2, and 0 is asked now"):
        pack(folder, tmp_path / "packed", num_codebooks=0)
    with pytest.raises(ValueError, match="was packed with tokenizer None"):
        pack(folder, tmp_path / "packed", tokenizer=characters)
    make_folder(tmp_path / "tokens", [random_clips(1, 3), random_clips(3, 3)])
    with pytest.raises(ValueError, match=r"as unit 1, and this is \['tokens', 1"):
        pack(folder, tmp_path / "packed")
    make_folder(tmp_path / "tokens", [random_clips(1, 3)])
    with pytest.raises(ValueError, match="holds 2 units, more than the 1 given now"):
        pack(folder, tmp_path / "packed")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(ValueError, match="is there and holds no packed tokens"):
        pack(folder, tmp_path / "notes")


def test_parallel_codebooks_stay_together(tmp_path):
    parallel = replace(NANO, parallel_codebooks=True)
    folder = make_folder(tmp_path / "tokens", [random_clips(1, 3, parallel, 3)], format=parallel, num_codebooks=3)
    with pytest.raises(ValueError, match="2 of 3 parallel codebooks asked"):
        pack(folder, tmp_path / "packed", num_codebooks=2)
    packed = pack(folder, tmp_path / "packed")
    with pytest.raises(ValueError, match="flat does not fit .*packed: 2 of 3 parallel codebooks"):
        PackedDataset(packed, make_layout("flat", Vocabulary(0, parallel, 2)), 100)


def test_other_mistakes_are_named(tmp_path):
    folder = make_folder(tmp_path / "tokens", [random_clips(1, 3), random_clips(2, 3)])
    with pytest.raises(ValueError, match="3 acoustic codebooks asked, 2 there"):
        pack(folder, tmp_path / "packed", num_codebooks=3)
    with pytest.raises(ValueError, match="no tokens of 8.33; expected one of made"):
        pack(folder, tmp_path / "packed", 8.33)
    with pytest.raises(ValueError, match="tokens is given twice"):
        pack([folder, tmp_path / "tokens" / ".." / "tokens"], tmp_path / "packed")
    with pytest.raises(ValueError, match="no folders to pack"):
        pack([], tmp_path / "packed")
    (folder / "units" / "000001.json").unlink()
    with pytest.raises(ValueError, match="1 of 2 units are done"):
        pack(folder, tmp_path / "packed")
    with pytest.raises(ValueError, match="there is no clip in these folders"):
        pack(make_folder(tmp_path / "none", [[], []]), tmp_path / "packed")
    with pytest.raises(FileNotFoundError, match="did `flexicodec pack` write"):
        PackedTokens.open(tmp_path / "packed")


def test_packed_arrays_that_were_cut_are_refused(tmp_path):
    packed = pack(make_folder(tmp_path / "tokens", [random_clips(1, 30)]), tmp_path / "packed")
    path = packed.folder / "durations.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(ValueError, match="durations.npy is damaged .* cut off while copying"):
        PackedTokens.open(packed.folder)
    np.save(path, np.ones(3, np.uint8))
    with pytest.raises(ValueError, match="durations.npy has 3 tokens, offsets.npy .*; were files of two packings"):
        PackedTokens.open(packed.folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="durations.npy is missing"):
        PackedTokens.open(packed.folder)


def test_what_tokenize_made_is_what_encode_makes(whole, manifest, tmp_path):
    """From audio to a batch and back, with the tiny codec."""
    choices = [{"frame_rate": 6.25, "num_codebooks": 2}, {"threshold": 0.9, "num_codebooks": 1}]
    dataset = make_plan(manifest, tmp_path / "tokens", settings_of(whole, choices, unit_hours=1.5 / 3600))
    assert dataset.num_units > 1
    for unit in range(dataset.num_units):
        run_unit(whole, dataset, unit)
    for rate, choice, rate_id in ((6.25, choices[0], "RATE_3"), ("threshold-0.9", choices[1], "RATE_8")):
        packed = pack(tmp_path / "tokens", tmp_path / f"packed-{rate}", rate, base=200, tokenizer=characters)
        layout = make_layout("flat", packed.vocabulary)
        rows = PackedDataset(packed, layout, 512, text="before")
        item = rows[0, 0]
        for document, clip in enumerate(rows.clips(0, 0)[1]):
            audio = read_audio(manifest.parent / f"{clip}.wav")
            wanted = whole.encode(audio, **choice)
            assert packed.tokens(int(clip)) == wanted
            ids = item["ids"][item["document"] == document]
            assert ids[0] == packed.vocabulary.special("TEXT")
            speech = ids[np.flatnonzero(ids == packed.vocabulary.special("END_TEXT"))[0] + 1 :]
            assert speech[0] == packed.vocabulary.special(rate_id)
            assert layout.decode(speech, wanted.audio_lengths) == wanted
