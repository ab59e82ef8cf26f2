"""LFSC and NanoCodec against NeMo's own outputs: tokens exactly, latents to 5e-4, audio to 2e-5.

The tolerances are those of the goldens' README.
"""

import pytest
import torch

import flexicodec
from flexicodec.models.nanocodec.convert_nemo import from_nemo
from flexicodec.tokens import Tokens

LATENTS, AUDIO, EXACT = 5e-4, 2e-5, 1e-6  # atol
BATCH = [
    f"batch_{name}" for name in ("audio", "audio_len", "encoded", "encoded_len", "tokens", "audio_out", "audio_out_len")
]


def recorded(case, *names):
    """Tensors of a case; the test is skipped if one of them is missing."""
    missing = [name for name in names if name not in case.tensors]
    if missing:
        pytest.skip(f"{case.name} holds no {', '.join(missing)}")
    return case.tensors


def assert_near(ours, theirs, tolerance):
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


def tokens_of(case, prefix=""):
    """NeMo's tokens as ours, of clips as long as their frames."""
    codes, lengths = case.tensors[prefix + "tokens"], case.tensors[prefix + "encoded_len"]
    durations = (torch.arange(codes.shape[-1]) < lengths[:, None]).long()
    return Tokens(acoustic=codes.long(), durations=durations, format=case.codec.format)


def test_every_weight_finds_its_place(nano_case):
    report = nano_case.codec.load_report
    assert report.unexpected_extras == ()
    generator = [key for key in nano_case.weights if key.startswith(("audio_", "vector_quantizer."))]
    assert len(generator) + len(report.expected_extras) == len(nano_case.weights)


@torch.no_grad()
def test_latents(nano_case):
    io = nano_case.tensors
    assert_near(nano_case.codec.encode_latents(io["audio"], io["audio_len"]), io["encoded"], LATENTS)
    assert nano_case.codec.num_frames(io["audio_len"]).tolist() == io["encoded_len"].tolist()


def test_tokens(nano_case):
    io = nano_case.tensors
    tokens = nano_case.codec.encode(io["audio"], io["audio_len"])
    assert torch.equal(tokens.acoustic, io["tokens"].long())
    assert tokens.token_lengths.tolist() == io["tokens_len"].tolist()
    if "dequantized" in io:
        assert_near(nano_case.codec.embed(tokens), io["dequantized"], EXACT)


def test_audio(nano_case):
    io, codec = nano_case.tensors, nano_case.codec
    assert_near(codec.decode(tokens_of(nano_case)), io["audio_out"], AUDIO)
    decoded = codec.decode(codec.encode(io["audio"], io["audio_len"]))
    for i, samples in enumerate(io["audio_len"].tolist()):
        assert_near(decoded[i, :samples], io["audio_out"][i, :samples], AUDIO)


def test_quantizer(nano_case):
    io, quantizer = recorded(nano_case, "fsq_in", "fsq_indices", "fsq_dequantized"), nano_case.codec.quantizer
    out = quantizer(io["fsq_in"])
    assert torch.equal(out.codes, io["fsq_indices"].long())
    assert_near(out.latents, io["fsq_dequantized"], EXACT)
    assert torch.equal(quantizer.dequantize(out.codes), out.latents)


@torch.no_grad()
def test_decoder(nano_case):
    io = recorded(nano_case, "dec_in", "dec_out")
    frames = torch.full((len(io["dec_in"]),), io["dec_in"].shape[-1])
    assert_near(nano_case.codec.decode_latents(io["dec_in"], frames), io["dec_out"], AUDIO)


def test_a_batch_as_nemo_computes_it(nano_case):
    io, codec = recorded(nano_case, *BATCH), nano_case.codec
    with torch.no_grad():
        latents = codec.encode_latents(io["batch_audio"], io["batch_audio_len"], compatible=True)
    valid = torch.arange(latents.shape[-1]) < io["batch_encoded_len"][:, None]
    assert_near(latents * valid[:, None], io["batch_encoded"] * valid[:, None], LATENTS)
    tokens = codec.encode(io["batch_audio"], io["batch_audio_len"], compatible=True)
    assert torch.equal(tokens.acoustic, io["batch_tokens"].long())
    heard = codec.decode(tokens_of(nano_case, "batch_"), compatible=True)
    assert heard.shape[1] == int(io["batch_audio_out_len"].max())
    assert_near(heard, io["batch_audio_out"][:, : heard.shape[1]], AUDIO)


def test_a_batch_as_each_clip_alone(nano_case):
    io, codec = recorded(nano_case, *BATCH), nano_case.codec
    tokens = codec.encode(io["batch_audio"], io["batch_audio_len"])
    heard = codec.decode(tokens)
    for i, samples in enumerate(io["batch_audio_len"].tolist()):
        alone = codec.encode(io["batch_audio"][i, :samples])
        assert tokens[i] == alone
        assert_near(heard[i : i + 1, :samples], codec.decode(alone), AUDIO)


@pytest.mark.parametrize("chunk", [1, 3])
def test_chunks_of_frames_are_the_whole(nano_case, chunk):
    io, decoder = recorded(nano_case, "dequantized"), nano_case.codec.decoder
    state, outputs = decoder.initial_state(), []
    chunks = io["dequantized"].split(chunk, dim=-1)
    for index, frames in enumerate(chunks):
        y, state = decoder.step(frames, state, last=index == len(chunks) - 1)
        outputs.append(y[:, 0])
    assert_near(torch.cat(outputs, dim=-1), io["audio_out"], AUDIO)


def test_both_namings_of_weight_norms_are_one(nano_case):
    renamed = {
        key.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for key, value in nano_case.weights.items()
    }
    other = from_nemo(nano_case.config, renamed).state_dict()
    assert all(torch.equal(weight, other[name]) for name, weight in nano_case.codec.state_dict().items())


def test_archives(nano_case, archive, tmp_path):
    io = nano_case.tensors
    codec = flexicodec.load(nano_case.folder / archive)
    tokens = codec.encode(io["audio"], io["audio_len"])
    assert torch.equal(tokens.acoustic, io["tokens"].long())
    assert codec.fingerprint == nano_case.codec.fingerprint
    codec.save_pretrained(tmp_path)
    ours = flexicodec.load(tmp_path)
    assert ours.encode(io["audio"], io["audio_len"]) == tokens
    assert torch.equal(ours.decode(tokens), codec.decode(tokens))
