"""Merging policies in a model: by name, as its own choice, with both streams, and in streams."""

import json
from dataclasses import replace

import pytest
import torch

from flexicodec import Tokens
from flexicodec.config import from_dict
from flexicodec.merging import POLICIES, Centroid, LeastCost, make_policy
from flexicodec.models.flexicodec.config import FlexiCodecConfig, MergingConfig


def noise(samples, batch=1, seed=0):
    """Bursts of noise, loud and soft for a tenth of a second each."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.rand(batch, samples // 1600 + 1, generator=generator).repeat_interleave(1600, dim=1)
    return 0.2 * level[:, :samples] * torch.randn(batch, samples, generator=generator)


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_by_name(whole, tmp_path, name):
    audio, lengths = noise(40_000, batch=2), [40_000, 23_001]
    setting = "frame_rate" if "frame_rate" in POLICIES[name].forms else "threshold"
    choice = {setting: 5.0 if setting == "frame_rate" else 0.5, "policy": name}
    tokens = whole.encode(audio, lengths, **choice)
    assert tokens.info == choice
    assert torch.equal(tokens.durations.sum(1), whole.num_frames(torch.tensor(lengths)))
    assert int(tokens.durations.max()) <= whole.max_duration
    assert tokens == whole.encode(audio, lengths, policy=make_policy(name, **{setting: choice[setting]}))
    tokens[1].save(tmp_path / "tokens.flxc")
    assert Tokens.load(tmp_path / "tokens.flxc").info == json.loads(json.dumps(choice))


def test_settings_travel_in_the_note(whole):
    audio = noise(40_000)
    tokens = whole.encode(audio, policy="joint:acoustic=0.3,cap=4", frame_rate=5)
    assert tokens.info == {"policy": "joint:cap=4,acoustic=0.3", "frame_rate": 5.0}
    assert tokens == whole.encode(audio, **tokens.info)
    assert int(tokens.durations.max()) <= 4
    priced = whole.encode(audio, policy="joint:price=0.4")
    assert priced.info == {"policy": "joint", "price": 0.4}


def test_a_models_own_policy_meets_frame_rates_and_nothing_else(make_codec, whole):
    merging = replace(whole.config.merging, policy="joint:acoustic=0.4")
    codec = make_codec("whole", merging=merging)
    assert codec.fingerprint == whole.fingerprint  # tokens mean what they did
    audio = noise(60_000)
    own = codec.encode(audio, frame_rate=5)
    assert own.info == {"policy": "joint:acoustic=0.4", "frame_rate": 5.0}
    assert torch.equal(own.durations, whole.encode(audio, frame_rate=5, policy="joint:acoustic=0.4").durations)
    assert codec.encode(audio, frame_rate=5, policy="rate") == whole.encode(audio, frame_rate=5)
    for choice in ({}, {"threshold": 0.5}):
        assert codec.encode(audio, **choice) == whole.encode(audio, **choice)
    assert MergingConfig().policy == "rate"  # the released rule


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("jiont", "merging: policy is 'jiont'; .* did you mean 'joint'"),
        ("threshold", "merging: policy 'threshold' takes threshold, and not frame_rate"),
        ("joint:price=1", "merging: policy 'joint:price=1' was given price and frame_rate"),
    ],
)
def test_own_policies_that_cannot_meet_a_frame_rate(policy, message):
    with pytest.raises(ValueError, match=message):
        from_dict(FlexiCodecConfig, {"merging": {"policy": policy}})


def test_both_streams_decide_also_where_only_semantic_codes_are_kept(whole):
    audio = noise(60_000)
    choice = {"policy": "joint:acoustic=0.9", "frame_rate": 4}
    every = whole.encode(audio, **choice)
    semantic = whole.encode(audio, **choice, num_codebooks=0)
    assert torch.equal(every.durations, semantic.durations)
    assert not torch.equal(every.durations, whole.encode(audio, policy="variance-length", frame_rate=4).durations)
    features = whole.features(audio, acoustic=False)
    with pytest.raises(ValueError, match="'joint:acoustic=0.9' compares acoustic features too, .* acoustic=False"):
        whole.tokenize(features, **choice, num_codebooks=0)
    whole.tokenize(features, frame_rate=4, policy="variance", num_codebooks=0)


@pytest.mark.parametrize(
    "policy", ["centroid:threshold=0.6", "joint:threshold=0.4", "variance:threshold=0.2,cap=3", "ple:threshold=0.3"]
)
def test_causal_policies_stream(whole, policy):
    audio = noise(70_000, seed=2)
    wanted = whole.encode(audio, policy=policy, margins=True)
    assert 5 < int(wanted.token_lengths) < int(wanted.frame_lengths) - 3
    with whole.streaming_encoder(policy=policy, margins=True) as stream:
        pieces = [stream.encode(piece) for piece in audio.split([999, 30_001, 20_000, 19_000], dim=1)]
        pieces.append(stream.flush())
    got = Tokens.concat([piece for piece in pieces if piece is not None])
    assert got == wanted
    assert got.info == wanted.info
    torch.testing.assert_close(got.margins.boundaries, wanted.margins.boundaries, atol=1e-4, rtol=1e-4)
    assert wanted.margins.boundaries[0, :-1].isfinite().all()


def test_the_state_of_such_a_stream_is_a_value(whole, tmp_path):
    audio = noise(60_000, seed=3)
    stream = whole.streaming_encoder(policy="joint:threshold=0.4,acoustic=0.3")
    first = stream.encode(audio[:, :40_000])
    stream.state.save(tmp_path / "state")
    other = whole.streaming_encoder(policy="joint:threshold=0.4,acoustic=0.3")
    other.load_state(type(stream.state).load(tmp_path / "state"))
    rest = (first, other.encode(audio[:, 40_000:]), other.flush())
    found = Tokens.concat([piece for piece in rest if piece is not None])
    assert found == whole.encode(audio, policy="joint:threshold=0.4,acoustic=0.3")


@pytest.mark.parametrize(
    "choice",
    [
        {"policy": "variance", "frame_rate": 5},
        {"policy": "centroid", "frame_rate": 5},
        {"policy": "joint:price=0.2"},
        {"policy": "density-peaks:threshold=0.7"},
        {"policy": LeastCost(5.0)},
    ],
)
def test_other_policies_are_refused_in_streams(whole, choice):
    with pytest.raises(ValueError, match="needs the whole clip; a stream takes threshold=, .*'centroid:threshold=0.9'"):
        whole.streaming_encoder(**choice)


def test_per_item_settings(whole):
    audio = noise(40_000, batch=2)
    together = whole.encode(audio, policy="centroid", threshold=[0.9, 0.2])
    assert together.info == {"policy": "centroid", "threshold": [0.9, 0.2]}
    assert together.token_lengths[0] > together.token_lengths[1]
    alone = whole.encode(audio[1:], policy=Centroid(0.2))
    assert torch.equal(together.durations[1, : int(together.token_lengths[1])], alone.durations[0])
