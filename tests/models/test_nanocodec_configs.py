"""The published configs: the YAML files, their sizes to the last parameter, and the one that cannot be built."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import flexicodec
from flexicodec import hub
from flexicodec.config import from_dict, load_yaml, to_dict
from flexicodec.hub import parameter_counts
from flexicodec.models.nanocodec.config import (
    PUBLISHED,
    RELEASED,
    DecoderConfig,
    EncoderConfig,
    NanoCodecConfig,
    published,
    published_at_rate,
    with_causality,
)
from flexicodec.models.nanocodec.model import NanoCodec
from flexicodec.nn.conv import apply_weight_norm

CONFIGS = Path(__file__).parents[2] / "configs" / "nanocodec"

# Encoder and decoder, with weight norms as NeMo and the papers count and folded; frames and bits per second.
SIZES = {
    "lfsc_1.89kbps_21.5fps": (57_641_200, 57_629_216, 55_056_258, 55_035_393, 21.533, 1891.0),
    "nano_1.89kbps_21.5fps": (31_019_224, 31_004_288, 31_581_690, 31_564_085, 21.533, 1891.0),
    "nano_1.78kbps_12.5fps": (30_472_448, 30_457_492, 31_701_138, 31_683_533, 12.5, 1783.8),
    "nano_1.1kbps_12.5fps": (30_364_888, 30_349_952, 31_580_178, 31_562_573, 12.5, 1097.7),
    "nano_0.6kbps_12.5fps": (30_278_840, 30_263_920, 31_483_410, 31_465_805, 12.5, 598.9),
    "nano_1.1kbps_25fps": (30_168_248, 30_153_328, 31_482_114, 31_464_509, 25.0, 1097.7),
    "nano_1.1kbps_6.25fps": (30_548_504, 30_533_536, 31_774_038, 31_756_433, 6.25, 1097.7),
}


def build(config):
    with torch.device("meta"):
        return NanoCodec(config)


def read(name):
    return from_dict(NanoCodecConfig, load_yaml(CONFIGS / f"{name}.yaml")["model"])


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_published(name):
    config = PUBLISHED[name]
    codec = build(config)
    folded = parameter_counts(codec)
    apply_weight_norm(codec)
    counts = parameter_counts(codec)
    bits = config.frame_rate * config.quantizer.num_groups * torch.tensor(config.quantizer.codebook_size).log2()
    assert (counts["encoder"], folded["encoder"], counts["decoder"], folded["decoder"]) == SIZES[name][:4]
    assert (config.frame_rate, float(bits)) == (
        pytest.approx(SIZES[name][4], abs=1e-3),
        pytest.approx(SIZES[name][5], abs=0.1),
    )
    assert codec.num_frames(codec.sample_rate) == -(-22050 // codec.frame_size)


def test_yaml_and_code_say_the_same():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(PUBLISHED) == set(SIZES)
    for name, config in PUBLISHED.items():
        assert read(name) == published(name) == config
        assert from_dict(NanoCodecConfig, to_dict(config)) == config
    assert NanoCodecConfig() == PUBLISHED["nano_1.78kbps_12.5fps"]


def test_causality_is_chosen_for_encoder_and_decoder_independently():
    base = PUBLISHED["nano_1.1kbps_12.5fps"]
    files = {
        (False, True): "nano_1.1kbps_12.5fps",
        (False, False): "ablations/noncausal_noncausal",
        (True, True): "ablations/causal_causal",
        (True, False): "ablations/causal_noncausal",
    }
    for (encoder, decoder), name in files.items():
        config = with_causality(base, encoder=encoder, decoder=decoder)
        assert read(name) == config
        codec = build(config)
        assert (codec.config.encoder.causal, codec.config.decoder.causal) == (encoder, decoder)
        assert parameter_counts(codec)["encoder"] == SIZES["nano_1.1kbps_12.5fps"][1]
    wide = PUBLISHED["nano_1.89kbps_21.5fps"]
    assert read("ablations/noncausal_noncausal_21.5fps") == with_causality(wide, encoder=False, decoder=False)
    assert {path.stem for path in CONFIGS.glob("ablations/*")} == {
        *(name.split("/")[1] for name in files.values() if "/" in name),
        "noncausal_noncausal_21.5fps",
    }


def test_only_lfsc_needs_four_frames():
    for name, config in PUBLISHED.items():
        codec = build(config)
        least = 4 if name.startswith("lfsc") else 1
        assert (codec.encoder.min_frames, codec.decoder.min_frames) == (least, least)


def test_what_was_not_published_is_not_guessed():
    with pytest.raises(ValueError, match="65536 codes each but not the levels"):
        published("nano_0.8kbps_12.5fps")
    with pytest.raises(ValueError, match="no published config 'nano_2kbps'; known: lfsc_1.89kbps"):
        published("nano_2kbps")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nano_0.8kbps_12.5fps", "nano_0.8kbps_12.5fps cannot be built: .* not the levels"),
        ("nvidia/nemo-nano-codec-22khz-0.8kbps-12.5fps", "12.5fps cannot be built: .* not the levels"),
        (
            "nemo-nano-codec-22khz-0.8kbps-12.5fps.nemo",
            "not the levels .* give the path of a .nemo archive",
        ),
        (
            "nano_1.1kbps_6.25fps",
            "is a config, configs/nanocodec/nano_1.1kbps_6.25fps.yaml, .*weights were not released",
        ),
        (
            "nano_0.6kbps_12.5fps",
            "a config, .* weights are at nvidia/nemo-nano-codec-22khz-0.6kbps-12.5fps, which load",
        ),
    ],
)
def test_names_of_the_papers_are_no_models(monkeypatch, name, message):
    monkeypatch.setattr(hub, "download", None)
    with pytest.raises(ValueError, match=message):
        flexicodec.load(name)


def test_weights_that_were_released_are_where_the_table_says():
    table = (CONFIGS / "README.md").read_text()
    for name in PUBLISHED:
        (line,) = (line for line in table.splitlines() if line.startswith(f"| `{name}` "))
        assert line.endswith(f" {RELEASED.get(name, 'not released')} |")


def test_rates_have_names():
    assert published_at_rate(21.5) == ["lfsc_1.89kbps_21.5fps", "nano_1.89kbps_21.5fps"]
    assert published_at_rate(6.25) == ["nano_1.1kbps_6.25fps"]
    assert not published_at_rate(8.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EncoderConfig(strides=()), "encoder strides"),
        (lambda: EncoderConfig(strides=(2, 1)), "expected 2 or more each"),
        (lambda: EncoderConfig(causal=True), "padding_mode is 'replicate'; write padding_mode: zeros"),
        (lambda: DecoderConfig(kernel_sizes=(3, 4)), "expected odd numbers"),
        (lambda: DecoderConfig(dilations=()), r"dilations \(\)"),
        (lambda: DecoderConfig(width=100), "decoder width is 100, to be halved 5 times; expected a multiple of 32"),
        (lambda: DecoderConfig(width=16, grouped_upsampling=False), "expected at least 32"),
        (lambda: NanoCodecConfig(encoder=EncoderConfig((2, 3))), "frames of 6 samples, decoder .* of 1764"),
        (lambda: replace(NanoCodecConfig(), sample_rate=22), "expected Hz"),
        (lambda: from_dict(NanoCodecConfig, {"encoder": {"activation": "elu"}}), "encoder.activation is 'elu'"),
        (lambda: from_dict(NanoCodecConfig, {"decoder": {"padding_mod": "zeros"}}), "did you mean 'padding_mode'"),
    ],
)
def test_bad_configs_are_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
