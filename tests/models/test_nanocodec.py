"""LFSC and NanoCodec through the public interface: lengths, files, batches, the fixed rate, errors."""

import copy
from dataclasses import replace
from inspect import signature

import pytest
import torch

import flexicodec
from flexicodec import TokenFormat, Tokens, collate
from flexicodec.models.flexicodec.model import FlexiCodec
from flexicodec.models.nanocodec.model import NanoCodec
from flexicodec.models.streaming.state import Windows

FRAME = 30
LENGTHS = (1, 29, 30, 31, 119, 121, 1000)


def noise(samples, seed=0):
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("samples", LENGTHS)
def test_decoded_audio_has_the_length_of_the_input(nanocodec, samples):
    """Also clips too short for a reflection at their ends, which are padded and trimmed."""
    tokens = nanocodec.encode(noise(samples))
    frames = -(-samples // FRAME)
    assert nanocodec.num_frames(samples) == frames
    assert tokens.semantic is None
    assert tokens.acoustic.shape == (1, nanocodec.num_codebooks, frames)
    assert tokens.durations.tolist() == [[1] * frames]
    audio = nanocodec.decode(tokens)
    assert audio.shape == (1, samples)
    assert 0 < audio.abs().max() <= 1
    unknown = Tokens(acoustic=tokens.acoustic, format=tokens.format)
    assert nanocodec.decode(unknown).shape == (1, frames * FRAME)


def test_tokens_carry_something(nanocodec):
    tokens = nanocodec.encode(noise(6000))
    assert len(tokens.acoustic.unique()) > 300
    assert nanocodec.decode(tokens).std() > 0.05


def test_tokens_are_charged_for_codes_alone(nanocodec):
    tokens, groups = nanocodec.encode(noise(30 * FRAME)), nanocodec.num_codebooks
    bits = (nanocodec.format.acoustic_codebook_size - 1).bit_length()
    assert tokens.frame_rates.tolist() == [pytest.approx(22050 / FRAME)]
    assert tokens.bitrates_kbps.tolist() == [pytest.approx(22050 / FRAME * groups * bits / 1000)]
    assert f"0+{groups} codebooks" in repr(tokens)


def test_a_file_keeps_the_tokens_and_their_audio(nanocodec, tmp_path):
    tokens = nanocodec.encode(noise(1000))
    tokens.save(tmp_path / "a.flxc")
    loaded = Tokens.load(tmp_path / "a.flxc")
    assert loaded == tokens
    assert torch.equal(nanocodec.decode(loaded), nanocodec.decode(tokens))


def test_a_saved_model_is_the_same_model(nanocodec, tmp_path):
    nanocodec.save_pretrained(tmp_path)
    loaded = flexicodec.load(tmp_path)
    assert loaded.config == nanocodec.config
    assert loaded.fingerprint == loaded.compute_fingerprint() == nanocodec.fingerprint
    tokens = nanocodec.encode(noise(1000))
    assert loaded.encode(noise(1000)) == tokens
    assert torch.equal(loaded.decode(tokens), nanocodec.decode(tokens))


def test_groups_are_parallel_codebooks(nanocodec, tmp_path):
    tokens = nanocodec.encode(noise(500))
    groups = nanocodec.num_codebooks
    assert tokens.keep(acoustic=groups) == tokens
    with pytest.raises(ValueError, match="only mean something together"):
        tokens.keep(acoustic=groups - 1)
    with pytest.raises(ValueError, match="side by side"):
        nanocodec.encode(noise(500), num_codebooks=1)
    assert nanocodec.encode(noise(500), num_codebooks=groups) == tokens
    fewer = Tokens(acoustic=tokens.acoustic[:, :1], format=tokens.format)
    with pytest.raises(ValueError, match=f"1 of this model's {groups} parallel"):
        nanocodec.decode(fewer)


def test_vectors_are_the_groups_values_one_after_another(nanocodecs):
    codec = nanocodecs["lfsc"]
    codes = torch.tensor([[[0, 0], [1, 8], [2015, 3]]])
    vectors = codec.embed(Tokens(acoustic=codes, format=codec.format))
    first = [-1, -1, -1, -1, -0.75, -1, -1, -1, 0.75, 1, 2 / 3, 2 / 3]
    assert vectors[0, :, 0].tolist() == pytest.approx(first)
    assert vectors[0, 4:8, 1].tolist() == pytest.approx([-1, -2 / 3, -1, -1])  # 8: the first level is the fastest
    assert vectors.shape == (1, codec.quantizer.dim, 2)


# -------------------------------------------------------------------------------------------------------------- batches


def padded(lengths, filling=0.0):
    clips = [noise(length, seed) for seed, length in enumerate(lengths)]
    audio, counts = collate(clips)
    behind = torch.arange(audio.shape[1]) >= counts[:, None]
    return clips, audio.masked_fill(behind, filling), counts


@pytest.mark.parametrize("lengths", [(700, 31, 365), (1, 30, 90), (4000, 3999, 3961, 121)])
def test_a_padded_batch_is_each_clip_alone(nanocodec, lengths):
    clips, audio, counts = padded(lengths, torch.nan)
    tokens = nanocodec.encode(audio, counts)
    decoded = nanocodec.decode(tokens)
    for i, clip in enumerate(clips):
        alone = nanocodec.encode(clip)
        assert tokens[i] == alone
        assert torch.equal(nanocodec.embed(tokens)[i, :, : len(alone.durations[0])], nanocodec.embed(alone)[0])
        torch.testing.assert_close(decoded[i, : len(clip)], nanocodec.decode(alone)[0], atol=2e-6, rtol=0)
        assert not decoded[i, len(clip) :].any()


def test_latents_of_a_padded_batch_are_each_clips_alone(nanocodec):
    precise = copy.deepcopy(nanocodec).double()
    clips, audio, counts = padded((2000, 725, 1399))
    together = precise.encode_latents(audio.double(), counts)
    for i, clip in enumerate(clips):
        alone = precise.encode_latents(clip[None].double(), counts[i : i + 1])
        torch.testing.assert_close(together[i : i + 1, :, : alone.shape[-1]], alone)


def test_nemos_batches_differ_where_something_looks_ahead(nanocodec):
    _, audio, counts = padded((2000, 730))
    ours, theirs = nanocodec.encode(audio, counts), nanocodec.encode(audio, counts, compatible=True)
    assert theirs[0] == ours[0]  # the longest has no padding
    assert (theirs[1] == ours[1]) == nanocodec.config.encoder.causal
    assert theirs.info == {"compatible": True}
    one, other = nanocodec.decode(ours)[1], nanocodec.decode(ours, compatible=True)[1]
    assert torch.allclose(one, other, atol=1e-5) == nanocodec.config.decoder.causal


def test_long_clips_in_chunks_are_what_they_are_at_once(nanocodec):
    precise, audio, counts = copy.deepcopy(nanocodec).double(), noise(3 * 50 * FRAME), torch.tensor([1500, 1490, 600])
    audio = audio.double().view(3, -1)
    for lengths in (None, counts):
        for pad_at_item_ends in (True, False):
            whole = precise.encoder(audio[:, None], lengths, pad_at_item_ends)
            chunks = precise.encoder.chunked(audio[:, None], lengths, pad_at_item_ends, chunk_frames=7)
            torch.testing.assert_close(chunks, whole.detach())
            lengths = None if lengths is None else lengths // 30
            decoded_audio = precise.decoder(whole, lengths, pad_at_item_ends)
            chunks = precise.decoder.chunked(whole.detach(), lengths, pad_at_item_ends, chunk_frames=7)
            torch.testing.assert_close(chunks, decoded_audio.detach())
            lengths = None if lengths is None else counts


# ------------------------------------------------------------------------------------------------------------- one rate


def test_the_one_rate_may_be_said(nanocodec):
    tokens = nanocodec.encode(noise(500))
    for choice in ({"threshold": 1.0}, {"frame_rate": nanocodec.base_frame_rate}, {"frame_rate": [735.0, 735.0]}):
        assert nanocodec.encode(noise(500), **choice) == tokens


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"threshold": 0.9}, "threshold is 0.9, but this model has a fixed rate of 735 Hz"),
        (
            {"frame_rate": 6.25},
            r"6\.25 Hz, but .* fixed rate of 735 Hz; configs that have it: nano_1\.1kbps_6\.25fps \("
            r"configs/nanocodec/nano_1\.1kbps_6\.25fps\.yaml, weights not released\)$",
        ),
        (
            {"frame_rate": 12.5},
            r"have it: nano_1.78kbps_12.5fps \(weights: nvidia/nemo-nano-codec-22khz-1.78kbps-12.5fps\);"
            r" nano_1.1kbps_12.5fps \(configs/nanocodec/nano_1.1kbps_12.5fps.yaml, weights not released\); nano_0.6",
        ),
        (
            {"frame_rate": 21.5},
            r"lfsc_1.89kbps_21.5fps \(weights: nvidia/low-frame-rate-speech-codec-22khz\); nano_1.89kbps_21",
        ),
        (
            {"durations": [[1, 1]]},
            r"durations is \[\[1, 1\]\], but this model has a fixed rate of 735 Hz, one frame a token",
        ),
        ({"policy": "uniform"}, "policy is 'uniform', but this model has a fixed rate"),
        ({"max_duration": 8}, "max_duration is 8, but this model has a fixed rate"),
        (
            {"frame_rate": 8.0},
            r"published are 6\.25 Hz: nano_1\.1kbps_6\.25fps; 12\.5 Hz: .*; 25 Hz: nano_1.1kbps_25fps",
        ),
        ({"frame_rate": -1}, "published are"),
        ({"frame_rate": "fast"}, "published are"),
        ({"frame_rate": [735.0, 12.5]}, "published are"),
    ],
)
def test_other_rates_are_refused_with_the_configs_that_have_them(nanocodecs, choice, message):
    with pytest.raises(ValueError, match=message):
        nanocodecs["nano"].encode(noise(500), **choice)


