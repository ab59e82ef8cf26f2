"""The model as a whole: lengths, rates, codebooks, encoding and decoding."""

from dataclasses import replace

import pytest
import torch

from flexicodec import Tokens
from flexicodec.encoders.base import SemanticEncoder
from flexicodec.merging import ExactRate, Threshold, merge, unmerge
from flexicodec.models.flexicodec.model import Features

LENGTHS = [1, 2, 399, 400, 1279, 1280, 1281, 1359, 1360, 2559, 2560, 2561, 5119, 16000]


def noise(samples, batch=1, seed=0):
    return 0.1 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(seed))


# ----------------------------------------------------------------------------------------------------------- lengths


@pytest.mark.parametrize("samples", LENGTHS)
def test_a_clip_of_any_length_comes_back_as_long_as_it_went_in(codec, samples):
    tokens = codec.encode(noise(samples), threshold=0.8)
    assert tokens.audio_lengths.tolist() == [samples]
    assert tokens.frame_lengths.tolist() == [codec.num_frames(samples)]
    audio = codec.decode(tokens)
    assert audio.shape == (1, samples)
    assert audio.dtype == torch.float32
    assert audio.isfinite().all()
    unknown = codec.decode(replace(tokens, audio_lengths=None))
    lost = 0 if codec.config.geometry == "whole" else 16
    assert unknown.shape == (1, 1280 * codec.num_frames(samples) - lost)
    covered = min(samples, unknown.shape[1])
    assert torch.equal(unknown[:, :covered], audio[:, :covered])
    assert not audio[:, covered:].any()


