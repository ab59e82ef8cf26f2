"""A codec with Moonshine's encoder: pieces, streams, saving with weights that ship anyway, half precision, configs."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

import flexicodec
from flexicodec import collate
from flexicodec.code_margins import NOISE
from flexicodec.config import from_dict, to_dict
from flexicodec.encoders import moonshine_weights
from flexicodec.encoders.base import MoonshineConfig, SanmConfig
from flexicodec.models.flexicodec import chunked
from flexicodec.models.flexicodec.config import FlexiCodecConfig
from flexicodec.models.flexicodec.model import FlexiCodec
from flexicodec.models.flexicodec.streaming_encode import StreamedEncoders
from flexicodec.models.margins import compare_codes
from flexicodec.models.streaming.state import Windows
from flexicodec.weights import SHIPPED_PARTS

MINI = MoonshineConfig(windows=(62,), norm_window=62, left_padding=256)


def bursts(samples, seed=0):
    """Noise that is loud and soft for a tenth of a second each."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.rand(1, samples // 1600 + 1, generator=generator).repeat_interleave(1600, dim=1)
    return 0.2 * level[:, :samples] * torch.randn(1, samples, generator=generator)


def same_but_for_noise(ours, theirs):
    found = compare_codes(ours, theirs)
    return ours == theirs or not any(
        part.flips(above=NOISE) for part in (found.boundaries, found.semantic, found.acoustic)
    )


@pytest.fixture(scope="module")
def shipped(make_codec):
    """A tiny codec with the encoder that ships."""
    codec = make_codec("whole", MINI)
    state = {f"semantic_encoder.{key}": value for key, value in moonshine_weights.shipped_state().items()}
    codec.load_state_dict(codec.state_dict() | state)
    return codec


# -------------------------------------------------------------------------------------------------- features and tokens


