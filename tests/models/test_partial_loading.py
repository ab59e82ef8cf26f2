"""Partially loaded models work like the whole model for their purpose, and refuse the rest."""

import pytest
import torch

import flexicodec
from flexicodec.models.streaming.state import Windows
from flexicodec.tokens import Tokens
from flexicodec.weights import unloaded_modules


@pytest.fixture
def saved(codec, tmp_path):
    return codec, codec.save_pretrained(tmp_path / "model")


@pytest.fixture
def audio():
    return torch.sin(torch.arange(16_000) / 9) * torch.linspace(0, 0.5, 16_000)


def same(one, other):
    assert torch.equal(one.acoustic, other.acoustic)
    assert one.semantic is None or torch.equal(one.semantic, other.semantic)
    assert torch.equal(one.durations, other.durations)


def test_each_half_does_its_part(saved, audio):
    whole, folder = saved
    encoder, decoder = (flexicodec.load(folder, parts=parts) for parts in ("encode", "decode"))
    tokens = whole.encode(audio, frame_rate=6.25)
    same(encoder.encode(audio, frame_rate=6.25), tokens)
    assert torch.equal(decoder.decode(tokens), whole.decode(tokens))
    assert {encoder.fingerprint, decoder.fingerprint} == {whole.fingerprint}


def test_semantic_tokens_need_no_acoustic_encoder(saved, audio):
    whole, folder = saved
    semantic = flexicodec.load(folder, parts="semantic")
    assert {"encoder", "decoder", "bottleneck", "acoustic_aggregator"} <= set(unloaded_modules(semantic))
    same(
        semantic.encode(audio, frame_rate=6.25, num_codebooks=0), whole.encode(audio, frame_rate=6.25, num_codebooks=0)
    )
    with pytest.raises(ValueError, match="parts='semantic', without its encoder"):
        semantic.encode(audio, frame_rate=6.25)


def test_less_is_held(saved):
    whole, folder = saved
    sizes = {
        parts: sum(p.numel() for p in flexicodec.load(folder, parts=parts).parameters())
        for parts in ("all", "encode", "semantic", "decode")
    }
    assert sizes["all"] == sum(p.numel() for p in whole.parameters())
    assert sizes["semantic"] < sizes["encode"] < sizes["all"] > sizes["decode"]


def test_what_is_not_there_is_named(saved, audio):
    whole, folder = saved
    encoder, decoder = (flexicodec.load(folder, parts=parts) for parts in ("encode", "decode"))
    with pytest.raises(ValueError, match="parts='encode', without its .*parts='all'"):
        encoder.decode(encoder.encode(audio))
    with pytest.raises(ValueError, match="parts='decode', without its semantic_encoder"):
        decoder.encode(audio)
    with pytest.raises(ValueError, match="cannot be saved"):
        encoder.save_pretrained(folder.parent / "again")
    with pytest.raises(ValueError, match="named by its weights"):
        decoder.compute_fingerprint()
    with pytest.raises(ValueError, match="parts is 'half'.*'encode'"):
        flexicodec.load(folder, parts="half")


def test_a_part_moves_and_keeps_its_name(saved):
    whole, folder = saved
    decoder = flexicodec.load(folder, parts="decode").to(torch.float64).to(torch.float32)
    assert decoder.fingerprint == whole.fingerprint


def test_nanocodec_can_be_loaded_in_part(nanocodec, tmp_path, audio):
    folder = nanocodec.save_pretrained(tmp_path / "nano")
    tokens = nanocodec.encode(audio)
    assert isinstance(tokens, Tokens)
    same(flexicodec.load(folder, parts="encode").encode(audio), tokens)
    assert torch.equal(flexicodec.load(folder, parts="decode").decode(tokens), nanocodec.decode(tokens))
    with pytest.raises(ValueError, match="parts is 'semantic'; NanoCodec has 'all', 'encode', 'decode'"):
        flexicodec.load(folder, parts="semantic")


def test_long_clips_are_taken_in_pieces_by_parts_too(codec, saved):
    whole, folder = saved
    semantic = flexicodec.load(folder, parts="semantic")
    long = torch.sin(torch.arange(4 * 16_000) / 9) * 0.3
    choices = {"threshold": 0.5, "num_codebooks": 0, "windows": Windows(2.0, 0.5)}
    same(semantic.encode(long, **choices), whole.encode(long, **choices))
    with pytest.raises(ValueError, match="acoustic=False; they only serve num_codebooks=0"):
        whole.tokenize(whole.features(long, acoustic=False), num_codebooks=2)
