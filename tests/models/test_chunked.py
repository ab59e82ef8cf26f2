"""Long clips: pieces equal the whole with windowed attention; with global attention the tokens record the windows."""

from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexicodec import Tokens, collate
from flexicodec.code_margins import NOISE
from flexicodec.models.flexicodec import chunked, model
from flexicodec.models.margins import compare_codes
from flexicodec.models.streaming.state import Windows
from flexicodec.nn.transformer import TransformerConfig

CHOICES = [
    {"threshold": 0.7},
    {"threshold": 1.0, "num_codebooks": 2},
    {"frame_rate": 5.0},
    {"frame_rate": 5.0, "policy": "uniform", "num_codebooks": 0},
    {"frame_rate": 5.0, "policy": "variance"},
    {"frame_rate": 5.0, "policy": "running"},
]
SMALL = Windows(1.0, 0.3)  # everything longer than a second is long


@pytest.fixture(scope="module")
def audio():
    """Seven seconds of bursts of noise."""
    generator = torch.Generator().manual_seed(0)
    level = torch.rand(1, 72, generator=generator).repeat_interleave(1600, dim=1)
    return 0.2 * level[:, :112_345] * torch.randn(1, 112_345, generator=generator)


def check(reference, other):
    """See that nothing flipped whose margin was above float noise; return how many did below it."""
    if reference == other:
        return 0
    found = compare_codes(reference, other)
    parts = (found.boundaries, found.semantic, found.acoustic)
    assert [part.flips(above=NOISE) for part in parts] == [0, 0, 0]
    return sum(part.flips() for part in parts)


# --------------------------------------------------------------------------------------------------- windowed attention


@pytest.mark.parametrize("piece", [1, 5, 64, 256])
def test_pieces_of_any_size_give_the_whole(whole, audio, piece, monkeypatch):
    monkeypatch.setattr(chunked, "PIECE_FRAMES", piece)
    features, pieces = whole.features(audio, windows=None), whole.features(audio, windows=SMALL)
    for name in ("semantic", "acoustic", "similarities"):
        torch.testing.assert_close(getattr(pieces, name), getattr(features, name), atol=1e-5, rtol=1e-4)
    flipped = 0
    for choice in CHOICES:
        reference = whole.tokenize(features, **choice, margins=True)
        other = whole.tokenize(pieces, **choice, margins=True)
        flipped += check(reference, other)
        assert other.info == reference.info
        torch.testing.assert_close(other.margins.acoustic, reference.margins.acoustic, atol=1e-5, rtol=0)
        torch.testing.assert_close(
            whole.decode(reference, windows=SMALL), whole.decode(reference, windows=None), atol=2e-5, rtol=0
        )
    print(f"{flipped} flips below {NOISE}")


def test_clips_of_a_batch_are_long_or_not_each_by_itself(whole, audio):
    clips = [audio[:, :30_001], audio[:, :7000], audio]
    batch, lengths = collate(clips)
    tokens = whole.encode(batch, lengths, threshold=0.7, windows=SMALL, margins=True)
    whole_audio = whole.decode(tokens, windows=SMALL)
    for i, clip in enumerate(clips):
        alone = whole.encode(clip, threshold=0.7, windows=None, margins=True)
        check(alone, tokens[i])
        if alone == tokens[i]:
            decoded = whole.decode(alone)
            torch.testing.assert_close(whole_audio[i : i + 1, : decoded.shape[1]], decoded, atol=2e-5, rtol=0)
    assert not whole_audio[1, 7000:].any()


def test_what_was_given_from_outside_is_kept(whole, audio):
    durations = whole.encode(audio, frame_rate=4.0).durations
    tokens = whole.encode(audio, durations=durations, windows=SMALL, margins=True)
    assert torch.equal(tokens.durations, durations)
    assert torch.isinf(tokens.margins.boundaries).all()
    assert tokens.info == {"policy": "durations"}


