"""H/ASP: invariances of its embedding, and its weight files."""

import json
from math import sqrt
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from flexicodec.training.losses import SpeakerConsistencyLoss
from flexicodec.training.speaker_encoder import MelEnergies, SpeakerEncoder, load_speaker_encoder

GOLDEN = Path(__file__).parents[1] / "data" / "goldens" / "speaker_encoder.json"


@pytest.fixture(scope="module")
def golden():
    """Names and shapes of NeMo's own encoder, and its embedding of a signal; see the README of the goldens."""
    return json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def encoder():
    """Random weights, and norms that have seen something."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        encoder = SpeakerEncoder()
        for name, value in encoder.named_buffers():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
    return encoder.requires_grad_(False).eval()


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_tone_is_in_its_band():
    """Bands are 2595 log10(1 + f / 700) apart: 1 kHz, a thousand mel of 2840, is in the 22nd of 64."""
    energies = MelEnergies()
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(16_000) / 16_000)[None]
    half = torch.cat([tone[:, :8000], noise(1, 8000)], dim=1)  # so that there is something to be loud against
    assert energies(half).shape == (1, 64, 101)
    loudest = (energies(half)[0, :, 5:45].mean(dim=1) - energies(half)[0, :, 55:95].mean(dim=1)).argmax()
    assert int(loudest) in (21, 22)


def test_embeddings_do_not_depend_on_level_or_company(encoder):
    audio = noise(3, 9000)
    together = encoder(audio)
    assert together.shape == (3, 512)
    torch.testing.assert_close(encoder(audio[1:2])[0], together[1], rtol=1e-4, atol=1e-5)
    louder = torch.nn.functional.cosine_similarity(encoder(4 * audio), together)
    others = torch.nn.functional.cosine_similarity(encoder(noise(3, 9000, seed=1).cumsum(1)), together)
    assert (louder > 0.999).all()
    assert (others < louder).all()


def test_its_size_is_that_of_the_released_model(encoder):
    """As in NeMo's ResNetSpeakerEncoder: ResNet-34 at half its widths, squeezed, and attentive statistics."""
    assert sum(weight.numel() for weight in encoder.parameters()) == 8_028_492


def wave(name, shape):
    """sin(12.9898 i + c), i = 1, 2, ..., c from the name."""
    steps = torch.arange(1, torch.Size(shape).numel() + 1, dtype=torch.float64)
    return torch.sin(12.9898 * steps + sum(name.encode()) % 97).view(shape)


def recorded(name, like):
    """The values that a tensor of this name had when NeMo's encoder was recorded."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros_like(like)
    if name.endswith("running_var") or (name.endswith("weight") and like.dim() == 1):
        return (1 + 0.5 * wave(name, like.shape)).float()
    scale = sqrt(3 / like[0].numel()) if like.dim() > 1 else 0.1
    return (scale * wave(name, like.shape)).float()


def test_it_is_nemos(encoder, golden):
    """The same tensors under the same names, and the same embedding from the same weights."""
    assert {name: list(tensor.shape) for name, tensor in encoder.state_dict().items()} == golden["shapes"]
    other = SpeakerEncoder().eval()
    other.load_state_dict({name: recorded(name, tensor) for name, tensor in other.state_dict().items()})
    signal = 43758.5453 * wave("audio", (1, golden["samples"]))
    with torch.no_grad():
        (embedding,) = other((signal - signal.floor() - 0.5).float())
    expected = torch.tensor(golden["embedding"])
    assert expected.std() > 0.1
    torch.testing.assert_close(embedding, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_weights_come_from_the_released_file_or_any_other(encoder, tmp_path):
    state = encoder.state_dict()
    constants = {"torch_spec.0.filter": torch.zeros(1, 1, 2), "torch_spec.1.mel_scale.fb": torch.zeros(257, 64)}
    (tmp_path / "released").mkdir()
    torch.save({"model": state | constants, "step": 7}, tmp_path / "released" / "pytorch_model.bin")
    save_file(state, tmp_path / "plain.safetensors")
    audio = noise(1, 8000)
    for source in (tmp_path / "released", tmp_path / "released" / "pytorch_model.bin", tmp_path / "plain.safetensors"):
        torch.testing.assert_close(load_speaker_encoder(source)(audio), encoder(audio))
    save_file({"fc.weight": state["fc.weight"]}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors: .*missing: attention\.0\.bias"):
        load_speaker_encoder(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="holds none of model.safetensors, pytorch_model.bin"):
        load_speaker_encoder(tmp_path)


def test_the_loss_is_least_for_the_same_speaker(encoder):
    loss = SpeakerConsistencyLoss(encoder, 22_050)
    reference = noise(2, 12_000)
    estimate = (reference + noise(2, 12_000, seed=1)).requires_grad_()
    torch.testing.assert_close(loss(reference, reference), torch.full((2,), -1.0))
    worse = loss(estimate, reference)
    assert (worse > -1).all()
    worse.sum().backward()
    assert estimate.grad.isfinite().all()
    assert estimate.grad.any()
