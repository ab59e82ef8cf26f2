"""Streams: any chunks equal the whole, batches equal each stream alone, and states are values."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flexicodec.models.nanocodec.config import published
from flexicodec.models.nanocodec.hifigan import HiFiGANDecoder
from flexicodec.models.streaming.state import StreamState
from flexicodec.nn import streaming
from flexicodec.nn.dac import ConvStack
from flexicodec.tokens import Tokens

EXACT = 2e-5
KINDS = ("nano", "causal", "noncausal", "lfsc", "whole", "unsmoothed", "spectral")  # "released" has global attention
SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any)
laws = settings(max_examples=6, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def codecs(nanocodecs, whole, released, spectral, make_codec):
    """One decoder of every kind."""
    unsmoothed = make_codec("released", bottleneck=None)
    return {**nanocodecs, "whole": whole, "released": released, "unsmoothed": unsmoothed, "spectral": spectral}


def random_tokens(codec, count, seed=0, batch=1, audio_lengths=None):
    """Tokens of `batch` clips; their durations vary where they may."""
    form, generator = codec.format, torch.Generator().manual_seed(seed)

    def codes(size, *shape):
        return torch.randint(size, shape, generator=generator)

    return Tokens(
        None if form.semantic_codebook_size is None else codes(form.semantic_codebook_size, batch, count),
        codes(form.acoustic_codebook_size, batch, codec.num_codebooks, count),
        1 + codes(min(4, form.max_duration), batch, count),
        audio_lengths,
        form,
    )


def cut(tokens, sizes):
    """Tokens chunk by chunk."""
    at = 0
    for size in sizes:
        part = slice(at, at + size)
        semantic = None if tokens.semantic is None else tokens.semantic[:, part]
        yield Tokens(semantic, tokens.acoustic[:, :, part], tokens.durations[:, part], None, tokens.format)
        at += size
    assert at == tokens.durations.shape[1]


def stream(decoder, tokens, sizes):
    return torch.cat([*(decoder.decode(chunk) for chunk in cut(tokens, sizes)), decoder.flush()], dim=1)


def close(got, wanted, atol=EXACT):
    torch.testing.assert_close(got, wanted, atol=atol, rtol=0)


# ----------------------------------------------------------------------------------------------------------------- laws


@pytest.mark.parametrize("kind", KINDS)
@laws
@given(sizes=SIZES, seed=st.integers(0, 5))
@example(sizes=[0, 3, 0, 0, 2, 0], seed=0)
def test_any_chunks_give_the_whole(codecs, kind, sizes, seed):
    codec = codecs[kind]
    tokens = random_tokens(codec, sum(sizes), seed)
    with codec.streaming_decoder() as decoder:
        assert decoder.exact
        got = stream(decoder, tokens, sizes)
    wanted = codec.decode(tokens)
    assert wanted.std() > 1e-3
    close(got, wanted)


@pytest.mark.parametrize("kind", ["whole", "released", "noncausal", "lfsc"])
@laws
@given(sizes=SIZES, chunk_tokens=st.integers(1, 5), ahead=st.integers(0, 9))
@example(sizes=[0, 3, 0, 0, 2, 0], chunk_tokens=2, ahead=1)
def test_with_less_look_ahead_chunks_still_change_nothing(codecs, kind, sizes, chunk_tokens, ahead):
    codec = codecs[kind]
    tokens = random_tokens(codec, sum(sizes))
    decoder = codec.streaming_decoder(lookahead_frames=ahead, chunk_tokens=chunk_tokens)
    assert not decoder.exact
    got = stream(decoder, tokens, sizes)
    assert got.shape == codec.decode(tokens).shape
    decoder.reset()
    close(stream(decoder, tokens, [sum(sizes)]), got)


def test_global_attention_streams_by_windows(codecs):
    codec, tokens = codecs["released"], random_tokens(codecs["released"], 40)
    decoder = codec.streaming_decoder()
    assert not decoder.exact
    got, wanted = stream(decoder, tokens, [3] * 13 + [1]), codec.decode(tokens)
    decoder.reset()
    close(stream(decoder, tokens, [40]), got)
    all_of_it = codec.streaming_decoder(context_frames=200, ahead_frames=200)
    close(stream(all_of_it, tokens, [40]), wanted)
    errors = []
    for ahead in (0, 8, 64):
        windows = codec.streaming_decoder(context_frames=64, ahead_frames=ahead, stride_frames=4)
        errors.append(float((stream(windows, tokens, [40]) - wanted).square().mean()))
    assert errors[0] > errors[1] > errors[2]


def test_more_look_ahead_costs_less_quality(codecs):
    codec, tokens = codecs["whole"], random_tokens(codecs["whole"], 30)
    wanted, errors = codec.decode(tokens), []
    for ahead in (0, 6, 12, 40):
        decoder = codec.streaming_decoder(lookahead_frames=ahead, chunk_tokens=5)
        errors.append(float((stream(decoder, tokens, [1] * 30) - wanted).square().mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 100 * errors[-1]


# --------------------------------------------------------------------------------------------------- what waiting costs


@pytest.mark.parametrize("kind", ["nano", "causal"])
def test_a_causal_decoder_gives_every_frame_at_once(codecs, kind):
    codec = codecs[kind]
    decoder = codec.streaming_decoder()
    tokens = random_tokens(codec, 6)
    sizes = [decoder.decode(chunk).shape[1] for chunk in cut(tokens, [1, 3, 2])]
    assert sizes == [30, 90, 60]
    assert decoder.flush().shape == (1, 0)
    assert decoder.latency_seconds == decoder.latency_at(codec.base_frame_rate) == 30 / 22050


@pytest.mark.parametrize("kind", ["noncausal", "lfsc"])
def test_look_ahead_is_as_stated(codecs, kind):
    codec = codecs[kind]
    decoder = codec.streaming_decoder()
    ahead = decoder.lookahead_frames
    assert ahead > 0
    tokens = random_tokens(codec, 2 * ahead + 8)
    samples = [decoder.decode(chunk).shape[1] for chunk in cut(tokens, [1] * (2 * ahead + 8))]
    ready = torch.tensor(samples).cumsum(0)
    assert ready[ahead - 1] < 30 <= ready[ahead]
    assert bool((ready[ahead:] >= 30 * torch.arange(1, ahead + 9)).all())
    assert decoder.latency_seconds == pytest.approx((ahead + 1) * 30 / 22050)
    quick = codec.streaming_decoder(lookahead_frames=2)
    samples = [quick.decode(chunk).shape[1] for chunk in cut(tokens, [1] * (2 * ahead + 8))]
    assert samples == [0, 0] + [30] * (2 * ahead + 6)
    assert quick.latency_seconds == pytest.approx(3 * 30 / 22050)
    assert codec.streaming_decoder(lookahead_frames=ahead).exact


def test_tokens_that_last_several_frames_wait_for_tokens(codecs):
    codec = codecs["whole"]
    decoder = codec.streaming_decoder()
    assert decoder.lookahead_tokens == 6  # two blocks of three
    assert decoder.lookahead_frames > 10  # of the transformer, and the convolutions'
    wait = 7 * 8 + decoder.lookahead_frames
    assert decoder.latency_seconds == pytest.approx(wait * 0.08)
    assert decoder.latency_at(6.25) == pytest.approx((7 * 2 + decoder.lookahead_frames) * 0.08)
    count = 60
    tokens = random_tokens(codec, count)
    given, frames = 0, tokens.durations[0].cumsum(0)
    for index, chunk in enumerate(cut(tokens, [1] * count)):
        given += decoder.decode(chunk).shape[1]
        assert given >= (int(frames[max(0, index - 6)]) - decoder.lookahead_frames) * 1280
    unbounded = codec.streaming_decoder(lookahead_frames=4)
    assert (unbounded.lookahead_tokens, unbounded.lookahead_frames) == (0, 4)
    assert math.isclose(unbounded.latency_at(12.5), 5 * 0.08)


def test_a_stream_ends_with_its_audio(codecs):
    for kind, seen in (("nano", 199), ("whole", 1280 * 7 - 3), ("unsmoothed", 1280 * 7 + 100)):
        codec = codecs[kind]
        one_each = torch.ones(1, 7, dtype=torch.int64)
        tokens = random_tokens(codec, 7)
        tokens = Tokens(tokens.semantic, tokens.acoustic, one_each, [seen], tokens.format)
        for choice in ({}, {"lookahead_frames": 0}):
            decoder = codec.streaming_decoder(**choice)
            *chunks, end = cut(tokens, [2, 4, 1])
            rest = seen - 6 * codec.frame_size
            end = Tokens(end.semantic, end.acoustic, end.durations, [rest], end.format)
            audio = torch.cat([*(decoder.decode(chunk) for chunk in chunks), decoder.decode(end, last=True)], dim=1)
            assert audio.shape == (1, seen)
            if decoder.exact:
                close(audio, codec.decode(tokens))


# ------------------------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("kind", ["nano", "lfsc", "whole"])
def test_every_stream_of_a_batch_begins_pauses_and_ends_by_itself(codecs, kind):
    codec = codecs[kind]
    a, b, c, d = (random_tokens(codec, count, seed) for seed, count in enumerate((12, 9, 5, 7)))
    decoder, audio_of = codec.streaming_decoder(batch_size=3), {name: [] for name in "abcd"}

    def step(names, items, *chunks, last=False):
        given = decoder.decode_each(Tokens.cat(chunks), last, items)
        for name, audio in zip(names, given, strict=True):
            audio_of[name].append(audio)

    a, b, c, d = (list(cut(*each)) for each in ((a, [3, 4, 5]), (b, [3, 3, 3]), (c, [3, 2]), (d, [4, 3])))
    step("abc", None, a[0], b[0], c[0])
    step("ac", [0, 2], a[1], c[1])  # one pauses; chunks differ in size
    audio_of["c"].append(decoder.decode_each(None, True, [2])[0])
    decoder.reset(items=[2])
    step("db", [2, 1], d[0], b[1])  # and another takes the free place
    step("adb", [0, 2, 1], a[2], d[1], b[2], last=True)
    for name, tokens in zip("abcd", (12, 9, 5, 7), strict=True):
        wanted = codec.decode(random_tokens(codec, tokens, "abcd".index(name)))
        close(torch.cat(audio_of[name])[None], wanted)


@pytest.mark.parametrize("kind", ["nano", "whole", "released"])
def test_a_stream_of_a_batch_may_have_nothing_yet(codecs, kind):
    codec = codecs[kind]
    a, b = random_tokens(codec, 7, 0), random_tokens(codec, 4, 1)
    decoder, audio_of = codec.streaming_decoder(batch_size=2), [[], []]
    pieces = zip(cut(a, [0, 2, 3, 2]), cut(b, [0, 0, 4, 0]), strict=True)
    for ours, theirs in pieces:
        for audio, new in zip(audio_of, decoder.decode_each(Tokens.cat([ours, theirs])), strict=True):
            audio.append(new)
    for row, (tokens, audio) in enumerate(zip((a, b), audio_of, strict=True)):
        alone = codec.streaming_decoder()
        got = torch.cat([*audio, decoder.flush([row])[0]])
        close(got[None], torch.cat([alone.decode(tokens), alone.flush()], dim=1))


def test_an_end_without_tokens(codecs):
    codec = codecs["lfsc"]
    tokens, decoder = random_tokens(codec, 5), codec.streaming_decoder()
    blank = Tokens(acoustic=tokens.acoustic[:, :, :0], audio_lengths=[0], format=codec.format)
    close(torch.cat([decoder.decode(tokens), decoder.decode(blank, last=True)], dim=1), codec.decode(tokens))
    assert decoder.state.items[0].ended


def test_a_whole_clip_has_tokens(codec):
    tokens = Tokens.cat([random_tokens(codec, 2), random_tokens(codec, 0)])
    for call in (codec.decode, codec.embed):
        with pytest.raises(ValueError, match="clip 1 has no token; a whole clip has at least one"):
            call(tokens)


def test_items_in_equal_states_are_computed_as_a_batch(codecs, monkeypatch):
    codec = codecs["nano"]
    decoder, sizes = codec.streaming_decoder(batch_size=4), []
    stack_step = ConvStack.step

    def spy(self, x, state, last):
        sizes.append(len(x))
        return stack_step(self, x, state, last)

    monkeypatch.setattr(ConvStack, "step", spy)
    chunk = random_tokens(codec, 2, batch=4)
    decoder.decode(chunk)
    decoder.reset(items=[1, 3])
    decoder.decode(chunk)
    decoder.decode(chunk)
    assert sizes == [4, 2, 2, 4]


def test_a_batch_pads_with_silence(codecs):
    codec = codecs["nano"]
    tokens = Tokens.cat([random_tokens(codec, 3), random_tokens(codec, 1, seed=1)])
    audio = codec.streaming_decoder(batch_size=2).decode(tokens)
    assert audio.shape == (2, 90)
    assert not audio[1, 30:].any()
    assert audio[1, :30].any()


# -------------------------------------------------------------------------------------------------------------- states


@pytest.mark.parametrize("kind", ["nano", "lfsc", "whole", "released"])
def test_a_state_is_a_value(codecs, kind, tmp_path):
    codec = codecs[kind]
    tokens = random_tokens(codec, 60)
    first, second, third = cut(tokens, [50, 6, 4])
    decoder = codec.streaming_decoder()
    decoder.decode(first)
    kept = decoder.state
    copies = [tensor.clone() for tensor in streaming.tensors(kept)]
    wanted = torch.cat([decoder.decode(second), decoder.decode(third, last=True)], dim=1)
    assert all(map(torch.equal, copies, streaming.tensors(kept)))

    kept.to("cpu").save(tmp_path / "state.pt")
    assert kept.num_bytes < (tmp_path / "state.pt").stat().st_size < kept.num_bytes + 200_000
    other = codec.streaming_decoder()
    other.load_state(StreamState.load(tmp_path / "state.pt"))
    assert torch.equal(torch.cat([other.decode(second), other.decode(third, last=True)], dim=1), wanted)
    decoder.load_state(kept)
    assert torch.equal(torch.cat([decoder.decode(second), decoder.decode(third, last=True)], dim=1), wanted)


def test_a_state_goes_to_another_device(codecs):
    decoder = codecs["nano"].streaming_decoder()
    decoder.decode(random_tokens(codecs["nano"], 2))
    moved = decoder.state.to("meta")
    assert {tensor.device.type for tensor in streaming.tensors(moved)} == {"meta"}
    assert moved.num_bytes == decoder.state.num_bytes > 0
    assert codecs["nano"].streaming_decoder().state.num_bytes == 0  # until the first chunk


def on_gpu(codec):
    """A copy of a codec on a GPU, which computes as precisely as the CPU."""
    return copy.deepcopy(codec).to("cuda")


@pytest.fixture
def precise():
    """No TF32 while a test runs."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["nano", "lfsc", "whole"])
