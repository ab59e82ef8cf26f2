"""Errors name wrong input and the likely mistake; other input types give the same tokens."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import flexicodec
from flexicodec import Tokens
from flexicodec.audio import resample
from flexicodec.models.flexicodec.config import FlexiCodecConfig
from flexicodec.models.flexicodec.model import FlexiCodec

SECOND = 0.1 * torch.randn(1, 16000, generator=torch.Generator().manual_seed(0))


def with_value(value, at=7000):
    audio = SECOND.clone()
    audio[0, at] = value
    return audio


# -------------------------------------------------------------------------------------------------------------- audio


@pytest.mark.parametrize(
    ("audio", "options", "message"),
    [
        (torch.zeros(1, 0), {}, r"shape \[1, 0\], no samples"),
        (torch.zeros(0), {}, "no samples"),
        (torch.zeros(0, 100), {}, "no samples"),
        (torch.tensor(0.5), {}, r"shape \[\]; expected \[S\], \[B, S\] or \[B, C, S\]"),
        (torch.zeros(1, 1, 1, 100), {}, r"shape \[1, 1, 1, 100\]; expected"),
        (with_value(torch.nan), {}, r"1 NaN or Inf among 16000 values, the first at .* \[0, 0, 7000\]"),
        (with_value(-torch.inf), {}, "1 NaN or Inf"),
        (SECOND * 32768, {}, "int16 samples cast to float"),
        ((SECOND * 32768).long(), {}, "audio is int64, which has no agreed full scale"),
        ((SECOND > 0), {}, "audio is bool"),
        (SECOND.tolist(), {}, "audio is a list; expected a torch tensor or numpy array"),
        ("talk.flac", {}, "audio is a str; .*read_audio"),
        (torch.zeros(1, 2, 100), {}, '2 channels; pass channels="mix"'),
        (torch.zeros(1, 2, 100), {"channels": "left"}, "channels is 'left'; expected"),
        (torch.zeros(16000, 2), {}, "Time is the last axis"),
        (SECOND, {"sample_rate": 16}, "sample_rate is 16; .*is it in kHz"),
        (SECOND, {"sample_rate": 16000.0}, "sample_rate is 16000.0; expected Hz as an int"),
        (SECOND, {"lengths": [16001]}, r"lengths\[0\] = 16001 lies beyond the tensor, which has 16000 samples"),
        (SECOND, {"lengths": [0]}, r"lengths\[0\] = 0; expected 1 to 16000"),
        (SECOND, {"lengths": [100, 100]}, r"lengths has shape \[2\]; expected \[1\]"),
        (SECOND, {"lengths": [0.5]}, "expected whole samples .*seconds or a fraction"),
    ],
)
def test_audio_that_cannot_be_encoded(whole, audio, options, message):
    with pytest.raises(ValueError, match=message):
        whole.encode(audio, **options)
    with pytest.raises(ValueError, match=message):
        whole.features(audio, **options)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_padding_may_be_nan_or_infinite(codec, value):
    assert codec.encode(with_value(value), [7000]) == codec.encode(SECOND[:, :7000])


def test_other_types_hold_the_same_clip(codec):
    integers = (SECOND * 32768).round().to(torch.int16)
    expected = codec.encode(integers.float() / 32768)
    for audio in (integers, integers.numpy(), integers.double() / 32768, (integers.double() / 32768).numpy()):
        assert codec.encode(audio) == expected
        assert codec.encode(audio[0]) == expected
    assert codec.encode(integers.numpy().astype(">i2")) == expected
    assert codec.encode(integers.int() * 65536) == expected
    for dtype in (torch.float16, torch.bfloat16):
        assert codec.encode(SECOND.to(dtype)) == codec.encode(SECOND.to(dtype).float())
    backwards = np.ascontiguousarray((integers.float() / 32768).numpy()[:, ::-1])[:, ::-1]
    assert codec.encode(backwards) == expected


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 32000, 44100, 48000])
@pytest.mark.parametrize("samples", [1, 4001])
def test_other_rates_are_resampled(whole, rate, samples):
    audio = torch.cat([SECOND[:, :samples]] * 2)
    lengths = [samples, -(-samples // 2)]
    tokens = whole.encode(audio, lengths, sample_rate=rate)
    assert tokens.audio_lengths.tolist() == [-(-length * 16000 // rate) for length in lengths]
    assert whole.decode(tokens).shape == (2, -(-samples * 16000 // rate))
    assert tokens[1] == whole.encode(resample(audio[1, : lengths[1]], rate, 16000))


def test_stereo_is_mixed_on_request(codec):
    left, right = SECOND, SECOND.flip(1)
    stereo = torch.stack([left, right], dim=1)
    mixed = codec.encode(stereo, channels="mix")
    assert mixed == codec.encode((left + right) / 2)
    assert codec.encode(left[:, None]) == codec.encode(left)
    assert codec.decode(mixed).shape == (1, 16000)


@pytest.mark.parametrize("samples", [0, -5, torch.tensor([100, 0]), 1.5, torch.tensor([0.5])])
def test_frames_of_no_length_cannot_be_counted(codec, samples):
    with pytest.raises(ValueError, match="samples"):
        codec.num_frames(samples)


# -------------------------------------------------------------------------------------------------------------- rates


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"threshold": 0.9, "frame_rate": 6.25}, "threshold and frame_rate were both given; choose one"),
        ({"threshold": 0.9, "durations": [[1] * 13]}, "threshold and durations were both given"),
        ({"frame_rate": 5, "durations": [[1] * 13]}, "frame_rate and durations were both given"),
        ({"threshold": 0.9, "frame_rate": 5, "durations": [[1] * 13]}, "were all given"),
        ({"threshold": 6.25}, "threshold is 6.25, .*a rate in Hz goes to frame_rate="),
        ({"threshold": -1.5}, "threshold is -1.5, .*never below -1"),
        ({"threshold": torch.nan}, "threshold is nan; expected a finite number"),
        ({"threshold": "0.9"}, "threshold is '0.9'; expected a number"),
        ({"threshold": [0.9, 0.8]}, "threshold has 2 values for a batch of 1"),
        ({"frame_rate": [5.0, 6.0]}, "frame_rate has 2 values for a batch of 1"),
        ({"frame_rate": 0.91}, "frame_rate is 0.91 Hz, .* 1.5625 to 12.5 Hz; .*threshold="),
        ({"frame_rate": 0}, "frame_rate is 0 Hz"),
        ({"frame_rate": 12.6}, "frame_rate is 12.6 Hz"),
        ({"frame_rate": 16000}, "frame_rate is 16000 Hz, .*sample rate or a bitrate"),
        ({"frame_rate": 1.5}, "larger max_duration"),
        ({"frame_rate": 4.0, "max_duration": 3}, "frame_rate is 4 Hz, .* at most 3 frames per token"),
        ({"max_duration": 0}, r"max_duration is 0, .*None \(not 0\) lifts the cap"),
        ({"max_duration": 2.5}, "max_duration is 2.5"),
        ({"policy": "uniform"}, "policy is 'uniform'; .*with frame_rate=, or a MergingPolicy"),
        ({"policy": "uniforn", "frame_rate": 5}, "policy is 'uniforn'; expected one of rate, uniform, shuffled"),
        ({"policy": "threshold", "frame_rate": 5}, "policy 'threshold' takes threshold, and not frame_rate"),
        ({"policy": "uniform", "threshold": 0.5}, "policy 'uniform' takes frame_rate, and not threshold"),
        ({"policy": 5.0}, "policy is 5.0"),
        ({"policy": flexicodec.merging.Threshold(0.5), "frame_rate": 5.0}, "frame_rate and policy were both given"),
        ({"num_codebooks": 5}, r"num_codebooks is 5, .* has 4 .*the semantic codebook is not counted"),
        ({"num_codebooks": -1}, "num_codebooks is -1"),
        ({"num_codebooks": 2.0}, "num_codebooks is 2.0"),
        ({"num_codebooks": True}, "num_codebooks is True"),
        ({"num_codebooks": torch.tensor([2])}, "num_codebooks is tensor"),
    ],
)
def test_choices_that_cannot_be_met(whole, monkeypatch, choice, message):
    features = whole.features(SECOND)
    with pytest.raises(ValueError, match=message):
        whole.tokenize(features, **choice)
    if "2 values" not in message:  # how many clips there are shows when the audio is read
        monkeypatch.setattr(type(whole), "features", None)
    with pytest.raises(ValueError, match=message):
        whole.encode(SECOND, **choice)  # before the encoders have run


@pytest.mark.parametrize(
    ("durations", "message"),
    [
        ([[1] * 12], "durations sum to 12 frames but the audio has 13"),
        ([[1] * 14], "durations sum to 14 frames but the audio has 13 .*resampled"),
        ([[8, 0, 5]], "durations hold a 0 before the last token"),
        ([[9, 4]], "durations hold 9, but a token lasts at most max_duration=8"),
        ([[-1, 8, 6]], "durations hold -1"),
        ([[0.5] * 26], "durations are torch.float32, .*in seconds"),
        ([[8, 5], [8, 5]], r"durations have shape \(2, 2\)"),
        ([[8, 5], [8]], "pad shorter rows with 0"),
        ([], "durations"),
    ],
)
def test_durations_that_do_not_fit(whole, durations, message):
    with pytest.raises(ValueError, match=message):
        whole.encode(SECOND, durations=durations)


def test_a_policy_that_loses_frames_is_found_out(whole):
    def lazy(similarities, lengths, **others):
        return torch.full((1, 1), 5)

    with pytest.raises(ValueError, match="durations sum to 5 frames but the audio has 13"):
        whole.encode(SECOND, policy=lazy)


# ------------------------------------------------------------------------------------------------------------- tokens


def given(codec, **changes):
    """Thirteen tokens for a second, as from a language model."""
    parts = {"semantic": torch.zeros(1, 13).long(), "acoustic": torch.zeros(1, 4, 13).long()}
    return Tokens(**{**parts, "durations": torch.ones(1, 13).long(), "format": codec.format, **changes})


def test_tokens_may_come_from_anywhere(whole):
    assert whole.decode(given(whole)).shape == (1, 13 * 1280)
    assert whole.decode(given(whole, format=flexicodec.TokenFormat())).shape == (1, 13 * 1280)
    assert whole.decode(given(whole, acoustic=None)).shape == (1, 13 * 1280)
    assert whole.decode(given(whole, audio_lengths=[15999])).shape == (1, 15999)
    assert whole.decode(Tokens([3, 2], [[1, 2]], [4, 5], format=whole.format)).shape == (1, 9 * 1280)


def test_tokens_of_another_model_are_refused(make_codec, whole):
    stranger = make_codec(seed=1)
    with pytest.raises(ValueError, match=rf"another model: fingerprint {stranger.fingerprint} \(tiny-whole\)"):
        whole.decode(stranger.encode(SECOND))
    with pytest.raises(ValueError, match="another model"):
        whole.embed(stranger.encode(SECOND))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frame_size": 640}, "grid of 640 samples at 16000 Hz, this model's is 1280 at 16000 Hz"),
        ({"sample_rate": 24000}, "grid of 1280 samples at 24000 Hz"),
    ],
)
def test_tokens_on_another_grid_are_refused(whole, changes, message):
    with pytest.raises(ValueError, match=message):
        whole.decode(given(whole, format=replace(whole.format, fingerprint=None, **changes)))


def test_codes_that_the_model_lacks_are_refused(whole):
    anyone = flexicodec.TokenFormat()  # larger codebooks than the tiny model's 320 and 64
    with pytest.raises(ValueError, match=r"semantic code 320 is out of range: .* 320 entries \(0 to 319\); .*offset"):
        whole.decode(given(whole, format=anyone, semantic=torch.full((1, 13), 320)))
    with pytest.raises(ValueError, match=r"acoustic code 64 is out of range: .* 64 entries"):
        whole.decode(given(whole, format=anyone, acoustic=torch.full((1, 4, 13), 64)))
    with pytest.raises(ValueError, match="tokens hold 5 acoustic codebooks and the model has 4; the semantic"):
        whole.decode(given(whole, acoustic=torch.zeros(1, 5, 13).long()))
    mute = replace(anyone, semantic_codebook_size=None)
    with pytest.raises(ValueError, match="the tokens have no semantic codes and this model needs them"):
        whole.decode(given(whole, semantic=None, format=mute))
    with pytest.raises(ValueError, match="semantic code -1 of token 0"):
        given(whole, semantic=torch.full((1, 13), -1))


@pytest.mark.parametrize("tokens", [{"semantic": [[1]]}, torch.zeros(1, 13).long()])
def test_only_tokens_can_be_decoded(whole, tokens):
    with pytest.raises(ValueError, match="decode takes Tokens, .*flexicodec.Tokens"):
        whole.decode(tokens)


# ------------------------------------------------------------------------------------------------------------- models


def test_an_unknown_model_is_named():
    with pytest.raises(ValueError, match="no model 'flexicodec-maxi': expected flexicodec-mini, an existing folder"):
        flexicodec.load("flexicodec-maxi")


def test_only_san_m_has_the_released_geometry(fake_encoder):
    with pytest.raises(ValueError, match="geometry 'released' counts the frames of SAN-M .*FakeSemanticEncoder"):
        FlexiCodec(FlexiCodecConfig(), fake_encoder())


def test_an_encoder_that_no_config_describes_cannot_be_saved(make_codec, fake_encoder, tmp_path):
    codec = make_codec("whole", fake_encoder())
    with pytest.raises(ValueError, match="FakeSemanticEncoder"):
        codec.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
