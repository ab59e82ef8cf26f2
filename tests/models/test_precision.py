"""Half precision: faster layers, similar results, and only on request."""

from dataclasses import replace

import pytest
import torch

from flexicodec.models.flexicodec import chunked
from flexicodec.models.streaming.state import Windows


@pytest.fixture
def audio():
    time = torch.arange(3 * 16_000) / 16_000
    return torch.stack([torch.sin(700 * time + 3 * torch.sin(9 * time)), torch.sin(300 * time) * time / 3]) * 0.3


def snr_db(reference, estimate):
    return float(10 * torch.log10(reference.square().sum() / (reference - estimate).square().sum()))


@pytest.mark.parametrize("windows", [None, Windows(1.0, 0.2)], ids=["whole", "in pieces"])
def test_decoding_is_near_and_not_the_same(codec, audio, windows):
    tokens = codec.encode(audio, frame_rate=6.25)
    exact = codec.decode(tokens, windows=windows)
    near = codec.decode(tokens, windows=windows, precision="bfloat16")
    assert near.dtype == torch.float32
    assert near.shape == exact.shape
    assert 15 < snr_db(exact, near) < 100  # tiny random models are rougher than real ones


@pytest.mark.parametrize("windows", [None, Windows(1.0, 0.2)], ids=["whole", "in pieces"])
def test_encoding_records_its_precision(codec, audio, windows):
    exact = codec.encode(audio, frame_rate=6.25, windows=windows)
    near = codec.encode(audio, frame_rate=6.25, windows=windows, precision="bfloat16")
    assert near.info["precision"] == "bfloat16"
    assert "precision" not in exact.info
    assert near.token_lengths.tolist() == exact.token_lengths.tolist()
    features = [codec.features(audio, windows=windows, precision=p).semantic for p in ("float32", "bfloat16")]
    assert 15 < snr_db(*features) < 100
    assert features[1].dtype == torch.float32


def test_convolutions_of_the_encoder_stay_in_float32(codec, audio):
    exact, near = (codec.features(audio, precision=p).acoustic for p in ("float32", "bfloat16"))
    assert torch.equal(exact, near)


def test_a_batch_in_half_precision_is_near_each_clip_alone(codec, audio):
    """Kernels depend on shapes, so this is not exact; codes are mostly the same."""
    together = codec.encode(audio, [48_000, 20_000], threshold=1.0, precision="bfloat16")
    alone = codec.encode(audio[1, :20_000], threshold=1.0, precision="bfloat16")
    count = int(together.token_lengths[1])
    assert (together.semantic[1, :count] == alone.semantic[0]).float().mean() > 0.5


@torch.no_grad()
def test_pieces_and_clips_of_a_batch_work_in_half_precision_where_the_whole_does(whole, audio):
    """bfloat16 is far nearer to bfloat16 than to float32, for any pieces."""
    features = whole.features(audio, precision="bfloat16")
    tokens = whole.tokenize(features, threshold=1.0)
    features, tokens, windows = features[0], tokens[0], Windows(1.0, 0.2)
    own = torch.ones(1, int(features.lengths[0]), dtype=torch.long)
    exact, near = (whole.quantize(replace(features, precision=p), own)[0].inputs for p in ("float32", "bfloat16"))
    pieces = chunked.quantize(whole, replace(features, windows=windows), own, 2)
    cut = torch.cat([piece.semantic_inputs for piece in pieces], dim=-1)
    assert snr_db(near, cut) > 5 + snr_db(near, exact)
    smooth = chunked.smooth(whole, tokens, windows, "bfloat16")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wanted, _ = whole.smooth(whole.embed(tokens), tokens.durations)
    rough = chunked.smooth(whole, tokens, windows)
    assert snr_db(wanted, smooth) > 10 + snr_db(wanted, rough)


@pytest.mark.parametrize("call", ["encode", "decode"])
def test_other_precisions_are_refused(codec, audio, call):
    argument = audio if call == "encode" else codec.encode(audio)
    with pytest.raises(ValueError, match="precision is 'half'; expected 'float32' or 'bfloat16'"):
        getattr(codec, call)(argument, precision="half")
