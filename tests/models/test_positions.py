"""Windowed models do not depend on the position of a frame and the length of the clip; and chunks equal the whole.

Encoding long recordings in pieces relies on this: frames out of reach of the cut are the same.
"""

import pytest
import torch

REACH = 28  # frames from which the convolutions see; less than half of that for the windowed encoder
GRID = 3 * 1280  # samples after which both grids are in step: 3 frames of 80 ms, 4 of the semantic encoder's 60 ms


@pytest.fixture(scope="module")
def talk(speech):
    """Nineteen seconds, by repetition."""
    return torch.cat([*speech] * 3, dim=1)


def same(actual, expected):
    torch.testing.assert_close(actual, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("cut", [40 * GRID, 41 * GRID, 50 * GRID - 700])
def test_frames_do_not_depend_on_distant_future_audio(whole, talk, cut):
    long, short = whole.features(talk), whole.features(talk[:, :cut])
    inner = cut // 1280 - REACH
    assert inner > 80
    same(short.semantic[..., :inner], long.semantic[..., :inner])
    same(short.acoustic[..., :inner], long.acoustic[..., :inner])
    same(short.similarities[..., : inner - 1], long.similarities[..., : inner - 1])
    assert (short.semantic[..., -1] - long.semantic[..., short.semantic.shape[-1] - 1]).abs().max() > 1e-2


@pytest.mark.parametrize("start", [10 * GRID, 27 * GRID])
def test_frames_do_not_depend_on_their_position_in_the_clip(make_codec, talk, start):
    codec = make_codec(dither=0.0)  # the dither counts frames from the start of the clip
    long, late = codec.features(talk), codec.features(talk[:, start:])
    first = start // 1280
    same(late.semantic[..., REACH:], long.semantic[..., first + REACH :])
    same(late.acoustic[..., REACH:], long.acoustic[..., first + REACH :])
    same(late.similarities[..., REACH:], long.similarities[..., first + REACH :])


def test_the_dither_moves_frames_by_little_speech(make_codec, whole, speech):
    dithered, plain = whole.features(speech[1]).semantic, make_codec(dither=0.0).features(speech[1]).semantic
    assert 0 < (dithered - plain).abs().mean() < 0.2 * plain.abs().mean()


def test_tokens_do_not_depend_on_distant_future_audio(whole, talk):
    long, short = whole.encode(talk, threshold=0.7), whole.encode(talk[:, : 48 * GRID], threshold=0.7)
    frames_seen = 48 * GRID // 1280 - REACH
    tokens_seen = int((short.durations[0].cumsum(0) < frames_seen).sum())
    assert torch.equal(short.durations[:, :tokens_seen], long.durations[:, :tokens_seen])
    # Aggregators and ConvNeXt stacks look 20 tokens ahead at most.
    inner = tokens_seen - 20
    assert inner > 30
    assert torch.equal(short.semantic[:, :inner], long.semantic[:, :inner])
    assert torch.equal(short.acoustic[..., :inner], long.acoustic[..., :inner])


def test_decoded_audio_does_not_depend_on_distant_future_tokens(whole, talk):
    tokens = whole.encode(talk, threshold=0.7)
    half = tokens.durations.shape[1] // 2
    short = type(tokens)(
        tokens.semantic[:, :half], tokens.acoustic[..., :half], tokens.durations[:, :half], None, tokens.format
    )
    latents, durations = whole.embed(short), short.durations
    # ConvNeXt looks 6 tokens ahead, the windowed bottleneck 10 frames, the convolutions REACH at most.
    inner = (int(durations[0, :-6].sum()) - 10 - REACH) * 1280
    assert inner > 50 * 1280
    same(whole.decode(short)[:, :inner], whole.decode(tokens)[:, :inner])
    same(latents[..., :-6], whole.embed(tokens)[..., : half - 6])


def test_the_released_model_attends_to_the_whole_clip(released, talk):
    long, short = released.features(talk), released.features(talk[:, : 40 * GRID])
    assert (long.semantic[..., :60] - short.semantic[..., :60]).abs().max() > 1e-2


@pytest.mark.parametrize("seconds", [2.0, 6.1])
def test_convolutions_in_chunks_are_convolutions_at_once(codec, talk, seconds):
    audio = torch.cat([talk, talk.flip(1)])[:, : int(seconds * 16000)]
    audio[1, 30000:] = 0
    lengths = torch.tensor([audio.shape[1], 30000])
    frames = codec.frame_counts(lengths)
    shape = (2, codec.config.acoustic.latent_dim, int(frames.max()))
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    durations = (torch.arange(int(frames.max())) < frames[:, None]).long()
    with torch.enable_grad():  # training: at once
        heard, (spoken, _) = codec.encode_acoustic(audio, lengths, frames), codec.decode_latents(latents, durations)
    assert heard.requires_grad
    assert spoken.requires_grad
    with torch.no_grad():  # use: in chunks
        same(codec.encode_acoustic(audio, lengths, frames), heard.detach())
        same(codec.decode_latents(latents, durations)[0], spoken.detach())