def test_a_stream_moves_to_another_device_and_back(codecs, kind, precise):
    here, there = codecs[kind], on_gpu(codecs[kind])
    tokens = random_tokens(here, 60)
    first, second, third = cut(tokens, [20, 25, 15])
    one, two = here.streaming_decoder(), there.streaming_decoder()
    audio_of = [one.decode(first)]
    two.load_state(one.state)
    assert {tensor.device.type for tensor in streaming.tensors(two.state)} == {"cuda"}
    audio_of.append(two.decode(second).cpu())
    one.load_state(two.state.to("cpu"))
    audio_of += [one.decode(third), one.flush()]
    close(torch.cat(audio_of, dim=1), here.decode(tokens), atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["nano", "whole"])
def test_a_saved_state_goes_on_wherever_the_model_is(codecs, kind, precise, tmp_path):
    here, there = codecs[kind], on_gpu(codecs[kind])
    tokens = random_tokens(here, 60)
    first, second = cut(tokens, [40, 20])
    one, two = there.streaming_decoder(), there.streaming_decoder()
    audio_of = one.decode(first)
    one.state.save(tmp_path / "state.pt")
    two.load_state(StreamState.load(tmp_path / "state.pt"))
    close(two.decode(second, last=True), one.decode(second, last=True))
    other = here.streaming_decoder()
    other.load_state(StreamState.load(tmp_path / "state.pt"))
    close(torch.cat([audio_of.cpu(), other.decode(second, last=True)], dim=1), here.decode(tokens), atol=1e-3)


