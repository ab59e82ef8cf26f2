"""Vectors of tokens codebook by codebook, tables of all codes, bitrates per stream, and models with random weights."""

import pytest
import torch

import flexicodec
from flexicodec.models.flexicodec.config import FlexiCodecConfig


def noise(samples, batch=1):
    return 0.1 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["whole", "released", "nano", "lfsc"])
def test_vectors_of_codebooks_sum_up_to_those_of_tokens(whole, released, nanocodecs, kind):
    codec = {"whole": whole, "released": released, **nanocodecs}[kind]
    tokens = codec.encode(noise(30 * codec.frame_size, 2), [30 * codec.frame_size, 11 * codec.frame_size])
    each = codec.embed(tokens, per_codebook=True)
    has_semantic = int(tokens.semantic is not None)
    assert each.shape[1] == has_semantic + tokens.num_codebooks
    torch.testing.assert_close(each.sum(1), codec.embed(tokens), atol=1e-5, rtol=1e-5)
    # Acoustic ones are rows of the tables.
    table = codec.codebook_vectors()["acoustic"]
    assert table.shape == (codec.num_codebooks, codec.format.acoustic_codebook_size, each.shape[2])
    count = int(tokens.token_lengths[1])
    for k in range(tokens.num_codebooks):
        rows = table[k, tokens.acoustic[1, k, :count]]
        torch.testing.assert_close(each[1, has_semantic + k, :, :count], rows.T, atol=1e-5, rtol=1e-5)
    if has_semantic:
        size = codec.format.semantic_codebook_size
        assert codec.codebook_vectors()["semantic"].shape[:2] == (1, size)
        fewer = codec.embed(tokens.keep(acoustic=1), per_codebook=True)
        torch.testing.assert_close(fewer, each[:, :2])


def test_bitrates_of_streams_sum_up(whole):
    tokens = whole.encode(noise(40_000, 2), num_codebooks=2)
    each = tokens.stream_bitrates_kbps
    assert list(each) == ["semantic", "acoustic", "durations"]
    torch.testing.assert_close(sum(each.values()), tokens.bitrates_kbps)
    bits = tokens.format.acoustic_bits * 2
    torch.testing.assert_close(each["acoustic"], tokens.frame_rates * bits / 1000)


def test_random_models_are_the_same_for_a_seed(nanocodecs, whole):
    state = torch.get_rng_state()
    for codec in (nanocodecs["nano"], whole):
        made = [type(codec).random(codec.config, seed=seed) for seed in (0, 0, 1)]
        assert made[0].fingerprint == made[1].fingerprint != made[2].fingerprint
        assert not made[0].training
    assert torch.equal(torch.get_rng_state(), state)
    with torch.device("meta"):  # the released size, without its memory
        assert flexicodec.FlexiCodec.random().config == FlexiCodecConfig() == flexicodec.FlexiCodecConfig()
