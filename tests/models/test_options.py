"""Options of `encode`: one table for all families, and one error for options of another family."""

import inspect

import pytest
import torch

from flexicodec.models.codec import ENCODE_OPTIONS, Codec
from flexicodec.models.flexicodec.model import FlexiCodec
from flexicodec.models.nanocodec.model import NanoCodec

AUDIO = 0.1 * torch.randn(6000, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", [FlexiCodec, NanoCodec])
def test_encode_is_documented_once(family):
    assert family.encode is Codec.encode
    documented = inspect.getdoc(Codec.encode)
    assert all(f"\n    {name}: " in documented for name in ENCODE_OPTIONS)


def test_a_misspelt_option_names_the_nearest(codec):
    with pytest.raises(
        ValueError, match="encode has no option 'framerate'; did you mean 'frame_rate'. a FlexiCodec takes"
    ):
        codec.encode(AUDIO, framerate=6.25)
    with pytest.raises(ValueError, match="tokenize has no option 'sample_rate'"):
        codec.tokenize(codec.features(AUDIO), sample_rate=16_000)
    with pytest.raises(ValueError, match="streaming_encoder has no option 'durations'"):
        codec.streaming_encoder(durations=[[1]])


def test_an_option_of_another_family_is_refused_by_name(codec):
    with pytest.raises(ValueError, match="compatible is True, which FlexiCodec does not have"):
        codec.encode(AUDIO, compatible=True)
    assert codec.encode(AUDIO, compatible=False) == codec.encode(AUDIO)


def test_one_error_names_all_that_is_refused():
    codec = NanoCodec().eval()
    with pytest.raises(ValueError, match="threshold is 0.9, .*; policy is 'rate', .*; max_duration is 8, "):
        codec.encode(AUDIO, threshold=0.9, policy="rate", max_duration=8, sample_rate=16_000)
    # What asks for nothing, or for what the model does anyway, is fine.
    fixed = {"threshold": 1, "frame_rate": 12.5, "policy": None, "durations": None, "max_duration": 1}
    assert codec.encode(AUDIO, **fixed, num_codebooks=codec.num_codebooks, windows=None) == codec.encode(AUDIO)


def test_options_are_refused_before_the_audio_is_looked_at(codec):
    with pytest.raises(ValueError, match="frame_rate is 50 Hz"):
        codec.encode("no audio", frame_rate=50.0)
