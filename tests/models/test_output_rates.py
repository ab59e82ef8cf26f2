"""Decoders to another rate than the encoders take: the same tokens, and audio of exactly as many seconds."""

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

import flexicodec
from flexicodec import Tokens
from flexicodec.audio import resample
from flexicodec.cli import main
from flexicodec.cli.printing import describe_model
from flexicodec.config import from_dict
from flexicodec.evaluation.systems import CodecSystem, Setting
from flexicodec.models.flexicodec import chunked
from flexicodec.models.flexicodec.config import FlexiCodecConfig
from flexicodec.models.streaming.code_to_wave import CodeToWave
from flexicodec.models.streaming.state import Windows
from tests.conftest import SPECTRAL

EXACT = 2e-5
WINDOWS = {8_000: (320, 80), 22_050: (588, 147), 24_000: (960, 240), 44_100: (1764, 441), 48_000: (1920, 480)}
SAMPLES = [1, 1279, 1281, 20_001]


def noise(samples, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(1, samples, generator=generator)


@pytest.fixture(scope="module")
def codecs(make_codec):
    """One decoder for each rate, behind the same encoders."""
    made = {}
    for rate, (window, hop) in WINDOWS.items():
        sizes = {"output_sample_rate": rate, "istft_window": window, "istft_hop": hop}
        made[rate] = make_codec("whole", **{**SPECTRAL, "acoustic": replace(SPECTRAL["acoustic"], **sizes)})
    return made


@pytest.fixture(scope="module", params=[22_050, 24_000, 48_000])
def other(request, codecs):
    return codecs[request.param]


def test_tokens_and_their_fingerprint_do_not_depend_on_the_rate(codecs, spectral):
    audio = noise(20_001)
    tokens = spectral.encode(audio, frame_rate=7.0)
    for rate, codec in codecs.items():
        assert (codec.output_sample_rate, codec.output_frame_size) == (rate, rate * 2 // 25)
        assert (codec.sample_rate, codec.frame_size, codec.base_frame_rate) == (16_000, 1280, 12.5)
        assert codec.fingerprint == spectral.fingerprint
        assert codec.encode(audio, frame_rate=7.0) == tokens
    every = [codec.decoder_fingerprint for codec in (spectral, *codecs.values())]
    assert len(set(every)) == len(every)


def test_the_rate_alone_changes_the_decoders_name(spectral):
    """Weights may have the same shapes by chance."""
    codec = flexicodec.FlexiCodec(spectral.config)
    codec.load_state_dict(spectral.state_dict())
    assert codec.eval().decoder_fingerprint == spectral.decoder_fingerprint
    codec.config = replace(codec.config, acoustic=replace(codec.config.acoustic, output_sample_rate=16_000))
    assert codec.decoder_fingerprint != spectral.decoder_fingerprint
    assert codec.fingerprint == spectral.fingerprint


@pytest.mark.parametrize("samples", SAMPLES)
def test_a_clip_lasts_as_long_as_before(codecs, samples):
    for rate, codec in codecs.items():
        tokens = codec.encode(noise(samples))
        decoded = codec.decode(tokens)
        assert decoded.shape == (1, -(-samples * rate // 16_000))
        assert decoded.any()
        # Without the lengths, it is whole frames.
        frames = Tokens(tokens.semantic, tokens.acoustic, tokens.durations, format=tokens.format)
        assert codec.decode(frames).shape == (1, int(tokens.frame_lengths) * codec.output_frame_size)


def test_an_item_of_a_batch_is_the_clip_alone(other):
    lengths = torch.tensor([20_001, 19_999, 7, 12_801])
    clips = torch.cat([noise(20_001, seed) for seed in range(4)])
    tokens = other.encode(clips, lengths, frame_rate=5.0)
    decoded = other.decode(tokens)
    ends = other.output_lengths(lengths)
    assert decoded.shape == (4, int(ends.max()))
    for row, end in enumerate(ends.tolist()):
        alone = other.decode(tokens[row])
        assert alone.shape == (1, end)
        torch.testing.assert_close(decoded[row : row + 1, :end], alone, atol=EXACT, rtol=0)
        assert not decoded[row, end:].any()


def test_pieces_of_a_long_clip_give_the_whole(other, monkeypatch):
    monkeypatch.setattr(chunked, "PIECE_FRAMES", 5)
    tokens = other.encode(noise(50_001), windows=None, frame_rate=5.0)
    pieces = other.decode(tokens, windows=Windows(1.0, 0.3))
    torch.testing.assert_close(pieces, other.decode(tokens, windows=None), atol=EXACT, rtol=0)


@pytest.mark.parametrize("options", [{}, {"lookahead_frames": 0}, {"lookahead_frames": 3, "chunk_tokens": 2}])
def test_a_stream_gives_the_whole(other, options):
    samples = 30_001
    tokens = other.encode(noise(samples), frame_rate=7.0)
    count = tokens.durations.shape[1]
    audio = []
    with other.streaming_decoder(**options) as stream:
        for at in range(0, count, 3):
            part = slice(at, at + 3)
            durations = tokens.durations[:, part]
            left = samples - 1280 * int(tokens.durations[:, :at].sum())
            own = [min(left, 1280 * int(durations.sum()))]
            piece = Tokens(tokens.semantic[:, part], tokens.acoustic[:, :, part], durations, own, tokens.format)
            audio.append(stream.decode(piece))
        audio.append(stream.flush())
        exact = stream.exact
    heard = torch.cat(audio, dim=1)
    whole = other.decode(tokens)
    assert heard.shape == whole.shape
    assert exact == (not options)
    if exact:
        torch.testing.assert_close(heard, whole, atol=EXACT, rtol=0)


def test_a_server_gets_the_samples_of_its_tokens(other, spectral):
    tokens = other.encode(noise(12_800), threshold=1.0)
    codes = torch.cat([tokens.semantic[:, None], tokens.acoustic], 1)
    stage = CodeToWave(other)
    assert stage.total_upsample == other.output_frame_size
    halves = []
    for part, last in ((slice(0, 6), False), (slice(6, None), True)):
        halves += stage.decode(["a"], codes[..., part], tokens.durations[:, part], [last])
    torch.testing.assert_close(torch.cat(halves)[None], other.decode(tokens), atol=EXACT, rtol=0)
    (chunk,) = stage.chunked_decode_streaming(codes, tokens.durations, [4])
    assert chunk.shape == (1, 6 * other.output_frame_size)
    assert other.decoder_context_frames == spectral.decoder_context_frames


def test_half_precision_is_near(other):
    tokens = other.encode(noise(20_001), frame_rate=7.0)
    full, half = (other.decode(tokens, precision=each) for each in ("float32", "bfloat16"))
    assert half.shape == full.shape
    assert (half - full).square().mean() < 0.01 * full.square().mean()


def test_a_saved_model_keeps_its_rate(other, spectral, tmp_path):
    tokens = other.encode(noise(9_001), frame_rate=7.0)
    folder = other.save_pretrained(tmp_path / "other")
    loaded = flexicodec.load(folder)
    assert loaded.config == other.config
    assert (loaded.fingerprint, loaded.decoder_fingerprint) == (other.fingerprint, other.decoder_fingerprint)
    torch.testing.assert_close(loaded.decode(tokens), other.decode(tokens), atol=EXACT, rtol=0)
    only_decodes = flexicodec.load(folder, parts="decode")
    torch.testing.assert_close(only_decodes.decode(tokens), other.decode(tokens), atol=EXACT, rtol=0)
    # Files of the other rate hold what they always held.
    config = json.loads((spectral.save_pretrained(tmp_path / "plain") / "config.json").read_text())["config"]
    assert "output_sample_rate" not in config["acoustic"]
    assert flexicodec.load(tmp_path / "plain").output_sample_rate == 16_000


def test_numbers_that_do_not_fit_are_refused_by_the_whole_config(spectral):
    plain = spectral.config_dict()
    for change, message in (
        ({"output_sample_rate": 24}, r"acoustic: output_sample_rate is 24 Hz.*\(not kHz\)"),
        ({"output_sample_rate": 24_000, "istft_hop": 320}, "acoustic: istft_window must be.* got 640, 320 and 480"),
        ({"output_sample_rate": 24_000.0}, "acoustic.output_sample_rate is 24000.0 .float.; expected int"),
    ):
        with pytest.raises(ValueError, match=message):
            from_dict(FlexiCodecConfig, plain | {"acoustic": plain["acoustic"] | change})


def test_evaluation_compares_at_the_rate_of_the_recordings(other):
    clips = [noise(samples)[0].numpy() for samples in (9001, 16_000)]
    (results,) = CodecSystem(other, "tiny").reconstruct(clips, [Setting(6.25)])
    for clip, result in zip(clips, results, strict=True):
        assert result.audio.shape == clip.shape
        assert result.tokens.format == other.format
        decoded = resample(other.decode(result.tokens), other.output_sample_rate, 16_000)
        np.testing.assert_allclose(result.audio, decoded[0, : len(clip)], atol=1e-4)


def test_the_command_line_writes_the_decoders_rate(other, tmp_path, capsys):
    rate = other.output_sample_rate
    folder = str(other.save_pretrained(tmp_path / "model"))
    soundfile.write(tmp_path / "clip.wav", noise(9001)[0].numpy(), 16_000)
    tokens = other.encode(flexicodec.read_audio(tmp_path / "clip.wav"))
    tokens.save(tmp_path / "clip.flxc")
    for verb, source in (("decode", "clip.flxc"), ("reconstruct", "clip.wav")):
        out = tmp_path / f"{verb}.wav"
        assert main([verb, str(tmp_path / source), "-o", str(out), "--model", folder]) == 0
        info = soundfile.info(out)
        assert (info.samplerate, info.frames) == (rate, -(-9001 * rate // 16_000))
    capsys.readouterr()
    assert main(["info", folder]) == 0
    assert f"16000 Hz, decoded to {rate} Hz" in capsys.readouterr().out


def test_models_of_one_rate_are_described_as_before(spectral):
    assert ("sample rate", "16000 Hz") in describe_model("tiny", spectral)


def test_transformers_gets_the_rate_and_the_samples(other):
    transformers_model = pytest.importorskip("flexicodec.transformers_model")
    model = transformers_model.FlexiCodecModel(transformers_model.FlexiCodecConfig(), other)
    config = model.config
    assert (config.sampling_rate, config.output_sampling_rate) == (16_000, other.output_sample_rate)
    mask = torch.ones(2, 9001, dtype=torch.long)
    mask[:, 8000:] = 0
    decoded = model(torch.cat([noise(9001), noise(9001, 1)]), mask).audio_values
    assert decoded.shape == (2, 1, int(other.output_lengths(9001)))
    assert not decoded[..., int(other.output_lengths(8000)) :].any()


@pytest.mark.slow
def test_graphs_decode_at_that_rate(codecs, tmp_path):
    pytest.importorskip("onnxruntime")
    from flexicodec.export.compare import compare
    from flexicodec.export.onnx import export
    from flexicodec.export.runtime import load_exported

    codec = codecs[24_000]
    exported = load_exported(export(codec, tmp_path), threads=1)
    assert exported.output_sample_rate == 24_000
    found = compare(codec, exported, torch.cat([noise(20_001), noise(20_001, 1)]), torch.tensor([20_001, 13_000]))
    assert found.holds, found
    frames = Tokens([[0] * 3], [[[0] * 3] * codec.num_codebooks], [[2, 1, 3]], format=codec.format)
    assert exported.decode(frames).shape == codec.decode(frames).shape == (1, 6 * 1920)
