"""Vocabularies: regions meet without gaps, files are read back, and what is wrong is refused."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexicodec import TokenFormat
from flexicodec.lm import Kind, Vocabulary
from flexicodec.lm.vocabulary import RATES, SPECIALS
from tests.lm.drawn import FLEXI, FORMATS


@given(
    base=st.integers(0, 300),
    num_codebooks=st.integers(1, 5),
    fused=st.booleans(),
    format=st.sampled_from(list(FORMATS.values())),
)
@settings(max_examples=60, deadline=None)
def test_regions_fill_the_vocabulary(base, num_codebooks, fused, format):
    if fused and (format.semantic_codebook_size is None or format.max_duration is None):
        return
    vocabulary = Vocabulary(base, format, num_codebooks, fused)
    ids = [id for region in vocabulary.regions.values() for id in region]
    assert ids == list(range(vocabulary.size))
    assert len(vocabulary.kind_table) == vocabulary.size
    assert (vocabulary.kind_table == Kind.PAD).sum() == 1
    assert (vocabulary.kind_table == Kind.TEXT).sum() == base
    assert (vocabulary.kind_table == Kind.SPECIAL).sum() == len(SPECIALS) - 1


def test_the_released_codec():
    vocabulary = Vocabulary(151_936, TokenFormat(), 8)
    assert vocabulary.regions["code"] == range(151_952, 184_720)
    assert vocabulary.size == 151_936 + 16 + 32_768 + 8 + 8 * 4096
    assert len(Vocabulary(0, TokenFormat(), fused=True).regions["fused"]) == 262_144


@pytest.mark.parametrize("fused", [True, False])
def test_a_file_is_read_back(tmp_path, fused):
    vocabulary = Vocabulary(1000, replace(FLEXI, model="mini"), 3, fused)
    vocabulary.save(tmp_path / "vocabulary.json")
    loaded = Vocabulary.load(tmp_path / "vocabulary.json")
    assert loaded == vocabulary
    assert loaded.format.model == "mini"
    assert json.loads((tmp_path / "vocabulary.json").read_text())["regions"]["text"] == [0, 999]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("format"), "no vocabulary that this version can read: 'format'"),
        (lambda content: content["format"].update(shape=1), "unexpected keyword argument 'shape'"),
        (lambda content: content.update(base=-3), "base is -3, expected an integer, 0 or more"),
        (lambda content: content.update(base=7), "numbers its regions .*; was it edited"),
    ],
)
def test_an_altered_file_is_refused(tmp_path, change, message):
    path = tmp_path / "vocabulary.json"
    Vocabulary(5, FLEXI).save(path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        Vocabulary.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="vocab.json is missing"):
        Vocabulary.load(tmp_path / "vocab.json")


@pytest.mark.parametrize("number", range(len(RATES)))
def test_the_nearest_rate_has_the_id(number):
    vocabulary = Vocabulary(10, FLEXI)
    assert vocabulary.rate_id(RATES[number] * 1.03) == vocabulary.special(f"RATE_{number}")


def test_other_rates():
    vocabulary = Vocabulary(10, FLEXI)
    assert vocabulary.rate_id(1.0) == vocabulary.special("RATE_0")
    assert vocabulary.rate_id(50.0) == vocabulary.special("RATE_7")
    assert vocabulary.rate_id(threshold=0.9) == vocabulary.special("RATE_8")
    assert vocabulary.rate_id() == vocabulary.special("UNKNOWN_RATE")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Vocabulary(-1, FLEXI), "base is -1"),
        (lambda: Vocabulary(True, FLEXI), "base is True"),
        (lambda: Vocabulary(10, FLEXI, 1.5), "num_codebooks is 1.5"),
        (lambda: Vocabulary(10, {"max_duration": 8}), "expected a TokenFormat: codec.format"),
        (lambda: Vocabulary(10, FORMATS["nanocodec"]), "no semantic codes, and num_codebooks is 0"),
        (lambda: Vocabulary(10, FORMATS["nanocodec"], 2, True), "fused ids join semantic codes"),
        (lambda: Vocabulary(10, FORMATS["no cap"], fused=True), "max_duration of this format is None"),
        (lambda: Vocabulary(10, FLEXI).special("BOS"), "no special 'BOS'; there are START, END"),
        (lambda: Vocabulary(10, FLEXI).rate_id(0.0), "frame_rate is 0.0, expected tokens per second"),
        (lambda: Vocabulary(10, FLEXI).rate_id(float("nan")), "frame_rate is nan"),
        (lambda: Vocabulary(10, FLEXI).rate_id(6.25, 0.9), "a clip has one of them"),
        (lambda: Vocabulary(10, FLEXI).check_format(replace(FLEXI, fingerprint="xyz")), "has fingerprint 'xyz'"),
    ],
)
def test_what_is_wrong_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