@pytest.mark.parametrize("call", ["encode", "decode", "streaming_encoder", "streaming_decoder"])
def test_the_surface_is_flexicodecs(call):
    ours, theirs = (set(signature(getattr(family, call)).parameters) for family in (NanoCodec, FlexiCodec))
    assert not theirs - ours


def snr_db(reference, estimate):
    return float(10 * torch.log10(reference.square().sum() / (reference - estimate).square().sum()))


def test_half_the_precision_is_near_and_says_so(nanocodec):
    audio = noise(6000)
    exact, near = nanocodec.encode(audio), nanocodec.encode(audio, precision="bfloat16")
    assert near.info == {"precision": "bfloat16"}
    assert exact.info == {}
    assert 0.4 < (exact.acoustic == near.acoustic).float().mean() < 1
    decoded, rough = nanocodec.decode(exact), nanocodec.decode(exact, precision="bfloat16")
    assert rough.dtype == torch.float32
    assert rough.shape == decoded.shape
    assert 15 < snr_db(decoded, rough) < 100
    for call, argument in ((nanocodec.encode, audio), (nanocodec.decode, exact)):
        with pytest.raises(ValueError, match="precision is 'half'; expected 'float32' or 'bfloat16'"):
            call(argument, precision="half")


@torch.no_grad()
def test_codes_are_decided_in_float32(nanocodec):
    """Also where a caller's own autocast is on."""
    audio = noise(6000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        latents = nanocodec.encode_latents(audio[None], torch.tensor([6000])).float()
        got = nanocodec.encode(audio, precision="bfloat16", margins=True)
    wanted = nanocodec.quantizer(latents)
    assert torch.equal(got.acoustic, wanted.codes)
    assert torch.equal(got.margins.acoustic, nanocodec.quantizer.margins(latents, wanted.codes))


def test_windows_change_nothing(nanocodec):
    audio = noise(30_000)
    tokens = nanocodec.encode(audio, windows=Windows(1.0, 0.2))
    assert tokens == nanocodec.encode(audio)
    assert torch.equal(nanocodec.decode(tokens, windows=Windows(1.0, 0.2)), nanocodec.decode(tokens))


def test_there_is_nothing_to_calibrate(nanocodecs, speech_folder):
    with pytest.raises(ValueError, match="fixed rate of 735 Hz; there is no threshold"):
        flexicodec.calibrate(nanocodecs["nano"], speech_folder, 735.0)


# -------------------------------------------------------------------------------------------------------------- refused


def test_codes_out_of_range_are_refused(nanocodecs):
    """NeMo decodes 5000 as 5000 modulo the levels."""
    codec, codes = nanocodecs["lfsc"], torch.full((1, 3, 2), 2015)
    codec.decode(Tokens(acoustic=codes, format=codec.format))
    with pytest.raises(ValueError, match="acoustic code 2016 .* expected 0 to 2015"):
        Tokens(acoustic=codes + 1, format=codec.format)
    larger = replace(codec.format, acoustic_codebook_size=65536, fingerprint=None)
    with pytest.raises(ValueError, match="code 5000 is out of range: this model's codebook has 2016 entries"):
        codec.decode(Tokens(acoustic=torch.full((1, 3, 2), 5000), format=larger))
    with pytest.raises(ValueError, match=r"code 2016 in codebook layer 0 .* 0\.\.2015"):
        codec.quantizer.dequantize(codes + 1)


def test_tokens_of_other_models_are_refused(nanocodecs, whole):
    tokens = nanocodecs["nano"].encode(noise(500))
    with pytest.raises(ValueError, match="made by another model"):
        nanocodecs["causal"].decode(tokens)
    with pytest.raises(ValueError, match="made by another model"):
        whole.decode(tokens)
    stretched = replace(tokens.format, max_duration=8, fingerprint=None)
    with pytest.raises(ValueError, match="a token lasts 2 frames"):
        nanocodecs["nano"].decode(Tokens(acoustic=tokens.acoustic, durations=2 * tokens.durations, format=stretched))
    with pytest.raises(ValueError, match="no whole|semantic"):
        nanocodecs["nano"].decode(Tokens([[1]], None, [[1]], format=TokenFormat(22050, FRAME)))


def test_the_decoder_does_not_name_the_tokens(nanocodecs):
    """Tokens of one encoder go to any decoder that was trained on them."""
    nano, noncausal = nanocodecs["nano"], nanocodecs["noncausal"]
    noncausal.encoder.load_state_dict(nano.encoder.state_dict())
    assert noncausal.compute_fingerprint() == nano.compute_fingerprint()
    assert nanocodecs["causal"].compute_fingerprint() != nano.compute_fingerprint()


@pytest.mark.parametrize("samples", [0, -1, 1.5, True, torch.tensor([100, 0])])
def test_only_samples_have_frames(nanocodecs, samples):
    with pytest.raises(ValueError, match="expected a whole number, 1 or more"):
        nanocodecs["nano"].num_frames(samples)


# ------------------------------------------------------------------------------------------------------------- training


def test_gradients_reach_every_weight(nanocodec):
    _, audio, counts = padded((600, 400))
    nanocodec.zero_grad()
    latents = nanocodec.encode_latents(audio, counts)
    quantized = nanocodec.quantizer(latents, -(-counts // FRAME))
    nanocodec.decode_latents(quantized.latents, -(-counts // FRAME)).square().mean().backward()
    missing = [name for name, weight in nanocodec.named_parameters() if weight.grad is None or not weight.grad.any()]
    nanocodec.zero_grad()
    assert not missing