def test_the_margins_of_a_user_supplied_policy_are_unknown(whole, audio):
    def every_other(similarities, lengths, **_):
        return torch.full((len(lengths), int(lengths.max()) // 2), 2)

    samples = 1280 * 20
    tokens = whole.encode(audio[:, :samples], policy=every_other, margins=True)
    assert torch.isnan(tokens.margins.boundaries[0, :-1]).all()
    assert tokens.margins.fragile(tokens.durations).all()


# -------------------------------------------------------------------------------------------------------- determinism


@contextmanager
def on(threads, piece, padded_share):
    """Work on so many threads, in pieces of so many frames, with so much padding before a batch is taken apart."""
    before = torch.get_num_threads(), chunked.PIECE_FRAMES, model.MAX_PADDED_SHARE
    torch.set_num_threads(threads)
    chunked.PIECE_FRAMES, model.MAX_PADDED_SHARE = piece, padded_share
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        chunked.PIECE_FRAMES, model.MAX_PADDED_SHARE = before[1:]


@pytest.mark.parametrize("kind", ["whole", "released"])
@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    others=st.lists(st.integers(1, 60_000), max_size=3),
    place=st.integers(0, 3),
    threads=st.integers(1, 3),
    piece=st.integers(1, 300),
    padded_share=st.sampled_from([0.1, 1.0]),
    in_pieces=st.booleans(),
    choice=st.sampled_from(CHOICES),
)
def test_margins_bound_the_effect_of_batches_pieces_and_threads(
    whole, released, audio, kind, others, place, threads, piece, padded_share, in_pieces, choice
):
    codec, clip, place = {"whole": whole, "released": released}[kind], audio[:, :50_000], min(place, len(others))
    with on(1, 256, 0.1):
        reference = codec.encode(clip, **choice, margins=True)
    clips = [audio[:, -length:] for length in others]
    clips.insert(place, clip)
    windows = SMALL if in_pieces and codec.is_windowed() else Windows()
    with on(threads, piece, padded_share):
        together = codec.encode(*collate(clips), **choice, windows=windows)
    flipped = check(reference, together[place])
    print(f"{flipped} flips below {NOISE}")


# ---------------------------------------------------------------------------------------------------- global attention


def difference(ours, theirs):
    return float((ours - theirs).square().mean())


def test_up_to_one_window_nothing_changes(released, audio):
    clip = audio[:, :16_000]
    for windows in (Windows(1.0, 0.3), None):
        tokens = released.encode(clip, windows=windows)
        assert tokens == released.encode(clip)
        assert "window_seconds" not in tokens.info
        assert torch.equal(released.decode(tokens, windows=windows), released.decode(tokens))


def test_more_overlap_is_nearer_to_the_whole(released, audio):
    whole, errors = released.features(audio, windows=None), []
    tokens = released.tokenize(whole, threshold=0.7)
    whole_audio, noises = released.decode(tokens, windows=None), []
    for overlap in (0.0, 0.6, 1.5):
        windows = Windows(1.0 + 2 * overlap, overlap)
        features = released.features(audio, windows=windows)
        assert torch.equal(features.lengths, whole.lengths)
        assert torch.equal(features.acoustic, whole.acoustic)
        errors.append(difference(features.semantic, whole.semantic))
        noises.append(difference(released.decode(tokens, windows=windows), whole_audio))
    assert errors[0] > errors[1] > errors[2] > 0
    assert noises[0] > noises[2] > 0


def test_tokens_say_how_they_were_made(released, audio, tmp_path):
    batch, lengths = collate([audio, audio[:, :9000]])
    tokens = released.encode(batch, lengths, windows=Windows(2.0, 0.5))
    assert tokens.info["window_seconds"] == [2.0, None]
    assert tokens.info["overlap_seconds"] == [0.5, None]
    tokens[0].save(tmp_path / "long.flxc")
    assert Tokens.load(tmp_path / "long.flxc").info["window_seconds"] == 2.0
    assert tokens[1].info["window_seconds"] is None


def test_windows_do_not_depend_on_pieces(released, audio, monkeypatch):
    tokens = released.encode(audio, windows=SMALL, margins=True)
    monkeypatch.setattr(chunked, "PIECE_FRAMES", 7)
    check(tokens, released.encode(audio, windows=SMALL))


def test_an_encoder_that_sees_no_farther_than_its_frame_needs_no_overlap(make_codec, fake_encoder, audio):
    for rate in (50.0, 25.0, 12.5):
        codec = make_codec("whole", fake_encoder(rate))
        for windows in (SMALL, Windows(1.1, 0.0)):
            features, pieces = codec.features(audio, windows=None), codec.features(audio, windows=windows)
            torch.testing.assert_close(pieces.semantic, features.semantic, atol=1e-5, rtol=1e-5)
        assert codec.encode(audio, windows=SMALL).info["window_seconds"] == 1.0


def test_windows_need_frames_of_whole_samples(make_codec, fake_encoder, audio):
    encoder = fake_encoder(50.0)
    encoder.frame_rate = 16_000 / 320.5
    codec = make_codec("whole", encoder)
    with pytest.raises(ValueError, match="whole number of samples apart"):
        codec.encode(audio, windows=SMALL)


def test_one_global_part_makes_pieces_inexact(make_codec):
    codec = make_codec("whole")
    assert codec.is_windowed()
    transformer = TransformerConfig(num_layers=1, dim=16, num_heads=2, feedforward_dim=32)
    merging = codec.config.merging
    for name, counts in (("semantic_aggregator", (False, False)), ("acoustic_aggregator", (False, True))):
        other = make_codec("whole", merging=type(merging)(**{**vars(merging), name: transformer}))
        assert (other.is_windowed(), other.is_windowed(num_codebooks=0)) == counts


@pytest.mark.parametrize(
    ("settings_", "match"),
    [((0.5, 0.1), "windows of 0.5 s"), ((10.0, 5.0), "45 %"), ((10.0, -1.0), "overlap by -1 s")],
)
def test_windows_that_are_none(settings_, match):
    with pytest.raises(ValueError, match=match):
        Windows(*settings_)


def test_steps_of_windows():
    assert Windows(10.0, 2.0).steps(12.5) == (25, 25, 75)
