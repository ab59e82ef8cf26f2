"""Encoding and decoding leave nothing behind: no settings on the model, no graph, no change to the process."""

import logging
import os
import random
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import flexicodec
from flexicodec.encoders.sanm import SanmEncoder
from flexicodec.models.flexicodec.model import FlexiCodec
from flexicodec.quantize import ResidualFSQConfig, RVQConfig


def process_state():
    """Global state of the process, as far as visible from Python."""
    return {
        "torch rng": torch.get_rng_state().tolist(),
        "numpy rng": repr(np.random.get_state()),
        "python rng": random.getstate(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "defaults": (torch.get_default_dtype(), str(torch.get_default_device()), torch.is_grad_enabled()),
        "precision": (torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()),
        "logging": (list(logging.root.handlers), logging.root.level, logging.root.manager.disable),
        "path": list(sys.path),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
    }


def changed(before):
    after = process_state()
    return [name for name in before if before[name] != after[name]]


@pytest.fixture(scope="module")
def saved(whole, tmp_path_factory):
    """A folder with a tiny codec."""
    return whole.save_pretrained(tmp_path_factory.mktemp("saved") / "tiny-whole")


def test_the_process_is_left_as_it_was(codec, saved, speech, tmp_path):
    before = process_state()
    loaded = flexicodec.load(saved)
    assert changed(before) == []
    for each in (codec, loaded):
        tokens = each.encode(speech[0], frame_rate=5, sample_rate=22050)
        each.decode(tokens)
        each.embed(tokens)
    codec.save_pretrained(tmp_path)
    assert changed(before) == []


def test_nothing_sticks_on_the_model_between_calls(codec, speech):
    def attributes():
        return {name: sorted(vars(module)) for name, module in codec.named_modules()}

    first = codec.encode(speech[0])
    names, weights = attributes(), {name: value.clone() for name, value in codec.state_dict().items()}
    for choice in (
        {"threshold": -0.5, "max_duration": 2, "num_codebooks": 1},
        {"frame_rate": 12.5, "num_codebooks": 0},
        {"frame_rate": 3, "policy": "variance"},
    ):
        codec.decode(codec.encode(speech[1], **choice))
    with pytest.raises(ValueError, match="frame_rate"):
        codec.encode(speech[1], frame_rate=99)
    assert codec.encode(speech[0]) == first
    assert attributes() == names
    assert all(torch.equal(value, weights[name]) for name, value in codec.state_dict().items())
    assert not codec.training


@pytest.mark.parametrize("quantizer", [RVQConfig(3, 32, 4), ResidualFSQConfig((5, 5), 3)])
@pytest.mark.parametrize("training", [False, True])
def test_the_same_call_twice_gives_the_same_bits(make_codec, speech, quantizer, training):
    codec = make_codec(acoustic_quantizer=quantizer)
    reference = codec.encode(speech[0])
    codec.train(training)
    tokens, again = codec.encode(speech[0]), codec.encode(speech[0])
    assert tokens == again == reference
    assert torch.equal(codec.decode(tokens), codec.decode(again))
    assert codec.training == training


def test_the_frozen_encoder_stays_in_eval_mode(whole, speech):
    encoder = SanmEncoder(whole.config.semantic_encoder, dropout=0.5)
    encoder.load_state_dict(whole.semantic_encoder.state_dict())
    codec = FlexiCodec(whole.config, encoder)
    codec.train()
    assert codec.decoder.training
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert torch.equal(codec.features(speech[0]).semantic, whole.features(speech[0]).semantic)


def test_results_carry_no_graph_and_may_enter_one(codec, speech):
    assert any(parameter.requires_grad for parameter in codec.parameters())
    with torch.enable_grad():
        features = codec.features(speech[0])
        tokens = codec.tokenize(features)
        results = [getattr(features, name) for name in ("semantic", "acoustic", "similarities")]
        results += [codec.embed(tokens), codec.decode(tokens)]
    gain = torch.ones((), requires_grad=True)
    for result in results:
        assert not result.requires_grad
        assert not result.is_inference()
        gain.grad = None
        (gain * result).square().sum().backward()
        assert gain.grad > 0


def test_audio_with_a_graph_is_encoded_without_it(codec, speech):
    audio = speech[0].clone().requires_grad_()
    assert not codec.features(audio).acoustic.requires_grad
    assert codec.encode(audio) == codec.encode(speech[0])


def test_what_is_passed_in_stays_as_it_was(codec, speech):
    audio, lengths = torch.cat([speech[0][:, :20000]] * 2), torch.tensor([20000, 100])
    durations = (torch.arange(16) < codec.num_frames(lengths)[:, None]).long()
    features = codec.features(audio, lengths)
    tokens = codec.tokenize(features, frame_rate=4)
    given = [each for each in vars(features).values() if isinstance(each, torch.Tensor)]
    mine = [audio, lengths, durations, *given, tokens.semantic, tokens.acoustic, tokens.durations]
    before = [tensor.clone() for tensor in mine]
    codec.encode(audio, lengths, durations=durations)
    codec.encode(audio.numpy(), lengths.numpy(), durations=durations.numpy())
    codec.tokenize(features, threshold=0.6)
    codec.decode(tokens)
    codec.embed(tokens)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(mine, before, strict=True))