@pytest.mark.parametrize("samples", LENGTHS)
def test_our_own_models_cover_every_sample(whole, samples):
    assert whole.num_frames(samples) == -(-samples // 1280)


@pytest.mark.parametrize(
    ("samples", "frames", "decoded"),
    [
        (1360, 1, 1264),
        (2560, 2, 2544),
        (16000, 12, 15344),
        (48000, 37, 47344),
        (80000, 62, 79344),
        (160000, 125, 159984),
        (480000, 375, 479984),
    ],
)
def test_the_released_geometry_is_upstreams(released, samples, frames, decoded):
    assert released.num_frames(samples) == frames
    codes = torch.zeros(1, frames, dtype=torch.int64)
    assert released.decode(Tokens(codes, None, codes + 1)).shape == (1, decoded)


def test_frames_can_be_counted_for_many_clips_at_once(codec):
    counts = codec.num_frames(torch.tensor([LENGTHS[:5], LENGTHS[5:10]]))
    assert counts.tolist() == [[codec.num_frames(s) for s in part] for part in (LENGTHS[:5], LENGTHS[5:10])]


# ------------------------------------------------------------------------------------------------------------- rates


def test_one_pass_of_the_encoders_serves_every_rate(codec, speech):
    features = codec.features(speech[0])
    assert isinstance(features, Features)
    for choice in ({}, {"threshold": 0.5}, {"frame_rate": 4.5}, {"frame_rate": 3.0, "policy": "uniform"}):
        assert codec.tokenize(features, **choice) == codec.encode(speech[0], **choice)


def test_the_default_is_the_models_own_threshold(codec, speech):
    features = codec.features(speech[0])
    default = codec.tokenize(features)
    assert default == codec.tokenize(features, threshold=codec.config.merging.threshold)
    assert 1 < default.token_lengths < default.frame_lengths  # it merges some frames and not all
    assert default.info == {"policy": "threshold", "threshold": codec.config.merging.threshold}


def test_more_threshold_never_fewer_tokens(codec, speech):
    features = codec.features(speech[1])
    thresholds = torch.linspace(-1, 1, 41).tolist()
    counts = [int(codec.tokenize(features, threshold=t, num_codebooks=0).token_lengths) for t in thresholds]
    assert counts == sorted(counts)
    assert len(set(counts)) > 5


@pytest.mark.parametrize("geometry", ["whole", "released"])
def test_a_threshold_of_one_never_merges_not_even_silence(make_codec, geometry, speech):
    codec = make_codec(geometry, dither=0.0)
    for audio in (torch.zeros(1, 32000), speech[0]):
        features = codec.features(audio)
        same = replace(features, similarities=torch.ones_like(features.similarities))
        assert (codec.tokenize(features, threshold=1).durations == 1).all()
        assert (codec.tokenize(same, threshold=1).durations == 1).all()
        assert codec.tokenize(same, threshold=0.9999).durations[0, 0] == 8
    if geometry == "whole":  # without positions, all that lies well inside silence is the same
        assert (codec.features(torch.zeros(1, 32000)).similarities[:, 12:14] > 0.9999).all()


@pytest.mark.parametrize(("clip", "samples"), [(0, 48640), (1, 54080), (0, 20001), (1, 19200), (1, 1281)])
def test_a_frame_rate_is_met_as_closely_as_whole_tokens_allow(codec, speech, clip, samples):
    features, frames = codec.features(speech[clip][:, :samples]), codec.num_frames(samples)
    for rate in (1.5625, 2.0, 3.3, 4.0, 6.25, 25 / 3, 11.9, 12.5):
        missed = [round(abs(count - rate * samples / 16000), 6) for count in range(frames + 1)]
        fewest = -(-frames // 8)
        tokens = codec.tokenize(features, frame_rate=rate, num_codebooks=0)
        assert tokens.token_lengths.tolist() == [fewest + missed[fewest:].index(min(missed[fewest:]))]
        assert tokens.durations.max() <= 8


def test_durations_may_come_from_elsewhere(codec, speech):
    frames = codec.num_frames(speech[0].shape[1])
    durations = [[3] * (frames // 3) + [frames % 3] * (frames % 3 > 0)]
    tokens = codec.encode(speech[0], durations=durations)
    assert tokens.durations.tolist() == durations
    own = codec.encode(speech[0], frame_rate=5)
    assert codec.encode(speech[0], durations=own.durations) == own


def test_policies_spend_the_same_rate_differently(codec, speech):
    features = codec.features(speech[1])
    semantic = features.semantic.double()

    def deviation(tokens):
        return (semantic - unmerge(merge(semantic, tokens.durations), tokens.durations)).square().sum().item()

    by_name = {name: codec.tokenize(features, frame_rate=5, policy=name) for name in ("rate", "uniform", "variance")}
    assert len({int(tokens.token_lengths) for tokens in by_name.values()}) == 1
    uniform = by_name["uniform"].durations
    assert uniform.max() - uniform.min() <= 1
    assert deviation(by_name["variance"]) < min(deviation(by_name["rate"]), deviation(by_name["uniform"]))
    assert by_name["rate"] == codec.tokenize(features, frame_rate=5)
    assert by_name["rate"] == codec.tokenize(features, policy=ExactRate(5))
    assert codec.tokenize(features, policy=Threshold(0.6)) == codec.tokenize(features, threshold=0.6)


@pytest.mark.parametrize("choice", [{"threshold": -1}, {"frame_rate": 5}, {"frame_rate": 5, "policy": "uniform"}])
@pytest.mark.parametrize("cap", [3, 8, 11])
def test_max_duration_is_an_argument(codec, speech, choice, cap):
    tokens = codec.encode(speech[0], **choice, max_duration=cap)
    assert tokens.durations.max() <= cap
    assert tokens.format.max_duration == cap
    assert codec.decode(tokens).shape == speech[0].shape


def test_without_a_cap_a_clip_may_be_one_token(codec, speech):
    tokens = codec.encode(speech[0], threshold=-1, max_duration=None)
    assert tokens.durations.tolist() == [[codec.num_frames(speech[0].shape[1])]]
    assert codec.encode(speech[0], frame_rate=0.7, max_duration=None).token_lengths.tolist() == [2]
    assert codec.decode(tokens).shape == speech[0].shape


def test_a_fixed_rate_model_has_a_token_per_frame(make_codec, speech):
    codec = make_codec(merging=None)
    tokens = codec.encode(speech[0])
    assert (tokens.durations == 1).all()
    assert tokens.format.duration_bits == 0
    assert codec.decode(tokens).shape == speech[0].shape
    with pytest.raises(ValueError, match="threshold was given, but this model has a fixed rate of 12.5 Hz"):
        codec.encode(speech[0], threshold=0.9)


# -------------------------------------------------------------------------------------------- codebooks, there and back


def test_codes_of_fewer_codebooks_are_the_first_of_more(codec, speech):
    features = codec.features(speech[0])
    full = codec.tokenize(features)
    assert full.num_codebooks == codec.num_codebooks == 4
    assert len(full.acoustic.unique()) > 10  # the law would hold for constants, too
    assert len(full.semantic.unique()) > 5
    for count in range(5):
        assert codec.tokenize(features, num_codebooks=count) == full.keep(acoustic=count)


def test_every_codebook_affects_the_audio(codec, speech):
    tokens = codec.encode(speech[0])
    decoded = [codec.decode(tokens.keep(acoustic=count)) for count in range(5)]
    for fewer, more in zip(decoded, decoded[1:], strict=False):
        assert fewer.shape == more.shape == speech[0].shape
        assert (fewer - more).abs().max() > 1e-3


def test_embeddings_are_the_input_of_the_decoder(codec, speech):
    tokens = Tokens.cat([codec.encode(audio) for audio in speech])
    vectors = codec.embed(tokens)
    assert vectors.shape == (2, codec.config.acoustic.latent_dim, tokens.durations.shape[1])
    assert not vectors.transpose(1, 2)[tokens.durations == 0].any()
    assert vectors.transpose(1, 2)[tokens.durations > 0].any(-1).all()
    with torch.no_grad():
        audio, lengths = codec.decode_latents(vectors, tokens.durations)
    covered = min(int(lengths[0]), speech[0].shape[1])
    assert torch.equal(audio[0, :covered], codec.decode(tokens)[0, :covered])
    # The two streams add: what the acoustic codebooks say does not depend on the semantic code.
    other = replace(tokens, semantic=torch.zeros_like(tokens.semantic))
    acoustic_part = codec.embed(other) - codec.embed(other.keep(acoustic=0))
    torch.testing.assert_close(vectors - codec.embed(tokens.keep(acoustic=0)), acoustic_part, atol=1e-5, rtol=1e-5)


def test_embeddings_are_what_quantising_gave(codec, speech):
    features = codec.features(speech[0])
    tokens = codec.tokenize(features)
    with torch.no_grad():
        semantic, acoustic = codec.quantize(features, tokens.durations)
    torch.testing.assert_close(codec.embed(tokens), semantic.latents + acoustic.latents, atol=1e-5, rtol=1e-5)


def test_a_file_decodes_to_the_same_samples(codec, speech, tmp_path):
    tokens = codec.encode(speech[1], frame_rate=6.25)
    tokens.save(tmp_path / "talk.flxc")
    loaded = Tokens.load(tmp_path / "talk.flxc")
    assert loaded == tokens
    assert loaded.info == {"policy": "rate", "frame_rate": 6.25}
    assert torch.equal(codec.decode(loaded), codec.decode(tokens))
    assert torch.equal(
        codec.decode(Tokens.load(tmp_path / "talk.flxc", acoustic=2)), codec.decode(tokens.keep(acoustic=2))
    )


# --------------------------------------------------------------------------------------------- other frozen encoders


@pytest.mark.parametrize("frame_rate", [50.0, 25.0, 12.5, 16000 / 960])
def test_another_encoder_fits_in(make_codec, fake_encoder, speech, frame_rate):
    encoder = fake_encoder(frame_rate)
    assert isinstance(encoder, SemanticEncoder)
    codec = make_codec("whole", encoder)
    for samples in (1, 1281, 20000):
        features = codec.features(speech[0][:, :samples])
        assert features.semantic.shape == (1, 12, codec.num_frames(samples))
        tokens = codec.tokenize(features, threshold=0.9)
        assert codec.decode(tokens).shape == (1, samples)


def test_whole_ratios_average_the_encoders_frames(make_codec, fake_encoder, speech):
    encoder = fake_encoder(50.0)
    audio = speech[0][:, : 20 * 1280]
    heard, lengths = encoder(audio, torch.tensor([audio.shape[1]]))
    assert lengths.tolist() == [80]
    averaged = heard.unflatten(-1, (20, 4)).mean(-1)
    torch.testing.assert_close(make_codec("whole", encoder).features(audio).semantic, averaged)
