"""Decoding for servers: requests in any order, each like its clip alone, and how much context a chunk needs."""

import pytest
import torch

import flexicodec
from flexicodec import Tokens
from flexicodec.cli.info import decoder_context
from flexicodec.models.streaming.code_to_wave import CodeToWave

EXACT = 2e-5
KINDS = ("whole", "spectral", "causal", "noncausal", "lfsc")


@pytest.fixture(scope="module")
def codecs(nanocodecs, whole, spectral):
    return {**nanocodecs, "whole": whole, "spectral": spectral}


def drawn(codec, count, seed=0):
    """Codes [K, N], durations [N] and the audio of a clip."""
    form = codec.format
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(form.acoustic_codebook_size, (1, codec.num_codebooks, count), generator=generator)
    durations = 1 + torch.randint(min(4, form.max_duration or 4), (1, count), generator=generator)
    semantic = None
    if form.semantic_codebook_size is not None:
        semantic = torch.randint(form.semantic_codebook_size, (1, count), generator=generator)
    audio = codec.decode(Tokens(semantic, codes, durations, format=form))[0]
    every = codes if semantic is None else torch.cat([semantic[:, None], codes], 1)
    return every[0], durations[0], audio


@pytest.mark.parametrize("kind", KINDS)
def test_requests_come_and_go(codecs, kind):
    codec = codecs[kind]
    sizes = {"a": 9, "b": 4, "c": 14, "d": 1}
    clips = {name: drawn(codec, size, seed) for seed, (name, size) in enumerate(sizes.items())}
    stage = CodeToWave(codec)
    at = dict.fromkeys(clips, 0)
    heard = {name: [] for name in clips}
    # Each call has other requests; "d" begins and ends in one call, "c" comes late.
    calls = [(["a", "b"], 2), (["a"], 3), (["b", "d", "a"], 2), (["c", "a"], 5), (["c"], 9)]
    for names, count in calls:
        codes = torch.zeros(len(names), clips["a"][0].shape[0], count, dtype=torch.long)
        durations = torch.zeros(len(names), count, dtype=torch.long)
        finished = []
        for row, name in enumerate(names):
            part = slice(at[name], at[name] + count)
            own = clips[name][1][part]
            codes[row, :, : len(own)] = clips[name][0][:, part]
            durations[row, : len(own)] = own
            at[name] += count
            finished.append(at[name] >= sizes[name])
        for name, audio in zip(names, stage.decode(names, codes, durations, finished), strict=True):
            heard[name].append(audio)
        assert set(stage.states) == {name for name in clips if 0 < at[name] < sizes[name]}
    for name, (_, _, audio) in clips.items():
        torch.testing.assert_close(torch.cat(heard[name]), audio, atol=EXACT, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_context_of_this_size_is_enough(codecs, kind):
    codec = codecs[kind]
    left = codec.decoder_context_frames
    stream = codec.streaming_decoder()
    right = stream.lookahead_tokens + stream.lookahead_frames
    chunk = 3
    total = left + right + 2 * chunk
    codes, durations, audio = drawn(codec, total)
    start = left + chunk  # one chunk of a long clip, with tokens before its context
    part = slice(start - left, start + chunk + right)
    stage = CodeToWave(codec)
    ends = durations.cumsum(0) * stage.total_upsample
    wanted = audio[ends[start - 1] : ends[start + chunk - 1]]
    (found,) = stage.chunked_decode_streaming(codes[None, :, part], durations[None, part], [left], [right])
    torch.testing.assert_close(found[0], wanted, atol=EXACT, rtol=0)
    assert f"{left} frames before" in decoder_context(codec)[1]


@pytest.mark.parametrize("kind", ["causal", "spectral"])
def test_context_of_half_the_size_is_not(codecs, kind):
    codec = codecs[kind]
    left = codec.decoder_context_frames
    durations = torch.ones(1, 4 * left + 40, dtype=torch.long)
    codes, _, _ = drawn(codec, durations.shape[1])
    stage = CodeToWave(codec)
    whole = stage.chunked_decode_streaming(codes[None], durations, [2 * left])[0]
    for context, same in ((left, True), (left // 2, False)):
        part = slice(2 * left - context, None)
        found = stage.chunked_decode_streaming(codes[None, :, part], durations[:, part], [context])[0]
        assert torch.allclose(found, whole, atol=EXACT) is same


def test_attention_over_the_clip_has_no_such_number(released, make_codec):
    assert released.decoder_context_frames is None
    assert decoder_context(released)[1] == "the whole clip, in decoding"


def test_wrong_calls_leave_the_states(whole):
    stage = CodeToWave(whole)
    codes, durations, audio = drawn(whole, 6)
    first = stage.decode(["a"], codes[None, :, :3], durations[None, :3])
    for ids, given, message in (
        (["a", "a"], codes.expand(2, -1, -1), "expected one of each"),
        (["a"], codes[None] + 10_000, "10"),
    ):
        with pytest.raises(ValueError, match=message):
            stage.decode(ids, given[..., 3:], durations[None, 3:].expand(len(ids), -1))
    rest = stage.decode(["a"], codes[None, :, 3:], durations[None, 3:], [True])
    torch.testing.assert_close(torch.cat([first[0], rest[0]]), audio, atol=EXACT, rtol=0)
    stage.decode(["b"], codes[None], durations[None])
    stage.abort("b")
    stage.abort("never began")
    assert not stage.states
    with pytest.raises(ValueError, match=r"contexts \[4\] and \[3\] of clips of \[6\] tokens"):
        stage.chunked_decode_streaming(codes[None], durations[None], [4], [3])


def test_the_model_that_ships():
    codec = flexicodec.load(parts="decode")
    codes, durations, audio = drawn(codec, 4)
    found = CodeToWave(codec).decode(["a"], codes[None], durations[None], [True])[0]
    torch.testing.assert_close(found, audio, atol=1e-3 if codec.streaming_decoder().exact else 1, rtol=0)
