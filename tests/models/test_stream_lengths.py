"""Streams return exactly the samples of a clip: `audio_lengths` of the last tokens end it, whatever the chunks."""

import pytest
import torch

from flexicodec import Tokens

FRAMES = (1, 7)
ODD = (-1, 0, 1)  # samples beside a whole frame


@pytest.fixture(params=["whole", "released", "lfsc", "nano", "causal"])
def model(request, nanocodecs):
    """Both families, each with and without layers that look ahead."""
    return nanocodecs[request.param] if request.param in nanocodecs else request.getfixturevalue(request.param)


def noise(samples):
    return 0.1 * torch.randn(1, samples, generator=torch.Generator().manual_seed(samples))


def stream_tokens(model, audio, size=777):
    """Encode as on docs/streaming.md."""
    with model.streaming_encoder() as stream:
        pieces = [stream.encode(chunk) for chunk in audio.split(size, dim=1)] + [stream.flush()]
    return [piece for piece in pieces if piece is not None]


def stream_audio(model, pieces, **options):
    """Decode as on docs/streaming.md."""
    with model.streaming_decoder(**options) as stream:
        return torch.cat([stream.decode(piece) for piece in pieces] + [stream.flush()], dim=1)


def part(tokens, start, end, samples=None):
    semantic = None if tokens.semantic is None else tokens.semantic[:, start:end]
    acoustic = tokens.acoustic[:, :, start:end]
    return Tokens(semantic, acoustic, tokens.durations[:, start:end], samples, tokens.format)


def parts(tokens, size, length):
    """Cut a clip's tokens into pieces of so many; the last of them says where the audio ends."""
    frame_size = tokens.format.frame_size
    pieces = []
    for start in range(0, tokens.durations.shape[1], size):
        before = int(tokens.durations[:, :start].sum()) * frame_size
        is_last = start + size >= tokens.durations.shape[1]
        pieces.append(part(tokens, start, start + size, [length - before] if is_last else None))
    return pieces


@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize("odd", ODD)
def test_the_clip_that_went_in_comes_out(model, frames, odd):
    samples = frames * model.frame_size + odd
    pieces = stream_tokens(model, noise(samples))
    assert int(Tokens.concat(pieces).audio_lengths) == samples
    assert stream_audio(model, pieces).shape == (1, samples)


@pytest.mark.parametrize("size", [1, 100])
@pytest.mark.parametrize("options", [{}, {"lookahead_frames": 0}, {"lookahead_frames": 2, "chunk_tokens": 2}])
def test_whatever_the_chunks(model, size, options):
    samples = 9 * model.frame_size + 17
    tokens = model.encode(noise(samples))
    heard = stream_audio(model, parts(tokens, size, samples), **options)
    assert heard.shape == (1, samples)
    if model.streaming_decoder(**options).exact:
        torch.testing.assert_close(heard, model.decode(tokens), atol=1e-5, rtol=1e-4)


def test_unknown_lengths_end_with_the_last_frame(model):
    tokens = model.encode(noise(5 * model.frame_size + 9))
    pieces = [part(tokens, at, at + 1) for at in range(tokens.durations.shape[1])]
    assert stream_audio(model, pieces).shape == model.decode(part(tokens, 0, None)).shape


def test_items_end_where_their_own_tokens_say(model):
    size = model.frame_size
    lengths = [3 * size + 5, 6 * size, 4 * size - 1]
    clips = [model.encode(noise(length)) for length in lengths]
    with model.streaming_decoder(batch_size=3) as stream:
        heard = [[piece] for piece in stream.decode_each(Tokens.cat(clips))]
        for row, rest in zip(heard, stream.decode_each(None, last=True), strict=True):
            row.append(rest)
    assert [sum(len(piece) for piece in row) for row in heard] == lengths
    for row, clip in zip(heard, clips, strict=True):
        alone = stream_audio(model, [clip])
        torch.testing.assert_close(torch.cat(row)[None], alone, atol=1e-5, rtol=1e-4)


def test_what_was_kept_back_follows_if_more_tokens_come(model):
    """A length within a stream ends nothing: the audio is that of the frames."""
    options = {} if model.format.max_duration == 1 else {"threshold": 1.0}
    tokens = model.encode(noise(8 * model.frame_size), **options)
    count = tokens.durations.shape[1]
    half = count // 2
    frames = int(tokens.durations[:, :half].sum())
    first = part(tokens, 0, half, [frames * model.frame_size - 11])
    rest = part(tokens, half, count)
    heard = stream_audio(model, [first, rest])
    assert torch.equal(heard, stream_audio(model, [part(tokens, 0, half), rest]))
    assert stream_audio(model, [first]).shape[1] == frames * model.frame_size - 11


def test_what_is_kept_back_is_part_of_the_state(nanocodecs, tmp_path):
    """A causal decoder knows the samples behind the end at once."""
    model = nanocodecs["causal"]
    tokens = model.encode(noise(4 * model.frame_size))
    first = part(tokens, 0, 2, [2 * model.frame_size - 11])
    stream = model.streaming_decoder(lookahead_frames=0)
    before = stream.decode(first)
    assert before.shape[1] == 2 * model.frame_size - 11
    assert stream.state.items[0].held.shape == (11,)
    stream.state.save(tmp_path / "state.pt")
    other = model.streaming_decoder(lookahead_frames=0)
    other.load_state(type(stream.state).load(tmp_path / "state.pt"))
    more = part(tokens, 2, 4)
    assert torch.equal(other.decode(more), stream.decode(more))
    assert torch.equal(other.flush(), stream.flush())