@pytest.mark.parametrize("kind", ["nano", "lfsc", "whole"])
def test_a_saved_state_follows_the_model_to_its_device(codecs, kind, tmp_path, monkeypatch):
    """A model on `meta` stands in for one on a GPU."""
    codec = codecs[kind]
    decoder = codec.streaming_decoder()
    decoder.decode(random_tokens(codec, 40))
    decoder.state.save(tmp_path / "state.pt")
    there = copy.deepcopy(codec).to("meta")
    for name in ("fingerprint", "decoder_fingerprint"):  # which weights without values do not have
        monkeypatch.setattr(type(there), name, getattr(codec, name))
    moved = there.streaming_decoder()
    moved.load_state(StreamState.load(tmp_path / "state.pt"))
    assert {tensor.device.type for tensor in streaming.tensors(moved.state)} == {"meta"}
    assert moved.state.num_bytes == decoder.state.num_bytes > 0
    assert moved.state.items[0].tokens == 40


def test_a_state_belongs_to_a_model_and_its_settings(codecs, tmp_path):
    decoder = codecs["nano"].streaming_decoder()
    for other, match in (
        (codecs["lfsc"].streaming_decoder(), "model"),
        (codecs["nano"].streaming_decoder(chunk_tokens=2), "settings"),
        (codecs["nano"].streaming_decoder(2), "1 streams, and here are 2"),
    ):
        with pytest.raises(ValueError, match=match):
            other.load_state(decoder.state)
    twin = copy.deepcopy(codecs["nano"])
    with torch.no_grad():
        next(twin.decoder.parameters()).add_(0.1)
    assert twin.fingerprint == codecs["nano"].fingerprint  # the same tokens, other audio
    with pytest.raises(ValueError, match="model"):
        twin.streaming_decoder().load_state(decoder.state)
    decoder.state.save(tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    for damaged in (b"junk of any kind", whole[: len(whole) // 2]):
        (tmp_path / "other.pt").write_bytes(damaged)
        with pytest.raises(ValueError, match="other.pt: no stream state"):
            StreamState.load(tmp_path / "other.pt")
    with pytest.raises(FileNotFoundError):
        StreamState.load(tmp_path / "none.pt")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="other.pt.*no stream state"):
        StreamState.load(tmp_path / "other.pt")
    torch.save([1], tmp_path / "other.pt")
    with pytest.raises(ValueError, match="holds no state"):
        StreamState.load(tmp_path / "other.pt")


def test_streams_on_one_model_do_not_meet(codecs):
    codec = codecs["whole"]
    a, b = random_tokens(codec, 9, 0), random_tokens(codec, 9, 1)
    before = {name: tensor.clone() for name, tensor in codec.state_dict().items()}
    one, two = codec.streaming_decoder(), codec.streaming_decoder()
    audio_of = [[], []]
    for pair in zip(cut(a, [3] * 3), cut(b, [3] * 3), strict=True):
        for decoder, chunk, audio in zip((one, two), pair, audio_of, strict=True):
            audio.append(decoder.decode(chunk))
    close(torch.cat([*audio_of[0], one.flush()], dim=1), codec.decode(a))
    close(torch.cat([*audio_of[1], two.flush()], dim=1), codec.decode(b))
    assert all(torch.equal(before[name], tensor) for name, tensor in codec.state_dict().items())


@pytest.mark.parametrize("kind", [*KINDS, "released"])
def test_states_do_not_grow(codecs, kind):
    codec = codecs[kind]
    tokens = random_tokens(codec, 120)
    if tokens.format.max_duration > 1:
        tokens = replace(tokens, durations=torch.ones_like(tokens.durations))
    decoder, sizes = codec.streaming_decoder(), []
    for chunk in cut(tokens, [8] * 15):
        decoder.decode(chunk)
        sizes.append(decoder.state.num_bytes)
    assert len(set(sizes[-3:])) == 1
    assert decoder.state.items[0].tokens == 120


def test_the_published_states_are_three_quarters_of_a_megabyte():
    for name, megabytes in (("nano_1.78kbps_12.5fps", 0.731), ("nano_1.89kbps_21.5fps", 0.731)):
        config = published(name)
        with torch.device("meta"), torch.no_grad():
            stack = HiFiGANDecoder(config.decoder, config.quantizer.dim)
            _, state = stack.step(torch.zeros(1, stack.channels, 1), stack.initial_state(), last=False)
        assert streaming.num_bytes(state) / 1e6 == pytest.approx(megabytes, abs=1e-3)
        assert stack.lookahead == 0


def test_the_published_look_ahead_of_lfsc():
    config = published("lfsc_1.89kbps_21.5fps")
    with torch.device("meta"):
        stack = HiFiGANDecoder(config.decoder, config.quantizer.dim)
    assert stack.lookahead == 13  # 12720 samples, which is 12.4 frames


# -------------------------------------------------------------------------------------------------------------- errors


def test_what_a_stream_refuses(codecs):
    codec = codecs["nano"]
    tokens = random_tokens(codec, 2)
    decoder = codec.streaming_decoder(2)
    with pytest.raises(ValueError, match="1 clips of tokens for 2 streams"):
        decoder.decode(tokens)
    for items in ([2], [0, 0], []):
        with pytest.raises(ValueError, match="items is"):
            decoder.decode(tokens, items=items)
    with pytest.raises(ValueError, match="another model"):
        decoder.decode(random_tokens(codecs["lfsc"], 2, batch=2))
    decoder.decode(tokens, last=True, items=[1])
    with pytest.raises(ValueError, match=r"stream 1 has ended; reset\(items=\[1\]\)"):
        decoder.flush()
    assert decoder.flush(items=[0]).shape == (1, 0)  # nothing came, nothing goes
    decoder.reset()
    decoder.flush()
    for choice, match in (
        ({"batch_size": 0}, "batch_size"),
        ({"lookahead_frames": -1}, "lookahead_frames"),
        ({"chunk_tokens": 0}, "chunk_tokens"),
        ({"lookahead": 3}, "lookahead_frames"),
    ):
        with pytest.raises(ValueError, match=match):
            codec.streaming_decoder(**choice)
