"""Systems: their settings, and reconstruction as encoding and decoding."""

import numpy as np
import pytest
import torch

from flexicodec.evaluation.systems import CodecSystem, GroundTruth, Setting, Sweep, open_system, split_name
from flexicodec.models.fingerprint import hash_weights

SWEEP = Sweep(frame_rates=(12.5, 6.25), codebooks=(0, 2, None))


@pytest.fixture(scope="module")
def clips():
    random = np.random.default_rng(0)
    return [(0.1 * random.standard_normal(samples)).astype(np.float32) for samples in (9000, 16000, 12345)]


def labels(system, sweep):
    return [setting.label for setting in system.settings(sweep)[0]]


def test_all_combinations_that_a_codec_has(whole):
    system = CodecSystem(whole, "tiny")
    assert labels(system, SWEEP) == [
        f"{rate} Hz, {count} codebooks" for rate in ("12.5", "6.25") for count in (0, 2, 4)
    ]
    assert labels(system, Sweep()) == ["4 codebooks"]
    assert labels(system, Sweep(thresholds=(0.9,), codebooks=(1, None, 4))) == [
        "tau 0.9, 1 codebook",
        "tau 0.9, 4 codebooks",
    ]
    assert labels(system, Sweep(frame_rates=(6.25,), policies=("rate", "uniform"))) == [
        "6.25 Hz rate, 4 codebooks",
        "6.25 Hz uniform, 4 codebooks",
    ]


def test_policies_stand_beside_what_they_need(whole):
    system = CodecSystem(whole, "tiny")
    policies = (None, "joint:cap=6", "centroid:threshold=0.5", "density-peaks")
    sweep = Sweep(frame_rates=(6.25, 5), thresholds=(0.7,), policies=policies, codebooks=(0,))
    assert labels(system, sweep) == [
        "6.25 Hz, 0 codebooks",
        "6.25 Hz joint:cap=6, 0 codebooks",
        "5 Hz, 0 codebooks",
        "5 Hz joint:cap=6, 0 codebooks",
        "tau 0.7, 0 codebooks",
        "tau 0.7 density-peaks, 0 codebooks",
        "centroid:threshold=0.5, 0 codebooks",
    ]
    for policy, needed in (("uniform", "frame_rate"), ("density-peaks", "threshold")):
        with pytest.raises(ValueError, match=f"policy '{policy}' needs a {needed} beside it"):
            system.settings(Sweep(policies=(policy,)))


def test_codebooks_that_it_lacks_are_left_out_and_said(whole):
    settings, notes = CodecSystem(whole, "tiny").settings(Sweep(codebooks=(0, 7)))
    assert [setting.codebooks for setting in settings] == [0]
    assert notes == ["tiny: 7 codebooks left out; it has 0 to 4 acoustic ones"]


@pytest.mark.parametrize(
    "sweep", [Sweep(frame_rates=(50.0,)), Sweep(thresholds=(2.0,)), Sweep(frame_rates=(6.25,), policies=("even",))]
)
def test_a_rate_that_is_none_is_refused_before_any_clip(whole, sweep):
    with pytest.raises(ValueError, match="frame_rate|threshold|policy"):
        CodecSystem(whole, "tiny").settings(sweep)


def test_codecs_of_one_rate_are_measured_at_it(nanocodecs, make_codec, clips):
    nano = CodecSystem(nanocodecs["nano"], "nano")
    settings, notes = nano.settings(SWEEP)
    own = nanocodecs["nano"].base_frame_rate
    assert [(setting.frame_rate, setting.codebooks) for setting in settings] == [(round(own, 2), 4)]
    assert notes == [
        "nano: 0, 2 codebooks left out; it has 4, all or none, acoustic ones",
        f"nano: 12.5, 6.25 Hz left out; it has a fixed frame rate of {own:g} Hz",
    ]
    fixed = CodecSystem(make_codec("whole", merging=None), "fixed")
    assert labels(fixed, SWEEP) == [f"12.5 Hz, {count} codebooks" for count in (0, 2, 4)]
    back = next(fixed.reconstruct(clips, fixed.settings(SWEEP)[0]))
    assert all((one.tokens.durations == 1).all() for one in back)


def test_going_through_is_encoding_and_decoding(codec, clips):
    system = CodecSystem(codec, "tiny")
    settings, _ = system.settings(Sweep(frame_rates=(12.5, 6.25), codebooks=(0, None)))
    for setting, back in zip(settings, system.reconstruct(clips, settings), strict=True):
        for clip, one in zip(clips, back, strict=True):
            tokens = codec.encode(
                torch.from_numpy(clip), frame_rate=setting.frame_rate, num_codebooks=setting.codebooks
            )
            assert one.tokens == tokens
            np.testing.assert_allclose(one.audio, codec.decode(tokens)[0].numpy(), atol=1e-4)
            assert len(one.audio) == len(clip)


def test_nanocodecs_go_through_alike(nanocodecs, clips):
    system = CodecSystem(nanocodecs["nano"], "nano")
    settings, _ = system.settings(Sweep())
    for clip, one in zip(clips, next(system.reconstruct(clips, settings)), strict=True):
        tokens = nanocodecs["nano"].encode(torch.from_numpy(clip))
        assert one.tokens == tokens
        np.testing.assert_allclose(one.audio, nanocodecs["nano"].decode(tokens)[0].numpy(), atol=1e-4)


def test_recordings_come_back_as_they_are(clips):
    system = GroundTruth(16_000)
    assert system.settings(SWEEP) == ([Setting()], [])
    assert [
        one.audio is clip and one.tokens is None
        for one, clip in zip(next(system.reconstruct(clips, [Setting()])), clips, strict=True)
    ] == [True] * 3


def test_saved_codecs_open_by_name(whole, nanocodecs, tmp_path):
    whole.save_pretrained(tmp_path / "one")
    nanocodecs["nano"].save_pretrained(tmp_path / "two")
    assert open_system(str(tmp_path / "one")).name == "one"
    nano = open_system(f"small={tmp_path / 'two'}")
    assert (nano.name, nano.identity["fingerprint"]) == ("small", nanocodecs["nano"].fingerprint)


def test_names_are_taken_apart():
    assert split_name("flexicodec-mini") == ("flexicodec-mini", "flexicodec-mini")
    assert split_name("transformers:facebook/encodec_24khz") == ("encodec_24khz", "transformers:facebook/encodec_24khz")
    assert split_name("a=runs/b/model") == ("a", "runs/b/model")
    for wrong in ("=x", "a=", "ground truth=x"):
        with pytest.raises(ValueError, match="expected a model, or NAME=MODEL"):
            split_name(wrong)


def test_weights_are_told_apart(make_codec, whole):
    other = make_codec("whole")
    assert hash_weights(other.state_dict()) == hash_weights(whole.state_dict())
    with torch.no_grad():
        next(other.decoder.parameters()).add_(1e-3)  # which no token depends on
    assert other.compute_fingerprint() == whole.compute_fingerprint()
    assert CodecSystem(other, "a").identity != CodecSystem(whole, "a").identity
