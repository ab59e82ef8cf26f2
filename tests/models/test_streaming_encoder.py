"""Streams of audio: any chunks give the tokens of the whole clip, in constant memory."""

import gc
import math
import mmap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flexicodec import Tokens
from flexicodec.code_margins import NOISE
from flexicodec.merging import ExactRate, RateController, Threshold
from flexicodec.models.flexicodec.config import MergingConfig
from flexicodec.models.margins import compare_codes
from flexicodec.models.streaming.state import StreamState, Windows
from flexicodec.nn.transformer import TransformerConfig
from tests.conftest import MOONSHINE

laws = settings(max_examples=3, deadline=None, derandomize=True)
CHUNKS = st.lists(st.integers(0, 12_000), min_size=1, max_size=6)
NANOS = ("nano", "causal", "noncausal", "lfsc")


@pytest.fixture(scope="module")
def codecs(nanocodecs, whole, released, spectral, moonshine, make_codec, fake_encoder):
    """One encoder of every kind."""
    means = MergingConfig(semantic_aggregator=None, acoustic_aggregator=None)
    return {
        **nanocodecs,
        "whole": whole,
        "released": released,
        "spectral": spectral,
        "moonshine": moonshine,
        "global moonshine": make_codec("whole", replace(MOONSHINE, norm_window=None)),
        "means": make_codec("whole", merging=means, dither=0.0),
        "fixed": make_codec("whole", merging=None),
        "another": make_codec("whole", fake_encoder(50.0)),
    }


