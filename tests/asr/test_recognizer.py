"""The recogniser: CTC decoding, vocabularies, batches, alignments, and saved folders."""

import json
import math
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from flexicodec.asr import (
    CharacterConfig,
    PhoneConfig,
    Recognizer,
    RecognizerConfig,
    SentencePieceConfig,
    encoder_state,
    is_recognizer,
    normalise,
    open_vocabulary,
    train_pieces,
)
from flexicodec.asr.ctc import collapse, forced_path
from flexicodec.asr.vocabulary import read_lexicon
from flexicodec.audio import collate
from flexicodec.config import from_dict, to_dict
from flexicodec.encoders.base import FrontEndConfig, SanmConfig
from flexicodec.encoders.sanm import SanmEncoder

SANM = SanmConfig(
    num_layers=3,
    dim=16,
    num_heads=2,
    feedforward_dim=32,
    kernel_size=5,
    prompt=(),
    positions=False,
    window=4,
    front_end=FrontEndConfig(num_mels=20),
)
LEXICON = "hello\tHH AH L OW\nhello(2)\tHH EH L OW\nWORLD\tW ER L D\nanna\tAE N AH\n;;; a comment\n"
WORDS = "the cat sat on the mat and then another cat that sat there ate the hat".split()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a lexicon and a SentencePiece model."""
    folder = tmp_path_factory.mktemp("vocabulary")
    (folder / "words.txt").write_text(LEXICON)
    (folder / "pieces.model").write_bytes(train_pieces([" ".join(WORDS)] * 3, 40))
    return folder


@pytest.fixture(scope="module", params=["character", "sentencepiece", "phone"])
def recognizer(request, files):
    """A tiny recogniser with weights that make the output depend on the input."""
    vocabulary = {
        "character": CharacterConfig(),
        "sentencepiece": SentencePieceConfig(model="pieces.model"),
        "phone": PhoneConfig("words.txt"),
    }[request.param]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = Recognizer(RecognizerConfig(SANM, vocabulary), files)
        with torch.no_grad():
            made.head.weight.mul_(10)
            made.encoder.front_end.shift.fill_(-12.0)
            made.encoder.front_end.scale.fill_(0.3)
    return made.eval()


def a_text(recognizer):
    return "hello anna" if isinstance(recognizer.config.vocabulary, PhoneConfig) else "that cat sat"


# --------------------------------------------------------------------------------------------------------------- CTC


@given(st.lists(st.integers(1, 4), max_size=6), st.data())
def test_collapsing_undoes_repeats_and_blanks(codes, data):
    path = [0] * data.draw(st.integers(0, 2))
    for before, code in zip([0, *codes], codes, strict=False):
        path += [0] * data.draw(st.integers(int(before == code), 2)) + [code] * data.draw(st.integers(1, 3))
    assert collapse(path) == codes
    assert collapse([*path, 0]) == codes


@settings(deadline=None)
@given(st.lists(st.integers(1, 2), max_size=3), st.integers(1, 5), st.integers(0, 1000))
def test_the_forced_path_is_the_best_of_all(target, outputs, seed):
    log_probs = torch.randn(1, outputs, 3, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)
    (path,) = forced_path(log_probs, torch.tensor([outputs]), [target])
    scores = {
        candidate: sum(float(log_probs[0, j, code]) for j, code in enumerate(candidate))
        for candidate in product(range(3), repeat=outputs)
        if collapse(candidate) == target
    }
    if not scores:
        assert path is None
        return
    codes = tuple(0 if position < 0 else target[position] for position in path.tolist())
    assert collapse(codes) == target
    assert math.isclose(scores[codes], max(scores.values()), abs_tol=1e-4)


def test_a_planted_path_is_recovered_in_a_batch():
    paths = [[0, 1, 1, 0, 1, 2, 2, 0], [3, 0, 3, 3, 0], [0, 0]]
    lengths = torch.tensor([len(path) for path in paths])
    log_probs = torch.full((3, 8, 4), -5.0)
    for row, path in zip(log_probs, paths, strict=True):
        row[range(len(path)), path] = 0.0
        row[len(path) :, 2] = 9.0  # past the end: of no account
    found = forced_path(log_probs, lengths, [collapse(path) for path in paths])
    assert [path.tolist() for path in found] == [[-1, 0, 0, -1, 1, 2, 2, -1], [0, -1, 1, 1, -1], [-1, -1]]


# ------------------------------------------------------------------------------------------------------ vocabularies


@settings(max_examples=30)
@given(st.text(max_size=30))
def test_normalising_twice_is_normalising_once(text):
    assert normalise(normalise(text)) == normalise(text)


@given(st.text(alphabet=" 'abcXYZ.,-!", max_size=30))
def test_characters_come_back_as_normalised_text(text):
    vocabulary = open_vocabulary(CharacterConfig())
    assert vocabulary.decode(vocabulary.encode(text)) == vocabulary.reference(text) == normalise(text)


@given(st.lists(st.sampled_from([*WORDS, "Hat,", "MAT!"]), max_size=8))
def test_pieces_come_back_as_normalised_text(files, words):
    vocabulary = open_vocabulary(SentencePieceConfig(model="pieces.model"), files)
    text = " ".join(words)
    assert vocabulary.decode(vocabulary.encode(text)) == normalise(text)


@given(st.lists(st.sampled_from(["hello", "World", "anna!"]), max_size=8))
def test_phones_are_those_of_the_words(files, words):
    vocabulary = open_vocabulary(PhoneConfig("words.txt"), files)
    phones = {"hello": "HH AH L OW", "world": "W ER L D", "anna": "AE N AH"}
    assert vocabulary.reference(" ".join(words)) == " ".join(phones[normalise(word)] for word in words)


def test_what_cannot_be_spelt_is_none(files):
    assert open_vocabulary(CharacterConfig()).encode("in 1984") is None
    assert open_vocabulary(SentencePieceConfig(model="pieces.model"), files).encode("zebra") is None
    assert open_vocabulary(PhoneConfig("words.txt"), files).reference("hello zebra") is None


def test_apostrophes_and_scripts_survive_normalising():
    assert normalise("“Don’t!” — WELL-known, café… नमस्ते") == "don't well known café नमस्ते"


def test_pieces_are_the_same_every_time():
    texts = [" ".join(WORDS), "on and on"]
    assert train_pieces(texts, 30) == train_pieces(iter(texts), 30)


def test_vocabularies_say_what_is_wrong(tmp_path, files):
    with pytest.raises(ValueError, match="into 10 pieces"):
        train_pieces(["the quick brown fox"], 10)
    with pytest.raises(ValueError, match="0 texts"):
        train_pieces(["..."], 100)
    with pytest.raises(ValueError, match="no SentencePiece model yet"):
        open_vocabulary(SentencePieceConfig())
    with pytest.raises(ValueError, match="is missing"):
        open_vocabulary(PhoneConfig("words.txt"), tmp_path)
    with pytest.raises(ValueError, match="more than once"):
        CharacterConfig(alphabet="abca")
    with pytest.raises(ValueError, match="lose their punctuation"):
        CharacterConfig(alphabet="ab-")
    (tmp_path / "bad.txt").write_text("a AH\nb\n")
    with pytest.raises(ValueError, match=r"bad\.txt:2: expected a word and its phones"):
        read_lexicon(tmp_path / "bad.txt")
    (tmp_path / "none.txt").write_text(";;; nothing\n")
    with pytest.raises(ValueError, match="lists no words"):
        read_lexicon(tmp_path / "none.txt")


def test_configs_tell_vocabularies_apart():
    for vocabulary in (CharacterConfig("ab"), SentencePieceConfig(size=99), PhoneConfig("words.txt")):
        config = RecognizerConfig(SANM, vocabulary, outputs_per_frame=3)
        assert from_dict(RecognizerConfig, to_dict(config)) == config
    with pytest.raises(ValueError, match="outputs_per_frame is 0"):
        RecognizerConfig(outputs_per_frame=0)


# ----------------------------------------------------------------------------------------------------- the recogniser


def clips_of(speech):
    """Pieces of speech, one of them shorter than a window."""
    both = torch.cat(speech, dim=1)[0]
    return [both[:40001], both[20000:31234], both[9000:9100]]


def test_a_padded_batch_is_each_clip_alone(recognizer, speech):
    clips = clips_of(speech)
    audio, lengths = collate(clips)
    audio = audio.masked_fill(torch.arange(audio.shape[1]) >= lengths[:, None], float("nan"))
    log_probs, outputs = recognizer.log_probs(audio, lengths)
    texts = [a_text(recognizer)] * 2 + [""]
    together = recognizer.align(audio, lengths, texts)
    for i, clip in enumerate(clips):
        alone, count = recognizer.log_probs(clip)
        assert int(count) == int(outputs[i])
        torch.testing.assert_close(log_probs[i, : outputs[i]], alone[0], atol=1e-4, rtol=0)
        assert recognizer.align(clip, None, [texts[i]])[0] == together[i]
    assert recognizer.transcribe(audio, lengths) == [recognizer.transcribe(clip)[0] for clip in clips]


def test_log_probs_are_of_probabilities_and_leave_no_gradient(recognizer, speech):
    log_probs, _ = recognizer.log_probs(speech[0])
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(log_probs.shape[:2]))
    assert not log_probs.requires_grad
    assert log_probs.shape[2] == len(recognizer.vocabulary)


def test_alignments_run_forward_inside_the_clip(recognizer, speech):
    clip, text = speech[0][0, :38765], a_text(recognizer)
    (spans,) = recognizer.align(clip, None, [text])
    vocabulary = recognizer.vocabulary
    assert [span.symbol for span in spans] == [vocabulary.symbols[code] for code in vocabulary.encode(text)]
    assert all(span.start_seconds < span.end_seconds for span in spans)
    assert all(one.end_seconds <= two.start_seconds for one, two in pairwise(spans))
    assert spans[0].start_seconds >= 0
    assert spans[-1].end_seconds <= 38765 / 16000


def test_alignment_finds_symbols_where_they_were_planted(speech, monkeypatch):
    recognizer = Recognizer(RecognizerConfig(SANM))
    codes = recognizer.vocabulary.encode("a bee")
    path = [0, codes[0], 0, codes[1], codes[2], codes[3], 0, codes[4]]
    scores = 20 * torch.nn.functional.one_hot(torch.tensor([path]), len(recognizer.vocabulary)).float()
    monkeypatch.setattr(Recognizer, "_recognize", lambda self, audio, lengths: (scores, torch.tensor([8])))
    assert recognizer.transcribe(torch.zeros(1, 4000)) == ["a bee"]
    (spans,) = recognizer.align(torch.zeros(1, 3700), None, ["A bee."])
    assert [span.symbol for span in spans] == list("a bee")
    np.testing.assert_allclose([span.start_seconds for span in spans], [0.03, 0.09, 0.12, 0.15, 0.21])
    np.testing.assert_allclose([span.end_seconds for span in spans], [0.06, 0.12, 0.15, 0.18, 3700 / 16000])


def test_what_cannot_be_aligned_is_none_and_leaves_the_rest_alone(recognizer, speech):
    audio, lengths = collate([speech[0][0, :3000], speech[0][0], speech[1][0]])
    short, odd, good = recognizer.align(audio, lengths, [" ".join([a_text(recognizer)] * 9), "ξ", a_text(recognizer)])
    assert short is odd is None
    assert good
    with pytest.raises(ValueError, match="got 2 texts for 3 clips"):
        recognizer.align(audio, lengths, ["a", "b"])


def test_nothing_is_left_behind(recognizer, speech):
    before = torch.get_rng_state()
    recognizer.train()
    recognizer.transcribe(speech[0])
    assert recognizer.training
    assert torch.equal(torch.get_rng_state(), before)
    recognizer.eval()


def test_other_sample_rates_are_accepted(recognizer, speech):
    (slow,), _ = recognizer.log_probs(speech[0], sample_rate=32_000)
    (fast,), _ = recognizer.log_probs(speech[0])
    assert abs(2 * len(slow) - len(fast)) <= 2


# ------------------------------------------------------------------------------------------------------------ folders


def test_what_was_saved_is_what_is_loaded(recognizer, speech, tmp_path):
    folder = recognizer.save(tmp_path / "once")
    assert is_recognizer(folder)
    state = torch.get_rng_state()
    again = Recognizer.load(folder)
    assert torch.equal(torch.get_rng_state(), state)
    assert not again.training
    assert all(parameter.requires_grad for parameter in again.parameters())
    assert torch.equal(again.log_probs(speech[0])[0], recognizer.log_probs(speech[0])[0])
    assert again.transcribe(speech[0]) == recognizer.transcribe(speech[0])
    assert again.vocabulary.reference(a_text(recognizer)) == recognizer.vocabulary.reference(a_text(recognizer))

    again.save(tmp_path / "twice")
    for file in folder.iterdir():
        assert file.read_bytes() == (tmp_path / "twice" / file.name).read_bytes()
    small = recognizer.save(tmp_path / "half", torch.float16) / "model.safetensors"
    assert load_file(small)["head.weight"].dtype == torch.float16
    assert Recognizer.load(tmp_path / "half").head.weight.dtype == torch.float32


@pytest.mark.parametrize("blocks", [1, 3])
def test_the_first_blocks_make_an_encoder(recognizer, speech, tmp_path, blocks):
    config = replace(SANM, num_layers=blocks)
    encoder = SanmEncoder(config)
    encoder.load_state_dict(encoder_state(recognizer.save(tmp_path), config))
    heard = []
    layer = recognizer.encoder.encoder.layers[blocks - 1]
    with torch.no_grad():
        handle = layer.register_forward_hook(lambda module, inputs, output: heard.append(output))
        recognizer.log_probs(speech[0])
        handle.remove()
        ours, _ = encoder.eval()(speech[0], torch.tensor([speech[0].shape[1]]))
    expected = heard[0] if blocks == 3 else torch.nn.functional.layer_norm(heard[0], (16,))
    torch.testing.assert_close(ours.transpose(1, 2), expected, atol=1e-5, rtol=1e-5)


def test_folders_that_do_not_fit_are_refused(recognizer, tmp_path):
    with pytest.raises(ValueError, match="holds no recogniser"):
        Recognizer.load(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    assert not is_recognizer(tmp_path)
    recognizer.save(tmp_path)
    with pytest.raises(ValueError, match="dim is 16, not 32"):
        encoder_state(tmp_path, replace(SANM, dim=32))
    with pytest.raises(ValueError, match="has 3 blocks, asked for 4"):
        encoder_state(tmp_path, replace(SANM, num_layers=4))
    state = load_file(tmp_path / "model.safetensors")
    state.pop("head.bias")
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="do not fit its config"):
        Recognizer.load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no model\.safetensors"):
        Recognizer.load(tmp_path)
    held = json.loads((tmp_path / "config.json").read_text())
    assert held["model_type"] == "recognizer"
