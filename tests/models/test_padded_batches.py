"""A padded batch gives every clip its results alone, for any content of the padding.

Kernels see other shapes in a batch, so float noise near 1e-6 remains, and now and then a code whose margin is smaller
flips: flips are counted and printed. On the CPU ragged batches are taken clip by clip, so that all of this would hold
by itself there; it is seen to hold for clips side by side as well, as on a GPU.
"""

import pytest
import torch

from flexicodec import Tokens, collate
from flexicodec.models.flexicodec import model

# Each line is a batch; every number a length in samples.
COMPOSITIONS = [
    (40001, 20001, 1281, 1),
    (399, 400, 1279, 1280, 1359, 1360),
    (30000, 29999, 28161, 28160),
    (12801, 33333, 2560, 33333, 640),
]
CHOICES = [{"threshold": 0.7}, {"threshold": 1.0}, {"frame_rate": 4.0, "policy": "variance"}]


@pytest.fixture(autouse=True, params=["side by side", "one by one"])
def way(request, monkeypatch):
    """How ragged batches are processed."""
    if request.param == "side by side":
        monkeypatch.setattr(model, "MAX_PADDED_SHARE", 1.0)


def clips_of(lengths, speech):
    """Pieces of both recordings, from different places."""
    both = torch.cat(speech, dim=1)[0]
    return [both.roll(-7919 * i)[:length] for i, length in enumerate(lengths)]


def padded(clips, padding):
    """Batch the clips, with `padding` after the shorter ones."""
    audio, lengths = collate(clips)
    behind = torch.arange(audio.shape[1]) >= lengths[:, None]
    if padding == "garbage":
        hiss = torch.randn(audio.shape, generator=torch.Generator().manual_seed(5))
        return torch.where(behind, hiss, audio), lengths
    return audio.masked_fill(behind, float(padding)), lengths


@pytest.fixture(params=["whole", "released", "spectral", "moonshine", "another encoder"])
def any_codec(request, make_codec, fake_encoder):
    if request.param == "another encoder":
        return make_codec("whole", fake_encoder(50.0))
    return request.getfixturevalue(request.param)


def test_a_padded_batch_is_each_clip_alone(any_codec, speech):
    pairs = timings_off = semantic_off = codes_seen = codes_off = 0
    for composition in COMPOSITIONS:
        clips = clips_of(composition, speech)
        together = any_codec.features(*padded(clips, "garbage"))
        alone = [any_codec.features(clip) for clip in clips]
        for choice in CHOICES:
            batch = any_codec.tokenize(together, **choice)
            for i, features in enumerate(alone):
                ours, theirs = batch[i], any_codec.tokenize(features, **choice)
                pairs += 1
                if not torch.equal(ours.durations, theirs.durations):
                    timings_off += 1
                    continue
                semantic_off += not torch.equal(ours.semantic, theirs.semantic)
                codes_seen += theirs.acoustic.numel()
                codes_off += int((ours.acoustic != theirs.acoustic).sum())
    print(f"flips: {timings_off} timings, {semantic_off} semantic of {pairs} clips; {codes_off} of {codes_seen} codes")
    assert codes_seen > 1000
    assert timings_off + semantic_off <= 0.01 * pairs
    assert codes_off <= 0.005 * codes_seen


@pytest.mark.parametrize("lengths", COMPOSITIONS)
def test_equal_tokens_decode_to_the_same_audio_in_a_batch(codec, speech, lengths):
    alone = [codec.encode(clip) for clip in clips_of(lengths, speech)]
    audio = codec.decode(Tokens.cat(alone))
    assert audio.shape == (len(lengths), max(lengths))
    for i, (length, tokens) in enumerate(zip(lengths, alone, strict=True)):
        torch.testing.assert_close(audio[i : i + 1, :length], codec.decode(tokens), atol=1e-4, rtol=0)
        assert not audio[i, length:].any()


@pytest.mark.parametrize("padding", ["garbage", "nan", "inf", "-1e30"])
def test_what_lies_in_the_padding_changes_nothing_at_all(codec, speech, padding):
    clips = clips_of((20001, 1, 6400), speech)
    audio, lengths = padded(clips, 0)
    filled, _ = padded(clips, padding)
    ours, theirs = codec.features(audio, lengths), codec.features(filled, lengths)
    for name in ("semantic", "acoustic", "similarities"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))
    assert codec.tokenize(ours) == codec.tokenize(theirs)
    # Longer padding gives other shapes, and no more than float noise.
    longer = codec.features(torch.nn.functional.pad(filled, (0, 5000), value=float("nan")), lengths)
    torch.testing.assert_close(longer.semantic, ours.semantic, atol=1e-4, rtol=1e-4)


def test_codes_in_the_padding_change_nothing_at_all(codec, speech):
    tokens = codec.encode(*padded(clips_of((20001, 6400), speech), 0), threshold=1)
    semantic, acoustic = tokens.semantic.clone(), tokens.acoustic.clone()
    behind = tokens.durations == 0
    semantic[behind], acoustic.transpose(1, 2)[behind] = 7, 7
    assert torch.equal(
        codec.decode(Tokens(semantic, acoustic, tokens.durations, tokens.audio_lengths, tokens.format)),
        codec.decode(tokens),
    )


def test_features_are_zero_past_each_clip(codec, speech):
    features = codec.features(*padded(clips_of((20001, 1281), speech), "garbage"))
    frames = int(features.lengths[1])
    assert not features.semantic[1, :, frames:].any()
    assert not features.acoustic[1, :, frames:].any()
    assert not features.similarities[1, frames - 1 :].any()


@pytest.mark.parametrize(
    ("name", "values"), [("threshold", [0.4, 0.7, 1.0]), ("frame_rate", [2.5, 12.5, 6.25]), ("frame_rate", [4, 4, 4])]
)
def test_every_clip_may_have_its_own_setting(codec, speech, name, values):
    features = codec.features(*padded(clips_of((20001, 40000, 33000), speech), 0))
    for given in (values, tuple(values), torch.tensor(values)):
        tokens = codec.tokenize(features, **{name: given})
        for i, value in enumerate(values):
            assert tokens[i] == codec.tokenize(features, **{name: value})[i]
            assert tokens[i].info[name] == pytest.approx(value)


def test_every_clip_may_have_its_own_durations(codec, speech):
    audio, lengths = padded(clips_of((20001, 6400), speech), 0)
    own = codec.encode(audio, lengths, threshold=0.6)
    assert own.durations.shape[1] > own.token_lengths[1]  # there is padding
    for durations in (own.durations, own.durations.tolist(), own.durations.numpy()):
        assert codec.encode(audio, lengths, durations=durations) == own