@pytest.mark.parametrize("samples", [1, 1279, 1280, 1281, 2561, 40_001])
def test_a_clip_of_any_length_has_tokens(moonshine, samples):
    audio = bursts(samples)
    tokens = moonshine.encode(audio, threshold=0.7)
    assert int(tokens.durations.sum()) == -(-samples // 1280)
    assert moonshine.decode(tokens).shape == audio.shape
    assert moonshine.features(audio).semantic.isfinite().all()


def test_a_padded_batch_is_each_clip_alone(moonshine):
    clips = [bursts(samples, seed)[0] for seed, samples in enumerate((30_001, 1000, 17_000))]
    together = moonshine.encode_semantic(*collate(clips), moonshine.frame_counts(torch.tensor([30_001, 1000, 17_000])))
    for i, clip in enumerate(clips):
        alone = moonshine.features(clip).semantic
        count = alone.shape[-1]
        torch.testing.assert_close(together[i : i + 1, :, :count], alone, atol=1e-5, rtol=1e-4)
        assert not together[i, :, count:].any()


@pytest.mark.parametrize("piece", [1, 5, 64])
def test_pieces_of_a_long_clip_give_the_whole(moonshine, piece, monkeypatch):
    monkeypatch.setattr(chunked, "PIECE_FRAMES", piece)
    audio, windows = bursts(60_001), Windows(1.0, 0.3)
    assert moonshine.is_windowed()
    whole, pieces = moonshine.features(audio, windows=None), moonshine.features(audio, windows=windows)
    torch.testing.assert_close(pieces.semantic, whole.semantic, atol=1e-5, rtol=1e-4)
    for choice in ({"threshold": 0.7}, {"frame_rate": 5.0, "policy": "variance"}):
        tokens = moonshine.tokenize(whole, margins=True, **choice)
        others = moonshine.tokenize(pieces, **choice)
        assert same_but_for_noise(tokens, others)
        assert others.info == tokens.info


def test_a_global_norm_is_not_windowed_and_says_so(make_codec):
    codec = make_codec("whole", replace(MINI, num_layers=1, norm_window=None))
    assert not codec.is_windowed()
    tokens = codec.encode(bursts(40_000), windows=Windows(1.0, 0.3))
    assert tokens.info["window_seconds"] == 1.0


def test_a_stream_of_the_shipped_encoder_gives_the_whole(shipped):
    """Features of blocks as they are, whose values are far larger than random ones."""
    audio = bursts(16_000 * 14)
    stream = shipped.streaming_encoder(threshold=0.7)
    assert stream.exact
    tokens = [stream.encode(chunk) for chunk in audio.split(16_000 * 3, dim=1)]
    got = flexicodec.Tokens.concat([piece for piece in (*tokens, stream.flush()) if piece is not None])
    wanted = shipped.encode(audio, threshold=0.7, margins=True, windows=None)
    assert same_but_for_noise(wanted, got)


@pytest.mark.parametrize(("window", "seconds"), [(62, 7 * 62 * 0.024), ((62, 4), 7 * 4 * 0.024)])
def test_the_latency_is_that_of_the_windows(make_codec, window, seconds):
    """Six windows of attention and one of the norm; the convolutions see 255 samples more."""
    codec = make_codec("whole", replace(MINI, windows=(window,), norm_window=window), merging=None)
    _, after = codec.semantic_encoder.reach
    assert after == round(seconds * 16_000) + 255
    stages = StreamedEncoders(codec, Windows()).semantic
    waiting = [stages.inputs_needed(frames) - 1280 * frames for frames in range(1, 10)]
    assert abs(max(waiting) - after) < 384  # interpolation ends within a frame of Moonshine's


def test_half_precision_is_near(shipped):
    audio = bursts(48_000)
    exact = shipped.features(audio)
    near = shipped.features(audio, precision="bfloat16")
    assert near.semantic.dtype == torch.float32
    assert not torch.equal(exact.semantic, near.semantic)
    cosine = torch.cosine_similarity(exact.semantic, near.semantic, dim=1)
    assert cosine.min() > 0.98
    pieces = shipped.features(audio, precision="bfloat16", windows=Windows(1.0, 0.3))
    assert torch.cosine_similarity(pieces.semantic, near.semantic, dim=1).min() > 0.98
    assert shipped.encode(audio, precision="bfloat16").info["precision"] == "bfloat16"


# --------------------------------------------------------------------------------------------------------- saved models


def stored(folder):
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return set(file.keys())


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_weights_that_ship_are_not_stored_again(shipped, dtype, tmp_path):
    folder = shipped.save_pretrained(tmp_path, dtype)
    assert not any(name.startswith("semantic_encoder.") for name in stored(folder))
    assert json.loads((folder / "config.json").read_text())[SHIPPED_PARTS] == {"semantic_encoder": "moonshine-tiny-en"}
    loaded = flexicodec.load(folder)
    assert loaded.config == shipped.config
    assert loaded.fingerprint == loaded.compute_fingerprint() == shipped.fingerprint
    for name, value in loaded.semantic_encoder.state_dict().items():
        assert torch.equal(value, shipped.semantic_encoder.state_dict()[name])
    # saved once more it is as small, and parts are loaded as of other models
    assert stored(loaded.save_pretrained(tmp_path / "again", dtype)) == stored(folder)
    audio = bursts(20_000)
    tokens = loaded.encode(audio)
    assert flexicodec.load(folder, parts="encode").encode(audio) == tokens
    only_decodes = flexicodec.load(folder, parts="decode")
    assert torch.equal(only_decodes.decode(tokens), loaded.decode(tokens))


def test_other_weights_are_stored(shipped, tmp_path):
    other = flexicodec.load(shipped.save_pretrained(tmp_path / "shipped"))
    with torch.no_grad():
        other.semantic_encoder.conv3.bias[7] += 1e-4
    folder = other.save_pretrained(tmp_path / "other")
    assert {f"semantic_encoder.{name}" for name in other.semantic_encoder.state_dict()} <= stored(folder)
    assert SHIPPED_PARTS not in json.loads((folder / "config.json").read_text())
    loaded = flexicodec.load(folder)
    assert torch.equal(loaded.semantic_encoder.conv3.bias, other.semantic_encoder.conv3.bias)


def test_a_short_encoder_takes_the_first_blocks(make_codec, tmp_path):
    codec = make_codec("whole", replace(MINI, num_layers=2))
    names = codec.semantic_encoder.state_dict()
    codec.semantic_encoder.load_state_dict(moonshine_weights.shipped_state(names))
    loaded = flexicodec.load(codec.save_pretrained(tmp_path))
    assert loaded.fingerprint == loaded.compute_fingerprint() == codec.compute_fingerprint()


def test_unknown_weights_are_named(shipped, tmp_path):
    folder = shipped.save_pretrained(tmp_path)
    held = json.loads((folder / "config.json").read_text())
    held[SHIPPED_PARTS]["semantic_encoder"] = "moonshine-base-en"
    (folder / "config.json").write_text(json.dumps(held))
    with pytest.raises(ValueError, match="takes the weights of semantic_encoder from 'moonshine-base-en'"):
        flexicodec.load(folder)
    assert flexicodec.load(folder, parts="decode").config == shipped.config  # which has no use for them


# -------------------------------------------------------------------------------------------------------------- configs


def test_keys_choose_the_encoder():
    plain = {"geometry": "whole", "semantic_encoder": {"model_type": "moonshine", "windows": [[62, 4]]}}
    config = from_dict(FlexiCodecConfig, plain)
    assert config.semantic_encoder == MoonshineConfig(windows=((62, 4),))
    assert from_dict(FlexiCodecConfig, to_dict(config)) == config
    assert isinstance(from_dict(FlexiCodecConfig, {"semantic_encoder": {"dim": 288}}).semantic_encoder, SanmConfig)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"window": 62}, r"unknown key 'semantic_encoder.window' \(MoonshineConfig\); did you mean 'windows'"),
        ({"layer": 4}, r"unknown key 'semantic_encoder.layer' \(MoonshineConfig\)"),
        ({"windows": 62}, "semantic_encoder.windows is 62"),
        ({"windows": [62, 4]}, r"windows has 2 entries for 6 blocks; .*\[\[62, 4\]\]"),
        ({"windows": [[62, 4, 1]]}, "semantic_encoder.windows"),
        ({"norm_window": 1.5}, "semantic_encoder.norm_window is 1.5"),
    ],
)
def test_slips_are_named(settings, match):
    plain = {"geometry": "whole", "semantic_encoder": {"model_type": "moonshine", **settings}}
    with pytest.raises(ValueError, match=match):
        from_dict(FlexiCodecConfig, plain)


def test_the_released_geometry_is_san_m_s():
    with pytest.raises(ValueError, match="cannot go with a MoonshineConfig for semantic_encoder; choose geom"):
        FlexiCodecConfig(semantic_encoder=MINI)


def test_windows_name_other_tokens_and_the_weights_file_does_not(shipped):
    def settings(config):
        with torch.device("meta"):
            return FlexiCodec(replace(shipped.config, semantic_encoder=config)).token_settings()

    assert settings(MINI) == shipped.token_settings()
    for name, value in {"windows": (61,), "norm_window": None, "left_padding": 0}.items():
        assert settings(replace(MINI, **{name: value})) != shipped.token_settings()