def test_threads_may_share_a_codec(codec, speech):
    jobs = [(speech[i % 2][:, 1000 * i : 1000 * i + 9001], {"frame_rate": 2 + i}) for i in range(8)]
    jobs += [(audio, {"threshold": 0.6, "num_codebooks": 1}) for audio, _ in jobs[:4]]

    def job(audio, choice):
        tokens = codec.encode(audio, **choice)
        return tokens, codec.decode(tokens)

    serial = [job(*each) for each in jobs]
    with ThreadPoolExecutor(4) as pool:
        parallel = list(pool.map(lambda each: job(*each), jobs))
    for (tokens, audio), (tokens_there, audio_there) in zip(serial, parallel, strict=True):
        assert tokens == tokens_there
        assert torch.equal(audio, audio_there)


def test_a_saved_codec_is_the_same_codec(whole, saved, speech):
    loaded = flexicodec.load(saved)
    assert loaded.fingerprint == whole.fingerprint == loaded.compute_fingerprint()
    assert not loaded.training
    tokens = whole.encode(speech[0])
    assert loaded.encode(speech[0]) == tokens
    assert torch.equal(loaded.decode(tokens), whole.decode(tokens))
    frozen = [name for name, parameter in loaded.named_parameters() if not parameter.requires_grad]
    assert frozen == [name for name, _ in loaded.named_parameters() if name.startswith("semantic_encoder.")]


def test_half_precision_halves_the_file_and_keeps_the_name(whole, saved, speech, tmp_path):
    whole.save_pretrained(tmp_path, dtype=torch.float16)
    full, half = ((folder / "model.safetensors").stat().st_size for folder in (saved, tmp_path))
    assert half < 0.6 * full
    loaded = flexicodec.load(tmp_path)
    assert loaded.fingerprint == whole.fingerprint
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    difference = loaded.decode(whole.encode(speech[0])) - whole.decode(whole.encode(speech[0]))
    assert difference.abs().max() < 0.02
    loaded.save_pretrained(tmp_path / "again")
    assert flexicodec.load(tmp_path / "again").fingerprint == whole.fingerprint


def test_the_fingerprint_follows_weights_and_settings(make_codec, whole):
    assert make_codec().fingerprint == whole.fingerprint
    assert make_codec(seed=1).fingerprint != whole.fingerprint
    assert make_codec(dither=0.0).fingerprint != whole.fingerprint
    trained = make_codec()
    assert trained.fingerprint == whole.fingerprint
    with torch.no_grad():
        trained.decoder.layers[0].weight.add_(1.0)  # the fingerprint does not include the decoder
    assert trained.compute_fingerprint() == whole.fingerprint
    with torch.no_grad():
        trained.encoder.layers[0].weight.add_(1.0)
    assert trained.compute_fingerprint() != whole.fingerprint