def noise(samples, seed=0, batch=1):
    """Speech-like noise bursts: loud and soft for a tenth of a second each."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.rand(batch, samples // 1600 + 1, generator=generator).repeat_interleave(1600, dim=1)
    return 0.2 * level[:, :samples] * torch.randn(batch, samples, generator=generator)


def cut(audio, sizes):
    """Chunks of these sizes, and the rest."""
    return audio.tensor_split(torch.tensor(sizes).cumsum(0).tolist(), dim=-1)


def streamed(stream, audio, sizes=()):
    pieces = [stream.encode(chunk) for chunk in cut(audio, sizes)] if len(sizes) else [stream.encode(audio)]
    return Tokens.concat([piece for piece in (*pieces, stream.flush()) if piece is not None])


def same_but_for_noise(ours, theirs):
    """Return whether all differences start within float rounding (`ours` has margins)."""
    if ours == theirs:
        return True
    found = compare_codes(ours, theirs)
    return not any(each.flips(above=NOISE) for each in (found.boundaries, found.semantic, found.acoustic))


# ----------------------------------------------------------------------------------------------------------------- laws


@pytest.mark.parametrize("kind", ["whole", "spectral", "moonshine", "means", "fixed", *NANOS])
@laws
@given(sizes=CHUNKS, rest=st.integers(1, 3000), seed=st.integers(0, 5))
@example(sizes=[0, 5000, 0, 7], rest=900, seed=1)
def test_any_chunks_give_the_whole(codecs, kind, sizes, rest, seed):
    codec = codecs[kind]
    sizes = sizes if kind not in NANOS else [size // 20 for size in sizes]
    audio = noise(sum(sizes) + rest, seed)
    with codec.streaming_encoder() as stream:
        assert stream.exact
        got = streamed(stream, audio, sizes)
    wanted = codec.encode(audio, margins=True)
    assert same_but_for_noise(wanted, got)
    assert torch.equal(got.audio_lengths, wanted.audio_lengths)
    assert got.info == wanted.info


@pytest.mark.parametrize(
    ("choice", "same"),
    [
        ({"threshold": 0.4, "num_codebooks": 2}, {}),
        ({"threshold": 1.0, "max_duration": 3}, {}),
        ({"frame_rate": 5.0}, {"policy": "running"}),
        ({"policy": RateController(8.0, 0.2), "max_duration": None}, {}),
        ({"policy": "centroid", "threshold": 0.5}, {}),
        ({"policy": "joint:threshold=0.4,acoustic=0.3"}, {}),
        ({"num_codebooks": 0}, {}),
    ],
)
def test_choices_mean_what_they_mean_for_the_whole(whole, choice, same):
    audio = noise(60_000)
    got = streamed(whole.streaming_encoder(**choice), audio, [7000, 9, 20_000])
    wanted = whole.encode(audio, **choice, **same, margins=True)
    assert same_but_for_noise(wanted, got)
    assert got.info == wanted.info
    assert got.format == wanted.format


def test_margins_come_with_their_tokens(codecs):
    for kind, size in (("whole", 50_000), ("lfsc", 2000)):
        audio = noise(size)
        got = streamed(codecs[kind].streaming_encoder(margins=True), audio, [size // 3, 17])
        wanted = codecs[kind].encode(audio, margins=True)
        assert got == wanted
        for name in ("boundaries", "acoustic", "semantic"):
            ours, theirs = getattr(got.margins, name), getattr(wanted.margins, name)
            assert (ours is None) == (theirs is None)
            if ours is not None:
                torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["released", "another", "global moonshine"])
def test_global_attention_runs_in_windows(codecs, kind):
    codec, audio = codecs[kind], noise(48_000)
    everything = codec.streaming_encoder(threshold=0.7, windows=Windows(60.0, 20.0))
    assert not everything.exact
    got = streamed(everything, audio, [9000, 1, 30_000])
    assert got.info["window_seconds"] == 60.0
    assert got.info["overlap_seconds"] == 20.0
    wanted = codec.encode(audio, threshold=0.7)
    if kind != "released":  # one window saw all of it
        assert got == wanted
    assert int(got.frame_lengths) == int(wanted.frame_lengths)  # released: the resize knows the clip's length, or not
    narrow = codec.streaming_encoder(threshold=0.7, windows=Windows(1.0, 0.3))
    one = streamed(narrow, audio, [9000, 1, 30_000])
    narrow.reset()
    assert streamed(narrow, audio) == one
    assert narrow.latency_seconds < everything.latency_seconds


def test_one_global_part_is_enough_to_be_inexact(make_codec):
    transformer = TransformerConfig(num_layers=1, dim=16, num_heads=2, feedforward_dim=32, layer_scale_init=0.5)
    merging = MergingConfig(threshold=0.7, semantic_aggregator=transformer, acoustic_aggregator=transformer)
    codec, audio = make_codec("whole", merging=merging), noise(40_000)
    stream = codec.streaming_encoder(windows=Windows(20.0, 8.0))
    assert not stream.exact
    assert streamed(stream, audio, [1000, 20_000]) == codec.encode(audio)


def test_a_stream_says_what_it_is_exact_to(whole):
    audio = noise(200_000)
    stream = whole.streaming_encoder(frame_rate=5.0, num_codebooks=2)
    assert stream.encode_options == {"frame_rate": 5.0, "num_codebooks": 2, "policy": "running"}
    assert "exact to encode(audio, frame_rate=5.0, num_codebooks=2, policy='running')" in repr(stream)
    got = streamed(stream, audio, [7000, 9])
    assert same_but_for_noise(whole.encode(audio, **stream.encode_options, margins=True), got)
    assert float(got.frame_rates) == pytest.approx(5.0, abs=0.25)


def test_a_rate_is_held_by_the_causal_form_of_the_models_own_policy(make_codec):
    merging = replace(make_codec("whole").config.merging, policy="joint:acoustic=0.5")
    codec, audio = make_codec("whole", merging=merging), noise(200_000)
    stream = codec.streaming_encoder(frame_rate=5.0)
    assert stream.encode_options == {"frame_rate": 5.0, "policy": "running-joint:acoustic=0.5"}
    got = streamed(stream, audio, [7000, 9])
    assert same_but_for_noise(codec.encode(audio, **stream.encode_options, margins=True), got)
    assert got.info["policy"] == "running-joint:acoustic=0.5"
    assert float(got.frame_rates) == pytest.approx(5.0, abs=0.4)


# ----------------------------------------------------------------------------------------------------- short look-ahead


@pytest.mark.parametrize(
    ("kind", "ahead", "every"),
    [
        *[(kind, 3, 2) for kind in ("whole", "spectral", "fixed", "another", "released", "noncausal", "lfsc")],
        *[(kind, *sizes) for kind in ("whole", "noncausal") for sizes in ((0, 1), (1, 5))],
    ],
)
def test_a_short_lookahead_is_kept_whatever_the_chunks(codecs, kind, ahead, every):
    codec = codecs[kind]
    size = codec.frame_size
    stream = codec.streaming_encoder(lookahead_frames=ahead, chunk_frames=every)
    assert not stream.exact
    assert stream.latency_seconds < codec.streaming_encoder().latency_seconds
    longest = stream.settings.max_duration
    assert stream.latency_seconds == pytest.approx(
        (longest + stream._tokenizer.frames_behind + ahead + every - 1) / codec.base_frame_rate
    )
    audio = noise(24 * size + 11)
    # Frame by frame, no token is later than stated.
    pieces, out = [], 0
    for count, chunk in enumerate(audio.split(size, dim=1)[:-1], start=1):
        piece = stream.encode(chunk)
        out += 0 if piece is None else int(piece.durations.sum())
        pieces += [] if piece is None else [piece]
        assert count - out <= stream.latency_seconds * codec.base_frame_rate
    pieces += [stream.encode(audio[:, 24 * size :])]
    got = Tokens.concat([piece for piece in (*pieces, stream.flush()) if piece is not None])
    assert got.audio_lengths.tolist() == [audio.shape[1]]
    assert int(got.frame_lengths) == codec.num_frames(audio.shape[1])
    for sizes in ([], [3 * size + 5, 7, 14 * size]):
        stream.reset()
        assert streamed(stream, audio, sizes) == got


@pytest.mark.parametrize("kind", ["whole", "spectral", "fixed", "noncausal"])
def test_enough_lookahead_is_exact(codecs, kind):
    codec = codecs[kind]
    stream = codec.streaming_encoder(lookahead_frames=300)
    assert stream.exact
    assert stream.latency_seconds == codec.streaming_encoder().latency_seconds
    audio = noise(70 * codec.frame_size + 3)
    assert same_but_for_noise(codec.encode(audio, margins=True), streamed(stream, audio, [5000, 1]))


@pytest.mark.parametrize(
    ("choices", "match"),
    [
        ({"lookahead_frames": -1}, "lookahead_frames is -1; expected a whole number of frames, 0 or more"),
        ({"lookahead_frames": 1.5}, "lookahead_frames is 1.5"),
        ({"lookahead_frames": 2, "chunk_frames": 0}, "chunk_frames is 0"),
        ({"lookahead_frames": 2, "margins": True}, "leave out lookahead_frames, or margins"),
    ],
)
def test_wrong_lookaheads_are_named(whole, choices, match):
    with pytest.raises(ValueError, match=match):
        whole.streaming_encoder(**choices)


# --------------------------------------------------------------------------------------------------- what waiting costs


@pytest.mark.parametrize("kind", ["whole", "spectral", "moonshine", "means", "fixed"])
def test_no_token_is_later_than_the_stated_latency(codecs, kind):
    codec, hop = codecs[kind], 800
    stream = codec.streaming_encoder(threshold=1.0)
    audio = noise(int(16_000 * (stream.latency_at(12.5) + 1)))
    latency, out = stream.latency_at(12.5), 0
    latest = 0.0
    for count, chunk in enumerate(audio.split(hop, dim=1), start=1):
        tokens = stream.encode(chunk)
        for _ in range(0 if tokens is None else tokens.durations.shape[1]):
            waited = count * hop / 16_000 - out * 0.08
            latest, out = max(latest, waited), out + 1
    assert out > 5
    assert latency - 0.1 < latest <= latency + hop / 16_000  # and not much sooner either
    assert stream.latency_seconds >= latency


def test_a_causal_encoder_gives_every_frame_at_once(codecs):
    stream = codecs["causal"].streaming_encoder()
    got = [stream.encode(chunk) for chunk in noise(30 * 5).split(30, dim=1)]
    assert [piece.durations.tolist() for piece in got] == [[[1]]] * 5
    assert stream.flush() is None
    assert stream.latency_seconds == pytest.approx(30 / 22050)


def test_without_a_cap_a_token_may_wait_for_ever(whole):
    assert whole.streaming_encoder(max_duration=None).latency_seconds == math.inf


# ------------------------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("kind", ["whole", "moonshine", "lfsc"])
def test_every_stream_of_a_batch_begins_pauses_and_ends_by_itself(codecs, kind):
    codec = codecs[kind]
    unit = 300 if kind == "lfsc" else 4000
    a, b, c, d = (noise(count * unit + seed, seed) for seed, count in enumerate((6, 4, 3, 3)))
    stream, pieces_of = codec.streaming_encoder(batch_size=3), {name: [] for name in "abcd"}

    def keep(names, pieces):
        for name, piece in zip(names, pieces, strict=True):
            pieces_of[name] += [] if piece is None else [piece]

    def send(names, items, rows):
        lengths = [row.shape[1] for row in rows]
        longest = max(lengths)
        batch = torch.cat([torch.nn.functional.pad(row, (0, longest - row.shape[1])) for row in rows])
        keep(names, stream.encode_each(batch, lengths, items))

    send("abc", None, [a[:, :unit], b[:, :unit], c[:, : 2 * unit]])
    send("ac", [0, 2], [a[:, unit : 3 * unit], c[:, 2 * unit :]])
    keep("c", stream.flush_each([2]))
    stream.reset(items=[2])
    send("db", [2, 1], [d[:, :unit], b[:, unit:]])
    send("ad", [0, 2], [a[:, 3 * unit :], d[:, unit:]])
    keep("adb", stream.flush_each([0, 2, 1]))
    for name, audio in zip("abcd", (a, b, c, d), strict=True):
        assert same_but_for_noise(codec.encode(audio, margins=True), Tokens.concat(pieces_of[name]))


def test_streams_in_equal_states_are_encoded_as_a_batch(whole, monkeypatch):
    stream, sizes = whole.streaming_encoder(batch_size=3), []
    encode_features = stream._tokenizer.encode_features

    def spy(audio, state, ending):
        sizes.append(len(audio))
        return encode_features(audio, state, ending)

    monkeypatch.setattr(stream._tokenizer, "encode_features", spy)
    audio = noise(19_200, batch=3)
    for chunk in audio.split(6400, dim=1):
        stream.encode_each(chunk)
    assert sizes == [3, 3, 3]
    stream.reset(items=[1])
    stream.encode_each(audio[:, :6400])
    assert sizes[3:] == [2, 1]


# -------------------------------------------------------------------------------------------------------------- states


@pytest.mark.parametrize("kind", ["whole", "released", "another", "moonshine", "lfsc"])
def test_a_state_is_a_value(codecs, kind, tmp_path):
    codec = codecs[kind]
    choices = {} if kind == "lfsc" else {"frame_rate": 8.0, "windows": Windows(2.0, 0.5), "margins": True}
    size = 1500 if kind == "lfsc" else 30_000
    first, second, third = noise(3 * size).split(size, dim=1)
    stream = codec.streaming_encoder(**choices)
    stream.encode(first)
    kept = stream.state
    kept.save(tmp_path / "state.pt")
    wanted = [stream.encode(second), stream.encode(third), stream.flush()]
    other = codec.streaming_encoder(**choices)
    for state in (kept, StreamState.load(tmp_path / "state.pt")):
        other.load_state(state)
        got = [other.encode(second), other.encode(third), other.flush()]
        assert [piece is None for piece in got] == [piece is None for piece in wanted]
        assert all(a == b for a, b in zip(got, wanted, strict=True) if a is not None)


@pytest.mark.parametrize("kind", ["whole", "released", "moonshine", "causal", "lfsc"])
def test_states_do_not_grow(codecs, kind):
    codec = codecs[kind]
    second = codec.frame_size * 12
    choices = {} if kind in NANOS else {"threshold": 1.0, "windows": Windows(1.0, 0.25), "margins": True}
    stream, sizes = codec.streaming_encoder(**choices), []
    for chunk in noise(24 * second).split(second, dim=1):
        stream.encode(chunk)
        sizes.append(stream.state.num_bytes)
    settled = sizes[len(sizes) // 2 :]
    assert max(settled) <= 1.02 * max(sizes[len(sizes) // 4 : len(sizes) // 2])
    assert stream.state.items[0].samples == 24 * second


def test_the_model_remembers_nothing(whole):
    before = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    one, two = whole.streaming_encoder(), whole.streaming_encoder()
    a, b = noise(40_000, 1), noise(40_000, 2)
    pieces = [[], []]
    for left, right in zip(a.split(8000, dim=1), b.split(8000, dim=1), strict=True):
        pieces[0].append(one.encode(left))
        pieces[1].append(two.encode(right))
    for stream, pieces_of, audio in ((one, pieces[0], a), (two, pieces[1], b)):
        pieces_of.append(stream.flush())
        tokens = Tokens.concat([piece for piece in pieces_of if piece is not None])
        assert same_but_for_noise(whole.encode(audio, margins=True), tokens)
    assert all(torch.equal(before[name], tensor) for name, tensor in whole.state_dict().items())


# --------------------------------------------------------------------------------------------------------------- errors


def test_chunks_come_in_any_usual_type(whole):
    audio = (noise(30_000) * 32768).round().clamp(-32768, 32767)
    wanted = streamed(whole.streaming_encoder(), audio / 32768, [11_111])
    for given_audio in (
        audio.to(torch.int16),
        audio.to(torch.int16).numpy(),
        (audio[0] / 32768).numpy().astype(np.float64),
    ):
        stream = whole.streaming_encoder()
        pieces = [stream.encode(given_audio[..., :11_111]), stream.encode(given_audio[..., 11_111:]), stream.flush()]
        assert Tokens.concat([piece for piece in pieces if piece is not None]) == wanted


def test_short_and_empty_streams(codecs):
    for kind in ("whole", "released", "moonshine", "lfsc"):
        codec = codecs[kind]
        stream = codec.streaming_encoder()
        assert stream.encode(torch.zeros(0)) is None
        assert stream.encode(np.zeros((1, 0), np.int16)) is None
        assert stream.flush() is None
        stream.reset()
        for samples in (1, 2, codec.frame_size - 1, codec.frame_size + 1):
            got = streamed(stream, noise(samples))
            assert got.frame_lengths.tolist() == [int(codec.num_frames(samples))]
            assert got.audio_lengths.tolist() == [samples]
            stream.reset()


@pytest.mark.parametrize("kind", ["whole", "lfsc"])
def test_a_stream_of_a_batch_may_have_nothing_yet(codecs, kind):
    codec, size = codecs[kind], 8000 if kind == "whole" else 300
    audio, pieces_of = noise(2 * size, batch=2), ([], [])
    stream = codec.streaming_encoder(batch_size=2)
    for lengths in ([0, 0], [size, 0], [0, size], [size, size]):
        at = [stream.state.items[row].samples for row in range(2)]
        batch = torch.stack([audio[row, at[row] : at[row] + size] for row in range(2)])
        for row, piece in enumerate(stream.encode_each(batch, lengths)):
            pieces_of[row].append(piece)
    for row, piece in enumerate(stream.flush_each()):
        got = Tokens.concat([each for each in (*pieces_of[row], piece) if each is not None])
        assert same_but_for_noise(codec.encode(audio[row], margins=True), got)


def test_what_a_stream_refuses(codecs):
    whole = codecs["whole"]
    stream = whole.streaming_encoder()
    stream.encode(noise(100))
    stream.flush()
    with pytest.raises(ValueError, match=r"stream 0 has ended; reset"):
        stream.encode(noise(100))
    stream.reset()
    with pytest.raises(ValueError, match="NaN or Inf|NaN"):
        stream.encode(torch.tensor([0.0, math.nan]))
    with pytest.raises(ValueError, match="2 rows of audio for 1 streams"):
        stream.encode_each(noise(100, batch=2))
    two = whole.streaming_encoder(2)
    with pytest.raises(ValueError, match="use encode_each"):
        two.encode(noise(100))
    with pytest.raises(ValueError, match="use flush_each"):
        two.flush()
    with pytest.raises(ValueError, match="from 0 to 1"):
        two.encode_each(noise(100), items=[2])
    with pytest.raises(ValueError, match="settings"):
        whole.streaming_encoder(threshold=0.1).load_state(stream.state)
    with pytest.raises(ValueError, match="batch_size is 0"):
        whole.streaming_encoder(0)


@pytest.mark.parametrize(
    ("choice", "match"),
    [
        ({"frame_rate": 6.25, "policy": "rate"}, "needs the whole clip"),
        ({"frame_rate": 6.25, "policy": "uniform"}, "needs the whole clip"),
        ({"policy": ExactRate(6.25)}, "needs the whole clip"),
        ({"threshold": 0.5, "frame_rate": 6.25}, "both given"),
        ({"frame_rate": 50.0}, "frame_rate is 50 Hz"),
        ({"num_codebooks": 9}, "num_codebooks is 9"),
        ({"threshold": 2.0}, "threshold is 2"),
        ({"policy": Threshold(0.5), "threshold": 0.5}, "both given"),
    ],
)
def test_choices_that_a_stream_does_not_have(whole, choice, match):
    with pytest.raises(ValueError, match=match):
        whole.streaming_encoder(**choice)


def test_a_fixed_rate_codec_has_its_own_rate_alone(codecs):
    for kind in ("nano", "fixed"):
        with pytest.raises(ValueError, match="fixed rate"):
            codecs[kind].streaming_encoder(threshold=0.5)
    with pytest.raises(ValueError, match="side by side"):
        codecs["nano"].streaming_encoder(num_codebooks=1)
    stream = codecs["fixed"].streaming_encoder(frame_rate=12.5)
    assert streamed(stream, noise(20_000)).durations.unique().tolist() == [1]


def resident_mib():
    """Memory of this process in use now; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * mmap.PAGESIZE / 2**20 if statm.exists() else 0.0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*reduce_op.*:FutureWarning")  # of looking at every object there is
def test_two_hours_in_flat_memory(whole):
    """A state that does not grow, and nothing else that does: objects and the whole process are looked at as well."""
    stream, second = whole.streaming_encoder(threshold=0.7), 16_000
    counts = []
    for minute in range(120):
        for part in noise(60 * second, minute).split(10 * second, dim=1):
            stream.encode(part)
        if minute % 10 == 9:
            gc.collect()
            tensors = sum(isinstance(each, torch.Tensor) for each in gc.get_objects())
            counts.append((stream.state.num_bytes, tensors, resident_mib()))
    sizes, tensors, resident = zip(*counts, strict=True)
    print(f"resident MiB every ten minutes: {[round(each, 1) for each in resident]}")
    assert len(set(tensors[2:])) == 1
    assert max(sizes[6:]) <= 1.05 * max(sizes[:6])
    assert resident[-1] - resident[2] < 16
